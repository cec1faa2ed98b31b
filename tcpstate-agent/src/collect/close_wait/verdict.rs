//! What is wrong with a group of sockets: finer than the cause, which says only what each socket
//! shows.
//!
//! [`Verdict::of`] is a pure function over [`Facts`], and the only place where this is decided.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cause, Role};
use crate::host::process::RunState;

/// A goodbye is no longer than this: a close_notify of TLS has 24 or 31 bytes, the FATAL message of
/// PostgreSQL some 116.
const GOODBYE: u32 = 512;
/// Goodbyes that are this short need not be equal.
const SHORT_GOODBYE: u32 = 64;
/// So much is not read of a stream whose reader has stopped: the window is full. A response that is
/// forgotten is mostly shorter, or its FIN does not come through.
const FULL_WINDOW: u32 = 48 * 1024;
/// A request whose client has gone may take that long.
const REQUEST: Duration = Duration::from_mins(1);

/// What is wrong with a group of sockets, most likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The process cannot run.
    Stopped,
    /// Nothing can be accepted for want of descriptors.
    DescriptorsExhausted,
    /// Clients gave up before the process came to them: it accepts, and too slowly.
    QueueOfDead,
    /// The process accepts nothing.
    BlockedAccept,
    /// A child of the server has the sockets by inheritance.
    Inherited,
    /// The server has stopped listening and waits for its connections to end.
    Draining,
    /// The peers do not take what is sent to them.
    SendBlocked,
    /// The process still answers peers that have closed their side.
    HalfClose,
    /// A proxy waits for the other side of its connections.
    ProxyWaits,
    /// The process is at work for clients that have gone.
    InService,
    /// A pool of connections whose servers have closed them.
    IdlePool,
    /// Responses that nobody reads to their end or closes.
    UnreadResponse,
    /// Whoever should read has stopped.
    StuckConsumer,
    /// Descriptors leak.
    Leak,
    /// This side has closed, and the peer does not.
    FinWait2Held,
    /// Connections that nobody answers.
    Connecting,
    /// None of these can be told.
    Other,
}

/// What is known of a group that tells why its sockets stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Something listens on the port of the service.
    pub is_listened: bool,
    /// They become more, steadily.
    pub is_growing: bool,
    /// Data that was not read, in bytes: of the socket with least, and of that with most.
    pub least_unread_bytes: u32,
    /// The same.
    pub most_unread_bytes: u32,
    /// Sockets whose last data came together with the FIN, and others. Of the rest it is not known.
    pub ended_with_data: u64,
    /// The same.
    pub ended_after_data: u64,
    /// Sockets with data that is not acknowledged.
    pub unacknowledged_sockets: u64,
    /// Sockets on which the process has sent something since the peer closed, in the last minute.
    pub answered_sockets: u64,
    /// Of those that were not accepted: the process accepts others meanwhile. `None` where that is
    /// not known.
    pub accepts: Option<bool>,
    /// Of those that were not accepted: how many wait with them whose peers have not closed.
    pub waiting_alive: u64,
    /// Of those that were not accepted: it is not known which of the processes that hold the listening
    /// socket accepts.
    pub is_one_of: bool,
    /// What is known of the process that holds them, or should accept them.
    pub holder: Option<HolderFacts>,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and readers of JSON see them by name"
)]
pub struct HolderFacts {
    /// What keeps it from going on.
    pub run_state: RunState,
    /// It cannot open anything more.
    pub is_out_of_descriptors: bool,
    /// It holds a socket that listens on the port.
    pub listens: bool,
    /// It has the name of one that does, or is one.
    pub is_kin_of_listener: bool,
    /// It leaves what this service answers unread on other connections.
    pub leaves_responses: bool,
    /// It was told, once, that something has come on the oldest of them (an edge-triggered epoll), and
    /// has not read it. Only `diagnose` looks, as root.
    #[serde(default)]
    pub is_told_once: bool,
    /// It accepts nothing of what waits on the port.
    #[serde(default)]
    pub is_blocked: bool,
    /// Sockets of the group that have another side in the same process: it is a proxy.
    pub other_sides: u64,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 17] = [
        Self::Stopped,
        Self::DescriptorsExhausted,
        Self::QueueOfDead,
        Self::BlockedAccept,
        Self::Inherited,
        Self::Draining,
        Self::SendBlocked,
        Self::HalfClose,
        Self::ProxyWaits,
        Self::InService,
        Self::IdlePool,
        Self::UnreadResponse,
        Self::StuckConsumer,
        Self::Leak,
        Self::FinWait2Held,
        Self::Connecting,
        Self::Other,
    ];

    /// The name in metrics and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::DescriptorsExhausted => "descriptors_exhausted",
            Self::QueueOfDead => "queue_of_dead",
            Self::BlockedAccept => "blocked_accept",
            Self::Inherited => "inherited",
            Self::Draining => "draining",
            Self::SendBlocked => "send_blocked",
            Self::HalfClose => "half_close",
            Self::ProxyWaits => "proxy_waits",
            Self::InService => "in_service",
            Self::IdlePool => "idle_pool",
            Self::UnreadResponse => "unread_response",
            Self::StuckConsumer => "stuck_consumer",
            Self::Leak => "leak",
            Self::FinWait2Held => "fin_wait2_held",
            Self::Connecting => "connecting",
            Self::Other => "other",
        }
    }

    /// What is wrong with `sockets` in CLOSE_WAIT of which the oldest is as old as that.
    #[must_use]
    pub fn of(role: Role, cause: Cause, sockets: u64, oldest: Duration, facts: &Facts) -> Self {
        let Some(holder) = &facts.holder else {
            return Self::Other;
        };
        if holder.run_state != RunState::Runs {
            return Self::Stopped;
        }
        if cause == Cause::Unaccepted {
            return match facts.accepts {
                _ if holder.is_out_of_descriptors => Self::DescriptorsExhausted,
                Some(true) => Self::QueueOfDead,
                Some(false) | None => Self::BlockedAccept,
            };
        }
        if role == Role::Server && facts.is_listened && !holder.is_kin_of_listener {
            return Self::Inherited;
        }
        if role == Role::Server && !facts.is_listened {
            return Self::Draining;
        }
        let are_most = |some: u64| some > 0 && some * 2 >= sockets;
        if are_most(facts.answered_sockets)
            && facts.answered_sockets >= facts.unacknowledged_sockets
        {
            return Self::HalfClose;
        }
        if cause == Cause::Sending || are_most(facts.unacknowledged_sockets) {
            return Self::SendBlocked;
        }
        if cause == Cause::EofRead && are_most(holder.other_sides) {
            return Self::ProxyWaits;
        }
        match role {
            Role::Client => Self::of_client(cause, facts, *holder),
            Role::Server => Self::of_server(cause, sockets, oldest, facts, *holder),
        }
    }

    const fn of_client(cause: Cause, facts: &Facts, holder: HolderFacts) -> Self {
        match cause {
            Cause::EofRead | Cause::Unaccepted | Cause::Sending => Self::Leak,
            _ if facts.is_growing || holder.leaves_responses => Self::UnreadResponse,
            Cause::DataUnread if facts.most_unread_bytes >= FULL_WINDOW => Self::StuckConsumer,
            // Who waits for a server to close idle connections reads that it has.
            _ if holder.is_told_once => Self::UnreadResponse,
            Cause::FinUnread => Self::IdlePool,
            Cause::DataUnread if facts.is_goodbye() => Self::IdlePool,
            Cause::DataUnread => Self::UnreadResponse,
        }
    }

    fn of_server(
        cause: Cause,
        sockets: u64,
        oldest: Duration,
        facts: &Facts,
        holder: HolderFacts,
    ) -> Self {
        // One process for each connection, or each request. Where the FIN came with the request, it is
        // read with it.
        let is_for_one =
            sockets == 1 && (!holder.listens || cause != Cause::EofRead || holder.is_blocked);
        // It has read its request, and not since.
        let is_young = cause == Cause::FinUnread && oldest < REQUEST && !facts.is_growing;
        match cause {
            _ if is_for_one || is_young => Self::InService,
            Cause::EofRead => Self::Leak,
            _ => Self::StuckConsumer,
        }
    }

    /// Whether what the threads do now tells why the sockets stay. Of a leak it does not: they have
    /// gone on.
    #[must_use]
    pub const fn comes_of_waiting(self) -> bool {
        matches!(
            self,
            Self::QueueOfDead
                | Self::BlockedAccept
                | Self::SendBlocked
                | Self::InService
                | Self::StuckConsumer
        )
    }
}

impl Facts {
    /// Whether what was not read is what servers say before they close.
    const fn is_goodbye(&self) -> bool {
        let (least, most) = (self.least_unread_bytes, self.most_unread_bytes);
        let is_alike = least == most || most <= SHORT_GOODBYE;
        is_alike && most <= GOODBYE && self.ended_after_data == 0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A server that holds its listener, and of whose sockets nothing else is known.
    pub(crate) fn facts() -> Facts {
        Facts {
            is_listened: true,
            is_growing: false,
            least_unread_bytes: 0,
            most_unread_bytes: 0,
            ended_with_data: 0,
            ended_after_data: 0,
            unacknowledged_sockets: 0,
            answered_sockets: 0,
            accepts: None,
            waiting_alive: 0,
            is_one_of: false,
            holder: Some(HolderFacts {
                listens: true,
                is_kin_of_listener: true,
                ..HolderFacts::default()
            }),
        }
    }

    type Change = fn(&mut Facts, &mut HolderFacts);

    fn verdict(role: Role, cause: Cause, sockets: u64, seconds: u64, change: Change) -> Verdict {
        let mut facts = facts();
        let mut holder = facts.holder.unwrap();
        change(&mut facts, &mut holder);
        facts.holder = facts.holder.map(|_| holder);
        Verdict::of(role, cause, sockets, Duration::from_secs(seconds), &facts)
    }

    const CLIENT: Role = Role::Client;
    const SERVER: Role = Role::Server;

    #[test]
    fn a_client_has_a_pool_or_leaves_responses_or_leaks() {
        let unread: Change = |_, _| {};
        for (cause, change, expected) in [
            (Cause::FinUnread, unread, Verdict::IdlePool),
            (
                Cause::FinUnread,
                |facts, _| facts.is_growing = true,
                Verdict::UnreadResponse,
            ),
            (
                Cause::FinUnread,
                |_, holder| holder.leaves_responses = true,
                Verdict::UnreadResponse,
            ),
            // As Go has it that forgets bodies, in one burst.
            (
                Cause::FinUnread,
                |_, holder| holder.is_told_once = true,
                Verdict::UnreadResponse,
            ),
            (
                Cause::DataUnread,
                |facts, holder| {
                    between(facts, 65_536, 65_536);
                    holder.is_told_once = true;
                },
                Verdict::StuckConsumer,
            ),
            // close_notify of TLS 1.2 and 1.3; FATAL of PostgreSQL.
            (
                Cause::DataUnread,
                |facts, _| between(facts, 31, 31),
                Verdict::IdlePool,
            ),
            (
                Cause::DataUnread,
                |facts, _| between(facts, 24, 31),
                Verdict::IdlePool,
            ),
            (
                Cause::DataUnread,
                |facts, _| between(facts, 116, 116),
                Verdict::IdlePool,
            ),
            // The same, and it has come long before.
            (
                Cause::DataUnread,
                |facts, _| {
                    between(facts, 116, 116);
                    facts.ended_after_data = 1;
                },
                Verdict::UnreadResponse,
            ),
            (
                Cause::DataUnread,
                |facts, _| {
                    between(facts, 31, 31);
                    facts.is_growing = true;
                },
                Verdict::UnreadResponse,
            ),
            (
                Cause::DataUnread,
                |facts, _| between(facts, 90, 400),
                Verdict::UnreadResponse,
            ),
            (
                Cause::DataUnread,
                |facts, _| between(facts, 3_000, 3_000),
                Verdict::UnreadResponse,
            ),
            (
                Cause::DataUnread,
                |facts, _| between(facts, 1, 65_000),
                Verdict::StuckConsumer,
            ),
            (Cause::EofRead, unread, Verdict::Leak),
            (
                Cause::EofRead,
                |_, holder| holder.other_sides = 20,
                Verdict::ProxyWaits,
            ),
            (
                Cause::EofRead,
                |_, holder| holder.other_sides = 3,
                Verdict::Leak,
            ),
        ] {
            let found = verdict(CLIENT, cause, 20, 3_600, change);
            assert_eq!(found, expected, "{cause:?}");
        }
    }

    fn between(facts: &mut Facts, least: u32, most: u32) {
        facts.least_unread_bytes = least;
        facts.most_unread_bytes = most;
    }

    #[test]
    fn a_server_works_or_is_stuck_or_leaks() {
        let usual: Change = |_, _| {};
        let growing: Change = |facts, _| facts.is_growing = true;
        let backend: Change = |_, holder| holder.listens = false;
        let blocked: Change = |_, holder| holder.is_blocked = true;
        for (cause, sockets, seconds, change, expected) in [
            (Cause::EofRead, 100, 3_600, usual, Verdict::Leak),
            (Cause::EofRead, 1, 3_600, usual, Verdict::Leak),
            (Cause::EofRead, 100, 5, usual, Verdict::Leak),
            (Cause::DataUnread, 8, 5, usual, Verdict::StuckConsumer),
            (Cause::EofRead, 100, 5, growing, Verdict::Leak),
            // One process for each connection, as PostgreSQL has.
            (Cause::EofRead, 1, 3_600, backend, Verdict::InService),
            // One worker for each request, as gunicorn and php-fpm have. Where nothing is accepted, it is
            // at work on what it has accepted, though it has read the FIN.
            (Cause::EofRead, 1, 3_600, blocked, Verdict::InService),
            (Cause::EofRead, 8, 3_600, blocked, Verdict::Leak),
            (Cause::FinUnread, 1, 3_600, usual, Verdict::InService),
            (Cause::DataUnread, 1, 3_600, usual, Verdict::InService),
            (Cause::FinUnread, 8, 3_600, usual, Verdict::StuckConsumer),
            (Cause::DataUnread, 8, 3_600, usual, Verdict::StuckConsumer),
            (Cause::FinUnread, 8, 30, usual, Verdict::InService),
            (Cause::FinUnread, 8, 30, growing, Verdict::StuckConsumer),
            (
                Cause::EofRead,
                8,
                3_600,
                |_, holder| holder.other_sides = 8,
                Verdict::ProxyWaits,
            ),
        ] {
            let found = verdict(SERVER, cause, sockets, seconds, change);
            assert_eq!(found, expected, "{cause:?} {sockets} {seconds}");
        }
    }

    #[test]
    fn who_sends_is_blocked_or_answers() {
        for (cause, unacknowledged, answered, expected) in [
            (Cause::Sending, 8, 0, Verdict::SendBlocked),
            (Cause::FinUnread, 8, 0, Verdict::SendBlocked),
            (Cause::FinUnread, 4, 0, Verdict::SendBlocked),
            (Cause::FinUnread, 3, 0, Verdict::StuckConsumer),
            (Cause::Sending, 8, 8, Verdict::HalfClose),
            (Cause::EofRead, 0, 8, Verdict::HalfClose),
            (Cause::EofRead, 0, 3, Verdict::Leak),
        ] {
            let facts = Facts {
                unacknowledged_sockets: unacknowledged,
                answered_sockets: answered,
                ..facts()
            };
            let found = Verdict::of(SERVER, cause, 8, Duration::from_hours(1), &facts);
            assert_eq!(found, expected, "{cause:?} {unacknowledged} {answered}");
        }
    }

    #[test]
    fn who_does_not_accept_is_blocked_or_slow_or_out_of_descriptors() {
        for (change, expected) in [
            ((|_, _| {}) as Change, Verdict::BlockedAccept),
            (
                |facts, _| facts.accepts = Some(false),
                Verdict::BlockedAccept,
            ),
            (|facts, _| facts.accepts = Some(true), Verdict::QueueOfDead),
            (
                |_, holder| holder.is_out_of_descriptors = true,
                Verdict::DescriptorsExhausted,
            ),
            (
                |_, holder| holder.run_state = RunState::Stopped,
                Verdict::Stopped,
            ),
            (|facts, _| facts.holder = None, Verdict::Other),
        ] {
            let found = verdict(SERVER, Cause::Unaccepted, 18, 60, change);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn whose_server_it_is_comes_before_what_its_sockets_show() {
        for cause in [
            Cause::FinUnread,
            Cause::DataUnread,
            Cause::EofRead,
            Cause::Sending,
        ] {
            for (change, expected) in [
                (
                    (|_, holder| *holder = HolderFacts::default()) as Change,
                    Verdict::Inherited,
                ),
                (|facts, _| facts.is_listened = false, Verdict::Draining),
                (
                    |facts, holder| {
                        facts.is_listened = false;
                        holder.run_state = RunState::Uninterruptible;
                    },
                    Verdict::Stopped,
                ),
            ] {
                assert_eq!(
                    verdict(SERVER, cause, 6, 600, change),
                    expected,
                    "{cause:?}"
                );
                // A client has no listener.
                let of_client = verdict(CLIENT, cause, 6, 600, change);
                assert!(![Verdict::Inherited, Verdict::Draining].contains(&of_client));
            }
        }
    }

    #[test]
    fn names_are_those_of_the_json() {
        for verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.name());
        }
    }

    proptest! {
        /// What leaks gets no advice for pools, and the other way round.
        #[test]
        fn growth_is_no_pool(
            cause in prop::sample::select(Cause::ALL.to_vec()),
            sockets in 1..1_000_u64,
            seconds in 0..1_000_000_u64,
            least in any::<u32>(),
            more in 0..10_000_u32,
        ) {
            let facts = Facts {
                is_growing: true,
                least_unread_bytes: least,
                most_unread_bytes: least.saturating_add(more),
                ..facts()
            };
            for role in [CLIENT, SERVER] {
                let found = Verdict::of(role, cause, sockets, Duration::from_secs(seconds), &facts);
                prop_assert_ne!(found, Verdict::IdlePool);
                prop_assert!(role == CLIENT || found != Verdict::UnreadResponse);
            }
        }
    }
}
