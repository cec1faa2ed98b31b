//! The eBPF programs that count TCP segments on network interfaces. They let every packet pass, as
//! it is.
//!
//! An object of its own: it is in the kernel only where it was asked for.
//!
//! | program | sees |
//! | --- | --- |
//! | `segments_xdp` | what comes in, by XDP |
//! | `segments_frags` | the same, also packets in several pieces (Linux 5.18) |
//! | `segments_tc_in` | what comes in, by TC |
//! | `segments_tc_out` | what goes out, by TC |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "a BPF function call passes five words, and the verifier loses sight of what they are"
)]

mod devices;
mod packet;
mod parse;
mod records;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use tcpstate_common::Direction;

use packet::{Frame, Packet, Socket};

#[xdp]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn segments_xdp(ctx: XdpContext) -> u32 {
    observe(|_| Frame::new(&ctx), frame_device(&ctx), Direction::Ingress);
    XDP_PASS
}

#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn segments_frags(ctx: XdpContext) -> u32 {
    observe(|_| Frame::new(&ctx), frame_device(&ctx), Direction::Ingress);
    XDP_PASS
}

/// `TC_ACT_UNSPEC` is `TCX_NEXT` to tcx: whatever else is attached decides.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn segments_tc_in(ctx: TcContext) -> i32 {
    let socket = |is_raw_ip| Socket::new(&ctx, is_raw_ip);
    observe(socket, skb_device(&ctx), Direction::Ingress);
    TC_ACT_UNSPEC
}

#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn segments_tc_out(ctx: TcContext) -> i32 {
    let socket = |is_raw_ip| Socket::new(&ctx, is_raw_ip);
    observe(socket, skb_device(&ctx), Direction::Egress);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn frame_device(ctx: &XdpContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the program.
    unsafe { (*ctx.ctx).ingress_ifindex }
}

#[inline(always)]
fn skb_device(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the program.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Counts one packet, and puts a record of it into the ring where it tells something.
#[inline(always)]
fn observe<P: Packet>(packet: impl FnOnce(bool) -> P, index: u32, direction: Direction) {
    let Some(device) = devices::find(index) else {
        return;
    };
    let Some(counts) = devices::counts(device.slot, direction) else {
        return;
    };
    let is_raw_ip = device.is_raw_ip != 0;
    let packet = packet(is_raw_ip);
    match parse::parse(&packet, is_raw_ip) {
        Ok(segment) => {
            counts.by_flags[usize::from(segment.flags)] += 1;
            records::record(&packet, index, direction, &segment);
        }
        Err(reason) => counts.skipped[reason.slot()] += 1,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are given only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
