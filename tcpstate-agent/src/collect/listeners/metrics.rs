//! Metrics of listening sockets and handshakes.

use prometheus::proto::MetricFamily;
use tcpstate_common::{HALF_OPEN_AGES, HANDSHAKE_BOUNDS_NS, Handshakes, TcpState};

use super::{HalfOpenKind, ListenerKey, ListenerSeries, Seen, catalogue};
use crate::{
    engine::ListenersReading,
    exposition::{
        catalogue::Metric,
        family::{Buckets, Spare, family, histograms, series},
    },
};

/// States of connections that belong to a listener.
const STATES: [TcpState; 8] = [
    TcpState::SynRecv,
    TcpState::Established,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::CloseWait,
    TcpState::Closing,
    TcpState::LastAck,
    TcpState::TimeWait,
];

/// What the labels of a listener's series are made of.
pub(crate) type ListenerLabels = (ListenerKey, Seen);

/// A series with the text of its address and port.
struct Shown<'a> {
    key: &'a ListenerKey,
    values: &'a ListenerSeries,
    address: String,
    port: String,
}

impl Shown<'_> {
    fn labels(&self) -> [&str; 6] {
        let owner = &*self.key.owner;
        [
            &owner.process,
            &owner.unit,
            &owner.container_id,
            &owner.pod_uid,
            &self.address,
            &self.port,
        ]
    }

    fn labels_and<'a>(&'a self, last: &'a str) -> [&'a str; 7] {
        let [process, unit, container_id, pod_uid, address, port] = self.labels();
        [process, unit, container_id, pod_uid, address, port, last]
    }
}

/// What listens. Where there is much, these series are nearly all of a page.
pub(crate) fn families(
    reading: &ListenersReading,
    spare: &mut Spare<ListenerLabels>,
) -> Vec<MetricFamily> {
    let labelled = reading.series.iter();
    spare.begin(
        labelled
            .map(|(key, values)| (key.clone(), values.seen))
            .collect(),
    );
    let shown: Vec<Shown<'_>> = reading
        .series
        .iter()
        .map(|(key, values)| {
            let (address, port) = key
                .address
                .map_or_else(Default::default, |(address, port)| {
                    (address.to_string(), port.to_string())
                });
            Shown {
                key,
                values,
                address,
                port,
            }
        })
        .collect();
    let by_kind = shown.iter().flat_map(|shown| {
        let seen = HalfOpenKind::ALL
            .into_iter()
            .filter(|kind| shown.values.seen.has_kind(*kind));
        seen.map(|kind| {
            let count = shown.values.queues.half_open.get(kind);
            series(shown.labels_and(kind.name()), count)
        })
    });
    let by_state = shown.iter().flat_map(|shown| {
        let seen = STATES
            .into_iter()
            .filter(|state| shown.values.seen.has_state(*state));
        seen.map(|state| {
            let count = shown.values.connections(state);
            series(shown.labels_and(state.name()), count)
        })
    });
    let ages = HALF_OPEN_AGES.map(|seconds| seconds.to_string());
    let ages = ages.iter().zip(reading.half_open.older_than);
    let retransmits = ["1", "2", "3", "4", "5"];
    let retransmits = retransmits.into_iter().zip(reading.half_open.retransmitted);
    let sockets = [
        spare.family(&catalogue::SYN_RECV, by_kind),
        spare.family(&catalogue::SOCKETS, by_state),
        family(
            &catalogue::SYN_RECV_AGE,
            ages.map(|(limit, count)| series([&**limit], count.into())),
        ),
        family(
            &catalogue::SYN_RECV_RETRANSMITS,
            retransmits.map(|(least, count)| series([least], count.into())),
        ),
    ];
    let mut each = |metric: &Metric, value: &dyn Fn(&ListenerSeries) -> u64| {
        let samples = shown.iter();
        let samples = samples.map(|shown| series(shown.labels(), value(shown.values)));
        spare.family(metric, samples)
    };
    let queues = [
        each(&catalogue::ACCEPT_QUEUE, &|values| {
            values.queues.accept_queue
        }),
        each(&catalogue::ACCEPT_QUEUE_LIMIT, &|values| {
            values.queues.accept_limit
        }),
        each(&catalogue::ACCEPT_QUEUE_WORST, &|values| {
            values.queues.worst_queue
        }),
        each(&catalogue::SYN_QUEUE_LIMIT, &|values| {
            values.queues.syn_limit
        }),
        each(&catalogue::DROPS, &|values| values.total.drops),
        each(&catalogue::SYNACK_RETRANSMITS, &|values| {
            values.total.synack_retransmits
        }),
    ];
    queues.into_iter().chain(sockets).collect()
}

/// How long handshakes took.
pub(crate) fn handshakes(handshakes: &Handshakes) -> [MetricFamily; 3] {
    let roles = [
        ("client", &handshakes.client),
        ("server", &handshakes.server),
    ];
    let durations = roles.map(|(role, found)| {
        let buckets = Buckets {
            bounds_ns: &HANDSHAKE_BOUNDS_NS,
            counts: &found.durations.count,
            sum_ns: found.durations.sum_ns,
        };
        ([role], buckets)
    });
    [
        histograms(&catalogue::HANDSHAKE_DURATION, durations),
        family(
            &catalogue::HANDSHAKE_RETRANSMITTED,
            roles.map(|(role, found)| series([role], found.retransmitted)),
        ),
        family(
            &catalogue::HANDSHAKE_UNMEASURED,
            roles.map(|(role, found)| series([role], found.unmeasured)),
        ),
    ]
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{sync::Arc, time::Duration};

    use tcpstate_common::HalfOpenCounts;

    use super::*;
    use crate::collect::owners::OwnerLabels;

    pub(crate) fn reading() -> ListenersReading {
        let owner = OwnerLabels {
            process: "a \"server\"".to_owned(),
            ..OwnerLabels::default()
        };
        let key = ListenerKey {
            owner: Arc::new(owner),
            address: Some(("::".parse().unwrap(), 80)),
        };
        let mut values = ListenerSeries::default();
        (values.queues.accept_queue, values.queues.accept_limit) = (3, 128);
        ListenersReading {
            series: vec![(key, values)],
            half_open: HalfOpenCounts {
                older_than: [6, 5, 4, 3, 2, 1],
                retransmitted: [5, 4, 3, 2, 1],
            },
            took: Duration::from_millis(1),
            folded: 0,
        }
    }

    #[test]
    fn a_listener_has_its_series() {
        let text = crate::exposition::of_listeners(&reading(), &mut Spare::default()).unwrap();
        let labels =
            r#"{process="a \"server\"",unit="",container_id="",pod_uid="",address="::",port="80""#;
        for line in [
            format!("tcpstate_listener_accept_queue{labels}}} 3"),
            format!("tcpstate_listener_accept_queue_limit{labels}}} 128"),
            "tcpstate_syn_recv_age_sockets{older_than=\"63\"} 1".to_owned(),
            "tcpstate_syn_recv_retransmits_sockets{at_least=\"1\"} 5".to_owned(),
        ] {
            assert!(text.contains(&line), "no {line} in\n{text}");
        }
        // It never had any.
        assert!(!text.contains("tcpstate_listener_sockets{"), "{text}");
    }

    #[test]
    fn both_roles_are_in_one_family() {
        let mut found = Handshakes::default();
        found.client.observe(60, 0);
        found.server.observe(60, 2);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&handshakes(&found))
            .unwrap();
        for line in [
            r#"tcpstate_handshake_duration_seconds_bucket{role="client",le="0.0001"} 1"#,
            r#"tcpstate_handshake_duration_seconds_count{role="server"} 0"#,
            r#"tcpstate_handshake_retransmitted_total{role="server"} 1"#,
            r#"tcpstate_handshake_unmeasured_total{role="client"} 0"#,
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no {line} in\n{text}"
            );
        }
    }
}
