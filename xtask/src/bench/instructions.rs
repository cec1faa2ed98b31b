//! Instructions of what the agent does for each socket, record or series: these are the same
//! whatever else the machine does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    Bench,
    agent::{scratch, target_folder},
    row::{Row, Unit},
    running::{self, Running},
    spread::{Spread, float},
};
use crate::process;

const PATIENCE: Duration = Duration::from_mins(2);
const BUILD_PATIENCE: Duration = Duration::from_mins(10);

/// What there is in `tcpstate-agent/examples/hot_paths.rs`, how many things it does each time, and
/// what these are.
const PATHS: [(&str, u64, &str); 5] = [
    ("ends", 10_000, "a record of an abnormal end"),
    (
        "survey",
        10_000,
        "a socket in CLOSE_WAIT, in a walk over sockets",
    ),
    (
        "holders",
        10_000,
        "a socket in CLOSE_WAIT, in a walk over descriptors",
    ),
    ("listeners", 10_000, "a listening socket, at a scrape"),
    ("page", 200, "a listening socket, on the page"),
];
/// How often all of them are done: the difference leaves out what is done once.
const FEW: u32 = 2;
const MANY: u32 = 6;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let Some(valgrind) = bench.peers.valgrind.clone() else {
        bench.skip("instructions, without valgrind");
        return Ok(());
    };
    let cargo = Running::start(
        "cargo",
        process::cargo()?
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--package", "tcpstate-agent", "--example", "hot_paths"]),
    )?;
    cargo.succeed(BUILD_PATIENCE)?;
    let program = target_folder()?.join("release/examples/hot_paths");
    for (path, things, what) in PATHS {
        let few = instructions(&valgrind, &program, path, FEW)?;
        let many = instructions(&valgrind, &program, path, MANY)?;
        let each = float(many.saturating_sub(few)) / float(things * u64::from(MANY - FEW));
        let figure = Spread::single(each.round());
        bench.row(Row::new(
            format!("instructions for {what}"),
            Unit::Count,
            figure,
        ));
    }
    Ok(())
}

fn instructions(valgrind: &Path, program: &Path, path: &str, times: u32) -> Result<u64> {
    let log: PathBuf = scratch("callgrind.log")?;
    let mut command = running::bound(&valgrind.display().to_string());
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}", log.display()))
        .arg(program)
        .args([path, &times.to_string()])
        .stdout(Stdio::null());
    Running::start("valgrind", &mut command)?.succeed(PATIENCE)?;
    let text =
        fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    collected(&text).with_context(|| format!("valgrind tells no number of instructions:\n{text}"))
}

/// The number in callgrind's line `==123== Collected : 456`.
fn collected(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains(" Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_instructions_is_found() {
        let log = "==7== Events    : Ir\n==7== Collected : 2592974\n==7== \n==7== I   refs:  1\n";
        assert_eq!(collected(log), Some(2_592_974));
        assert_eq!(collected("==7== Events    : Ir\n"), None);
    }
}
