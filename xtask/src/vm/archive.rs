//! Debian's archive, through the ordinary apt client, without touching the machine's own apt.
//!
//! Each suite has a folder of its own with apt's lists, state and configuration. From the machine
//! come its mirror, how it is reached (proxies and the like) and the archive's keys.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use thiserror::Error;

use super::{matrix::Architecture, sources};
use crate::{apt, folder, process};

/// The archive cannot be reached: the one reason for which a kernel may be left out.
#[derive(Debug, Error)]
#[error("cannot reach the package archive for {suite}: {said}")]
pub(crate) struct Unreachable {
    suite: String,
    said: String,
}

impl Unreachable {
    /// A package that has to be installed and could not be.
    pub(crate) fn of(package: &str) -> Self {
        Self {
            suite: package.to_owned(),
            said: "`cargo xtask setup` has found it so".to_owned(),
        }
    }
}

/// A part of the archive, for one architecture.
pub(crate) struct Suite {
    folder: PathBuf,
}

/// What the archive says of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Names only.
    pub(crate) depends: Vec<String>,
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Suite {
    /// Fetches the list of what is in `suite`; `folder` is for apt's files.
    pub(crate) fn open(folder: &Path, suite: &str, architecture: Architecture) -> Result<Self> {
        if process::find("apt-get").is_none() {
            bail!("cannot fetch Debian packages: there is no apt-get (run this on Debian)");
        }
        let folder = folder.join(format!("{suite}-{}", architecture.debian()));
        let this = Self { folder };
        for name in ["lists/partial", "cache/archives/partial"] {
            folder::create(&this.folder.join(name))?;
        }
        write(&this.folder.join("status"), "")?;
        write(
            &this.folder.join("apt.conf"),
            &this.configuration(architecture)?,
        )?;

        let mirrors = sources::mirrors(&sources::of_machine()?, suite);
        let mut refusals = Vec::new();
        for mirror in &mirrors {
            let signed_by = if Path::new(KEYRING).exists() {
                format!("[signed-by={KEYRING}] ")
            } else {
                String::new()
            };
            write(
                &this.folder.join("sources.list"),
                &format!("deb {signed_by}{mirror} {suite} main\n"),
            )?;
            let output = this
                .apt("apt-get")
                .args(["update", "--error-on=any", "--quiet"])
                .output()
                .context("cannot run apt-get")?;
            if output.status.success() {
                return Ok(this);
            }
            refusals.push(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let said = refusals.join("\n");
        if refusals.is_empty() {
            bail!(
                "cannot fetch packages of {suite}: apt's sources on this machine name no Debian \
                 archive (add one)"
            );
        }
        if refusals.iter().all(|said| apt::is_network_failure(said)) {
            let suite = suite.to_owned();
            return Err(Unreachable { suite, said }.into());
        }
        bail!("cannot fetch the list of packages of {suite}: {said}");
    }

    fn configuration(&self, architecture: Architecture) -> Result<String> {
        let machine = process::output(Command::new("apt-config").arg("dump"))?;
        let folder = self.folder.display();
        let architecture = architecture.debian();
        Ok(format!(
            "{}\
             APT::Architecture \"{architecture}\";\n\
             APT::Architectures {{ \"{architecture}\"; }};\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"2\";\n\
             Dir::Etc::main \"/dev/null\";\n\
             Dir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::Etc::sourcelist \"{folder}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::State \"{folder}\";\n\
             Dir::State::lists \"{folder}/lists\";\n\
             Dir::State::status \"{folder}/status\";\n\
             Dir::Cache \"{folder}/cache\";\n",
            how_to_acquire(&machine)
        ))
    }

    /// A program of apt's that knows nothing but this suite.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// What the suite knows of the packages whose names fit a regular expression.
    pub(crate) fn packages(&self, names: &str) -> Result<Vec<Package>> {
        let found = process::output(
            self.apt("apt-cache")
                .args(["search", "--names-only", names]),
        )?;
        let names = found.lines().filter_map(|line| line.split(' ').next());
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let shown = process::output(self.apt("apt-cache").arg("show").args(names))?;
        Ok(packages(&shown))
    }

    /// Downloads packages, showing how far it is, and unpacks them into `root`.
    pub(crate) fn unpack(&self, packages: &[Package], root: &Path) -> Result<()> {
        let archives = self.empty_archives()?;
        let wanted = packages
            .iter()
            .map(|package| format!("{}={}", package.name, package.version));
        process::run(
            self.apt("apt-get")
                .arg("download")
                .args(wanted)
                .current_dir(&archives),
        )?;
        extract(&archives, root)
    }

    /// The same for packages and all that they depend on.
    pub(crate) fn unpack_with_dependencies(&self, names: &[&str], root: &Path) -> Result<()> {
        let archives = self.empty_archives()?;
        process::run(
            self.apt("apt-get")
                .args([
                    "install",
                    "--download-only",
                    "--yes",
                    "--no-install-recommends",
                ])
                .args(names),
        )?;
        extract(&archives, root)
    }

    fn empty_archives(&self) -> Result<PathBuf> {
        let archives = self.folder.join("cache/archives");
        folder::remove(&archives)?;
        folder::create(&archives.join("partial"))?;
        Ok(archives)
    }
}

/// Unpacks what was downloaded, and removes it.
fn extract(archives: &Path, root: &Path) -> Result<()> {
    folder::create(root)?;
    for file in folder::entries(archives)? {
        if file.extension() == Some("deb".as_ref()) {
            process::output(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(&file)
                    .arg(root),
            )?;
        }
    }
    folder::remove(archives)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What apt's configuration says of reaching archives. The rest is left behind: the folders, and
/// the commands that the machine has apt run.
fn how_to_acquire(dump: &str) -> String {
    let not_ours = [
        "Acquire::IndexTargets",
        "Acquire::Languages",
        "Acquire::Retries",
    ];
    dump.lines()
        .filter(|line| line.starts_with("Acquire::"))
        .filter(|line| !not_ours.iter().any(|prefix| line.starts_with(prefix)))
        .flat_map(|line| [line, "\n"])
        .collect()
}

fn packages(shown: &str) -> Vec<Package> {
    shown
        .split("\n\n")
        .map(|stanza| {
            let field = |name: &str| {
                let value = |line: &str| Some(line.strip_prefix(name)?.trim().to_owned());
                stanza.lines().find_map(value).unwrap_or_default()
            };
            Package {
                name: field("Package:"),
                version: field("Version:"),
                depends: dependencies(&field("Depends:")),
            }
        })
        .filter(|package| !package.name.is_empty())
        .collect()
}

/// The names in `a (= 1), b | c`.
fn dependencies(field: &str) -> Vec<String> {
    field
        .split([',', '|'])
        .filter_map(|one| one.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_name_version_and_dependencies() {
        let shown = "Package: a\nSource: x\nVersion: 1~b+1\nDepends: b (= 1), c (>= 2) | d\n\
                     Description: Depends: on nothing\n\nPackage: a\nVersion: 2\n\n";
        let package = |version: &str, depends: &[&str]| Package {
            name: "a".to_owned(),
            version: version.to_owned(),
            depends: depends.iter().map(|&name| name.to_owned()).collect(),
        };
        assert_eq!(
            packages(shown),
            [package("1~b+1", &["b", "c", "d"]), package("2", &[])]
        );
        assert_eq!(packages(""), []);
    }

    #[test]
    fn only_how_archives_are_reached_is_taken_from_the_machine() {
        let dump = "APT \"\";\nAPT::Update::Post-Invoke:: \"rm -f x\";\nAcquire::http::Proxy \"p\";\n\
                    Acquire::Languages:: \"en\";\nAcquire::IndexTargets::deb::X::MetaKey \"k\";\n\
                    Dir::State \"/var/lib/apt\";\nDPkg::Post-Invoke:: \"rm -f y\";\n";
        assert_eq!(how_to_acquire(dump), "Acquire::http::Proxy \"p\";\n");
    }
}
