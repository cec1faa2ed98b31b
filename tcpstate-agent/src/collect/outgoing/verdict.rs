//! From two looks at outgoing connections to what is wrong with them.

use std::time::Duration;

use serde::Serialize;

use super::{ConnectionsReport, ReportDestination};
use crate::diagnosis::{Filter, NamespacePaths};

/// Where so great a part of the ports is taken, they are running out.
const RUNNING_OUT: f64 = 0.8;
/// Or this one, if none will be left soon.
const GOING_TO: f64 = 0.25;
/// So soon.
const SOON_SECONDS: f64 = 600.0;

/// A destination that ports are running out for, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiagnosedDestination {
    /// The destination, at the second look.
    #[serde(flatten)]
    pub destination: ReportDestination,
    /// Which part of the ports `connect()` cannot get.
    pub busy_ratio: f64,
    /// How many more it cannot get each second; `None` for one look only.
    pub growth_per_second: Option<f64>,
    /// In how long it gets none at this rate.
    pub exhausted_in_seconds: Option<f64>,
    /// What is wrong, most likely.
    pub fault: &'static str,
    /// What to do.
    pub check: &'static str,
    /// A command that shows the sockets.
    pub command: String,
}

impl DiagnosedDestination {
    /// `None` where ports are not running out.
    pub(crate) fn new(
        destination: ReportDestination,
        first: Option<(&ConnectionsReport, Duration)>,
        namespaces: &NamespacePaths,
    ) -> Option<Self> {
        let growth_per_second = first.map(|(report, interval)| {
            let mut before = report.destinations.iter();
            let before = before.find(|before| before.is_same(&destination));
            let before = before.map_or(0, ReportDestination::busy);
            (f64::from(destination.busy()) - f64::from(before)) / interval.as_secs_f64()
        });
        let left = f64::from(destination.left());
        let exhausted_in_seconds = if destination.left() == 0 {
            Some(0.0)
        } else {
            let growth = growth_per_second.filter(|growth| *growth > 0.0);
            growth.map(|growth| left / growth)
        };
        let busy_ratio = destination.part();
        let soon = exhausted_in_seconds.is_some_and(|seconds| seconds <= SOON_SECONDS);
        if busy_ratio < RUNNING_OUT && (busy_ratio < GOING_TO || !soon) {
            return None;
        }
        let waits = destination.time_wait.saturating_sub(destination.reusable);
        let is_time_wait = u64::from(waits) * 2 >= u64::from(destination.busy());
        Some(Self {
            fault: fault(is_time_wait),
            check: check(is_time_wait),
            command: destination_command(&destination, namespaces),
            destination,
            busy_ratio,
            growth_per_second,
            exhausted_in_seconds,
        })
    }
}

const fn fault(is_time_wait: bool) -> &'static str {
    if is_time_wait {
        "connections are made and closed faster than TIME_WAIT gives their ports back, which takes \
         a minute"
    } else {
        "more connections are open at once than there are ports for"
    }
}

const fn check(is_time_wait: bool) -> &'static str {
    if is_time_wait {
        "whether the program keeps connections open (a pool, HTTP keep-alive) instead of making \
         one for each request; net.ipv4.tcp_tw_reuse=1, if both sides use timestamps; a wider \
         net.ipv4.ip_local_port_range; more addresses on either side"
    } else {
        "whether the program leaks connections or has a limit for them; a wider \
         net.ipv4.ip_local_port_range; more addresses on either side, or ports on the other"
    }
}

impl Filter {
    pub(crate) fn passes_destination(&self, destination: &ReportDestination) -> bool {
        self.port.is_none_or(|port| destination.remote_port == port)
    }
}

fn destination_command(destination: &ReportDestination, namespaces: &NamespacePaths) -> String {
    let (local, remote) = (destination.local_address, destination.remote_address);
    let (local, remote) = (bracketed(local), bracketed(remote));
    let port = destination.remote_port;
    namespaces.command(
        destination.namespace,
        &format!("ss -tan '( src {local} and dst {remote} and dport = :{port} )'"),
    )
}

/// As `ss` takes it.
pub(crate) fn bracketed(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::destination, *};
    use crate::diagnosis::namespace_paths::tests::paths;

    fn diagnose(before: Option<u32>, now: ReportDestination) -> Option<DiagnosedDestination> {
        let first = before.map(|held| ConnectionsReport {
            destinations: vec![destination(held, 0, 0)],
            unanswered: Vec::new(),
        });
        let first = first.as_ref().map(|first| (first, Duration::from_secs(2)));
        DiagnosedDestination::new(now, first, &paths())
    }

    #[test]
    fn ports_run_out_where_few_are_left_or_none_will_be_soon() {
        for (before, held, reusable, is_wrong) in [
            (None, 799, 0, false),
            (None, 800, 0, true),
            (Some(800), 800, 0, true),
            (Some(300), 300, 0, false),
            // 7 minutes, a quarter of an hour.
            (Some(297), 300, 0, true),
            (Some(299), 300, 0, false),
            (Some(100), 200, 0, false),
            // What may be taken over is left.
            (Some(900), 1000, 900, false),
        ] {
            let found = diagnose(before, destination(held, held, reusable));
            assert_eq!(found.is_some(), is_wrong, "{before:?} {held} {reusable}");
        }
    }

    #[test]
    fn how_long_follows_from_two_looks_and_what_may_be_taken_over_counts_as_left() {
        let found = diagnose(Some(800), destination(950, 900, 50)).unwrap();
        assert_eq!(found.growth_per_second, Some(50.0));
        assert_eq!(found.exhausted_in_seconds, Some(2.0));
        let full = diagnose(None, destination(1000, 900, 0)).unwrap();
        assert_eq!(full.exhausted_in_seconds, Some(0.0));
        let shrinking = diagnose(Some(900), destination(850, 900, 0)).unwrap();
        assert_eq!(shrinking.exhausted_in_seconds, None);
        let new = ReportDestination {
            remote_port: 80,
            ..destination(850, 0, 0)
        };
        assert_eq!(
            diagnose(Some(900), new).unwrap().growth_per_second,
            Some(425.0)
        );
    }

    #[test]
    fn what_to_do_depends_on_what_takes_the_ports() {
        let closed = diagnose(None, destination(900, 800, 0)).unwrap();
        let open = diagnose(None, destination(900, 100, 0)).unwrap();
        assert!(closed.check.contains("tcp_tw_reuse"));
        assert!(!open.check.contains("tcp_tw_reuse"));
        assert_ne!(closed.fault, open.fault);
    }

    #[test]
    fn the_command_shows_these_sockets() {
        let found = diagnose(None, destination(900, 0, 0)).unwrap();
        assert_eq!(
            found.command,
            "sudo ss -tan '( src 10.0.0.1 and dst 10.0.0.2 and dport = :443 )'"
        );
    }
}
