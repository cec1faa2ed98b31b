//! Which sources and which compiler the binary is made of, for `--version` and
//! `tcpstate_build_info`.
//!
//! Nothing of the machine or the moment goes in, so that the same commit gives the same bytes.

use std::{env, path::Path, process::Command};

fn main() {
    // Switching to another commit adds a line to the log of HEAD.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    let date = [
        "log",
        "-1",
        "--format=%cd",
        "--date=format-local:%Y%m%d-%H:%M:%S",
    ];
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    for (name, value) in [
        ("REVISION", git(&["rev-parse", "HEAD"])),
        ("BRANCH", git(&["rev-parse", "--abbrev-ref", "HEAD"])),
        ("COMMIT_DATE", git(&date)),
        (
            "RUSTC",
            output(Command::new(rustc).arg("--version")).and_then(|text| number(&text)),
        ),
    ] {
        let value = value.unwrap_or_else(|| "unknown".to_owned());
        println!("cargo::rustc-env=TCPSTATE_BUILD_{name}={value}");
    }
}

/// Of the repository that these sources are in; nothing where they are in none.
fn git(arguments: &[&str]) -> Option<String> {
    output(Command::new("git").args(arguments).env("TZ", "UTC"))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The version in `rustc 1.95.0 (59807616e 2026-04-14)`.
fn number(text: &str) -> Option<String> {
    text.split_whitespace().nth(1).map(str::to_owned)
}
