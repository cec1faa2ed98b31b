//! The frames of a Python interpreter, followed in the watched process's memory while one of its
//! threads is in a system call.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use tcpstate_common::{MISSING, PYTHON_FRAMES, PythonFrame, PythonLayout, SampleHeader};

use crate::{kernel::Thread, memory::read_user};

/// How the interpreter of the watched process is laid out; the agent writes it.
#[map]
static WHERE_PYTHON: Array<PythonLayout> = Array::with_max_entries(1, 0);

/// The `PyThreadState` of each thread, so that the list is walked once.
#[map]
static WHERE_PYTHREAD: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// More threads than that are not looked through for the one that runs.
const THREADS: u32 = 512;

/// Writes the frames of `thread` into the header of its sample.
#[inline(always)]
pub(crate) fn walk(thread: Thread, header: &mut SampleHeader) {
    let Some(layout) = WHERE_PYTHON.get(0) else {
        return;
    };
    if layout.interpreter == 0 {
        return;
    }
    let Some(frame) = state(thread, layout).and_then(|state| innermost(state, layout)) else {
        return;
    };
    let mut frame = frame;
    let mut count = 0;
    while count < PYTHON_FRAMES {
        if frame == 0 {
            break;
        }
        let Some(found) = read_frame(frame, layout) else {
            break;
        };
        header.python[count] = found;
        count += 1;
        let Some(previous) = read_user(field(frame, layout.previous)) else {
            break;
        };
        frame = previous;
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most PYTHON_FRAMES")]
    let frames = count as u32;
    header.python_frames = frames;
    // Whether they did not fit, or one could not be read.
    header.python_is_cut = u32::from(frame != 0);
}

#[inline(always)]
fn field(base: u64, offset: u32) -> u64 {
    base.wrapping_add(u64::from(offset))
}

#[inline(always)]
fn read_frame(frame: u64, layout: &PythonLayout) -> Option<PythonFrame> {
    let code: u64 = read_user(field(frame, layout.code))?;
    let instruction = field(frame, layout.instruction);
    let instruction = if layout.instruction_bytes == 4 {
        u64::from(read_user::<u32>(instruction)?)
    } else {
        read_user::<u64>(instruction)?
    };
    Some(PythonFrame {
        code: code & layout.code_mask,
        instruction,
    })
}

#[inline(always)]
fn innermost(state: u64, layout: &PythonLayout) -> Option<u64> {
    let frame: u64 = read_user(field(state, layout.frame))?;
    if layout.cframe_frame == MISSING {
        return Some(frame);
    }
    read_user(field(frame, layout.cframe_frame))
}

/// The `PyThreadState` of the thread that runs.
#[inline(always)]
fn state(thread: Thread, layout: &PythonLayout) -> Option<u64> {
    let wanted = thread.pointer()?.wrapping_add(layout.thread_id_bias);
    // SAFETY: the value is a number, copied at once. One that another thread replaces meanwhile is
    // checked below like any other.
    if let Some(state) = unsafe { WHERE_PYTHREAD.get(thread.number) } {
        let state = *state;
        if read_user::<u64>(field(state, layout.thread_id)) == Some(wanted) {
            return Some(state);
        }
    }
    let interpreter: u64 = read_user(layout.interpreter)?;
    let mut state: u64 = read_user(field(interpreter, layout.threads))?;
    let mut count = 0;
    while count < THREADS {
        if state == 0 {
            return None;
        }
        if read_user::<u64>(field(state, layout.thread_id))? == wanted {
            let _ = WHERE_PYTHREAD.insert(thread.number, state, 0);
            return Some(state);
        }
        state = read_user(field(state, layout.next))?;
        count += 1;
    }
    None
}
