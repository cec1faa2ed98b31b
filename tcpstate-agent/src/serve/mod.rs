//! What the agent serves: pages over HTTP, and answers to terminal commands over a unix socket.
//!
//! Whoever asks, and however: a request takes bounded time and memory, those that cost a reading
//! share it, and what is refused is counted.

mod activity;
mod connection;
mod connections;
pub mod control;
mod counters;
mod encoding;
mod landing_page;
mod limits;
mod listen;
mod routes;
mod scrapes;
mod source;
mod stream;
mod subject;
mod web_config;

use std::{path::PathBuf, sync::Arc};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch as signal},
    task::JoinError,
};
use tracing::info;

#[cfg(feature = "fuzzing")]
pub use self::web_config::is_understood as is_web_config_understood;
use self::{connection::Serving, counters::Counters, routes::App, scrapes::Scrapes};
pub use self::{
    counters::HttpReading,
    limits::Limits,
    listen::{ListenError, activated, bind},
    subject::{Subject, Watched},
    web_config::{WebConfig, WebConfigError},
};

/// How to serve over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSettings {
    /// Path of the metrics, with its leading slash.
    pub telemetry_path: String,
    /// So many scrapes may wait for a page of their own; any number where it is 0.
    pub max_requests: usize,
    /// The web configuration file.
    pub config_file: Option<PathBuf>,
    /// What a client may take.
    pub limits: Limits,
}

/// Serves `subject` on `listeners` until `shutdown` ends. An error says that the server has panicked.
pub async fn run(
    listeners: Vec<TcpListener>,
    subject: Arc<dyn Subject>,
    config: Option<WebConfig>,
    settings: &WebSettings,
    shutdown: impl Future<Output = ()>,
) -> Result<(), JoinError> {
    let tls = config.as_ref().is_some_and(WebConfig::speaks_tls);
    for address in listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
    {
        info!(%address, tls, "listening");
    }
    let counters = Arc::new(Counters::default());
    let (too_much, held_too_much) = mpsc::unbounded_channel();
    let app = App {
        scrapes: Arc::new(Scrapes::new(
            Arc::clone(&subject),
            Arc::clone(&counters),
            settings.max_requests,
            settings.limits.unread_bytes,
            too_much,
        )),
        subject,
        counters: Arc::clone(&counters),
        telemetry_path: settings.telemetry_path.as_str().into(),
    };
    let (stop, stopped) = signal::channel(false);
    let serving = Serving {
        router: routes::router(app),
        config: config.map(Arc::new),
        counters,
        limits: settings.limits,
        stopped,
    };
    // A task like those of the connections: the runtime polls what it was started with more often,
    // and accepting would run ahead of all the connections that have to make room.
    let mut server = tokio::spawn(connections::run(listeners, serving, held_too_much));
    tokio::select! {
        ended = &mut server => ended,
        () = shutdown => {
            stop.send_replace(true);
            server.await
        }
    }
}
