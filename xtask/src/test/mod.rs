//! Running the tests: those that anybody can run, then those that need the kernel's permission.

mod results;
mod verdict;

use std::{env, fs, os::unix::fs::MetadataExt, process::Command};

use anyhow::{Context, Result, bail};

pub(crate) use self::results::why_skipped;
use self::{results::Test, verdict::Excuses};
use crate::{
    cargo_tool, folder, process,
    tools::{self, Tools},
    vm, workspace,
};

/// The test target that loads programs into the kernel and makes network namespaces. A plain
/// `cargo test` leaves it out.
pub(crate) const PRIVILEGED: &str = "privileged";

/// How many of the slowest tests are told.
const SLOWEST: usize = 20;

/// `cargo xtask test`; `args` go to the test runner.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let is_ci = env::var_os("CI").is_some();
    let root = is_root()?;
    if !root && is_ci {
        bail!(
            "cannot run the privileged tests: not root, and CI is set, which says that no test \
             may be skipped (run as root, or unset CI)"
        );
    }
    // Before the tests, so that what is missing is not told at their end.
    let tools = if root { Some(tools::find()?) } else { None };
    let excuses = Excuses {
        unfetched: tools::unfetched()?,
        of_kernel: vm::host_skips()?,
    };
    if let Some(tools) = &tools
        && is_ci
    {
        excuses.require(&tools.missing)?;
    }

    let mut ended = Vec::new();
    let outcome = run_all(args, tools.as_ref(), &mut ended);
    print!("{}", results::slowest(&ended, SLOWEST));
    verdict::of(&ended, &excuses, is_ci, outcome)?;
    if tools.is_none() {
        banner(
            "SKIPPED: the privileged tests, for want of root. They test the eBPF programs in \
             this kernel.\nRun them with `sudo -E env PATH=$PATH cargo xtask test`.",
        );
    }
    Ok(())
}

/// Runs them, up to the first group that fails; those that have ended are added to `ended`.
fn run_all(args: &[String], tools: Option<&Tools>, ended: &mut Vec<Test>) -> Result<()> {
    let mut others = vec!["--lib".to_owned(), "--bins".to_owned()];
    for target in integration_tests()? {
        if target != PRIVILEGED {
            others.extend(["--test".to_owned(), target]);
        }
    }
    nextest(&others, args, ended, |_| {})?;
    beside_node_exporter(args, ended)?;
    // The examples in the documentation, which that runner does not know.
    process::run(process::cargo_all("test")?.args(["--doc", "--"]).args(args))?;
    if let Some(tools) = tools {
        let target = ["--test".to_owned(), PRIVILEGED.to_owned()];
        nextest(&target, args, ended, |command| {
            command
                .env("PATH", &tools.path)
                // What a test says when it fails is not to be buried under where it was.
                .env("RUST_BACKTRACE", "0")
                .env("TCPSTATE_TEST_MISSING_TOOLS", tools.missing.join(","));
        })?;
    }
    Ok(())
}

/// The web configuration file beside what another exporter makes of it.
fn beside_node_exporter(args: &[String], ended: &mut Vec<Test>) -> Result<()> {
    let Some(program) = tools::node_exporter()? else {
        banner(
            "NOT COMPARED: the web configuration file with node_exporter, which is not there: \
             `cargo xtask setup` fetches it.",
        );
        return Ok(());
    };
    let target = ["--test".to_owned(), "web".to_owned()];
    let mut args = args.to_vec();
    args.push("--ignored".to_owned());
    nextest(&target, &args, ended, |command| {
        command.env("TCPSTATE_TEST_NODE_EXPORTER", program);
    })
}

/// Runs the tests of these targets, each in a process of its own, as `.config/nextest.toml` says.
fn nextest(
    targets: &[String],
    args: &[String],
    ended: &mut Vec<Test>,
    prepare: impl FnOnce(&mut Command),
) -> Result<()> {
    let report = workspace::root()?.join("target/nextest/default/junit.xml");
    if report.exists() {
        fs::remove_file(&report).context("cannot remove the report of earlier tests")?;
    }
    let mut command = Command::new(cargo_tool::NEXTEST.find()?);
    command
        .current_dir(workspace::root()?)
        .args(["nextest", "run", "--no-tests=pass"])
        .args(process::ALL_CRATES)
        .args(targets)
        .arg("--")
        .args(args);
    prepare(&mut command);
    let outcome = process::run(&mut command);
    // There is none where it came to no test.
    if report.exists() {
        let text = fs::read_to_string(&report).context("cannot read the report of the tests")?;
        ended.extend(results::read(&text)?);
    }
    outcome
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
