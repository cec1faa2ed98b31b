//! Many of them, and many that come and go.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use tcpstate_agent::model::close_wait::{Cause, Role};

use super::{BUSY, LOWER_BOUND, Look, SHOWN, SOCKETS, adds_up, is_shown, keep, ss_count, total};
use crate::{
    actor::{Actor, Duty, Sockets},
    agent::Agent,
    harness::{DoneOnDrop, Netns, require, within},
    page::Page,
};

const DURATIONS: &str = "tcpstate_state_duration_seconds_count";
const UNKNOWN: &str = "tcpstate_state_duration_unknown_total";
const DISPLACED: &str = "tcpstate_state_duration_displaced_total";

fn sockets(role: Role, count: usize) -> Sockets {
    Sockets {
        role,
        cause: Cause::FinUnread,
        address: "127.0.0.1:0".parse().unwrap(),
        count,
    }
}

#[test]
fn processes_that_end_while_their_sockets_are_looked_at_leave_no_wrong_sum_and_no_series() {
    /// Of each process.
    const COUNT: usize = 40;
    const AT_A_TIME: usize = 3;

    let look = Look::new();
    let namespace = Netns::new();
    let (is_over, started) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _over = DoneOnDrop(&is_over);
        // All are of one service, so that those of several processes that have ended are one
        // group of nobody.
        for address in [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]] {
            let (is_over, started, namespace) = (&is_over, &started, &namespace);
            let sockets = Sockets {
                address: (address, 20_000).into(),
                ..sockets(Role::Server, COUNT)
            };
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    drop(keep(namespace, "churn", sockets));
                    started.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let (mut looks, mut seen) = (0, 0);
        while looks < 200 || started.load(Ordering::Relaxed) < 100 {
            let found = look.find();
            let of_all: u64 = found.groups.iter().map(|group| group.tally.sockets).sum();
            assert_eq!(of_all, found.total.sockets);
            let in_series: u64 = found.series.values().map(|series| series.sockets).sum();
            assert_eq!(in_series, of_all);
            // A walk may see one process's sockets, and then those of the process after it.
            let own = total(&look.groups(&namespace));
            assert!(own <= 2 * (COUNT * AT_A_TIME) as u64, "{own}");
            look.page();
            assert!(look.watch.is_alive(), "a thread of the watch has ended");
            looks += 1;
            seen += own;
        }
        assert!(seen > 0, "never saw any");
    });
    assert_eq!(ss_count(&namespace), 0);
    let page = look.page();
    for metric in [SOCKETS, LOWER_BOUND, "tcpstate_owner_open_fds"] {
        let left = page.samples(metric, &[("process", "churn")]);
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(total(&look.groups(&namespace)), 0);
    within(SHOWN, || adds_up(&look.page()));
}

/// Sockets that have left CLOSE_WAIT since the agent started: timed, not timed, and all.
#[derive(Clone, Copy, Debug)]
struct Left {
    timed: u64,
    unknown: u64,
    displaced: u64,
    all: u64,
}

impl Left {
    fn of(page: &Page) -> Self {
        let state = [("state", "close_wait")];
        Self {
            timed: page.sum(DURATIONS, &state),
            unknown: page.sum(UNKNOWN, &state),
            displaced: page.sum(DISPLACED, &state),
            all: page.sum("tcpstate_transitions_total", &[("from", "close_wait")]),
        }
    }
}

#[test]
fn a_hundred_thousand_are_counted_exactly_in_little_memory_and_those_that_leave_are_all_timed() {
    const EACH: usize = 10_000;
    /// The limit of open files is 20,000 in places, and both ends of a connection are here.
    const ACTORS: usize = 11;
    const FIRST: usize = EACH - 500;
    const PASSING: usize = 10_000;
    const MIB: u64 = 1024 * 1024;

    let namespace = Netns::new();
    // What comes while the agent is slower than a scrape should wait must be shown all the same.
    let agent = Agent::start_with(&BUSY);
    let duty = Duty::Keep(sockets(Role::Server, FIRST));
    let start =
        |name, count: usize| Actor::start_all(&namespace, std::iter::repeat_n((name, duty), count));
    let check = |truth: u64| {
        within(3 * SHOWN, || {
            let page = agent.page();
            let shown = page.sum(SOCKETS, &[("process", "many"), ("cause", "fin_unread")]);
            require(shown == truth, format!("{shown} of {truth}"))?;
            adds_up(&page)
        });
    };
    let _first = start("many", 1);
    check(FIRST as u64);
    let resident_with_few = agent.resident_bytes();

    let _others = start("many", ACTORS - 1);
    let truth = ss_count(&namespace);
    assert_eq!(truth, (FIRST * ACTORS) as u64);
    check(truth);
    let resident = agent.resident_bytes();
    assert!(resident <= 20 * MIB, "{resident} bytes resident");
    assert!(
        resident <= resident_with_few + 2 * MIB,
        "{resident} bytes resident, {resident_with_few} with a tenth of the sockets"
    );

    let before = Left::of(&agent.page());
    let pass = Duty::Pass {
        address: "127.0.0.1:0".parse().unwrap(),
        connections: PASSING,
    };
    drop(Actor::start(&namespace, "passing", pass));
    let after = Left::of(&agent.page());
    let left = after.all - before.all;
    let timed = after.timed - before.timed;
    let unknown = after.unknown - before.unknown;
    assert!(timed >= PASSING as u64, "{before:?}, {after:?}");
    assert_eq!(timed + unknown, left);
    // Only of sockets that are not this test's own.
    assert!(unknown <= left - PASSING as u64, "{before:?}, {after:?}");
    assert_eq!(after.displaced, before.displaced);
    assert_eq!(ss_count(&namespace), truth);
}

#[test]
fn sockets_that_were_there_before_the_agent_leave_as_unknown() {
    let namespace = Netns::new();
    let older = keep(&namespace, "older", sockets(Role::Server, 30));
    let look = Look::new();
    within(SHOWN, || {
        let port = older.port.to_string();
        let labels = [
            ("role", "server"),
            ("port", &*port),
            ("cause", "fin_unread"),
        ];
        is_shown(&look.page(), "older", labels, 30)
    });
    let younger = keep(&namespace, "younger", sockets(Role::Client, 20));
    let before = Left::of(&look.page());
    drop(older);
    drop(younger);
    let after = Left::of(&look.page());
    let (timed, unknown) = (after.timed - before.timed, after.unknown - before.unknown);
    assert!(timed >= 20 && unknown >= 30, "{before:?}, {after:?}");
    assert_eq!(timed + unknown, after.all - before.all);
}
