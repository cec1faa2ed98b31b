//! Documentation that is generated from the code.

use anyhow::Result;

use crate::process;

/// `cargo xtask docs`. The test that compares the documentation with the code writes it where it
/// is told to, so there is one account of what the documentation says.
pub(crate) fn run() -> Result<()> {
    process::run(
        process::cargo()?
            .args(["test", "--package", "tcpstate-agent", "--test", "docs"])
            .env("TCPSTATE_BLESS", "1"),
    )
}
