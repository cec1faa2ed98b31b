//! The machine's own apt.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// apt-get, which asks nothing.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Fetches the lists of packages; `false` where the archive cannot be reached.
pub(crate) fn update() -> Result<bool> {
    eprintln!("+ apt-get update");
    let output = command(&["update", "--error-on=any"])
        .output()
        .context("cannot run apt-get")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprint!("{said}");
        if !is_network_failure(&said) {
            bail!("cannot fetch the lists of packages: apt-get says why above");
        }
    }
    Ok(output.status.success())
}

/// Whether apt complains of the way to the archive, not of what it found there.
pub(crate) fn is_network_failure(said: &str) -> bool {
    let of_the_way = [
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Cannot initiate the connection",
        "Unable to connect",
        "Connection failed",
        "Connection refused",
        "connection timed out",
        "Connection timed out",
        "Network is unreachable",
        "No route to host",
    ];
    let of_what_is_there = [
        "404",
        "403",
        "NO_PUBKEY",
        "not signed",
        "Hash Sum",
        "expired",
    ];
    of_the_way.iter().any(|words| said.contains(words))
        && !of_what_is_there.iter().any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_that_fails_is_unreachable() {
        for said in [
            "Err:1 http://a.example/debian x InRelease\n  Temporary failure resolving 'a.example'",
            "E: Failed to fetch http://a/ Could not connect to a:80 (1.2.3.4), connection timed out",
            "Cannot initiate the connection to a:80. - connect (101: Network is unreachable)",
        ] {
            assert!(is_network_failure(said), "{said}");
        }
        for said in [
            "",
            "E: The repository 'http://a/debian x Release' does not have a Release file.",
            "Err:2 http://a/debian x Release\n  404  Not Found",
            "W: GPG error: the public key is not available: NO_PUBKEY 1. Could not connect",
        ] {
            assert!(!is_network_failure(said), "{said}");
        }
    }
}
