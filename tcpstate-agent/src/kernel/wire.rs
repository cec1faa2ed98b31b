//! Values of `tcpstate-common` as the BPF library wants them.

use zerocopy::FromBytes;

/// A value that is read from or written to a map byte by byte.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Wire<T>(pub(super) T);

// SAFETY: the library copies bytes of the kernel into the value, so every bit pattern must be a
// valid `T`: `FromBytes` is that promise, derived and checked by zerocopy. The wrapper has the
// layout of `T`.
unsafe impl<T: FromBytes + Copy + 'static> aya::Pod for Wire<T> {}
