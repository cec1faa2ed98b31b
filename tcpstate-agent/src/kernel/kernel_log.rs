//! What the kernel side has to say in words, through aya-log.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tracing::warn;

/// How much the kernel side may say. Off is free: the verifier removes the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelLogLevel {
    /// Nothing.
    #[default]
    Off,
    /// Everything down to debug.
    Debug,
}

impl KernelLogLevel {
    /// As aya-log's global has it; its levels start at 1.
    pub(super) const fn global(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Debug => aya_log::Level::Debug as u8,
        }
    }
}

/// Passes the kernel side's messages on to the agent's log.
pub struct KernelLog(EbpfLogger<&'static dyn log::Log>);

impl KernelLog {
    pub(super) fn start(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init(ebpf)
            .map(Self)
            .inspect_err(|error| warn!(%error, "no messages from the kernel side"))
            .ok()
    }

    /// Logs what has been said since the last call.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
