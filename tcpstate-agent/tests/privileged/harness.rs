//! What the tests stand on: a namespace of one's own, a watch, `ss`, and waiting.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    net::TcpListener,
    os::{
        fd::AsFd as _,
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use tcpstate_agent::{
    collect::{SeriesLimits, owners::Hidden, sockets::Census},
    engine::{Reading, Watch, WatchSettings},
    kernel::{self, KernelLogLevel, LoadOptions, Loaded, facts::Facts, plan::ProgramId},
};
use tcpstate_common::{Family, RecordMask, TcpState};

/// The ring that the agent uses.
const RING_BYTES: u32 = 512 * 1024;

/// What the agent does unless told otherwise.
pub(crate) const SETTINGS: WatchSettings = WatchSettings {
    cpu_percent: 2.0,
    close_wait_top: 50,
    listeners_top: 200,
    destinations_top: 50,
    only_when_asked: false,
    series: SeriesLimits::USUAL,
    named: Vec::new(),
    hidden: Hidden::NONE,
};

/// The same for every watch of a test. To gather them takes an emulated CPU a second.
static FACTS: LazyLock<Facts> = LazyLock::new(Facts::gather);

/// The agent under test.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_tcpstate-agent");

/// A network namespace with its loopback up, held by a process that lives in it until this is
/// dropped or the test's process ends.
pub(crate) struct Netns {
    holder: Child,
    file: File,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let own = File::open("/proc/self/ns/net")
            .unwrap()
            .metadata()
            .unwrap()
            .ino();
        // It ends when nobody has the other end of its stdin any more.
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("cannot run unshare (util-linux)");
        let path = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
        let file = within(Duration::from_secs(15), || {
            let file = File::open(&path).map_err(|error| error.to_string())?;
            let inode = file.metadata().map_err(|error| error.to_string())?.ino();
            if inode == own {
                return Err("still in the test's own namespace".to_owned());
            }
            Ok(file)
        });
        let namespace = Self { holder, file };
        namespace.command("ip", &["link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn inode(&self) -> u32 {
        self.file.metadata().unwrap().ino().try_into().unwrap()
    }

    /// A file that leads into the namespace.
    pub(crate) fn way_in(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// A process that is in it.
    pub(crate) fn holder_pid(&self) -> u32 {
        self.holder.id()
    }

    /// Ends the holder; the namespace then lives on through this test's descriptor only.
    pub(crate) fn release_holder(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }

    /// Ends the holder and closes the test's descriptor; the namespace lives on through whatever
    /// else is in it, and cannot be entered by the test any more.
    pub(crate) fn let_go(mut self) {
        self.release_holder();
    }

    /// Runs `work` in a thread inside the namespace. Sockets made there stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                        .expect("cannot enter the test's namespace (root?)");
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program in the namespace; it must succeed.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.enter(|| {
            Command::new(program)
                .args(arguments)
                .output()
                .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
        });
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `ss -tan` shows, by family and state.
    pub(crate) fn ss(&self) -> Census {
        let mut census = Census::default();
        for (family, flag) in [(Family::Ipv4, "-4"), (Family::Ipv6, "-6")] {
            // Options first: an -a after -H would be a filter to some versions.
            let text = self.command("ss", &[flag, "--tcp", "--all", "--numeric", "--no-header"]);
            for line in text.lines() {
                let state = line.split_ascii_whitespace().next().unwrap_or_default();
                if let Some(state) = ss_state(state) {
                    census.add(family, state, 1);
                }
            }
        }
        census
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Makes a network namespace with a listener, which goes with its thread.
pub(crate) fn make_namespace() {
    thread::spawn(|| {
        // SAFETY: only this thread leaves the namespace, and it opens nothing that others use.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        drop(TcpListener::bind("0.0.0.0:0"));
    })
    .join()
    .unwrap();
}

fn ss_state(name: &str) -> Option<TcpState> {
    Some(match name {
        "LISTEN" => TcpState::Listen,
        "SYN-SENT" => TcpState::SynSent,
        "SYN-RECV" => TcpState::SynRecv,
        "ESTAB" => TcpState::Established,
        "FIN-WAIT-1" => TcpState::FinWait1,
        "FIN-WAIT-2" => TcpState::FinWait2,
        "CLOSE-WAIT" => TcpState::CloseWait,
        "CLOSING" => TcpState::Closing,
        "LAST-ACK" => TcpState::LastAck,
        "TIME-WAIT" => TcpState::TimeWait,
        // Bound and neither listening nor connected: in no state that counts.
        "UNCONN" => return None,
        other => panic!("ss shows a state {other:?} that the tests do not know"),
    })
}

/// A process that is ended when the thread that started it ends, or when this is dropped.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        // SAFETY: the closure makes one system call between fork and exec, and that is
        // async-signal-safe.
        let command = unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(
                    rustix::process::Signal::KILL,
                ))?;
                Ok(())
            })
        };
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot run {}: {error}", command.get_program().display())
        });
        Self { child }
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin is not piped")
    }

    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout is not piped")
    }

    pub(crate) fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("stderr is not piped")
    }

    /// How it ended, if it has.
    pub(crate) fn try_finish(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends, and returns what it said.
    pub(crate) fn finish(mut self) -> Output {
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        let read = |pipe: Option<Box<dyn io::Read + Send>>| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                if let Some(mut pipe) = pipe {
                    pipe.read_to_end(&mut bytes).unwrap();
                }
                bytes
            })
        };
        let stdout = read(stdout.map(|pipe| Box::new(pipe) as _));
        let stderr = read(stderr.map(|pipe| Box::new(pipe) as _));
        let status = within(Duration::from_mins(1), || {
            self.child
                .try_wait()
                .unwrap()
                .ok_or_else(|| "the process does not end".to_owned())
        });
        Output {
            status,
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and returns what it said, however it ended.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Running::start(
        Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )
    .finish()
}

/// Loads every program, with an event ring of `ring_bytes`.
pub(crate) fn load(ring_bytes: u32) -> Loaded {
    load_programs(&ProgramId::ALL, ring_bytes)
}

pub(crate) fn load_programs(programs: &[ProgramId], ring_bytes: u32) -> Loaded {
    load_with(programs, ring_bytes, RecordMask::ABNORMAL_ENDS)
}

/// Loads every program, with a record of every transition.
pub(crate) fn load_tracing(ring_bytes: u32) -> Loaded {
    load_with(&ProgramId::ALL, ring_bytes, RecordMask::EVERY_TRANSITION)
}

fn load_with(programs: &[ProgramId], ring_bytes: u32, record_mask: RecordMask) -> Loaded {
    let loaded = kernel::load(
        &FACTS,
        &LoadOptions {
            programs,
            record_mask,
            event_ring_bytes: ring_bytes,
            every_owner: false,
            kernel_log: KernelLogLevel::Off,
        },
    )
    .unwrap();
    for status in &loaded.programs {
        if let Err(obstacle) = &status.outcome {
            panic!("{} does not run: {obstacle:?}", status.program.name());
        }
    }
    loaded
}

/// Starts a watch with every program and an event ring of `ring_bytes`, and waits until every
/// namespace has been counted.
pub(crate) fn watch_with_ring(ring_bytes: u32) -> Watch {
    let settings = WatchSettings {
        // The agent's share of a core, or what that is on an emulated one.
        cpu_percent: f64::from(slowness()).clamp(2.0, 10.0),
        ..SETTINGS
    };
    start(ring_bytes, settings)
}

/// The same, with snapshots one after the other, as long as there is anything to count.
pub(crate) fn busy_watch() -> Watch {
    let settings = WatchSettings {
        cpu_percent: 100.0,
        ..SETTINGS
    };
    start(RING_BYTES, settings)
}

/// The same, with a snapshot in the background once in a long time.
pub(crate) fn rare_watch() -> Watch {
    let settings = WatchSettings {
        cpu_percent: 0.001,
        ..SETTINGS
    };
    start(RING_BYTES, settings)
}

fn start(ring_bytes: u32, settings: WatchSettings) -> Watch {
    let watch = Watch::start(load(ring_bytes), settings).unwrap();
    assert!(
        watch.wait_until_ready(on_this_cpu(Duration::from_secs(30))),
        "never ready"
    );
    watch
}

pub(crate) fn watch() -> Watch {
    watch_with_ring(RING_BYTES)
}

/// What the watch says of one namespace; empty where it is not counted.
pub(crate) fn census_of(reading: &Reading, namespace: u32) -> Census {
    reading
        .by_namespace
        .get(&namespace)
        .map(|namespace| namespace.sockets)
        .unwrap_or_default()
}

/// Compares two censuses, naming what differs.
pub(crate) fn same(shown: &Census, truth: &Census) -> Result<(), String> {
    let mut differences = BTreeMap::new();
    for family in Family::ALL {
        for state in TcpState::FOUND {
            let (shown, truth) = (shown.get(family, state), truth.get(family, state));
            if shown != truth {
                differences.insert(format!("{family:?} {}", state.name()), (shown, truth));
            }
        }
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(format!("shown and true differ: {differences:?}"))
    }
}

/// Tries until it succeeds, for at most `patience` on a real CPU; see [`on_this_cpu`].
#[track_caller]
pub(crate) fn within<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let patience = on_this_cpu(patience);
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(why) if Instant::now() >= deadline => panic!("not within {patience:?}: {why}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Tells another thread to end when the test's own part is over, also when it fails: the thread
/// is waited for.
pub(crate) struct DoneOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for DoneOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// For attempts: fails with `why` unless `is_so`.
pub(crate) fn require(is_so: bool, why: impl Into<String>) -> Result<(), String> {
    is_so.then_some(()).ok_or_else(|| why.into())
}

/// Whether a program that the tests need is not there, for lack of network or of room; whoever
/// runs the tests says so in the environment, and says it loudly.
pub(crate) fn is_excused(program: &str) -> bool {
    let is_missing = std::env::var("TCPSTATE_TEST_MISSING_TOOLS")
        .is_ok_and(|missing| missing.split(',').any(|missing| missing == program));
    if is_missing {
        say_skipped(&format!("{program} is not here"));
    }
    is_missing
}

/// Says that the test that is running tests nothing, and why. Where that was not foreseen, whoever
/// runs the tests takes it for a failure.
pub(crate) fn say_skipped(reason: &str) {
    // `println` would give it to the test runner, which keeps it to itself where the test passes.
    let mut stdout = io::stdout();
    writeln!(stdout, "SKIPPED: {reason}").unwrap();
}

/// How often to repeat what is worth repeating `count` times: less often on an emulated CPU.
pub(crate) fn scaled(count: u32) -> u32 {
    count / slowness()
}

/// How long to wait here for what takes at most `patience` on a real CPU: that long, and on an
/// emulated CPU twice as long. How fast things are is told by the benchmarks, not by tests, so
/// deadlines leave room for others who use the CPU too.
pub(crate) fn on_this_cpu(patience: Duration) -> Duration {
    patience * if slowness() > 1 { 2 } else { 1 }
}

/// How much slower this CPU is than a real one, by the word of whoever runs the tests.
fn slowness() -> u32 {
    std::env::var("TCPSTATE_TEST_SLOWNESS").map_or(1, |times| {
        times
            .parse()
            .ok()
            .filter(|times| *times > 0)
            .expect("TCPSTATE_TEST_SLOWNESS is no number above 0")
    })
}
