//! Where the agent and the commands that ask it meet.

use std::path::PathBuf;

use clap::Args;

/// Where the agent and the commands that ask it meet.
#[derive(Args, Clone, Debug)]
pub(super) struct ControlArgs {
    /// Unix socket through which commands of root ask a running agent
    #[arg(
        long = "control.socket",
        env = "TCPSTATE_CONTROL_SOCKET",
        value_name = "PATH",
        default_value = "/run/tcpstate-agent/control.sock"
    )]
    pub(super) socket: PathBuf,
}
