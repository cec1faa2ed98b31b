//! Who should accept, of several that hold a listening socket.

use serde_json::{Value, json};

use super::{Case, TOLD, have_read, one_group, visit};
use crate::{
    harness::{is_excused, require, within},
    programs::{PYTHON_PACKAGE, free_port, python},
};

fn pids(group: &Value) -> Vec<u64> {
    let others = group["shared_with"].as_array().unwrap().iter();
    let first = group["process"]["pid"].as_u64().unwrap();
    let mut pids: Vec<u64> = others.map(|pid| pid.as_u64().unwrap()).collect();
    pids.push(first);
    pids.sort_unstable();
    pids
}

/// As gunicorn, php-fpm and Apache have it: a master that holds the listening socket too.
#[test]
fn where_all_workers_hang_they_are_named_and_not_their_master() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("workers");
    let port = free_port(&case.namespace);
    let script = format!(
        "import os, socket, sys\n\
         listener = socket.create_server(('127.0.0.1', {port}), backlog=8)\n\
         def named(name): open('/proc/self/comm', 'w').write(name)\n\
         named('master'); workers = []\n\
         for _ in range(2):\n\
         \x20   pid = os.fork()\n\
         \x20   if pid == 0:\n\
         \x20       named('worker'); connection, _ = listener.accept(); connection.recv(10)\n\
         \x20       os.write(1, b'read\\n'), sys.stdin.read(), os._exit(0)\n\
         \x20   workers.append(pid)\n\
         print(*workers, flush=True); sys.stdin.read()\n"
    );
    let mut master = python(&case.namespace, &script);
    let line = master.line();
    let mut workers: Vec<u64> = line
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    workers.sort_unstable();
    let visitors = visit(&case.namespace, port, 8);
    have_read(&mut master, 2);
    drop(visitors);
    let told = case.is_told(
        port,
        &[
            one_group("worker", "server", port, "unaccepted", "blocked_accept", 6),
            one_group("worker", "server", port, "fin_unread", "in_service", 2),
        ],
    );
    assert_eq!(pids(&told["groups"][0]), workers);
    assert_eq!(told["groups"][1]["alike"].as_array().unwrap().len(), 1);
    // The listener is theirs too, and so is its series.
    let listener = &told["listeners"][0];
    assert_eq!(pids(listener), workers, "{listener:#}");
    assert_eq!(listener["verdict"], "blocked_accept", "{listener:#}");
    let port = port.to_string();
    within(TOLD, || {
        let page = case.agent.page();
        let labels = [("process", "worker"), ("port", &*port)];
        let queue = page.sum("tcpstate_listener_accept_queue", &labels);
        require(queue == 6, format!("{queue} wait for the workers"))
    });
}

/// As systemd and a service that it has handed a socket to.
#[test]
fn of_those_that_hold_a_listening_socket_who_watches_it_should_accept() {
    if is_excused(PYTHON_PACKAGE) {
        return;
    }
    let case = Case::new("activation");
    for watches in [true, false] {
        let port = free_port(&case.namespace);
        let script = format!(
            "import os, select, socket, sys\n\
             listener = socket.create_server(('127.0.0.1', {port}), backlog=16)\n\
             pid = os.fork()\n\
             if pid == 0:\n\
             \x20   open('/proc/self/comm', 'w').write('my-service')\n\
             \x20   epoll = select.epoll()\n\
             \x20   if {}: epoll.register(listener, select.EPOLLIN)\n\
             \x20   sys.stdin.read(), os._exit(0)\n\
             open('/proc/self/comm', 'w').write('activator')\n\
             sys.stdin.read()\n",
            if watches { "True" } else { "False" }
        );
        let activator = python(&case.namespace, &script);
        drop(visit(&case.namespace, port, 10));
        let told = case.is_told(
            port,
            &[json!([
                "my-service",
                "server",
                port,
                "unaccepted",
                "blocked_accept",
                10,
                !watches
            ])],
        );
        let others = &told["groups"][0]["shared_names"];
        let expected = if watches {
            json!([])
        } else {
            json!(["activator"])
        };
        assert_eq!(*others, expected);
        assert_eq!(told["listeners"][0]["process"]["name"], "my-service");
        drop(activator);
    }
}
