//! `tp_btf/inet_sock_set_state`: every state transition of every TCP socket.
//!
//! What is due is looked up ([`Due`]), by the states before and after: what every connection goes
//! through is a few counts, and one test of that word tells whether there is more. Each kind of more
//! has a function for the reader; the compiler puts all of them into one program.

use aya_ebpf::{Global, macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpstate_common::{
    CpuCounters, Due, Ending, Family, NamespaceCounters, RecordMask, Stage, TcpState, TimedState,
    TransitionKind,
};

use crate::{
    clock, counters,
    ends::EndedSocket,
    event_ring, handshake,
    kernel::{Sock, TcpSock},
    namespaces, records, stopwatch, synack,
};

/// Which kinds of transition get a record, a [`RecordMask`].
#[unsafe(no_mangle)]
static RECORD_MASK: Global<u8> = Global::new(RecordMask::ABNORMAL_ENDS.bits());

#[btf_tracepoint(function = "inet_sock_set_state")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn tcp_transition(ctx: BtfTracePointContext) -> i32 {
    observe(&ctx);
    0
}

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`, see
/// [`include/trace/events/sock.h`](https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sock.h).
#[inline(always)]
fn observe(ctx: &BtfTracePointContext) {
    // SAFETY: the tracepoint's first argument is a `const struct sock *` that is never null.
    let sock = unsafe { Sock::new(ctx.arg::<*const u8>(0)) };
    if !sock.is_tcp() {
        return;
    }
    let (old, new) = (ctx.arg::<u32>(1), ctx.arg::<u32>(2));
    let due = Due::of(old, new);
    if !due.is_transition() {
        if due.is_unknown() {
            event_ring::count_unknown_state();
        }
        return;
    }
    let Some(family) = sock.family() else {
        event_ring::count_unknown_state();
        return;
    };
    let Some(counters) = counters::of_this_cpu() else {
        return;
    };
    counters.transitions.record(due);
    let namespace = namespaces::of(&mut counters.live_slots, sock.namespace());
    if let Some(namespace) = namespace {
        // SAFETY: the map gave this CPU's copy of the element, which no other CPU writes.
        unsafe { &mut *namespace }.count(family, old, new, due.left());
    } else {
        event_ring::count_untracked();
    }
    if due.has_more() {
        let live = namespace.map(|counters| (counters, family));
        go_on(ctx, sock, due, (old, new), counters, live);
    }
    // Most sockets that end do so in good order, and nobody wants a record of a step.
    if !due.is_end() && RecordMask::from_bits(RECORD_MASK.load()).wants(TransitionKind::Step) {
        records::record(ctx, sock, (old, new), None);
    }
}

/// The live counters of the socket's namespace, and the part of them that counts.
type Live = (*mut NamespaceCounters, Family);

/// What is due besides counting the transition.
#[inline(always)]
fn go_on(
    ctx: &BtfTracePointContext,
    sock: Sock,
    due: Due,
    (old, new): (u32, u32),
    counters: &mut CpuCounters,
    live: Option<Live>,
) {
    if due.is_end() {
        end(ctx, sock, due, old, counters, live);
    } else if due.is_established() {
        let Some(tcp) = sock.tcp() else {
            return;
        };
        let round_trip = handshake::observe(&mut counters.handshakes, tcp, due.is_accepted());
        if due.is_timed() {
            // Whose round trip is known, the peer's segment has established; connect() itself can
            // do so too, with TCP_REPAIR and before the kernel has looked at its clock.
            let segment = if round_trip == 0 {
                None
            } else {
                tcp.clock_ns()
            };
            let now = segment.unwrap_or_else(clock::monotonic_ns);
            let lasted = stopwatch::end(sock.key(), due.ends(), now);
            counters.durations.observe(due.ends(), lasted);
        }
    } else if due.is_timed() {
        step(sock, due, counters);
    } else if due.is_listener() {
        if new == TcpState::Close as u32 {
            synack::forget(sock.identity());
        }
    }
}

/// From one state to another, of which at least one is timed.
#[inline(always)]
fn step(sock: Sock, due: Due, counters: &mut CpuCounters) {
    let socket = sock.key();
    let now = if due.is_by_segment() {
        segment_ns(sock.tcp())
    } else {
        None
    };
    if due.is_lap() {
        let now = now.unwrap_or_else(clock::monotonic_ns);
        if due.begins() == TimedState::FinWait2 as u64 {
            counters.closes.fin_acknowledged(socket, now);
        }
        let (lasted, displaced) = stopwatch::lap(socket, now);
        counters.durations.observe(due.ends(), lasted);
        if displaced {
            counters.durations.displace(due.begins());
        }
        return;
    }
    let now = now.unwrap_or_else(clock::monotonic_ns);
    if due.ends() != TimedState::NOT_TIMED {
        let lasted = stopwatch::end(socket, due.ends(), now);
        counters.durations.observe(due.ends(), lasted);
    }
    if due.begins() != TimedState::NOT_TIMED && stopwatch::begin(socket, due.begins(), now) {
        counters.durations.displace(due.begins());
    }
}

/// A connection ends.
#[inline(always)]
fn end(
    ctx: &BtfTracePointContext,
    sock: Sock,
    due: Due,
    old: u32,
    counters: &mut CpuCounters,
    live: Option<Live>,
) {
    let Some(old) = state(old) else {
        return;
    };
    let socket = sock.key();
    // It is of the socket that ends next; another may come to the same place.
    let is_reset_ahead = counters.closes.reset_ahead_socket == socket;
    if is_reset_ahead {
        counters.closes.reset_ahead_socket = 0;
    }
    let ended = EndedSocket::new(sock, old, is_reset_ahead);
    let Some(stage) = Stage::of(old, &ended) else {
        return;
    };
    let ending = Ending::new(stage, sock.error());
    if due.is_timed() {
        leave(sock, socket, due, &ended, ending, counters);
    }
    if let Some((live, family)) = live {
        // SAFETY: the map gave this CPU's copy of the element, which no other CPU writes.
        unsafe { &mut *live }.hand_over(family, ending);
    }
    let reason = counters.closes.end(socket, ending);
    let kind = TransitionKind::of_end(Some(reason));
    if RecordMask::from_bits(RECORD_MASK.load()).wants(kind) {
        let states = (old as u32, TcpState::Close as u32);
        records::record(ctx, sock, states, Some(reason));
    }
}

/// A timed state ends with the connection. What a segment completes is dated by it, and all else by
/// the clock: it comes of a system call or of a timer, or may do so.
#[inline(always)]
fn leave(
    sock: Sock,
    socket: u64,
    due: Due,
    ended: &EndedSocket,
    ending: Ending,
    counters: &mut CpuCounters,
) {
    if due.ends() == TimedState::FinWait2 as u64 {
        let segment = segment_ns(sock.tcp());
        // What else ends it, or takes it over, says nothing of the peer.
        let now = segment.unwrap_or_else(clock::monotonic_ns);
        let mut lasted = stopwatch::end(socket, due.ends(), now);
        if ending.is_handed_over() || ending.is(Stage::ClosedFirst) {
            let has_fin_come = ending.is(Stage::ClosedFirst);
            if let Some(segment) = segment
                && counters
                    .closes
                    .fin_wait2_left(socket, segment, has_fin_come)
            {
                lasted = 0;
            }
        }
        if ending.is(Stage::ClosedFirst) {
            counters.durations.observe(due.ends(), lasted);
        }
        return;
    }
    let segment = if ending.is(Stage::ClosedSecond) || ending.is(Stage::ClosedAtOnce) {
        segment_ns(ended.tcp)
    } else {
        None
    };
    let now = segment.unwrap_or_else(clock::monotonic_ns);
    let lasted = stopwatch::end(socket, due.ends(), now);
    counters.durations.observe(due.ends(), lasted);
}

/// When the kernel began with the segment that it is at, where it keeps that. It costs a quarter of
/// asking the clock.
#[inline(always)]
fn segment_ns(tcp: Option<TcpSock>) -> Option<u64> {
    tcp.and_then(TcpSock::clock_ns)
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "it is in the table of pairs"
)]
fn state(raw: u32) -> Option<TcpState> {
    TcpState::from_kernel(raw as u8)
}
