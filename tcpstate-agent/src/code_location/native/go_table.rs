//! `.gopclntab`: what Go keeps of its functions and lines for its own stack traces. It stays where
//! symbols and debug information are left out (`-ldflags "-s -w"`).
//!
//! The layout is that of Go 1.18 and later, see [`runtime/symtab.go`] and [`internal/abi/symtab.go`].
//! Functions that the compiler has put into others are not told apart: the function is the one that
//! was called, the line that of what is in it.
//!
//! [`runtime/symtab.go`]: https://github.com/golang/go/blob/go1.24.0/src/runtime/symtab.go
//! [`internal/abi/symtab.go`]: https://github.com/golang/go/blob/go1.24.0/src/internal/abi/symtab.go

use object::{Object as _, ReadRef};

use super::{
    image::{Bytes, section_bytes},
    symbols::Place,
};

/// What the table begins with: since Go 1.18, since Go 1.20.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// Of programs that lie anywhere it is in another section.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// What a program of Go begins with.
const ENTRY: &[u8] = if cfg!(target_arch = "x86_64") {
    b"_rt0_amd64_linux"
} else {
    b"_rt0_arm64_linux"
};
/// More functions are not looked through for that.
const MAX_FUNCTIONS: usize = 1 << 20;
/// Steps through the lines of one function.
const MAX_STEPS: usize = 1 << 20;
/// Names and paths are not longer.
const MAX_NAME: usize = 4096;
/// `func_ int32` and so on up to the function's file, lines and compilation unit.
const NAME: usize = 4;
const FILES: usize = 20;
const LINES: usize = 24;
const UNIT: usize = 32;

/// The table of a file.
pub(super) struct GoTable {
    bytes: Bytes,
    /// Bytes of the shortest instruction.
    quantum: u32,
    functions: usize,
    /// The address of the first one.
    text: u64,
    // Where in the table other tables begin.
    names: usize,
    units: usize,
    files: usize,
    steps: usize,
    entries: usize,
}

impl GoTable {
    /// Reads it, if the file has one.
    pub(super) fn load<'a, R: ReadRef<'a>>(elf: &object::File<'a, R>) -> Option<Self> {
        let bytes = SECTIONS.iter().find_map(|name| section_bytes(elf, name))?;
        Self::of(bytes, elf.entry())
    }

    fn of(bytes: Bytes, entry: u64) -> Option<Self> {
        const WORD: u8 = 8;
        let header = bytes.first_chunk::<8>()?;
        let [a, b, c, d, _, _, quantum, word] = *header;
        if !MAGICS.contains(&u32::from_le_bytes([a, b, c, d])) || word != WORD {
            return None;
        }
        let field = |number: usize| {
            let at = header.len() + number * usize::from(WORD);
            let field = bytes.get(at..)?.first_chunk()?;
            Some(u64::from_le_bytes(*field))
        };
        let offset = |number| usize::try_from(field(number)?).ok();
        let mut table = Self {
            quantum: quantum.into(),
            functions: offset(0)?,
            text: field(2)?,
            names: offset(3)?,
            units: offset(4)?,
            files: offset(5)?,
            steps: offset(6)?,
            entries: offset(7)?,
            bytes,
        };
        if table.text == 0 {
            // Go 1.26 no longer writes it down. A program that Go has linked begins in a function of
            // the table; of another nothing is told.
            let begins = (0..table.functions.min(MAX_FUNCTIONS))
                .find(|number| table.name(*number) == Some(ENTRY))?;
            let (offset, _) = table.function(begins)?;
            table.text = entry.checked_sub(offset.into())?;
        }
        Some(table)
    }

    /// The function and the line of an address of the file.
    pub(super) fn place(&self, address: u64) -> Option<Place> {
        let wanted = u32::try_from(address.checked_sub(self.text)?).ok()?;
        let number = self.find(wanted)?;
        let (start, at) = self.function(number)?;
        let function = lossy(self.name(number)?);
        let value = |field| self.value(self.half(at.checked_add(field)?)?, start, wanted);
        let file = value(FILES).and_then(|number| {
            let unit = self.half(at.checked_add(UNIT)?)?;
            let index = unit.checked_add_signed(number)?;
            let place = usize::try_from(index).ok()?.checked_mul(4)?;
            let offset = self.half(self.units.checked_add(place)?)?;
            self.text_at(self.files, offset).map(lossy)
        });
        let line = value(LINES).and_then(|line| u32::try_from(line).ok());
        Some(Place {
            function: Some(function),
            line: line.filter(|line| *line > 0 && file.is_some()),
            file,
            is_inlined: false,
        })
    }

    /// The function that has an offset in it. Behind the last one the table says where it ends.
    fn find(&self, wanted: u32) -> Option<usize> {
        let (mut low, mut high) = (0, self.functions);
        if self.entry(high)? <= wanted {
            return None;
        }
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle)? <= wanted {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }

    /// Where a function begins.
    fn entry(&self, number: usize) -> Option<u32> {
        self.half(self.entries.checked_add(number.checked_mul(8)?)?)
    }

    /// The same, and where what is known of it lies.
    fn function(&self, number: usize) -> Option<(u32, usize)> {
        let at = self.entries.checked_add(number.checked_mul(8)?)?;
        let offset = usize::try_from(self.half(at.checked_add(4)?)?).ok()?;
        Some((self.half(at)?, self.entries.checked_add(offset)?))
    }

    fn name(&self, number: usize) -> Option<&[u8]> {
        let (_, at) = self.function(number)?;
        self.text_at(self.names, self.half(at.checked_add(NAME)?)?)
    }

    fn text_at(&self, table: usize, offset: u32) -> Option<&[u8]> {
        let start = table.checked_add(usize::try_from(offset).ok()?)?;
        let rest = self.bytes.get(start..)?;
        let length = rest.iter().take(MAX_NAME).position(|byte| *byte == 0)?;
        Some(&rest[..length])
    }

    /// The value that a function's steps have come to at an offset: each is how far it changes and
    /// how far that is valid.
    fn value(&self, steps: u32, start: u32, wanted: u32) -> Option<i32> {
        if steps == 0 {
            return None;
        }
        let at = self.steps.checked_add(usize::try_from(steps).ok()?)?;
        let mut rest = self.bytes.get(at..)?;
        let (mut value, mut end) = (-1_i32, start);
        for step in 0..MAX_STEPS {
            let change = varint(&mut rest)?;
            if change == 0 && step > 0 {
                return None;
            }
            let half = (change >> 1).cast_signed();
            value = value.wrapping_add(if change & 1 == 1 { !half } else { half });
            let length = varint(&mut rest)?.wrapping_mul(self.quantum);
            end = end.wrapping_add(length);
            if wanted < end {
                return (value >= 0).then_some(value);
            }
        }
        None
    }

    fn half(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u32;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two functions, of 16 bytes each: `main.f` has line 7 for 4 bytes and then line 9; `_rt0…` has
    /// no lines.
    fn table(text: u64) -> Vec<u8> {
        const HEADER: usize = 8 + 8 * 8;
        let names = [b"main.f\0", ENTRY, b"\0"].concat();
        let units = 0_u32.to_le_bytes();
        let files = b"/src/leak.go\0";
        // Nothing; file 0 for 16 bytes; line 7 for 4 bytes, 9 for 12.
        let steps = [0, 2, 16, 0, 16, 4, 4, 12, 0];
        let function = |start: u32, name: u32, file: u32, line: u32| {
            let fields = [start, name, 0, 0, 0, file, line, 0, 0];
            fields.map(u32::to_le_bytes).concat()
        };
        let entries: Vec<u8> = [0, 20, 16, 56, 32]
            .map(u32::to_le_bytes)
            .into_iter()
            .flatten()
            .chain(function(0, 0, 1, 4))
            .chain(function(16, 7, 0, 0))
            .collect();
        let mut table = [&MAGICS[1].to_le_bytes()[..], &[0, 0, 1, 8]].concat();
        let mut behind = Vec::new();
        let mut places = Vec::new();
        for part in [&names[..], &units, files, &steps, &entries] {
            places.push((HEADER + behind.len()) as u64);
            behind.extend_from_slice(part);
        }
        for field in [2, 1, text].into_iter().chain(places) {
            table.extend_from_slice(&field.to_le_bytes());
        }
        table.extend_from_slice(&behind);
        table
    }

    fn told(table: &GoTable, address: u64) -> Option<(String, Option<String>, Option<u32>)> {
        let place = table.place(address)?;
        Some((place.function?, place.file, place.line))
    }

    #[test]
    fn an_address_has_the_function_and_the_line_that_go_itself_would_print() {
        // Once with the address of the code in it, once with the program's beginning alone.
        for (text, entry) in [(0x1000, 0), (0, 0x1010)] {
            let table = GoTable::of(table(text).into(), entry).unwrap();
            let f = |line| {
                let file = Some("/src/leak.go".to_owned());
                Some(("main.f".to_owned(), file, Some(line)))
            };
            let entry = String::from_utf8(ENTRY.to_vec()).unwrap();
            for (address, expected) in [
                (0xfff, None),
                (0x1000, f(7)),
                (0x1003, f(7)),
                (0x1004, f(9)),
                (0x100f, f(9)),
                (0x1010, Some((entry, None, None))),
                (0x1020, None),
            ] {
                assert_eq!(told(&table, address), expected, "{address:#x}");
            }
        }
    }

    #[test]
    fn what_is_no_such_table_is_none() {
        assert!(GoTable::of(Bytes::from(vec![]), 0).is_none());
        let mut older = table(0x1000);
        older[0] = 0xfa;
        assert!(GoTable::of(older.into(), 0).is_none());
        // Its program begins somewhere else.
        assert!(GoTable::of(table(0).into(), 0).is_none());
    }

    proptest! {
        #[test]
        fn any_table_is_read_without_harm(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
            address in 0_u64..0x2000,
        ) {
            let mut bytes = table(0x1000);
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Some(table) = GoTable::of(bytes.into(), 0x1010) {
                let _ = table.place(address);
            }
        }
    }
}
