//! Scraping, as Prometheus does: over a connection that is kept.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// A scrape that takes longer is none.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Client(ureq::Agent);

impl Client {
    pub(crate) fn new() -> Self {
        let settings = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .proxy(None)
            .build();
        Self(settings.into())
    }

    /// What is at `url`; an error where the answer is not 200.
    pub(crate) fn get(&self, url: &str) -> Result<String> {
        let mut answer = self
            .0
            .get(url)
            .call()
            .with_context(|| format!("cannot get {url}"))?;
        answer
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_string()
            .with_context(|| format!("cannot read {url}"))
    }
}
