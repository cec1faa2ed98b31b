//! A `/proc` that hides most of what is in it.

use std::process::Command;

use crate::{
    agent::Agent,
    harness::{AGENT, run},
};

/// Processes alone are left of it, and none but the agent's own, as `ProcSubset=pid`,
/// `ProtectProc=invisible` and a PID namespace do.
const HIDE: &str = "mount -t proc -o subset=pid,hidepid=invisible proc /proc";

#[test]
fn what_is_hidden_is_named_and_all_else_is_shown() {
    let whole = Agent::start();
    let families = |text: &str| -> Vec<String> {
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        names.map(str::to_owned).collect()
    };
    let all = families(whole.metrics().text());
    drop(whole.stop());

    let mut command = Command::new("unshare");
    let script = format!("{HIDE} && exec {AGENT} run \"$@\"");
    command.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        &script,
        "sh",
    ]);
    let agent = Agent::start_command(command);
    let metrics = agent.metrics();
    let up = |source: &str| metrics.value(&format!("tcpstate_source_up{{source=\"{source}\"}}"));
    assert_eq!((up("sockstat"), up("sysctl"), up("fdinfo")), (1, 0, 1));
    let shown = families(metrics.text());
    let missing: Vec<_> = all
        .iter()
        .filter(|family| !shown.contains(family))
        // What the kernel tells of the agent's own process is in the hidden part too.
        .filter(|family| family.starts_with("tcpstate_"))
        .collect();
    assert_eq!(missing, ["tcpstate_tcp_max_orphans gauge"]);

    let script = format!("{HIDE} && exec {AGENT} check");
    let output = run(
        "unshare",
        &["--mount", "--pid", "--fork", "sh", "-c", &script],
    );
    let said = String::from_utf8(output.stdout).unwrap();
    for words in [
        "/proc/sys/net/ipv4/tcp_max_orphans cannot be read",
        "tcpstate_tcp_max_orphans",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!said.contains("sockstat cannot"), "{said}");
}
