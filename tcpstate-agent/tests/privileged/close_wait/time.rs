//! Since when: exact where the beginning was seen, and a lower bound where it was not.

use std::time::Instant;

use super::{BUSY, LOWER_BOUND, Look, OLDEST_AGE, SHOWN, SOCKETS, keep, total};
use crate::{
    actor::Sockets,
    agent::Agent,
    harness::{Netns, require, within},
    page::Page,
};
use tcpstate_agent::collect::close_wait::{Cause, Role};

const AGE_SOCKETS: &str = "tcpstate_close_wait_age_sockets";

fn sockets(count: usize) -> Sockets {
    Sockets {
        role: Role::Server,
        cause: Cause::EofRead,
        address: "127.0.0.1:0".parse().unwrap(),
        count,
    }
}

/// The oldest age of the process `name`, and of how many sockets it is a lower bound.
fn age(page: &Page, name: &str) -> Result<(f64, u64), String> {
    let process = [("process", name)];
    match page.samples(OLDEST_AGE, &process)[..] {
        [one] => Ok((one.seconds(), page.sum(LOWER_BOUND, &process))),
        _ => Err("not one series".to_owned()),
    }
}

#[test]
fn the_age_of_what_was_there_before_the_agent_is_a_lower_bound_that_grows() {
    let namespace = Netns::new();
    let before = Instant::now();
    let _actor = keep(&namespace, "older", sockets(7));
    let look = Look::new();
    let first = within(SHOWN, || {
        let (age, lower_bound) = age(&look.page(), "older")?;
        require(lower_bound == 7, format!("{lower_bound} of 7"))?;
        let true_age = before.elapsed().as_secs_f64();
        assert!((0.0..=true_age).contains(&age), "{age} of {true_age}");
        Ok(age)
    });
    within(SHOWN, || {
        let (age, _) = age(&look.page(), "older")?;
        assert!(age <= before.elapsed().as_secs_f64(), "{age}");
        require(age > first + 1.0, format!("{age} after {first}"))
    });
}

#[test]
fn the_age_of_what_came_while_the_agent_ran_is_exact() {
    let look = Look::new();
    let namespace = Netns::new();
    // The events of a namespace that was not found yet are seen all the same.
    let before = Instant::now();
    let _actor = keep(&namespace, "younger", sockets(7));
    let after = Instant::now();
    for _ in 0..3 {
        within(SHOWN, || {
            let at_least = after.elapsed().as_secs_f64();
            let (age, lower_bound) = age(&look.page(), "younger")?;
            let at_most = before.elapsed().as_secs_f64();
            assert_eq!(lower_bound, 0);
            assert!(
                (at_least..=at_most).contains(&age),
                "{age} is not from {at_least} to {at_most}"
            );
            Ok(())
        });
        std::thread::sleep(std::time::Duration::from_millis(700));
    }
}

#[test]
fn both_kinds_of_age_in_one_group_are_told_apart() {
    let namespace = Netns::new();
    let _older = keep(&namespace, "both", sockets(3));
    let look = Look::new();
    let _younger = keep(&namespace, "both", sockets(4));
    within(SHOWN, || {
        let page = look.page();
        let shown = page.sum(SOCKETS, &[("process", "both")]);
        let lower_bound = page.sum(LOWER_BOUND, &[("process", "both")]);
        require(
            (shown, lower_bound) == (7, 3),
            format!("{lower_bound} of {shown}"),
        )
    });
}

#[test]
fn sockets_grow_older_together() {
    let look = Look::new();
    let namespace = Netns::new();
    let _actor = keep(&namespace, "aging", sockets(5));
    within(SHOWN, || {
        let page = look.page();
        let over_a_second = page.sum(AGE_SOCKETS, &[("older_than", "1")]);
        require(over_a_second >= 5, format!("{over_a_second}"))?;
        let limits = ["1", "10", "60", "600", "3600", "86400"];
        let counts = limits.map(|limit| page.sum(AGE_SOCKETS, &[("older_than", limit)]));
        assert!(counts.is_sorted_by(|one, next| one >= next), "{counts:?}");
        Ok(())
    });
}

#[test]
fn when_they_are_closed_their_series_are_gone() {
    let look = Look::new();
    let namespace = Netns::new();
    let actor = keep(&namespace, "closed", sockets(5));
    let is_there = |page: &Page| !page.samples(SOCKETS, &[("process", "closed")]).is_empty();
    within(SHOWN, || require(is_there(&look.page()), "not yet"));
    drop(actor);
    assert!(!is_there(&look.page()));
    assert_eq!(total(&look.groups(&namespace)), 0);
}

#[test]
fn when_all_are_closed_the_agent_shows_none_and_no_ages() {
    let namespace = Netns::new();
    let agent = Agent::start_with(&BUSY);
    let actor = keep(&namespace, "closed", sockets(5));
    within(SHOWN, || {
        let page = agent.page();
        let shown = page.sum(SOCKETS, &[("process", "closed")]);
        let old = page.sum(AGE_SOCKETS, &[("older_than", "1")]);
        require(shown == 5 && old >= 5, format!("{shown}, {old} old"))
    });
    drop(actor);
    within(SHOWN, || {
        let page = agent.page();
        for metric in [SOCKETS, "tcpstate_owner_open_fds", "tcpstate_owner_max_fds"] {
            let left = page.samples(metric, &[("process", "closed")]);
            require(left.is_empty(), format!("{left:?}"))?;
        }
        // Others on the host may have some, but not more than there are.
        let all = page.sum("tcpstate_sockets", &[("state", "close_wait")]);
        for limit in ["1", "10", "60", "600", "3600", "86400"] {
            let old = page.sum(AGE_SOCKETS, &[("older_than", limit)]);
            require(old <= all, format!("{old} of {all} older than {limit} s"))?;
        }
        Ok(())
    });
}
