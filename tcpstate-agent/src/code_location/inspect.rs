//! Looking at one process: what it holds, where its stacks lead, what its threads wait for.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tcpstate_common::ThreadRecord;

use super::{
    elsewhere::{Elsewhere, KernelDescriptors},
    frame::{Frame, own_chain},
    memory::Memory as _,
    native::{Modules, NativeFrame, StackEnd, Unwound, UserRegisters},
    python::{Layout, Python},
    report::{self, Events, Known, Place, ProcessFound, Report, Sockets, WatchFound},
    runtimes,
    target::{Candidate, Target},
    tcp_table::{Descriptors, TcpTable, is_mptcp, is_tcp, protocol},
    waits::{self, Held, Task, ThreadGroup, Wait},
    watch::{Seen, StackAddresses},
};
use crate::kernel::{AcceptHook, ReadHook};

/// Functions on one line.
const SUMMARY: usize = 3;
/// How long places are named and the stacks of threads followed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Words of a thread's stack that are read at once.
const STACK_PAGE: u64 = 4096;

/// One process, as it is looked at.
pub struct Inspection {
    pid: u32,
    /// Its code.
    pub modules: Modules,
    /// The Python in it.
    pub python: Option<Python>,
    kernel_descriptors: KernelDescriptors,
    places: FxHashMap<u64, Vec<Frame>>,
    /// When to leave the rest unnamed.
    deadline: Instant,
    /// What could not be told.
    pub notes: Vec<String>,
}

impl Inspection {
    /// Begins.
    #[must_use]
    pub fn of(pid: u32, kernel_descriptors: KernelDescriptors) -> Self {
        Self {
            pid,
            modules: Modules::of(pid),
            python: None,
            kernel_descriptors,
            places: FxHashMap::default(),
            deadline: Instant::now() + PATIENCE,
            notes: Vec::new(),
        }
    }

    /// Begins to name what was seen, which must not take for ever.
    pub fn begin_to_name(&mut self) {
        self.deadline = Instant::now() + PATIENCE;
    }

    /// Whether that has taken too long. Said once.
    fn is_late(&mut self) -> bool {
        const LATE: &str = "naming its functions took too long: not all of them are";
        let is_late = Instant::now() > self.deadline;
        if is_late && self.notes.iter().all(|note| note != LATE) {
            self.notes.push(LATE.to_owned());
        }
        is_late
    }

    /// Looks for a Python in it. `records` are its threads.
    pub fn look_for_python(&mut self, records: &[ThreadRecord]) {
        let pointers: Vec<u64> = records.iter().map(|record| record.thread_pointer).collect();
        match Layout::find(&self.modules, &pointers) {
            Some(Ok(layout)) => self.python = Some(Python::new(layout)),
            Some(Err(error)) => self.notes.push(error.to_string()),
            None => {}
        }
    }

    /// Notes what can be told of the runtime that it uses.
    pub fn note_runtimes(&mut self) {
        let writes_map = self.modules.writes_map();
        let notes = runtimes::notes(&self.modules.paths(), writes_map);
        self.notes.extend(notes);
        if let Some(why) = self.modules.unreadable() {
            self.notes
                .push(format!("not all of its code can be read: {why}"));
        }
    }

    /// Names the places of stacks.
    pub fn name(&mut self, stacks: &[StackAddresses]) -> Vec<Place> {
        stacks
            .iter()
            .map(|stack| match &stack.python[..] {
                [] => self.native_place(&stack.native),
                frames => python_place(frames.to_vec(), stack.python_is_cut),
            })
            .collect()
    }

    fn native_place(&mut self, unwound: &Unwound) -> Place {
        // The kernel's own threads have no registers of the process.
        if unwound.addresses == [0] {
            return Place {
                summary: "a thread of io_uring's, which has no stack of the program".to_owned(),
                frames: Vec::new(),
                complete: true,
            };
        }
        let mut frames = Vec::new();
        for address in &unwound.addresses {
            if let Some(found) = self.places.get(address) {
                frames.extend_from_slice(found);
                continue;
            }
            if self.is_late() {
                frames.push(self.modules.unnamed(*address).into());
                continue;
            }
            let places: Vec<NativeFrame> = self.modules.resolve(*address);
            let places: Vec<Frame> = places.into_iter().map(Frame::from).collect();
            frames.extend_from_slice(&places);
            self.places.insert(*address, places);
        }
        Place {
            summary: own_chain(&frames, SUMMARY),
            complete: unwound.end == StackEnd::Start,
            frames,
        }
    }

    /// What the threads wait for. `records` are their registers, where those could be had.
    pub fn threads(&mut self, records: &[ThreadRecord]) -> Vec<ThreadGroup> {
        let tasks = match waits::tasks(self.pid) {
            Ok(tasks) => tasks,
            Err(error) => {
                self.notes
                    .push(format!("its threads cannot be read: {error}"));
                return Vec::new();
            }
        };
        if tasks.iter().any(|task| task.wait == Wait::Hidden) {
            self.notes.push(
                "what threads wait in cannot be read: grant CAP_SYS_PTRACE, and \
                 CAP_DAC_READ_SEARCH for another user's process"
                    .to_owned(),
            );
        }
        let registers: FxHashMap<u32, UserRegisters> = records
            .iter()
            .map(|record| (record.thread, UserRegisters::from_kernel(&record.registers)))
            .collect();
        let mut places = self.python_places(&tasks, records);
        for task in &tasks {
            if !places.contains_key(&task.thread)
                && !self.is_late()
                && let Some(place) = self.thread_place(task, &registers)
            {
                places.insert(task.thread, place);
            }
        }
        let descriptors = Descriptors::read(self.pid).unwrap_or_default();
        let table = TcpTable::read(self.pid).unwrap_or_default();
        let held = Held::new(self.pid, descriptors, &table);
        let memory = self
            .modules
            .memory()
            .map(|memory| memory as &dyn super::memory::Memory);
        waits::group(&tasks, &held, memory, |task| {
            places.get(&task.thread).cloned()
        })
    }

    /// Where in Python each thread is: by its thread pointer, where that is known, or by its number.
    fn python_places(&mut self, tasks: &[Task], records: &[ThreadRecord]) -> FxHashMap<u32, Place> {
        let (Some(python), Some(memory)) = (&mut self.python, self.modules.memory()) else {
            return FxHashMap::default();
        };
        let pointers: FxHashMap<u32, u64> = records
            .iter()
            .map(|record| (record.thread, record.thread_pointer))
            .collect();
        let threads = python.threads(memory);
        let mut places = FxHashMap::default();
        for task in tasks {
            let found = if let Some(pointer) = pointers.get(&task.thread) {
                threads.iter().find(|thread| thread.pointer == *pointer)
            } else {
                let number = waits::own_number(self.pid, task.thread);
                threads
                    .iter()
                    .find(|thread| number.is_some() && thread.number == number)
            };
            let Some(found) = found else { continue };
            let named = python.name(&found.frames, memory);
            if !named.is_empty() {
                places.insert(task.thread, python_place(named, found.is_cut));
            }
        }
        places
    }

    fn thread_place(
        &mut self,
        task: &Task,
        registers: &FxHashMap<u32, UserRegisters>,
    ) -> Option<Place> {
        let Wait::Call {
            stack, instruction, ..
        } = task.wait
        else {
            return None;
        };
        let registers = registers
            .get(&task.thread)
            .copied()
            // It may have gone on since they were read.
            .filter(|found| (found.stack, found.instruction) == (stack, instruction))
            .unwrap_or_else(|| UserRegisters::from_syscall(instruction, stack));
        let mut pages = StackPages::default();
        let unwound = {
            let memory = super::memory::ProcessMemory::open(self.pid).ok()?;
            self.modules
                .unwind(&registers, &mut |address| pages.word(&memory, address))
        };
        Some(self.native_place(&unwound))
    }

    /// The sockets in CLOSE_WAIT that it holds before the watch, where those can be read.
    #[must_use]
    pub fn known(&mut self) -> Known {
        let Ok((descriptors, table)) = self.read_sockets() else {
            return Known::default();
        };
        let mut sockets = Sockets::of(&table, descriptors.sockets());
        // Where this fails, it does so afterwards too, and is said then.
        sockets.elsewhere = self
            .elsewhere(&descriptors, &table)
            .unwrap_or_default()
            .stuck;
        sockets.known()
    }

    /// The sockets that it holds, and what can be told of none.
    pub fn sockets(&mut self) -> Sockets {
        let (descriptors, table) = match self.read_sockets() {
            Ok(read) => read,
            Err(note) => {
                self.notes.push(note);
                return Sockets::default();
            }
        };
        let mut sockets = Sockets::of(&table, descriptors.sockets());
        match self.elsewhere(&descriptors, &table) {
            Ok(elsewhere) => {
                sockets.elsewhere = elsewhere.stuck;
                sockets.listens_on.extend(elsewhere.listens_on);
            }
            Err(why) => self.notes.push(why),
        }
        self.note_mptcp(&descriptors, &table);
        if descriptors.have_io_uring() {
            self.notes.push(
                "it uses io_uring: what the kernel's threads read for it has no stack of the \
                 program"
                    .to_owned(),
            );
        }
        sockets
    }

    fn read_sockets(&self) -> Result<(Descriptors, TcpTable), String> {
        let descriptors = Descriptors::read(self.pid).map_err(|error| {
            format!(
                "its descriptors cannot be read: {error} (grant CAP_SYS_PTRACE, and \
                 CAP_DAC_READ_SEARCH for another user's process)"
            )
        })?;
        let table = TcpTable::read(self.pid)
            .map_err(|error| format!("its sockets cannot be read: {error}"))?;
        Ok((descriptors, table))
    }

    /// What it holds in network namespaces that none of its threads is in, or why that is not known.
    fn elsewhere(
        &mut self,
        descriptors: &Descriptors,
        table: &TcpTable,
    ) -> Result<Elsewhere, String> {
        let pid = self.pid;
        let listed = table.by_inode();
        let unlisted = descriptors
            .unlisted(&listed)
            .filter(|descriptor| protocol(pid, *descriptor).is_some_and(|found| is_tcp(&found)))
            .count();
        if unlisted == 0 {
            return Ok(Elsewhere::default());
        }
        let held = self.kernel_descriptors.held(table, |found| found == pid);
        let mut held = held.map_err(|error| {
            format!(
                "{unlisted} TCP sockets of it are not connected, or of network namespaces that no \
                 thread of it is in: whether any of them stays in CLOSE_WAIT is not known ({error})"
            )
        })?;
        Ok(held.remove(&pid).unwrap_or_default())
    }

    /// Notes connections above TCP whose own state `/proc` does not have.
    fn note_mptcp(&mut self, descriptors: &Descriptors, table: &TcpTable) {
        let listed = table.by_inode();
        let count = descriptors
            .connected(&listed)
            .filter(|descriptor| {
                protocol(self.pid, *descriptor).is_some_and(|found| is_mptcp(&found))
            })
            .count();
        if count > 0 {
            self.notes.push(format!(
                "{count} of its sockets are MPTCP connections: those that its peers have closed are \
                 in a group only if it has used them during a watch"
            ));
        }
    }
}

fn python_place(frames: Vec<Frame>, is_cut: bool) -> Place {
    Place {
        summary: own_chain(&frames, SUMMARY),
        complete: !is_cut,
        frames,
    }
}

/// Pages of a stack that have been read.
#[derive(Default)]
struct StackPages(FxHashMap<u64, Option<Vec<u8>>>);

impl StackPages {
    fn word(&mut self, memory: &super::memory::ProcessMemory, address: u64) -> Option<u64> {
        let page = address - address % STACK_PAGE;
        let at = usize::try_from(address - page).ok()?;
        if at + size_of::<u64>() > usize::try_from(STACK_PAGE).ok()? {
            return memory.word(address).ok();
        }
        let bytes = self
            .0
            .entry(page)
            .or_insert_with(|| memory.bytes(page, STACK_PAGE).ok());
        let bytes = bytes.as_ref()?.get(at..at + size_of::<u64>())?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// Puts the report together.
#[must_use]
pub fn report(
    target: &Target,
    seen: Option<&Seen>,
    places: &[Place],
    sockets: &Sockets,
    threads: Vec<ThreadGroup>,
    now_ns: u64,
    notes: Vec<String>,
) -> Report {
    let (groups, recent) = report::group(sockets, seen, places, now_ns);
    Report {
        schema_version: 1,
        process: found(&target.process),
        others: target.others.iter().map(found).collect(),
        watch: seen.map(|seen| watch_found(seen, recent)),
        sockets_read: sockets.were_read,
        groups,
        threads,
        notes,
    }
}

fn found(candidate: &Candidate) -> ProcessFound {
    let Candidate {
        pid,
        name,
        close_wait,
    } = candidate.clone();
    ProcessFound {
        pid,
        name,
        close_wait,
    }
}

fn watch_found(seen: &Seen, recent: u64) -> WatchFound {
    let account = &seen.account;
    let [connects, accepts, reads, end_reads] = account.seen;
    WatchFound {
        seconds: rounded(seen.lasted),
        reads_by: match seen.hooks.read {
            ReadHook::SocketRead => "sock_recv_length",
            ReadHook::FunctionExit => "tcp_recvmsg",
            ReadHook::SystemCall => "system_calls",
        },
        accepts_by: seen.hooks.accept.map(|hook| match hook {
            AcceptHook::FunctionExit => "inet_csk_accept",
            AcceptHook::SystemCall | AcceptHook::EverySystemCall => "system_calls",
        }),
        has_ended: seen.has_ended,
        events: Events {
            connects,
            accepts,
            reads,
            end_reads,
        },
        samples_wanted: account.copied + account.refused + account.lost,
        samples: account.copied,
        dropped: seen.dropped,
        malformed: seen.malformed,
        untracked: account.untracked,
        mptcp_reads: account.mptcp,
        entered_close_wait: account.entered,
        left_close_wait: account.left,
        recent,
    }
}

fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}
