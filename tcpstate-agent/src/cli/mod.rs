//! The command line: what was typed. What it means is in `settings`.

mod check;
mod diagnose;
mod execute;
mod listeners;
mod logging;
mod run;
mod settings;
mod snapshot;
mod trace;
mod where_in_code;

use std::{
    ffi::OsString, io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode,
    time::Duration,
};

use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
    parser::ValueSource,
};
use tcpstate_common::TcpState;

use crate::version;

pub use execute::execute;
use execute::{
    FOUND_WRONG, Printed, follow_segments, print, require_any, stop_on_signal, watch_once,
};
pub use settings::{
    DiagnoseSettings, Listen, ListenersSettings, LogSettings, RunSettings, SettingsError,
    TraceFilter, TraceSettings, WhereSettings,
};

/// TCP connection states from the kernel, for Prometheus and the terminal.
///
/// Without a command it is `run`: the agent, with metrics on http://127.0.0.1:10049/metrics.
#[derive(Debug, Parser)]
#[command(name = "tcpstate-agent", version, propagate_version = true)]
pub struct Cli {
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of `run`, for when nothing is said.
    #[command(flatten)]
    pub run: RunArgs,
    /// The flags of every command.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: watch the kernel and serve metrics
    Run(RunArgs),
    /// Count all sockets once, by state and family
    Snapshot(SnapshotArgs),
    /// Tell who keeps sockets in CLOSE_WAIT, why, and what to do about it
    Diagnose(DiagnoseArgs),
    /// Print what listens, with its queues and half-open connections, the busiest first
    Listeners(ListenersArgs),
    /// Print state transitions as they happen
    Trace(TraceArgs),
    /// Tell where in the code of a process its leaked sockets were used, and what its threads wait
    /// for
    Where(WhereArgs),
    /// Tell what this kernel and these permissions allow, and what to do about the rest
    Check(CheckArgs),
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Address and port to serve metrics on; may be given more than once. `:PORT` is every address
    #[arg(
        long = "web.listen-address",
        env = "TCPSTATE_WEB_LISTEN_ADDRESS",
        value_name = "ADDRESS:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:10049",
        value_parser = listen_address
    )]
    pub listen_address: Vec<SocketAddr>,
    /// Serve on the sockets that systemd listens on, in the place of --web.listen-address
    #[arg(long = "web.systemd-socket", env = "TCPSTATE_WEB_SYSTEMD_SOCKET")]
    pub systemd_socket: bool,
    /// File with TLS, passwords and a rate limit, as Prometheus exporters take it
    #[arg(
        long = "web.config.file",
        env = "TCPSTATE_WEB_CONFIG_FILE",
        value_name = "PATH"
    )]
    pub web_config_file: Option<PathBuf>,
    /// Scrapes that may wait for a page of their own at once; beyond that they are answered with
    /// 503. Any number with 0
    #[arg(
        long = "web.max-requests",
        env = "TCPSTATE_WEB_MAX_REQUESTS",
        value_name = "COUNT",
        default_value_t = 40
    )]
    pub max_requests: usize,
    /// Path under which to show the metrics
    #[arg(
        long = "web.telemetry-path",
        env = "TCPSTATE_WEB_TELEMETRY_PATH",
        value_name = "PATH",
        default_value = "/metrics"
    )]
    pub telemetry_path: String,
    /// How much of one core counting sockets in the background may use, over a minute
    #[arg(
        long = "snapshot.cpu-percent",
        env = "TCPSTATE_SNAPSHOT_CPU_PERCENT",
        value_name = "PERCENT",
        default_value_t = 2.0,
        value_parser = percent
    )]
    pub cpu_percent: f64,
    /// Groups of sockets in CLOSE_WAIT that get series of their own: so many of the largest and so
    /// many of the oldest. The others are summed
    #[arg(
        long = "close-wait.top",
        env = "TCPSTATE_CLOSE_WAIT_TOP",
        value_name = "COUNT",
        default_value_t = 50
    )]
    pub close_wait_top: usize,
    /// Listeners that get series of their own, the busiest first. The others are summed
    #[arg(
        long = "listeners.top",
        env = "TCPSTATE_LISTENERS_TOP",
        value_name = "COUNT",
        default_value_t = 200
    )]
    pub listeners_top: usize,
    /// Destinations of outgoing connections that get series of their own: so many with most
    /// sockets in TIME_WAIT and so many with most ports taken. The others are summed
    #[arg(
        long = "destinations.top",
        env = "TCPSTATE_DESTINATIONS_TOP",
        value_name = "COUNT",
        default_value_t = 50
    )]
    pub destinations_top: usize,
    /// Where and how to count segments.
    #[command(flatten)]
    pub segments: SegmentArgs,
    /// Where terminal commands ask.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Where and how to count segments.
#[derive(Args, Clone, Debug)]
pub struct SegmentArgs {
    /// Where.
    #[command(flatten)]
    pub on: DeviceArgs,
    /// How XDP sees what comes in: in the driver, in the network stack, or not at all. Where it
    /// cannot, or another program is there, TC does
    #[arg(
        long = "segments.xdp-mode",
        env = "TCPSTATE_SEGMENTS_XDP_MODE",
        value_enum,
        value_name = "MODE",
        default_value_t = XdpModeArg::Skb
    )]
    pub xdp_mode: XdpModeArg,
}

/// Where to see segments.
#[derive(Args, Clone, Debug)]
pub struct DeviceArgs {
    /// See TCP segments and their flags on this network interface; may be given more than once.
    /// `*` and `?` stand for any text and any letter, `all` for every interface
    #[arg(
        long = "segments.device",
        env = "TCPSTATE_SEGMENTS_DEVICE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub device: Vec<String>,
}

/// How XDP is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum XdpModeArg {
    /// In the driver, before the network stack: cheapest, and may reset the card's queues.
    Native,
    /// In the network stack, whatever the driver.
    Skb,
    /// Not at all: TC sees what comes in too.
    Off,
}

/// Where the agent and the commands that ask it meet.
#[derive(Args, Clone, Debug)]
pub struct ControlArgs {
    /// Unix socket through which commands of root ask a running agent
    #[arg(
        long = "control.socket",
        env = "TCPSTATE_CONTROL_SOCKET",
        value_name = "PATH",
        default_value = "/run/tcpstate-agent/control.sock"
    )]
    pub socket: PathBuf,
}

/// Flags of `snapshot`.
#[derive(Args, Clone, Debug)]
pub struct SnapshotArgs {
    /// Output format
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Where and how segments are to be counted; without it, what is on the interfaces already.
    #[command(flatten)]
    pub segments: SegmentArgs,
}

/// Flags of `listeners`.
#[derive(Args, Clone, Debug)]
pub struct ListenersArgs {
    /// Output format
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Where to ask
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Flags of `diagnose`.
#[derive(Args, Clone, Debug)]
pub struct DiagnoseArgs {
    /// Only sockets that this process holds
    #[arg(
        long,
        env = "TCPSTATE_DIAGNOSE_PID",
        value_name = "PID",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub pid: Option<u32>,
    /// Only sockets of this service: for servers their own port, for clients the remote one
    #[arg(
        long,
        env = "TCPSTATE_DIAGNOSE_PORT",
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub port: Option<u16>,
    /// How many groups to show, the largest first
    #[arg(
        long,
        env = "TCPSTATE_DIAGNOSE_LIMIT",
        value_name = "COUNT",
        default_value_t = 20
    )]
    pub limit: usize,
    /// Seconds between two looks, for telling growth; 0 looks once
    #[arg(
        long,
        env = "TCPSTATE_DIAGNOSE_INTERVAL",
        value_name = "SECONDS",
        default_value = "2",
        allow_negative_numbers = true,
        value_parser = interval
    )]
    pub interval: Duration,
    /// Output format
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Where to ask a running agent.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Flags of `trace`.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// Only transitions into or out of this state; may be given more than once
    #[arg(
        long,
        env = "TCPSTATE_TRACE_STATE",
        value_name = "STATE",
        value_delimiter = ',',
        value_parser = state()
    )]
    pub state: Vec<TcpState>,
    /// Only sockets with this local or remote port; may be given more than once
    #[arg(
        long,
        env = "TCPSTATE_TRACE_PORT",
        value_name = "PORT",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub port: Vec<u16>,
    /// Only sockets that this process owns, by its number or its name (comm); may be given more
    /// than once
    #[arg(
        long,
        env = "TCPSTATE_TRACE_PROCESS",
        value_name = "PID|NAME",
        value_delimiter = ','
    )]
    pub process: Vec<String>,
    /// Print the segments too that open, end or reset connections, or make no sense: on the
    /// interfaces of --segments.device, or on all
    #[arg(long, env = "TCPSTATE_TRACE_SEGMENTS")]
    pub segments: bool,
    /// Where to see them.
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Output format; json is one object a line
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Flags of `where`.
#[derive(Args, Clone, Debug)]
pub struct WhereArgs {
    /// Which process.
    #[command(flatten)]
    pub process: WhichProcess,
    /// How long to watch, in seconds; 0 only tells what the threads do now
    #[arg(
        long,
        env = "TCPSTATE_WHERE_SECONDS",
        value_name = "SECONDS",
        default_value = "30",
        allow_negative_numbers = true,
        value_parser = interval
    )]
    pub seconds: Duration,
    /// Tell where connections are accepted too. Where the kernel shows that by system calls only,
    /// each system call of the host takes some 10 ns longer meanwhile, and the report says so
    #[arg(long, env = "TCPSTATE_WHERE_ACCEPT")]
    pub accept: bool,
    /// Output format
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Which process to look at. Of several that fit, the one with the most sockets in CLOSE_WAIT.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct WhichProcess {
    /// The process with this number
    #[arg(
        long,
        env = "TCPSTATE_WHERE_PID",
        value_name = "PID",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub pid: Option<u32>,
    /// The process that listens on this port, or is connected to it
    #[arg(
        long,
        env = "TCPSTATE_WHERE_PORT",
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub port: Option<u16>,
    /// The process of this name (comm)
    #[arg(long, env = "TCPSTATE_WHERE_PROCESS", value_name = "NAME")]
    pub process: Option<String>,
    /// The process of this systemd unit
    #[arg(long, env = "TCPSTATE_WHERE_UNIT", value_name = "UNIT")]
    pub unit: Option<String>,
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Least severe messages to log. From debug on, the kernel side logs too
    #[arg(
        long = "log.level",
        env = "TCPSTATE_LOG_LEVEL",
        value_enum,
        default_value_t = LogLevel::Info,
        global = true
    )]
    pub level: LogLevel,
    /// Format of the log, which goes to stderr
    #[arg(
        long = "log.format",
        env = "TCPSTATE_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Logfmt,
        global = true
    )]
    pub format: LogFormat,
}

/// What a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Severity of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What stops the agent.
    Error,
    /// What is wrong or missing.
    Warn,
    /// What it does.
    Info,
    /// How it does it, and what the kernel side says.
    Debug,
    /// Everything.
    Trace,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object a line.
    Json,
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
        ("device", "segments.device"),
        ("xdp_mode", "segments.xdp-mode"),
        ("socket", "control.socket"),
    ]
    .into_iter()
    .find_map(|(id, flag)| {
        (matches.value_source(id) == Some(ValueSource::CommandLine)).then_some(flag)
    })
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

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let whole = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.to_owned(),
    };
    whole.parse().map_err(|_| {
        "not an IP address and port, such as 127.0.0.1:10049, [::1]:10049 or :10049".to_owned()
    })
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.01..=100.0).contains(&percent) => Ok(percent),
        _ => Err("not a number from 0.01 to 100".to_owned()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=3_600.0).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a number of seconds from 0 to 3600".to_owned())
}

fn state() -> impl TypedValueParser<Value = TcpState> {
    // No transition leads into TIME_WAIT or out of it: a minisocket has none.
    let names = TcpState::FOUND
        .into_iter()
        .filter(|state| *state != TcpState::TimeWait)
        .chain([TcpState::Close])
        .map(TcpState::name);
    PossibleValuesParser::new(names).try_map(|name| {
        TcpState::ALL
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or("no such state")
    })
}

#[cfg(test)]
mod tests {
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
