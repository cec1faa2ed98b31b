//! The programs that the privileged tests compare the agent with, or have it watch.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    folder, process, test,
    vm::{
        archive::{Suite, Unreachable},
        matrix::Architecture,
    },
    workspace,
};

/// Each program, and the Debian package it is in.
const TOOLS: [(&str, &str); 11] = [
    ("ss", "iproute2"),
    ("curl", "curl"),
    ("bpftool", "bpftool"),
    ("tcpdump", "tcpdump"),
    ("promtool", "prometheus"),
    ("prometheus", "prometheus"),
    ("node", "nodejs"),
    ("nginx", "nginx"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    (PYTHON_REQUESTS, PYTHON_REQUESTS),
];

/// No program, but a library of Debian's Python.
const PYTHON_REQUESTS: &str = "python3-requests";
const PYTHON_LIBRARIES: &str = "/usr/lib/python3/dist-packages";

/// These packages are unpacked in the project's target folder, each with others that it needs
/// beside it: installed into the system, they would start a service, at every boot.
const UNPACKED: [(&str, &[&str]); 3] = [
    ("prometheus", &["prometheus"]),
    ("nginx", &["nginx"]),
    // The server is a link to a program of the other package.
    ("redis-server", &["redis-server", "redis-tools"]),
];

const INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

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
    let path = env::split_paths(&path).chain(folders(&unpacked));
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
        let installed = match UNPACKED.iter().find(|(name, _)| *name == package) {
            Some((_, packages)) => unpack(packages, &unpacked.join(package)),
            None => process::run(apt(&INSTALL).arg(package)),
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
    match missing(unpacked).first() {
        Some((program, package)) if online => bail!("the package {package} has no {program}"),
        _ => Ok(()),
    }
}

/// Installs a package where its program is missing; `false` if that failed for lack of network.
pub(crate) fn install_program(program: &str, package: &str) -> Result<bool> {
    if process::find(program).is_some() {
        return Ok(true);
    }
    if !test::is_root()? || process::find("apt-get").is_none() {
        bail!("cannot run {program}: it is not there (install Debian's package {package})");
    }
    let online = process::run(&mut apt(&["update", "--error-on=any"])).is_ok();
    match process::run(apt(&INSTALL).arg(package)) {
        Ok(()) => Ok(true),
        Err(error) if online => Err(error.context(format!("cannot install {package}"))),
        Err(error) => {
            eprintln!("cannot install {package}: {error:#}");
            Ok(false)
        }
    }
}

/// The program `file` of a package, unpacked in the project's target folder where it is not yet.
pub(crate) fn unpacked(package: &str, file: &str) -> Result<PathBuf> {
    let folder = workspace::scratch()?.join("tools").join(package);
    let program = folder.join(file);
    if !program.is_file() {
        // The package lists may be too old to download from; if they cannot be had, they will do.
        let _ = process::run(&mut apt(&["update", "--error-on=any"]));
        unpack(&[package], &folder)?;
    }
    if !program.is_file() {
        bail!("the package {package} has no {file}");
    }
    Ok(program)
}

/// Debian's newest node_exporter: that of trixie does not know every key of the web configuration
/// file yet. Unpacked in the project's target folder. Nothing where there is no network, or no apt-get.
pub(crate) fn node_exporter() -> Result<Option<PathBuf>> {
    const PACKAGE: &str = "prometheus-node-exporter";

    let folder = workspace::scratch()?.join("tools").join(PACKAGE);
    let program = folder.join("usr/bin").join(PACKAGE);
    if !program.is_file() {
        if process::find("apt-get").is_none() {
            return Ok(None);
        }
        let suite = match Suite::open(&folder.join("apt"), "sid", Architecture::of_machine()?) {
            Err(error) if error.is::<Unreachable>() => {
                eprintln!("{error:#}");
                return Ok(None);
            }
            suite => suite?,
        };
        let found = suite.packages(&format!("^{PACKAGE}$"))?;
        suite.unpack(&found, &folder)?;
    }
    if !program.is_file() {
        bail!("the package {PACKAGE} has no usr/bin/{PACKAGE}");
    }
    Ok(Some(program))
}

/// Unpacks packages into `folder`, and installs the libraries that they need.
fn unpack(packages: &[&str], folder: &Path) -> Result<()> {
    // What an interrupted run left would be a second candidate below.
    folder::remove(folder)?;
    folder::create(folder)?;
    process::run(apt(&["download"]).args(packages).current_dir(folder))?;
    for file in folder::entries(folder)? {
        let needed = process::output(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&file)
                .arg("Depends"),
        )?;
        let libraries: Vec<&str> = needed
            .split(',')
            .map(str::trim)
            .filter(is_library)
            .collect();
        if !libraries.is_empty() {
            process::run(
                apt(&["satisfy", "--yes", "--no-install-recommends"]).arg(libraries.join(", ")),
            )?;
        }
        process::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(file)
                .arg(folder),
        )?;
    }
    Ok(())
}

/// Whether a dependency is on a library of programs. Those have no service that would be started;
/// those of web pages are for what a service shows.
fn is_library(dependency: &&str) -> bool {
    !dependency.starts_with("libjs-")
        && ["lib", "zlib"]
            .iter()
            .any(|beginning| dependency.starts_with(beginning))
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn missing(unpacked: &Path) -> Vec<(&'static str, &'static str)> {
    let is_there = |name: &str| {
        if name == PYTHON_REQUESTS {
            return Path::new(PYTHON_LIBRARIES).join("requests").is_dir();
        }
        process::find(name).is_some()
            || folders(unpacked)
                .iter()
                .any(|folder| folder.join(name).is_file())
    };
    TOOLS
        .into_iter()
        .filter(|(name, _)| !is_there(name))
        .collect()
}

/// Where programs are, besides the folders of PATH.
fn folders(unpacked: &Path) -> Vec<PathBuf> {
    let of_packages = UNPACKED.iter().flat_map(|(package, _)| {
        ["usr/bin", "usr/sbin"].map(|folder| unpacked.join(package).join(folder))
    });
    std::iter::once("/usr/sbin".into())
        .chain(of_packages)
        .collect()
}
