//! Every check that a change has to pass.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    cargo_tool, deny, ebpf, fuzz, limits, msrv, process, setup, test, tidy, vm, workspace,
};

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 15] = [
    ("setup", setup::run),
    ("format", format),
    ("oldest Rust", msrv::check),
    ("dependencies", deny::check),
    ("clippy", clippy),
    ("clippy, eBPF", ebpf::clippy),
    ("documentation", documentation),
    ("tidy", tidy::run),
    ("spelling", spelling),
    ("eBPF object", ebpf::verify),
    ("release build", release_build),
    ("limits", || limits::run(false)),
    ("fuzzing", || fuzz::run(&[], fuzz::IN_CI)),
    ("tests", all_tests),
    ("kernels", vm::ci),
];

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
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        process::run(process::cargo()?.args([
            "fmt",
            "--all",
            "--check",
            "--manifest-path",
            manifest,
        ]))?;
    }
    Ok(())
}

fn spelling() -> Result<()> {
    process::run(Command::new(cargo_tool::TYPOS.find()?).current_dir(workspace::root()?))
}

fn clippy() -> Result<()> {
    let run = |targets: &[&str]| {
        process::run(
            process::cargo_all("clippy")?
                .args(targets)
                .args(["--", "-D", "warnings"]),
        )
    };
    run(&["--all-targets"])?;
    // Cargo counts among all targets only those that a plain `cargo test` runs.
    run(&["--test", test::PRIVILEGED])
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
