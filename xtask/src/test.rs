//! Running the tests: those that anybody can run, then those that need the kernel's permission.

use std::{env, fs, os::unix::fs::MetadataExt};

use anyhow::{Context, Result, bail};

use crate::{
    folder, process,
    tools::{self, Tools},
    workspace,
};

/// The test target that loads programs into the kernel and makes network namespaces.
const PRIVILEGED: &str = "privileged";

/// `cargo xtask test`; `args` go to the test binaries.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let root = is_root()?;
    if !root && env::var_os("CI").is_some() {
        bail!(
            "cannot run the privileged tests: not root, and CI is set, which says that no test \
             may be skipped (run as root, or unset CI)"
        );
    }
    // Before the tests, so that a failure to install does not come at their end.
    let tools = if root { Some(tools::provide()?) } else { None };

    unprivileged(args)?;
    beside_node_exporter(args)?;
    let Some(tools) = tools else {
        banner(
            "SKIPPED: the privileged tests, for want of root. They test the eBPF programs in \
             this kernel.\nRun them with `sudo -E env PATH=$PATH cargo xtask test`.",
        );
        return Ok(());
    };
    privileged(args, &tools)?;
    if !tools.missing.is_empty() {
        banner(&format!(
            "NOT TESTED in full: could not install {}. The tests that compare with it say so above.",
            tools.missing.join(", ")
        ));
    }
    Ok(())
}

fn unprivileged(args: &[String]) -> Result<()> {
    let mut command = process::cargo_all("test")?;
    command.args(["--lib", "--bins"]);
    for target in integration_tests()? {
        if target != PRIVILEGED {
            command.args(["--test", &target]);
        }
    }
    process::run(command.arg("--").args(args))?;
    // Naming targets, as above, leaves out the examples in the documentation.
    process::run(process::cargo_all("test")?.args(["--doc", "--"]).args(args))
}

/// The web configuration file beside what another exporter makes of it.
fn beside_node_exporter(args: &[String]) -> Result<()> {
    let Some(program) = tools::node_exporter()? else {
        banner(
            "NOT COMPARED: the web configuration file with node_exporter, which cannot be fetched \
             without network and apt-get.",
        );
        return Ok(());
    };
    process::run(
        process::cargo_all("test")?
            .args(["--test", "web", "--", "--ignored"])
            .args(args)
            .env("TCPSTATE_TEST_NODE_EXPORTER", program),
    )
}

fn privileged(args: &[String], tools: &Tools) -> Result<()> {
    process::run(
        process::cargo_all("test")?
            // They share one kernel, whose sockets they count.
            .args(["--test", PRIVILEGED, "--", "--test-threads=1"])
            .args(args)
            .env("PATH", &tools.path)
            // What a test says when it fails is not to be buried under where it was.
            .env("RUST_BACKTRACE", "0")
            .env("TCPSTATE_TEST_MISSING_TOOLS", tools.missing.join(",")),
    )
}

/// The names of all integration tests of the workspace. Cargo has no way to say "all but one".
fn integration_tests() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for member in folder::entries(&workspace::root()?)? {
        let tests = member.join("tests");
        for path in if tests.is_dir() {
            folder::entries(&tests)?
        } else {
            Vec::new()
        } {
            let name = folder::name(&path);
            if path.join("main.rs").is_file() {
                names.push(name);
            } else if let Some(name) = name.strip_suffix(".rs") {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether this may do everything.
pub(crate) fn is_root() -> Result<bool> {
    // The files of a process belong to its effective user.
    let process =
        fs::metadata("/proc/self").context("cannot tell whether this is root from /proc/self")?;
    Ok(process.uid() == 0)
}

/// Says what must not be overlooked.
pub(crate) fn banner(text: &str) {
    let line = "*".repeat(100);
    eprintln!("\n{line}\n{text}\n{line}");
}
