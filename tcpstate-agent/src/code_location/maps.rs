//! What a process has mapped where: `/proc/PID/maps`.

use std::{fs, io};

/// Part of the address space of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address behind it.
    pub end: u64,
    /// Whether the process may execute it.
    pub is_executable: bool,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file's device, as written there, and inode number; 0 for no file.
    pub file: (String, u64),
    /// The file's path as the process sees it, with ` (deleted)` behind it where that was removed
    /// or replaced; `[stack]` and the like; empty for memory of no file.
    pub path: Vec<u8>,
}

impl Mapping {
    /// Whether it is of a file.
    #[must_use]
    pub fn is_of_file(&self) -> bool {
        self.file.1 != 0 && self.path.starts_with(b"/")
    }
}

/// More are not looked at: no process can have more by default (`vm.max_map_count`), and what has
/// been allowed to has no more code for it.
const MAX_MAPPINGS: usize = 1 << 17;

/// Reads the mappings of a process, in the order of their addresses.
pub fn read(pid: u32) -> io::Result<Vec<Mapping>> {
    Ok(parse(&fs::read(format!("/proc/{pid}/maps"))?))
}

/// Parses the text; lines that make no sense are passed over.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(parse_line).take(MAX_MAPPINGS).collect()
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let (field, behind) = rest.split_at(end);
        rest = &behind[1..];
        std::str::from_utf8(field).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?;
    let offset = field()?;
    let device = field()?;
    // Without a path the line may end with the inode number.
    let (inode, path) = match rest.iter().position(|byte| *byte == b' ') {
        Some(end) => (&rest[..end], rest[end..].trim_ascii_start()),
        None => (rest, &rest[..0]),
    };
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    (start < end).then_some(())?;
    Some(Mapping {
        start,
        end,
        is_executable: permissions.as_bytes().get(2) == Some(&b'x'),
        offset: hexadecimal(offset)?,
        file: (
            device.to_owned(),
            std::str::from_utf8(inode).ok()?.parse().ok()?,
        ),
        path: path.to_owned(),
    })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_anonymous_memory_and_paths_with_spaces_are_told_apart() {
        let text = b"\
00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a b (deleted)
7f00-8000 rw-p 00000000 00:00 0
7ffd0000-7ffe0000 rw-p 00000000 00:00 0                          [stack]
";
        let mappings = parse(text);
        assert_eq!(mappings.len(), 3);
        assert_eq!(
            mappings[0],
            Mapping {
                start: 0x40_0000,
                end: 0x45_2000,
                is_executable: true,
                offset: 0x1000,
                file: ("08:02".to_owned(), 173_521),
                path: b"/usr/bin/a b (deleted)".to_vec(),
            }
        );
        assert!(mappings[0].is_of_file());
        assert!(mappings[1].path.is_empty() && !mappings[1].is_executable);
        assert!(!mappings[2].is_of_file());
    }

    #[test]
    fn this_process_maps_its_own_code() {
        let here = this_process_maps_its_own_code as *const () as u64;
        let mappings = read(std::process::id()).unwrap();
        let own = mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&here))
            .unwrap();
        assert!(own.is_executable && own.is_of_file());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_harm(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            for mapping in parse(&text) {
                prop_assert!(mapping.start < mapping.end);
            }
        }

        #[test]
        fn lines_that_are_nearly_right_are_parsed_without_harm(
            text in "[0-9a-f]{0,17}-[0-9a-f]{0,17} [r-][w-][x-]p [0-9a-f]{0,17} [0-9:]{0,5} [0-9]{0,21} ?/?.{0,8}"
        ) {
            let _ = parse(text.as_bytes());
        }
    }
}
