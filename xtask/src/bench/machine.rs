//! What the figures are of.

use std::{fs, process::Command, thread};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::process;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) commit: String,
    /// Whether the sources are those of the commit.
    pub(crate) is_clean: bool,
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn look() -> Result<Self> {
        let read =
            |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpus = read("/proc/cpuinfo")?;
        let cpu = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
            .unwrap_or("unknown");
        let memory = read("/proc/meminfo")?;
        let kibibytes: u64 = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .context("cannot understand /proc/meminfo")?;
        // A checkout need not be a repository.
        let git = |arguments: &[&str]| {
            process::output(Command::new("git").args(arguments))
                .map(|text| text.trim().to_owned())
                .ok()
        };
        Ok(Self {
            cpu: cpu.to_owned(),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            commit: git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into()),
            is_clean: git(&["status", "--porcelain", "--untracked-files=no"])
                .is_some_and(|changes| changes.is_empty()),
            date: process::output(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?
                .trim()
                .to_owned(),
        })
    }

    pub(crate) fn text(&self) -> String {
        let Self {
            cpu,
            cpus,
            memory_bytes,
            kernel,
            commit,
            is_clean,
            date,
        } = self;
        let gibibytes = memory_bytes >> 30;
        let changed = if *is_clean { "" } else { ", with changes" };
        format!(
            "machine   {cpus} CPUs ({cpu}), {gibibytes} GiB\n\
             kernel    {kernel}\n\
             commit    {commit}{changed}\n\
             date      {date}\n"
        )
    }
}
