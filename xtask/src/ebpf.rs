//! The eBPF objects: built alike everywhere, committed, and verified.
//!
//! The agent includes the committed objects, so that building the agent takes no nightly and no
//! bpf-linker. For that to be honest anybody must be able to rebuild the same bytes. What differs
//! from one machine to the next are paths, and all of them are replaced by fixed names.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    folder, object_diff, process,
    toolchain::{self, Toolchain},
    workspace,
};

const PACKAGE: &str = "tcpstate-ebpf";
const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "ebpf";
/// Where they are committed, relative to the workspace.
const COMMITTED: &str = "tcpstate-agent/ebpf-object";
/// Each binary of the package, and the object that is made of it.
const OBJECTS: [(&str, &str); 4] = [
    ("tcpstate-ebpf", "tcpstate.bpf.o"),
    ("tcpstate-segments", "segments.bpf.o"),
    ("tcpstate-pass", "pass.bpf.o"),
    ("tcpstate-where", "where.bpf.o"),
];

/// An object as it was built.
struct Object {
    name: &'static str,
    bytes: Vec<u8>,
}

/// `cargo xtask ebpf build`, into the folder `out` where one is given.
pub(crate) fn build(out: Option<&Path>) -> Result<()> {
    let folder = match out {
        Some(out) => out.to_owned(),
        None => workspace::root()?.join(COMMITTED),
    };
    folder::create(&folder)?;
    for Object { name, bytes } in compile()? {
        let path = folder.join(name);
        let before = read_if_there(&path)?;
        let (size, shown) = (bytes.len(), path.display());
        if before.as_ref() == Some(&bytes) {
            println!("{shown}: {size} bytes, unchanged");
            continue;
        }
        fs::write(&path, bytes).with_context(|| format!("cannot write {shown}"))?;
        match before {
            Some(before) => println!("{shown}: {size} bytes, changed (it was {})", before.len()),
            None => println!("{shown}: {size} bytes, new"),
        }
    }
    Ok(())
}

/// `cargo xtask ebpf verify`.
pub(crate) fn verify() -> Result<()> {
    let remedy = "run `cargo xtask ebpf build` and commit the object";
    let mut committed = Vec::new();
    for (_, name) in OBJECTS {
        let path = workspace::root()?.join(COMMITTED).join(name);
        let Some(bytes) = read_if_there(&path)? else {
            bail!("cannot verify {COMMITTED}/{name}: there is none ({remedy})");
        };
        committed.push(bytes);
    }
    folder::remove(&target_folder()?.join(TARGET).join(PROFILE))?;
    for (committed, Object { name, bytes }) in committed.iter().zip(compile()?) {
        if let Some(difference) = object_diff::first_difference(committed, &bytes) {
            bail!(
                "{COMMITTED}/{name} is not what its sources give: {} bytes committed, {} bytes \
                 built, they differ from {difference} ({remedy})",
                committed.len(),
                bytes.len(),
            );
        }
        println!(
            "{COMMITTED}/{name}: {} bytes, as built from its sources",
            bytes.len()
        );
    }
    Ok(())
}

/// `cargo xtask ebpf clippy`.
pub(crate) fn clippy() -> Result<()> {
    let toolchain = toolchain::find()?;
    process::run(cargo(&toolchain, "clippy")?.args(["--", "-D", "warnings"]))
}

/// Builds the objects, without the debug information that only making their BTF needed.
fn compile() -> Result<Vec<Object>> {
    let toolchain = toolchain::find()?;
    // The folders of downloaded sources have to be there to be named below.
    process::run(process::cargo()?.args(["fetch", "--quiet", "--locked"]))?;
    process::run(
        cargo(&toolchain, "build")?
            .args(["--profile", PROFILE])
            .env("CARGO_ENCODED_RUSTFLAGS", flags(&toolchain)?),
    )?;
    let folder = target_folder()?;
    let mut objects = Vec::new();
    for (binary, name) in OBJECTS {
        let linked = folder.join(TARGET).join(PROFILE).join(binary);
        let stripped = folder.join(name);
        process::run(
            toolchain
                .private_program("rust-objcopy")
                .arg("--strip-debug")
                .arg(linked)
                .arg(&stripped),
        )?;
        let bytes =
            fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
        objects.push(Object { name, bytes });
    }
    Ok(objects)
}

fn cargo(toolchain: &Toolchain, subcommand: &str) -> Result<Command> {
    // The target's linker is found by its name. Naming its path in a flag instead would make
    // that path part of the build.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(
        [toolchain.linker_folder.clone()]
            .into_iter()
            .chain(env::split_paths(&path)),
    )
    .context("cannot put the folder of bpf-linker into PATH")?;
    let mut command = toolchain::command(toolchain::NIGHTLY, "cargo");
    command
        .current_dir(workspace::root()?)
        .args([subcommand, "--locked", "-Zbuild-std=core"])
        .args(["--package", PACKAGE, "--target", TARGET])
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", target_folder()?)
        // aya-ebpf takes the kernel's architecture from the machine that builds. It decides on
        // the layout of `pt_regs` alone, which no program here reads.
        .env("AYA_BPF_TARGET_ARCH", "x86_64");
    Ok(command)
}

fn target_folder() -> Result<PathBuf> {
    Ok(workspace::scratch()?.join("ebpf"))
}

/// The compiler's flags, in the form that keeps paths with spaces whole.
fn flags(toolchain: &Toolchain) -> Result<OsString> {
    let mut flags: Vec<OsString> = [
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Copies and zeroes become loads and stores, where calls of functions would each take from
        // the one stack of 512 bytes; before Linux 6.8, 32 of them at least.
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ]
    .map(OsString::from)
    .into();
    flags.extend(renamed_paths(toolchain)?.into_iter().map(|(path, name)| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(path);
        flag.push("=");
        flag.push(name);
        flag
    }));
    Ok(flags.join(OsStr::new("\u{1f}")))
}

/// The folders that hold sources, with the names that stand for them in the object. The last one
/// that fits a file counts, so a folder comes after those it lies in.
fn renamed_paths(toolchain: &Toolchain) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut renamed = vec![
        (workspace::root()?, "/tcpstate"),
        (toolchain.sysroot.clone(), "/rust"),
    ];
    // The sources of a registry lie in a folder named after it, which differs where the user has
    // set up a mirror.
    for registry in folder::entries(&cargo_home()?.join("registry/src"))? {
        renamed.push((registry, "/registry"));
    }
    renamed.sort_by_key(|(path, _)| path.components().count());
    Ok(renamed)
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home =
        env::home_dir().context("cannot find cargo's home: neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
