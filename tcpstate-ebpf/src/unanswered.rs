//! `iter/tcp`: counts the sockets of one network namespace as `tcp_count` does, and describes
//! those whose peers do not answer: established ones and those that are being closed.

use tcpstate_common::{TcpState, UnansweredRecord};

use crate::{
    clock, count_sockets,
    kernel::{BareSock, SeqFile, Sock},
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn tcp_unanswered(ctx: *const *const u8) -> i32 {
    // SAFETY: `ctx` is what the kernel calls an iter/tcp program with.
    if let Some(sk_common) = unsafe { count_sockets::sk_common(ctx) } {
        // SAFETY: the context's pointer is a `struct sock_common *` and not null.
        let sock = unsafe { Sock::new(sk_common) };
        // SAFETY: see above.
        let file = unsafe { SeqFile::of(ctx) };
        if let Some(record) = describe(sock)
            && file.write(&record).is_err()
        {
            // The kernel calls again for this socket: it is counted then.
            return 0;
        }
        count_sockets::count(sk_common);
    } else {
        clock::sample();
    }
    0
}

#[inline(always)]
fn describe(sock: Sock) -> Option<UnansweredRecord> {
    let state = TcpState::from_kernel(sock.raw_state())?;
    if !matches!(
        state,
        TcpState::Established | TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck
    ) {
        return None;
    }
    BareSock::at(sock.identity()).look()?.unanswered()
}
