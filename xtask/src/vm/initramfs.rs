//! The file system that a virtual machine boots into: programs, modules, tests.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cpio::{NewcBuilder, newc};

use super::{build::Binaries, cache::Cached, matrix::Architecture};
use crate::folder;

/// Programs that the tests call, by their place in Debian. What a shell needs is in busybox, which
/// is no shell for the tests: it takes its own programs for the real ones.
const PROGRAMS: [&str; 9] = [
    "usr/bin/busybox",
    "usr/bin/dash",
    "usr/bin/ip",
    "usr/bin/nsenter",
    "usr/bin/setpriv",
    "usr/bin/ss",
    "usr/bin/unshare",
    "usr/sbin/bpftool",
    "usr/sbin/tc",
];

/// Modules that the tests need, each after those it depends on. A kernel may have them built in.
const MODULES: [&str; 9] = [
    "tun",
    "veth",
    "inet_diag",
    "tcp_diag",
    "sch_ingress",
    "cls_bpf",
    "cls_u32",
    "tls",
    "bonding",
];

/// Programs that tests ask for and that are too large to have here. Which tests are skipped for it
/// is in kernels.toml.
const MISSING: [&str; 14] = [
    "addr2line",
    "g++",
    "gcc",
    "go",
    "javac",
    "musl-gcc",
    "nginx",
    "node",
    "prometheus",
    "promtool",
    "python3-requests",
    "redis-cli",
    "redis-server",
    "tcpdump",
];

const INIT: &str = include_str!("init.sh");

/// A test that takes longer is ended.
const TEST_SECONDS: u32 = 100;

/// How much slower than a real CPU the emulated one is, about. What tests do many thousand times
/// they do that much less often.
const SLOWNESS: u32 = 25;

/// What goes into it.
pub(crate) struct Contents<'a> {
    pub(crate) architecture: Architecture,
    /// The folder of Debian's programs.
    pub(crate) userland: &'a Path,
    pub(crate) kernel: &'a Cached,
    pub(crate) binaries: &'a Binaries,
    /// Which tests to run, as the test binary takes it; all where there is none.
    pub(crate) filters: &'a [String],
}

/// Writes the initramfs to `path`.
pub(crate) fn write(path: &Path, contents: &Contents<'_>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive {
        output: Some(BufWriter::new(file)),
        folders: BTreeSet::new(),
        entries: 0,
    };
    let written = fill(&mut archive, contents).and_then(|()| archive.finish());
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn fill(archive: &mut Archive, contents: &Contents<'_>) -> Result<()> {
    for folder in ["dev", "proc", "root", "run", "sys", "tmp", "usr/sbin"] {
        archive.folder(folder)?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        archive.folder(&format!("usr/{name}"))?;
        archive.link(name, &format!("usr/{name}"))?;
    }
    for program in PROGRAMS {
        let file = contents.userland.join(program);
        if !file.is_file() || file.is_symlink() {
            bail!("{} is no program", file.display());
        }
        archive.copy(&file, program)?;
    }
    archive.link("usr/bin/sh", "dash")?;
    for library in libraries(contents.userland, contents.architecture)? {
        let name = library
            .strip_prefix(contents.userland)?
            .to_string_lossy()
            .into_owned();
        archive.copy(&library, &name)?;
    }
    let modules = contents.kernel.modules()?;
    for (number, name) in MODULES.iter().enumerate() {
        // The order is that of their names in there.
        if let Some(module) = module(&modules, name)? {
            let name = folder::name(&module);
            archive.copy(&module, &format!("vm/modules/{number:02}-{name}"))?;
        }
    }
    // The tests look for the agent where it was built.
    let agent = contents.binaries.agent.to_string_lossy();
    archive.copy(&contents.binaries.agent, agent.trim_start_matches('/'))?;
    archive.copy(&contents.binaries.tests, "vm/privileged")?;
    archive.file(
        "vm/settings",
        0o644,
        settings(&agent, contents.filters).as_bytes(),
    )?;
    archive.file("init", 0o755, INIT.as_bytes())
}

fn settings(agent: &str, filters: &[String]) -> String {
    let filters: Vec<_> = filters.iter().map(|filter| quoted(filter)).collect();
    format!(
        "AGENT={}\n\
         TEST_SECONDS={TEST_SECONDS}\n\
         set -- {}\n\
         export TCPSTATE_TEST_SLOWNESS={SLOWNESS}\n\
         export TCPSTATE_TEST_MISSING_TOOLS={}\n\
         export RUST_BACKTRACE=1\n",
        quoted(agent),
        filters.join(" "),
        MISSING.join(",")
    )
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// All shared libraries, and what loads them: which program needs which is not worth knowing.
fn libraries(userland: &Path, architecture: Architecture) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let folder = userland.join("usr/lib").join(architecture.libraries());
    for file in folder::entries(&folder)? {
        if folder::name(&file).contains(".so") && (file.is_file() || file.is_symlink()) {
            found.push(file);
        }
    }
    for place in ["usr/lib64", "usr/lib"] {
        let place = userland.join(place);
        if place.is_dir() {
            let files = folder::entries(&place)?.into_iter();
            found.extend(files.filter(|file| folder::name(file).starts_with("ld-linux")));
        }
    }
    Ok(found)
}

/// The file of a module, compressed or not; none where it is built in.
fn module(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for path in folder::entries(folder)? {
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = module(&path, name)? {
                return Ok(Some(found));
            }
        } else if folder::name(&path)
            .strip_prefix(name)
            .is_some_and(|rest| rest == ".ko" || rest == ".ko.xz")
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// A cpio archive of the form that the kernel reads.
struct Archive {
    /// Gone once it is finished.
    output: Option<BufWriter<File>>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// A folder, with those it lies in.
    fn folder(&mut self, name: &str) -> Result<()> {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent)?;
        }
        if self.folders.insert(name.to_owned()) {
            self.entry(name, 0o040_755, &[])?;
        }
        Ok(())
    }

    fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, 0o120_777, target.as_bytes())
    }

    fn file(&mut self, name: &str, permissions: u32, bytes: &[u8]) -> Result<()> {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent)?;
        }
        self.entry(name, 0o100_000 | permissions, bytes)
    }

    /// A program, a library or a symbolic link, from the file `from`.
    fn copy(&mut self, from: &Path, name: &str) -> Result<()> {
        let cannot_read = || format!("cannot read {}", from.display());
        if from.is_symlink() {
            let target = fs::read_link(from).with_context(cannot_read)?;
            if let Some((parent, _)) = name.rsplit_once('/') {
                self.folder(parent)?;
            }
            return self.link(name, &target.to_string_lossy());
        }
        let bytes = fs::read(from).with_context(cannot_read)?;
        self.file(name, 0o755, &bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let output = self.output.take().context("the archive is finished")?;
        self.entries += 1;
        let builder = NewcBuilder::new(name).ino(self.entries).nlink(1).mode(mode);
        let mut writer = builder.write(output, u32::try_from(bytes.len())?);
        writer.write_all(bytes)?;
        self.output = Some(writer.finish()?);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let output = self.output.take().context("the archive is finished")?;
        newc::trailer(output)?.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_for_its_own_is_quoted() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        let mut archive = Archive {
            output: Some(BufWriter::new(File::create(&path).unwrap())),
            folders: BTreeSet::new(),
            entries: 0,
        };
        archive.file("a/b/c", 0o755, b"text").unwrap();
        archive.file("a/b/d", 0o644, b"").unwrap();
        archive.link("e", "a/b").unwrap();
        archive.finish().unwrap();

        let mut input = File::open(&path).unwrap();
        let mut seen = Vec::new();
        loop {
            let reader = newc::Reader::new(input).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            seen.push((entry.name().to_owned(), entry.mode(), entry.file_size()));
            input = reader.finish().unwrap();
        }
        let seen: Vec<_> = seen
            .iter()
            .map(|(name, mode, size)| (&**name, *mode, *size))
            .collect();
        assert_eq!(
            seen,
            [
                ("a", 0o040_755, 0),
                ("a/b", 0o040_755, 0),
                ("a/b/c", 0o100_755, 4),
                ("a/b/d", 0o100_644, 0),
                ("e", 0o120_777, 3),
            ]
        );
    }
}
