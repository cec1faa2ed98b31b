//! What the command line means.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use tcpstate_common::TcpState;
use thiserror::Error;

use crate::{
    cli::{
        DiagnoseArgs, ListenersArgs, LogArgs, LogFormat, LogLevel, Output, RunArgs, SegmentArgs,
        TraceArgs, WhereArgs, WhichProcess, XdpModeArg,
    },
    code_location::target::Wanted,
    collect::segments::{Segment, SegmentSettings, Selection, SelectionError},
    diagnosis::Filter,
    engine::WatchSettings,
    kernel::{KernelLogLevel, XdpMode},
    serve::{Limits, WebSettings},
    trace::Observed,
};

/// Settings of the running agent.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSettings {
    /// Where to listen.
    pub listen: Listen,
    /// How to serve.
    pub web: WebSettings,
    /// How to watch.
    pub watch: WatchSettings,
    /// Where to count segments; on no interface where there is none.
    pub segments: Option<SegmentSettings>,
    /// Where terminal commands ask the agent.
    pub control_socket: PathBuf,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On these addresses, each once.
    Addresses(Vec<SocketAddr>),
    /// On the sockets that systemd hands over.
    Activated,
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// Not usable as a path of its own.
    #[error(
        "--web.telemetry-path {0:?}: must be a path such as /metrics, and none of the agent's own (/-/healthy, /-/ready)"
    )]
    TelemetryPath(String),
    /// Not usable as an interface's name.
    #[error("--segments.device {0}")]
    Device(#[from] SelectionError),
}

impl TryFrom<SegmentArgs> for SegmentSettings {
    type Error = SettingsError;

    fn try_from(SegmentArgs { on, xdp_mode }: SegmentArgs) -> Result<Self, SettingsError> {
        Ok(Self {
            devices: Selection::new(on.device)?,
            xdp: match xdp_mode {
                XdpModeArg::Native => Some(XdpMode::Native),
                XdpModeArg::Skb => Some(XdpMode::Skb),
                XdpModeArg::Off => None,
            },
        })
    }
}

impl TryFrom<RunArgs> for RunSettings {
    type Error = SettingsError;

    fn try_from(args: RunArgs) -> Result<Self, SettingsError> {
        let RunArgs {
            listen_address,
            systemd_socket,
            web_config_file,
            max_requests,
            telemetry_path,
            cpu_percent,
            close_wait_top,
            listeners_top,
            destinations_top,
            segments,
            control,
        } = args;
        let is_path = telemetry_path.starts_with('/')
            && !telemetry_path.starts_with("/-/")
            && telemetry_path
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
        if !is_path {
            return Err(SettingsError::TelemetryPath(telemetry_path));
        }
        let segments = SegmentSettings::try_from(segments)?;
        let listen: BTreeSet<SocketAddr> = listen_address.into_iter().collect();
        Ok(Self {
            listen: if systemd_socket {
                Listen::Activated
            } else {
                Listen::Addresses(listen.into_iter().collect())
            },
            web: WebSettings {
                telemetry_path,
                max_requests,
                config_file: web_config_file,
                limits: Limits::default(),
            },
            watch: WatchSettings {
                cpu_percent,
                close_wait_top,
                listeners_top,
                destinations_top,
            },
            segments: (!segments.devices.is_empty()).then_some(segments),
            control_socket: control.socket,
        })
    }
}

/// Settings of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Least severe message that is logged.
    pub level: LogLevel,
    /// Format of the log.
    pub format: LogFormat,
}

impl LogSettings {
    /// How much the kernel side may say.
    #[must_use]
    pub const fn kernel(self) -> KernelLogLevel {
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

/// Settings of `diagnose`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagnoseSettings {
    /// What to show.
    pub filter: Filter,
    /// Time between two looks; zero for one look only.
    pub interval: Duration,
    /// How to print it.
    pub output: Output,
    /// Where a running agent is asked.
    pub control_socket: PathBuf,
}

impl From<DiagnoseArgs> for DiagnoseSettings {
    fn from(args: DiagnoseArgs) -> Self {
        let DiagnoseArgs {
            pid,
            port,
            limit,
            interval,
            output,
            control,
        } = args;
        Self {
            filter: Filter { pid, port, limit },
            interval,
            output,
            control_socket: control.socket,
        }
    }
}

/// Settings of `listeners`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenersSettings {
    /// How to print it.
    pub output: Output,
    /// Where a running agent is asked.
    pub control_socket: PathBuf,
}

impl From<ListenersArgs> for ListenersSettings {
    fn from(ListenersArgs { output, control }: ListenersArgs) -> Self {
        Self {
            output,
            control_socket: control.socket,
        }
    }
}

/// Settings of `where`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhereSettings {
    /// Which process to look at.
    pub wanted: Wanted,
    /// For how long to watch it; zero for not at all.
    pub duration: Duration,
    /// Whether to see accepts too.
    pub accepts: bool,
    /// How to print it.
    pub output: Output,
}

impl From<WhereArgs> for WhereSettings {
    fn from(args: WhereArgs) -> Self {
        let WhereArgs {
            process,
            seconds,
            accept,
            output,
        } = args;
        let WhichProcess {
            pid,
            port,
            process,
            unit,
        } = process;
        // One of them is there, and no more than one: the command line sees to it.
        let wanted = pid
            .map(Wanted::Pid)
            .or(port.map(Wanted::Port))
            .or(process.map(Wanted::Process))
            .unwrap_or_else(|| Wanted::Unit(unit.unwrap_or_default()));
        Self {
            wanted,
            duration: seconds,
            accepts: accept,
            output,
        }
    }
}

/// Settings of `trace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// What to print.
    pub filter: TraceFilter,
    /// Where to see segments; they are not printed where there is none.
    pub segments: Option<SegmentSettings>,
    /// How to print it.
    pub output: Output,
}

/// Which transitions to print: those that pass every part that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    states: Vec<TcpState>,
    ports: Vec<u16>,
    processes: Vec<String>,
}

impl TraceFilter {
    /// Whether it matters who owns a socket.
    #[must_use]
    pub const fn asks_for_owners(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Whether a segment is to be printed. It has no state and no process.
    #[must_use]
    pub fn passes_segment(&self, segment: &Segment) -> bool {
        let ports = [segment.source.port(), segment.destination.port()];
        self.ports.is_empty() || self.ports.iter().any(|port| ports.contains(port))
    }

    /// Whether a transition is to be printed.
    #[must_use]
    pub fn passes(&self, observed: &Observed) -> bool {
        let transition = &observed.transition;
        let of_state = |state: &TcpState| {
            [transition.old.name(), transition.new.name()].contains(&state.name())
        };
        let of_port =
            |port: &u16| [transition.local.port(), transition.remote.port()].contains(port);
        let of_process = |process: &String| {
            let mut owners = observed.owners.iter();
            owners.any(|owner| owner.name == *process || owner.pid.to_string() == *process)
        };
        (self.states.is_empty() || self.states.iter().any(of_state))
            && (self.ports.is_empty() || self.ports.iter().any(of_port))
            && (self.processes.is_empty() || self.processes.iter().any(of_process))
    }
}

impl TryFrom<TraceArgs> for TraceSettings {
    type Error = SettingsError;

    fn try_from(args: TraceArgs) -> Result<Self, SettingsError> {
        let TraceArgs {
            state,
            port,
            process,
            segments,
            mut on,
            output,
        } = args;
        if on.device.is_empty() {
            on.device.push("all".to_owned());
        }
        // By TC alone, which nothing notices.
        let on = SegmentArgs {
            on,
            xdp_mode: XdpModeArg::Off,
        };
        Ok(Self {
            filter: TraceFilter {
                states: state,
                ports: port,
                processes: process,
            },
            segments: segments.then(|| on.try_into()).transpose()?,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tcpstate_common::Family;

    use super::*;
    use crate::{
        cli::{ControlArgs, DeviceArgs},
        decode::Transition,
        trace::SocketOwner,
    };

    fn run(telemetry_path: &str, listen: &[&str]) -> Result<RunSettings, SettingsError> {
        RunSettings::try_from(RunArgs {
            listen_address: listen.iter().map(|text| text.parse().unwrap()).collect(),
            systemd_socket: false,
            web_config_file: None,
            max_requests: 40,
            telemetry_path: telemetry_path.to_owned(),
            cpu_percent: 2.0,
            close_wait_top: 50,
            listeners_top: 200,
            destinations_top: 50,
            segments: SegmentArgs {
                on: DeviceArgs { device: Vec::new() },
                xdp_mode: XdpModeArg::Skb,
            },
            control: ControlArgs {
                socket: "/nowhere".into(),
            },
        })
    }

    #[test]
    fn a_telemetry_path_must_be_a_path_of_its_own() {
        for path in ["/metrics", "/a/b", "/m-1.2_~", "/"] {
            assert_eq!(run(path, &[]).unwrap().web.telemetry_path, path);
        }
        for path in ["", "metrics", "/-/ready", "/-/x", "/a b", "/{a}", "/a?b"] {
            assert!(run(path, &[]).is_err(), "{path:?}");
        }
    }

    #[test]
    fn an_address_given_twice_is_listened_on_once() {
        let settings = run("/metrics", &["127.0.0.1:1", "127.0.0.1:1"]).unwrap();
        assert_eq!(
            settings.listen,
            Listen::Addresses(vec!["127.0.0.1:1".parse().unwrap()])
        );
    }

    #[test]
    fn a_filter_passes_what_matches_each_of_its_parts() {
        let transition = Transition {
            time_ns: 0,
            socket: 1,
            namespace: 1,
            family: Family::Ipv4,
            old: TcpState::Established,
            new: TcpState::CloseWait,
            error: 0,
            reason: None,
            local: "127.0.0.1:80".parse().unwrap(),
            remote: "127.0.0.1:4000".parse().unwrap(),
            caller: None,
        };
        let observed = Observed {
            transition,
            in_state: None,
            owners: vec![Arc::new(SocketOwner {
                pid: 4711,
                name: "curl".to_owned(),
            })],
        };
        for (states, ports, processes, passes) in [
            (vec![], vec![], vec![], true),
            (vec![TcpState::Established], vec![], vec![], true),
            (
                vec![TcpState::CloseWait, TcpState::Listen],
                vec![],
                vec![],
                true,
            ),
            (vec![TcpState::Listen], vec![], vec![], false),
            (vec![], vec![80], vec![], true),
            (vec![], vec![4000, 1], vec![], true),
            (vec![], vec![81], vec![], false),
            (vec![TcpState::CloseWait], vec![81], vec![], false),
            (vec![], vec![], vec!["curl"], true),
            (vec![], vec![], vec!["nginx", "4711"], true),
            (vec![], vec![], vec!["471", "cur"], false),
            (vec![], vec![80], vec!["nginx"], false),
        ] {
            let processes = processes.into_iter().map(str::to_owned).collect();
            let filter = TraceFilter {
                states,
                ports,
                processes,
            };
            assert_eq!(filter.passes(&observed), passes, "{filter:?}");
        }
    }
}
