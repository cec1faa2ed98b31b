//! `tp_btf/inet_sock_set_state`: every state transition of every TCP socket.
//!
//! What is due is looked up ([`Due`]), by the states before and after: what every connection goes
//! through is a few counts, and one test of that word tells whether there is more.
//!
//! The program itself holds what a connection goes through that is opened and closed in good order.
//! All else, and every record, is a function of its own that the program calls: what is not called is
//! not fetched, saves no registers and takes no stack. Such a function is handed the program's
//! context alone and finds everything again.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext as _, Global, macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpstate_common::{
    CloseReason, CpuCounters, Due, Ending, Family, NamespaceCounters, OrderlyEnd, RecordMask,
    Stage, TcpState, TimedState, TransitionKind,
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
struct Transition {
    sock: Sock,
    old: u32,
    new: u32,
}

impl Transition {
    #[inline(always)]
    fn of(ctx: &BtfTracePointContext) -> Self {
        Self {
            // SAFETY: the tracepoint's first argument is a `const struct sock *` that is never null.
            sock: unsafe { Sock::new(ctx.arg::<*const u8>(0)) },
            old: ctx.arg(1),
            new: ctx.arg(2),
        }
    }
}

#[inline(always)]
fn observe(ctx: &BtfTracePointContext) {
    let Transition { sock, old, new } = Transition::of(ctx);
    if !sock.is_tcp() {
        return;
    }
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
    let namespace = namespaces::of(sock.namespace_key());
    if let Some(namespace) = namespace {
        // SAFETY: the map gave this CPU's copy of the element, which no other CPU writes.
        unsafe { &mut *namespace }.count(family, old, new, due.left());
    } else {
        event_ring::count_untracked();
    }
    if due.has_more() {
        let live = namespace.map(|counters| (counters, family));
        go_on(ctx, sock, due, old, counters, live);
    }
    // Most sockets that end do so in good order, and nobody wants a record of a step.
    if !due.is_end() && wants(TransitionKind::Step) {
        record(ctx.as_ptr(), NO_REASON);
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
    old: u32,
    counters: &mut CpuCounters,
    live: Option<Live>,
) {
    if due.is_end() {
        let Some(reason) = end_in_order(sock, old, counters, live) else {
            end_otherwise(ctx.as_ptr());
            return;
        };
        if wants(TransitionKind::of_end(Some(reason))) {
            record(ctx.as_ptr(), reason as u64);
        }
    } else if due.is_established() {
        establish(sock, due, counters);
    } else if due.is_timed() {
        step(ctx, sock, due, counters);
    } else {
        listener(ctx.as_ptr());
    }
}

/// The state with this number ends, after how long.
#[inline(always)]
fn finish(socket: u64, state: u64, now: u64, counters: &mut CpuCounters) {
    let lasted = stopwatch::end(socket, state, now);
    counters.durations.observe(state, lasted);
}

/// The state with this number begins.
#[inline(always)]
fn begin(socket: u64, state: u64, now: u64, counters: &mut CpuCounters) {
    if stopwatch::begin(socket, state, now) {
        counters.durations.displace(state);
    }
}

#[inline(always)]
fn establish(sock: Sock, due: Due, counters: &mut CpuCounters) {
    let Some(tcp) = sock.tcp() else {
        return;
    };
    if due.is_accepted() {
        handshake::accepted(&mut counters.handshakes, tcp);
        return;
    }
    let round_trip = handshake::connected(&mut counters.handshakes, tcp);
    // Whose round trip is known, the peer's segment has established; connect() itself can
    // do so too, with TCP_REPAIR and before the kernel has looked at its clock.
    let segment = if round_trip == 0 {
        None
    } else {
        tcp.clock_ns()
    };
    let now = segment.unwrap_or_else(clock::monotonic_ns);
    finish(sock.key(), TimedState::SynSent as u64, now, counters);
}

/// The steps that connections take in good order, each by itself: what is the same every time
/// needs no branch, and one that goes this way for one step and that way for the next is foreseen
/// by no processor.
#[inline(always)]
fn step(ctx: &BtfTracePointContext, sock: Sock, due: Due, counters: &mut CpuCounters) {
    const SYN_SENT: u64 = TimedState::SynSent as u64;
    const FIN_WAIT1: u64 = TimedState::FinWait1 as u64;
    const FIN_WAIT2: u64 = TimedState::FinWait2 as u64;
    const CLOSE_WAIT: u64 = TimedState::CloseWait as u64;
    const LAST_ACK: u64 = TimedState::LastAck as u64;
    const NONE: u64 = TimedState::NOT_TIMED;
    let socket = sock.key();
    match (due.ends(), due.begins()) {
        (NONE, SYN_SENT) => begin(socket, SYN_SENT, clock::monotonic_ns(), counters),
        (NONE, FIN_WAIT1) => begin(socket, FIN_WAIT1, clock::monotonic_ns(), counters),
        (NONE, CLOSE_WAIT) => {
            let now = segment_ns(sock.tcp()).unwrap_or_else(clock::monotonic_ns);
            begin(socket, CLOSE_WAIT, now, counters);
        }
        (FIN_WAIT1, FIN_WAIT2) => {
            let now = segment_ns(sock.tcp()).unwrap_or_else(clock::monotonic_ns);
            counters.closes.fin_acknowledged(socket, now);
            let (lasted, displaced) = stopwatch::lap(socket, FIN_WAIT1, FIN_WAIT2, now);
            counters.durations.observe(FIN_WAIT1, lasted);
            if displaced {
                counters.durations.displace(FIN_WAIT2);
            }
        }
        (CLOSE_WAIT, LAST_ACK) => {
            let now = clock::monotonic_ns();
            finish(socket, CLOSE_WAIT, now, counters);
            begin(socket, LAST_ACK, now, counters);
        }
        _ => step_otherwise(ctx.as_ptr()),
    }
}

/// Any other step between states of which one is timed.
#[inline(never)]
fn step_otherwise(ctx: *mut c_void) {
    let Transition { sock, old, new } = Transition::of(&BtfTracePointContext::new(ctx));
    let Some(counters) = counters::of_this_cpu() else {
        return;
    };
    let (socket, due) = (sock.key(), Due::of(old, new));
    let segment = if due.is_by_segment() {
        segment_ns(sock.tcp())
    } else {
        None
    };
    let now = segment.unwrap_or_else(clock::monotonic_ns);
    if due.ends() != TimedState::NOT_TIMED {
        finish(socket, due.ends(), now, counters);
    }
    if due.begins() != TimedState::NOT_TIMED {
        begin(socket, due.begins(), now, counters);
    }
}

/// A connection ends in the segment that completes it, or goes over to a minisocket. `None` where
/// it is neither, or more is to be known of it; then nothing was done.
#[inline(always)]
fn end_in_order(
    sock: Sock,
    old: u32,
    counters: &mut CpuCounters,
    live: Option<Live>,
) -> Option<CloseReason> {
    let socket = sock.key();
    // A reset was sent right before, which the other function forgets.
    if counters.closes.reset_ahead_socket == socket {
        return None;
    }
    if old == TcpState::LastAck as u32 {
        let tcp = sock.tcp()?;
        if !tcp.is_all_acknowledged() {
            return None;
        }
        let now = tcp.clock_ns().unwrap_or_else(clock::monotonic_ns);
        finish(socket, TimedState::LastAck as u64, now, counters);
        return Some(
            counters
                .closes
                .end_in_order(socket, OrderlyEnd::ClosedSecond),
        );
    }
    if old != TcpState::FinWait2 as u32 {
        return None;
    }
    let end = if sock.fin_received() {
        OrderlyEnd::ClosedFirst
    } else if sock.is_orphan() && sock.error() == 0 {
        OrderlyEnd::HandedOver
    } else {
        return None;
    };
    let segment = segment_ns(sock.tcp());
    let now = segment.unwrap_or_else(clock::monotonic_ns);
    let mut lasted = stopwatch::end(socket, TimedState::FinWait2 as u64, now);
    let has_fin_come = !end.is_handed_over();
    if let Some(segment) = segment
        && counters
            .closes
            .fin_wait2_left(socket, segment, has_fin_come)
    {
        lasted = 0;
    }
    // Until it is handed over says nothing of the peer.
    if has_fin_come {
        counters
            .durations
            .observe(TimedState::FinWait2 as u64, lasted);
    }
    if let Some((live, family)) = live {
        // SAFETY: the map gave this CPU's copy of the element, which no other CPU writes.
        unsafe { &mut *live }.leave_to_minisocket(family, end);
    }
    Some(counters.closes.end_in_order(socket, end))
}

/// A connection ends, in whichever way.
#[inline(never)]
fn end_otherwise(ctx: *mut c_void) {
    let ctx = &BtfTracePointContext::new(ctx);
    let Transition { sock, old, new } = Transition::of(ctx);
    let Some(counters) = counters::of_this_cpu() else {
        return;
    };
    let Some(state) = state(old) else {
        return;
    };
    let socket = sock.key();
    // It is of the socket that ends next; another may come to the same place.
    let is_reset_ahead = counters.closes.reset_ahead_socket == socket;
    if is_reset_ahead {
        counters.closes.reset_ahead_socket = 0;
    }
    let ended = EndedSocket::new(sock, state, is_reset_ahead);
    let Some(open) = Stage::of(state, &ended) else {
        return;
    };
    let ending = Ending::new(open, sock.error());
    let due = Due::of(old, new);
    if due.is_timed() {
        let tcp = match state {
            TcpState::FinWait2 => sock.tcp(),
            _ => ended.tcp,
        };
        leave(socket, due, tcp, ending, counters);
    }
    if let Some(family) = sock.family()
        && let Some(live) = namespaces::of(sock.namespace_key())
    {
        // SAFETY: the map gave this CPU's copy of the element, which no other CPU writes.
        unsafe { &mut *live }.hand_over(family, ending);
    }
    let reason = counters.closes.end(socket, ending);
    if wants(TransitionKind::of_end(Some(reason))) {
        record(ctx.as_ptr(), reason as u64);
    }
}

/// A timed state ends with the connection. What a segment completes is dated by it, and all else by
/// the clock: it comes of a system call or of a timer, or may do so.
#[inline(always)]
fn leave(socket: u64, due: Due, tcp: Option<TcpSock>, ending: Ending, counters: &mut CpuCounters) {
    if due.ends() == TimedState::FinWait2 as u64 {
        let segment = segment_ns(tcp);
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
        segment_ns(tcp)
    } else {
        None
    };
    let now = segment.unwrap_or_else(clock::monotonic_ns);
    let lasted = stopwatch::end(socket, due.ends(), now);
    counters.durations.observe(due.ends(), lasted);
}

/// A socket begins to listen, or ceases to.
#[inline(never)]
fn listener(ctx: *mut c_void) {
    let Transition { sock, new, .. } = Transition::of(&BtfTracePointContext::new(ctx));
    if new == TcpState::Close as u32 {
        synack::forget(sock.identity());
    }
}

/// What [`record`] is told where no connection has ended.
const NO_REASON: u64 = u64::MAX;

/// Puts a record of the transition into the ring, with the number of the reason for an end.
#[inline(never)]
fn record(ctx: *mut c_void, reason: u64) {
    let ctx = &BtfTracePointContext::new(ctx);
    let Transition { sock, old, new } = Transition::of(ctx);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "no reason has such a number"
    )]
    let reason = CloseReason::from_number(reason as u8);
    records::record(ctx, sock, (old, new), reason);
}

/// Whether a record of such a transition is wanted.
#[inline(always)]
fn wants(kind: TransitionKind) -> bool {
    RecordMask::from_bits(RECORD_MASK.load()).wants(kind)
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
