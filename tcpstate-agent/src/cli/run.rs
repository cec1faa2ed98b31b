//! `run`: the agent.

use std::{io, sync::Arc};

use anyhow::Context as _;
use tcpstate_common::RecordMask;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{Listen, LogSettings, RunSettings, follow_segments, require_any};
use crate::{
    engine::Watch,
    kernel::{self, LoadOptions, SegmentOptions, facts::Facts, plan::ProgramId},
    serve::{
        self, Subject, Watched, WebConfig,
        control::{Control, Patience},
    },
    version::VERSION,
};

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
