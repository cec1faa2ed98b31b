//! Metrics, health, and a page that says what this is.
//!
//! As exporters do, each answers to any method.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::any,
};

use super::{
    counters::{Counters, Refusal},
    encoding,
    scrapes::{NoPage, Scrapes},
    subject::Subject,
};
use crate::{engine::Unwell, exposition::CONTENT_TYPE};

/// What the handlers share.
#[derive(Clone)]
pub(super) struct App {
    pub(super) subject: Arc<dyn Subject>,
    pub(super) scrapes: Arc<Scrapes>,
    pub(super) counters: Arc<Counters>,
    pub(super) telemetry_path: Arc<str>,
}

pub(super) fn router(app: App) -> Router {
    let router = Router::new().route(&app.telemetry_path, any(scrape));
    // Where the metrics are at the root there is no page beside them.
    let router = if &*app.telemetry_path == "/" {
        router
    } else {
        router.route("/", any(landing))
    };
    router
        .route("/-/healthy", any(healthy))
        .route("/-/ready", any(ready))
        .with_state(app)
}

async fn landing(State(app): State<App>) -> Html<String> {
    Html(app.subject.landing_page(&app.telemetry_path))
}

async fn scrape(State(app): State<App>, headers: HeaderMap) -> Response {
    let _in_flight = app.counters.scrape_begins();
    let response = page(&app, &headers).await;
    app.counters.scraped(response.status().as_u16());
    response
}

async fn page(app: &App, headers: &HeaderMap) -> Response {
    if let Err(unwell) = app.subject.health() {
        // Better no scrape than one with numbers that no longer move.
        return unhealthy(unwell).into_response();
    }
    let page = match app.scrapes.page().await {
        Ok(page) => page,
        Err(NoPage::Busy) => {
            app.counters.refused(Refusal::Busy);
            let text = format!(
                "Limit of concurrent requests reached ({}), try again later.\n",
                app.scrapes.max_waiting()
            );
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        }
        Err(NoPage::Failed) => {
            let text = "cannot render the metrics, see the agent's log\n";
            return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
        }
    };
    let wants_gzip = encoding::accepts_gzip(headers);
    let (bytes, is_gzip) = app.scrapes.bytes(page, wants_gzip).await;
    let mut response = ([(header::CONTENT_TYPE, CONTENT_TYPE)], bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if is_gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

async fn healthy(State(app): State<App>) -> (StatusCode, String) {
    match app.subject.health() {
        Ok(()) => (StatusCode::OK, "healthy\n".to_owned()),
        Err(unwell) => unhealthy(unwell),
    }
}

fn unhealthy(unwell: Unwell) -> (StatusCode, String) {
    let text = format!("{unwell}, see the agent's log and restart it\n");
    (StatusCode::INTERNAL_SERVER_ERROR, text)
}

async fn ready(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.subject.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: not every network namespace has been counted yet\n",
        )
    }
}
