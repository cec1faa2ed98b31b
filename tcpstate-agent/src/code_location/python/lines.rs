//! From a place in the bytecode to a line: each generation of Python has a table of its own.

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineTable {
    /// `co_lnotab`, to Python 3.9.
    Lnotab,
    /// `co_linetable` of Python 3.10.
    Ranges,
    /// `co_linetable` since Python 3.11: PEP 657.
    Locations,
}

impl LineTable {
    /// The line of byte `offset` of the code that begins in line `first`; `None` where there is
    /// none, or the table makes no sense.
    pub(super) fn line(self, table: &[u8], first: u32, offset: u64) -> Option<u32> {
        let line = match self {
            Self::Lnotab => Some(lnotab(table, i64::from(first), offset)),
            Self::Ranges => ranges(table, i64::from(first), offset),
            Self::Locations => locations(table, i64::from(first), offset),
        };
        u32::try_from(line?).ok().filter(|line| *line > 0)
    }
}

/// Pairs of how many bytes and how many lines it goes on.
fn lnotab(table: &[u8], first: i64, offset: u64) -> i64 {
    let mut line = first;
    let mut start = 0;
    for pair in table.chunks_exact(2) {
        start += u64::from(pair[0]);
        if start > offset {
            break;
        }
        line += i64::from(pair[1].cast_signed());
    }
    line
}

/// Pairs of how many bytes a range has, and how many lines it is behind the one before; -128 for no
/// line.
fn ranges(table: &[u8], first: i64, offset: u64) -> Option<i64> {
    const NO_LINE: i8 = -128;
    let mut line = first;
    let mut end = 0;
    for pair in table.chunks_exact(2) {
        let delta = pair[1].cast_signed();
        if delta != NO_LINE {
            line += i64::from(delta);
        }
        end += u64::from(pair[0]);
        if offset < end {
            return (delta != NO_LINE).then_some(line);
        }
    }
    None
}

/// Entries of variable length, each for one to eight units of two bytes of code.
fn locations(table: &[u8], first: i64, offset: u64) -> Option<i64> {
    let wanted = offset / 2;
    let mut line = first;
    let mut units = 0;
    let mut bytes = table.iter().copied();
    while let Some(head) = bytes.next() {
        let (kind, length) = (head >> 3 & 15, u64::from(head & 7) + 1);
        match kind {
            15 => {}
            14 => {
                line += signed(&mut bytes)?;
                for _ in 0..3 {
                    unsigned(&mut bytes)?;
                }
            }
            13 => line += signed(&mut bytes)?,
            10..=12 => {
                line += i64::from(kind - 10);
                bytes.nth(1)?;
            }
            _ => {
                bytes.next()?;
            }
        }
        units += length;
        if wanted < units {
            return (kind != 15).then_some(line);
        }
    }
    None
}

/// Six bits a byte, the lowest first; bit 6 says that more follow.
fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0;
    for shift in (0..60).step_by(6) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

/// The lowest bit is the sign.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = unsigned(bytes)?;
    let magnitude = i64::try_from(value >> 1).ok()?;
    Some(if value & 1 == 0 {
        magnitude
    } else {
        -magnitude
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `def f(a):` in line 10 with `b = a` in 11 and `return b` in 13, as each version compiles it.
    #[test]
    fn lines_are_found_in_the_table_of_each_generation() {
        let lnotab = [0, 1, 4, 2];
        for (offset, line) in [(0, 11), (2, 11), (4, 13), (6, 13)] {
            assert_eq!(LineTable::Lnotab.line(&lnotab, 10, offset), Some(line));
        }
        let ranges = [4, 1, 2, 0x80, 4, 2];
        for (offset, line) in [
            (0, Some(11)),
            (3, Some(11)),
            (4, None),
            (6, Some(13)),
            (10, None),
        ] {
            assert_eq!(
                LineTable::Ranges.line(&ranges, 10, offset),
                line,
                "{offset}"
            );
        }
        // RESUME without columns in line 10; two units one line on; one unit three lines back, as a
        // long entry; a unit without a line.
        let locations = [0x80, 0, 0xd9, 11, 22, 0xf0, 7, 0, 1, 1, 0xf8];
        for (offset, line) in [
            (0, Some(10)),
            (2, Some(11)),
            (4, Some(11)),
            (6, Some(8)),
            (8, None),
            (10, None),
        ] {
            assert_eq!(
                LineTable::Locations.line(&locations, 10, offset),
                line,
                "{offset}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_table_is_read_without_harm(
            table in proptest::collection::vec(any::<u8>(), 0..200),
            first in any::<u32>(),
            offset in any::<u64>(),
        ) {
            for kind in [LineTable::Lnotab, LineTable::Ranges, LineTable::Locations] {
                let _ = kind.line(&table, first, offset);
            }
        }
    }
}
