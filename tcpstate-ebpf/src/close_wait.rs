//! `iter/tcp`: counts the sockets of one network namespace as `tcp_count` does, and describes its
//! listeners and those in CLOSE_WAIT.

use tcpstate_common::{SocketRecord, TcpState};

use crate::{
    clock, count_sockets,
    kernel::{BareSock, SeqFile, Sock},
    stopwatch,
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn tcp_close_wait(ctx: *const *const u8) -> i32 {
    // SAFETY: `ctx` is what the kernel calls an iter/tcp program with.
    if let Some(sk_common) = unsafe { count_sockets::sk_common(ctx) } {
        // SAFETY: the context's pointer is a `struct sock_common *` and not null.
        let sock = unsafe { Sock::new(sk_common) };
        // SAFETY: see above.
        let file = unsafe { SeqFile::of(ctx) };
        if let Some(state @ (TcpState::CloseWait | TcpState::Listen)) =
            TcpState::from_kernel(sock.raw_state())
            && let Some(record) = describe(sock, state)
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
fn describe(sock: Sock, state: TcpState) -> Option<SocketRecord> {
    let look = BareSock::at(sock.identity()).look()?;
    let mut record = look.describe()?;
    if matches!(state, TcpState::CloseWait) {
        record.since_ns = stopwatch::since(look.sock.key(), clock::monotonic_ns());
        look.describe_connection(&mut record)?;
    }
    Some(record)
}
