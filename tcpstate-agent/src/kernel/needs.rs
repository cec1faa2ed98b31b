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
const INSTRUCTION: usize = 8;
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL`, what the second half of an instruction's registers says of one that calls a
/// function, and not a helper of the kernel.
const OF_A_FUNCTION: u8 = 1;

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
        let mut relocated = BTreeSet::new();
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
            if let Some(distance) = call(code, at) {
                let of = symbol.section_index().map_or(0, |section| section.0);
                let called = symbol.address().checked_add_signed(distance);
                function.calls.extend(called.map(|called| (of, called)));
                relocated.insert(at);
            } else if !symbol.name()?.is_empty() {
                function.globals.insert(symbol.name()?.to_owned());
            }
        }
        // Within a section the linker knows where a function is, and leaves nothing to relocate.
        let number = section.index().0;
        for (&(_, start), function) in functions.range_mut((number, 0)..(number + 1, 0)) {
            for at in (start..function.end).step_by(INSTRUCTION) {
                if !relocated.contains(&at)
                    && let Some(distance) = call(code, at)
                {
                    let called = at.checked_add_signed(distance);
                    function.calls.extend(called.map(|called| (number, called)));
                }
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

/// How far off, in bytes, is what the instruction at `at` calls: behind its symbol, or from itself
/// where it has none. `None` where it calls no function.
fn call(code: &[u8], at: u64) -> Option<i64> {
    let at = usize::try_from(at).ok()?;
    let instruction = code.get(at..)?.first_chunk::<INSTRUCTION>()?;
    let [opcode, registers, _, _, distance @ ..] = *instruction;
    if opcode != CALL || registers >> 4 != OF_A_FUNCTION {
        return None;
    }
    // In instructions, from the one behind.
    let distance = i64::from(i32::from_le_bytes(distance)) + 1;
    distance.checked_mul(i64::try_from(INSTRUCTION).ok()?)
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
