//! Text and bytes that Python keeps.

use super::{field, layout::Layout};
use crate::{code_location::memory::Memory, host::process::terminal_text};

/// Longer names are cut.
const MAX_CHARACTERS: u64 = 200;
/// Larger tables are not believed.
const MAX_BYTES: u64 = 1 << 20;

/// The text of a `str`, made harmless; `None` where it is none.
pub(super) fn text(layout: &Layout, object: u64, memory: &dyn Memory) -> Option<String> {
    let strings = &layout.strings;
    let length = memory.word(field(object, strings.length)).ok()?;
    let state = memory.half(field(object, strings.state)).ok()? >> strings.kind_shift;
    let (kind, is_compact, is_ascii) = (state & 7, state & 8 != 0, state & 16 != 0);
    if !is_compact {
        return None;
    }
    let data = if is_ascii {
        strings.ascii_size
    } else {
        // Behind the ASCII part come the length and the address of the text in UTF-8; before
        // Python 3.12 also that in wide characters.
        strings.ascii_size + strings.compact_more
    };
    let data = field(object, data);
    let shown = length.min(MAX_CHARACTERS);
    let mut text: String = match kind {
        1 => {
            let bytes = memory.bytes(data, shown).ok()?;
            bytes.into_iter().map(char::from).collect()
        }
        2 => {
            let bytes = memory.bytes(data, shown * 2).ok()?;
            let units = bytes
                .chunks_exact(2)
                .map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
            char::decode_utf16(units)
                .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        4 => {
            let bytes = memory.bytes(data, shown * 4).ok()?;
            let units = bytes
                .chunks_exact(4)
                .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]));
            units
                .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        _ => return None,
    };
    if length > MAX_CHARACTERS {
        text.push('…');
    }
    Some(terminal_text(text.as_bytes()))
}

/// The bytes of a `bytes`.
pub(super) fn bytes(object: u64, memory: &dyn Memory) -> Option<Vec<u8>> {
    /// `ob_size` and `ob_sval`, in every version.
    const SIZE: u32 = 16;
    const DATA: u32 = 32;
    let length = memory.word(field(object, SIZE)).ok()?;
    if length > MAX_BYTES {
        return None;
    }
    memory.bytes(field(object, DATA), length).ok()
}
