//! Every check that a change has to pass.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{ebpf, limits, process, test, tidy, vm, workspace};

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 11] = [
    ("format", format),
    ("clippy", clippy),
    ("clippy, eBPF", ebpf::clippy),
    ("documentation", documentation),
    ("tidy", tidy::run),
    ("spelling", spelling),
    ("eBPF object", ebpf::verify),
    ("release build", release_build),
    ("limits", || limits::run(false)),
    ("tests", all_tests),
    ("kernels", vm::ci),
];

const TYPOS_VERSION: &str = "1.52.0";

/// `cargo xtask ci`.
pub(crate) fn run() -> Result<()> {
    let mut results = Vec::new();
    let mut outcome = Ok(());
    for (number, (name, step)) in STEPS.iter().enumerate() {
        println!("\n=== {}/{} {name} ===", number + 1, STEPS.len());
        let start = Instant::now();
        outcome = step().with_context(|| format!("step `{name}` failed"));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        results.push((*name, word, start.elapsed()));
        println!(
            "=== {name}: {word}, {:.1} s ===",
            start.elapsed().as_secs_f64()
        );
        if outcome.is_err() {
            break;
        }
    }
    summarize(&results);
    outcome
}

fn summarize(results: &[(&str, &str, Duration)]) {
    println!();
    for (name, word, duration) in results {
        println!("{name:<16}{word:<8}{:>8.1} s", duration.as_secs_f64());
    }
    for (name, _) in &STEPS[results.len()..] {
        println!("{name:<16}not run");
    }
    let total: Duration = results.iter().map(|(_, _, duration)| duration).sum();
    println!("{:<24}{:>8.1} s", "total", total.as_secs_f64());
}

fn format() -> Result<()> {
    process::run(process::cargo()?.args(["fmt", "--all", "--check"]))
}

fn spelling() -> Result<()> {
    let home = workspace::scratch()?.join(format!("typos-{TYPOS_VERSION}"));
    let program = home.join("bin/typos");
    if !program.exists() {
        let mut cargo = process::cargo()?;
        // Optimizing it takes longer than all its runs.
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        process::cargo_install(
            cargo,
            &format!("typos-cli@{TYPOS_VERSION}"),
            "dict,vars",
            &home,
        )?;
    }
    process::run(Command::new(program).current_dir(workspace::root()?))
}

fn clippy() -> Result<()> {
    process::run(process::cargo_all("clippy")?.args(["--all-targets", "--", "-D", "warnings"]))
}

fn documentation() -> Result<()> {
    process::run(
        process::cargo_all("doc")?
            .arg("--no-deps")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn release_build() -> Result<()> {
    process::run(process::cargo()?.args(["build", "--release", "--locked"]))
}

fn all_tests() -> Result<()> {
    test::run(&[])
}
