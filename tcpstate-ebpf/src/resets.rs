//! `tp_btf/tcp_send_reset` and `tp_btf/tcp_receive_reset`: resets, and what one that is sent says
//! of a connection that has just ended.

use aya_ebpf::{
    Global,
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use tcpstate_common::{CloseReason, ResetCounters, SentReset, TcpState};

use crate::{
    counters,
    kernel::{Sock, TcpSock},
    records,
};

#[map]
static RESETS: PerCpuArray<ResetCounters> = PerCpuArray::with_max_entries(1, 0);

/// Whether the tracepoint has the reason as its third argument; older kernels refuse a program
/// that reads it.
#[unsafe(no_mangle)]
static RESET_REASON: Global<u8> = Global::new(0);

/// `tcp_send_reset(const struct sock *sk, const struct sk_buff *skb)`, since 6.11 with `reason`;
/// see [`include/trace/events/tcp.h`]. `sk` can be null since 6.11, and a minisocket; `skb` is null
/// where the reset does not answer a segment.
///
/// [`include/trace/events/tcp.h`]: https://github.com/torvalds/linux/blob/v6.12/include/trace/events/tcp.h
#[btf_tracepoint(function = "tcp_send_reset")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn tcp_reset_sent(ctx: BtfTracePointContext) -> i32 {
    let reason = if RESET_REASON.load() != 0 {
        ctx.arg::<u32>(2)
    } else {
        0
    };
    update(|counters| counters.send(reason));
    // Each is loaded once: to the verifier a second load would be another pointer that may be null.
    let sk = ctx.arg::<*const u8>(0);
    let skb = ctx.arg::<*const u8>(1);
    if sk.is_null() {
        return 0;
    }
    // SAFETY: the tracepoint's first argument is a `const struct sock *`, checked for null.
    let sock = unsafe { Sock::new(sk) };
    let state = sock.raw_state();
    if state == TcpState::FinWait2 as u8 && skb.is_null() && sock.is_orphan() {
        // `tcp_keepalive_timer()` ends it right behind.
        if let Some(counters) = counters::of_this_cpu() {
            counters.closes.reset_ahead_socket = sock.key();
        }
        return 0;
    }
    if state != TcpState::Close as u8 {
        return 0;
    }
    let by = if skb.is_null() {
        SentReset::Unasked
    } else if sock.tcp().is_some_and(TcpSock::wants_no_fin_wait2) {
        SentReset::Unwanted
    } else {
        SentReset::Answer
    };
    let corrected =
        counters::of_this_cpu().and_then(|counters| counters.closes.correct(sock.key(), by));
    if let Some((counted, reason)) = corrected {
        if matches!(counted, CloseReason::ResetReceived) {
            // None has come.
            update(|counters| counters.received = counters.received.wrapping_sub(1));
        }
        records::record_correction(&ctx, sock, reason);
    }
    0
}

/// `tcp_receive_reset(struct sock *sk)`. The kernel goes the same way when data comes for a socket
/// that the process has closed: that is counted here too, and taken back when one is sent.
#[btf_tracepoint(function = "tcp_receive_reset")]
fn tcp_reset_recv(_ctx: BtfTracePointContext) -> i32 {
    update(|counters| counters.received += 1);
    0
}

#[inline(always)]
fn update(change: impl FnOnce(&mut ResetCounters)) {
    if let Some(counters) = RESETS.get_ptr_mut(0) {
        // SAFETY: the map gave this CPU's element, which no other CPU writes.
        change(unsafe { &mut *counters });
    }
}
