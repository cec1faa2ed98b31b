//! The programs that the privileged tests compare the agent with.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// A program, and the Debian package it is in.
struct Tool {
    program: &'static str,
    package: &'static str,
    installation: Installation,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Installation {
    /// Into the system.
    System,
    /// Into the project's target folder: installed into the system, the package would start a
    /// service, at every boot.
    Unpacked,
}

const TOOLS: [Tool; 5] = [
    Tool {
        program: "ss",
        package: "iproute2",
        installation: Installation::System,
    },
    Tool {
        program: "curl",
        package: "curl",
        installation: Installation::System,
    },
    Tool {
        program: "bpftool",
        package: "bpftool",
        installation: Installation::System,
    },
    Tool {
        program: "promtool",
        package: "prometheus",
        installation: Installation::Unpacked,
    },
    Tool {
        program: "prometheus",
        package: "prometheus",
        installation: Installation::Unpacked,
    },
];

/// What the tests are given.
pub(crate) struct Tools {
    /// PATH with the folders that the programs are in.
    pub(crate) path: OsString,
    /// Programs that are not there and could not be fetched.
    pub(crate) missing: Vec<&'static str>,
}

/// Installs what is missing. That takes root.
pub(crate) fn provide() -> Result<Tools> {
    let unpacked = workspace::scratch()?.join("tools");
    if TOOLS.iter().any(|tool| !is_there(tool, &unpacked)) && process::find("apt-get").is_some() {
        install(&unpacked)?;
    }
    let missing: Vec<_> = TOOLS
        .iter()
        .filter(|tool| !is_there(tool, &unpacked))
        .map(|tool| tool.program)
        .collect();
    let path = env::var_os("PATH").unwrap_or_default();
    let path =
        env::join_paths(env::split_paths(&path).chain(["/usr/sbin".into(), programs(&unpacked)]))
            .context("cannot put the folders of the tests' programs into PATH")?;
    Ok(Tools { path, missing })
}

fn install(unpacked: &Path) -> Result<()> {
    let online = apt(&["update", "--error-on=any"]).is_ok();
    for tool in &TOOLS {
        if is_there(tool, unpacked) {
            continue;
        }
        let installed = match tool.installation {
            Installation::System => {
                apt(&["install", "--yes", "--no-install-recommends", tool.package])
            }
            Installation::Unpacked => unpack(tool.package, unpacked),
        };
        if let Err(error) = installed {
            // Offline is the one excuse: with the package lists at hand a package that does not
            // install is a fault to be mended.
            if online {
                return Err(error.context(format!("cannot install {} for the tests", tool.program)));
            }
            eprintln!("cannot fetch {}: {error:#}", tool.program);
        }
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    process::run(
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn unpack(package: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    process::run(
        Command::new("apt-get")
            .args(["download", package])
            .current_dir(folder),
    )?;
    let prefix = format!("{package}_");
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let file = entry?.path();
        if file
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        {
            return process::run(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(file)
                    .arg(folder),
            );
        }
    }
    bail!(
        "cannot find the package {package} that apt-get downloaded to {}",
        folder.display()
    )
}

fn is_there(tool: &Tool, unpacked: &Path) -> bool {
    process::find(tool.program).is_some() || programs(unpacked).join(tool.program).is_file()
}

fn programs(unpacked: &Path) -> PathBuf {
    unpacked.join("usr/bin")
}
