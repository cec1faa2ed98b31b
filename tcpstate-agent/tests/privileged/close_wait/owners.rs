//! Whose they are: processes that share sockets, stuck ones, none, containers.

use std::{
    fs,
    net::{Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{BUSY, Look, SHOWN, SOCKETS, adds_up, is_shown, keep, listeners, ss, total};
use crate::{
    actor::{Actor, Duty, Sockets},
    agent::Agent,
    harness::{Netns, is_excused, require, within},
    prometheus::{self, Prometheus},
};
use tcpstate_agent::collect::close_wait::{Cause, Role};

fn sockets(cause: Cause, count: usize) -> Sockets {
    Sockets {
        role: Role::Server,
        cause,
        address: "127.0.0.1:0".parse().unwrap(),
        count,
    }
}

#[test]
fn sockets_that_a_server_shares_with_its_workers_count_once_for_one_of_them() {
    for cause in [Cause::FinUnread, Cause::EofRead, Cause::Unaccepted] {
        let look = Look::new();
        let namespace = Netns::new();
        let duty = Duty::Share {
            sockets: sockets(cause, 6),
            workers: 3,
        };
        let actor = Actor::start(&namespace, "prefork", duty);
        let port = actor.port.to_string();
        within(SHOWN, || {
            let truth = ss(&namespace);
            // Sockets that were not accepted have no processes, but the queue that they are in.
            let processes = match cause {
                Cause::Unaccepted => listeners(&namespace).remove(0).processes,
                _ => truth[0].processes.clone(),
            };
            assert!(truth.len() == 6 && processes.len() == 4, "{truth:?}");
            // Of a listening socket, whoever was handed it last.
            let blamed = match cause {
                Cause::Unaccepted => processes.iter().max_by_key(|(_, pid)| pid),
                _ => processes.iter().min_by_key(|(_, pid)| pid),
            };
            let blamed = blamed.unwrap();
            let labels = [
                ("role", "server"),
                ("port", &*port),
                ("cause", cause.name()),
            ];
            is_shown(&look.page(), &blamed.0, labels, 6)?;
            let groups = look.groups(&namespace);
            let [group] = &groups[..] else {
                return Err(format!("{groups:?}"));
            };
            let mut shown: Vec<u32> = group.co_owners.iter().map(|other| other.tgid).collect();
            shown.extend(group.owner.as_ref().map(|owner| owner.id.tgid));
            shown.sort_unstable();
            let mut pids: Vec<u32> = processes.iter().map(|(_, pid)| *pid).collect();
            pids.sort_unstable();
            require(shown == pids, format!("{shown:?}, not {pids:?}"))
        });
    }
}

#[test]
fn those_that_are_held_and_those_that_wait_to_be_accepted_add_up_to_all() {
    let look = Look::new();
    let namespace = Netns::new();
    let shown = || {
        within(SHOWN, || {
            let found = look.find();
            let groups = found.groups.iter();
            let mut here: Vec<_> = groups
                .filter(|group| group.service.namespace == namespace.inode())
                .map(|group| {
                    let owner = group.owner.as_ref().map(|owner| owner.id.tgid);
                    if group.cause == Cause::Unaccepted {
                        assert_eq!(group.oldest_descriptor, None);
                    } else {
                        let descriptor = group.oldest_descriptor.unwrap();
                        let link = format!("/proc/{}/fd/{descriptor}", owner.unwrap());
                        let leads_to = fs::read_link(&link).unwrap();
                        assert!(leads_to.to_str().unwrap().starts_with("socket:"), "{link}");
                    }
                    (owner, group.service.port, group.cause, group.tally.sockets)
                })
                .collect();
            here.sort_unstable();
            let there: u64 = here.iter().map(|(.., sockets)| sockets).sum();
            let truth = ss(&namespace).len() as u64;
            require(there == truth, format!("{here:?}, {truth} in all"))?;
            Ok(here)
        })
    };
    let holder = keep(&namespace, "holder", sockets(Cause::EofRead, 20));
    let held = (Some(holder.pid()), holder.port, Cause::EofRead, 20);
    assert_eq!(shown(), [held]);
    let stuck = keep(&namespace, "stuck", sockets(Cause::Unaccepted, 3));
    let waiting = (Some(stuck.pid()), stuck.port, Cause::Unaccepted, 3);
    let mut both = [held, waiting];
    both.sort_unstable();
    assert_eq!(shown(), both);
    drop(stuck);
    let reader = keep(&namespace, "reader", sockets(Cause::FinUnread, 5));
    let mut both = [held, (Some(reader.pid()), reader.port, Cause::FinUnread, 5)];
    both.sort_unstable();
    assert_eq!(shown(), both);
}

/// Several processes that listen at one address, by name and whether they accept.
fn listen_together(namespace: &Netns, servers: &[(&str, bool)]) -> (Vec<Actor>, SocketAddr) {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let actors = servers.iter().map(|&(name, accepts)| {
        let actor = Actor::start(namespace, name, Duty::Listen { address, accepts });
        address.set_port(actor.port);
        actor
    });
    (actors.collect(), address)
}

/// Connects so often, and sends nothing but the end.
fn half_close(namespace: &Netns, address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = || {
        let peer = TcpStream::connect(address).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        peer
    };
    namespace.enter(|| (0..count).map(|_| open()).collect())
}

#[test]
fn of_several_servers_at_one_address_the_one_that_does_not_accept_is_named() {
    let look = Look::new();
    let namespace = Netns::new();
    let servers = [("well-1", true), ("stuck", false), ("well-2", true)];
    let (_servers, address) = listen_together(&namespace, &servers);
    let _peers = half_close(&namespace, address, 90);
    within(SHOWN, || {
        let truth = ss(&namespace);
        require(
            truth.len() < 90
                && truth
                    .iter()
                    .all(|socket| socket.cause() == Cause::Unaccepted),
            format!("{truth:?}"),
        )?;
        assert!(!truth.is_empty(), "none came to the stuck one");
        let port = address.port().to_string();
        let labels = [
            ("role", "server"),
            ("port", &*port),
            ("cause", "unaccepted"),
        ];
        is_shown(&look.page(), "stuck", labels, truth.len() as u64)?;
        let of_all = total(&look.groups(&namespace));
        require(
            of_all == truth.len() as u64,
            format!("{of_all} of {}", truth.len()),
        )
    });
}

#[test]
fn of_several_servers_that_do_not_accept_each_has_those_in_its_own_queue() {
    const COUNT: u64 = 90;

    let look = Look::new();
    let namespace = Netns::new();
    let servers = [("stuck-1", false), ("stuck-2", false), ("stuck-3", false)];
    let (_servers, address) = listen_together(&namespace, &servers);
    let _peers = half_close(&namespace, address, COUNT.try_into().unwrap());
    within(SHOWN, || {
        let (listeners, page) = (listeners(&namespace), look.page());
        let mut sum = 0;
        for (name, _) in servers {
            let is_its = |(process, _): &(String, u32)| process == name;
            let queue = listeners
                .iter()
                .find(|one| one.processes.iter().any(is_its));
            // Of a listener this is the length of its queue.
            let queue = queue.unwrap().received;
            sum += queue;
            let port = address.port().to_string();
            let labels = [
                ("role", "server"),
                ("port", &*port),
                ("cause", "unaccepted"),
            ];
            is_shown(&page, name, labels, queue)?;
        }
        require(sum == COUNT, format!("{sum} of {COUNT} are in the queues"))
    });
}

#[test]
fn sockets_on_the_way_to_another_process_are_nobodys() {
    let look = Look::new();
    let namespace = Netns::new();
    for (cause, kept) in [
        (Cause::EofRead, 0),
        (Cause::DataUnread, 0),
        (Cause::EofRead, 4),
    ] {
        let duty = Duty::Send {
            sockets: sockets(cause, 9),
            kept,
        };
        let sender = Actor::start(&namespace, "sender", duty);
        let (kept, sent) = (kept as u64, 9 - kept as u64);
        let port = sender.port.to_string();
        within(SHOWN, || {
            let truth = ss(&namespace);
            let of_nobody = truth.iter().filter(|one| one.processes.is_empty()).count();
            assert_eq!((truth.len(), of_nobody as u64), (9, sent), "{truth:?}");
            let page = look.page();
            for (process, count) in [("", sent), ("sender", kept)] {
                let labels = [
                    ("process", process),
                    ("unit", ""),
                    ("role", "server"),
                    ("port", &port),
                    ("cause", cause.name()),
                ];
                let shown = page.sum(SOCKETS, &labels);
                require(shown == count, format!("{process:?}: {shown} of {count}"))?;
            }
            let all = total(&look.groups(&namespace));
            require(all == 9, format!("{all} in groups"))?;
            adds_up(&page)
        });
    }
}

#[test]
fn those_of_nobody_have_the_names_of_the_cgroup_that_they_were_made_in() {
    let look = Look::new();
    let (namespace, container) = (Netns::new(), Container::new());
    let duty = Duty::Send {
        sockets: sockets(Cause::EofRead, 9),
        kept: 2,
    };
    let _sender = Actor::start_contained(&namespace, "sender", duty, &container.folder);
    within(SHOWN, || {
        let page = look.page();
        for (process, count) in [("", 7), ("sender", 2)] {
            let labels = [("process", process), ("container_id", &container.id)];
            let shown = page.sum(SOCKETS, &labels);
            require(shown == count, format!("{process:?}: {shown} of {count}"))?;
        }
        adds_up(&page)
    });
}

#[test]
fn two_processes_of_one_name_have_one_series_of_both() {
    let look = Look::new();
    let namespace = Netns::new();
    let first = keep(&namespace, "twin", sockets(Cause::EofRead, 3));
    let second = Sockets {
        address: ([127, 0, 0, 2], first.port).into(),
        ..sockets(Cause::EofRead, 5)
    };
    let _second = keep(&namespace, "twin", second);
    let port = first.port.to_string();
    within(SHOWN, || {
        let labels = [("role", "server"), ("port", &*port), ("cause", "eof_read")];
        is_shown(&look.page(), "twin", labels, 8)?;
        let groups = look.groups(&namespace).len();
        require(groups == 2, format!("{groups} processes"))
    });
}

/// Containers that were made so far.
static CONTAINERS: AtomicU32 = AtomicU32::new(0);

/// A cgroup with the name that Docker gives its containers'; removed when dropped.
struct Container {
    id: String,
    folder: PathBuf,
}

impl Container {
    fn new() -> Self {
        // None has the name of another, whose folder may not be gone yet.
        let number = CONTAINERS.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:032x}{number:032x}", std::process::id());
        let folder = hierarchy().join(format!("docker-{id}.scope"));
        fs::create_dir(&folder).unwrap();
        Self { id, folder }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The kernel takes a process out of its cgroup a moment after it has ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where cgroups are mounted: those of version 2, or systemd's own.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let find = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let is_it = words[2] == kind && words[3].split(',').any(|word| word == option);
            is_it.then(|| Path::new(words[1]).to_owned())
        })
    };
    find("cgroup2", "rw")
        .or_else(|| find("cgroup", "name=systemd"))
        .expect("no cgroups are mounted")
}

/// A process that keeps sockets in a container. What is dropped first comes first.
struct Contained {
    actor: Actor,
    container: Container,
    _namespace: Netns,
    count: u64,
}

/// Two containers with one program each, which keep sockets on the same port.
fn in_two_containers(name: &str) -> [Contained; 2] {
    let mut port = 0;
    [3, 4].map(|count| {
        let (namespace, container) = (Netns::new(), Container::new());
        let sockets = Sockets {
            address: ([127, 0, 0, 1], port).into(),
            ..sockets(Cause::FinUnread, count)
        };
        let duty = Duty::Keep(sockets);
        let actor = Actor::start_contained(&namespace, name, duty, &container.folder);
        port = actor.port;
        Contained {
            actor,
            container,
            _namespace: namespace,
            count: count.try_into().unwrap(),
        }
    })
}

#[test]
fn containers_that_use_one_port_have_a_series_each() {
    let look = Look::new();
    let all = in_two_containers("contained");
    within(SHOWN, || {
        let page = look.page();
        for one in &all {
            let (id, count) = (&*one.container.id, one.count);
            let labels = [
                ("process", "contained"),
                ("container_id", id),
                ("role", "server"),
                ("port", &one.actor.port.to_string()),
                ("cause", "fin_unread"),
            ];
            let series = page.samples(SOCKETS, &labels);
            require(series.len() == 1, format!("{series:?}"))?;
            let shown = series[0].count();
            require(shown == count, format!("{shown} of {count}"))?;
            let open = page.sum(
                "tcpstate_owner_open_fds",
                &[("process", "contained"), ("container_id", id)],
            );
            require(open >= 2 * count, format!("{open} descriptors"))?;
        }
        let series = page.samples(SOCKETS, &[("process", "contained")]);
        require(series.len() == 2, format!("{series:?}"))
    });
}

#[test]
fn a_real_prometheus_takes_the_series_of_containers_apart() {
    if is_excused("prometheus") || is_excused("promtool") {
        return;
    }
    let agent = Agent::start_with(&BUSY);
    let all = in_two_containers("scraped");
    within(SHOWN, || {
        let series = agent.page();
        let series = series.samples(SOCKETS, &[("process", "scraped")]);
        require(series.len() == 2, format!("{series:?}"))
    });
    prometheus::check(agent.metrics().text());
    let prometheus = Prometheus::start(agent.address());
    within(Duration::from_secs(90), || {
        for one in &all {
            let (id, port) = (&one.container.id, one.actor.port);
            let found = prometheus.query(&format!(
                "{SOCKETS}{{process=\"scraped\",port=\"{port}\",container_id=\"{id}\"}}"
            ))?;
            let value = found[0]["value"][1].as_str();
            require(
                found.as_array().is_some_and(|all| all.len() == 1)
                    && value == Some(&*one.count.to_string()),
                format!("{found}"),
            )?;
        }
        let up = prometheus.query("up{job=\"tcpstate\"}")?;
        require(up[0]["value"][1] == "1", "not scraped")
    });
}
