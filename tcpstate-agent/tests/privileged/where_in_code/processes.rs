//! Processes that cannot be looked at, that end meanwhile, or that see other files.

use std::{fs, path::Path, process::Command, time::Duration};

use aya::programs::loaded_programs;
use object::Object as _;

use super::{
    ROUNDS, Where, assert_blamed, await_close_wait, compile_leak, folder, line_at, line_of, start,
    watch_leaking,
};
use crate::{
    actor::{Actor, Duty},
    harness::{AGENT, Netns, is_excused, run, within},
};
use tcpstate_agent::kernel::kernel_btf::{KERNEL_BTF, KernelBtf};

fn refused(arguments: &[&str]) -> String {
    let output = run(AGENT, &[&["where"], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_cannot_be_looked_at_is_refused_with_the_reason() {
    assert!(refused(&["--pid", "4194304"]).contains("no process 4194304"));
    // kthreadd.
    assert!(refused(&["--pid", "2"]).contains("kernel thread"));
    assert!(refused(&["--process", "no-such-name"]).contains("no process is called"));
    assert!(refused(&["--unit", "no-such.service"]).contains("no-such.service"));
    let mut zombie = Command::new("true").spawn().unwrap();
    let pid = zombie.id().to_string();
    within(Duration::from_secs(5), || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(") Z ").then_some(()).ok_or(stat)
    });
    assert!(refused(&["--pid", &pid]).contains("zombie"));
    zombie.wait().unwrap();
}

#[test]
fn in_a_pid_namespace_of_its_own_it_says_that_numbers_are_others() {
    let own = ["--pid", "--fork", "--mount-proc", AGENT, "where"];
    for pid in ["1", "2"] {
        let output = run("unshare", &[&own[..], &["--pid", pid]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("not in the host's PID namespace"), "{said}");
    }
}

#[test]
fn without_permission_it_is_said_which_is_missing() {
    let words = [
        "--reuid",
        "65534",
        "--clear-groups",
        "--ambient-caps=-all",
        AGENT,
        "where",
    ];
    let own = std::process::id().to_string();
    let output = run("setpriv", &[&words[..], &["--pid", &own]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("CAP_") || said.contains("Permission denied"),
        "{said}"
    );
}

#[test]
fn a_rust_program_is_blamed_on_every_kernel() {
    let namespace = Netns::new();
    let actor = Actor::start(&namespace, "leaker", Duty::Leak);
    let pid = actor.pid().to_string();
    let watching = Where::start(&["--pid", &pid, "--accept"]);
    // Of a thread that waits in accept() already, the end of that call may not be seen.
    namespace.enter(|| crate::actor::ask_leaker_to_close(actor.port));
    let peers = namespace.enter(|| crate::actor::ask_leaker(actor.port, ROUNDS));
    await_close_wait(&namespace, ROUNDS);
    std::thread::sleep(Duration::from_millis(1_200));
    let report = watching.finish();
    assert_blamed(
        &report,
        "last_read",
        "leak_after_reading",
        "close_after_reading",
        ROUNDS,
    );
    // musl's own functions have no tables. What called them is looked for on the stack, and the first
    // of its callers may be passed over.
    let accepts = if cfg!(target_env = "musl") {
        "leak::{{closure}}"
    } else {
        "accept_for_leaker"
    };
    assert_blamed(&report, "accepted", accepts, "close_after_reading", ROUNDS);
    drop(peers);
}

#[test]
fn tokio_is_blamed_by_the_async_function_that_leaks_on_every_kernel() {
    let namespace = Netns::new();
    let actor = Actor::start(&namespace, "leaker", Duty::LeakInTokio);
    let pid = actor.pid().to_string();
    let watching = Where::start(&["--pid", &pid]);
    let peers = namespace.enter(|| crate::actor::ask_leaker(actor.port, ROUNDS));
    await_close_wait(&namespace, ROUNDS);
    std::thread::sleep(Duration::from_millis(1_200));
    let report = watching.finish();
    assert_blamed(
        &report,
        "last_read",
        "leak_tokio::handle_leak",
        "handle_ok",
        ROUNDS,
    );
    let own = fs::read("/proc/self/exe").unwrap();
    let own = object::File::parse(&*own).unwrap();
    if own.section_by_name(".debug_line").is_some() {
        let line = line_of("leak_tokio.rs", "read_all(&mut stream).await");
        assert_eq!(line_at(&report, "last_read", "handle_leak"), line);
    }
    drop(peers);
}

#[test]
fn a_process_that_ends_meanwhile_is_reported_as_far_as_it_was_seen() {
    let namespace = Netns::new();
    let actor = Actor::start(&namespace, "leaker", Duty::Leak);
    let pid = actor.pid().to_string();
    let watching = Where::start(&["--pid", &pid]);
    let _peers = namespace.enter(|| crate::actor::ask_leaker(actor.port, 2));
    await_close_wait(&namespace, 2);
    actor.kill();
    let report = watching.wait();
    assert_eq!(report["watch"]["has_ended"], true, "{report:#}");
    assert!(
        report["watch"]["events"]["end_reads"].as_u64().unwrap() >= 2,
        "{report:#}"
    );
}

#[test]
fn nothing_is_left_in_the_kernel_however_it_ends() {
    let namespace = Netns::new();
    let actor = Actor::start(&namespace, "leaker", Duty::Leak);
    let pid = actor.pid().to_string();
    let watching = Where::start(&["--pid", &pid]);
    watching.process.signal(rustix::process::Signal::KILL);
    drop(watching);
    within(Duration::from_secs(10), || {
        let left: Vec<String> = loaded_programs()
            .filter_map(|program| program.ok()?.name_as_str().map(str::to_owned))
            .filter(|name| name.starts_with("where_"))
            .collect();
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    });
}

#[test]
fn a_program_that_only_its_own_mount_namespace_has_is_blamed() {
    if is_excused("gcc") {
        return;
    }
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    compile_leak(&path("leak"));
    fs::create_dir(path("mounted")).unwrap();
    let script = format!(
        "mount -t tmpfs none {mounted} && cp {leak} {mounted}/inside && exec {mounted}/inside \"$@\"",
        mounted = path("mounted"),
        leak = path("leak"),
    );
    let namespace = Netns::new();
    let server = start(
        &namespace,
        &["unshare", "--mount", "sh", "-c", &script, "sh"],
    );
    assert!(!fs::exists(path("mounted/inside")).unwrap());
    let report = watch_leaking(&namespace, &server, b"LO", &[]);
    assert_blamed(&report, "last_read", "handle_leak", "handle_ok", ROUNDS);
}

#[test]
fn a_program_whose_file_was_replaced_is_blamed_by_the_old_one() {
    if is_excused("gcc") {
        return;
    }
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    compile_leak(&path("leak"));
    let namespace = Netns::new();
    let server = start(&namespace, &[&path("leak")]);
    fs::remove_file(path("leak")).unwrap();
    fs::write(path("leak"), "another").unwrap();
    let report = watch_leaking(&namespace, &server, b"LO", &[]);
    assert_blamed(&report, "last_read", "handle_leak", "handle_ok", ROUNDS);
}

#[test]
fn the_process_of_a_port_with_the_most_in_close_wait_is_taken() {
    let namespace = Netns::new();
    let actor = Actor::start(&namespace, "leaker", Duty::Leak);
    let peers = namespace.enter(|| crate::actor::ask_leaker(actor.port, 3));
    await_close_wait(&namespace, 3);
    let port = actor.port.to_string();
    let output = run(
        AGENT,
        &[
            "where",
            "--port",
            &port,
            "--seconds",
            "0",
            "--output",
            "json",
        ],
    );
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["process"]["pid"], actor.pid(), "{report:#}");
    assert_eq!(report["process"]["close_wait"], 3, "{report:#}");
    // They are older than the watch, of which there was none.
    assert_eq!(report["groups"][0]["watched"], false, "{report:#}");
    drop(peers);
}

#[test]
fn there_is_a_program_for_the_functions_as_this_kernel_has_them() {
    let kernel = KernelBtf::open(Path::new(KERNEL_BTF)).unwrap();
    let accepts = kernel.function_parameters("inet_csk_accept");
    assert!(matches!(accepts, Some(2 | 4)), "{accepts:?}");
    // Only before there was a tracepoint is this one needed.
    if kernel.typedef("btf_trace_sock_recv_length").is_none() {
        let reads = kernel.function_parameters("tcp_recvmsg");
        assert!(matches!(reads, Some(5 | 6)), "{reads:?}");
    }
    assert_eq!(kernel.function_parameters("no_such_function"), None);
}
