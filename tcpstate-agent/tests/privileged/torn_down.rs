//! Passes while what they read is torn down under them: namespaces with tables of their own, and
//! listeners. Processes are in `owners.rs`.
//!
//! 30 seconds; `TCPSTATE_TEST_TORN_DOWN_SECONDS` says otherwise.

use std::{
    env, fs,
    net::TcpListener,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use tcpstate_common::TcpState;

use crate::harness::{DoneOnDrop, Netns, busy_watch, census_of, on_this_cpu, scaled};

/// What a pass may take at most, with the machine to itself or not.
const LONGEST: Duration = Duration::from_secs(10);
/// Since Linux 6.1: how large a table each namespace gets that is made from this one.
const CHILD_TABLES: &str = "/proc/sys/net/ipv4/tcp_child_ehash_entries";

fn duration() -> Duration {
    let told = env::var("TCPSTATE_TEST_TORN_DOWN_SECONDS").ok();
    Duration::from_secs(told.map_or(30, |seconds| seconds.parse().unwrap()))
}

/// Makes namespaces until it is over, each with some listeners, and lets go of each as it makes the
/// next: 100 times a second, or as fast as the kernel takes them apart.
fn come_and_go(from: &Netns, is_over: &AtomicBool, made: &AtomicU64) {
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        from.enter(|| {
            // SAFETY: the thread alone gets another network namespace; no descriptor and no memory
            // is shared otherwise than before.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let listeners: Vec<_> = (0..3)
                .map(|_| TcpListener::bind("0.0.0.0:0").unwrap())
                .collect();
            made.fetch_add(1, Ordering::Relaxed);
            drop(listeners);
        });
        thread::sleep(Duration::from_millis(10).saturating_sub(begun.elapsed()));
    }
}

/// Opens and closes a listening socket again and again.
fn listen_and_close(in_: &Netns, is_over: &AtomicBool) {
    in_.enter(|| {
        while !is_over.load(Ordering::Relaxed) {
            drop(TcpListener::bind("127.0.0.1:0").unwrap());
            thread::sleep(Duration::from_micros(200));
        }
    });
}

#[test]
#[expect(clippy::print_stdout, reason = "how much it was, for who asks")]
fn passes_end_and_are_right_while_namespaces_and_listeners_come_and_go() {
    let steady = Netns::new();
    let _listeners: Vec<_> = steady.enter(|| {
        let bind = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        (0..50).map(bind).collect()
    });
    let parent = Netns::new();
    let busy = Netns::new();
    let has_tables = parent.enter(|| fs::write(CHILD_TABLES, "64").is_ok());
    let watch = busy_watch();
    let (is_over, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut longest, mut looks) = (Duration::ZERO, 0);
    thread::scope(|scope| {
        let _guard = DoneOnDrop(&is_over);
        scope.spawn(|| come_and_go(&parent, &is_over, &made));
        scope.spawn(|| listen_and_close(&busy, &is_over));
        let until = Instant::now() + duration();
        while Instant::now() < until {
            let begun = Instant::now();
            assert!(watch.connections().is_some(), "no look at the tables");
            longest = longest.max(begun.elapsed());
            looks += 1;
            let reading = watch.read().unwrap();
            let shown = census_of(&reading, steady.inode());
            assert_eq!(shown.in_state(TcpState::Listen), 50);
        }
    });
    let faults = watch.read().unwrap().faults.unwrap();
    let made = made.into_inner();
    println!(
        "{looks} looks, the longest {longest:?}, {made} namespaces, {} with tables of their own; \
         {faults:?}",
        if has_tables { "each" } else { "none" }
    );
    assert!(longest < on_this_cpu(LONGEST), "a look of {longest:?}");
    assert!(
        looks > 1 && made > u64::from(scaled(250)),
        "{looks} looks, {made} namespaces"
    );
    assert_eq!(faults.looks.given_up, 0, "{faults:?}");
}
