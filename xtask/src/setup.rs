//! `cargo xtask setup`: installs what the other commands need and only say that it is missing.

use anyhow::Result;

use crate::{cargo_tool, msrv, toolchain, tools, vm};

/// `cargo xtask setup`.
pub(crate) fn run() -> Result<()> {
    toolchain::install()?;
    msrv::install()?;
    vm::install_targets()?;
    for tool in cargo_tool::ALL {
        println!("{}", tool.install()?.display());
    }
    tools::install()
}
