//! `run`: the agent.

use std::{collections::BTreeSet, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tcpstate_common::RecordMask;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::{
    SettingsError,
    control::ControlArgs,
    loading::require_any,
    logging::LogSettings,
    segments::{SegmentArgs, follow_segments},
};
use crate::{
    collect::{NamedService, SeriesLimits, owners::Hidden, segments::SegmentSettings},
    engine::{Unwell, Watch, WatchSettings},
    host::{ServiceManager, Source, descriptors, memory},
    kernel::{self, LoadOptions, SegmentOptions, facts::Facts, plan::ProgramId},
    logging::{self, Log},
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
    /// File with TLS, passwords, headers and a rate limit, as Prometheus exporters take it
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
    /// New series that labels of processes, ports and destinations may make at once. What is beyond is
    /// summed
    #[arg(
        long = "series.burst",
        env = "TCPSTATE_SERIES_BURST",
        value_name = "COUNT",
        default_value_t = SeriesLimits::USUAL.burst
    )]
    pub(super) series_burst: u32,
    /// How many more in each hour
    #[arg(
        long = "series.per-hour",
        env = "TCPSTATE_SERIES_PER_HOUR",
        value_name = "COUNT",
        default_value_t = SeriesLimits::USUAL.per_hour
    )]
    pub(super) series_per_hour: u32,
    /// Services that have series before all others, whatever those do: a port, or a systemd unit; may
    /// be given more than once
    #[arg(
        long = "services.always",
        env = "TCPSTATE_SERVICES_ALWAYS",
        value_name = "PORT|UNIT",
        value_delimiter = ','
    )]
    pub(super) services_always: Vec<NamedService>,
    /// Labels of owners to leave out; may be given more than once
    #[arg(
        long = "labels.disable",
        env = "TCPSTATE_LABELS_DISABLE",
        value_name = "LABEL",
        value_delimiter = ',',
        value_enum
    )]
    pub(super) labels_disable: Vec<OwnerLabel>,
    /// Where and how to count segments.
    #[command(flatten)]
    pub(super) segments: SegmentArgs,
    /// Where terminal commands ask.
    #[command(flatten)]
    pub(super) control: ControlArgs,
}

/// A label that says whose sockets they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum OwnerLabel {
    /// Name of the process.
    Process,
    /// systemd unit.
    Unit,
    /// Container.
    ContainerId,
    /// Kubernetes pod.
    PodUid,
}

impl OwnerLabel {
    fn hidden(labels: &[Self]) -> Hidden {
        Hidden {
            process: labels.contains(&Self::Process),
            unit: labels.contains(&Self::Unit),
            container_id: labels.contains(&Self::ContainerId),
            pod_uid: labels.contains(&Self::PodUid),
        }
    }
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
            series_burst,
            series_per_hour,
            services_always,
            labels_disable,
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
        let hidden = OwnerLabel::hidden(&labels_disable);
        for service in &services_always {
            if let NamedService::Unit(unit) = service
                && hidden.unit
            {
                return Err(SettingsError::Unit(unit.clone()));
            }
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
                series: SeriesLimits {
                    burst: series_burst,
                    per_hour: series_per_hour,
                },
                named: services_always,
                hidden,
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
/// The exit code where a part of the agent has ended that should not.
const BROKEN: u8 = 1;
/// What still runs on them when all else has ended is waited for no longer.
const LAST_WORK: Duration = Duration::from_secs(1);
/// How often to look whether every part of the agent does its work.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT, or until a part of the agent has ended that should not.
pub(super) fn execute(settings: &RunSettings, log_settings: LogSettings) -> anyhow::Result<u8> {
    memory::use_one_heap();
    let log = logging::start_running(log_settings.filter(), log_settings.is_json())
        .context("cannot start the log's thread")?;
    descriptors::raise_limit();
    // One thread answers HTTP; the watch has its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the async runtime")?;
    let ended = runtime.block_on(run(settings, log_settings, &log));
    runtime.shutdown_timeout(LAST_WORK);
    log.flush();
    ended
}

async fn run(settings: &RunSettings, log_settings: LogSettings, log: &Log) -> anyhow::Result<u8> {
    // Before anything else: a signal during the start must not leave the default action.
    let stop = Stop::new().context("cannot handle signals")?;
    let manager = ServiceManager::from_environment();
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
            kernel_log: log_settings.kernel(),
        },
    )?;
    require_any(&loaded)?;
    for source in Source::ALL {
        if let Err(error) = source.ask() {
            let (path, metric) = (source.path(), source.metric());
            warn!(path, %error, metric, "cannot be read, and what it is for is absent");
        }
    }
    let segments = settings
        .segments
        .clone()
        .map(|segments| follow_segments(&facts, SegmentOptions::default(), segments))
        .transpose()?;
    let watch = Watch::start_with_segments(loaded, segments, settings.watch.clone())
        .context("cannot start the watch's threads")?;
    let subject: Arc<dyn Subject> = Arc::new(Watched::new(Arc::new(watch), log.clone()));
    let control = Control::start(
        settings.control_socket.clone(),
        Arc::clone(&subject),
        Patience::default(),
    )?;
    info!(version = VERSION, "watching TCP states");
    manager.ready();
    let mut died = None;
    let shutdown = async {
        tokio::select! {
            () = stop.requested() => {}
            unwell = look_after(&*subject, &control, &manager) => died = Some(unwell),
        }
        manager.stopping();
    };
    let outcome = serve::run(
        listeners,
        Arc::clone(&subject),
        config,
        &settings.web,
        shutdown,
    )
    .await;
    control.stop().await;
    // Said in the log and not by whoever called: stderr may have nobody who reads it.
    match (outcome, died) {
        (Ok(()), None) => {
            info!("stopped");
            Ok(0)
        }
        (outcome, died) => {
            let server = outcome.err().map(|error| error.to_string());
            let part = died.map(|unwell| unwell.to_string());
            let error = server.or(part).unwrap_or_default();
            error!(
                error,
                "a part of the agent has ended, and the agent with it"
            );
            Ok(BROKEN)
        }
    }
}

/// Tells the service manager that all is well, for as long as it is. Ends when a part of the agent
/// has: that one will not come back, and whoever restarts the agent mends it. One that is stuck may
/// go on.
async fn look_after(subject: &dyn Subject, control: &Control, manager: &ServiceManager) -> Unwell {
    let mut looks = tokio::time::interval(LOOK_AFTER.min(manager.every().unwrap_or(LOOK_AFTER)));
    let mut is_stuck = false;
    loop {
        looks.tick().await;
        if !control.is_alive() {
            return Unwell::Stopped("ts-control");
        }
        match subject.health() {
            Ok(()) => {
                is_stuck = false;
                manager.alive();
            }
            Err(stopped @ Unwell::Stopped(_)) => return stopped,
            // Said once, until it goes on.
            Err(silent) if !std::mem::replace(&mut is_stuck, true) => {
                error!("{silent}; nothing is shown until it goes on");
            }
            Err(Unwell::Silent(..)) => {}
        }
    }
}

/// The signals that end the agent.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        // A terminal that is gone ends no agent, and there is nothing to read anew: what may change,
        // the web configuration, is looked at anyway. It stays so when this is dropped.
        let _ = signal(SignalKind::hangup())?;
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
    use crate::{
        cli::segments::{DeviceArgs, XdpModeArg},
        serve::{HttpReading, control},
    };

    /// A subject whose engine is stuck when it is asked first, and has stopped a moment later.
    #[derive(Default)]
    struct Dying(std::sync::atomic::AtomicU32);

    impl Subject for Dying {
        fn metrics(
            &self,
            _: &HttpReading,
        ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
            Ok(String::new())
        }

        fn landing_page(&self, _: &str) -> String {
            String::new()
        }

        fn health(&self) -> Result<(), Unwell> {
            let asked = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Err(if asked < 3 {
                Unwell::Silent("ts-engine", Duration::from_secs(31))
            } else {
                Unwell::Stopped("ts-engine")
            })
        }

        fn is_ready(&self) -> bool {
            true
        }

        fn answer(&self, _: control::Question) -> Option<control::Answer> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_is_stuck_is_waited_for_and_one_that_has_stopped_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let subject: Arc<dyn Subject> = Arc::new(Dying::default());
        let control = Control::start(
            folder.path().join("control.sock"),
            Arc::clone(&subject),
            Patience::default(),
        )
        .unwrap();
        let begun = tokio::time::Instant::now();
        let manager = ServiceManager::from_environment();
        let unwell = look_after(&*subject, &control, &manager).await;
        assert_eq!(unwell, Unwell::Stopped("ts-engine"));
        assert_eq!(begun.elapsed().as_secs(), 3);
        control.stop().await;
    }

    fn run(telemetry_path: &str, listen: &[&str]) -> Result<RunSettings, SettingsError> {
        RunSettings::try_from(RunArgs {
            listen_address: listen.iter().map(|text| text.parse().unwrap()).collect(),
            telemetry_path: telemetry_path.to_owned(),
            ..args()
        })
    }

    fn args() -> RunArgs {
        RunArgs {
            listen_address: Vec::new(),
            systemd_socket: false,
            web_config_file: None,
            max_requests: 40,
            telemetry_path: "/metrics".to_owned(),
            cpu_percent: 2.0,
            close_wait_top: 50,
            listeners_top: 200,
            destinations_top: 50,
            series_burst: 10_000,
            series_per_hour: 500,
            services_always: Vec::new(),
            labels_disable: vec![OwnerLabel::PodUid],
            segments: SegmentArgs {
                on: DeviceArgs { device: Vec::new() },
                xdp_mode: XdpModeArg::Skb,
            },
            control: ControlArgs {
                socket: "/nowhere".into(),
            },
        }
    }

    #[test]
    fn a_service_cannot_be_named_by_a_label_that_is_left_out() {
        let with = |service: &str, label| {
            RunSettings::try_from(RunArgs {
                services_always: vec![service.parse().unwrap()],
                labels_disable: vec![label],
                ..args()
            })
        };
        assert!(with("nginx.service", OwnerLabel::Unit).is_err());
        assert!(with("80", OwnerLabel::Unit).is_ok());
        let settings = with("nginx.service", OwnerLabel::Process).unwrap();
        assert_eq!(settings.watch.named.len(), 1);
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
    fn the_labels_that_are_named_are_left_out() {
        let hidden = run("/metrics", &[]).unwrap().watch.hidden;
        assert_eq!(
            hidden,
            Hidden {
                pod_uid: true,
                ..Hidden::NONE
            }
        );
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
