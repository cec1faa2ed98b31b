//! Where each version of CPython keeps what is needed of it.
//!
//! Up to 3.12 the offsets are those of its headers, for 64-bit builds. Since 3.13 the interpreter
//! publishes them at the beginning of `_PyRuntime`, as `struct _Py_DebugOffsets` of
//! [`pycore_debug_offsets.h`].
//!
//! [`pycore_debug_offsets.h`]: https://github.com/python/cpython/blob/3.14/Include/internal/pycore_debug_offsets.h

use tcpstate_common::{MISSING, PythonLayout};
use thiserror::Error;

use super::lines::LineTable;
use crate::code_location::{memory::Memory, native::Modules};

/// The versions that are known, as text.
pub const VERSIONS: &str = "CPython 3.8 to 3.14";

/// Everything that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Threads and frames.
    pub(super) frames: PythonLayout,
    /// `PyThreadState`: the thread's number, since 3.11.
    pub(super) native_thread_id: Option<u32>,
    pub(super) code: Code,
    pub(super) strings: Strings,
}

/// `PyCodeObject`: offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) filename: u32,
    pub(super) name: u32,
    pub(super) first_line: u32,
    pub(super) line_table: u32,
    /// Where the bytecode begins, if places in it are addresses.
    pub(super) bytecode: Option<u32>,
    /// Else: bytes that one step of the number stands for.
    pub(super) instruction_unit: u64,
    pub(super) lines: LineTable,
}

/// `PyASCIIObject` and `PyCompactUnicodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strings {
    pub(super) length: u32,
    pub(super) state: u32,
    /// Bits of the state before the kind.
    pub(super) kind_shift: u32,
    pub(super) ascii_size: u32,
    /// What text that is not ASCII has behind that.
    pub(super) compact_more: u32,
}

/// Why the frames of a Python cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PythonError {
    /// Not one of [`VERSIONS`].
    #[error("Python {0} is not known ({VERSIONS} are): only its native stacks are shown")]
    Version(String),
    /// It is not what it says it is, or is not running yet.
    #[error(
        "Python {0} is laid out in another way than its version says: only its native stacks are shown"
    )]
    Layout(String),
}

/// An interpreter in a process.
struct Found {
    runtime: u64,
    /// The minor version.
    minor: u32,
}

impl Layout {
    /// Looks for an interpreter; `None` where the process has none. `pointers` are the thread
    /// pointers of its threads, as far as they are known.
    #[must_use]
    pub fn find(modules: &Modules, pointers: &[u64]) -> Option<Result<Self, PythonError>> {
        let memory = modules.memory()?;
        let found = match find_interpreter(modules, memory)? {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        Some(Self::of(&found, memory, pointers))
    }

    fn of(found: &Found, memory: &dyn Memory, pointers: &[u64]) -> Result<Self, PythonError> {
        let version = format!("3.{}", found.minor);
        let mut layout = match found.minor {
            8..=12 => by_headers(found),
            13 | 14 => {
                published(found, memory).ok_or_else(|| PythonError::Layout(version.clone()))?
            }
            _ => return Err(PythonError::Version(version)),
        };
        let ids = layout.thread_ids(memory);
        if ids.is_empty() {
            return Err(PythonError::Layout(version));
        }
        // Without any thread's pointer it cannot be checked. On x86-64 the two are the same.
        if !pointers.is_empty() {
            let bias = bias(&ids, pointers).ok_or(PythonError::Layout(version))?;
            layout.frames.thread_id_bias = bias;
        }
        Ok(layout)
    }

    /// `pthread_self()` of the first threads.
    fn thread_ids(&self, memory: &dyn Memory) -> Vec<u64> {
        const ENOUGH: usize = 64;
        let layout = &self.frames;
        let field = super::field;
        let mut ids = Vec::new();
        let mut state = memory
            .word(layout.interpreter)
            .and_then(|interpreter| memory.word(field(interpreter, layout.threads)))
            .unwrap_or(0);
        while state != 0 && ids.len() < ENOUGH {
            let (Ok(id), Ok(next)) = (
                memory.word(field(state, layout.thread_id)),
                memory.word(field(state, layout.next)),
            ) else {
                break;
            };
            ids.push(id);
            state = next;
        }
        ids
    }
}

/// What `pthread_self()` is above the thread pointer: the same for all threads. `None` where the
/// numbers have nothing to do with each other.
fn bias(ids: &[u64], pointers: &[u64]) -> Option<u64> {
    let fits = |bias: u64| {
        let matching = ids
            .iter()
            .filter(|id| pointers.contains(&id.wrapping_sub(bias)));
        matching.count()
    };
    let candidates = ids
        .iter()
        .flat_map(|id| pointers.iter().map(|pointer| id.wrapping_sub(*pointer)))
        // It lies right beside.
        .filter(|bias| bias.cast_signed().unsigned_abs() < 1 << 16);
    candidates.max_by_key(|bias| (fits(*bias), *bias == 0))
}

fn find_interpreter(modules: &Modules, memory: &dyn Memory) -> Option<Result<Found, PythonError>> {
    let is_python =
        |path: &[u8], is_program: bool| is_program || path.windows(6).any(|part| part == b"python");
    let (runtime, path) = modules.symbol("_PyRuntime", &is_python)?;
    // Since 3.11 it says so itself.
    let stated = modules
        .symbol("Py_Version", &is_python)
        .and_then(|(address, _)| memory.half(address).ok())
        .filter(|version| version >> 24 == 3)
        .map(|version| version >> 16 & 0xff);
    let Some(minor) = stated.or_else(|| minor_in(&path)) else {
        return Some(Err(PythonError::Version("of some version".to_owned())));
    };
    Some(Ok(Found { runtime, minor }))
}

/// The 11 in `/usr/bin/python3.11` or `libpython3.11.so.1.0`.
fn minor_in(path: &[u8]) -> Option<u32> {
    let path = String::from_utf8_lossy(path);
    let (_, behind) = path.rsplit_once("python3.")?;
    let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Up to 3.12.
fn by_headers(found: &Found) -> Layout {
    let Found { runtime, minor } = *found;
    let frames = PythonLayout {
        // `interpreters.main`.
        interpreter: runtime + if minor < 11 { 40 } else { 48 },
        code_mask: u64::MAX,
        thread_id_bias: 0,
        threads: match minor {
            8..=10 => 8,
            11 => 16,
            _ => 72,
        },
        next: 8,
        thread_id: match minor {
            8..=10 => 176,
            11 => 152,
            _ => 136,
        },
        frame: if minor < 11 { 24 } else { 56 },
        cframe_frame: match minor {
            8..=10 => MISSING,
            11 => 8,
            _ => 0,
        },
        code: if minor < 12 { 32 } else { 0 },
        previous: match minor {
            8..=10 => 24,
            11 => 48,
            _ => 8,
        },
        instruction: match minor {
            8 | 9 => 104,
            10 => 96,
            _ => 56,
        },
        instruction_bytes: if minor < 11 { 4 } else { 8 },
        padding: 0,
    };
    let code = Code {
        filename: if minor < 11 { 104 } else { 112 },
        name: match minor {
            8..=10 => 112,
            // `co_qualname`, with the class.
            _ => 128,
        },
        first_line: match minor {
            8..=10 => 40,
            11 => 72,
            _ => 68,
        },
        line_table: if minor < 11 { 120 } else { 136 },
        bytecode: match minor {
            8..=10 => None,
            11 => Some(184),
            _ => Some(192),
        },
        instruction_unit: if minor == 10 { 2 } else { 1 },
        lines: match minor {
            8 | 9 => LineTable::Lnotab,
            10 => LineTable::Ranges,
            _ => LineTable::Locations,
        },
    };
    let strings = Strings {
        length: 16,
        state: 32,
        kind_shift: 2,
        ascii_size: if minor < 12 { 48 } else { 40 },
        compact_more: if minor < 12 { 24 } else { 16 },
    };
    Layout {
        frames,
        native_thread_id: match minor {
            8..=10 => None,
            11 => Some(160),
            _ => Some(144),
        },
        code,
        strings,
    }
}

/// Since 3.13; `None` where what is published makes no sense.
fn published(found: &Found, memory: &dyn Memory) -> Option<Layout> {
    const WORDS: usize = 81;
    const COOKIE: &[u8; 8] = b"xdebugpy";
    let bytes = memory.bytes(found.runtime, WORDS as u64 * 8).ok()?;
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .filter_map(|word| word.try_into().ok().map(u64::from_le_bytes))
        .collect();
    if words[0] != u64::from_le_bytes(*COOKIE) || words[1] >> 16 != 0x300 + u64::from(found.minor) {
        return None;
    }
    // No offset is that large, except within the runtime.
    let at = |word: usize| {
        u32::try_from(words[word])
            .ok()
            .filter(|offset| *offset < 1 << 24)
    };
    let is_free_threaded = words[2] != 0;
    // Where each part begins: 3.14 has put more into some of them.
    let (thread, frame, code, string) = match found.minor {
        13 => (19, 28, 34, 67),
        _ => (22, 31, 39, 77),
    };
    Some(Layout {
        native_thread_id: Some(at(thread + 6)?),
        frames: PythonLayout {
            interpreter: found.runtime.wrapping_add(u64::from(at(5)?)),
            // Since 3.14 the lowest bits of a reference are tags.
            code_mask: if found.minor < 14 { u64::MAX } else { !7 },
            thread_id_bias: 0,
            threads: at(9)?,
            next: at(thread + 2)?,
            thread_id: at(thread + 5)?,
            frame: at(thread + 4)?,
            cframe_frame: MISSING,
            code: at(frame + 2)?,
            previous: at(frame + 1)?,
            instruction: at(frame + 3)?,
            instruction_bytes: 8,
            padding: 0,
        },
        code: Code {
            filename: at(code + 1)?,
            name: at(code + 3)?,
            first_line: at(code + 5)?,
            line_table: at(code + 4)?,
            bytecode: Some(at(code + 9)?),
            instruction_unit: 1,
            lines: LineTable::Locations,
        },
        strings: Strings {
            state: at(string + 1)?,
            length: at(string + 2)?,
            kind_shift: if is_free_threaded && found.minor >= 14 {
                8
            } else {
                2
            },
            ascii_size: at(string + 3)?,
            compact_more: 16,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::code_location::memory::tests::Pieces;

    #[test]
    fn versions_are_read_from_paths() {
        for (path, minor) in [
            ("/usr/bin/python3.11", Some(11)),
            ("/opt/lib/libpython3.8.so.1.0", Some(8)),
            ("/python3.9/bin/python3.10", Some(10)),
            ("/usr/bin/python3", None),
            ("/usr/bin/perl", None),
        ] {
            assert_eq!(minor_in(path.as_bytes()), minor, "{path}");
        }
    }

    #[test]
    fn thread_ids_are_compared_with_thread_pointers() {
        assert_eq!(bias(&[0x1000, 0x2000], &[0x2000, 0x1000]), Some(0));
        assert_eq!(
            bias(&[0x1000, 0x2000], &[0x1700, 0x2700]),
            Some(0x700_u64.wrapping_neg())
        );
        assert_eq!(bias(&[0x1000], &[0x7000_0000]), None);
    }

    #[test]
    fn what_is_published_under_another_version_is_not_believed() {
        let found = Found {
            runtime: 0x1000,
            minor: 13,
        };
        let mut bytes = b"xdebugpy".to_vec();
        bytes.extend_from_slice(&0x030e_00f0_u64.to_le_bytes());
        bytes.resize(8 * 81, 0);
        let memory = Pieces([(0x1000, bytes)].into());
        assert_eq!(published(&found, &memory), None);
        let refused = Layout::of(&found, &memory, &[]).unwrap_err();
        assert_eq!(refused, PythonError::Layout("3.13".to_owned()));
        let other = Found { minor: 7, ..found };
        let refused = Layout::of(&other, &memory, &[]).unwrap_err();
        assert_eq!(refused, PythonError::Version("3.7".to_owned()));
    }

    proptest! {
        #[test]
        fn any_memory_is_read_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..4_000),
            minor in 7_u32..16,
        ) {
            let found = Found { runtime: 0x10, minor };
            let mut bytes = bytes;
            if bytes.len() > 16 {
                bytes[..8].copy_from_slice(b"xdebugpy");
                bytes[8..16].copy_from_slice(&(u64::from(0x300 + minor) << 16).to_le_bytes());
            }
            let memory = Pieces([(0x10, bytes)].into());
            if let Ok(layout) = Layout::of(&found, &memory, &[]) {
                let python = super::super::Python::new(layout);
                let _ = python.threads(&memory);
            }
        }
    }
}
