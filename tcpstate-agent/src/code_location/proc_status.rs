//! `/proc/PID/status`, and that of a thread: lines of a name and words.

use std::str::SplitAsciiWhitespace;

/// The words behind a name such as `Uid:`.
pub(crate) fn words<'a>(status: &'a str, name: &str) -> Option<SplitAsciiWhitespace<'a>> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_ascii_whitespace())
}
