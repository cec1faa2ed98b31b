//! What the project may depend on, by `.cargo/deny.toml`.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{cargo_tool, folder, process, test, workspace};

/// A step of `cargo xtask ci`. Advisories are compared with the database that `cargo deny fetch`
/// has brought, which no registry has.
pub(crate) fn check() -> Result<()> {
    let deny = |scope: &str, what: &[&str]| {
        process::run(
            Command::new(cargo_tool::DENY.find()?)
                .current_dir(workspace::root()?)
                .args([scope, "check"])
                .args(what),
        )
    };
    deny("--locked", &["bans", "licenses", "sources"])?;
    if has_database()? {
        return deny("--offline", &["advisories"]);
    }
    test::banner(
        "NOT CHECKED: whether a dependency has a known vulnerability. The database of advisories \
         is not here: `cargo deny fetch db` brings it.",
    );
    Ok(())
}

fn has_database() -> Result<bool> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")))
        .context("cannot find cargo's folder")?;
    let databases = home.join("advisory-dbs");
    Ok(databases.is_dir() && !folder::entries(&databases)?.is_empty())
}
