//! File systems that are missing, or that nobody may write to.

use std::process::Command;

use crate::{agent::Agent, harness::AGENT};

/// An agent for which this has been done before.
fn agent_after(done: &str) -> Agent {
    let mut command = Command::new("unshare");
    let script = format!("{done} && exec {AGENT} run \"$@\"");
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    Agent::start_command(command)
}

#[test]
fn without_cgroup_file_systems_sockets_and_owners_are_told() {
    let agent = agent_after("mount -t tmpfs none /sys/fs/cgroup");
    let page = agent.page();
    assert!(page.sum("tcpstate_sockets", &[("state", "listen")]) >= 1);
    assert_eq!(
        page.sum("tcpstate_program_up", &[("program", "read_owners")]),
        1
    );
    assert_eq!(agent.stop().code, Some(0));
}

#[test]
fn where_nothing_can_be_written_nothing_is_missing() {
    // Of these mounts alone: without `bind` the file systems of the whole host would be.
    let agent = agent_after(
        "mount -o remount,bind,ro / && mount -o remount,bind,ro /proc && \
         mount -o remount,bind,ro /sys",
    );
    let page = agent.page();
    assert!(page.sum("tcpstate_sockets", &[("state", "listen")]) >= 1);
    for program in page.samples("tcpstate_program_up", &[]) {
        assert_eq!(program.count(), 1, "{}", program.label("program"));
    }
    assert_eq!(agent.stop().code, Some(0));
}

#[test]
fn without_proc_what_it_is_for_is_absent_and_all_else_is_shown() {
    let agent = agent_after("mount -t tmpfs none /proc");
    let page = agent.page();
    for source in page.samples("tcpstate_source_up", &[]) {
        assert_eq!(source.count(), 0, "{}", source.label("source"));
    }
    assert!(page.sum("tcpstate_sockets", &[("state", "listen")]) >= 1);
    for absent in ["tcpstate_orphaned_sockets", "tcpstate_tcp_max_orphans"] {
        assert!(page.samples(absent, &[]).is_empty(), "{absent} is told");
    }
    let ended = agent.stop();
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("/proc"), "{}", ended.stderr);
}
