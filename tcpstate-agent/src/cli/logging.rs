//! The agent's log, on stderr.

use std::io;

use clap::{Args, ValueEnum};
use tracing_subscriber::{
    filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::kernel::KernelLogLevel;

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub(super) struct LogArgs {
    /// Least severe messages to log. From debug on, the kernel side logs too
    #[arg(
        long = "log.level",
        env = "TCPSTATE_LOG_LEVEL",
        value_enum,
        default_value_t = LogLevel::Info,
        global = true
    )]
    pub(super) level: LogLevel,
    /// Format of the log, which goes to stderr
    #[arg(
        long = "log.format",
        env = "TCPSTATE_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Logfmt,
        global = true
    )]
    pub(super) format: LogFormat,
}

/// Severity of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
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
pub(super) enum LogFormat {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Settings of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogSettings {
    /// Least severe message that is logged.
    pub(super) level: LogLevel,
    /// Format of the log.
    pub(super) format: LogFormat,
}

impl LogSettings {
    /// How much the kernel side may say.
    #[must_use]
    pub(super) const fn kernel(self) -> KernelLogLevel {
        match self.level {
            LogLevel::Error | LogLevel::Warn | LogLevel::Info => KernelLogLevel::Off,
            LogLevel::Debug | LogLevel::Trace => KernelLogLevel::Debug,
        }
    }
}

impl From<LogArgs> for LogSettings {
    fn from(LogArgs { level, format }: LogArgs) -> Self {
        Self { level, format }
    }
}

/// Starts the log. Messages of libraries and of the kernel side come with it.
pub(super) fn start(settings: LogSettings) {
    let level = match settings.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let registry = tracing_subscriber::registry().with(level);
    // Fails only where a log has been started before, which then stays.
    let _ = match settings.format {
        LogFormat::Logfmt => registry
            .with(tracing_logfmt::builder().layer().with_writer(io::stderr))
            .try_init(),
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(io::stderr),
            )
            .try_init(),
    };
}
