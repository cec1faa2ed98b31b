//! The programs that the privileged tests compare the agent with.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{folder, process, workspace};

/// Each program, and the Debian package it is in.
const TOOLS: [(&str, &str); 5] = [
    ("ss", "iproute2"),
    ("curl", "curl"),
    ("bpftool", "bpftool"),
    ("promtool", PROMETHEUS),
    ("prometheus", PROMETHEUS),
];

/// This package is unpacked in the project's target folder: installed into the system, it would
/// start a service, at every boot.
const PROMETHEUS: &str = "prometheus";

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
    if !missing(&unpacked).is_empty() && process::find("apt-get").is_some() {
        install(&unpacked)?;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::split_paths(&path).chain(["/usr/sbin".into(), programs(&unpacked)]);
    Ok(Tools {
        path: env::join_paths(path).context("cannot put the tests' programs into PATH")?,
        missing: missing(&unpacked)
            .into_iter()
            .map(|(program, _)| program)
            .collect(),
    })
}

fn install(unpacked: &Path) -> Result<()> {
    let online = process::run(&mut apt(&["update", "--error-on=any"])).is_ok();
    let mut packages: Vec<_> = missing(unpacked)
        .into_iter()
        .map(|(_, package)| package)
        .collect();
    packages.dedup();
    for package in packages {
        let installed = if package == PROMETHEUS {
            unpack(package, unpacked)
        } else {
            process::run(&mut apt(&[
                "install",
                "--yes",
                "--no-install-recommends",
                package,
            ]))
        };
        // Offline is the one excuse: with the package lists at hand a package that does not
        // install is a fault to be mended.
        if let Err(error) = installed {
            let error = error.context(format!("cannot install {package} for the tests"));
            if online {
                return Err(error);
            }
            eprintln!("{error:#}");
        }
    }
    Ok(())
}

fn unpack(package: &str, unpacked: &Path) -> Result<()> {
    // What an interrupted run left would be a second candidate below.
    folder::remove(unpacked)?;
    folder::create(unpacked)?;
    process::run(apt(&["download", package]).current_dir(unpacked))?;
    for file in folder::entries(unpacked)? {
        process::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(file)
                .arg(unpacked),
        )?;
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn missing(unpacked: &Path) -> Vec<(&'static str, &'static str)> {
    let there =
        |program| process::find(program).is_some() || programs(unpacked).join(program).is_file();
    TOOLS
        .into_iter()
        .filter(|(program, _)| !there(program))
        .collect()
}

fn programs(unpacked: &Path) -> PathBuf {
    unpacked.join("usr/bin")
}
