//! Documentation that is generated from the code.

use anyhow::Result;

use crate::process;

/// `cargo xtask docs`. The tests that compare the documentation with the code write it where they
/// are told to, so there is one account of what the documentation says.
pub(crate) fn run() -> Result<()> {
    process::run(
        process::cargo()?
            .args(["test", "--package", "tcpstate-agent"])
            .args(["--test", "docs", "--test", "contract"])
            .env("TCPSTATE_BLESS", "1"),
    )
}
