//! `tp_btf/inet_sock_set_state`: every state transition of every TCP socket.

use aya_ebpf::{Global, macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::{debug, warn};
use tcpstate_common::{
    Family, NamespaceCounters, RecordMask, TcpState, TransitionKind, TransitionRecord,
};

use crate::{
    clock,
    event_ring::{self, RingFull},
    kernel::{Caller, Sock},
    matrix, namespaces, stopwatch,
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
    let (old, new) = (ctx.arg::<i32>(1), ctx.arg::<i32>(2));
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

    matrix::count(old, new);
    let namespace = sock.namespace();
    let counted = namespaces::update(namespace, |counters| {
        counters.record(family, old, new);
        if matches!(new, TcpState::Close) {
            count_hand_over(counters, sock, family, old);
        }
    });
    if !counted {
        event_ring::count_untracked();
        debug!(ctx, "namespace {} has no live counters", namespace);
    }

    if matches!(new, TcpState::CloseWait) {
        stopwatch::start(sock.identity(), clock::monotonic_ns());
    } else if matches!(old, TcpState::CloseWait) {
        stopwatch::stop(sock.identity(), clock::monotonic_ns());
    }

    let error = sock.error();
    if RecordMask::from_bits(RECORD_MASK.load()).wants(TransitionKind::of(old, new, error)) {
        record(ctx, sock, namespace, family, (old, new), error);
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
        padding: 0,
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

#[inline(always)]
fn state(raw: i32) -> Option<TcpState> {
    u8::try_from(raw).ok().and_then(TcpState::from_kernel)
}
