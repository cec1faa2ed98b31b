//! How a connection ended, in words.

use tcpstate_common::{CloseReason, errno};

/// What a person who reads it at night makes sense of. `error` is the socket's errno, 0 for none.
#[must_use]
pub const fn end_words(reason: CloseReason, error: i32) -> &'static str {
    match reason {
        CloseReason::LocalFin => "this side closed first",
        CloseReason::RemoteFin => "the peer closed first",
        CloseReason::Simultaneous => "both sides closed at once",
        CloseReason::ResetReceived => "the peer reset it",
        CloseReason::ResetSent => "reset by this host: data came after close()",
        CloseReason::Aborted => "this side cut it off",
        CloseReason::Timeout => "the peer stopped answering",
        CloseReason::ConnectRefused => "refused: nothing listens there",
        CloseReason::ConnectTimeout => "no answer to connect()",
        CloseReason::ConnectReset => "reset during the handshake",
        CloseReason::ConnectAbandoned => "connect() given up by this side",
        CloseReason::ConnectNoPort => "no local port left",
        CloseReason::HandshakeFailed => "the handshake failed",
        CloseReason::Other if is_unreachable(error) => "no way to the peer",
        CloseReason::Other => "another error",
    }
}

const fn is_unreachable(error: i32) -> bool {
    matches!(
        error,
        errno::ENETUNREACH | errno::EHOSTUNREACH | errno::EHOSTDOWN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_words_of_its_own() {
        let mut words: Vec<_> = CloseReason::ALL
            .into_iter()
            .map(|reason| end_words(reason, 0))
            .chain([end_words(CloseReason::Other, errno::EHOSTUNREACH)])
            .collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), CloseReason::ALL.len() + 1);
    }
}
