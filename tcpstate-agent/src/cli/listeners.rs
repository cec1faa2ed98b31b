//! `listeners`: what listens, with its queues.

use anyhow::Context as _;
use serde::Serialize;

use super::{ListenersSettings, print, watch_once};
use crate::{
    cli::Output,
    collect::listeners::{ListeningReport, write_table},
    kernel::plan::ProgramId,
    serve::control,
};

/// Version of the JSON object.
const SCHEMA_VERSION: u32 = 1;

/// What is printed as JSON.
#[derive(Serialize)]
struct Listing<'a> {
    schema_version: u32,
    #[serde(flatten)]
    report: &'a ListeningReport,
}

/// Asks the running agent or looks, and prints.
pub(super) fn execute(settings: &ListenersSettings) -> anyhow::Result<()> {
    let report = if let Some(report) = control::ask_listeners(&settings.control_socket)? {
        report
    } else {
        let watch = watch_once(&ProgramId::SNAPSHOT)?;
        let found = watch
            .listeners()
            .context("cannot tell what listens here (`tcpstate-agent check` says why)")?;
        ListeningReport::new(&found)
    };
    print(|out| match settings.output {
        Output::Text => write_table(out, &report),
        Output::Json => {
            let json = serde_json::to_string(&Listing {
                schema_version: SCHEMA_VERSION,
                report: &report,
            })?;
            writeln!(out, "{json}")
        }
    })?;
    Ok(())
}
