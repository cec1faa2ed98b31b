//! Who keeps sockets in CLOSE_WAIT, since when, and why.
//!
//! The truth is what `ss` shows in namespaces that the tests made, and what the processes in them
//! were told to do. Nothing else on the host has their names.

mod causes;
mod load;
mod names;
mod owners;
mod time;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tcpstate_agent::{
    collect::close_wait::Cause,
    engine::{CloseWait, OwnedGroup, Watch},
    exposition::MetricsPage,
    serve::HttpReading,
};

use crate::{
    actor::{Actor, Duty, Sockets},
    harness::{self, Netns, require},
    page::Page,
};

/// Within what a group is shown as it is: the longest pause between two looks at the owners, and
/// what a namespace may take to be found, with half a minute more until one is tried again that
/// could not be counted.
pub(crate) const SHOWN: Duration = Duration::from_secs(150);

/// Flags of an agent that looks at the owners as often as it ever does, on a busy host too.
const BUSY: [&str; 2] = ["--snapshot.cpu-percent", "100"];

pub(crate) const VERDICT_SOCKETS: &str = "tcpstate_close_wait_verdict_sockets";
pub(crate) const SOCKETS: &str = "tcpstate_close_wait_sockets";
const OLDEST_AGE: &str = "tcpstate_close_wait_oldest_age_seconds";
const LOWER_BOUND: &str = "tcpstate_close_wait_age_lower_bound_sockets";
const UNREAD_BYTES: &str = "tcpstate_close_wait_unread_bytes";

/// A watch, asked afresh each time instead of when it has a turn.
pub(crate) struct Look {
    watch: Arc<Watch>,
    metrics: MetricsPage,
}

impl Look {
    pub(crate) fn new() -> Self {
        let watch = Arc::new(harness::watch());
        Self {
            metrics: MetricsPage::new(Arc::clone(&watch)),
            watch,
        }
    }

    pub(crate) fn find(&self) -> Arc<CloseWait> {
        let found = self.watch.close_wait();
        found.expect("the owners cannot be told")
    }

    /// The groups of one namespace.
    pub(crate) fn groups(&self, namespace: &Netns) -> Vec<OwnedGroup> {
        let inode = namespace.inode();
        let mut groups = self.find().groups.clone();
        groups.retain(|group| group.service.namespace == inode);
        groups
    }

    /// The page of metrics.
    pub(crate) fn page(&self) -> Page {
        self.find();
        Page::parse(self.metrics.render(&HttpReading::default()).unwrap())
    }
}

/// A socket in CLOSE_WAIT, as `ss` shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    received: u64,
    unsent: u64,
    local_port: u16,
    remote_port: u16,
    /// Name and number of each process.
    pub(crate) processes: BTreeSet<(String, u32)>,
}

impl Shown {
    /// What was not read, without the FIN, which counts as one in the queue.
    pub(crate) fn unread_bytes(&self) -> u64 {
        self.received.saturating_sub(1)
    }

    /// What follows from the queues.
    pub(crate) fn cause(&self) -> Cause {
        match (self.processes.is_empty(), self.received, self.unsent) {
            (true, _, _) => Cause::Unaccepted,
            (false, 0, 0) => Cause::EofRead,
            (false, 0, _) => Cause::Sending,
            (false, 1, _) => Cause::FinUnread,
            (false, _, _) => Cause::DataUnread,
        }
    }
}

/// The sockets in CLOSE_WAIT that `ss` shows in a namespace.
pub(crate) fn ss(namespace: &Netns) -> Vec<Shown> {
    ss_in_state(namespace, "close-wait")
}

/// The listening ones. Their first column is the length of the queue.
fn listeners(namespace: &Netns) -> Vec<Shown> {
    ss_in_state(namespace, "listening")
}

fn ss_in_state(namespace: &Netns, state: &str) -> Vec<Shown> {
    let arguments = [
        "--tcp",
        "--numeric",
        "--no-header",
        "--processes",
        "state",
        state,
    ];
    let text = namespace.command("ss", &arguments);
    text.lines().map(parse).collect()
}

/// How many `ss` shows, without asking for their processes, which takes long for many.
pub(crate) fn ss_count(namespace: &Netns) -> u64 {
    let arguments = ["--tcp", "--numeric", "--no-header", "state", "close-wait"];
    let text = namespace.command("ss", &arguments);
    text.lines().count().try_into().unwrap()
}

/// Parses `1 0 127.0.0.1:80 127.0.0.1:4000 users:(("a",pid=1,fd=3),("b",pid=2,fd=3))`.
fn parse(line: &str) -> Shown {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    // A listener has `*` for the remote one.
    let port = |address: &str| address.rsplit_once(':').unwrap().1.parse().unwrap_or(0);
    let mut processes = BTreeSet::new();
    for user in line.split("(\"").skip(1) {
        let (name, rest) = user.split_once("\",pid=").unwrap();
        let pid = rest.split(',').next().unwrap().parse().unwrap();
        processes.insert((name.to_owned(), pid));
    }
    Shown {
        received: words[0].parse().unwrap(),
        unsent: words[1].parse().unwrap(),
        local_port: port(words[2]),
        remote_port: port(words[3]),
        processes,
    }
}

/// Whether the page has for the process `name` exactly one series of each kind, with these other
/// labels and so many sockets.
fn is_shown(
    page: &Page,
    name: &str,
    labels: [(&str, &str); 3],
    sockets: u64,
) -> Result<(), String> {
    for metric in [SOCKETS, OLDEST_AGE, LOWER_BOUND, UNREAD_BYTES] {
        let series = page.samples(metric, &[("process", name)]);
        let [one] = series[..] else {
            return Err(format!("{name}: {series:?}"));
        };
        for (label, value) in labels {
            require(one.label(label) == value, format!("not {value}: {one:?}"))?;
        }
    }
    let shown = page.sum(SOCKETS, &[("process", name)]);
    require(shown == sockets, format!("{name}: {shown} of {sockets}"))
}

/// Whether the page's groups are as many sockets as its gauge says.
fn adds_up(page: &Page) -> Result<(), String> {
    let groups = page.sum(SOCKETS, &[]);
    let gauge = page.sum("tcpstate_sockets", &[("state", "close_wait")]);
    require(
        groups == gauge,
        format!("{groups} in groups, {gauge} in all"),
    )
}

/// An actor that keeps sockets.
fn keep(namespace: &Netns, name: &str, sockets: Sockets) -> Actor {
    Actor::start(namespace, name, Duty::Keep(sockets))
}

fn total(groups: &[OwnedGroup]) -> u64 {
    groups.iter().map(|group| group.tally.sockets).sum()
}
