//! Running other programs, with errors that name them.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{folder, workspace};

/// Cargo of the toolchain that xtask itself was built with, in the workspace.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()?);
    Ok(command)
}

/// Arguments that stand for every crate that is built for the machine at hand.
///
/// The crates are always the same ones: with others, shared dependencies would have other features
/// and be built again.
pub(crate) const ALL_CRATES: [&str; 3] = ["--locked", "--workspace", "--exclude=tcpstate-ebpf"];

/// Cargo for all of them.
pub(crate) fn cargo_all(subcommand: &str) -> Result<Command> {
    let mut command = cargo()?;
    command.arg(subcommand).args(ALL_CRATES);
    Ok(command)
}

/// Runs `command`; what it prints goes to the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", describe(command));
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", describe(command));
    }
    Ok(())
}

/// Runs `command` quietly and gives what it printed on its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", describe(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed: {}\n{errors}",
            describe(command),
            output.status
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("output of `{}` is not UTF-8", describe(command)))
}

/// Has `cargo` build a program from its registry, with those features only, into `home`/bin.
pub(crate) fn cargo_install(
    mut cargo: Command,
    crate_version: &str,
    features: &str,
    home: &Path,
) -> Result<()> {
    let build = home.join("build");
    cargo
        .args(["install", crate_version, "--locked", "--force"])
        .args(["--no-default-features", "--features", features])
        .arg("--root")
        .arg(home)
        .arg("--target-dir")
        .arg(&build);
    run(&mut cargo)?;
    folder::remove(&build)
}

/// Where `program` is found in PATH, or in the folders of the system administrator, which an
/// ordinary user's PATH may lack.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
