//! Which globals of the object each of its programs reads, as the object's relocations say it: an
//! offset that a program reads is one that it cannot do without, unless it says so.

use std::collections::{BTreeMap, BTreeSet};

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
    read::elf::ElfFile64,
};

/// The names of the globals that each program leads to, by the program's name.
pub(super) type Needs = BTreeMap<String, BTreeSet<String>>;

/// The size of an instruction, and the one that calls.
const INSTRUCTION: u64 = 8;
const CALL: u8 = 0x85;

/// A function: its section, and where it begins in that.
type Place = (usize, u64);

#[derive(Default)]
struct Function {
    name: String,
    end: u64,
    globals: BTreeSet<String>,
    calls: BTreeSet<Place>,
}

/// Reads the relocations of an object. The error is that of whoever has built it.
pub(super) fn read(bytes: &[u8]) -> Result<Needs, object::Error> {
    let file = ElfFile64::<object::LittleEndian>::parse(bytes)?;
    let mut functions: BTreeMap<Place, Function> = BTreeMap::new();
    for symbol in file.symbols() {
        if symbol.kind() == SymbolKind::Text
            && let Some(SectionIndex(section)) = symbol.section_index()
        {
            functions.insert(
                (section, symbol.address()),
                Function {
                    name: symbol.name()?.to_owned(),
                    end: symbol.address() + symbol.size(),
                    ..Function::default()
                },
            );
        }
    }
    for section in file.sections() {
        let code = section.data()?;
        for (at, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = file.symbol_by_index(index)?;
            let place = (section.index().0, at);
            let Some((_, function)) = functions.range_mut(..=place).next_back() else {
                continue;
            };
            if at >= function.end {
                continue;
            }
            if let Some(offset) = call(code, at) {
                let of = symbol.section_index().map_or(0, |section| section.0);
                function.calls.insert((of, symbol.address() + offset));
            } else if !symbol.name()?.is_empty() {
                function.globals.insert(symbol.name()?.to_owned());
            }
        }
    }
    let needs = functions.iter().map(|(&place, function)| {
        let mut globals = BTreeSet::new();
        collect(&functions, place, &mut BTreeSet::new(), &mut globals);
        (function.name.clone(), globals)
    });
    Ok(needs.collect())
}

/// How far behind its symbol that begins which the instruction at `at` calls; `None` where it is no
/// call.
fn call(code: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let instruction = code.get(at..)?.first_chunk::<8>()?;
    let [opcode, _, _, _, distance @ ..] = *instruction;
    if opcode != CALL {
        return None;
    }
    // In instructions, from the one behind.
    let distance = i64::from(i32::from_le_bytes(distance)) + 1;
    u64::try_from(distance)
        .ok()
        .map(|distance| distance * INSTRUCTION)
}

fn collect(
    functions: &BTreeMap<Place, Function>,
    place: Place,
    met: &mut BTreeSet<Place>,
    globals: &mut BTreeSet<String>,
) {
    if !met.insert(place) {
        return;
    }
    if let Some(function) = functions.get(&place) {
        globals.extend(function.globals.iter().cloned());
        for &called in &function.calls {
            collect(functions, called, met, globals);
        }
    }
}

#[cfg(test)]
mod tests {
    use object::Endianness;
    use tcpstate_common::{FIELDS, MISSING, WHERE_FIELDS, program};

    use super::{super::load::OBJECT, *};

    static WHERE_OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf-object/where.bpf.o");

    #[test]
    fn functions_that_a_program_calls_count() {
        let needs = read(OBJECT).unwrap();
        let of = |program: &str| &needs[program];
        // Read by the functions that write a record.
        assert!(of(program::TRANSITION).contains("TASK_COMM"));
        assert!(of(program::TRANSITION).contains("LINGER2"));
        assert!(of(program::RESET_SENT).contains("SK_ERR"));
        assert!(!of(program::RESET_SENT).contains("TASK_COMM"));
        assert!(!of(program::RESET_RECEIVED).contains("SK_DADDR"));
    }

    #[test]
    fn every_field_is_read_by_some_program() {
        for (object, fields) in [(OBJECT, FIELDS), (WHERE_OBJECT, WHERE_FIELDS)] {
            let needs = read(object).unwrap();
            for field in fields {
                let is_read = needs.values().any(|needs| needs.contains(field.global));
                assert!(is_read, "nothing reads {}", field.global);
            }
        }
    }

    /// What no offset was found for must not read from the beginning of a struct.
    #[test]
    fn every_offset_is_missing_until_it_is_found() {
        for (bytes, fields) in [(OBJECT, FIELDS), (WHERE_OBJECT, WHERE_FIELDS)] {
            let file = ElfFile64::<Endianness>::parse(bytes).unwrap();
            for field in fields {
                let mut symbols = file.symbols();
                let symbol = symbols.find(|symbol| symbol.name() == Ok(field.global));
                let symbol = symbol.unwrap_or_else(|| panic!("no {}", field.global));
                let section = file
                    .section_by_index(symbol.section_index().unwrap())
                    .unwrap();
                let value = section.data_range(symbol.address(), 4).unwrap().unwrap();
                assert_eq!(value, MISSING.to_ne_bytes(), "{}", field.global);
            }
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(read(b"").is_err());
        assert!(read(&OBJECT[..OBJECT.len() / 2]).is_err());
    }
}
