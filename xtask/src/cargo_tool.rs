//! Tools from the registry of crates, each of one version.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process, workspace};

/// Checks the spelling.
pub(crate) const TYPOS: CargoTool = CargoTool {
    package: "typos-cli",
    program: "typos",
    version: "1.52.0",
    features: "dict,vars",
};
/// Runs the tests.
pub(crate) const NEXTEST: CargoTool = CargoTool {
    package: "cargo-nextest",
    program: "cargo-nextest",
    version: "0.9.143",
    // Without its own way to update itself.
    features: "default-no-update",
};
/// Checks what the project depends on.
pub(crate) const DENY: CargoTool = CargoTool {
    package: "cargo-deny",
    program: "cargo-deny",
    version: "0.20.2",
    features: "",
};
/// Builds the fuzz targets.
pub(crate) const FUZZ: CargoTool = CargoTool {
    package: "cargo-fuzz",
    program: "cargo-fuzz",
    version: "0.13.2",
    features: "",
};

/// All of them.
pub(crate) const ALL: [&CargoTool; 4] = [&TYPOS, &NEXTEST, &DENY, &FUZZ];

/// A tool, and what it is built from.
pub(crate) struct CargoTool {
    package: &'static str,
    program: &'static str,
    version: &'static str,
    features: &'static str,
}

impl CargoTool {
    /// The program. It may be anybody's, if it has the version; the project's own is in its target
    /// folder.
    pub(crate) fn find(&self) -> Result<PathBuf> {
        let own = self.home()?.join("bin").join(self.program);
        let mut places = [Some(own), process::find(self.program)]
            .into_iter()
            .flatten();
        places
            .find(|program| self.is_of_version(program))
            .with_context(|| {
                format!(
                    "cannot find {} {} (run `cargo xtask setup`)",
                    self.program, self.version
                )
            })
    }

    /// Builds it where it is missing.
    pub(crate) fn install(&self) -> Result<PathBuf> {
        if let Ok(program) = self.find() {
            return Ok(program);
        }
        let mut cargo = process::cargo()?;
        // Optimizing it takes longer than all its runs.
        cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
        let crate_version = format!("{}@{}", self.package, self.version);
        process::cargo_install(cargo, &crate_version, self.features, &self.home()?)?;
        self.find()
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(workspace::scratch()?.join(format!("{}-{}", self.program, self.version)))
    }

    /// Its first words are its name and its version.
    fn is_of_version(&self, program: &Path) -> bool {
        process::output(Command::new(program).arg("--version"))
            .is_ok_and(|said| said.split_whitespace().nth(1) == Some(self.version))
    }
}
