//! What runtimes need to be told by, and what cannot be told of them.

/// What to say of a process that runs code of these files. `writes_map` is whether it has written
/// down which code it has made.
#[must_use]
pub fn notes(files: &[&[u8]], writes_map: bool) -> Vec<String> {
    let names: Vec<&[u8]> = files.iter().map(|path| base_name(path)).collect();
    let mut notes = Vec::new();
    if names.contains(&&b"node"[..]) || names.contains(&&b"nodejs"[..]) {
        notes.push(
            "Node: its reads and accepts are the event loop's, and no stack names the application; \
             what is opened shows which core module did it. The process itself can tell who listens to \
             its sockets: docs/where.md has a script for that"
                .to_owned(),
        );
    }
    if names.contains(&&b"libjvm.so"[..]) && !writes_map {
        notes.push(
            "Java: functions are named once the JVM runs with -XX:+PreserveFramePointer and has \
             written its map: `jcmd PID Compiler.perfmap`"
                .to_owned(),
        );
    }
    notes
}

fn base_name(path: &[u8]) -> &[u8] {
    let start = path.iter().rposition(|byte| *byte == b'/');
    let name = &path[start.map_or(0, |slash| slash + 1)..];
    name.strip_suffix(b" (deleted)").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_known_by_its_files() {
        let said = |path: &str, writes_map| notes(&[path.as_bytes()], writes_map).join("");
        assert!(said("/usr/bin/node", true).starts_with("Node: "));
        assert!(said("/opt/node (deleted)", true).starts_with("Node: "));
        assert!(said("/usr/lib/jvm/lib/server/libjvm.so", false).starts_with("Java: "));
        assert_eq!(said("/usr/lib/jvm/lib/server/libjvm.so", true), "");
        assert_eq!(said("/usr/bin/nodejs-not", false), "");
    }
}
