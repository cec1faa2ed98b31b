//! Why they stay: each cause, made by a real process.

use tcpstate_agent::model::close_wait::{Cause, OTHER, Role};

use super::{Look, SHOWN, SOCKETS, Shown, UNREAD_BYTES, adds_up, is_shown, keep, ss, total};
use crate::{
    actor::{Actor, Part, Sockets, UNREAD},
    harness::{Netns, census_of, require, within},
    page::Page,
};
use tcpstate_common::TcpState;

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";
/// A dual-stack socket that speaks IPv4.
const MAPPED: &str = "[::ffff:127.0.0.1]:0";

/// Names of the processes, and what they keep. No two keep equally many.
const CASES: [(&str, Role, Cause, &str, usize); 10] = [
    ("s-unaccepted", Role::Server, Cause::Unaccepted, V4, 3),
    ("s-unaccepted-6", Role::Server, Cause::Unaccepted, MAPPED, 4),
    ("s-fin_unread", Role::Server, Cause::FinUnread, V6, 5),
    ("s-data_unread", Role::Server, Cause::DataUnread, V4, 6),
    ("s-eof_read", Role::Server, Cause::EofRead, MAPPED, 7),
    ("s-sending", Role::Server, Cause::Sending, V6, 2),
    ("c-eof_read", Role::Client, Cause::EofRead, V4, 9),
    ("c-eof_read-6", Role::Client, Cause::EofRead, MAPPED, 10),
    ("c-fin_unread", Role::Client, Cause::FinUnread, V6, 11),
    ("c-data_unread", Role::Client, Cause::DataUnread, V4, 12),
];

type Case = (&'static str, Role, Cause, &'static str, usize);

fn start(namespace: &Netns, (name, role, cause, address, count): Case) -> Actor {
    let sockets = Sockets {
        role,
        cause,
        address: address.parse().unwrap(),
        count,
    };
    keep(namespace, name, sockets)
}

/// Those of one process among what `ss` shows, by what it knows: the port.
fn of_case(shown: &[Shown], (_, role, ..): Case, port: u16) -> Vec<&Shown> {
    let is_own = |socket: &&Shown| match role {
        Role::Server => socket.local_port == port,
        Role::Client => socket.remote_port == port,
    };
    shown.iter().filter(is_own).collect()
}

/// Whether the page says of a process what `ss` says, which must be what it was told to do.
fn case_is_shown(page: &Page, case: Case, port: u16, shown: &[Shown]) -> Result<(), String> {
    let (name, role, cause, _, count) = case;
    let truth = of_case(shown, case, port);
    require(
        truth.len() == count && truth.iter().all(|socket| socket.cause() == cause),
        format!("{name} has made {truth:?}"),
    )?;
    let labels = [
        ("role", role.name()),
        ("port", &*port.to_string()),
        ("cause", cause.name()),
    ];
    is_shown(page, name, labels, count.try_into().unwrap())?;
    // The FIN counts as one in the queue.
    let unread: u64 = truth.iter().map(|socket| socket.received.max(1) - 1).sum();
    let is_data = cause == Cause::DataUnread;
    assert_eq!(
        unread,
        if is_data {
            (UNREAD * count).try_into().unwrap()
        } else {
            0
        }
    );
    let bytes = page.sum(UNREAD_BYTES, &[("process", name)]);
    require(
        bytes == unread,
        format!("{name}: {bytes} of {unread} bytes"),
    )
}

#[test]
fn each_cause_is_told_of_the_right_process_role_and_port() {
    let look = Look::new();
    let namespaces: Vec<Netns> = CASES.iter().map(|_| Netns::new()).collect();
    let actors: Vec<Actor> = namespaces
        .iter()
        .zip(CASES)
        .map(|(namespace, case)| start(namespace, case))
        .collect();
    for ((case, namespace), actor) in CASES.into_iter().zip(&namespaces).zip(&actors) {
        within(SHOWN, || {
            let truth = ss(namespace);
            case_is_shown(&look.page(), case, actor.port, &truth)?;
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
        .map(|case| start(&namespace, case))
        .collect();
    within(SHOWN, || {
        let truth = ss(&namespace);
        let page = look.page();
        for (case, actor) in CASES.into_iter().zip(&actors) {
            case_is_shown(&page, case, actor.port, &truth)?;
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
    let _actors = kept.map(|(cause, count)| {
        let case = ("two-causes", Role::Server, cause, V4, count);
        start(&namespace, case)
    });
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
    let agent = crate::agent::Agent::start_with(&[
        "--close-wait.top",
        "1",
        "--snapshot.cpu-percent",
        "100",
    ]);
    let _actors = Actor::start_all(
        &namespace,
        CASES
            .into_iter()
            .map(|(name, role, cause, address, count)| {
                let address = address.parse().unwrap();
                let sockets = Sockets {
                    role,
                    cause,
                    address,
                    count,
                };
                (name, Part::Keep(sockets))
            }),
    );
    let made: u64 = CASES.iter().map(|case| case.4 as u64).sum();
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
        for (_, role, cause, ..) in CASES {
            let of_kind = CASES
                .iter()
                .filter(|case| (case.1, case.2) == (role, cause));
            let truth: u64 = of_kind.map(|case| case.4 as u64).sum();
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
