//! Network namespaces: found, added up, and gone.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tcpstate_agent::{
    engine::Watch,
    kernel::{AddError, plan::ProgramId},
};
use tcpstate_common::TcpState;

use crate::{
    agent::Agent,
    harness::{
        Netns, Running, SETTINGS, census_of, load, load_programs, on_this_cpu, require, same,
        watch, within,
    },
    peer::{KERNEL_V4, PEER_V4, Peer},
};

/// Within what a new namespace is found: the next scrape, and a busy host may be slow.
const FOUND: Duration = Duration::from_secs(30);

fn listeners(namespace: &Netns, count: usize) -> Vec<TcpListener> {
    namespace.enter(|| {
        (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect()
    })
}

#[test]
fn several_namespaces_equal_their_sum_and_each_equals_ss() {
    let namespaces: Vec<Netns> = (0..4).map(|_| Netns::new()).collect();
    let watch = watch();
    let _listeners: Vec<_> = namespaces
        .iter()
        .zip(1..)
        .map(|(namespace, count)| listeners(namespace, count))
        .collect();
    within(Duration::from_secs(15), || {
        let reading = watch.read().unwrap();
        for namespace in &namespaces {
            same(&census_of(&reading, namespace.inode()), &namespace.ss())?;
        }
        let sum: u64 = reading
            .by_namespace
            .values()
            .map(|namespace| namespace.sockets.total())
            .sum();
        assert_eq!(reading.sockets.unwrap().total(), sum);
        Ok(())
    });
}

#[test]
fn a_namespace_made_while_the_agent_runs_is_counted_and_leaves_when_it_is_gone() {
    let watch = watch();
    for _ in 0..5 {
        let namespace = Netns::new();
        let inode = namespace.inode();
        let _listeners = listeners(&namespace, 3);
        within(FOUND, || {
            same(&census_of(&watch.read().unwrap(), inode), &namespace.ss())
        });
    }
    let gone = {
        let namespace = Netns::new();
        let _listeners = listeners(&namespace, 1);
        within(FOUND, || {
            let reading = watch.read().unwrap();
            let is_counted = reading.by_namespace.contains_key(&namespace.inode());
            require(is_counted, "not counted")
        });
        namespace.inode()
    };
    within(2 * FOUND, || {
        let reading = watch.read().unwrap();
        require(!reading.by_namespace.contains_key(&gone), "still counted")
    });
}

#[test]
fn a_namespace_without_a_process_is_found_through_a_descriptor() {
    let mut namespace = Netns::new();
    let _listeners = listeners(&namespace, 2);
    namespace.release_holder();
    let watch = watch();
    let shown = census_of(&watch.read().unwrap(), namespace.inode());
    assert_eq!(shown.in_state(TcpState::Listen), 2);
}

#[test]
fn a_namespace_stays_in_the_gauges_when_the_processes_that_led_to_it_end() {
    let namespace = Netns::new();
    let inode = namespace.inode();
    let resident = || {
        let way = format!("--net={}", namespace.way_in());
        // It reads until it is ended.
        let mut command = Command::new("nsenter");
        Running::start(command.args([&way, "cat"]).stdin(Stdio::piped()))
    };
    let first: Vec<Running> = (0..10).map(|_| resident()).collect();
    let last = resident();
    let _listeners = listeners(&namespace, 5);
    // Those that nsenter has not yet taken inside would be left outside.
    within(Duration::from_secs(15), || {
        let inside = std::iter::once(&last).chain(&first).all(|process| {
            let link = format!("/proc/{}/ns/net", process.pid());
            std::fs::read_link(link).is_ok_and(|link| link.ends_with(format!("net:[{inode}]")))
        });
        require(inside, "not all are inside")
    });
    // The test's own descriptor must not be a way to it.
    namespace.let_go();
    let watch = watch();
    drop(first);
    for _ in 0..60 {
        let shown = census_of(&watch.read().unwrap(), inode);
        assert_eq!(shown.in_state(TcpState::Listen), 5);
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(last);
}

#[test]
fn a_connection_half_opened_in_a_quiet_namespace_beside_many_is_seen_within_seconds() {
    let _quiet: Vec<Netns> = (0..20).map(|_| Netns::new()).collect();
    let namespace = Netns::new();
    let mut peer = Peer::new(&namespace);
    let kernel = SocketAddr::from((KERNEL_V4, 80));
    let _listener = namespace.enter(|| TcpListener::bind(kernel).unwrap());
    let watch = watch();
    std::thread::sleep(Duration::from_secs(5));
    peer.half_open((PEER_V4, 4000).into(), kernel);
    within(Duration::from_secs(15), || {
        let half_open =
            census_of(&watch.read().unwrap(), namespace.inode()).in_state(TcpState::SynRecv);
        require(half_open == 1, format!("{half_open} half open"))
    });
}

/// A namespace with a name, as `ip netns` makes it.
struct Named(String);

impl Named {
    fn new() -> Self {
        let name = format!("tcpstate-test-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).status();
        assert!(made.unwrap().success());
        Self(name)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.0])
            .status();
    }
}

#[test]
fn a_namespace_without_a_process_is_found_through_its_mount() {
    use std::os::unix::fs::MetadataExt as _;

    let named = Named::new();
    let path = PathBuf::from(format!("/run/netns/{}", named.0));
    let inode = u32::try_from(path.metadata().unwrap().ino()).unwrap();
    let watch = watch();
    assert!(watch.read().unwrap().by_namespace.contains_key(&inode));
}

/// A namespace that nothing leads to but the sockets in it: the thread that made it has ended.
fn kept_by_sockets(listeners: usize) -> (u32, Vec<TcpListener>) {
    let made = std::thread::spawn(move || {
        // SAFETY: the flag concerns this thread alone, which ends with this.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        let link = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let link = link.to_str().unwrap();
        let inode = link
            .strip_prefix("net:[")
            .and_then(|rest| rest.strip_suffix(']'));
        let sockets = (0..listeners).map(|_| TcpListener::bind("0.0.0.0:0").unwrap());
        (inode.unwrap().parse().unwrap(), sockets.collect())
    });
    made.join().unwrap()
}

#[test]
fn a_namespace_that_only_its_sockets_keep_is_counted_and_leaves_with_them() {
    let (inode, sockets) = kept_by_sockets(3);
    let watch = watch();
    let shown = census_of(&watch.read().unwrap(), inode);
    assert_eq!(shown.in_state(TcpState::Listen), 3);
    drop(sockets);
    within(FOUND, || {
        let reading = watch.read().unwrap();
        require(!reading.by_namespace.contains_key(&inode), "still counted")
    });
}

#[test]
fn bpf_and_perfmon_suffice_for_the_sockets_of_every_namespace() {
    let namespace = Netns::new();
    let _listeners = listeners(&namespace, 7);
    let (_, _sockets) = kept_by_sockets(4);
    let agent = Agent::start_with_capabilities("-all,+bpf,+perfmon");
    within(Duration::from_secs(15), || {
        let metrics = agent.metrics();
        let namespaces = metrics.value("tcpstate_namespaces");
        let listening = metrics.value(r#"tcpstate_sockets{family="ipv4",state="listen"}"#);
        require(
            namespaces >= 3 && listening >= 11,
            format!("{namespaces} namespaces, {listening} listening sockets"),
        )
    });
    assert_eq!(agent.get("/-/ready").0, 200);
    let said = agent.stop().stderr;
    assert!(!said.contains("level=warn"), "{said}");
}

#[test]
fn a_number_that_is_given_out_again_is_another_namespace() {
    let watch = watch();
    for round in 0..30 {
        let namespace = Netns::new();
        let _listeners = listeners(&namespace, 1 + round % 3);
        within(FOUND, || {
            let shown = census_of(&watch.read().unwrap(), namespace.inode());
            same(&shown, &namespace.ss())
        });
    }
}

#[test]
fn a_watch_that_cannot_count_is_ready_and_shows_transitions_alone() {
    let loaded = load_programs(&[ProgramId::Transition], 4096);
    let watch = Watch::start(loaded, SETTINGS).unwrap();
    assert!(
        watch.wait_until_ready(on_this_cpu(Duration::from_secs(30))),
        "never ready"
    );
    let reading = watch.read().unwrap();
    assert!(reading.sockets.is_none() && reading.snapshot.is_none());
    assert!(reading.transitions.is_some());
}

#[test]
fn transitions_in_a_namespace_without_counters_are_counted_as_untracked() {
    let namespace = Netns::new();
    // No watch: nobody gives the namespace counters.
    let mut loaded = load(4096);
    let flow = loaded.flow.as_mut().unwrap();
    drop(listeners(&namespace, 10));
    let untracked = flow.events().unwrap().untracked;
    // CLOSE to LISTEN and back, each.
    assert!(untracked >= 20, "{untracked}");
    flow.add_namespace(namespace.inode()).unwrap();
    drop(listeners(&namespace, 10));
    let live = flow.namespace(namespace.inode()).unwrap();
    let listen = live.flow[0][TcpState::Listen.slot()];
    assert_eq!((listen.entered, listen.left), (10, 10));
}

#[test]
fn more_namespaces_than_fit_are_refused_by_name_and_fit_again_when_others_go() {
    let mut loaded = load(4096);
    let flow = loaded.flow.as_mut().unwrap();
    let full = (1..=5000).find_map(|inode| match flow.add_namespace(inode) {
        Ok(()) => None,
        Err(AddError::Full(room)) => Some((inode, room)),
        Err(error) => panic!("{error}"),
    });
    let (refused, room) = full.expect("never full");
    assert_eq!(refused, room + 1);
    flow.remove_namespace(1).unwrap();
    flow.add_namespace(refused).unwrap();
}
