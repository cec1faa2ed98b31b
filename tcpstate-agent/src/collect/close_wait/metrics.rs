//! Metrics of sockets in CLOSE_WAIT.

use prometheus::proto::MetricFamily;

use super::{OLDER_THAN_SECONDS, Series, SeriesKey, catalogue};
use crate::{
    collect::owners::OwnerLabels,
    engine::CloseWaitReading,
    exposition::{
        catalogue::Metric,
        family::{Sample, family, series},
    },
    host::process::Descriptors,
};

/// Who keeps them there, and why.
pub(crate) fn families(reading: &CloseWaitReading) -> [MetricFamily; 9] {
    let found = &reading.found;
    // Where there are many, the text of a port is needed for as long as its series.
    let text = |port: Option<u16>| port.map_or_else(String::new, |port| port.to_string());
    let ports: Vec<String> = found.series.keys().map(|key| text(key.port)).collect();
    let verdict_ports: Vec<String> = found.verdicts.keys().map(|key| text(key.port)).collect();
    let of_groups = |metric: &Metric, value: &dyn Fn(&Series) -> f64| {
        let groups = found.series.iter().zip(&ports);
        let samples =
            groups.map(|((key, series), port)| Sample::new(group(key, port), value(series)));
        family(metric, samples)
    };
    let verdicts = found.verdicts.iter().zip(&verdict_ports);
    let verdicts = verdicts.map(|((key, sockets), port)| {
        let [process, unit, container_id, pod_uid] = owner(&key.owner);
        let labels = [
            process,
            unit,
            container_id,
            pod_uid,
            key.role.name(),
            port,
            key.verdict.name(),
        ];
        series(labels, *sockets)
    });
    let of_owners = |metric: &Metric, value: &dyn Fn(&Descriptors) -> Option<u64>| {
        let owners = found.descriptors.iter();
        let samples = owners.filter_map(|(key, descriptors)| {
            value(descriptors).map(|value| series(owner(key), value))
        });
        family(metric, samples)
    };
    let limits = OLDER_THAN_SECONDS.map(|seconds| seconds.to_string());
    let ages = limits.iter().zip(found.total.older_than);
    [
        of_groups(&catalogue::SOCKETS, &|series| count(series.sockets)),
        of_groups(&catalogue::OLDEST_AGE, &|series| {
            series.oldest.map_or(0.0, |age| age.time.as_secs_f64())
        }),
        of_groups(&catalogue::LOWER_BOUND, &|series| count(series.lower_bound)),
        of_groups(&catalogue::UNREAD_BYTES, &|series| {
            count(series.unread_bytes)
        }),
        of_groups(&catalogue::UNACKNOWLEDGED_BYTES, &|series| {
            count(series.unacknowledged_bytes)
        }),
        family(&catalogue::VERDICT_SOCKETS, verdicts),
        family(
            &catalogue::AGE_SOCKETS,
            ages.map(|(limit, sockets)| series([limit], sockets)),
        ),
        of_owners(&catalogue::OPEN_FDS, &|descriptors| Some(descriptors.open)),
        of_owners(&catalogue::MAX_FDS, &|descriptors| descriptors.limit),
    ]
}

fn group<'a>(key: &'a SeriesKey, port: &'a str) -> [&'a str; 7] {
    let [process, unit, container_id, pod_uid] = owner(&key.owner);
    let (role, cause) = (key.role.name(), key.cause.name());
    [process, unit, container_id, pod_uid, role, port, cause]
}

fn owner(labels: &OwnerLabels) -> [&str; 4] {
    let OwnerLabels {
        process,
        unit,
        container_id,
        pod_uid,
    } = labels;
    [process, unit, container_id, pod_uid]
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are doubles; counts stay exact up to 2^53"
)]
const fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        collections::BTreeMap,
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{
        super::{Age, Cause, Role, Tally, Verdict, VerdictKey},
        *,
    };
    use crate::engine::CloseWait;

    pub(crate) fn reading() -> CloseWaitReading {
        let owner = OwnerLabels {
            process: "a \"quoted\"\nname\\".to_owned(),
            ..OwnerLabels::default()
        };
        let key = SeriesKey {
            owner: owner.clone(),
            role: Role::Server,
            port: Some(80),
            cause: Cause::EofRead,
        };
        let values = Series {
            sockets: 3,
            lower_bound: 1,
            oldest: Some(Age {
                time: Duration::from_millis(2_500),
                is_exact: true,
            }),
            unread_bytes: 7,
            unacknowledged_bytes: 9,
        };
        let verdict = VerdictKey {
            owner: owner.clone(),
            role: Role::Server,
            port: Some(80),
            verdict: Verdict::Leak,
        };
        CloseWaitReading {
            found: Arc::new(CloseWait {
                groups: Vec::new(),
                mptcp: Vec::new(),
                total: Tally::default(),
                series: BTreeMap::from([(key, values)]),
                verdicts: BTreeMap::from([(verdict, 3)]),
                descriptors: BTreeMap::from([(
                    owner,
                    Descriptors {
                        open: 10,
                        limit: Some(1024),
                    },
                )]),
                at: Instant::now(),
                took: Duration::from_millis(3),
            }),
            age: Duration::ZERO,
            folded: 2,
        }
    }

    fn text(families: &[MetricFamily]) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(families)
            .unwrap()
    }

    #[test]
    fn a_verdict_is_a_series_of_its_own() {
        let text = text(&families(&reading()));
        let expected = r#"role="server",port="80",verdict="leak"} 3"#;
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_a_process_calls_itself_is_escaped() {
        let text = text(&families(&reading()));
        let expected = concat!(
            r#"tcpstate_close_wait_sockets{process="a \"quoted\"\nname\\",unit="","#,
            r#"container_id="",pod_uid="",role="server",port="80",cause="eof_read"} 3"#
        );
        assert!(text.contains(expected), "{text}");
    }
}
