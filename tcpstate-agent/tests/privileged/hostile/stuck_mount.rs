//! A file system that does not answer, as that of a dead server: whoever opens anything there waits
//! for ever.

use std::{
    ffi::CString,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::listen_on;
use crate::{
    actor::{Actor, Duty, Sockets},
    agent::Agent,
    harness::{AGENT, Netns, Running, require, within},
};
use tcpstate_agent::collect::close_wait::{Cause, Role};

const PORT: u16 = 24_931;
const LEAKING: u16 = 24_932;
const SHOWN: Duration = Duration::from_mins(1);
/// Where the names of network namespaces are, logs of pods, and whatever users may have mounts at.
const STUCK: [&str; 4] = ["/run/netns", "/run/user", "/var/log", "/mnt"];

/// Mounts of a FUSE server that never answers. When this is dropped those who wait hear that it is gone.
struct Unanswered {
    _server: Vec<File>,
}

impl Unanswered {
    /// In a mount namespace that only the calling thread has, and what it starts.
    fn mount() -> Self {
        // SAFETY: only this thread leaves the namespace, and its working directory stays.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
        mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE, "");
        mount("tmpfs", "/run", "tmpfs", 0, "");
        let server = STUCK.map(|folder| {
            fs::create_dir_all(folder).unwrap();
            let server = File::options()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .unwrap();
            let descriptor = server.as_raw_fd();
            let options = format!("fd={descriptor},rootmode=40000,user_id=0,group_id=0");
            mount("dead", folder, "fuse", 0, &options);
            server
        });
        Self {
            _server: server.into(),
        }
    }
}

fn mount(source: &str, to: &str, kind: &str, flags: libc::c_ulong, options: &str) {
    let [source, target, kind, options] =
        [source, to, kind, options].map(|text| CString::new(text).unwrap());
    // SAFETY: all of them are texts that live until it returns.
    let error = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    assert_eq!(error, 0, "{to}: {}", std::io::Error::last_os_error());
}

/// A process that waits for one of them.
fn victim() -> Running {
    let mut command = Command::new("stat");
    command
        .arg(Path::new(STUCK[0]).join("any"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Running::start(&mut command)
}

#[test]
fn under_mounts_that_do_not_answer_the_agent_counts_answers_and_ends() {
    if !Path::new("/dev/fuse").exists() {
        crate::harness::say_skipped("this kernel has no FUSE");
        return;
    }
    let namespace = Netns::new();
    let listener = listen_on(&namespace, Ipv4Addr::LOCALHOST, PORT..=PORT);
    // A thread of its own has the mounts, and they go with it.
    thread::scope(|scope| {
        scope
            .spawn(|| in_mounts(&namespace, &listener[0]))
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn in_mounts(namespace: &Netns, listener: &TcpListener) {
    let mounts = Unanswered::mount();
    let mut victim = victim();
    let leak = Duty::Keep(Sockets {
        role: Role::Server,
        cause: Cause::EofRead,
        address: (Ipv4Addr::LOCALHOST, LEAKING).into(),
        count: 3,
    });
    let leaking = Actor::start(namespace, "leaking", leak);
    let agent = Agent::start();

    let port = PORT.to_string();
    let established = [("port", &*port), ("state", "established")];
    let mut streams = Vec::new();
    for round in 1..=3_u64 {
        streams.push(namespace.enter(|| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, listener.accept().unwrap())
        }));
        within(SHOWN, || {
            let count = agent.page().sum("tcpstate_listener_sockets", &established);
            require(count == round, format!("{count} of {round} are shown"))
        });
    }
    let leaked = LEAKING.to_string();
    within(SHOWN, || {
        let page = agent.page();
        let count = page.sum("tcpstate_close_wait_sockets", &[("port", &*leaked)]);
        require(count == 3, format!("{count} in CLOSE_WAIT"))
    });
    // It reads the executables of those that it names, and what leads into their namespaces.
    for command in ["diagnose", "listeners"] {
        let mut asked = Command::new(AGENT);
        asked.arg(command).stdout(Stdio::piped());
        let output = Running::start(&mut asked).finish();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("leaking"), "{command} says {said}");
    }
    assert_eq!(agent.get("/-/healthy").0, 200);
    assert!(victim.try_finish().is_none(), "the mounts answer");

    let begun = Instant::now();
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    drop(leaking);
    drop(mounts);
    // It hears that nobody will answer.
    within(SHOWN, || {
        victim.try_finish().ok_or_else(|| "it waits".to_owned())
    });
}
