//! `run`: the agent.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use tcpstate_common::RecordMask;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{follow_segments, require_any};
use crate::{
    bpf::{self, LoadOptions, SegmentOptions, facts::Facts, plan::ProgramId},
    control::Control,
    http,
    metrics::MetricsPage,
    settings::{LogSettings, RunSettings},
    watch::Watch,
};

/// Abnormal ends are rare; this holds eight thousand of them between two looks.
const EVENT_RING_BYTES: u32 = 512 * 1024;
/// Scrapes wait for the scraping thread on threads of their own; more would only wait too.
const SCRAPES_AT_ONCE: usize = 8;

/// Runs until SIGTERM or SIGINT.
pub fn execute(settings: &RunSettings, log: LogSettings) -> anyhow::Result<()> {
    // One thread answers HTTP; the watch has its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(SCRAPES_AT_ONCE)
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(run(settings, log))
}

async fn run(settings: &RunSettings, log: LogSettings) -> anyhow::Result<()> {
    // Before anything else: a signal during the start must not leave the default action.
    let stop = Stop::new().context("cannot handle signals")?;
    // Before the kernel is touched: the commonest mistake is a second agent.
    let listeners = http::bind(&settings.listen).await.map_err(cannot_listen)?;

    let facts = Facts::gather();
    let loaded = bpf::load(
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
    let watch = Arc::new(watch);
    let app = http::App {
        metrics: Arc::new(MetricsPage::new(Arc::clone(&watch))),
        watch: Arc::clone(&watch),
        telemetry_path: settings.telemetry_path.clone(),
    };
    // Commands do without: they then look themselves.
    let _control = Control::start(&settings.control_socket, watch)
        .inspect_err(|error| {
            let error = format!("{error:#}");
            warn!(error, "terminal commands cannot ask this agent");
        })
        .ok();
    info!(version = env!("CARGO_PKG_VERSION"), "watching TCP states");
    http::serve(listeners, app, stop.requested()).await;
    info!("stopped");
    Ok(())
}

fn cannot_listen((address, error): (SocketAddr, io::Error)) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (is another agent running? choose another port with --web.listen-address)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface has this address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    };
    anyhow::anyhow!("cannot listen on {address}: {error}{remedy}")
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
