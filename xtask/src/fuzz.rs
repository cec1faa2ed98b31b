//! `cargo xtask fuzz`: feeds what reads bytes of others with bytes that nobody would send.
//!
//! The targets are in `fuzz/`, a workspace of its own, beside the inputs that have led somewhere
//! new. What a run finds besides stays in the target folder: `fuzz/corpus` is committed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{cargo_tool, folder, process, toolchain, workspace};

/// An input that takes longer is a finding, in seconds.
const LONGEST_INPUT: u32 = 20;
/// A target that takes more memory has found something, in MiB.
const MOST_MEMORY: u32 = 1024;
/// What keeps a flaw from being found is the time that long inputs take.
const LONGEST: u32 = 8192;
/// As long as the committed inputs alone take.
const STARTS: Duration = Duration::from_mins(1);

/// How long continuous integration feeds each target.
pub(crate) const IN_CI: u32 = 15;

/// `cargo xtask fuzz`.
pub(crate) fn run(only: &[String], seconds: u32) -> Result<()> {
    let targets = targets()?;
    for name in only {
        if !targets.contains(name) {
            bail!(
                "there is no target {name} (there are {})",
                targets.join(", ")
            );
        }
    }
    let chosen = targets
        .iter()
        .filter(|target| only.is_empty() || only.contains(target));
    let programs = build()?;
    let mut results = Vec::new();
    for target in chosen {
        results.push(feed(&programs, target, seconds)?);
    }
    println!();
    for result in &results {
        println!("{}", result.line());
    }
    let found = results.iter().filter(|result| result.finding.is_some());
    match found.count() {
        0 => Ok(()),
        count => bail!("{count} targets have found something, named above"),
    }
}

/// `cargo xtask fuzz --minimize`: writes the committed inputs anew, from them and from what runs
/// have found.
pub(crate) fn minimize(only: &[String]) -> Result<()> {
    let programs = build()?;
    for target in targets()? {
        if !only.is_empty() && !only.contains(&target) {
            continue;
        }
        let (committed, found) = (committed(&target)?, found(&target)?);
        let merged = scratch()?.join("merged").join(&target);
        folder::remove(&merged)?;
        folder::create(&merged)?;
        let mut command = fuzzer(&programs, &target);
        // As few as reach each branch; how often each was taken does not count.
        command
            .args(["-set_cover_merge=1", "-use_counters=0", "-reduce_inputs=1"])
            .arg(&merged);
        process::run(command.arg(&committed).arg(&found))?;
        folder::remove(&committed)?;
        folder::create(&committed)?;
        for file in folder::entries(&merged)? {
            let to = committed.join(folder::name(&file));
            fs::copy(&file, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(())
}

struct Outcome {
    target: String,
    inputs: u64,
    took: Duration,
    /// The file that holds the input.
    finding: Option<PathBuf>,
}

impl Outcome {
    fn line(&self) -> String {
        let rate = self.inputs / self.took.as_secs().max(1);
        let found = self.finding.as_ref().map_or_else(
            || "nothing found".to_owned(),
            |file| format!("FOUND: {}", file.display()),
        );
        format!(
            "{:<12}{:>10} inputs{:>8} a second  {found}",
            self.target, self.inputs, rate
        )
    }
}

fn targets() -> Result<Vec<String>> {
    let sources = folder::entries(&place()?.join("fuzz_targets"))?;
    Ok(sources
        .iter()
        .filter_map(|file| Some(folder::name(file).strip_suffix(".rs")?.to_owned()))
        .collect())
}

/// Builds all of them, and gives the folder that they are in.
fn build() -> Result<PathBuf> {
    let target = scratch()?.join("target");
    let mut command = toolchain::command(toolchain::NIGHTLY, cargo_tool::FUZZ.find()?);
    command
        .current_dir(place()?)
        // There is no unsafe code in what is fuzzed; what is wrong in safe code panics.
        .args(["build", "--sanitizer", "none", "--fuzz-dir", "."])
        .arg("--target-dir")
        .arg(&target);
    process::run(&mut command).context("cannot build the fuzz targets")?;
    Ok(target.join(toolchain::host()?).join("release"))
}

fn feed(programs: &Path, target: &str, seconds: u32) -> Result<Outcome> {
    println!("=== {target}: {seconds} s ===");
    let (committed, found) = (committed(target)?, found(target)?);
    let findings = scratch()?.join("findings").join(target);
    folder::create(&findings)?;
    let before = folder::entries(&findings)?;
    let start = Instant::now();
    let mut command = fuzzer(programs, target);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        // The first is the one that new inputs are written to.
        .arg(&found)
        .arg(&committed)
        .stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot run the fuzz target {target}"))?;
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    let finding = folder::entries(&findings)?
        .into_iter()
        .find(|file| !before.contains(file));
    if !output.status.success() {
        // The input, what it led to, and where.
        eprintln!("{said}");
        if finding.is_none() {
            bail!("the fuzz target {target} failed: {}", output.status);
        }
    }
    let inputs = inputs(&said)
        .or_else(|| finding.is_some().then_some(0))
        .with_context(|| format!("the fuzz target {target} does not say what it did:\n{said}"))?;
    if finding.is_none() && took > STARTS + Duration::from_secs(seconds.into()) {
        bail!("the fuzz target {target} took {took:?} for {seconds} s");
    }
    Ok(Outcome {
        target: target.to_owned(),
        inputs,
        took,
        finding,
    })
}

/// `Done 123 runs in 16 second(s)`
fn inputs(said: &str) -> Option<u64> {
    let line = said
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("Done "))?;
    line.split_whitespace().next()?.parse().ok()
}

fn fuzzer(programs: &Path, target: &str) -> Command {
    let mut command = Command::new(programs.join(target));
    command.args([
        format!("-timeout={LONGEST_INPUT}"),
        format!("-rss_limit_mb={MOST_MEMORY}"),
        format!("-max_len={LONGEST}"),
    ]);
    command
}

fn committed(target: &str) -> Result<PathBuf> {
    made(place()?.join("corpus").join(target))
}

fn found(target: &str) -> Result<PathBuf> {
    made(scratch()?.join("corpus").join(target))
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    folder::create(&folder)?;
    Ok(folder)
}

fn place() -> Result<PathBuf> {
    Ok(workspace::root()?.join("fuzz"))
}

fn scratch() -> Result<PathBuf> {
    Ok(workspace::scratch()?.join("fuzz"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_says_it_did_is_read() {
        let said = "INFO: Seed: 1\n#2 INITED\nDone 1234 runs in 16 second(s)\n";
        assert_eq!(inputs(said), Some(1234));
        assert_eq!(inputs("==1== ERROR: libFuzzer: deadly signal\n"), None);
    }

    /// The manifest names each, or cargo would not build it.
    #[test]
    fn every_target_is_built_and_has_inputs() {
        let manifest = fs::read_to_string(place().unwrap().join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let programs = manifest["bin"].as_array().unwrap();
        let mut named: Vec<_> = programs
            .iter()
            .map(|program| program["name"].as_str().unwrap().to_owned())
            .collect();
        named.sort();
        assert_eq!(named, targets().unwrap());
        for target in named {
            let inputs = folder::entries(&place().unwrap().join("corpus").join(&target));
            assert!(!inputs.unwrap().is_empty(), "{target} has no inputs");
        }
    }
}
