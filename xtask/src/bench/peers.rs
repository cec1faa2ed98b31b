//! The programs that are measured beside the agent.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::progress;
use crate::{process, tools};

/// Where each is, if it is.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    pub(crate) bpftrace: Option<PathBuf>,
    pub(crate) bpftool: Option<PathBuf>,
    pub(crate) iperf3: Option<PathBuf>,
    pub(crate) node_exporter: Option<PathBuf>,
    pub(crate) ss: Option<PathBuf>,
    pub(crate) tcpstates: Option<PathBuf>,
    /// Not measured beside the agent: it counts instructions.
    pub(crate) valgrind: Option<PathBuf>,
    /// Those that are not here and could not be fetched, with the reason.
    pub(crate) absent: Vec<String>,
}

impl Peers {
    /// Finds them, and installs what is missing. What would start a service, or is not needed
    /// otherwise, is unpacked in the target folder.
    pub(crate) fn provide() -> Self {
        progress("looking for the programs to compare with");
        let mut peers = Self::default();
        peers.ss = peers.get("ss", || installed("ss", "iproute2"));
        peers.bpftool = peers.get("bpftool", || installed("bpftool", "bpftool"));
        peers.bpftrace = peers.get("bpftrace", || installed("bpftrace", "bpftrace"));
        peers.valgrind = peers.get("valgrind", || installed("valgrind", "valgrind"));
        peers.iperf3 = peers.get("iperf3", || installed("iperf3", "iperf3"));
        peers.tcpstates = peers.get("libbpf-tools' tcpstates", || {
            tools::unpacked("libbpf-tools", "usr/sbin/tcpstates")
        });
        peers.node_exporter = peers.get("node_exporter", || {
            tools::unpacked(
                "prometheus-node-exporter",
                "usr/bin/prometheus-node-exporter",
            )
        });
        peers
    }

    fn get(&mut self, name: &str, provide: impl FnOnce() -> Result<PathBuf>) -> Option<PathBuf> {
        provide()
            .inspect_err(|error| {
                self.absent.push(format!(
                    "{name} is not there and could not be fetched: {error:#}"
                ));
            })
            .ok()
    }
}

fn installed(program: &str, package: &str) -> Result<PathBuf> {
    tools::install_program(program, package)?;
    process::find(program).with_context(|| format!("cannot find {program} in PATH"))
}
