//! The programs that the privileged tests compare the agent with, or have it watch.

use std::{
    env,
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    apt, folder, process, test,
    vm::{
        self,
        archive::{Suite, Unreachable},
        matrix::Architecture,
    },
    workspace,
};

/// Each program, and the Debian package it is in.
const TOOLS: [(&str, &str); 19] = [
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
    // Compilers of programs that leak, and what reads their files.
    ("gcc", "gcc"),
    ("g++", "g++"),
    ("musl-gcc", "musl-tools"),
    ("go", "golang-go"),
    ("javac", "default-jdk-headless"),
    ("addr2line", "binutils"),
    ("xz", "xz-utils"),
    // What compiles ring for arm64.
    ("clang", "clang"),
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
    /// Programs that are not there.
    pub(crate) missing: Vec<&'static str>,
}

/// Finds them.
pub(crate) fn find() -> Result<Tools> {
    let unpacked = place()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::split_paths(&path).chain(folders(&unpacked));
    let missing = TOOLS
        .into_iter()
        .filter(|(program, _)| !is_there(&unpacked, program));
    let mut missing: Vec<_> = missing.map(|(program, _)| program).collect();
    if node_exporter()?.is_none() {
        missing.push(NODE_EXPORTER);
    }
    Ok(Tools {
        path: env::join_paths(path).context("cannot put the tests' programs into PATH")?,
        missing,
    })
}

/// Installs what is missing, with the emulators. That takes root, and Debian.
pub(crate) fn install() -> Result<()> {
    let unpacked = place()?;
    folder::create(&unpacked)?;
    let missing = || {
        let mut missing: Vec<_> = TOOLS.into_iter().chain(vm::emulators()).collect();
        missing.retain(|(program, _)| !is_there(&unpacked, program));
        missing
    };
    let packages = || {
        let mut packages: Vec<_> = missing().into_iter().map(|(_, package)| package).collect();
        packages.dedup();
        packages
    };
    if !packages().is_empty() {
        if !test::is_root()? || process::find("apt-get").is_none() {
            test::banner(&format!(
                "NOT INSTALLED, which takes root and Debian: {}",
                packages().join(", ")
            ));
            return Ok(());
        }
        let is_online = apt::update()?;
        for package in packages() {
            // Offline is the one excuse: with the package lists at hand a package that does not
            // install is a fault to be mended.
            if let Err(error) = install_package(package, &unpacked) {
                let error = error.context(format!("cannot install {package}"));
                if is_online {
                    return Err(error);
                }
                eprintln!("{error:#}");
            }
        }
        if let Some((program, package)) = missing().first()
            && is_online
        {
            bail!("the package {package} has no {program}");
        }
    }
    let mut unfetched: Vec<_> = missing().into_iter().map(|(program, _)| program).collect();
    if process::find("apt-get").is_some() && !fetch_node_exporter()? {
        unfetched.push(NODE_EXPORTER);
    }
    fs::write(record()?, unfetched.join("\n")).context("cannot write what was not fetched")?;
    if !unfetched.is_empty() {
        test::banner(&format!(
            "NOT INSTALLED for lack of network: {}",
            unfetched.join(", ")
        ));
    }
    Ok(())
}

/// The programs that [`install`] could not fetch for lack of network: the one reason for which
/// what needs them may be left out where nothing may be. None where it has not been asked.
pub(crate) fn unfetched() -> Result<Vec<String>> {
    match fs::read_to_string(record()?) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("cannot read what was not fetched"),
    }
}

fn record() -> Result<PathBuf> {
    Ok(place()?.join("unfetched"))
}

fn place() -> Result<PathBuf> {
    Ok(workspace::scratch()?.join("tools"))
}

fn install_package(package: &str, unpacked: &Path) -> Result<()> {
    match UNPACKED.iter().find(|(name, _)| *name == package) {
        Some((_, packages)) => unpack(packages, &unpacked.join(package)),
        None => process::run(apt::command(&INSTALL).arg(package)),
    }
}

/// Installs a package for `bench` where its program is missing.
pub(crate) fn install_program(program: &str, package: &str) -> Result<()> {
    if process::find(program).is_some() {
        return Ok(());
    }
    if !test::is_root()? || process::find("apt-get").is_none() {
        bail!("cannot run {program}: it is not there (install Debian's package {package})");
    }
    apt::update()?;
    process::run(apt::command(&INSTALL).arg(package))
}

/// The program `file` of a package, unpacked in the project's target folder where it is not yet.
pub(crate) fn unpacked(package: &str, file: &str) -> Result<PathBuf> {
    let folder = place()?.join(package);
    let program = folder.join(file);
    if !program.is_file() {
        // The package lists may be too old to download from; if they cannot be had, they will do.
        let _ = apt::update();
        unpack(&[package], &folder)?;
    }
    if !program.is_file() {
        bail!("the package {package} has no {file}");
    }
    Ok(program)
}

/// What [`Tools::missing`] calls node_exporter.
const NODE_EXPORTER: &str = "node_exporter";
const NODE_EXPORTER_PACKAGE: &str = "prometheus-node-exporter";

/// Debian's newest node_exporter, unpacked in the project's target folder: that of trixie does not
/// know every key of the web configuration file yet.
pub(crate) fn node_exporter() -> Result<Option<PathBuf>> {
    let program = node_exporter_folder()?
        .join("usr/bin")
        .join(NODE_EXPORTER_PACKAGE);
    Ok(program.is_file().then_some(program))
}

fn node_exporter_folder() -> Result<PathBuf> {
    Ok(place()?.join(NODE_EXPORTER_PACKAGE))
}

/// Fetches it; `false` for lack of network.
fn fetch_node_exporter() -> Result<bool> {
    if node_exporter()?.is_some() {
        return Ok(true);
    }
    let folder = node_exporter_folder()?;
    let suite = match Suite::open(&folder.join("apt"), "sid", Architecture::of_machine()?) {
        Err(error) if error.is::<Unreachable>() => {
            eprintln!("{error:#}");
            return Ok(false);
        }
        suite => suite?,
    };
    let found = suite.packages(&format!("^{NODE_EXPORTER_PACKAGE}$"))?;
    suite.unpack(&found, &folder)?;
    if node_exporter()?.is_none() {
        bail!("the package {NODE_EXPORTER_PACKAGE} has no program");
    }
    Ok(true)
}

/// Unpacks packages into `folder`, and installs the libraries that they need.
fn unpack(packages: &[&str], folder: &Path) -> Result<()> {
    // What an interrupted run left would be a second candidate below.
    folder::remove(folder)?;
    folder::create(folder)?;
    process::run(
        apt::command(&["download"])
            .args(packages)
            .current_dir(folder),
    )?;
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
                apt::command(&["satisfy", "--yes", "--no-install-recommends"])
                    .arg(libraries.join(", ")),
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

fn is_there(unpacked: &Path, name: &str) -> bool {
    if name == PYTHON_REQUESTS {
        return Path::new(PYTHON_LIBRARIES).join("requests").is_dir();
    }
    process::find(name).is_some()
        || folders(unpacked)
            .iter()
            .any(|folder| folder.join(name).is_file())
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
