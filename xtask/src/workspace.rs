//! Where the workspace and its folders are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The folder of the workspace's `Cargo.toml`, without symbolic links.
///
/// It is asked for at run time: a checkout may be moved after xtask was built in it.
pub(crate) fn root() -> Result<PathBuf> {
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .context("cannot find the workspace: CARGO_MANIFEST_DIR is not set (run `cargo xtask`)")?;
    Path::new(&xtask)
        .join("..")
        .canonicalize()
        .with_context(|| format!("cannot find the workspace above {}", xtask.display()))
}

/// The folder for what xtask itself builds and installs. It is apart from the folder of the
/// everyday builds, so that neither waits for the other's lock.
pub(crate) fn scratch() -> Result<PathBuf> {
    Ok(root()?.join("target/xtask"))
}
