//! The record of a transition: who, what and why, for the few that anyone wants to know.

use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::{debug, warn};
use tcpstate_common::{CloseReason, Family, TcpState, TransitionRecord};

use crate::{
    clock,
    event_ring::{self, RingFull},
    kernel::{Caller, Sock},
};

/// Puts a record of a transition of `sock` into the ring.
#[inline(always)]
pub(crate) fn record(
    ctx: &BtfTracePointContext,
    sock: Sock,
    (old, new): (u32, u32),
    reason: Option<CloseReason>,
) {
    let Some(family) = sock.family() else {
        return;
    };
    let record = describe(ctx, sock, family, (old, new), reason);
    if let Err(RingFull) = event_ring::emit(record) {
        debug!(ctx, "event ring full");
    }
}

/// A record of what the end of `sock` is corrected to, a moment after it.
#[inline(always)]
pub(crate) fn record_correction(ctx: &BtfTracePointContext, sock: Sock, reason: CloseReason) {
    let states = (TcpState::Close as u32, TcpState::Close as u32);
    record(ctx, sock, states, Some(reason));
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "states are below 16")]
fn describe(
    ctx: &BtfTracePointContext,
    sock: Sock,
    family: Family,
    (old, new): (u32, u32),
    reason: Option<CloseReason>,
) -> TransitionRecord {
    let mut record = TransitionRecord {
        time_ns: clock::monotonic_ns(),
        socket: sock.identity(),
        namespace: sock.namespace(),
        error: sock.error(),
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
    if (new == TcpState::SynSent as u32 || new == TcpState::Listen as u32)
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
            "cannot read the addresses of a socket in state {}", old
        ),
    }
    record
}
