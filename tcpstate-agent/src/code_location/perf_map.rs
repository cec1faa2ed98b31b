//! Names of code that was made while the process ran, as the process itself has written them down:
//! `/tmp/perf-PID.map`. Java and Node write one when they are told to.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
};

use super::{proc_status, waits::own_number};

/// More of it is not read.
const MAX_BYTES: u64 = 64 << 20;
/// More are not kept.
const MAX_FUNCTIONS: usize = 2_000_000;

/// Functions by their addresses.
#[derive(Debug, Default)]
pub struct PerfMap {
    functions: Vec<Function>,
}

#[derive(Debug)]
struct Function {
    start: u64,
    end: u64,
    name: String,
}

impl PerfMap {
    /// Reads the map of a process, where it has written one; `open` opens a file by the process's
    /// own path. Anybody may write there: one that is neither the process's user's nor root's is
    /// not read.
    pub fn read(pid: u32, open: &dyn Fn(&[u8]) -> io::Result<File>) -> Self {
        let own_pid = own_number(pid, pid).unwrap_or(pid);
        let path = format!("/tmp/perf-{own_pid}.map");
        let Ok(file) = open(path.as_bytes()) else {
            return Self::default();
        };
        let mut text = Vec::new();
        let is_its_own = file.metadata().is_ok_and(|found| {
            found.is_file() && (found.uid() == 0 || Some(found.uid()) == user_of(pid))
        });
        if is_its_own && file.take(MAX_BYTES).read_to_end(&mut text).is_ok() {
            return Self::parse(&text);
        }
        Self::default()
    }

    /// Parses lines of a start, a size and a name, both numbers hexadecimal, with or without `0x`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut functions: Vec<Function> = text
            .split(|byte| *byte == b'\n')
            .filter_map(parse_line)
            .take(MAX_FUNCTIONS)
            .collect();
        // Code is made again at the same place: the last one counts.
        functions.reverse();
        functions.sort_by_key(|function| function.start);
        functions.dedup_by_key(|function| function.start);
        Self { functions }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The function that an address is in.
    #[must_use]
    pub fn function(&self, address: u64) -> Option<&str> {
        let behind = self
            .functions
            .partition_point(|function| function.start <= address);
        let function = self.functions[..behind].last()?;
        (address < function.end).then_some(&*function.name)
    }
}

/// The user that a process acts as.
fn user_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    proc_status::words(&status, "Uid:")?.nth(1)?.parse().ok()
}

fn parse_line(line: &[u8]) -> Option<Function> {
    let line = String::from_utf8_lossy(line);
    let mut fields = line.splitn(3, ' ');
    let (start, size) = (hexadecimal(fields.next()?)?, hexadecimal(fields.next()?)?);
    let name = fields.next()?.trim_end();
    Some(Function {
        start,
        end: start.checked_add(size)?,
        name: name.to_owned(),
    })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn maps_of_java_and_of_node_are_read() {
        let map = PerfMap::parse(
            b"0x00007f0010 0x20 java.lang.String Leak.read(int)\n\
              7f0040 10 JS:~serve /app/leak.js:3:1\n\
              nonsense\n\
              7f0040 8 JS:*serve /app/leak.js:3:1\n",
        );
        for (address, name) in [
            (0x7f_000f, None),
            (0x7f_0010, Some("java.lang.String Leak.read(int)")),
            (0x7f_002f, Some("java.lang.String Leak.read(int)")),
            (0x7f_0030, None),
            (0x7f_0044, Some("JS:*serve /app/leak.js:3:1")),
            (0x7f_0048, None),
        ] {
            assert_eq!(map.function(address), name, "{address:#x}");
        }
    }

    #[test]
    fn a_map_is_read_where_it_is_the_processes_own_and_of_no_other_user() {
        let own = std::process::id();
        let write = || {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"10 10 f\n").unwrap();
            file.rewind().unwrap();
            file
        };
        let read = |file: File| PerfMap::read(own, &|_| file.try_clone());
        assert_eq!(read(write()).function(0x10), Some("f"));
        assert_eq!(user_of(own), Some(rustix::process::geteuid().as_raw()));
        let others = write();
        // Takes root, as whom the tests need not run.
        if std::os::unix::fs::fchown(&others, Some(4711), None).is_ok() {
            assert!(read(others).is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = PerfMap::parse(&text).function(0);
        }
    }
}
