//! System calls that threads wait in, and on what.

/// What a system call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    /// The descriptor in its first argument.
    Descriptor,
    /// The `struct pollfd`s that its first argument points to; the second one says how many.
    Poll,
    /// Something else.
    Other,
}

/// A system call that waits.
pub(super) struct Call {
    number: libc::c_long,
    pub(super) name: &'static str,
    pub(super) on: On,
}

macro_rules! calls {
    ($($(#[$only:meta])? $number:ident $name:literal $on:ident;)+) => {
        &[$($(#[$only])? Call { number: libc::$number, name: $name, on: On::$on }),+]
    };
}

const CALLS: &[Call] = calls! {
    SYS_read "read" Descriptor;
    SYS_write "write" Descriptor;
    SYS_readv "readv" Descriptor;
    SYS_writev "writev" Descriptor;
    SYS_pread64 "pread64" Descriptor;
    SYS_pwrite64 "pwrite64" Descriptor;
    SYS_sendfile "sendfile" Descriptor;
    SYS_connect "connect" Descriptor;
    SYS_accept "accept" Descriptor;
    SYS_accept4 "accept4" Descriptor;
    SYS_sendto "sendto" Descriptor;
    SYS_sendmsg "sendmsg" Descriptor;
    SYS_sendmmsg "sendmmsg" Descriptor;
    SYS_recvfrom "recvfrom" Descriptor;
    SYS_recvmsg "recvmsg" Descriptor;
    SYS_recvmmsg "recvmmsg" Descriptor;
    SYS_fsync "fsync" Descriptor;
    SYS_fdatasync "fdatasync" Descriptor;
    SYS_flock "flock" Descriptor;
    SYS_fcntl "fcntl" Descriptor;
    SYS_ioctl "ioctl" Descriptor;
    #[cfg(target_arch = "x86_64")] SYS_epoll_wait "epoll_wait" Descriptor;
    SYS_epoll_pwait "epoll_wait" Descriptor;
    SYS_epoll_pwait2 "epoll_wait" Descriptor;
    #[cfg(target_arch = "x86_64")] SYS_poll "poll" Poll;
    SYS_ppoll "poll" Poll;
    #[cfg(target_arch = "x86_64")] SYS_select "select" Other;
    SYS_pselect6 "select" Other;
    #[cfg(target_arch = "x86_64")] SYS_pause "pause" Other;
    SYS_nanosleep "nanosleep" Other;
    SYS_clock_nanosleep "clock_nanosleep" Other;
    SYS_futex "futex" Other;
    SYS_futex_waitv "futex_waitv" Other;
    SYS_wait4 "wait4" Other;
    SYS_waitid "waitid" Other;
    SYS_rt_sigtimedwait "rt_sigtimedwait" Other;
    SYS_rt_sigsuspend "rt_sigsuspend" Other;
    SYS_restart_syscall "restart_syscall" Other;
    SYS_io_getevents "io_getevents" Other;
    SYS_io_uring_enter "io_uring_enter" Descriptor;
    SYS_mq_timedreceive "mq_timedreceive" Other;
    SYS_semtimedop "semtimedop" Other;
};

/// The call that has this number.
pub(super) fn find(number: i64) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_found_by_its_number() {
        assert_eq!(find(libc::SYS_recvfrom).unwrap().name, "recvfrom");
        assert!(find(-1).is_none());
        for call in CALLS {
            let found = CALLS.iter().filter(|other| other.number == call.number);
            assert_eq!(found.count(), 1, "{}", call.name);
        }
    }
}
