//! Many of them, and many that come and go.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use super::{BUSY, LOWER_BOUND, Look, SHOWN, SOCKETS, adds_up, is_shown, keep, ss_count, total};
use crate::{
    actor::{Actor, Duty, Sockets},
    agent::Agent,
    harness::{DoneOnDrop, Netns, require, scaled, within},
    page::Page,
};
use tcpstate_agent::collect::close_wait::{Cause, Role};

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
        let (enough_looks, enough_processes) = (scaled(200), scaled(100) as usize);
        while looks < enough_looks
            || seen == 0
            || started.load(Ordering::Relaxed) < enough_processes
        {
            let found = look.find();
            let of_all: u64 = found.groups.iter().map(|group| group.tally.sockets).sum();
            assert_eq!(of_all, found.total.sockets);
            let in_series: u64 = found.series.values().map(|series| series.sockets).sum();
            assert_eq!(in_series, of_all);
            // A walk may see one process's sockets, and then those of the process after it.
            let own = total(&look.groups(&namespace));
            assert!(own <= 2 * (COUNT * AT_A_TIME) as u64, "{own}");
            look.page();
            assert_eq!(look.watch.health(), Ok(()));
            looks += 1;
            seen += own;
        }
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
    /// Transitions that the kernel did not show.
    missed: u64,
}

impl Left {
    /// Each of them is either timed or not. A transition that comes while they are read is in one
    /// of the counts and not yet in the other, so this is at a moment without any.
    fn of(page: impl Fn() -> Page) -> Self {
        let state = [("state", "close_wait")];
        within(SHOWN, || {
            let page = page();
            let left = Self {
                timed: page.sum(DURATIONS, &state),
                unknown: page.sum(UNKNOWN, &state),
                displaced: page.sum(DISPLACED, &state),
                all: page.sum("tcpstate_transitions_total", &[("from", "close_wait")]),
                missed: page.sum("tcpstate_missed_transitions_total", &[]),
            };
            require(left.timed + left.unknown == left.all, format!("{left:?}"))?;
            Ok(left)
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            timed: self.timed - before.timed,
            unknown: self.unknown - before.unknown,
            displaced: self.displaced - before.displaced,
            all: self.all - before.all,
            missed: self.missed - before.missed,
        }
    }
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "how much memory it takes is worth knowing"
)]
fn a_hundred_thousand_are_counted_exactly_in_little_memory_and_those_that_leave_are_all_timed() {
    const ACTORS: usize = 11;
    const MIB: u64 = 1024 * 1024;

    // The limit of open files is 20,000 in places, and both ends of a connection are here.
    let each = scaled(9_500) as usize;
    let passing = scaled(10_000) as usize;
    let namespace = Netns::new();
    // What comes while the agent is slower than a scrape should wait must be shown all the same.
    let agent = Agent::start_with(&BUSY);
    let duty = Duty::Keep(sockets(Role::Server, each));
    let start =
        |name, count: usize| Actor::start_all(&namespace, std::iter::repeat_n((name, duty), count));
    let check = |truth: u64| {
        within(2 * SHOWN, || {
            let page = agent.page();
            let shown = page.sum(SOCKETS, &[("process", "many"), ("cause", "fin_unread")]);
            require(shown == truth, format!("{shown} of {truth}"))?;
            adds_up(&page)
        });
    };
    let _first = start("many", 1);
    check(each as u64);
    let memory_with_few = agent.anonymous_bytes();

    let _others = start("many", ACTORS - 1);
    let truth = ss_count(&namespace);
    assert_eq!(truth, (each * ACTORS) as u64);
    check(truth);
    let memory = agent.anonymous_bytes();
    println!("{memory} bytes, {memory_with_few} with a tenth of the sockets");
    assert!(memory <= 8 * MIB, "{memory} bytes");
    assert!(
        memory <= memory_with_few + 2 * MIB,
        "{memory} bytes, {memory_with_few} with a tenth of the sockets"
    );

    let before = Left::of(|| agent.page());
    let pass = Duty::Pass {
        address: "127.0.0.1:0".parse().unwrap(),
        connections: passing,
    };
    drop(Actor::start(&namespace, "passing", pass));
    let left = Left::of(|| agent.page()).since(before);
    // All of this test's own whose coming and going the kernel has shown.
    assert!(left.timed + left.missed >= passing as u64, "{left:?}");
    assert_eq!(left.displaced, 0, "{left:?}");
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
    let before = Left::of(|| look.page());
    drop(older);
    drop(younger);
    let left = Left::of(|| look.page()).since(before);
    assert!(
        left.timed + left.missed >= 20 && left.unknown + left.missed >= 30,
        "{left:?}"
    );
}
