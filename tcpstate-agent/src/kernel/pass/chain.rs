//! What waits in the accept queue of a listener.

use aya::{Ebpf, programs::ProgramError};
use tcpstate_common::{
    TcpState, map,
    pass::{Chain, ChainEnd, ChainRequest},
    program,
};

use super::{cgroup::ReadError, mapped::Mapped, owners::RUN_NS, program::Program};

/// How often to begin anew where the process accepts faster than the queue is read.
const TRIES: u32 = 4;
/// More than the longest queue there can be takes (`sk_max_ack_backlog` is set by an `int`, and
/// nobody has a million).
const MAX_RUNS: u32 = 20_000;

/// Reads accept queues.
pub(super) struct ChainReader {
    program: Program,
    element: Mapped<Chain>,
    layout: ChainRequest,
}

/// A listener: its address, and what says whether it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueOf {
    pub(super) sock: u64,
    pub(super) net: u64,
    pub(super) port: u16,
}

/// What was found in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Sockets in CLOSE_WAIT.
    pub(super) close_wait: u32,
    /// Established ones.
    pub(super) living: u32,
    /// There may be more.
    pub(super) is_cut: bool,
}

impl ChainReader {
    pub(super) fn take(ebpf: &mut Ebpf, layout: ChainRequest) -> Result<Self, ReadError> {
        Ok(Self {
            program: Program::load(ebpf, program::CHAIN)?,
            element: Mapped::take(ebpf, map::CHAIN)?,
            layout,
        })
    }

    pub(super) const fn verified(&self) -> u32 {
        self.program.verified()
    }

    /// Goes through a queue, which may change meanwhile.
    pub(super) fn read(&mut self, of: QueueOf) -> Result<Waiting, ProgramError> {
        let beginning = ChainRequest {
            listener: of.sock,
            net: of.net,
            port: of.port.into(),
            state: TcpState::Listen as u32,
            run_ns: RUN_NS,
            ..self.layout
        };
        let mut waiting = Waiting::default();
        let mut tries = 1;
        self.element.get_mut().request = beginning;
        for _ in 0..MAX_RUNS {
            self.program.run()?;
            let chain = self.element.get_mut();
            let found = chain.by_state[TcpState::CloseWait as usize];
            let living = chain.by_state[TcpState::Established as usize];
            match chain.end {
                ChainEnd::MORE | ChainEnd::LAST => {
                    waiting.close_wait += found;
                    waiting.living += living;
                    if chain.end == ChainEnd::LAST {
                        return Ok(waiting);
                    }
                }
                ChainEnd::MOVED if tries < TRIES => {
                    tries += 1;
                    waiting = Waiting::default();
                    chain.request = beginning;
                }
                ChainEnd::MOVED => {
                    waiting.close_wait += found;
                    waiting.living += living;
                    break;
                }
                // The listener has ended.
                _ => return Ok(Waiting::default()),
            }
        }
        waiting.is_cut = true;
        Ok(waiting)
    }
}
