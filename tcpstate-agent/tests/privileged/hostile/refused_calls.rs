//! System calls that the kernel refuses, as it does for want of memory, descriptors or permission. What
//! then cannot be known is absent, named with its remedy, and never 0.

use std::{
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::listen_on;
use crate::{
    agent::Agent,
    harness::{AGENT, Netns, Running},
    page::Page,
};

const PORT: u16 = 24_941;
/// Until an agent that cannot start says so.
const GIVEN_UP: Duration = Duration::from_mins(1);

/// Commands of bpf(2): `enum bpf_cmd`.
const MAP_CREATE: u32 = 0;
const MAP_LOOKUP: u32 = 1;
const PROG_LOAD: u32 = 5;
const PROG_RUN: u32 = 10;
const ATTACH: u32 = 17;

/// Has the kernel answer every bpf(2) of this command with an error, from exec on.
fn refuse(command: &mut Command, what: u32, error: i32) {
    #[expect(clippy::cast_possible_truncation, reason = "the numbers of the ABI")]
    const BPF: u32 = libc::SYS_bpf as u32;
    /// Where the number and the first argument are in `struct seccomp_data`.
    const NUMBER: u32 = 0;
    const ARGUMENT: u32 = 16;
    #[expect(clippy::cast_possible_truncation, reason = "the codes have 16 bits")]
    const fn step(code: u32, value: u32, otherwise: u8) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf: otherwise,
            k: value,
        }
    }
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let error = u32::try_from(error).unwrap();
    let filter = [
        step(load, NUMBER, 0),
        step(equals, BPF, 3),
        step(load, ARGUMENT, 0),
        step(equals, what, 1),
        step(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | error, 0),
        step(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: 6,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: it takes numbers.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: the filter lives until the call returns, and the kernel copies it.
        let error = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        if error == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    // SAFETY: two system calls between fork and exec, and no memory is allocated.
    unsafe { command.pre_exec(install) };
}

fn agent() -> Command {
    let mut command = Command::new(AGENT);
    command.arg("run");
    command
}

/// The page of an agent that starts nevertheless, and what it has logged.
fn page_without(what: u32, error: i32) -> (Page, String) {
    let mut command = agent();
    refuse(&mut command, what, error);
    let agent = Agent::start_command(command);
    let page = agent.page();
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    (page, ended.stderr)
}

/// What an agent says that cannot start.
fn words_without(what: u32, error: i32) -> String {
    let mut command = agent();
    command.args(["--web.listen-address", "127.0.0.1:0"]);
    refuse(&mut command, what, error);
    let mut process = Running::start(command.stderr(Stdio::piped()));
    let stderr = process.take_stderr();
    let said = thread::spawn(move || {
        let lines = BufReader::new(stderr).lines();
        lines.map(|line| line.unwrap() + "\n").collect::<String>()
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = process.try_finish() {
            break status;
        }
        assert!(begun.elapsed() < GIVEN_UP, "it neither serves nor ends");
        thread::sleep(Duration::from_millis(50));
    };
    let said = said.join().unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

fn up(page: &Page, program: &str) -> u64 {
    page.sum("tcpstate_program_up", &[("program", program)])
}

#[test]
fn without_maps_or_programs_nothing_starts_and_the_refusal_is_named() {
    for (what, error, words) in [
        (MAP_CREATE, libc::ENOMEM, "annot allocate memory"),
        (MAP_CREATE, libc::EMFILE, "oo many open files"),
        // Of the library that asks first what the kernel can do.
        (PROG_LOAD, libc::EPERM, "the kernel refuses the eBPF object"),
        (
            PROG_LOAD,
            libc::ENOMEM,
            "the kernel refuses the eBPF object",
        ),
    ] {
        let said = words_without(what, error);
        assert!(said.contains(words), "{what} refused with {error}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn where_nothing_can_be_attached_the_passes_alone_tell_the_truth() {
    let namespace = Netns::new();
    let listeners = listen_on(&namespace, Ipv4Addr::LOCALHOST, PORT..PORT + 20);
    let (page, said) = page_without(ATTACH, libc::EPERM);
    assert_eq!(up(&page, "tcp_transition"), 0, "{said}");
    assert_eq!(up(&page, "read_table"), 1, "{said}");
    let listening = page.sum("tcpstate_sockets", &[("state", "listen")]);
    assert!(listening >= 20, "{listening} listen");
    for absent in ["tcpstate_transitions_total", "tcpstate_closes_total"] {
        assert!(page.samples(absent, &[]).is_empty(), "{absent} is told");
    }
    assert!(said.contains("tcp_transition"), "{said}");
    drop(listeners);
}

#[test]
fn where_nothing_can_be_run_nothing_is_told_of_sockets_and_what_does_not_run_is_named() {
    let (page, said) = page_without(PROG_RUN, libc::EPERM);
    for absent in ["tcpstate_sockets", "tcpstate_transitions_total"] {
        assert!(page.samples(absent, &[]).is_empty(), "{absent} is told");
    }
    // The former has to be told once where its addresses are measured from.
    for program in ["tcp_transition", "read_table"] {
        assert_eq!(up(&page, program), 0, "{program}: {said}");
        assert!(said.contains(program), "{said}");
    }
}

#[test]
fn counters_that_cannot_be_read_are_absent() {
    let namespace = Netns::new();
    let listeners = listen_on(&namespace, Ipv4Addr::LOCALHOST, PORT..PORT + 20);
    let (page, said) = page_without(MAP_LOOKUP, libc::ENOMEM);
    assert!(
        page.samples("tcpstate_transitions_total", &[]).is_empty(),
        "transitions are told: {said}"
    );
    let sockets = page.samples("tcpstate_sockets", &[]);
    let listening = page.sum("tcpstate_sockets", &[("state", "listen")]);
    assert!(
        sockets.is_empty() || listening >= 20,
        "{listening} listen, of 20"
    );
    drop(listeners);
}
