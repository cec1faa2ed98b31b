//! Why they stay: each cause, made by a real process.

use tcpstate_common::TcpState;

use super::{Look, SHOWN, SOCKETS, Shown, UNREAD_BYTES, adds_up, is_shown, ss, total};
use crate::{
    actor::{Actor, Duty, Sockets, UNREAD},
    agent::Agent,
    harness::{Netns, census_of, require, within},
    page::Page,
};
use tcpstate_agent::collect::close_wait::{Cause, OTHER, Role};

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";
/// A dual-stack socket that speaks IPv4.
const MAPPED: &str = "[::ffff:127.0.0.1]:0";

/// A process, and what it keeps.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    role: Role,
    cause: Cause,
    address: &'static str,
    count: usize,
}

const fn case(
    name: &'static str,
    role: Role,
    cause: Cause,
    address: &'static str,
    count: usize,
) -> Case {
    Case {
        name,
        role,
        cause,
        address,
        count,
    }
}

/// No two keep equally many.
const CASES: [Case; 10] = [
    case("s-unaccepted", Role::Server, Cause::Unaccepted, V4, 3),
    case("s-unaccepted-6", Role::Server, Cause::Unaccepted, MAPPED, 4),
    case("s-fin_unread", Role::Server, Cause::FinUnread, V6, 5),
    case("s-data_unread", Role::Server, Cause::DataUnread, V4, 6),
    case("s-eof_read", Role::Server, Cause::EofRead, MAPPED, 7),
    case("s-sending", Role::Server, Cause::Sending, V6, 2),
    case("c-eof_read", Role::Client, Cause::EofRead, V4, 9),
    case("c-eof_read-6", Role::Client, Cause::EofRead, MAPPED, 10),
    case("c-fin_unread", Role::Client, Cause::FinUnread, V6, 11),
    case("c-data_unread", Role::Client, Cause::DataUnread, V4, 12),
];

impl Case {
    fn duty(self) -> Duty {
        Duty::Keep(Sockets {
            role: self.role,
            cause: self.cause,
            address: self.address.parse().unwrap(),
            count: self.count,
        })
    }

    fn start(self, namespace: &Netns) -> Actor {
        Actor::start(namespace, self.name, self.duty())
    }

    /// Whether the page says of the process what `ss` says, which must be what it was told to do.
    /// `port` is its server's.
    fn is_shown(self, page: &Page, port: u16, shown: &[Shown]) -> Result<(), String> {
        let name = self.name;
        let of_server = |socket: &&Shown| match self.role {
            Role::Server => socket.local_port == port,
            Role::Client => socket.remote_port == port,
        };
        let truth: Vec<_> = shown.iter().filter(of_server).collect();
        let is_as_told = truth.iter().all(|socket| socket.cause() == self.cause);
        require(
            truth.len() == self.count && is_as_told,
            format!("{name} has made {truth:?}"),
        )?;
        let labels = [
            ("role", self.role.name()),
            ("port", &*port.to_string()),
            ("cause", self.cause.name()),
        ];
        is_shown(page, name, labels, self.count as u64)?;
        let unread: u64 = truth.iter().map(|socket| socket.unread_bytes()).sum();
        let sent = if self.cause == Cause::DataUnread {
            UNREAD * self.count
        } else {
            0
        };
        assert_eq!(unread, sent as u64);
        let bytes = page.sum(UNREAD_BYTES, &[("process", name)]);
        require(
            bytes == unread,
            format!("{name}: {bytes} of {unread} bytes"),
        )
    }
}

#[test]
fn each_cause_is_told_of_the_right_process_role_and_port() {
    let look = Look::new();
    let namespaces: Vec<Netns> = CASES.iter().map(|_| Netns::new()).collect();
    let actors: Vec<Actor> = namespaces
        .iter()
        .zip(CASES)
        .map(|(namespace, case)| case.start(namespace))
        .collect();
    for ((case, namespace), actor) in CASES.into_iter().zip(&namespaces).zip(&actors) {
        within(SHOWN, || {
            let truth = ss(namespace);
            case.is_shown(&look.page(), actor.port, &truth)?;
            let groups = look.groups(namespace);
            require(
                groups.len() == 1 && groups[0].tally.sockets == truth.len() as u64,
                format!("{groups:?}"),
            )
        });
    }
}

#[test]
fn all_causes_at_once_in_one_namespace_are_told_apart_and_add_up() {
    let look = Look::new();
    let namespace = Netns::new();
    let actors: Vec<Actor> = CASES
        .into_iter()
        .map(|case| case.start(&namespace))
        .collect();
    within(SHOWN, || {
        let truth = ss(&namespace);
        let page = look.page();
        for (case, actor) in CASES.into_iter().zip(&actors) {
            case.is_shown(&page, actor.port, &truth)?;
        }
        adds_up(&page)?;
        let groups = total(&look.groups(&namespace));
        let reading = look.watch.read().unwrap();
        let gauge = census_of(&reading, namespace.inode()).in_state(TcpState::CloseWait);
        let truth = truth.len() as u64;
        require(
            groups == truth && gauge == truth,
            format!("{groups} in groups, {gauge} in the gauge, {truth} in all"),
        )
    });
}

#[test]
fn one_name_with_two_causes_has_a_series_for_each() {
    let look = Look::new();
    let namespace = Netns::new();
    let kept = [(Cause::DataUnread, 6), (Cause::EofRead, 8)];
    let _actors = kept
        .map(|(cause, count)| case("two-causes", Role::Server, cause, V4, count).start(&namespace));
    within(SHOWN, || {
        let page = look.page();
        for (cause, count) in kept {
            let labels = [("process", "two-causes"), ("cause", cause.name())];
            let shown = page.sum(SOCKETS, &labels);
            require(shown == count as u64, format!("{}: {shown}", cause.name()))?;
        }
        Ok(())
    });
}

#[test]
fn beyond_the_series_of_the_largest_and_the_oldest_there_is_one_of_all_others() {
    let namespace = Netns::new();
    let agent = Agent::start_with(&["--close-wait.top", "1", "--snapshot.cpu-percent", "100"]);
    let _actors = Actor::start_all(
        &namespace,
        CASES.into_iter().map(|case| (case.name, case.duty())),
    );
    let made: u64 = CASES.iter().map(|case| case.count as u64).sum();
    let folded = |page: &Page| page.sum("tcpstate_series_folded_total", &[("metric", SOCKETS)]);
    let first = within(SHOWN, || {
        let page = agent.page();
        adds_up(&page)?;
        let all = page.sum(SOCKETS, &[]);
        require(all >= made, format!("{all} of {made}"))?;
        let others = page.samples(SOCKETS, &[("process", OTHER)]);
        // All causes but that of the largest are among the others.
        require(others.len() >= 4, format!("{others:?}"))?;
        let named = page.samples(SOCKETS, &[]).len() - others.len();
        require(
            (1..=2).contains(&named),
            format!("{named} named:\n{}", page.text),
        )?;
        for other in others {
            for label in ["unit", "container_id", "pod_uid", "port"] {
                assert_eq!(other.label(label), "", "{other:?}");
            }
        }
        // Each of these sums is by role and cause, with or without a series of its own.
        for Case { role, cause, .. } in CASES {
            let of_kind = CASES
                .iter()
                .filter(|one| (one.role, one.cause) == (role, cause));
            let truth: u64 = of_kind.map(|one| one.count as u64).sum();
            let shown = page.sum(SOCKETS, &[("role", role.name()), ("cause", cause.name())]);
            require(
                shown >= truth,
                format!("{role:?} {cause:?}: {shown} of {truth}"),
            )?;
        }
        Ok(folded(&page))
    });
    assert!(first >= 8, "{first}");
    within(SHOWN, || {
        let now = folded(&agent.page());
        require(now > first, format!("{now} after {first}"))
    });
}
