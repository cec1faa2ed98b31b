//! Which kernels are booted, and what may be missing on them: `xtask/kernels.toml`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace;

/// What is checked in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matrix {
    /// In the order in which they are shown.
    #[serde(rename = "kernel")]
    pub(crate) kernels: Vec<Kernel>,
    #[serde(rename = "skip", default)]
    pub(crate) skips: Vec<Skip>,
    #[serde(rename = "host_skip", default)]
    pub(crate) host_skips: Vec<HostSkip>,
}

/// A test that the kernel of the host may be unfit for, because one of the others runs it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostSkip {
    pub(crate) test: String,
    /// What it says.
    pub(crate) says: String,
}

/// A kernel of Debian's, in its flavour for virtual machines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    /// What people call it.
    pub(crate) name: String,
    pub(crate) architecture: Architecture,
    /// The part of the archive that has it.
    pub(crate) suite: String,
    /// Version of the package.
    pub(crate) version: String,
    /// Whether the run passes without it.
    #[serde(default)]
    pub(crate) may_fail: bool,
    /// The tests to run, by words in their names; all where there is none.
    #[serde(default)]
    pub(crate) tests: Vec<String>,
    /// Programs that do not run on it, by the agent's `check`.
    #[serde(default)]
    pub(crate) missing: Vec<String>,
}

/// A test that says that it is skipped.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Skip {
    pub(crate) test: String,
    /// What it says.
    pub(crate) says: String,
    /// Why that is in order.
    pub(crate) why: String,
    /// The program of which `check` must say that it does not run, where one is to blame.
    #[serde(default)]
    pub(crate) program: Option<String>,
    /// The kernels it holds for; all where there is none.
    #[serde(default)]
    pub(crate) kernels: Vec<String>,
}

impl Kernel {
    /// Whether its results need the test to pass.
    fn vouches_for(&self, test: &str, skips: &[Skip]) -> bool {
        let is_run =
            self.tests.is_empty() || self.tests.iter().any(|words| test.contains(&**words));
        let is_skipped = |skip: &Skip| skip.test == test && skip.holds_for(self);
        is_run && !self.may_fail && !skips.iter().any(is_skipped)
    }
}

impl Skip {
    pub(crate) fn holds_for(&self, kernel: &Kernel) -> bool {
        self.kernels.is_empty() || self.kernels.contains(&kernel.name)
    }
}

/// By Debian's name for it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Debian's name.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// That of this machine.
    pub(crate) fn of_machine() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("Debian's packages for {other} are not known here"),
        }
    }

    /// The compiler's target, linked statically.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// The folder of shared libraries, below `usr/lib`.
    pub(crate) fn libraries(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }
}

impl Matrix {
    pub(crate) fn read() -> Result<Self> {
        let path = file()?;
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        parse(&text).with_context(|| format!("cannot use {}", path.display()))
    }
}

fn file() -> Result<PathBuf> {
    Ok(workspace::root()?.join("xtask/kernels.toml"))
}

fn parse(text: &str) -> Result<Matrix> {
    let matrix: Matrix = toml::from_str(text)?;
    for (index, kernel) in matrix.kernels.iter().enumerate() {
        if matrix.kernels[..index]
            .iter()
            .any(|other| other.name == kernel.name)
        {
            bail!("two kernels are called {}", kernel.name);
        }
    }
    for skip in &matrix.skips {
        for name in &skip.kernels {
            if !matrix.kernels.iter().any(|kernel| kernel.name == *name) {
                bail!(
                    "the skip of {} names a kernel {name} that is not there",
                    skip.test
                );
            }
        }
    }
    for HostSkip { test, .. } in &matrix.host_skips {
        let mut kernels = matrix.kernels.iter();
        if !kernels.any(|kernel| kernel.vouches_for(test, &matrix.skips)) {
            bail!("{test} may be skipped on the host, and no kernel runs it");
        }
    }
    Ok(matrix)
}

/// Writes other versions into the file: by kernel, the version and the one that takes its place.
pub(crate) fn update(versions: &[(String, String, String)]) -> Result<()> {
    let path = file()?;
    let mut text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for (kernel, old, new) in versions {
        text = with_version(&text, kernel, old, new)
            .with_context(|| format!("cannot find version {old} of kernel {kernel} to replace"))?;
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The text with another version of one kernel. All else stays, comments too.
fn with_version(text: &str, kernel: &str, old: &str, new: &str) -> Option<String> {
    let start = text.find(&format!("\nname = \"{kernel}\"\n"))?;
    let (before, section) = text.split_at(start);
    let old = format!("\nversion = \"{old}\"\n");
    // Not that of a later kernel.
    let end = section.find("\n[[").unwrap_or(section.len());
    section[..end].contains(&old).then(|| {
        let section = section.replacen(&old, &format!("\nversion = \"{new}\"\n"), 1);
        format!("{before}{section}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKED_IN: &str = include_str!("../../kernels.toml");

    #[test]
    fn the_file_that_is_checked_in_can_be_read() {
        let matrix = parse(CHECKED_IN).unwrap();
        for name in ["5.10", "6.1", "6.12", "backports"] {
            let kernel = matrix.kernels.iter().find(|kernel| kernel.name == name);
            assert!(!kernel.unwrap().may_fail, "{name}");
        }
        let may_fail = matrix.kernels.iter().filter(|kernel| kernel.may_fail);
        let may_fail: Vec<_> = may_fail.map(|kernel| &*kernel.name).collect();
        assert_eq!(may_fail, ["experimental"]);
    }

    #[test]
    fn a_name_is_given_once_and_skips_are_for_kernels_that_are_there() {
        let kernel = "[[kernel]]\nname = \"6.1\"\narchitecture = \"arm64\"\nsuite = \"s\"\n\
                      version = \"1\"\n";
        let skip = "[[skip]]\ntest = \"t\"\nsays = \"s\"\nwhy = \"w\"\nkernels = [\"6.2\"]\n";
        assert!(parse(kernel).is_ok());
        let twice = parse(&format!("{kernel}{kernel}")).unwrap_err();
        assert!(twice.to_string().contains("two kernels"), "{twice}");
        let unknown = parse(&format!("{kernel}{skip}")).unwrap_err();
        assert!(unknown.to_string().contains("6.2"), "{unknown}");
    }

    #[test]
    fn what_the_host_may_skip_is_run_on_another_kernel() {
        let kernel = "[[kernel]]\nname = \"6.1\"\narchitecture = \"arm64\"\nsuite = \"s\"\n\
                      version = \"1\"\ntests = [\"a::b\"]\n";
        let host = |test| format!("[[host_skip]]\ntest = \"{test}\"\nsays = \"s\"\n");
        let skip = "[[skip]]\ntest = \"a::bond\"\nsays = \"s\"\nwhy = \"w\"\n";
        let read = |parts: &[&str]| parse(&parts.concat());
        assert!(read(&[kernel, &host("a::bond")]).is_ok());
        assert!(read(&[kernel, &host("a::c")]).is_err());
        assert!(read(&[kernel, &host("a::bond"), skip]).is_err());
        assert!(read(&[kernel, "may_fail = true\n", &host("a::bond")]).is_err());
    }

    #[test]
    fn another_version_replaces_that_of_its_kernel_alone() {
        let text = "[[kernel]]\nname = \"a\"\nversion = \"1\"\n# x\n\n[[kernel]]\nname = \"b\"\n\
                    version = \"1\"\nmay_fail = true\n";
        let updated = with_version(text, "b", "1", "2").unwrap();
        assert_eq!(updated, text.replace("\"1\"\nmay", "\"2\"\nmay"));
        assert_eq!(with_version(text, "b", "3", "2"), None);
        assert_eq!(with_version(text, "c", "1", "2"), None);
        let first = with_version(
            "[[kernel]]\nname = \"a\"\n\n[[kernel]]\nversion = \"1\"\n",
            "a",
            "1",
            "2",
        );
        assert_eq!(first, None);
    }
}
