//! `tp_btf/inet_sock_set_state`: every state transition of every TCP socket.

use aya_ebpf::{Global, macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::{debug, warn};
use tcpstate_common::{
    CloseReason, CpuCounters, Family, NamespaceCounters, RecordMask, TcpState, TimedState,
    TransitionKind, TransitionRecord,
};

use crate::{
    clock, counters, ends,
    event_ring::{self, RingFull},
    handshake,
    kernel::{Caller, Sock, TcpSock},
    namespaces, stopwatch, synack,
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
    if old == new {
        // close() after shutdown() sets the state it already has: no transition.
        return;
    }
    let (Some(old), Some(new)) = (state(old), state(new)) else {
        event_ring::count_unknown_state();
        warn!(ctx, "transition {} to {}: no such TCP state", old, new);
        return;
    };
    let Some(family) = sock.family() else {
        event_ring::count_unknown_state();
        warn!(ctx, "TCP socket of an unknown address family");
        return;
    };

    let Some(counters) = counters::of_this_cpu() else {
        return;
    };
    counters.transitions.record(old, new);
    let namespace = sock.namespace();
    let counted = namespaces::update(&mut counters.live_slots, namespace, |counters| {
        counters.record(family, old, new);
        if matches!(new, TcpState::Close) {
            count_hand_over(counters, sock, family, old);
        }
    });
    if !counted {
        event_ring::count_untracked();
        debug!(ctx, "namespace {} has no live counters", namespace);
    }

    handshake::observe(&mut counters.handshakes, sock, old, new);
    if matches!((old, new), (TcpState::Listen, TcpState::Close)) {
        synack::forget(sock.identity());
    }
    let error = sock.error();
    let reason = follow(counters, sock, old, new, error);
    if RecordMask::from_bits(RECORD_MASK.load()).wants(TransitionKind::of(old, new, error)) {
        record(ctx, sock, namespace, family, (old, new), error, reason);
    }
}

/// Takes note of how long the state lasted that ends and, where the connection ends, how.
#[inline(always)]
fn follow(
    counters: &mut CpuCounters,
    sock: Sock,
    old: TcpState,
    new: TcpState,
    error: i32,
) -> Option<CloseReason> {
    let socket = sock.key();
    let (ends, begins) = (TimedState::number_of(old), TimedState::number_of(new));
    let (mut has_fin_come, mut is_cut_off) = (false, false);
    if ends & begins != TimedState::NOT_TIMED {
        let now = now(sock, old, new, error);
        if ends != TimedState::NOT_TIMED {
            let mut elapsed = stopwatch::end(socket, ends, now.ns);
            let mut counts = true;
            if matches!((old, new), (TcpState::FinWait2, TcpState::Close)) {
                has_fin_come = sock.fin_received();
                // What else ends it, or takes it over, says nothing of the peer.
                counts = has_fin_come && error == 0;
                // The process still has it, so no minisocket follows: `SO_LINGER` 0, unread data.
                is_cut_off = error == 0 && !has_fin_come && !sock.is_orphan();
                if error == 0
                    && !is_cut_off
                    && now.is_of_segment
                    && counters.closes.fin_wait2_left(socket, now.ns, has_fin_come)
                {
                    // Of an orphan the beginning was not taken note of.
                    elapsed = 0;
                }
            }
            if counts {
                counters.durations.observe(ends, elapsed);
            }
        }
        if begins != TimedState::NOT_TIMED {
            let is_acknowledged = matches!((old, new), (TcpState::FinWait1, TcpState::FinWait2));
            if is_acknowledged {
                counters.closes.fin_acknowledged(socket, now.ns);
            }
            // The full socket of one that the process has closed goes at once, unless this segment
            // has the peer's FIN with it.
            if !(is_acknowledged && sock.is_orphan()) && stopwatch::begin(socket, begins, now.ns) {
                counters.durations.displace(begins);
            }
        }
    }
    if !matches!(new, TcpState::Close) {
        return None;
    }
    let fin_wait2 = (has_fin_come, is_cut_off);
    ends::count(&mut counters.closes, sock, socket, old, error, fin_wait2)
}

/// A time.
struct Moment {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    ns: u64,
    /// Whether it is when the kernel began with the segment that it is at.
    is_of_segment: bool,
}

/// The time. What a segment brings about is dated to when the kernel began with it, which costs
/// a quarter of asking the clock. All else comes of a system call or of a timer, or may do so:
/// with `TCP_REPAIR` a socket is even established by connect(), before the kernel has looked at its
/// own clock.
#[inline(always)]
fn now(sock: Sock, old: TcpState, new: TcpState, error: i32) -> Moment {
    let comes_of_a_segment = error == 0
        && matches!(
            (old, new),
            (TcpState::Established, TcpState::CloseWait)
                | (TcpState::FinWait1, TcpState::FinWait2)
                | (
                    TcpState::FinWait2 | TcpState::LastAck | TcpState::Closing,
                    TcpState::Close
                )
        );
    if comes_of_a_segment && let Some(ns) = sock.tcp().and_then(TcpSock::clock_ns) {
        return Moment {
            ns,
            is_of_segment: true,
        };
    }
    Moment {
        ns: clock::monotonic_ns(),
        is_of_segment: false,
    }
}

/// A closed connection lives on as a minisocket, without any event of its own; what it was when
/// its full socket ended says which.
#[inline(always)]
fn count_hand_over(counters: &mut NamespaceCounters, sock: Sock, family: Family, old: TcpState) {
    match old {
        TcpState::FinWait2 if sock.fin_received() => {
            add_one(&mut counters.to_time_wait[family.slot()]);
        }
        TcpState::FinWait2 => add_one(&mut counters.to_fin_wait2_mini[family.slot()]),
        TcpState::Closing => add_one(&mut counters.to_time_wait[family.slot()]),
        _ => {}
    }
}

#[inline(always)]
fn add_one(count: &mut u32) {
    *count = count.wrapping_add(1);
}

#[inline(always)]
fn record(
    ctx: &BtfTracePointContext,
    sock: Sock,
    namespace: u32,
    family: Family,
    (old, new): (TcpState, TcpState),
    error: i32,
    reason: Option<CloseReason>,
) {
    let mut record = TransitionRecord {
        time_ns: clock::monotonic_ns(),
        socket: sock.identity(),
        namespace,
        error,
        local_port: 0,
        remote_port: 0,
        family: family.to_kernel(),
        old_state: old as u8,
        new_state: new as u8,
        reason: reason.map_or(0, |reason| reason as u8),
        local_address: [0; 16],
        remote_address: [0; 16],
        process_name: [0; 16],
        process: 0,
        reserved: 0,
    };
    // Only these two are made by a system call of the process that owns the socket.
    if matches!(new, TcpState::SynSent | TcpState::Listen)
        && let Some(caller) = Caller::now()
    {
        record.process = caller.process;
        record.process_name = caller.name;
    }
    let addresses = sock.addresses(
        family,
        &mut record.local_address,
        &mut record.remote_address,
    );
    match sock.ports() {
        Some((local, remote)) if addresses => {
            record.local_port = local;
            record.remote_port = remote;
        }
        // The record still tells what happened, if not to whom.
        _ => warn!(
            ctx,
            "cannot read the addresses of a socket in state {}", old as u8
        ),
    }
    if let Err(RingFull) = event_ring::emit(record) {
        debug!(ctx, "event ring full");
    }
}

/// A record of what the end of `sock` is corrected to, a moment after it.
#[inline(always)]
pub(crate) fn record_correction(ctx: &BtfTracePointContext, sock: Sock, reason: CloseReason) {
    let Some(family) = sock.family() else {
        return;
    };
    let states = (TcpState::Close, TcpState::Close);
    let (namespace, error) = (sock.namespace(), sock.error());
    record(ctx, sock, namespace, family, states, error, Some(reason));
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "checked to be small")]
fn state(raw: u32) -> Option<TcpState> {
    if raw > TcpState::NewSynRecv as u32 {
        return None;
    }
    TcpState::from_kernel(raw as u8)
}
