//! `run`: the agent.

use std::{collections::BTreeSet, io, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::Args;
use tcpstate_common::RecordMask;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{
    SettingsError,
    control::ControlArgs,
    loading::require_any,
    logging::LogSettings,
    segments::{SegmentArgs, follow_segments},
};
use crate::{
    collect::segments::SegmentSettings,
    engine::{Watch, WatchSettings},
    kernel::{self, LoadOptions, SegmentOptions, facts::Facts, plan::ProgramId},
    serve::{
        self, Limits, Subject, Watched, WebConfig, WebSettings,
        control::{Control, Patience},
    },
    version::VERSION,
};

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// Address and port to serve metrics on; may be given more than once. `:PORT` is every address
    #[arg(
        long = "web.listen-address",
        env = "TCPSTATE_WEB_LISTEN_ADDRESS",
        value_name = "ADDRESS:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:10049",
        value_parser = listen_address
    )]
    pub(super) listen_address: Vec<SocketAddr>,
    /// Serve on the sockets that systemd listens on, in the place of --web.listen-address
    #[arg(long = "web.systemd-socket", env = "TCPSTATE_WEB_SYSTEMD_SOCKET")]
    pub(super) systemd_socket: bool,
    /// File with TLS, passwords and a rate limit, as Prometheus exporters take it
    #[arg(
        long = "web.config.file",
        env = "TCPSTATE_WEB_CONFIG_FILE",
        value_name = "PATH"
    )]
    pub(super) web_config_file: Option<PathBuf>,
    /// Scrapes that may wait for a page of their own at once; beyond that they are answered with
    /// 503. Any number with 0
    #[arg(
        long = "web.max-requests",
        env = "TCPSTATE_WEB_MAX_REQUESTS",
        value_name = "COUNT",
        default_value_t = 40
    )]
    pub(super) max_requests: usize,
    /// Path under which to show the metrics
    #[arg(
        long = "web.telemetry-path",
        env = "TCPSTATE_WEB_TELEMETRY_PATH",
        value_name = "PATH",
        default_value = "/metrics"
    )]
    pub(super) telemetry_path: String,
    /// How much of one core counting sockets in the background may use, over a minute
    #[arg(
        long = "snapshot.cpu-percent",
        env = "TCPSTATE_SNAPSHOT_CPU_PERCENT",
        value_name = "PERCENT",
        default_value_t = 2.0,
        value_parser = percent
    )]
    pub(super) cpu_percent: f64,
    /// Number of largest, and of oldest, CLOSE_WAIT groups exported as separate series; the rest are
    /// summed
    #[arg(
        long = "close-wait.top",
        env = "TCPSTATE_CLOSE_WAIT_TOP",
        value_name = "COUNT",
        default_value_t = 50
    )]
    pub(super) close_wait_top: usize,
    /// Listeners that get series of their own, the busiest first. The others are summed
    #[arg(
        long = "listeners.top",
        env = "TCPSTATE_LISTENERS_TOP",
        value_name = "COUNT",
        default_value_t = 200
    )]
    pub(super) listeners_top: usize,
    /// Destinations of outgoing connections that get series of their own: so many with most
    /// sockets in TIME_WAIT and so many with most ports taken. The others are summed
    #[arg(
        long = "destinations.top",
        env = "TCPSTATE_DESTINATIONS_TOP",
        value_name = "COUNT",
        default_value_t = 50
    )]
    pub(super) destinations_top: usize,
    /// Where and how to count segments.
    #[command(flatten)]
    pub(super) segments: SegmentArgs,
    /// Where terminal commands ask.
    #[command(flatten)]
    pub(super) control: ControlArgs,
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

/// Settings of the running agent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RunSettings {
    /// Where to listen.
    pub(super) listen: Listen,
    /// How to serve.
    pub(super) web: WebSettings,
    /// How to watch.
    pub(super) watch: WatchSettings,
    /// Where to count segments; on no interface where there is none.
    pub(super) segments: Option<SegmentSettings>,
    /// Where terminal commands ask the agent.
    pub(super) control_socket: PathBuf,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// On these addresses, each once.
    Addresses(Vec<SocketAddr>),
    /// On the sockets that systemd hands over.
    Activated,
}

impl TryFrom<RunArgs> for RunSettings {
    type Error = SettingsError;

    fn try_from(args: RunArgs) -> Result<Self, SettingsError> {
        let RunArgs {
            listen_address,
            systemd_socket,
            web_config_file,
            max_requests,
            telemetry_path,
            cpu_percent,
            close_wait_top,
            listeners_top,
            destinations_top,
            segments,
            control,
        } = args;
        let is_path = telemetry_path.starts_with('/')
            && !telemetry_path.starts_with("/-/")
            && telemetry_path
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
        if !is_path {
            return Err(SettingsError::TelemetryPath(telemetry_path));
        }
        let segments = SegmentSettings::try_from(segments)?;
        let listen: BTreeSet<SocketAddr> = listen_address.into_iter().collect();
        Ok(Self {
            listen: if systemd_socket {
                Listen::Activated
            } else {
                Listen::Addresses(listen.into_iter().collect())
            },
            web: WebSettings {
                telemetry_path,
                max_requests,
                config_file: web_config_file,
                limits: Limits::default(),
            },
            watch: WatchSettings {
                cpu_percent,
                close_wait_top,
                listeners_top,
                destinations_top,
                only_when_asked: false,
            },
            segments: (!segments.devices.is_empty()).then_some(segments),
            control_socket: control.socket,
        })
    }
}

/// Abnormal ends are rare; this holds eight thousand of them between two looks.
const EVENT_RING_BYTES: u32 = 512 * 1024;
/// One page is made at a time; the others compress some, for as long as it takes.
const BLOCKING_THREADS: usize = 4;

/// Runs until SIGTERM or SIGINT.
pub(super) fn execute(settings: &RunSettings, log: LogSettings) -> anyhow::Result<()> {
    // One thread answers HTTP; the watch has its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(run(settings, log))
}

async fn run(settings: &RunSettings, log: LogSettings) -> anyhow::Result<()> {
    // Before anything else: a signal during the start must not leave the default action.
    let stop = Stop::new().context("cannot handle signals")?;
    // Before the kernel is touched: the commonest mistake is a second agent.
    let listeners = match &settings.listen {
        Listen::Addresses(addresses) => serve::bind(addresses)?,
        Listen::Activated => serve::activated()?,
    };
    let path = settings.web.config_file.as_deref();
    let config = path
        .map(|path| {
            WebConfig::start(path).with_context(|| {
                format!("cannot use the web configuration file {}", path.display())
            })
        })
        .transpose()?;

    let facts = Facts::gather();
    let loaded = kernel::load(
        &facts,
        &LoadOptions {
            programs: &ProgramId::ALL,
            record_mask: RecordMask::ABNORMAL_ENDS,
            event_ring_bytes: EVENT_RING_BYTES,
            every_owner: false,
            kernel_log: log.kernel(),
        },
    )?;
    require_any(&loaded)?;
    let segments = settings
        .segments
        .clone()
        .map(|segments| follow_segments(&facts, SegmentOptions::default(), segments))
        .transpose()?;
    let watch = Watch::start_with_segments(loaded, segments, settings.watch)
        .context("cannot start the watch's threads")?;
    let subject: Arc<dyn Subject> = Arc::new(Watched::new(Arc::new(watch)));
    let control = Control::start(
        settings.control_socket.clone(),
        Arc::clone(&subject),
        Patience::default(),
    )?;
    info!(version = VERSION, "watching TCP states");
    serve::run(listeners, subject, config, &settings.web, stop.requested()).await;
    control.stop().await;
    info!("stopped");
    Ok(())
}

/// The signals that end the agent.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn requested(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::segments::{DeviceArgs, XdpModeArg};

    fn run(telemetry_path: &str, listen: &[&str]) -> Result<RunSettings, SettingsError> {
        RunSettings::try_from(RunArgs {
            listen_address: listen.iter().map(|text| text.parse().unwrap()).collect(),
            systemd_socket: false,
            web_config_file: None,
            max_requests: 40,
            telemetry_path: telemetry_path.to_owned(),
            cpu_percent: 2.0,
            close_wait_top: 50,
            listeners_top: 200,
            destinations_top: 50,
            segments: SegmentArgs {
                on: DeviceArgs { device: Vec::new() },
                xdp_mode: XdpModeArg::Skb,
            },
            control: ControlArgs {
                socket: "/nowhere".into(),
            },
        })
    }

    #[test]
    fn a_telemetry_path_must_be_a_path_of_its_own() {
        for path in ["/metrics", "/a/b", "/m-1.2_~", "/"] {
            assert_eq!(run(path, &[]).unwrap().web.telemetry_path, path);
        }
        for path in ["", "metrics", "/-/ready", "/-/x", "/a b", "/{a}", "/a?b"] {
            assert!(run(path, &[]).is_err(), "{path:?}");
        }
    }

    #[test]
    fn an_address_given_twice_is_listened_on_once() {
        let settings = run("/metrics", &["127.0.0.1:1", "127.0.0.1:1"]).unwrap();
        assert_eq!(
            settings.listen,
            Listen::Addresses(vec!["127.0.0.1:1".parse().unwrap()])
        );
    }
}
