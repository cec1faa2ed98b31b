//! Kernels and the programs of the virtual machines, unpacked: fetched once, then found again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    archive::{Package, Suite},
    matrix::{Architecture, Kernel},
};
use crate::{folder, workspace};

/// Where the programs come from, for all kernels alike.
const USERLAND_SUITE: &str = "trixie";
/// Their packages. What these depend on is fetched too.
const USERLAND: [&str; 5] = [
    "bpftool",
    "busybox-static",
    "dash",
    "iproute2",
    "util-linux",
];

/// The file that says that a folder is complete, and what is in it.
const MANIFEST: &str = "manifest";

/// A kernel at hand.
#[derive(Clone, Debug)]
pub(crate) struct Cached {
    /// Version of the package that it is from.
    pub(crate) version: String,
    root: PathBuf,
}

impl Cached {
    /// The file to boot.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        let boot = self.root.join("boot");
        if boot.is_dir() {
            let files = folder::entries(&boot)?;
            let image = files
                .into_iter()
                .find(|file| folder::name(file).starts_with("vmlinuz-"));
            return image.with_context(|| format!("cannot find a kernel in {}", boot.display()));
        }
        // From Linux 6.19 on Debian keeps it with the modules.
        let image = self.modules()?.join("vmlinuz");
        if !image.is_file() {
            bail!("cannot find a kernel in {}", self.root.display());
        }
        Ok(image)
    }

    /// The folder of the kernel's modules.
    pub(crate) fn modules(&self) -> Result<PathBuf> {
        for place in ["usr/lib/modules", "lib/modules"] {
            let place = self.root.join(place);
            if place.is_dir() {
                let releases = folder::entries(&place)?;
                return releases
                    .into_iter()
                    .next()
                    .with_context(|| format!("cannot find modules in {}", place.display()));
            }
        }
        bail!("cannot find modules in {}", self.root.display());
    }
}

/// The kernel, fetched where it is not at hand. `is_wanted_new` asks for the suite's present one.
pub(crate) fn kernel(kernel: &Kernel, is_wanted_new: bool) -> Result<Cached> {
    let place = place(&format!(
        "{}-{}-{}",
        kernel.suite,
        kernel.architecture.debian(),
        kernel.version
    ))?;
    if !is_wanted_new && let Some(version) = manifest(&place)? {
        return Ok(Cached {
            version,
            root: place,
        });
    }
    let suite = open(&kernel.suite, kernel.architecture)?;
    let architecture = kernel.architecture.debian();
    let known = suite.packages(&format!("^linux-image-([0-9].*-)?cloud-{architecture}$"))?;
    let present = present(&known, architecture);
    let wanted = if is_wanted_new {
        None
    } else {
        Some(&*kernel.version)
    };
    let version = wanted
        .filter(|version| image_of(&known, version).is_some())
        .or(present)
        .with_context(|| format!("cannot find any kernel in {}", kernel.suite))?
        .to_owned();
    // What takes the place of another one is found under the other one's name.
    let place = if is_wanted_new {
        self::place(&format!("{}-{architecture}-{version}", kernel.suite))?
    } else {
        place
    };
    if manifest(&place)?.is_none() {
        let packages = image_of(&known, &version)
            .with_context(|| format!("cannot find linux {version} in {}", kernel.suite))?;
        fill(&place, &version, |root| suite.unpack(&packages, root))?;
    }
    Ok(Cached {
        version,
        root: place,
    })
}

/// The folder with the programs of the virtual machines, fetched where it is not at hand.
pub(crate) fn userland(architecture: Architecture) -> Result<PathBuf> {
    let place = place(&format!("userland-{}", architecture.debian()))?;
    let packages = USERLAND.join(" ");
    if manifest(&place)?.as_ref() != Some(&packages) {
        let suite = open(USERLAND_SUITE, architecture)?;
        fill(&place, &packages, |root| {
            suite.unpack_with_dependencies(&USERLAND, root)
        })?;
    }
    Ok(place)
}

fn place(name: &str) -> Result<PathBuf> {
    Ok(workspace::scratch()?.join("kernels").join(name))
}

fn open(suite: &str, architecture: Architecture) -> Result<Suite> {
    eprintln!("asking the archive for {suite}, {}", architecture.debian());
    Suite::open(&place("apt")?, suite, architecture)
}

fn manifest(place: &Path) -> Result<Option<String>> {
    let file = place.join(MANIFEST);
    if !file.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&file);
    Ok(Some(text.with_context(|| {
        format!("cannot read {}", file.display())
    })?))
}

/// Fills `place`; a run that is interrupted leaves nothing that looks complete.
fn fill(place: &Path, manifest: &str, unpack: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    folder::remove(place)?;
    folder::create(place)?;
    unpack(place)?;
    let file = place.join(MANIFEST);
    fs::write(&file, manifest).with_context(|| format!("cannot write {}", file.display()))
}

/// The version that a suite has at present, which is the one that its metapackage depends on.
fn present<'a>(known: &'a [Package], architecture: &str) -> Option<&'a str> {
    let name = format!("linux-image-cloud-{architecture}");
    // apt shows its candidate first.
    let package = known.iter().find(|package| package.name == name)?;
    Some(&package.version)
}

/// The packages that hold a version's kernel and modules.
fn image_of(known: &[Package], version: &str) -> Option<Vec<Package>> {
    let is_image = |package: &&Package| {
        let rest = package.name.strip_prefix("linux-image-");
        package.version == version
            && rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let image = known.iter().find(is_image)?;
    let parts: Vec<_> = image
        .depends
        .iter()
        .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"))
        .map(|name| Package {
            name: name.clone(),
            version: version.to_owned(),
            depends: Vec::new(),
        })
        .collect();
    // From Linux 6.19 on the image is empty and names two that are not.
    Some(if parts.is_empty() {
        vec![image.clone()]
    } else {
        parts
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, depends: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            depends: depends.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn a_version_is_found_in_one_package_or_two() {
        let known = [
            package(
                "linux-image-cloud-amd64",
                "2",
                &["linux-image-2-cloud-amd64"],
            ),
            package("linux-image-1-cloud-amd64", "1", &["kmod"]),
            package(
                "linux-image-2-cloud-amd64",
                "2",
                &[
                    "dracut",
                    "linux-base-2",
                    "linux-binary-2",
                    "linux-modules-2",
                ],
            ),
        ];
        let names = |version| -> Option<Vec<String>> {
            let packages = image_of(&known, version)?;
            assert!(packages.iter().all(|package| package.version == version));
            Some(packages.into_iter().map(|package| package.name).collect())
        };
        assert_eq!(names("1").unwrap(), ["linux-image-1-cloud-amd64"]);
        assert_eq!(names("2").unwrap(), ["linux-binary-2", "linux-modules-2"]);
        assert_eq!(names("3"), None);
        assert_eq!(present(&known, "amd64"), Some("2"));
        assert_eq!(present(&known, "arm64"), None);
    }
}
