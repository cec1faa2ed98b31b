//! What is served: all that the server and the control socket ask of the rest of the agent.

use std::{error::Error, sync::Arc};

use super::{
    control::{Answer, Question},
    counters::HttpReading,
    landing_page,
};
use crate::{
    collect::{close_wait::Report, listeners::ListeningReport, outgoing::ConnectionsReport},
    engine::Watch,
    exposition::MetricsPage,
};

/// What is served. All of it may be called at any time, from several threads.
pub trait Subject: Send + Sync + 'static {
    /// The page of metrics, with what the server counts of itself. Blocks.
    fn metrics(&self, http: &HttpReading) -> Result<String, Box<dyn Error + Send + Sync>>;

    /// The page at `/`.
    fn landing_page(&self, telemetry_path: &str) -> String;

    /// Whether every part of the agent does its work.
    fn is_alive(&self) -> bool;

    /// Whether everything has been counted once.
    fn is_ready(&self) -> bool;

    /// The answer to a terminal command; `None` where it cannot be told. Blocks, for seconds
    /// where there is much.
    fn answer(&self, question: Question) -> Option<Answer>;
}

/// The agent's watch.
pub struct Watched {
    watch: Arc<Watch>,
    page: MetricsPage,
}

impl Watched {
    /// Serves what `watch` sees.
    #[must_use]
    pub fn new(watch: Arc<Watch>) -> Self {
        Self {
            page: MetricsPage::new(Arc::clone(&watch)),
            watch,
        }
    }
}

impl Subject for Watched {
    fn metrics(&self, http: &HttpReading) -> Result<String, Box<dyn Error + Send + Sync>> {
        Ok(self.page.render(http)?)
    }

    fn landing_page(&self, telemetry_path: &str) -> String {
        landing_page::html(
            telemetry_path,
            self.watch.is_ready(),
            &self.watch.recent_ends(),
        )
    }

    fn is_alive(&self) -> bool {
        self.watch.is_alive()
    }

    fn is_ready(&self) -> bool {
        self.watch.is_ready()
    }

    fn answer(&self, question: Question) -> Option<Answer> {
        Some(match question {
            Question::CloseWait => Answer::CloseWait(Report::new(&*self.watch.close_wait()?)),
            Question::Connections => {
                Answer::Connections(ConnectionsReport::new(&self.watch.connections()?))
            }
            Question::Listeners => {
                Answer::Listeners(ListeningReport::new(&self.watch.listeners()?))
            }
        })
    }
}
