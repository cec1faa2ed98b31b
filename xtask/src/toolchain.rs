//! The pinned tools that build the eBPF object: a nightly, and bpf-linker made for it.
//!
//! The object is committed and verified byte for byte, so every tool that shapes it is pinned.
//! bpf-linker has to read the bitcode of the compiler it links for. It is therefore built against
//! the very LLVM library that the nightly brings along, which also spares everybody an LLVM of
//! their own.

use std::{
    env,
    ffi::OsStr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{folder, process, workspace};

/// The compiler of the eBPF programs. A change of it changes the object.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-01";
const COMPONENTS: [&str; 3] = ["rust-src", "clippy", "rustfmt"];
const BPF_LINKER_VERSION: &str = "0.13.0";

/// The tools, installed.
pub(crate) struct Toolchain {
    /// The root folder of the nightly.
    pub(crate) sysroot: PathBuf,
    /// The folder that bpf-linker is in.
    pub(crate) linker_folder: PathBuf,
    host: String,
}

impl Toolchain {
    /// A program that the nightly keeps for its own use, such as `rust-objcopy`.
    pub(crate) fn private_program(&self, name: &str) -> Command {
        let program = format!("lib/rustlib/{}/bin/{name}", self.host);
        let mut command = Command::new(self.sysroot.join(program));
        // It is linked with the LLVM in there, and does not know where that is.
        command.env("LD_LIBRARY_PATH", self.sysroot.join("lib"));
        command
    }
}

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    if !has_nightly() {
        install_rust(NIGHTLY, &COMPONENTS)?;
    }
    let nightly = Nightly::ask()?;
    if !works(&linker_folder()?.join("bpf-linker")) {
        install_bpf_linker(&nightly)?;
    }
    println!("{NIGHTLY}: {}", nightly.sysroot.display());
    println!(
        "bpf-linker {BPF_LINKER_VERSION}: {}",
        linker_folder()?.display()
    );
    Ok(())
}

/// The tools, which must have been installed.
pub(crate) fn find() -> Result<Toolchain> {
    let remedy = "run `cargo xtask setup`";
    if !has_nightly() {
        bail!("cannot build the eBPF programs: {NIGHTLY} is not here ({remedy})");
    }
    let Nightly { sysroot, host, .. } = Nightly::ask()?;
    let linker_folder = linker_folder()?;
    if !works(&linker_folder.join("bpf-linker")) {
        bail!(
            "cannot link the eBPF programs: no bpf-linker that works in {} ({remedy})",
            linker_folder.display()
        );
    }
    Ok(Toolchain {
        sysroot,
        linker_folder,
        host,
    })
}

/// What the nightly builds for unless it is told otherwise.
pub(crate) fn host() -> Result<String> {
    Ok(Nightly::ask()?.host)
}

/// What the nightly says of itself.
struct Nightly {
    sysroot: PathBuf,
    host: String,
    llvm: String,
}

impl Nightly {
    fn ask() -> Result<Self> {
        let rustc = || command(NIGHTLY, "rustc");
        let sysroot = process::output(rustc().args(["--print", "sysroot"]))?;
        let version = process::output(rustc().arg("-vV"))?;
        Ok(Self {
            sysroot: PathBuf::from(sysroot.trim()),
            host: version_field(&version, "host")?.to_owned(),
            llvm: version_field(&version, "LLVM version")?.to_owned(),
        })
    }
}

fn linker_home() -> Result<PathBuf> {
    Ok(workspace::scratch()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-{NIGHTLY}")))
}

fn linker_folder() -> Result<PathBuf> {
    Ok(linker_home()?.join("bin"))
}

/// A command of one of rustup's toolchains, free of what the surrounding `cargo run` and the
/// user's environment say about the everyday toolchain and its flags.
pub(crate) fn command(toolchain: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain]).arg(program);
    // It must not be installed on being asked for.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    for (name, _) in env::vars_os() {
        if belongs_to_other_toolchain(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn belongs_to_other_toolchain(variable: &OsStr) -> bool {
    /// Where cargo keeps its files and how it reaches registries holds for any toolchain.
    const KEPT: [&str; 6] = ["HOME", "HTTP_", "NET_", "REGISTRIES_", "REGISTRY_", "TERM_"];
    let variable = variable.to_string_lossy();
    match variable.strip_prefix("CARGO_") {
        Some(rest) => !KEPT.iter().any(|kept| rest.starts_with(kept)),
        None => {
            ["CARGO", "RUSTUP_TOOLCHAIN"].contains(&&*variable)
                || ["RUSTC", "RUSTDOC", "RUSTFLAGS"]
                    .iter()
                    .any(|name| variable.starts_with(name))
        }
    }
}

fn has_nightly() -> bool {
    // Without the variable rustup might install the toolchain on being asked about it.
    let installed = process::output(
        Command::new("rustup")
            .args(["component", "list", "--installed", "--toolchain", NIGHTLY])
            .env("RUSTUP_AUTO_INSTALL", "0"),
    );
    installed.is_ok_and(|installed| {
        COMPONENTS
            .iter()
            .all(|component| installed.lines().any(|line| line.starts_with(component)))
    })
}

/// Installs one of rustup's toolchains.
pub(crate) fn install_rust(toolchain: &str, components: &[&str]) -> Result<()> {
    let mut command = Command::new("rustup");
    command.args([
        "toolchain",
        "install",
        toolchain,
        "--profile=minimal",
        "--no-self-update",
    ]);
    for component in components {
        command.args(["-c", component]);
    }
    process::run(&mut command)
        .with_context(|| format!("cannot install Rust {toolchain} (see https://rustup.rs)"))
}

fn install_bpf_linker(nightly: &Nightly) -> Result<()> {
    let Nightly { sysroot, llvm, .. } = nightly;
    let major = llvm.split('.').next().unwrap_or(llvm);
    let home = linker_home()?;
    let prefix = home.join("llvm");
    offer_llvm(&prefix.join("lib"), &sysroot.join("lib"))?;
    let mut cargo = command(NIGHTLY, "cargo");
    cargo
        .env("LLVM_PREFIX", &prefix)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let crate_version = format!("bpf-linker@{BPF_LINKER_VERSION}");
    process::cargo_install(cargo, &crate_version, &format!("llvm-{major}"), &home)
        .with_context(|| format!("cannot build bpf-linker against LLVM {llvm} of {NIGHTLY}"))
}

/// Fills `folder` with links to the nightly's LLVM library, by the name that linking looks for
/// and the name that loading looks for. bpf-linker keeps `folder` as its run path.
fn offer_llvm(folder: &Path, libraries: &Path) -> Result<()> {
    let mut found = folder::entries(libraries)?;
    // `libLLVM-….so` beside it is a linker script, not the library.
    found.retain(|path| folder::name(path).starts_with("libLLVM.so."));
    let [library] = &found[..] else {
        bail!(
            "cannot find the LLVM library of {NIGHTLY}: {} has {found:?}",
            libraries.display()
        );
    };
    folder::remove(folder)?;
    folder::create(folder)?;
    for name in ["libLLVM.so", &folder::name(library)] {
        symlink(library, folder.join(name))
            .with_context(|| format!("cannot link {name} in {}", folder.display()))?;
    }
    Ok(())
}

/// Whether the linker starts. It does not where the checkout or the nightly was moved.
fn works(linker: &Path) -> bool {
    process::output(Command::new(linker).arg("--version")).is_ok()
}

fn version_field<'a>(version: &'a str, name: &str) -> Result<&'a str> {
    version
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .with_context(|| format!("cannot find `{name}` in the version of {NIGHTLY}:\n{version}"))
}
