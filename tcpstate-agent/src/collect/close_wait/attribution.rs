//! Joining what was found with who holds it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Cause, Holdings, Service, Survey, Tally,
    accepters::Accepters,
    holdings::{Holding, Queue},
};
use crate::host::process::ProcessId;

/// Sockets in CLOSE_WAIT that one process keeps there for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The process; `None` for sockets that no descriptor leads to: on the way from one process
    /// to another, held by io_uring, or the kernel's own.
    pub owner: Option<ProcessId>,
    /// Other processes that have some of them too.
    pub co_owners: BTreeSet<ProcessId>,
    /// What the connections are for.
    pub service: Service,
    /// Why they stay.
    pub cause: Cause,
    /// The descriptor that the process has of the oldest; `None` where it has none.
    pub oldest_descriptor: Option<u32>,
    /// The address of the cgroup that they were made in, where nobody holds them and it is known.
    pub made_in: Option<u64>,
    /// How many, and since when.
    pub tally: Tally,
    /// Of those that were not accepted: how many others wait with them.
    pub living: u64,
    /// Of those that were not accepted: it is not known which of the owners accepts.
    pub is_one_of: bool,
}

/// Gives every socket of the survey to an owner. The groups' counts sum up to the survey's, for
/// each service.
///
/// The two walks are one after the other, `took` from the beginning of the first to the end of
/// the second. A socket that came later is left out. One that was read from or written to in
/// between counts under the cause that it had at the second. And one that was closed in between,
/// which can only be one that was young, is given to the process that holds most of its service.
#[must_use]
pub fn attribute(survey: &Survey, holdings: &Holdings, took: Duration) -> Vec<Group> {
    let mut services: BTreeMap<Service, Side> = BTreeMap::new();
    for ((service, cause), tally) in survey.found() {
        let side = services.entry(*service).or_default();
        side.found.insert(*cause, tally);
    }
    for ((process, service, cause), holding) in holdings.groups() {
        if let Some(side) = services.get_mut(service) {
            side.held.insert((*cause, *process), holding.clone());
        }
    }
    for ((process, service), queue) in holdings.queues() {
        if let Some(side) = services.get_mut(service) {
            side.queues.insert(*process, queue);
        }
    }
    services
        .into_iter()
        .flat_map(|(service, side)| side.attribute(service, holdings, took))
        .map(|group| Group {
            made_in: match group.owner {
                Some(_) => None,
                None => survey.cgroup(group.service, group.cause),
            },
            ..group
        })
        .filter(|group| group.tally.sockets > 0)
        .collect()
}

/// One service, as both walks show it.
#[derive(Default)]
struct Side<'a> {
    found: BTreeMap<Cause, &'a Tally>,
    held: BTreeMap<(Cause, ProcessId), Holding>,
    queues: BTreeMap<ProcessId, &'a Queue>,
}

impl Side<'_> {
    fn attribute(mut self, service: Service, holdings: &Holdings, took: Duration) -> Vec<Group> {
        let (mut groups, left) = self.unaccepted(service, holdings);
        let mut ownerless = self.balance(took);
        let in_no_queue = self.explain(Cause::Unaccepted, left, took);
        ownerless.extend(in_no_queue.map(|rest| (Cause::Unaccepted, rest)));
        groups.extend(
            self.held
                .into_iter()
                .map(|((cause, process), holding)| holding.into_group(process, service, cause)),
        );
        groups.extend(ownerless.into_iter().map(|(cause, tally)| Group {
            owner: None,
            co_owners: BTreeSet::new(),
            service,
            cause,
            oldest_descriptor: None,
            made_in: None,
            tally,
            living: 0,
            is_one_of: false,
        }));
        groups
    }

    /// Makes the held sockets as many as were found, and returns those that nobody holds.
    fn balance(&mut self, took: Duration) -> Vec<(Cause, Tally)> {
        let accepted = Cause::ALL
            .into_iter()
            .filter(|cause| *cause != Cause::Unaccepted);
        // Held sockets less found ones, and the reverse, by cause.
        let mut excess = Vec::new();
        let mut missing = Vec::new();
        for cause in accepted {
            let found = self.found.get(&cause).map_or(0, |tally| tally.sockets);
            let held: u64 = self.of_cause(cause).map(|tally| tally.sockets).sum();
            if held > found {
                excess.push((cause, held - found));
            } else {
                missing.push((cause, found - held));
            }
        }
        let sum = |of: &[(Cause, u64)]| of.iter().map(|(_, count)| count).sum::<u64>();
        let (too_many, too_few) = (sum(&excess), sum(&missing));
        let mut to_remove = too_many.saturating_sub(too_few);
        for (cause, count) in excess {
            let count = count.min(to_remove);
            self.shrink(cause, count);
            to_remove -= count;
        }
        let mut to_add = too_few.saturating_sub(too_many);
        let mut ownerless = Vec::new();
        for (cause, count) in missing {
            let count = count.min(to_add);
            to_add -= count;
            ownerless.extend(self.explain(cause, count, took).map(|rest| (cause, rest)));
        }
        ownerless
    }

    fn of_cause(&self, cause: Cause) -> impl Iterator<Item = &Tally> {
        self.held
            .iter()
            .filter(move |((of, _), _)| *of == cause)
            .map(|(_, holding)| &holding.tally)
    }

    /// Removes `count` held sockets, from the largest groups.
    fn shrink(&mut self, cause: Cause, mut count: u64) {
        while count > 0 {
            let of_cause = self.held.iter_mut().filter(|((of, _), _)| *of == cause);
            let Some((_, largest)) = of_cause.max_by_key(|(_, holding)| holding.tally.sockets)
            else {
                return;
            };
            let removed = count.min(largest.tally.sockets);
            if removed == 0 {
                return;
            }
            largest.tally.shrink_to(largest.tally.sockets - removed);
            count -= removed;
        }
    }

    /// Gives those of `count` sockets that can have been closed meanwhile to the process that
    /// holds most, and returns the others.
    fn explain(&mut self, cause: Cause, count: u64, took: Duration) -> Option<Tally> {
        let found = *self.found.get(&cause).filter(|_| count > 0)?;
        let rest = found.rest(self.of_cause(cause), count);
        let young = rest.ages.up_to(took).min(count);
        let most = self
            .held
            .iter()
            .max_by_key(|((_, process), holding)| (holding.tally.sockets, Reverse(*process)))
            .map(|((_, process), _)| *process);
        let Some(process) = most.filter(|_| young > 0) else {
            return Some(rest);
        };
        let old = rest.part(count - young);
        let closed = rest.rest([&old], young);
        let holding = self.held.entry((cause, process)).or_default();
        holding.tally.merge(&closed);
        (young < count).then_some(old)
    }

    /// Divides the sockets that were not accepted among the processes whose queues they are in.
    /// Also returns how many are in no queue that was seen.
    fn unaccepted(&self, service: Service, holdings: &Holdings) -> (Vec<Group>, u64) {
        let Some(&found) = self.found.get(&Cause::Unaccepted) else {
            return (Vec::new(), 0);
        };
        let mut left = found.sockets;
        let mut shares: Vec<(ProcessId, &Queue, u64)> = Vec::new();
        for (&process, &queue) in &self.queues {
            let share = queue.unaccepted.min(left);
            left -= share;
            shares.push((process, queue, share));
        }
        // What is further back in a queue than was looked belongs to those queues, in equal parts
        // as far as anyone can tell; and by its address any of them belongs to those that listen
        // there.
        let mut places: Vec<usize> = (0..shares.len())
            .filter(|place| shares[*place].1.is_cut)
            .collect();
        if places.is_empty() && !shares.is_empty() {
            places.push(0);
        }
        for (nth, place) in places.iter().enumerate() {
            let part = left.div_ceil((places.len() - nth) as u64);
            shares[*place].2 += part;
            left -= part;
        }
        let groups = shares
            .into_iter()
            .map(|(process, queue, share)| {
                let accepters = Accepters::of(process, queue, service, holdings);
                Group {
                    owner: Some(accepters.first),
                    co_owners: accepters.others,
                    service,
                    cause: Cause::Unaccepted,
                    oldest_descriptor: None,
                    made_in: None,
                    tally: found.part(share),
                    living: queue.living,
                    is_one_of: accepters.is_one_of,
                }
            })
            .collect();
        (groups, left)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::{super::Role, *};
    use crate::decode::{CloseWaitSocket, Listener, Owner, Socket};

    pub(in super::super) const NOW: u64 = 1_000_000_000_000;
    pub(in super::super) const TOOK: Duration = Duration::from_millis(300);
    pub(in super::super) const OLD: u64 = NOW - 60_000_000_000;
    const YOUNG: u64 = NOW - 1_000_000;
    pub(in super::super) const NAMESPACE: u32 = 7;
    pub(in super::super) const PORT: u16 = 80;

    pub(in super::super) fn process(tgid: u32) -> ProcessId {
        ProcessId {
            tgid,
            start_boottime_ns: 1,
        }
    }

    pub(in super::super) fn socket(
        number: u64,
        since: u64,
        unread: u32,
        is_accepted: bool,
    ) -> CloseWaitSocket {
        CloseWaitSocket {
            socket: number,
            namespace: NAMESPACE,
            since_ns: Some(since),
            last_ack_jiffies: 0,
            last_data_jiffies: None,
            last_sent_jiffies: None,
            unread,
            unsent: 0,
            is_accepted,
            local_port: PORT,
            remote: "10.0.0.1:4000".parse().unwrap(),
            cgroup: 0,
        }
    }

    fn listener() -> Listener {
        Listener {
            socket: 1,
            namespace: NAMESPACE,
            port: PORT,
        }
    }

    pub(in super::super) fn survey(sockets: &[CloseWaitSocket]) -> Survey {
        let mut survey = Survey::new(NOW, None);
        survey.begin(NAMESPACE);
        survey.add(&Socket::Listener(listener()));
        for socket in sockets {
            survey.add(&Socket::CloseWait(*socket));
        }
        survey
    }

    pub(in super::super) fn holds(tgid: u32, socket: CloseWaitSocket, is_shared: bool) -> Owner {
        Owner {
            is_shared,
            descriptor: u32::try_from(socket.socket).ok(),
            ..Owner::of(process(tgid), Socket::CloseWait(socket))
        }
    }

    pub(in super::super) fn listens(
        tgid: u32,
        number: u64,
        unaccepted: u32,
        is_cut: bool,
    ) -> Owner {
        let listener = Listener {
            socket: number,
            ..listener()
        };
        Owner {
            unaccepted,
            is_cut,
            ..Owner::of(process(tgid), Socket::Listener(listener))
        }
    }

    /// Owner, cause and count of each group.
    fn attributed(survey: &Survey, owners: &[Owner]) -> Vec<(Option<u32>, Cause, u64)> {
        let mut holdings = Holdings::default();
        for owner in owners {
            holdings.add(owner, survey);
        }
        let groups = attribute(survey, &holdings, TOOK);
        let sum: u64 = groups.iter().map(|group| group.tally.sockets).sum();
        assert_eq!(sum, survey.total().sockets);
        let mut found: Vec<_> = groups
            .iter()
            .map(|group| {
                let owner = group.owner.map(|process| process.tgid);
                (owner, group.cause, group.tally.sockets)
            })
            .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn each_socket_has_the_process_that_holds_it() {
        let (one, two, three) = (
            socket(1, OLD, 1, true),
            socket(2, OLD, 0, true),
            socket(3, OLD, 0, true),
        );
        let owners = [
            holds(10, one, false),
            holds(10, two, false),
            holds(11, three, false),
        ];
        assert_eq!(
            attributed(&survey(&[one, two, three]), &owners),
            [
                (Some(10), Cause::FinUnread, 1),
                (Some(10), Cause::EofRead, 1),
                (Some(11), Cause::EofRead, 1),
            ]
        );
    }

    #[test]
    fn of_the_oldest_the_descriptor_is_told() {
        let (young, old) = (socket(1, YOUNG, 0, true), socket(2, OLD, 0, true));
        let survey = survey(&[young, old]);
        for owners in [[young, old], [old, young]] {
            let mut holdings = Holdings::default();
            for socket in owners {
                holdings.add(&holds(10, socket, false), &survey);
            }
            let groups = attribute(&survey, &holdings, TOOK);
            assert_eq!(groups[0].oldest_descriptor, Some(2));
        }
    }

    #[test]
    fn a_shared_socket_counts_once_for_the_first_of_its_owners() {
        let one = socket(1, OLD, 0, true);
        let owners = [10, 11, 12].map(|tgid| holds(tgid, one, true));
        let survey = survey(&[one]);
        assert_eq!(
            attributed(&survey, &owners),
            [(Some(10), Cause::EofRead, 1)]
        );
        let mut holdings = Holdings::default();
        for owner in owners {
            holdings.add(&owner, &survey);
        }
        let groups = attribute(&survey, &holdings, TOOK);
        assert_eq!(
            groups[0].co_owners,
            BTreeSet::from([process(11), process(12)])
        );
    }

    #[test]
    fn an_old_socket_that_nobody_holds_has_no_owner() {
        let (held, in_flight) = (socket(1, OLD, 0, true), socket(2, OLD, 0, true));
        assert_eq!(
            attributed(&survey(&[held, in_flight]), &[holds(10, held, false)]),
            [(None, Cause::EofRead, 1), (Some(10), Cause::EofRead, 1)]
        );
    }

    #[test]
    fn a_young_socket_that_was_closed_meanwhile_is_given_to_its_service() {
        let (held, closed) = (socket(1, OLD, 0, true), socket(2, YOUNG, 1, true));
        assert_eq!(
            attributed(&survey(&[held, closed]), &[holds(10, held, false)]),
            [
                (Some(10), Cause::FinUnread, 1),
                (Some(10), Cause::EofRead, 1)
            ]
        );
    }

    #[test]
    fn a_socket_that_came_meanwhile_is_left_out() {
        let (one, later) = (socket(1, OLD, 0, true), socket(2, NOW, 0, true));
        assert_eq!(
            attributed(
                &survey(&[one]),
                &[holds(10, one, false), holds(10, later, false)]
            ),
            [(Some(10), Cause::EofRead, 1)]
        );
    }

    #[test]
    fn a_socket_that_was_read_meanwhile_counts_once() {
        let (before, after) = (socket(1, OLD, 1, true), socket(1, OLD, 0, true));
        assert_eq!(
            attributed(&survey(&[before]), &[holds(10, after, false)]),
            [(Some(10), Cause::EofRead, 1)]
        );
    }

    #[test]
    fn unaccepted_sockets_belong_to_the_queue_they_are_in() {
        let waiting: Vec<_> = (1..=5).map(|n| socket(n, OLD, 1, false)).collect();
        assert_eq!(
            attributed(
                &survey(&waiting),
                &[listens(10, 100, 0, false), listens(11, 101, 5, false)]
            ),
            [(Some(11), Cause::Unaccepted, 5)]
        );
    }

    #[test]
    fn what_was_not_walked_belongs_to_the_queues_that_were_cut() {
        let waiting: Vec<_> = (1..=50).map(|n| socket(n, OLD, 1, false)).collect();
        assert_eq!(
            attributed(
                &survey(&waiting),
                &[
                    listens(10, 100, 15, true),
                    listens(11, 101, 0, false),
                    listens(12, 102, 15, true)
                ]
            ),
            [
                (Some(10), Cause::Unaccepted, 25),
                (Some(12), Cause::Unaccepted, 25)
            ]
        );
        assert_eq!(
            attributed(
                &survey(&waiting),
                &[listens(10, 100, 3, false), listens(11, 101, 20, true)]
            ),
            [
                (Some(10), Cause::Unaccepted, 3),
                (Some(11), Cause::Unaccepted, 47)
            ]
        );
    }

    #[test]
    fn unaccepted_sockets_of_a_listener_without_a_process_have_no_owner() {
        let waiting = socket(1, OLD, 1, false);
        assert_eq!(
            attributed(&survey(&[waiting]), &[]),
            [(None, Cause::Unaccepted, 1)]
        );
    }

    #[test]
    fn sockets_of_a_namespace_that_was_not_surveyed_are_left_out() {
        let one = socket(1, OLD, 0, true);
        let elsewhere = CloseWaitSocket {
            namespace: NAMESPACE + 1,
            ..one
        };
        assert_eq!(
            attributed(
                &survey(&[one]),
                &[holds(10, one, false), holds(11, elsewhere, false)]
            ),
            [(Some(10), Cause::EofRead, 1)]
        );
    }

    #[test]
    fn an_unaccepted_group_keeps_role_and_port() {
        let waiting = socket(1, OLD, 1, false);
        let survey = survey(&[waiting]);
        let mut holdings = Holdings::default();
        holdings.add(&listens(10, 100, 1, false), &survey);
        let groups = attribute(&survey, &holdings, TOOK);
        assert_eq!(
            groups[0].service,
            Service {
                namespace: NAMESPACE,
                role: Role::Server,
                port: PORT
            }
        );
    }

    proptest! {
        /// Whatever came, went or changed between the two walks.
        #[test]
        fn the_groups_sum_up_to_the_survey(
            found in prop::collection::vec((0..40_u64, 0..3_u32, any::<bool>(), any::<bool>()), 0..60),
            held in prop::collection::vec((0..40_u64, 0..3_u32, 1..4_u32, any::<bool>()), 0..60),
            queues in prop::collection::vec((1..4_u32, 0..9_u32, any::<bool>()), 0..4),
        ) {
            let found: Vec<_> = found
                .into_iter()
                .map(|(number, unread, accepted, old)| {
                    socket(number, if old { OLD } else { YOUNG }, unread, accepted)
                })
                .collect();
            let owners: Vec<_> = held
                .into_iter()
                .map(|(number, unread, tgid, shared)| {
                    holds(tgid, socket(number, OLD, unread, true), shared)
                })
                .chain(queues.into_iter().map(|(tgid, unaccepted, is_cut)| {
                    listens(tgid, u64::from(tgid), unaccepted, is_cut)
                }))
                .collect();
            attributed(&survey(&found), &owners);
        }
    }
}
