//! The agent and its privileged tests, linked statically: they run on any kernel.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::matrix::Architecture;
use crate::process;

const PACKAGE: &str = "tcpstate-agent";
const TESTS: &str = "privileged";
const PROFILE: &str = "vm";

/// What is run in a virtual machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Binaries {
    /// The agent, where the tests expect it.
    pub(crate) agent: PathBuf,
    pub(crate) tests: PathBuf,
}

pub(crate) fn build(architecture: Architecture) -> Result<Binaries> {
    let target = architecture.target();
    if !has_target(target)? {
        bail!(
            "cannot build for {target}: no standard library for it here (run `cargo xtask setup`)"
        );
    }
    let mut cargo = process::cargo()?;
    cargo
        .args(["build", "--locked", "--package", PACKAGE])
        .args(["--bin", PACKAGE, "--test", TESTS])
        .args(["--profile", PROFILE, "--target", target])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    if architecture == Architecture::Arm64 {
        // The toolchain's own linker, and a compiler that knows every architecture.
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
        cargo.env("CC_aarch64_unknown_linux_musl", "clang");
    }
    eprintln!("building the agent and its tests for {target}");
    let mut running = cargo.spawn().context("cannot run cargo")?;
    let messages = running
        .stdout
        .take()
        .context("cannot read what cargo says")?;
    let messages: Vec<String> = BufReader::new(messages).lines().collect::<Result<_, _>>()?;
    let status = running.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("cannot build the agent and its tests for {target}: cargo {status}, see above");
    }
    let executable = |kind, name| {
        messages
            .iter()
            .find_map(|message| executable(message, kind, name))
            .with_context(|| format!("cannot find {name} among what cargo has built for {target}"))
    };
    Ok(Binaries {
        agent: executable("bin", PACKAGE)?,
        tests: executable("test", TESTS)?,
    })
}

/// Installs the standard library for `target` where it is missing.
pub(crate) fn install_target(target: &str) -> Result<()> {
    if has_target(target)? {
        return Ok(());
    }
    process::run(Command::new("rustup").args(["target", "add", target]))
        .with_context(|| format!("cannot install the standard library for {target}"))
}

fn has_target(target: &str) -> Result<bool> {
    let folder = process::output(Command::new("rustc").args([
        "--print",
        "target-libdir",
        "--target",
        target,
    ]))?;
    Ok(PathBuf::from(folder.trim()).is_dir())
}

/// The program in a message of cargo's, if it is the one that is looked for.
fn executable(message: &str, kind: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_it = message["reason"] == "compiler-artifact"
        && target["name"] == name
        && target["kind"][0] == kind;
    is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_kind_and_name() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"privileged"},"executable":"/t/privileged-1"}"#;
        let found = |kind, name| executable(message, kind, name);
        assert_eq!(found("test", "privileged"), Some("/t/privileged-1".into()));
        assert_eq!(found("bin", "privileged"), None);
        assert_eq!(found("test", "other"), None);
        assert_eq!(executable("warning: x", "test", "privileged"), None);
        let library = message.replace("\"/t/privileged-1\"", "null");
        assert_eq!(executable(&library, "test", "privileged"), None);
    }
}
