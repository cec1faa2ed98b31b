//! What follows for the person who reads it.

use super::{SocketGroup, UNKNOWN_CAUSE};
use crate::collect::close_wait::Cause;

/// What to look for at the places of a group; `was_watched` is whether there was a watch at all.
pub(super) fn advice(group: &SocketGroup, was_watched: bool) -> Option<&'static str> {
    if group.cause == UNKNOWN_CAUSE {
        return Some(
            "these are MPTCP connections that no read is seen to have read to the end. Look below \
             for what the threads wait for",
        );
    }
    let cause = Cause::ALL
        .into_iter()
        .find(|cause| cause.name() == group.cause)?;
    Some(match cause {
        Cause::EofRead if group.end_was_read => {
            "this read saw the end of file. Follow every way out of the functions above it, errors \
             and early returns too, and find the one that does not close"
        }
        Cause::EofRead | Cause::Sending if group.watched => {
            "everything was read, the last of it here. Find what the function does instead of \
             reading on or closing"
        }
        Cause::FinUnread | Cause::DataUnread => {
            "nothing reads what came. Look below for what the threads wait for, and in pools for an \
             idle timeout shorter than the peer's"
        }
        Cause::Unaccepted => "nobody calls accept(). Look below for what the threads wait for",
        _ if !was_watched => {
            "nothing was watched. With --seconds, what uses them meanwhile is told"
        }
        _ if !group.before_watch => {
            "these came into CLOSE_WAIT during the watch and were read to the end, but by no read \
             that is seen: splice(), one of io_uring's own threads, another process that has \
             them too, or MPTCP before Linux 6.3. If it is none of these, watch longer: they came as the watch began"
        }
        _ => {
            "these were closed by their peers before the watch began, and nothing has used them \
             since. Watch longer, or restart the program and watch from then on"
        }
    })
}
