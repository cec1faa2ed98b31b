//! The oldest Rust that builds the project: its `rust-version`.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process, toolchain, workspace};

/// The packages that anybody builds. The eBPF programs have a compiler of their own.
const BUILT: [&str; 3] = ["tcpstate-common", "tcpstate-agent", "xtask"];

/// A step of `cargo xtask ci`: whoever has that Rust and no newer one can build everything.
pub(crate) fn check() -> Result<()> {
    let version = version()?;
    let readme = fs::read_to_string(workspace::root()?.join("README.md"))
        .context("cannot read README.md")?;
    if !readme.contains(&format!("Rust {version} ")) {
        bail!("README.md does not say that it takes Rust {version}");
    }
    if is_at_hand(&version)? {
        println!(
            "Rust {version}, the oldest that is promised, is what every other step is run with"
        );
        return Ok(());
    }
    if !is_installed(&version) {
        bail!("cannot build with Rust {version}: it is not here (run `cargo xtask setup`)");
    }
    process::run(
        toolchain::command(&version, "cargo")
            .arg("check")
            .args(process::ALL_CRATES)
            .current_dir(workspace::root()?)
            // Apart, or each of the two would have everything built anew for the other.
            .env("CARGO_TARGET_DIR", workspace::scratch()?.join("msrv")),
    )
}

/// Installs that Rust where it is not here.
pub(crate) fn install() -> Result<()> {
    let version = version()?;
    if !is_at_hand(&version)? && !is_installed(&version) {
        toolchain::install_rust(&version, &[])?;
    }
    Ok(())
}

/// What all packages promise alike.
fn version() -> Result<String> {
    let metadata = process::output(process::cargo()?.args([
        "metadata",
        "--locked",
        "--no-deps",
        "--format-version=1",
    ]))?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("cannot read cargo's metadata")?;
    common_version(&metadata)
}

fn common_version(metadata: &Value) -> Result<String> {
    let mut common = None;
    for name in BUILT {
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let version = packages
            .filter(|package| package["name"] == name)
            .find_map(|package| package["rust_version"].as_str())
            .with_context(|| format!("{name} has no rust-version"))?;
        let expected = *common.get_or_insert(version);
        if version != expected {
            bail!("{name} has rust-version {version}, and another package {expected}");
        }
    }
    Ok(common.context("there is no package")?.to_owned())
}

/// Whether the toolchain that runs this is of that version.
fn is_at_hand(version: &str) -> Result<bool> {
    let said = process::output(Command::new("rustc").arg("--version"))?;
    Ok(is_of_version(&said, version))
}

fn is_installed(version: &str) -> bool {
    process::output(toolchain::command(version, "rustc").arg("--version"))
        .is_ok_and(|said| is_of_version(&said, version))
}

/// `rustc 1.95.0 (…)` is of version 1.95.
fn is_of_version(said: &str, version: &str) -> bool {
    said.strip_prefix("rustc ")
        .and_then(|rest| rest.strip_prefix(version))
        .is_some_and(|rest| rest.starts_with(['.', ' ']))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_package_has_the_same_version() {
        let metadata = |of_agent: Value| {
            let package =
                |name: &str, version: Value| json!({"name": name, "rust_version": version});
            json!({"packages": [
                package("tcpstate-common", json!("1.95")), package("tcpstate-agent", of_agent),
                package("tcpstate-ebpf", Value::Null), package("xtask", json!("1.95")),
            ]})
        };
        assert_eq!(common_version(&metadata(json!("1.95"))).unwrap(), "1.95");
        for bad in [json!("1.94"), Value::Null] {
            assert!(common_version(&metadata(bad)).is_err());
        }
    }

    #[test]
    fn a_patch_release_is_of_the_version_and_a_longer_number_is_not() {
        for (said, is_so) in [
            ("rustc 1.95.0 (59807616e 2026-04-14)", true),
            ("rustc 1.95.1-beta.1", true),
            ("rustc 1.950.0", false),
            ("rustc 1.96.0", false),
            ("cargo 1.95.0", false),
        ] {
            assert_eq!(is_of_version(said, "1.95"), is_so, "{said}");
        }
    }
}
