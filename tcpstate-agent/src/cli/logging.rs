//! What to log, and how.

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;

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

    /// How much the agent may say.
    pub(super) const fn filter(self) -> LevelFilter {
        match self.level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }

    /// Whether each line is a JSON object.
    pub(super) const fn is_json(self) -> bool {
        matches!(self.format, LogFormat::Json)
    }
}

impl From<LogArgs> for LogSettings {
    fn from(LogArgs { level, format }: LogArgs) -> Self {
        Self { level, format }
    }
}
