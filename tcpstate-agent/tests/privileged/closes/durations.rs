//! How long sockets stay in each state, by a peer that keeps them there.

use std::{
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use tcpstate_common::{Durations, STATE_BOUNDS_NS, TimedState};

use super::{FAMILIES, SOON, Seen};
use crate::{
    harness::{Netns, require, within},
    peer::{Connection, Peer},
};

/// How long a socket is left in its state; nothing else on the host is likely to be for so long.
const STAY: Duration = Duration::from_millis(400);

/// What was measured of one state.
#[derive(Clone, Copy)]
struct Measured {
    state: TimedState,
    before: Durations,
}

impl Measured {
    fn begin(seen: &Seen, state: TimedState) -> Self {
        let before = seen.durations().of[state.slot()];
        Self { state, before }
    }

    /// Waits until one has been measured that lasted at least [`STAY`] and at most this long; the
    /// state was entered at `begun`.
    fn expect(self, seen: &Seen, begun: Instant) {
        let at_most = begun.elapsed();
        // The bucket that STAY is in, and those above.
        let bounds = STATE_BOUNDS_NS;
        let first = bounds.partition_point(|bound| u128::from(*bound) < STAY.as_nanos());
        within(SOON, || {
            let after = seen.durations().of[self.state.slot()];
            let long = |durations: &Durations| durations.count[first..].iter().sum::<u64>();
            let rose = long(&after) - long(&self.before);
            require(rose > 0, format!("{:?}: none", self.state))?;
            if after.observed() - self.before.observed() == 1 {
                let measured = Duration::from_nanos(after.sum_ns - self.before.sum_ns);
                assert!(
                    (STAY..=at_most).contains(&measured),
                    "{:?}: {measured:?} of at most {at_most:?}",
                    self.state
                );
            }
            Ok(())
        });
    }
}

#[test]
fn each_state_lasts_for_as_long_as_its_socket_is_kept_in_it() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let family = FAMILIES[1];
    let stay = |state| {
        let measured = Measured::begin(&seen, state);
        let begun = Instant::now();
        (measured, begun)
    };
    namespace.enter(|| {
        let wait = || thread::sleep(STAY + Duration::from_millis(20));
        let shut = |peer: &mut Peer, port| -> (socket2::Socket, Connection) {
            let (socket, connection) = family.connected(peer, port);
            socket.shutdown(Shutdown::Write).unwrap();
            peer.await_fin(&connection);
            (socket, connection)
        };

        let (measured, begun) = stay(TimedState::SynSent);
        let _socket = family.connecting(3961);
        wait();
        peer.accept(family.peer(3961), family.kernel(3961));
        measured.expect(&seen, begun);

        let (measured, begun) = stay(TimedState::FinWait1);
        let (_socket, mut connection) = shut(&mut peer, 3962);
        wait();
        peer.acknowledge_fin(&mut connection);
        measured.expect(&seen, begun);

        let (measured, begun) = stay(TimedState::FinWait2);
        let (_socket, mut connection) = shut(&mut peer, 3963);
        peer.acknowledge_fin(&mut connection);
        wait();
        peer.close(&mut connection);
        measured.expect(&seen, begun);

        let (measured, begun) = stay(TimedState::Closing);
        let (_socket, mut connection) = shut(&mut peer, 3964);
        peer.close(&mut connection);
        wait();
        peer.acknowledge_fin(&mut connection);
        measured.expect(&seen, begun);

        let (measured, begun) = stay(TimedState::CloseWait);
        let (measured_next, _) = stay(TimedState::LastAck);
        let (socket, mut connection) = family.connected(&mut peer, 3965);
        peer.close(&mut connection);
        wait();
        peer.receive(&connection, |segment| segment.acknowledgment.is_some());
        drop(socket);
        peer.await_fin(&connection);
        measured.expect(&seen, begun);

        wait();
        peer.acknowledge_fin(&mut connection);
        measured_next.expect(&seen, begun);
    });
}

#[test]
fn what_ends_fin_wait2_without_the_peers_fin_says_nothing_of_the_peer() {
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let seen = Seen::new();
    let measured = Measured::begin(&seen, TimedState::FinWait2);
    let orphaned_before = seen.closes().fin_wait2_orphaned;
    namespace.enter(|| {
        let (socket, mut connection) = FAMILIES[0].connected(&mut peer, 3971);
        socket.shutdown(Shutdown::Write).unwrap();
        peer.await_fin(&connection);
        peer.acknowledge_fin(&mut connection);
        thread::sleep(STAY * 2);
        // A minisocket takes over.
        drop(socket);
    });
    within(SOON, || {
        let orphaned = seen.closes().fin_wait2_orphaned - orphaned_before;
        require(orphaned >= 1, "not yet")
    });
    let after = seen.durations().of[TimedState::FinWait2.slot()];
    // The bucket of a second.
    assert_eq!(after.count[8], measured.before.count[8]);
}
