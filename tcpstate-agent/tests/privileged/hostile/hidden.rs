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
    // Those with labels come and go with what is labelled.
    let plain = |text: &str| -> Vec<String> {
        let names = text.lines().filter_map(|line| line.split_once(' '));
        let names = names.map(|(name, _)| name.to_owned());
        names
            .filter(|name| name.starts_with("tcpstate_") && !name.contains('{'))
            .collect()
    };
    let all = plain(whole.metrics().text());
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
    let shown = plain(metrics.text());
    let missing: Vec<_> = all.iter().filter(|name| !shown.contains(name)).collect();
    assert_eq!(missing, ["tcpstate_tcp_max_orphans"]);
    let listening = metrics.value(r#"tcpstate_sockets{family="ipv4",state="listen"}"#);
    assert!(listening >= 1);

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
