//! Functions and lines of Python, from the interpreter's own structs in the memory of the process.
//!
//! The native stack of an interpreter is the same whatever it interprets.

mod code;
mod layout;
mod lines;
mod strings;

use rustc_hash::FxHashMap;
use tcpstate_common::{MISSING, PYTHON_FRAMES, PythonFrame, PythonLayout};

use super::{frame::Frame, memory::Memory};

pub use layout::{Layout, PythonError, VERSIONS};

/// More threads are not looked through.
const MAX_THREADS: usize = 10_000;
/// More places are not remembered.
const MAX_PLACES: usize = 100_000;

/// A thread of Python.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonThread {
    /// The address of its state.
    state: u64,
    /// Its thread pointer.
    pub pointer: u64,
    /// Its number in its own PID namespace, since Python 3.11.
    pub number: Option<u32>,
    /// Its frames, the innermost first.
    pub frames: Vec<PythonFrame>,
    /// Whether there are more of them.
    pub is_cut: bool,
}

/// The Python in a process.
pub struct Python {
    layout: Layout,
    named: FxHashMap<PythonFrame, Option<Frame>>,
}

impl Python {
    /// One that is laid out like this.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            named: FxHashMap::default(),
        }
    }

    /// What the kernel side needs to know.
    #[must_use]
    pub const fn layout(&self) -> PythonLayout {
        self.layout.frames
    }

    /// The function and line of each frame, without those that are the interpreter's own. Cheap for
    /// frames that have been named before.
    pub fn name(&mut self, frames: &[PythonFrame], memory: &dyn Memory) -> Vec<Frame> {
        if self.named.len() > MAX_PLACES {
            self.named.clear();
        }
        frames
            .iter()
            .filter_map(|frame| {
                let named = self.named.entry(*frame);
                let named = named.or_insert_with(|| code::read(&self.layout, *frame, memory));
                named.clone()
            })
            .collect()
    }

    /// The threads as they are now.
    #[must_use]
    pub fn threads(&self, memory: &dyn Memory) -> Vec<PythonThread> {
        let layout = &self.layout.frames;
        let mut threads: Vec<PythonThread> = Vec::new();
        let first = memory
            .word(layout.interpreter)
            .and_then(|interpreter| memory.word(field(interpreter, layout.threads)));
        let mut state = first.unwrap_or(0);
        while state != 0 && threads.len() < MAX_THREADS {
            let Ok(id) = memory.word(field(state, layout.thread_id)) else {
                break;
            };
            let native = self.layout.native_thread_id;
            let native = native.and_then(|offset| memory.half(field(state, offset)).ok());
            // The list goes in circles, having been changed meanwhile.
            if threads.first().is_some_and(|first| first.state == state) {
                break;
            }
            let (frames, is_cut) = self.frames(state, memory);
            threads.push(PythonThread {
                state,
                pointer: id.wrapping_sub(layout.thread_id_bias),
                number: native,
                frames,
                is_cut,
            });
            let Ok(next) = memory.word(field(state, layout.next)) else {
                break;
            };
            state = next;
        }
        threads
    }

    /// The frames of a thread, and whether there are more.
    fn frames(&self, state: u64, memory: &dyn Memory) -> (Vec<PythonFrame>, bool) {
        let layout = &self.layout.frames;
        let mut frames = Vec::new();
        let innermost = memory.word(field(state, layout.frame));
        let innermost = match innermost {
            Ok(cframe) if layout.cframe_frame != MISSING => {
                memory.word(field(cframe, layout.cframe_frame))
            }
            other => other,
        };
        let mut frame = innermost.unwrap_or(0);
        while frame != 0 && frames.len() < PYTHON_FRAMES {
            let at = field(frame, layout.instruction);
            let instruction = if layout.instruction_bytes == 4 {
                memory.half(at).map(u64::from)
            } else {
                memory.word(at)
            };
            let (Ok(code), Ok(instruction), Ok(previous)) = (
                memory.word(field(frame, layout.code)),
                instruction,
                memory.word(field(frame, layout.previous)),
            ) else {
                break;
            };
            frames.push(PythonFrame {
                code: code & layout.code_mask,
                instruction,
            });
            frame = previous;
        }
        (frames, frame != 0)
    }
}

fn field(base: u64, offset: u32) -> u64 {
    base.wrapping_add(u64::from(offset))
}
