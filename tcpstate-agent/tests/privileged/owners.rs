//! The walk over the kernel's own list of processes, alone: what it meets, whatever the processes
//! do meanwhile, and how long it takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit};
use tcpstate_agent::{
    collect::close_wait::{Cause, Role},
    decode::{Owner, Socket},
    kernel::{
        self, HeldProcesses, KernelLogLevel, LoadOptions, OwnerWalk, OwnersReader, Progress,
        WalkAccount, facts::Facts, plan::ProgramId,
    },
};
use tcpstate_common::RecordMask;

use crate::{
    actor::{Actor, Duty, Sockets},
    harness::{AGENT, DoneOnDrop, Netns, on_this_cpu, require, run, within},
};

/// What a walk has met.
struct Walked {
    owners: Vec<Owner>,
    processes: HeldProcesses,
    account: WalkAccount,
}

fn reader(every: bool) -> OwnersReader {
    let options = LoadOptions {
        programs: &[ProgramId::Owners],
        record_mask: RecordMask::ABNORMAL_ENDS,
        event_ring_bytes: 0,
        every_owner: every,
        kernel_log: KernelLogLevel::Off,
    };
    let loaded = kernel::load(&Facts::gather(), &options).unwrap();
    loaded.owners.unwrap()
}

fn walk(reader: &mut OwnersReader) -> Walked {
    let mut walk = OwnerWalk::default();
    let mut owners = Vec::new();
    while reader.step(&mut walk, |owner| owners.push(owner)).unwrap() == Progress::More {}
    Walked {
        processes: reader.processes(&walk).unwrap(),
        account: *walk.account(),
        owners,
    }
}

impl Walked {
    /// The descriptors of a process, rising.
    fn descriptors(&self, pid: u32) -> Vec<u32> {
        let of_process = self.owners.iter().filter(|owner| owner.process.tgid == pid);
        let mut descriptors: Vec<_> = of_process.filter_map(|owner| owner.descriptor).collect();
        descriptors.sort_unstable();
        descriptors
    }

    fn open(&self, pid: u32) -> Option<u64> {
        let mut processes = self.processes.values();
        let process = processes.find(|process| process.id.tgid == pid)?;
        Some(process.descriptors.open)
    }
}

fn in_close_wait(count: usize) -> Sockets {
    Sockets {
        role: Role::Server,
        cause: Cause::EofRead,
        address: "127.0.0.1:0".parse().unwrap(),
        count,
    }
}

/// Descriptors of a process by what `/proc` says: how many there are, and which are sockets.
fn proc_descriptors(pid: u32) -> (u64, BTreeSet<u32>) {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let (mut open, mut sockets) = (0, BTreeSet::new());
    for entry in folder.flatten() {
        open += 1;
        let leads_to = fs::read_link(entry.path()).unwrap_or_default();
        if leads_to.to_string_lossy().starts_with("socket:") {
            sockets.insert(entry.file_name().to_str().unwrap().parse().unwrap());
        }
    }
    (open, sockets)
}

#[test]
fn each_descriptor_is_met_once_with_what_proc_says_of_its_process() {
    let namespace = Netns::new();
    let actor = Actor::start(&namespace, "holder", Duty::Keep(in_close_wait(500)));
    let mut reader = reader(false);
    let walked = walk(&mut reader);
    let (open, sockets) = proc_descriptors(actor.pid());
    let met = walked.descriptors(actor.pid());
    assert_eq!(met.len(), 500);
    assert!(met.iter().all(|descriptor| sockets.contains(descriptor)));
    assert_eq!(met.iter().collect::<BTreeSet<_>>().len(), 500);
    assert_eq!(walked.open(actor.pid()), Some(open));
    let mut processes = walked.processes.values();
    let process = processes.find(|process| process.id.tgid == actor.pid());
    let process = process.unwrap();
    assert_eq!(process.name, "holder");
    let limits = fs::read_to_string(format!("/proc/{}/limits", actor.pid())).unwrap();
    let soft = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = soft.unwrap().split_ascii_whitespace().nth(3).unwrap();
    assert_eq!(process.descriptors.limit, soft.parse().ok());
    let here = walked.owners.iter().find_map(|owner| match &owner.socket {
        Socket::CloseWait(socket) if owner.process == process.id => Some(socket.namespace),
        _ => None,
    });
    assert_eq!(here, Some(namespace.inode()));
}

#[test]
fn a_process_whose_first_thread_has_ended_still_has_its_sockets() {
    let namespace = Netns::new();
    let _actor = Actor::start(&namespace, "leaderless", Duty::Outlive(in_close_wait(20)));
    let mut reader = reader(false);
    within(Duration::from_secs(5), || {
        let walked = walk(&mut reader);
        let mut processes = walked.processes.values();
        let process = processes.find(|process| process.name == "leaderless");
        let pid = process.ok_or("not met")?.id.tgid;
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let state = status.rsplit(')').next().unwrap().trim_start();
        require(state.starts_with('Z'), "the first thread is still there")?;
        assert_eq!(walked.descriptors(pid).len(), 20);
        Ok(())
    });
}

#[test]
#[expect(clippy::print_stdout, reason = "how long it took, for who asks")]
fn of_a_very_large_table_every_descriptor_is_met() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = 1 << 20;
    let raised = Rlimit {
        current: Some(wanted),
        maximum: Some(limit.maximum.map_or(wanted, |maximum| maximum.max(wanted))),
    };
    // Not everywhere is that allowed.
    if rustix::process::setrlimit(Resource::Nofile, raised).is_err() {
        let as_allowed = Rlimit {
            current: limit.maximum,
            ..limit
        };
        rustix::process::setrlimit(Resource::Nofile, as_allowed).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    drop(peer);
    let mut copies: Vec<OwnedFd> = Vec::new();
    while let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(&socket, 0) {
        copies.push(copy);
    }
    assert!(copies.len() > 1000, "{}", copies.len());
    // What the walk needs.
    copies.truncate(copies.len() - 32);
    within(Duration::from_secs(5), || {
        let mut reader = reader(false);
        let begun = Instant::now();
        let walked = walk(&mut reader);
        let met = walked.descriptors(std::process::id());
        if met.len() != copies.len() + 1 {
            return Err(format!("{} of {}", met.len(), copies.len() + 1));
        }
        let took = begun.elapsed();
        assert!(walked.owners.iter().any(|owner| owner.is_shared));
        println!(
            "{} descriptors in {took:?}, {:?}",
            met.len(),
            walked.account
        );
        Ok(())
    });
    drop(copies);
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
}

/// Processes that begin and end all the time, beside one that holds sockets.
#[test]
#[expect(clippy::print_stdout, reason = "how long it took, for who asks")]
fn walks_end_and_name_nobody_else_while_processes_come_and_go() {
    let namespace = Netns::new();
    let actor = Actor::start(&namespace, "steady", Duty::Keep(in_close_wait(300)));
    let is_over = AtomicBool::new(false);
    let begun_processes = AtomicU64::new(0);
    let mut reader = reader(false);
    let mut longest = Duration::ZERO;
    let (mut walks, mut restarts) = (0, 0);
    thread::scope(|scope| {
        let _guard = DoneOnDrop(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let mut children: Vec<_> = (0..8)
                        .map(|_| Command::new("true").stdin(Stdio::null()).spawn().unwrap())
                        .collect();
                    for child in &mut children {
                        child.wait().unwrap();
                    }
                    begun_processes.fetch_add(8, Ordering::Relaxed);
                }
            });
        }
        let until = Instant::now() + on_this_cpu(Duration::from_secs(5));
        while Instant::now() < until {
            let begun = Instant::now();
            let walked = walk(&mut reader);
            longest = longest.max(begun.elapsed());
            walks += 1;
            let mut by_process = BTreeMap::<_, Vec<_>>::new();
            for owner in &walked.owners {
                if let Socket::CloseWait(socket) = &owner.socket
                    && socket.namespace == namespace.inode()
                {
                    by_process
                        .entry(owner.process.tgid)
                        .or_default()
                        .push(owner.descriptor);
                }
            }
            let owners: Vec<_> = by_process.keys().copied().collect();
            assert_eq!(owners, [actor.pid()]);
            let descriptors = &by_process[&actor.pid()];
            let different: BTreeSet<_> = descriptors.iter().collect();
            assert_eq!((descriptors.len(), different.len()), (300, 300));
            restarts += walked.account.restarts;
        }
    });
    let begun_processes = begun_processes.into_inner();
    println!(
        "{walks} walks, begun anew {restarts} times, the longest {longest:?}, {begun_processes} \
         processes"
    );
    assert!(begun_processes > 100, "{begun_processes}");
}

/// Where no agent answers, so that the command looks itself.
const NO_AGENT: &str = "--control.socket=/nonexistent/socket";

/// What a program has said, which must have succeeded.
fn said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Runs `diagnose` by other means, and returns what it says.
fn diagnose(program: &str, arguments: &[&str]) -> String {
    let all = [
        arguments,
        &[AGENT, "diagnose", NO_AGENT, "--interval=0", "--output=json"],
    ]
    .concat();
    said(&run(program, &all))
}

#[test]
fn in_a_pid_namespace_of_its_own_the_agent_names_processes_outside() {
    let actor = Actor::start_here("outsider", Duty::Keep(in_close_wait(7)));
    let said = diagnose("unshare", &["--pid", "--fork", "--mount-proc"]);
    assert!(said.contains("\"outsider\""), "{said}");
    assert!(said.contains(&format!("\"pid\":{}", actor.pid())), "{said}");
}

/// Runs the agent as a user that has nothing but CAP_BPF and CAP_PERFMON, in a network and a process
/// namespace of its own.
fn as_nobody(arguments: &[&str]) -> String {
    // Where anybody may execute it.
    let copy = std::env::temp_dir().join(format!("tcpstate-agent-{}", std::process::id()));
    fs::copy(AGENT, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let capabilities = "-all,+bpf,+perfmon";
    let [inherited, ambient, bounding] =
        ["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}={capabilities}"));
    let begin = [
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &inherited,
        &ambient,
        &bounding,
        copy.to_str().unwrap(),
    ];
    let output = run("unshare", &[&begin, arguments].concat());
    fs::remove_file(&copy).unwrap();
    said(&output)
}

#[test]
fn bpf_and_perfmon_are_enough_to_name_processes_of_other_users() {
    let actor = Actor::start_here("rootling", Duty::Keep(in_close_wait(7)));
    let said = as_nobody(&["diagnose", NO_AGENT, "--interval=0", "--output=json"]);
    assert!(said.contains("\"rootling\""), "{said}");
    assert!(said.contains(&format!("\"pid\":{}", actor.pid())), "{said}");
}

#[test]
fn bpf_and_perfmon_are_enough_for_every_program() {
    let said = as_nobody(&["check"]);
    let programs: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("program"))
        .collect();
    assert!(programs.len() >= 6, "{said}");
    for program in programs {
        assert!(program.contains(": runs"), "{said}");
    }
}

#[test]
fn snapshot_as_nobody_sees_the_sockets_of_every_namespace() {
    let namespace = Netns::new();
    let _actor = Actor::start(&namespace, "elsewhere", Duty::Keep(in_close_wait(37)));
    let said = as_nobody(&["snapshot", "--output=json"]);
    let snapshot: serde_json::Value = serde_json::from_str(&said).unwrap();
    let found: u64 = ["ipv4", "ipv6"]
        .iter()
        .map(|family| snapshot["sockets"][family]["close_wait"].as_u64().unwrap())
        .sum();
    assert!(found >= 37, "{said}");
}
