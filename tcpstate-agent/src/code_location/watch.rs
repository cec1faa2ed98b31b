//! Watches one process: has its stacks copied, and unwinds them as they come.

use std::{
    io,
    ops::ControlFlow,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tcpstate_common::{SHORT_STACK, SampleAccount, SocketTrace};
use tracing::debug;

use super::{
    frame::Frame,
    native::{Modules, StackEnd, Unwound},
    python::Python,
    sample::Sample,
};
use crate::kernel::{Hooks, StackSampleError, StackSamples};

/// How often samples are taken out of the ring. It holds those of half a second.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long those are unwound that are in it at the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// More stacks that differ are not kept.
const MAX_STACKS: usize = 20_000;

/// A stack, as addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StackAddresses {
    /// What the CPU was running.
    pub native: Unwound,
    /// What Python was running, the innermost first; empty where it is no Python.
    pub python: Vec<Frame>,
    /// Whether there is more of that.
    pub python_is_cut: bool,
}

/// What was seen of a process.
#[derive(Debug)]
pub struct Seen {
    /// By what.
    pub hooks: Hooks,
    /// For how long.
    pub lasted: Duration,
    /// Whether the process has ended meanwhile.
    pub has_ended: bool,
    /// What became of the events.
    pub account: SampleAccount,
    /// The sockets that were open at the end, by the address of each `struct sock`.
    pub sockets: Vec<(u64, SocketTrace)>,
    /// The stacks that differ.
    pub stacks: Vec<StackAddresses>,
    /// Which of them belongs to which sample.
    pub samples: FxHashMap<u32, usize>,
    /// Samples whose stack was one of more than fit, or of more than could be followed in time.
    pub dropped: u64,
    /// Samples that were no such.
    pub malformed: u64,
}

impl Seen {
    /// The stack of a sample; `None` for 0 and for one that was dropped.
    #[must_use]
    pub fn stack(&self, sample: u32) -> Option<usize> {
        self.samples.get(&sample).copied()
    }
}

/// A process that can be waited for. Its number cannot become another's unnoticed.
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Opens it.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Waits, and tells whether the process has ended.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut ended, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Collects what the programs hand over.
#[derive(Default)]
struct Collected {
    stacks: Vec<StackAddresses>,
    by_addresses: FxHashMap<StackAddresses, usize>,
    samples: FxHashMap<u32, usize>,
    dropped: u64,
    malformed: u64,
    /// Places whose stacks are longer than was copied.
    longer: Vec<u64>,
}

impl Collected {
    fn take(&mut self, record: &[u8], modules: &mut Modules, python: Option<&mut Python>) {
        let sample = match Sample::decode(record) {
            Ok(sample) => sample,
            Err(error) => {
                debug!(%error, "a malformed sample was dropped");
                self.malformed += 1;
                return;
            }
        };
        let native = modules.unwind(&sample.registers, &mut |address| sample.word(address));
        // At once: the functions may be gone later, and so may the process.
        let python = match (python, modules.memory()) {
            (Some(python), Some(memory)) => python.name(&sample.python, memory),
            _ => Vec::new(),
        };
        let is_enough = !python.is_empty() || sample.stack_bytes() > SHORT_STACK;
        if native.end == StackEnd::CutOff && !is_enough {
            self.longer.push(sample.registers.instruction);
        }
        let stack = StackAddresses {
            native,
            python,
            python_is_cut: sample.python_is_cut,
        };
        let index = match self.by_addresses.get(&stack) {
            Some(index) => *index,
            None if self.stacks.len() == MAX_STACKS => {
                self.dropped += 1;
                return;
            }
            None => {
                self.stacks.push(stack.clone());
                self.by_addresses.insert(stack, self.stacks.len() - 1);
                self.stacks.len() - 1
            }
        };
        self.samples.insert(sample.id, index);
    }
}

/// Watches with what is attached until `duration` is over, `stop` is set, or the process ends.
pub fn watch(
    samples: &mut StackSamples,
    hooks: Hooks,
    process: &ProcessHandle,
    modules: &mut Modules,
    mut python: Option<&mut Python>,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<Seen, StackSampleError> {
    let begun = Instant::now();
    let mut collected = Collected::default();
    let mut has_ended = false;
    while !stop.load(Ordering::Relaxed) {
        let Some(left) = duration.checked_sub(begun.elapsed()) else {
            break;
        };
        match process.wait(left.min(INTERVAL)) {
            Ok(ended) => has_ended = ended,
            Err(error) => return Err(StackSampleError::Threads(error)),
        }
        samples.drain(|record| {
            collected.take(record, modules, python.as_deref_mut());
            if stop.load(Ordering::Relaxed) || begun.elapsed() > duration {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        for place in collected.longer.drain(..) {
            samples.copy_more_at(place);
        }
        if has_ended {
            break;
        }
    }
    let lasted = begun.elapsed();
    let sockets = samples.sockets();
    samples.detach();
    let ended = Instant::now();
    // Nothing more comes: it ends.
    samples.drain(|record| {
        if ended.elapsed() < PATIENCE {
            collected.take(record, modules, python.as_deref_mut());
        } else {
            collected.dropped += 1;
        }
        ControlFlow::Continue(())
    });
    Ok(Seen {
        hooks,
        lasted,
        has_ended,
        account: samples.account()?,
        sockets,
        stacks: collected.stacks,
        samples: collected.samples,
        dropped: collected.dropped,
        malformed: collected.malformed,
    })
}
