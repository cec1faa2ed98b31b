//! Everything at once, for as long as one likes: what is shown stays what `ss` shows, and what the
//! agent takes of the host stays what it was.

use std::{
    env, fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use tcpstate_agent::{collect::sockets::Census, engine::Watch};
use tcpstate_common::{Family, TcpState};

use crate::{
    agent::{Agent, Resources},
    harness::{
        AGENT, DoneOnDrop, Netns, Running, census_of, make_namespace, require, watch, within,
    },
};

/// How long, unless `TCPSTATE_SOAK_SECONDS` says otherwise.
const USUAL: Duration = Duration::from_mins(2);
/// It is compared with `ss` so often: the first time when everything has been at work for a while.
const ROUND: Duration = Duration::from_secs(30);
/// Until what is shown is what `ss` shows, when the loads stand still.
const QUIET: Duration = Duration::from_secs(30);
/// More than that and a hundredth of what there was at first is a leak, in bytes.
const MEMORY_SLACK: u64 = 6 << 20;
/// Scrapes and commands come and go.
const DESCRIPTOR_SLACK: u64 = 16;
/// Of the whole host, on which the loads leave caches, in KiB.
const SLAB_SLACK: u64 = 192 << 10;

/// What the loads have done.
#[derive(Default)]
struct Done {
    connections: AtomicU64,
    listeners: AtomicU64,
    namespaces: AtomicU64,
    processes: AtomicU64,
    scrapes: AtomicU64,
    commands: AtomicU64,
    agents: AtomicU64,
}

impl Done {
    fn counts(&self) -> [(&'static str, u64); 7] {
        let Self {
            connections,
            listeners,
            namespaces,
            processes,
            scrapes,
            commands,
            agents,
        } = self;
        [
            ("connections", connections),
            ("times 50 listeners", listeners),
            ("namespaces", namespaces),
            ("processes", processes),
            ("scrapes", scrapes),
            ("times two commands", commands),
            ("agents", agents),
        ]
        .map(|(load, count)| (load, count.load(Ordering::Relaxed)))
    }

    fn text(&self) -> String {
        let counts = self.counts().map(|(load, count)| format!("{count} {load}"));
        counts.join(", ")
    }
}

/// When the loads work.
struct Shift {
    is_over: AtomicBool,
    is_paused: AtomicBool,
    /// How many of them are in the middle of something.
    at_work: AtomicU64,
}

impl Shift {
    /// Does `work` again and again, so often a second at most, while loads are to work.
    fn repeat(&self, a_second: u32, done: &AtomicU64, mut work: impl FnMut()) {
        while !self.is_over.load(Ordering::SeqCst) {
            let begun = Instant::now();
            self.at_work.fetch_add(1, Ordering::SeqCst);
            if !self.is_paused.load(Ordering::SeqCst) {
                work();
                done.fetch_add(1, Ordering::Relaxed);
            }
            self.at_work.fetch_sub(1, Ordering::SeqCst);
            let pause = Duration::from_secs(1) / a_second;
            thread::sleep(
                pause
                    .saturating_sub(begun.elapsed())
                    .max(Duration::from_micros(200)),
            );
        }
    }

    /// Has all of them stand still meanwhile.
    fn paused<T>(&self, work: impl FnOnce() -> T) -> T {
        self.is_paused.store(true, Ordering::SeqCst);
        within(QUIET, || {
            let at_work = self.at_work.load(Ordering::SeqCst);
            require(at_work == 0, format!("{at_work} loads do not stand still"))
        });
        let outcome = work();
        self.is_paused.store(false, Ordering::SeqCst);
        outcome
    }
}

/// Sockets that stay as they are.
struct Staying {
    _listeners: Vec<TcpListener>,
    _streams: Vec<TcpStream>,
}

impl Staying {
    fn make(namespace: &Netns) -> Self {
        namespace.enter(|| {
            let (mut listeners, mut streams) = (Vec::new(), Vec::new());
            for _ in 0..20 {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                for number in 0..10 {
                    let client = TcpStream::connect(address).unwrap();
                    let (server, _) = listener.accept().unwrap();
                    // Half of them leak.
                    if number % 2 == 0 {
                        streams.push(client);
                    }
                    streams.push(server);
                }
                listeners.push(listener);
            }
            Self {
                _listeners: listeners,
                _streams: streams,
            }
        })
    }
}

fn one_connection(listener: &TcpListener, number: u64) {
    let [.., high, low, last] = (number % 1_000_000).to_be_bytes();
    let from = Ipv4Addr::new(127, 1 + high, low, 1 + last % 250);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    let to = listener.local_addr().unwrap();
    socket.connect(&to.into()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    drop(socket);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}

fn some_listeners() {
    let each = (0..50).map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    drop(each.collect::<Vec<_>>());
}

fn run_to_the_end(program: &str, arguments: &[&str]) {
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = Running::start(&mut command).finish();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

/// The slab that the kernel cannot give back, of the whole host, in KiB.
fn slab() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("SUnreclaim:"));
    let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
    number.parse().unwrap()
}

/// The sockets of these namespaces are those that `ss` shows there. Nobody moves them, so what it
/// shows before and after differs by what leaves TIME_WAIT alone.
fn compare(watch: &Watch, namespaces: &[&Netns]) {
    for namespace in namespaces {
        within(QUIET, || {
            let before = namespace.ss();
            let reading = watch.read().map_err(|error| error.to_string())?;
            let after = namespace.ss();
            let shown = census_of(&reading, namespace.inode());
            for family in Family::ALL {
                for state in TcpState::FOUND {
                    let of = |census: &Census| census.get(family, state);
                    let (most, least, shown) = (of(&before), of(&after), of(&shown));
                    let what = format!("{shown} in {state:?}, of {most} and then {least}");
                    require((least..=most).contains(&shown), what)?;
                }
            }
            Ok(())
        });
    }
}

fn how_long() -> Duration {
    env::var("TCPSTATE_SOAK_SECONDS").map_or(USUAL, |seconds| {
        Duration::from_secs(seconds.parse().expect("TCPSTATE_SOAK_SECONDS is no number"))
    })
}

/// A figure at first and at last.
fn flat(what: &str, first: u64, last: u64, most: u64) {
    assert!(last <= most, "{what}: {first} at first, {last} at last");
}

/// Starts all that comes and goes. It ends when the shift is over.
fn start_loads<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    (shift, done): (&'scope Shift, &'scope Done),
    busy: &'scope Netns,
    agent: &'scope Agent,
) {
    scope.spawn(|| {
        busy.enter(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            shift.repeat(400, &done.connections, || {
                one_connection(&listener, done.connections.load(Ordering::Relaxed));
            });
        });
    });
    scope.spawn(|| busy.enter(|| shift.repeat(4, &done.listeners, some_listeners)));
    scope.spawn(|| shift.repeat(10, &done.namespaces, make_namespace));
    scope.spawn(|| shift.repeat(20, &done.processes, || run_to_the_end("true", &[])));
    scope.spawn(|| shift.repeat(5, &done.scrapes, || drop(agent.metrics())));
    scope.spawn(|| {
        shift.repeat(1, &done.commands, || {
            run_to_the_end(AGENT, &["listeners", "--output", "json"]);
            run_to_the_end(AGENT, &["diagnose", "--interval", "0", "--output", "json"]);
        });
    });
    scope.spawn(|| {
        shift.repeat(1, &done.agents, || {
            let ended = Agent::start().stop();
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        });
    });
}

/// What the agent and the host have when everything stands still.
#[derive(Clone, Copy)]
struct Found {
    agent: Resources,
    /// In KiB.
    slab: u64,
}

impl Found {
    /// Fails where more is taken now than at first.
    fn has_not_grown_to(self, last: Self) {
        let Resources {
            memory,
            descriptors,
            kernel_objects,
        } = self.agent;
        let now = last.agent;
        let most = memory + memory / 100 + MEMORY_SLACK;
        flat("memory", memory, now.memory, most);
        let most = descriptors + DESCRIPTOR_SLACK;
        flat("descriptors", descriptors, now.descriptors, most);
        flat(
            "programs and maps",
            kernel_objects,
            now.kernel_objects,
            kernel_objects,
        );
        flat("slab", self.slab, last.slab, self.slab + SLAB_SLACK);
    }
}

#[expect(clippy::print_stdout, reason = "what was done is what a soak is for")]
#[test]
fn with_everything_at_once_what_is_shown_stays_true_and_nothing_grows() {
    let (staying, busy) = (Netns::new(), Netns::new());
    let _sockets = Staying::make(&staying);
    let (agent, watch) = (Agent::start(), watch());
    let done = Done::default();
    let shift = Shift {
        is_over: AtomicBool::new(false),
        is_paused: AtomicBool::new(false),
        at_work: AtomicU64::new(0),
    };
    let begun = Instant::now();
    let (mut first, mut compared) = (None, 0_u32);
    let last = thread::scope(|scope| {
        let _over = DoneOnDrop(&shift.is_over);
        start_loads(scope, (&shift, &done), &busy, &agent);
        let how_long = how_long();
        loop {
            thread::sleep(ROUND.min(how_long / 3));
            let found = shift.paused(|| {
                compare(&watch, &[&staying, &busy]);
                Found {
                    agent: agent.resources(),
                    slab: slab(),
                }
            });
            compared += 1;
            // What is reached once everything has been at work is what has to stay.
            first.get_or_insert(found);
            if begun.elapsed() >= how_long {
                return found;
            }
        }
    });
    let first = first.unwrap();
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let (then, now) = (first.agent, last.agent);
    println!(
        "soak: {minutes:.1} min, {}; equal to ss {compared} times; memory {} to {} KiB, descriptors \
         {} to {}, programs and maps {} to {}, slab of the host {} to {} KiB",
        done.text(),
        then.memory / 1024,
        now.memory / 1024,
        then.descriptors,
        now.descriptors,
        then.kernel_objects,
        now.kernel_objects,
        first.slab,
        last.slab,
    );
    for (load, count) in done.counts() {
        assert!(count > 0, "no {load}");
    }
    first.has_not_grown_to(last);
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
