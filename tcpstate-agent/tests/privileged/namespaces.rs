//! Network namespaces: found, added up, and gone.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tcpstate_agent::{
    collect::{
        close_wait::{Cause, Role},
        sockets::NamespaceId,
    },
    decode::KernelNamespace,
    engine::Watch,
    kernel::{AddError, Flow, KernelTables, plan::ProgramId},
};
use tcpstate_common::TcpState;

use crate::{
    actor::{Actor, Duty, Sockets},
    agent::Agent,
    harness::{
        Netns, Running, SETTINGS, census_of, load, load_programs, on_this_cpu, rare_watch, require,
        same, watch, within,
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
fn what_a_namespace_counts_before_anybody_knows_it_is_in_its_counters() {
    // No watch: nobody gives the namespaces counters but this test.
    let mut loaded = load(4096);
    let flow = loaded.flow.as_mut().unwrap();
    let namespace = Netns::new();
    drop(listeners(&namespace, 10));
    let kept = listeners(&namespace, 3);
    let found = find(loaded.tables.as_mut().unwrap(), namespace.inode());
    flow.add_namespace(found.net, found.id()).unwrap();
    let counted = |flow: &Flow| {
        let listen = flow.namespace(found.net).unwrap().flow[0][TcpState::Listen.slot()];
        (listen.entered, listen.left)
    };
    assert_eq!(counted(flow), (13, 10));
    drop(listeners(&namespace, 10));
    assert_eq!(counted(flow), (23, 20));
    // Taken along when nothing is on the way any more, and not once more.
    for seconds in [0, 2, 4] {
        let later = Instant::now() + Duration::from_secs(seconds);
        flow.tidy(later).unwrap();
        assert_eq!(counted(flow), (23, 20), "{seconds}");
    }
    drop(kept);
    assert_eq!(counted(flow), (23, 23));
}

#[test]
fn more_new_namespaces_than_have_room_are_untracked_until_those_that_are_gone_make_room() {
    /// As many as begin to count unknown.
    const ROOM: usize = 64;

    let mut loaded = load(4096);
    let flow = loaded.flow.as_mut().unwrap();
    let untracked = |flow: &Flow| flow.events().unwrap().untracked;
    let passing: Vec<Netns> = (0..ROOM).map(|_| Netns::new()).collect();
    for namespace in &passing {
        drop(listeners(namespace, 1));
    }
    let before = untracked(flow);
    let namespace = Netns::new();
    drop(listeners(&namespace, 10));
    // CLOSE to LISTEN and back, each.
    assert!(untracked(flow) >= before + 20, "{}", untracked(flow));
    // The first time they may have begun after the list was read.
    flow.tidy(Instant::now()).unwrap();
    flow.tidy(Instant::now()).unwrap();
    let tables = loaded.tables.as_mut().unwrap();
    let mut dropped = passing
        .iter()
        .filter(|namespace| flow.may_lack(find(tables, namespace.inode()).net));
    assert!(dropped.next().is_some());
    let found = find(tables, namespace.inode());
    assert!(!flow.may_lack(found.net));
    drop(listeners(&namespace, 10));
    flow.add_namespace(found.net, found.id()).unwrap();
    let listen = flow.namespace(found.net).unwrap().flow[0][TcpState::Listen.slot()];
    assert_eq!((listen.entered, listen.left), (10, 10));
}

#[test]
fn beside_snapshots_that_are_dear_a_new_namespace_is_whole_at_the_next_scrape() {
    // A walk over so many is no scrape's to wait for.
    let crowd = Netns::new();
    let sockets = Sockets {
        role: Role::Server,
        cause: Cause::FinUnread,
        address: "127.0.0.1:0".parse().unwrap(),
        count: 9_500,
    };
    let keepers = std::iter::repeat_n(("crowd", Duty::Keep(sockets)), 6);
    let _keepers = Actor::start_all(&crowd, keepers);
    let watch = rare_watch();
    let age = || watch.read().unwrap().snapshot.unwrap().age;
    let first = age();
    let namespace = Netns::new();
    let _listeners = listeners(&namespace, 3);
    let (_client, _server) = namespace.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap())
    });
    let reading = watch.read().unwrap();
    same(&census_of(&reading, namespace.inode()), &namespace.ss()).unwrap();
    assert!(age() > first, "by a snapshot of its own");
}

#[test]
fn more_namespaces_than_fit_are_refused_by_name_and_fit_again_when_others_go() {
    let mut loaded = load(4096);
    let flow = loaded.flow.as_mut().unwrap();
    // Where none lies.
    let add = |flow: &mut Flow, inode: u32| {
        let id = NamespaceId {
            inode,
            cookie: None,
        };
        flow.add_namespace(u64::from(inode) << 6, id)
    };
    let full = (1..=5000).find_map(|inode| match add(flow, inode) {
        Ok(()) => None,
        Err(AddError::Full(room)) => Some((inode, room)),
        Err(error) => panic!("{error}"),
    });
    let (refused, room) = full.expect("never full");
    assert_eq!(refused, room + 1);
    flow.remove_namespace(1 << 6).unwrap();
    add(flow, refused).unwrap();
}

/// What the kernel's list says of a namespace.
fn find(tables: &mut KernelTables, inode: u32) -> KernelNamespace {
    let all = tables.namespaces().unwrap();
    let mut found = all.into_iter().filter(|found| found.inode == inode);
    found.next().expect("not in the kernel's list")
}

#[test]
fn a_namespace_in_the_place_of_one_that_is_gone_begins_at_nothing() {
    const ENOUGH: usize = 5;
    let mut loaded = load(4096);
    let flow = loaded.flow.as_mut().unwrap();
    let tables = loaded.tables.as_mut().unwrap();
    let mut places = BTreeSet::new();
    let mut taken_over = 0;
    let start = Instant::now();
    for count in [1, 2, 3].into_iter().cycle() {
        if taken_over == ENOUGH {
            return;
        }
        assert!(
            start.elapsed() < on_this_cpu(FOUND),
            "no place was taken over"
        );
        let (inode, sockets) = kept_by_sockets(count);
        let found = find(tables, inode);
        let is_taken_over = !places.insert(found.net);
        flow.add_namespace(found.net, found.id()).unwrap();
        let live = |flow: &Flow| {
            let live = flow.namespace(found.net).unwrap();
            live.flow[0][TcpState::Listen.slot()].live()
        };
        let count = i64::try_from(count).unwrap();
        // What this one has counted so far is in the counters of the one before it.
        let begins_at = if is_taken_over && found.cookie.is_some() {
            0
        } else {
            count
        };
        assert_eq!(live(flow), begins_at);
        // Makes room for the next one.
        flow.tidy(Instant::now() + Duration::from_secs(2)).unwrap();
        assert_eq!(live(flow), begins_at);
        drop(sockets);
        assert_eq!(live(flow), begins_at - count);
        if found.cookie.is_none() {
            // Nothing else tells one from another with the same number there.
            flow.remove_namespace(found.net).unwrap();
        }
        taken_over += usize::from(is_taken_over);
    }
}
