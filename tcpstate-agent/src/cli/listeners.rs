//! `listeners`: what listens, with its queues.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    control::ControlArgs,
    loading::watch_to_ask,
    output::{Output, print},
};
use crate::{
    collect::listeners::{ListeningReport, write_table},
    kernel::plan::ProgramId,
    serve::control,
};

/// Flags of `listeners`.
#[derive(Args, Clone, Debug)]
pub(super) struct ListenersArgs {
    /// Output format
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
    /// Where to ask
    #[command(flatten)]
    pub(super) control: ControlArgs,
}

/// Settings of `listeners`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListenersSettings {
    /// How to print it.
    pub(super) output: Output,
    /// Where a running agent is asked.
    pub(super) control_socket: PathBuf,
}

impl From<ListenersArgs> for ListenersSettings {
    fn from(ListenersArgs { output, control }: ListenersArgs) -> Self {
        Self {
            output,
            control_socket: control.socket,
        }
    }
}

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
        let watch = watch_to_ask(&ProgramId::SNAPSHOT)?;
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
