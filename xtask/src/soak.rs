//! `cargo xtask soak`: everything at once for hours, by the test that does it for two minutes.

use anyhow::Result;

use crate::{process, test, tools};

const TEST: &str = "soak::with_everything_at_once_what_is_shown_stays_true_and_nothing_grows";

/// `cargo xtask soak`. What was done, and what the agent took, is the last that the test says.
pub(crate) fn run(minutes: u64) -> Result<()> {
    anyhow::ensure!(
        test::is_root()?,
        "cannot load programs into the kernel: not root"
    );
    let path = tools::find()?.path;
    let mut command = process::cargo_all("test")?;
    command
        .args([
            "--test",
            test::PRIVILEGED,
            "--",
            "--exact",
            TEST,
            "--nocapture",
        ])
        .env("PATH", path)
        .env("TCPSTATE_SOAK_SECONDS", (minutes * 60).to_string());
    process::run(&mut command)
}
