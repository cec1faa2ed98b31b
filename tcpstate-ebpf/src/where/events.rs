//! The hooks: what each hands to the program, made into events of sockets.

use aya_ebpf::{
    Global,
    macros::{btf_tracepoint, fexit, tracepoint},
    programs::{BtfTracePointContext, FExitContext, TracePointContext},
};
use tcpstate_common::SampleKind;

use crate::{
    kernel::{CLOSE_WAIT, IPPROTO_MPTCP, IPPROTO_TCP, Registers, Socket, Thread},
    samples::account,
    sockets,
};

/// `TCP_SYN_SENT`, `TCP_CLOSE`, `TCP_LAST_ACK`.
const SYN_SENT: i32 = 2;
const CLOSE: i32 = 7;
const LAST_ACK: i32 = 9;

/// `-ECONNRESET`.
const RESET: i32 = -104;

/// Numbers of the system calls that read.
#[unsafe(no_mangle)]
static READ_CALLS: Global<[u32; 8]> = Global::new([u32::MAX; 8]);

/// Numbers of those that accept.
#[unsafe(no_mangle)]
static ACCEPT_CALLS: Global<[u32; 2]> = Global::new([u32::MAX; 2]);

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_state(ctx: BtfTracePointContext) -> i32 {
    let socket = Socket(ctx.arg::<*const u8>(0) as u64);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if new == i32::from(CLOSE_WAIT) {
        sockets::enter_close_wait(socket);
    } else if new == CLOSE {
        // A reset, or close() with data unread, goes there at once.
        if old == i32::from(CLOSE_WAIT) {
            sockets::leave_close_wait(socket);
        }
        sockets::forget(socket);
    } else if old == i32::from(CLOSE_WAIT) && new == LAST_ACK {
        sockets::leave_close_wait(socket);
    } else if old == CLOSE && new == SYN_SENT {
        // This transition alone runs in the system call of the process. An MPTCP connection goes
        // through it itself, before its first subflow.
        if let Some(thread) = Thread::watched()
            && socket.parent().is_none()
        {
            note_here(socket, SampleKind::Open, thread);
        }
    }
    0
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`: every read of a socket, of whatever
/// protocol, with what it returns.
#[btf_tracepoint(function = "sock_recv_length")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_read(ctx: BtfTracePointContext) -> i32 {
    if let Some(thread) = Thread::watched() {
        let socket = Socket(ctx.arg::<*const u8>(0) as u64);
        read_returned(socket, ctx.arg(1), thread);
    }
    0
}

/// `tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int nonblock, int flags, int
/// *addr_len)`; behind the arguments is what it returns.
#[fexit(function = "tcp_recvmsg")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_read6(ctx: FExitContext) -> i32 {
    if let Some(thread) = Thread::watched() {
        read_returned(Socket(ctx.arg::<*const u8>(0) as u64), ctx.arg(6), thread);
    }
    0
}

/// The same without `nonblock`, since Linux 5.19.
#[fexit(function = "tcp_recvmsg")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_read5(ctx: FExitContext) -> i32 {
    if let Some(thread) = Thread::watched() {
        read_returned(Socket(ctx.arg::<*const u8>(0) as u64), ctx.arg(5), thread);
    }
    0
}

/// `inet_csk_accept(struct sock *sk, int flags, int *err, bool kern)`.
#[fexit(function = "inet_csk_accept")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_accept4(ctx: FExitContext) -> i32 {
    accepted(ctx.arg::<*const u8>(4) as u64);
    0
}

/// `inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg)`, since Linux 6.10.
#[fexit(function = "inet_csk_accept")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_accept2(ctx: FExitContext) -> i32 {
    accepted(ctx.arg::<*const u8>(2) as u64);
    0
}

/// `sys_exit(struct pt_regs *regs, long ret)`.
#[btf_tracepoint(function = "sys_exit")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_syscall(ctx: BtfTracePointContext) -> i32 {
    if let Some(thread) = Thread::watched() {
        let registers = Registers::at(ctx.arg::<*const u8>(0) as u64);
        let _ = read_call_returned(registers, ctx.arg(1), thread);
    }
    0
}

#[inline(always)]
fn read_call_returned(registers: Registers, returned: i64, thread: Thread) -> Option<()> {
    let number = registers.system_call()?;
    let calls = READ_CALLS.load();
    if !calls.contains(&number) {
        return None;
    }
    let socket = thread.socket(registers.first_argument()?)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bytes of one read, or an errno"
    )]
    read_returned(socket, returned as i32, thread);
    Some(())
}

/// `sys_exit_accept` and `sys_exit_accept4`: behind the eight bytes that every tracepoint has, the
/// number of the system call and what it returns, eight bytes each.
#[tracepoint]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_accepted(ctx: TracePointContext) -> u32 {
    /// Where the latter is.
    const RETURNED: usize = 16;
    let Some(thread) = Thread::watched() else {
        return 0;
    };
    // SAFETY: the kernel hands a record of at least that length to the program.
    if let Ok(returned) = unsafe { ctx.read_at::<i64>(RETURNED) } {
        accept_returned(returned, thread);
    }
    0
}

/// The same as `where_accepted`, where there is no tracefs to attach that by.
#[btf_tracepoint(function = "sys_exit")]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands it over by value"
)]
fn where_accexit(ctx: BtfTracePointContext) -> i32 {
    let Some(thread) = Thread::watched() else {
        return 0;
    };
    let registers = Registers::at(ctx.arg::<*const u8>(0) as u64);
    let number = registers.system_call();
    if number.is_some_and(|number| ACCEPT_CALLS.load().contains(&number)) {
        accept_returned(ctx.arg(1), thread);
    }
    0
}

#[inline(always)]
fn accept_returned(returned: i64, thread: Thread) {
    let Ok(descriptor) = u32::try_from(returned) else {
        return;
    };
    if let Some(socket) = thread.socket(descriptor)
        && socket.is_tcp()
    {
        note_here(socket, SampleKind::Accept, thread);
    }
}

#[inline(always)]
fn accepted(socket: u64) {
    if socket == 0 {
        return;
    }
    if let Some(thread) = Thread::watched() {
        let socket = Socket(socket);
        // What accept() then gives to the process.
        let socket = socket.parent().unwrap_or(socket);
        note_here(socket, SampleKind::Accept, thread);
    }
}

#[inline(always)]
fn read_returned(socket: Socket, returned: i32, thread: Thread) {
    // EAGAIN, EINTR and the like say nothing of the connection.
    if returned < 0 && returned != RESET {
        return;
    }
    match socket.protocol() {
        Some(IPPROTO_TCP) => {}
        Some(IPPROTO_MPTCP) => account(|account| account.mptcp += 1),
        _ => return,
    }
    // A read of no bytes returns 0 too; at the end the peer has closed.
    let kind = if returned < 0 || (returned == 0 && socket.is_in_close_wait()) {
        SampleKind::ReadEnd
    } else {
        SampleKind::Read
    };
    note_here(socket, kind, thread);
}

#[inline(always)]
fn note_here(socket: Socket, kind: SampleKind, thread: Thread) {
    if let Some(registers) = thread.registers() {
        sockets::note(socket, kind, thread, registers);
    }
}
