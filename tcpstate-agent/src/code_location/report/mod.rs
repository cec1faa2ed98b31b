//! What `where` says: stuck sockets grouped by where in the code they were last used, and threads by
//! what they wait for.

mod advice;
mod grouping;
mod text;

use serde::{Deserialize, Serialize};

use super::{frame::Frame, waits::ThreadGroup};

pub use grouping::{Known, Sockets, group};
pub use text::write_text;

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Rises with changes that break readers.
    pub schema_version: u32,
    /// Which process.
    pub process: ProcessFound,
    /// Others that fit what was asked for, and were not looked at.
    pub others: Vec<ProcessFound>,
    /// How it was watched; none where it was not.
    pub watch: Option<WatchFound>,
    /// Whether the sockets that it holds could be read; else no group says nothing.
    pub sockets_read: bool,
    /// Sockets that stay in CLOSE_WAIT, most first.
    pub groups: Vec<SocketGroup>,
    /// What the threads do now, most first.
    pub threads: Vec<ThreadGroup>,
    /// What could not be told, and why.
    pub notes: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessFound {
    /// Its number.
    pub pid: u32,
    /// What it calls itself.
    pub name: String,
    /// Sockets in CLOSE_WAIT that it held before the watch.
    pub close_wait: usize,
}

/// How a process was watched.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WatchFound {
    /// For how long.
    pub seconds: f64,
    /// By what reads were seen: `sock_recv_length`, `tcp_recvmsg` or `system_calls`.
    pub reads_by: &'static str,
    /// By what accepts were seen: `inet_csk_accept` or `system_calls`; none where they were not.
    pub accepts_by: Option<&'static str>,
    /// Whether the process has ended meanwhile.
    pub has_ended: bool,
    /// Connects, accepts, reads of data, and reads of the end that were seen.
    pub events: Events,
    /// Events whose stacks were to be copied.
    pub samples_wanted: u64,
    /// Those that were.
    pub samples: u64,
    /// Samples that were copied, but whose stacks were more than fit, or than could be followed in
    /// time.
    pub dropped: u64,
    /// Samples that made no sense.
    pub malformed: u64,
    /// Events of sockets beyond those that could be followed at once.
    pub untracked: u64,
    /// Reads of MPTCP connections, among those above.
    pub mptcp_reads: u64,
    /// Connections that came into CLOSE_WAIT.
    pub entered_close_wait: u64,
    /// Those that the process then closed.
    pub left_close_wait: u64,
    /// Sockets that came into CLOSE_WAIT less than a second before the end, and are in no group.
    pub recent: u64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Events {
    /// `connect()`.
    pub connects: u64,
    /// `accept()`.
    pub accepts: u64,
    /// Reads that took data.
    pub reads: u64,
    /// Reads that saw the end of file or an error.
    pub end_reads: u64,
}

/// Sockets that stay in CLOSE_WAIT and were last used at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketGroup {
    /// How many.
    pub sockets: u64,
    /// Why they stay: as in `diagnose`, or [`UNKNOWN_CAUSE`].
    pub cause: &'static str,
    /// Inode number of their network namespace, where no thread of the process is in it.
    pub namespace: Option<u32>,
    /// Whether the process has used them while it was watched.
    pub watched: bool,
    /// Whether they were in CLOSE_WAIT before the watch began.
    pub before_watch: bool,
    /// Sockets whose stacks were not copied, because there were too many at once.
    pub unsampled: u64,
    /// Where they were last read.
    pub last_read: Option<Place>,
    /// Whether that read saw the end of file.
    pub end_was_read: bool,
    /// Where they were first read, which names what handles them.
    pub first_read: Option<Place>,
    /// Where they were opened.
    pub opened: Option<Place>,
    /// Where they were accepted.
    pub accepted: Option<Place>,
    /// Whom they lead to, most first.
    pub peers: Vec<PeerCount>,
}

/// Of MPTCP connections of which no read of the end was seen: what is unread, `/proc` does not have.
pub const UNKNOWN_CAUSE: &str = "unknown";

/// A place, with what called it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The functions of the program's own code, on one line.
    pub summary: String,
    /// All frames, the innermost first.
    pub frames: Vec<Frame>,
    /// Whether the frames end where the thread began.
    pub complete: bool,
}

/// How many sockets lead to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerCount {
    /// The peer; for clients with the port, for servers without.
    pub address: String,
    /// How many.
    pub sockets: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frame(function: &str, line: u32) -> Frame {
        Frame {
            function: Some(function.to_owned()),
            file: Some("/src/shop.c".to_owned()),
            line: Some(line),
            inlined: false,
            module: Some("/usr/bin/shop".to_owned()),
            offset: Some(4660),
            own: true,
        }
    }

    fn place(names: &[(&str, u32)]) -> Place {
        let frames: Vec<Frame> = names
            .iter()
            .map(|(name, line)| frame(name, *line))
            .collect();
        Place {
            summary: crate::code_location::frame::own_chain(&frames, 3),
            frames,
            complete: true,
        }
    }

    fn report() -> Report {
        Report {
            schema_version: 1,
            process: ProcessFound {
                pid: 4711,
                name: "shop".to_owned(),
                close_wait: 40,
            },
            others: Vec::new(),
            watch: Some(WatchFound {
                seconds: 30.0,
                reads_by: "sock_recv_length",
                accepts_by: None,
                has_ended: false,
                events: Events {
                    connects: 0,
                    accepts: 0,
                    reads: 300,
                    end_reads: 100,
                },
                samples_wanted: 220,
                samples: 200,
                dropped: 3,
                malformed: 0,
                untracked: 4,
                mptcp_reads: 5,
                entered_close_wait: 100,
                left_close_wait: 59,
                recent: 1,
            }),
            sockets_read: true,
            groups: vec![SocketGroup {
                sockets: 40,
                cause: "eof_read",
                namespace: None,
                watched: true,
                before_watch: false,
                unsampled: 2,
                last_read: Some(place(&[("handle_leak", 18), ("serve", 30)])),
                end_was_read: true,
                first_read: Some(place(&[("serve", 27)])),
                opened: None,
                accepted: None,
                peers: vec![PeerCount {
                    address: "10.0.0.7".to_owned(),
                    sockets: 40,
                }],
            }],
            threads: vec![ThreadGroup {
                threads: 46,
                of: 52,
                call: Some("recvfrom".to_owned()),
                on: Some("connection to 127.0.0.9:15432 (ESTABLISHED)".to_owned()),
                running: false,
                kernel_function: Some("wait_woken".to_owned()),
                place: Some(place(&[("query", 8)])),
            }],
            notes: vec!["Node: no stack names the application".to_owned()],
        }
    }

    #[test]
    fn the_json_is_as_documented() {
        let frame = |function: &str, line: u32| {
            json!({"function": function, "file": "/src/shop.c", "line": line, "inlined": false,
                   "module": "/usr/bin/shop", "offset": 4660, "own": true})
        };
        assert_eq!(
            serde_json::to_value(report()).unwrap(),
            json!({
                "schema_version": 1,
                "process": {"pid": 4711, "name": "shop", "close_wait": 40},
                "others": [],
                "watch": {
                    "seconds": 30.0,
                    "reads_by": "sock_recv_length",
                    "accepts_by": null,
                    "has_ended": false,
                    "events": {"connects": 0, "accepts": 0, "reads": 300, "end_reads": 100},
                    "samples_wanted": 220,
                    "samples": 200,
                    "dropped": 3,
                    "malformed": 0,
                    "untracked": 4,
                    "mptcp_reads": 5,
                    "entered_close_wait": 100,
                    "left_close_wait": 59,
                    "recent": 1,
                },
                "sockets_read": true,
                "groups": [{
                    "sockets": 40,
                    "cause": "eof_read",
                    "namespace": null,
                    "watched": true,
                    "before_watch": false,
                    "unsampled": 2,
                    "last_read": {
                        "summary": "handle_leak (shop.c:18) < serve (shop.c:30)",
                        "frames": [frame("handle_leak", 18), frame("serve", 30)],
                        "complete": true,
                    },
                    "end_was_read": true,
                    "first_read": {
                        "summary": "serve (shop.c:27)",
                        "frames": [frame("serve", 27)],
                        "complete": true,
                    },
                    "opened": null,
                    "accepted": null,
                    "peers": [{"address": "10.0.0.7", "sockets": 40}],
                }],
                "threads": [{
                    "threads": 46,
                    "of": 52,
                    "call": "recvfrom",
                    "on": "connection to 127.0.0.9:15432 (ESTABLISHED)",
                    "running": false,
                    "kernel_function": "wait_woken",
                    "place": {
                        "summary": "query (shop.c:8)",
                        "frames": [frame("query", 8)],
                        "complete": true,
                    },
                }],
                "notes": ["Node: no stack names the application"],
            })
        );
    }

    #[test]
    fn the_text_has_the_place_before_all_else_that_is_known() {
        let mut out = Vec::new();
        write_text(&mut out, &report()).unwrap();
        let expected = "\
shop (pid 4711)
watched for 30.0 s: 0 connects, 0 accepts (not watched, see --accept), 400 reads, 100 of them at the end of file
100 connections came into CLOSE_WAIT, 59 were closed, 1 came less than a second ago
sampled 200 of 220: more would have slowed the process down
3 of the samples are of no use: there were more stacks than fit or could be followed in time
4 events were of sockets beyond those that can be followed at once, and are in no group

1. 40 sockets stay in CLOSE_WAIT, cause eof_read; peers 10.0.0.7 (40)
   this read saw the end of file. Follow every way out of the functions above it, errors and early returns too, and find the one that does not close
   2 of them came too fast to be sampled
   last read, which saw the end of file at handle_leak (shop.c:18) < serve (shop.c:30)
       handle_leak (shop.c:18)
       serve (shop.c:30)
   first read at serve (shop.c:27)
       serve (shop.c:27)

threads now
  46 of 52 threads wait in recvfrom on connection to 127.0.0.9:15432 (ESTABLISHED), at query (shop.c:8) [kernel: wait_woken]

note: Node: no stack names the application
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn nothing_stuck_is_said_with_what_was_seen() {
        let mut nothing = report();
        nothing.groups.clear();
        let mut out = Vec::new();
        write_text(&mut out, &nothing).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("no socket of it stays in CLOSE_WAIT"),
            "{text}"
        );
        assert!(
            text.contains("100 connections came into CLOSE_WAIT, 59 were closed"),
            "{text}"
        );
    }

    fn text_of(report: &Report) -> String {
        let mut out = Vec::new();
        write_text(&mut out, report).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn sockets_that_could_not_be_read_are_not_said_to_be_none() {
        let mut unread = report();
        unread.groups.clear();
        unread.sockets_read = false;
        let text = text_of(&unread);
        assert!(!text.contains("no socket of it stays"), "{text}");
        assert!(
            text.contains(
                "its sockets could not be read: whether any stays in CLOSE_WAIT is not known"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_process_that_has_ended_meanwhile_is_said_to_have() {
        let mut ended = report();
        assert!(!text_of(&ended).contains("ended"));
        if let Some(watch) = &mut ended.watch {
            watch.has_ended = true;
            watch.malformed = 2;
        }
        let text = text_of(&ended);
        assert!(
            text.contains("\nthe process has ended meanwhile\n"),
            "{text}"
        );
        assert!(text.contains("\n2 samples made no sense\n"), "{text}");
    }

    #[test]
    fn a_name_cannot_forge_lines() {
        let mut forged = report();
        forged.process.name = "shop\n9. 99 sockets\u{1b}[2J".to_owned();
        let text = text_of(&forged);
        assert!(!text.contains("\n9. 99"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.starts_with("shop\\n9. 99 sockets"), "{text}");
    }

    #[test]
    fn only_what_was_in_close_wait_before_is_said_to_have_been() {
        let mut unused = report();
        let group = &mut unused.groups[0];
        (group.watched, group.end_was_read) = (false, false);
        let text = text_of(&unused);
        assert!(text.contains("by no read that is seen: splice()"), "{text}");
        assert!(!text.contains("before the watch began"), "{text}");
        unused.groups[0].before_watch = true;
        let text = text_of(&unused);
        assert!(
            text.contains("closed by their peers before the watch began"),
            "{text}"
        );
        // Nothing was watched.
        unused.watch = None;
        let text = text_of(&unused);
        assert!(!text.contains("the watch began"), "{text}");
        assert!(text.contains("--seconds"), "{text}");
    }

    #[test]
    fn what_is_unread_leads_to_the_threads_whether_it_was_watched_or_not() {
        for cause in ["fin_unread", "data_unread"] {
            for (watched, before_watch) in [(true, false), (false, false), (false, true)] {
                let mut unread = report();
                let group = &mut unread.groups[0];
                group.cause = cause;
                (group.watched, group.before_watch) = (watched, before_watch);
                group.end_was_read = false;
                let text = text_of(&unread);
                assert!(
                    text.contains("Look below for what the threads wait for"),
                    "{text}"
                );
            }
        }
    }
}
