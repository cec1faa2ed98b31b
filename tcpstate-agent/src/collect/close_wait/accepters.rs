//! Who accepts what comes to a listening socket that several processes hold.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{Holdings, Service, holdings::Queue};
use crate::host::process::ProcessId;

/// Who accepts what comes to a listening socket.
pub(super) struct Accepters {
    pub(super) first: ProcessId,
    pub(super) others: BTreeSet<ProcessId>,
    pub(super) is_one_of: bool,
}

impl Accepters {
    /// Of those that hold the socket, those that have connections of the service, the one with most of
    /// them first. Where none has, it is not known: whoever started last has been handed the socket,
    /// and whoever was there before mostly keeps it for its successors.
    pub(super) fn of(
        process: ProcessId,
        queue: &Queue,
        service: Service,
        holdings: &Holdings,
    ) -> Self {
        let mut holders = queue.co_owners.clone();
        holders.insert(process);
        let accepted = |process: &ProcessId| holdings.accepted(*process, service);
        let accepters: BTreeSet<ProcessId> = holders
            .iter()
            .copied()
            .filter(|holder| accepted(holder) > 0)
            .collect();
        let is_one_of = accepters.is_empty() && holders.len() > 1;
        let mut others = if accepters.is_empty() {
            holders
        } else {
            accepters
        };
        let first = others
            .iter()
            .copied()
            .max_by_key(|holder| {
                let last = (holder.start_boottime_ns, holder.tgid);
                (
                    accepted(holder),
                    if is_one_of { last } else { (0, 0) },
                    Reverse(*holder),
                )
            })
            .unwrap_or(process);
        others.remove(&first);
        Self {
            first,
            others,
            is_one_of,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Cause, attribute,
            attribution::tests::{
                NAMESPACE, OLD, PORT, TOOK, holds, listens, process, socket, survey,
            },
        },
        *,
    };
    use crate::decode::{Owner, Socket};

    #[test]
    fn who_has_connections_of_a_service_accepts_and_not_whoever_has_the_lowest_number() {
        let waiting = socket(1, OLD, 80, false);
        let held = socket(2, OLD, 1, true);
        let survey = survey(&[waiting, held]);
        let shared = |tgid: u32| Owner {
            process: ProcessId {
                tgid,
                start_boottime_ns: tgid.into(),
            },
            is_shared: true,
            ..listens(tgid, 77, 1, false)
        };
        let established = |tgid: u32| Owner {
            socket: Socket::Other(9),
            established: Some((NAMESPACE, PORT)),
            is_shared: false,
            ..shared(tgid)
        };
        let first_and_others = |owners: &[Owner]| {
            let mut holdings = Holdings::default();
            for owner in owners {
                holdings.add(owner, &survey);
            }
            let groups = attribute(&survey, &holdings, TOOK);
            let group = groups
                .iter()
                .find(|group| group.cause == Cause::Unaccepted)
                .unwrap();
            let others: Vec<u32> = group.co_owners.iter().map(|other| other.tgid).collect();
            (group.owner.unwrap().tgid, others, group.is_one_of)
        };
        // A master with two workers, of which one has a connection; none has; both have.
        let all = [shared(10), shared(11), shared(12)];
        let mut owners = all.to_vec();
        assert_eq!(first_and_others(&owners), (12, vec![10, 11], true));
        owners.push(established(11));
        assert_eq!(first_and_others(&owners), (11, vec![], false));
        owners.push(established(12));
        owners.push(established(12));
        assert_eq!(first_and_others(&owners), (12, vec![11], false));
        assert_eq!(first_and_others(&all[..1]), (10, vec![], false));
    }

    #[test]
    fn a_proxy_has_the_other_side_of_a_connection_in_the_descriptor_beside_it() {
        let (one, two) = (socket(10, OLD, 0, true), socket(20, OLD, 0, true));
        let survey = survey(&[one, two]);
        let made = |descriptor: u32| Owner {
            socket: Socket::Other(9),
            established: Some((NAMESPACE, 40_000)),
            descriptor: Some(descriptor),
            ..holds(10, one, false)
        };
        for (others, expected) in [(vec![11, 21], 2), (vec![11], 1), (vec![15, 30], 0)] {
            let mut holdings = Holdings::default();
            for owner in [holds(10, one, false), holds(10, two, false)] {
                holdings.add(&owner, &survey);
            }
            for descriptor in others {
                holdings.add(&made(descriptor), &survey);
            }
            let service = survey.service(&one).unwrap();
            let found = holdings.other_sides(process(10), service, Cause::EofRead);
            assert_eq!(found, expected);
        }
    }
}
