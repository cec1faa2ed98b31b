//! A client's connection, as the layers above it read and write.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{activity::Activity, counters::Dropped};

/// No client sends more before TLS is agreed on, chains of certificates included.
const HANDSHAKE_BYTES: usize = 32 * 1024;

/// Tells its [`Activity`] what comes.
#[derive(Debug)]
pub(super) struct ClientStream {
    stream: TcpStream,
    activity: Arc<Activity>,
    /// What may still come before TLS is agreed on; any amount where it is not to be.
    handshake_left: Option<usize>,
}

impl ClientStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, is_tls: bool) -> Self {
        // The answer is to leave at once, whole.
        let _ = stream.set_nodelay(true);
        // An answer that is with the kernel is given up after this time too.
        let _ = sockopt::set_tcp_user_timeout(&stream, user_timeout(activity.answer_time()));
        Self {
            stream,
            activity,
            handshake_left: is_tls.then_some(HANDSHAKE_BYTES),
        }
    }

    /// TLS is agreed on.
    pub(super) const fn handshake_is_done(&mut self) {
        self.handshake_left = None;
    }

    /// What the client begins with, as far as it has come. It stays to be read.
    pub(super) async fn beginning(&self) -> io::Result<Beginning> {
        let mut bytes = [0; 11];
        let count = self.stream.peek(&mut bytes).await?;
        Ok(Beginning::of(&bytes[..count]))
    }
}

/// What a client begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// No TLS record begins like a method of HTTP.
    Http,
    /// A TLS version that the library does not know. It would say that something else is wrong.
    OldTls,
    /// TLS, so far.
    Tls,
}

impl Beginning {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [first, ..] if first.is_ascii_uppercase() => Self::Http,
            // A handshake record with a ClientHello, and the version in there. Later versions than
            // 1.2 say 1.2 here.
            [22, _, _, _, _, 1, _, _, _, major, minor] if (*major, *minor) < (3, 3) => Self::OldTls,
            _ => Self::Tls,
        }
    }
}

fn user_timeout(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        // What was cut is not to keep memory in the kernel until the client has read it.
        if self
            .activity
            .why_cut()
            .is_some_and(|why| why != Dropped::Idle)
        {
            let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        if count > 0 {
            this.activity.received();
        }
        if let Some(left) = &mut this.handshake_left {
            *left = left.checked_sub(count).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "the TLS handshake is too long")
            })?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_tls_or_too_old_is_told_by_its_first_bytes() {
        let hello = |minor| [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, minor];
        for (bytes, beginning) in [
            (&b"GET / HTTP/1.1"[..11], Beginning::Http),
            (b"P", Beginning::Http),
            (&hello(1), Beginning::OldTls),
            (&hello(2), Beginning::OldTls),
            (&hello(3), Beginning::Tls),
            (&hello(1)[..8], Beginning::Tls),
            (&[], Beginning::Tls),
        ] {
            assert_eq!(Beginning::of(bytes), beginning, "{bytes:?}");
        }
    }
}
