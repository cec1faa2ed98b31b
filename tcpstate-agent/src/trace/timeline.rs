//! Transitions in the order of their sockets' lives: how long each state lasted, and how to show
//! it.

use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde_json::{Value, json};
use tcpstate_common::{CloseReason, Family, TcpState};

use super::{Owners, Ownership, SocketOwner};
use crate::{collect::closes::end_words, decode::Transition, host::process::terminal_text};

/// Version of the JSON object.
const SCHEMA_VERSION: u32 = 1;
/// Processes that are named, of those of which one has accepted a socket.
const NAMED: usize = 3;
/// Sockets that are followed at once; beyond it the time in a state is unknown for new ones.
const FOLLOWED: usize = 1 << 20;

/// Remembers since when each socket is in its state, and whose it is.
#[derive(Debug, Default)]
pub struct Timeline {
    since: HashMap<u64, (u64, TcpState)>,
    /// Who owns the sockets.
    pub ownership: Ownership,
}

/// A transition, and how long the state lasted that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The transition.
    pub transition: Transition,
    /// Time in the state before; `None` where its beginning was not seen.
    pub in_state: Option<Duration>,
    /// The processes that own the socket, as far as known.
    pub owners: Owners,
}

impl Timeline {
    /// Takes note of a transition.
    pub fn observe(&mut self, transition: Transition) -> Observed {
        let Transition {
            time_ns,
            socket,
            old,
            new,
            ..
        } = transition;
        let in_state = match self.since.remove(&socket) {
            // A socket that begins where the remembered one did not end is another one at the
            // same address: its predecessor's end was lost.
            Some((since, state)) if state == old => time_ns.checked_sub(since),
            _ => None,
        };
        if new != TcpState::Close && self.since.len() < FOLLOWED {
            self.since.insert(socket, (time_ns, new));
        }
        Observed {
            transition,
            in_state: in_state.map(Duration::from_nanos),
            owners: self.ownership.observe(&transition),
        }
    }
}

impl Observed {
    /// Whether this is no transition, but what the end of a connection is corrected to that was
    /// told of a moment ago.
    #[must_use]
    pub fn is_correction(&self) -> bool {
        matches!(
            (self.transition.old, self.transition.new),
            (TcpState::Close, TcpState::Close)
        )
    }
}

/// Adds what was observed to `earlier` ones; a correction goes where it belongs, and stands by
/// itself only where that has been shown already.
pub fn add(earlier: &mut Vec<Observed>, observed: Observed) {
    if observed.is_correction() {
        let ended = earlier.iter_mut().rfind(|earlier| {
            earlier.transition.socket == observed.transition.socket
                && earlier.transition.new == TcpState::Close
        });
        if let Some(ended) = ended {
            ended.transition.reason = observed.transition.reason;
            return;
        }
    }
    earlier.push(observed);
}

/// Turns the kernel's clock into the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What to add to `CLOCK_MONOTONIC`, nanoseconds.
    offset: i128,
}

impl Clock {
    /// The clock as it is set now.
    #[must_use]
    pub fn now() -> Self {
        let realtime = nanoseconds(clock_gettime(ClockId::Realtime));
        let monotonic = nanoseconds(clock_gettime(ClockId::Monotonic));
        Self {
            offset: realtime - monotonic,
        }
    }

    /// For tests: a clock that begins in 1970.
    #[cfg(test)]
    pub(crate) const fn of_boot() -> Self {
        Self { offset: 0 }
    }

    /// The time of day at a time of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn time(&self, monotonic_ns: u64) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(monotonic_ns) + self.offset).unwrap_or_default()
    }
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

impl Observed {
    /// One line for people.
    #[must_use]
    pub fn text(&self, clock: &Clock) -> String {
        let Self {
            transition,
            in_state,
            owners,
        } = self;
        let mut line = format!(
            "{} {:>10} {:<21} {:<21} {:<11} -> {:<11}",
            clock.time(transition.time_ns).strftime("%H:%M:%S.%6f"),
            transition.namespace,
            transition.local.to_string(),
            transition.remote.to_string(),
            transition.old.name(),
            transition.new.name(),
        );
        // Writing to a String cannot fail.
        if let Some(in_state) = in_state {
            let _ = write!(line, " after {in_state:.1?}");
        }
        if let Some(reason) = transition.reason {
            let _ = write!(line, ", {}", end_words(reason, transition.error));
        }
        if transition.error != 0 {
            let _ = write!(line, " ({})", error_text(transition.error));
        }
        let named = |owner: &SocketOwner| {
            let name = terminal_text(owner.name.as_bytes());
            format!("{name} {}", owner.pid)
        };
        let processes = owners.processes.iter().map(|owner| named(owner));
        if owners.is_one_of {
            let named: Vec<String> = processes.take(NAMED).collect();
            let more = match owners.processes.len() - named.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let _ = write!(line, " [one of {}{more}]", named.join(", "));
        } else {
            for named in processes {
                let _ = write!(line, " [{named}]");
            }
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self, clock: &Clock) -> Value {
        let Self {
            transition,
            in_state,
            owners,
        } = self;
        json!({
            "schema_version": SCHEMA_VERSION,
            "time": clock.time(transition.time_ns).to_string(),
            "namespace": transition.namespace,
            "family": match transition.family { Family::Ipv4 => "ipv4", Family::Ipv6 => "ipv6" },
            "local_address": transition.local.ip(),
            "local_port": transition.local.port(),
            "remote_address": transition.remote.ip(),
            "remote_port": transition.remote.port(),
            "from": transition.old.name(),
            "to": transition.new.name(),
            "in_state_seconds": in_state.map(|time| time.as_secs_f64()),
            "reason": transition.reason.map(CloseReason::name),
            "errno": (transition.error != 0).then_some(transition.error),
            "owners": owners.processes.iter().map(Arc::as_ref).collect::<Vec<_>>(),
            "is_one_of": owners.is_one_of,
        })
    }
}

/// As the C library puts it, without Rust's number behind it.
fn error_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock { offset: 0 };

    fn owners(is_one_of: bool) -> Owners {
        let owner = |pid| {
            Arc::new(SocketOwner {
                pid,
                name: "curl".to_owned(),
            })
        };
        Owners {
            processes: if is_one_of {
                (4711..4735).map(owner).collect()
            } else {
                vec![owner(4711)]
            },
            is_one_of,
        }
    }

    fn transition(time_ns: u64, socket: u64, old: TcpState, new: TcpState) -> Transition {
        Transition {
            time_ns,
            socket,
            namespace: 4_026_531_833,
            family: Family::Ipv4,
            old,
            new,
            error: 0,
            reason: None,
            local: "127.0.0.1:80".parse().unwrap(),
            remote: "127.0.0.1:40000".parse().unwrap(),
            caller: None,
        }
    }

    #[test]
    fn the_time_in_a_state_is_known_when_its_beginning_was_seen() {
        use TcpState::{Close, CloseWait, Established, LastAck};
        let mut timeline = Timeline::default();
        let times = [
            transition(1_000, 1, Established, CloseWait),
            transition(1_500, 2, Established, CloseWait),
            transition(3_000, 1, CloseWait, LastAck),
            transition(3_010, 1, LastAck, Close),
        ]
        .map(|transition| timeline.observe(transition).in_state);
        let nanos = |ns| Some(Duration::from_nanos(ns));
        assert_eq!(times, [None, None, nanos(2_000), nanos(10)]);
        assert_eq!(timeline.since.len(), 1);
    }

    #[test]
    fn a_socket_at_a_reused_address_does_not_inherit_the_time() {
        use TcpState::{Close, Established, SynSent};
        let mut timeline = Timeline::default();
        timeline.observe(transition(1, 1, SynSent, Established));
        let next = timeline.observe(transition(9, 1, Close, SynSent));
        assert_eq!(next.in_state, None);
    }

    #[test]
    fn a_correction_goes_to_the_end_it_corrects_or_stands_by_itself() {
        use TcpState::{Close, FinWait2};
        let mut timeline = Timeline::default();
        let mut end = |socket, old, reason| {
            timeline.observe(Transition {
                reason: Some(reason),
                ..transition(1, socket, old, Close)
            })
        };
        let mut lines = Vec::new();
        for observed in [
            end(1, FinWait2, CloseReason::ResetReceived),
            end(2, FinWait2, CloseReason::LocalFin),
            end(1, Close, CloseReason::ResetSent),
            end(3, Close, CloseReason::Aborted),
        ] {
            add(&mut lines, observed);
        }
        let shown: Vec<_> = lines
            .iter()
            .map(|line| (line.transition.socket, line.transition.reason))
            .collect();
        assert_eq!(
            shown,
            [
                (1, Some(CloseReason::ResetSent)),
                (2, Some(CloseReason::LocalFin)),
                (3, Some(CloseReason::Aborted)),
            ]
        );
    }

    #[test]
    fn a_line_tells_who_what_and_why() {
        let observed = Observed {
            transition: Transition {
                error: 104,
                reason: Some(CloseReason::ResetReceived),
                ..transition(61_000_000_123, 1, TcpState::Established, TcpState::Close)
            },
            in_state: Some(Duration::from_millis(1_500)),
            owners: owners(false),
        };
        assert_eq!(
            observed.text(&CLOCK),
            "00:01:01.000000 4026531833 127.0.0.1:80          127.0.0.1:40000       \
             established -> close       after 1.5s, the peer reset it (connection reset by peer) [curl 4711]"
        );
    }

    #[test]
    fn the_json_is_as_documented() {
        let observed = Observed {
            transition: transition(1_500_000_000, 1, TcpState::Established, TcpState::CloseWait),
            in_state: None,
            owners: owners(false),
        };
        assert_eq!(
            observed.json(&CLOCK),
            json!({
                "schema_version": 1,
                "time": "1970-01-01T00:00:01.5Z",
                "namespace": 4_026_531_833_u32,
                "family": "ipv4",
                "local_address": "127.0.0.1",
                "local_port": 80,
                "remote_address": "127.0.0.1",
                "remote_port": 40000,
                "from": "established",
                "to": "close_wait",
                "in_state_seconds": null,
                "reason": null,
                "errno": null,
                "owners": [{"pid": 4711, "name": "curl"}],
                "is_one_of": false,
            })
        );
    }

    #[test]
    fn of_many_of_which_one_has_accepted_some_are_named() {
        let observed = Observed {
            transition: transition(1, 1, TcpState::SynRecv, TcpState::Established),
            in_state: None,
            owners: owners(true),
        };
        let text = observed.text(&CLOCK);
        let end = " [one of curl 4711, curl 4712, curl 4713 and 21 more]";
        assert!(text.ends_with(end), "{text}");
    }
}
