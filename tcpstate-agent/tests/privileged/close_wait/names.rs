//! What processes call themselves, which may be anything.

use std::collections::BTreeSet;

use super::{Look, SHOWN, SOCKETS};
use crate::{
    actor::{Actor, Duty, Sockets},
    harness::{Netns, is_excused, require, within},
    page::Page,
    prometheus,
};
use tcpstate_agent::collect::close_wait::{Cause, Role};

/// What they call themselves, and what the label says.
const NAMES: [(&[u8], &str); 10] = [
    (b"two\nlines", "two\nlines"),
    (b"ends\n", "ends\n"),
    (b"quo\"te", "quo\"te"),
    (b"back\\slash\\n", "back\\slash\\n"),
    ("größe 名前".as_bytes(), "größe 名前"),
    (b"bad\xffbyte", "bad\\xffbyte"),
    // A character that the kernel has cut after 15 bytes.
    ("fourteen bytes名".as_bytes(), "fourteen bytes\\xe5"),
    (b"\x1b[2Jclear", "\\x1b[2Jclear"),
    (b"a\tb\rc", "a\\x09b\\x0dc"),
    // The actor had a longer one before.
    (b"short", "short"),
];

#[test]
fn whatever_a_process_calls_itself_the_page_can_be_read_and_shows_it() {
    page_with_all_names();
}

#[test]
fn promtool_has_no_complaint_whatever_a_process_calls_itself() {
    if !is_excused("promtool") {
        prometheus::check(&page_with_all_names().text);
    }
}

/// Found to be as it should be.
fn page_with_all_names() -> Page {
    let look = Look::new();
    let namespace = Netns::new();
    let actors: Vec<Actor> = NAMES
        .iter()
        .map(|(name, _)| {
            let sockets = Sockets {
                role: Role::Client,
                cause: Cause::EofRead,
                address: "127.0.0.1:0".parse().unwrap(),
                count: 1,
            };
            Actor::start_named(&namespace, name, Duty::Keep(sockets))
        })
        .collect();
    within(SHOWN, || {
        // Neither raw control characters nor faults of the format: that it parses says so.
        let page = look.page();
        for (actor, (_, label)) in actors.iter().zip(NAMES) {
            let port = actor.port.to_string();
            let series = page.samples(SOCKETS, &[("role", "client"), ("port", &port)]);
            let shown: BTreeSet<&str> = series.iter().map(|one| one.label("process")).collect();
            require(shown == BTreeSet::from([label]), format!("{shown:?}"))?;
        }
        Ok(page)
    })
}
