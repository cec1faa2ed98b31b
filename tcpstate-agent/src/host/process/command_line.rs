//! What a process was started with, for people to read.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::{
    identity::{ProcessId, ask_about, of_any_thread},
    printable::terminal_text,
};

/// More does not fit where people look at it.
const MAX_CHARACTERS: usize = 200;

/// Enough for that many characters of UTF-8, and a process may have megabytes of arguments.
const MAX_BYTES: u64 = 1024;

/// The arguments of a process, as [`terminal_text`], with spaces
/// between them and `…` for what is beyond 200 characters. None for kernel threads, zombies and
/// where it cannot be read.
///
/// Not for every scrape: the kernel reads the process's memory, and waits for as long as the
/// process is stuck changing it. Not for labels either: arguments may contain secrets.
#[must_use]
pub fn command_line(id: ProcessId) -> Option<String> {
    ask_about(id, |folder| of_any_thread(folder, command_line_in))
}

fn command_line_in(folder: &Path) -> Option<String> {
    let bytes = read_beginning(&folder.join("cmdline")).ok()?;
    // Each argument ends with a NUL. A process that writes its title there, as nginx does, may
    // leave more of them.
    let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let arguments: Vec<String> = bytes[..end]
        .split(|byte| *byte == 0)
        .map(terminal_text)
        .collect();
    Some(shortened(arguments.join(" ")))
}

fn read_beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_CHARACTERS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn of(cmdline: &[u8]) -> Option<String> {
        let root = TempDir::new().unwrap();
        fs::write(root.path().join("cmdline"), cmdline).unwrap();
        command_line_in(root.path())
    }

    #[test]
    fn arguments_are_joined_by_spaces() {
        for (cmdline, expected) in [
            (b"cat\0".as_slice(), "cat"),
            (b"grep\0-r\0a b\0", "grep -r a b"),
            (b"echo\0\0x\0", "echo  x"),
            // A title that the process wrote itself.
            (
                b"nginx: master process nginx\0\0\0\0",
                "nginx: master process nginx",
            ),
            (b"sshd: a [priv]", "sshd: a [priv]"),
            (b"sh\0-c\0\x1b[2J\n\t\xff\0", r"sh -c \x1b[2J\n\t\xff"),
        ] {
            assert_eq!(of(cmdline).as_deref(), Some(expected));
        }
    }

    #[test]
    fn kernel_threads_have_none() {
        assert_eq!(of(b""), None);
        assert_eq!(of(b"\0"), None);
        let root = TempDir::new().unwrap();
        assert_eq!(command_line_in(root.path()), None);
    }

    #[test]
    fn long_ones_are_cut_between_characters() {
        assert_eq!(of(&[b'a'; 200]), Some("a".repeat(200)));
        assert_eq!(of(&[b'a'; 201]), Some("a".repeat(200) + "…"));
        assert_eq!(of("🦀".repeat(200).as_bytes()), Some("🦀".repeat(200)));
        // Longer than what is read, which ends in the middle of a character.
        let long = "a".to_owned() + &"🦀".repeat(100_000);
        assert_eq!(
            of(long.as_bytes()),
            Some("a".to_owned() + &"🦀".repeat(199) + "…")
        );
        assert_eq!(of(&[1; 5000]).map(|text| text.chars().count()), Some(201));
    }

    #[test]
    fn this_process_has_one() {
        let own = command_line_in(Path::new("/proc/self")).unwrap();
        let program = std::env::args().next().unwrap();
        assert!(own.starts_with(&program) || own.ends_with('…'), "{own}");
    }
}
