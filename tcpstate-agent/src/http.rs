//! The HTTP server: metrics, health, and a page that says what this is.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use prometheus::TEXT_FORMAT;
use tokio::{net::TcpListener, sync::watch as signal, task::JoinSet, time::timeout};
use tracing::{error, info, warn};

use crate::{landing_page, metrics::MetricsPage, watch::Watch};

/// How long open connections may take to end when the agent stops.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// What is said when a thread of the watch has ended.
const DEAD: &str = "a part of the agent has stopped, see its log and restart it\n";

/// What the server serves.
#[derive(Clone)]
pub struct App {
    /// Filled anew at each scrape.
    pub metrics: Arc<MetricsPage>,
    /// Knows whether the agent is ready.
    pub watch: Arc<Watch>,
    /// Path of the metrics.
    pub telemetry_path: String,
}

/// Binds every address, or none.
pub async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|error| (address, error))?);
    }
    Ok(listeners)
}

/// Serves `app` on `listeners` until `shutdown` ends.
pub async fn serve(listeners: Vec<TcpListener>, app: App, shutdown: impl Future<Output = ()>) {
    let router = router(app);
    let (stop, stopped) = signal::channel(false);
    let mut servers = JoinSet::new();
    for listener in listeners {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "listening");
        }
        let mut stopped = stopped.clone();
        let server = axum::serve(listener, router.clone()).with_graceful_shutdown(async move {
            // An error says that the sender is gone, which is a reason to stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        servers.spawn(async move {
            if let Err(error) = server.await {
                error!(%error, "the HTTP server failed");
            }
        });
    }
    shutdown.await;
    let _ = stop.send(true);
    let all = async { while servers.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_PATIENCE, all).await.is_err() {
        warn!("connections that did not end in time are dropped");
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/", get(landing))
        .route(&app.telemetry_path, get(scrape))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .with_state(app)
}

async fn landing(State(app): State<App>) -> Html<String> {
    Html(landing_page::html(
        &app.telemetry_path,
        app.watch.is_ready(),
        &app.watch.recent_ends(),
    ))
}

async fn scrape(State(app): State<App>) -> Response {
    if !app.watch.is_alive() {
        // Better no scrape than one with numbers that no longer move.
        return (StatusCode::INTERNAL_SERVER_ERROR, DEAD).into_response();
    }
    // Reading blocks for milliseconds, so it is not done on this thread.
    let rendered = tokio::task::spawn_blocking(move || app.metrics.render()).await;
    match rendered {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> Response {
    error!(%error, "cannot render the metrics");
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "cannot render the metrics, see the agent's log\n",
    )
        .into_response()
}

async fn healthy(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.watch.is_alive() {
        (StatusCode::OK, "healthy\n")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, DEAD)
    }
}

async fn ready(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.watch.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: not every network namespace has been counted yet\n",
        )
    }
}
