//! A packet's bytes, as XDP and as TC give access to them.

use core::{arch::asm, ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::bpf_hdr_start_off::BPF_HDR_START_MAC,
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative},
    programs::{TcContext, XdpContext},
};

/// Something to read bytes from.
pub(crate) trait Packet {
    /// The `N` bytes from `at` on, or `None` where there are not so many. `at` is far below
    /// 65,536.
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

/// A packet in XDP: its first piece lies in memory from `start` to `end`.
pub(crate) struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut from = self.start + at;
        // The compiler must not compute the end below from anything but this, or the verifier does
        // not see that the two belong together. Without an instruction there would be two lines of
        // source for one instruction, which the kernel refuses.
        // SAFETY: adds nothing.
        unsafe { asm!("{0} += 0", inout(reg) from, options(pure, nomem, nostack)) };
        if from + N > self.end {
            return None;
        }
        // SAFETY: the kernel gives memory from `start` to `end`, and it has just been compared;
        // the verifier goes through the same proof. Bytes need no alignment.
        Some(unsafe { *(from as *const [u8; N]) })
    }
}

/// A packet in TC: a socket buffer, any piece of which may be elsewhere.
pub(crate) struct Socket<'a> {
    ctx: &'a TcContext,
    is_raw_ip: bool,
}

impl<'a> Socket<'a> {
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a TcContext, is_raw_ip: bool) -> Self {
        Self { ctx, is_raw_ip }
    }
}

impl Packet for Socket<'_> {
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "places and lengths in headers"
    )]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let skb = self.ctx.skb.skb.cast::<c_void>();
        let to = bytes.as_mut_ptr().cast::<c_void>();
        // What TC takes for the beginning can be behind the Ethernet header, where a program of XDP
        // in the network stack has run before: the copy that the kernel then makes of some packets
        // does not know how long that header is (seen on 6.12 and 6.18).
        if !self.is_raw_ip {
            // SAFETY: the helper writes N bytes behind the pointer, or zeros and an error.
            let error = unsafe {
                bpf_skb_load_bytes_relative(skb, at as u32, to, N as u32, BPF_HDR_START_MAC)
            };
            if error == 0 {
                // SAFETY: all bytes have been written.
                return Some(unsafe { bytes.assume_init() });
            }
        }
        // This helper finds what is in any piece; the one above only what is in the first.
        // SAFETY: the helper writes N bytes behind the pointer, or zeros and an error.
        let error = unsafe { bpf_skb_load_bytes(skb, at as u32, to, N as u32) };
        if error != 0 {
            return None;
        }
        // SAFETY: all bytes have been written.
        Some(unsafe { bytes.assume_init() })
    }
}
