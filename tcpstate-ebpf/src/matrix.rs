//! The transition matrix: every state change of every TCP socket, lossless and O(1).

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcpstate_common::{TcpState, TransitionMatrix};

#[map]
static TRANSITIONS: PerCpuArray<TransitionMatrix> = PerCpuArray::with_max_entries(1, 0);

/// Counts one transition.
#[inline(always)]
pub(crate) fn count(old: TcpState, new: TcpState) {
    let Some(matrix) = TRANSITIONS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map gave this CPU's element, which no other CPU writes; a program is not
    // interrupted on its CPU by another run that counts here.
    unsafe { (*matrix).count[old.slot()][new.slot()] += 1 };
}
