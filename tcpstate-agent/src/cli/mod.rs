//! The command line: which commands there are, and doing what was typed.
//!
//! One file a command: its arguments, what they mean, and what it does, wiring what it needs. Nothing
//! else sees everything.

mod check;
mod control;
mod diagnose;
mod listeners;
mod loading;
mod logging;
mod output;
mod run;
mod segments;
mod snapshot;
mod trace;
mod where_in_code;

use std::{ffi::OsString, io::Write as _, process::ExitCode, time::Duration};

use clap::{
    ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind,
    parser::ValueSource,
};
use thiserror::Error;

use self::{
    check::CheckArgs,
    diagnose::{DiagnoseArgs, DiagnoseSettings},
    listeners::{ListenersArgs, ListenersSettings},
    logging::{LogArgs, LogSettings},
    run::{RunArgs, RunSettings},
    snapshot::SnapshotArgs,
    trace::{TraceArgs, TraceSettings},
    where_in_code::{WhereArgs, WhereSettings},
};
use crate::{collect::segments::SelectionError, version};

/// TCP connection states from the kernel, for Prometheus and the terminal.
///
/// Without a command it is `run`: the agent, with metrics on http://127.0.0.1:10049/metrics.
#[derive(Debug, Parser)]
#[command(name = "tcpstate-agent", version, propagate_version = true)]
pub struct Cli {
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    command: Option<Command>,
    /// The flags of `run`, for when nothing is said.
    #[command(flatten)]
    run: RunArgs,
    /// The flags of every command.
    #[command(flatten)]
    log: LogArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: watch the kernel and serve metrics
    Run(RunArgs),
    /// Count all sockets once, by state and family
    Snapshot(SnapshotArgs),
    /// Tell who keeps sockets in CLOSE_WAIT, why, and what to do about it
    Diagnose(DiagnoseArgs),
    /// Print listening sockets with their queues and half-open connections, the busiest first
    Listeners(ListenersArgs),
    /// Print state transitions as they happen
    Trace(TraceArgs),
    /// Tell where in the code of a process its leaked sockets were used, and what its threads wait
    /// for
    Where(WhereArgs),
    /// Tell what this kernel and these permissions allow, and what to do about the rest
    Check(CheckArgs),
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum SettingsError {
    /// Not usable as a path of its own.
    #[error(
        "--web.telemetry-path {0:?}: must be a path such as /metrics, and none of the agent's own (/-/healthy, /-/ready)"
    )]
    TelemetryPath(String),
    /// Not usable as an interface's name.
    #[error("--segments.device {0}")]
    Device(#[from] SelectionError),
    /// Its label is left out.
    #[error(
        "--services.always {0}: --labels.disable leaves out the units, by which it would be known \
         (name its port)"
    )]
    Unit(String),
}

impl Cli {
    /// Parses a command line; the first argument is the program's name.
    pub fn parse_from_args(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        if let Some(flag) = misplaced_run_flag(&matches) {
            let name = matches.subcommand_name().unwrap_or_default();
            return Err(command.error(
                ErrorKind::ArgumentConflict,
                format!("--{flag} is a flag of `run`, it has no meaning for `{name}`"),
            ));
        }
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// A flag of `run` that stands before another command, where it would be silently ignored.
fn misplaced_run_flag(matches: &ArgMatches) -> Option<&'static str> {
    matches.subcommand_name()?;
    [
        ("listen_address", "web.listen-address"),
        ("systemd_socket", "web.systemd-socket"),
        ("web_config_file", "web.config.file"),
        ("max_requests", "web.max-requests"),
        ("telemetry_path", "web.telemetry-path"),
        ("cpu_percent", "snapshot.cpu-percent"),
        ("close_wait_top", "close-wait.top"),
        ("listeners_top", "listeners.top"),
        ("destinations_top", "destinations.top"),
        ("series_burst", "series.burst"),
        ("series_per_hour", "series.per-hour"),
        ("labels_disable", "labels.disable"),
        ("device", "segments.device"),
        ("xdp_mode", "segments.xdp-mode"),
        ("socket", "control.socket"),
    ]
    .into_iter()
    .find_map(|(id, flag)| {
        (matches.value_source(id) == Some(ValueSource::CommandLine)).then_some(flag)
    })
}

/// Does what the command line says and returns the exit code.
pub fn execute(cli: Cli) -> anyhow::Result<u8> {
    let Cli { command, run, log } = cli;
    let log = LogSettings::from(log);
    let command = command.unwrap_or(Command::Run(run));
    // That one's log waits for nobody.
    if !matches!(command, Command::Run(_)) {
        crate::logging::start(log.filter(), log.is_json());
    }
    match command {
        Command::Run(args) => return run::execute(&RunSettings::try_from(args)?, log),
        Command::Snapshot(args) => snapshot::execute(args.output)?,
        Command::Trace(args) => trace::execute(&TraceSettings::try_from(args)?, log)?,
        Command::Diagnose(args) => diagnose::execute(&DiagnoseSettings::from(args))?,
        Command::Listeners(args) => listeners::execute(&ListenersSettings::from(args))?,
        Command::Where(args) => where_in_code::execute(&WhereSettings::from(args))?,
        Command::Check(args) => return check::execute(&args.segments.try_into()?),
    }
    Ok(0)
}

/// Prints help, the version, or what is wrong with the command line, and returns the exit code.
#[must_use]
pub fn report(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::DisplayVersion {
        // Nobody is left to tell that stdout is gone, here and below.
        let _ = std::io::stdout().write_all(version::text().as_bytes());
        return ExitCode::SUCCESS;
    }
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn interval(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=3_600.0).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a number of seconds from 0 to 3600".to_owned())
}

#[cfg(test)]
mod tests {
    use tcpstate_common::TcpState;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let all = ["tcpstate-agent"].iter().chain(arguments);
        Cli::parse_from_args(all.map(OsString::from))
    }

    fn message(arguments: &[&str]) -> String {
        let error = parse(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_said_is_run_with_its_flags() {
        let cli = parse(&["--web.listen-address", ":9"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.listen_address, ["[::]:9".parse().unwrap()]);
    }

    #[test]
    fn listen_addresses_can_be_several() {
        let cli = parse(&[
            "run",
            "--web.listen-address=127.0.0.1:1",
            "--web.listen-address=[::1]:2",
        ])
        .unwrap();
        let Some(Command::Run(run)) = cli.command else {
            panic!("not run");
        };
        assert_eq!(run.listen_address.len(), 2);
    }

    #[test]
    fn bad_values_are_named() {
        for (arguments, word) in [
            (
                &["--web.listen-address", "127.0.0.1:70000"][..],
                "127.0.0.1:70000",
            ),
            (&["--web.listen-address", "localhost"], "localhost"),
            (&["--snapshot.cpu-percent", "0"], "cpu-percent"),
            (&["--snapshot.cpu-percent", "NaN"], "cpu-percent"),
            (&["--snapshot.cpu-percent", "1e-20"], "cpu-percent"),
            (&["--snapshot.cpu-percent", "101"], "cpu-percent"),
            (&["--log.level", "loud"], "loud"),
            (&["--no-such-flag"], "--no-such-flag"),
            (&["trace", "--state", "closed"], "closed"),
            (&["trace", "--state", "time_wait"], "time_wait"),
            (&["trace", "--port", "70000"], "70000"),
            (&["trace", "--port", "0"], "0"),
            (&["snapshot", "--output", "xml"], "xml"),
            (&["diagnose", "--interval", "-1"], "interval"),
            (&["diagnose", "--interval", "inf"], "interval"),
            (&["diagnose", "--pid", "0"], "0"),
            (&["diagnose", "--port", "65536"], "65536"),
            (&["diagnose", "--limit", "-1"], "-1"),
            (&["--segments.xdp-mode", "offload"], "offload"),
        ] {
            let message = message(arguments);
            assert!(message.contains(word), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn a_flag_of_run_before_another_command_is_refused() {
        let message = message(&["--web.listen-address", ":9", "snapshot"]);
        assert!(
            message.contains("has no meaning for `snapshot`"),
            "{message}"
        );
    }

    #[test]
    fn states_are_named_as_in_the_metrics() {
        let cli = parse(&["trace", "--state", "close_wait,syn_recv"]).unwrap();
        let Some(Command::Trace(trace)) = cli.command else {
            panic!("not trace");
        };
        assert_eq!(trace.state, [TcpState::CloseWait, TcpState::SynRecv]);
    }
}
