//! Processes that are alike, one for each connection, are one group.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{Cause, ReportGroup, ReportPeer, Role, Verdict, report::PEERS};
use crate::collect::owners::ReportProcess;

/// What is the same of processes that are alike.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    name: String,
    place: [String; 3],
    namespace: u32,
    role: Role,
    port: u16,
    cause: Cause,
    verdict: Verdict,
}

/// Puts together groups of one socket each whose processes are alike: servers that start a process
/// for each connection have hundreds of them. The others stay as they are. The largest come first.
pub(super) fn put_together(groups: Vec<ReportGroup>) -> Vec<ReportGroup> {
    let mut kinds = BTreeMap::<Kind, Vec<ReportGroup>>::new();
    let mut all = Vec::new();
    for group in groups {
        match &group.process {
            Some(process) if group.sockets == 1 => {
                let kind = Kind::of(process, &group);
                kinds.entry(kind).or_default().push(group);
            }
            _ => all.push(group),
        }
    }
    all.extend(kinds.into_values().filter_map(as_one));
    all.sort_by_key(|group| Reverse(group.sockets));
    all
}

impl Kind {
    fn of(process: &ReportProcess, group: &ReportGroup) -> Self {
        Self {
            name: process.name.clone(),
            place: [&process.unit, &process.container_id, &process.pod_uid].map(Clone::clone),
            namespace: group.namespace,
            role: group.role,
            port: group.port,
            cause: group.cause,
            verdict: group.verdict(),
        }
    }
}

/// The group of the oldest, with the numbers of all.
fn as_one(mut groups: Vec<ReportGroup>) -> Option<ReportGroup> {
    groups.sort_by(|one, other| other.oldest_age_seconds.total_cmp(&one.oldest_age_seconds));
    let median = groups.get(groups.len() / 2)?.oldest_age_seconds;
    let mut groups = groups.into_iter();
    let mut all = groups.next()?;
    all.median_age_seconds = median;
    for group in groups {
        all.alike
            .extend(group.process.as_ref().map(|process| process.pid));
        all.sockets += group.sockets;
        all.last_minute += group.last_minute;
        all.age_lower_bound_sockets += group.age_lower_bound_sockets;
        all.youngest_age_seconds = all.youngest_age_seconds.min(group.youngest_age_seconds);
        all.unread_bytes += group.unread_bytes;
        all.unacknowledged_bytes += group.unacknowledged_bytes;
        // What else the verdict follows from is that of one: it is the same of all.
        let (of_all, facts) = (&mut all.facts, &group.facts);
        of_all.least_unread_bytes = of_all.least_unread_bytes.min(facts.least_unread_bytes);
        of_all.most_unread_bytes = of_all.most_unread_bytes.max(facts.most_unread_bytes);
        for peer in group.peers {
            add_peer(&mut all.peers, peer);
        }
    }
    all.alike.sort_unstable();
    all.peers
        .sort_by_key(|peer| (Reverse(peer.sockets), peer.address));
    all.peers.truncate(PEERS);
    Some(all)
}

fn add_peer(peers: &mut Vec<ReportPeer>, peer: ReportPeer) {
    match peers.iter_mut().find(|known| known.address == peer.address) {
        Some(known) => known.sockets += peer.sockets,
        None => peers.push(peer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::compare::tests::group;

    #[test]
    fn processes_of_one_connection_each_are_one_group() {
        let backend = |pid: u32| ReportGroup {
            oldest_age_seconds: f64::from(pid),
            ..group(pid, 5432, 1)
        };
        let mut groups: Vec<_> = (1..=500).map(backend).collect();
        groups.push(group(9_000, 80, 3));
        groups.push(group(9_001, 81, 1));
        let groups = put_together(groups);
        let sizes: Vec<_> = groups
            .iter()
            .map(|group| (group.port, group.sockets, group.alike.len()))
            .collect();
        assert_eq!(sizes, [(5432, 500, 499), (80, 3, 0), (81, 1, 0)]);
        // That of the oldest, and all of one peer.
        assert_eq!(
            groups[0].process.as_ref().map(|process| process.pid),
            Some(500)
        );
        assert!((groups[0].median_age_seconds - 250.0).abs() < 1e-9);
        assert_eq!(groups[0].peers[0].sockets, 500);
    }

    #[test]
    fn what_is_told_of_each_is_told_of_all_together() {
        let busy = |pid: u32| ReportGroup {
            cause: Cause::FinUnread,
            ..group(pid, 5432, 1)
        };
        let one = busy(1).verdict();
        assert_eq!(one, Verdict::InService);
        let all = put_together((1..=8).map(busy).collect());
        assert_eq!((all.len(), all[0].sockets, all[0].verdict()), (1, 8, one));
    }

    #[test]
    fn what_differs_stays_apart() {
        let mut other = group(2, 80, 1);
        other.process.as_mut().unwrap().container_id = "c0ffee".to_owned();
        let cause = ReportGroup {
            cause: Cause::FinUnread,
            ..group(3, 80, 1)
        };
        let groups = put_together(vec![group(1, 80, 1), other, cause, group(4, 80, 2)]);
        assert_eq!(groups.len(), 4);
        assert!(groups.iter().all(|group| group.alike.is_empty()));
    }
}
