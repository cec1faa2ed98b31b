//! From an address within a file to the function and the line.

use std::fs::File;

use object::{Object as _, ObjectSymbol as _, ReadCache, ReadRef, SymbolKind};

use super::{
    debug_info::{self, DebugInfo},
    demangle::demangle,
    go_table::GoTable,
    mini_debug_info, sizes,
};

/// More are not kept.
const MAX_SYMBOLS: usize = 4_000_000;
/// Nor are more bytes of their names.
const MAX_NAMES: usize = 256 << 20;

/// A function in a file's own addresses.
#[derive(Debug)]
struct Function {
    start: u64,
    size: u64,
    /// Where its name is in `names`.
    name: (usize, usize),
}

/// What is known of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The function, demangled.
    pub(super) function: Option<String>,
    /// The file of the source, as the compiler was given it.
    pub(super) file: Option<String>,
    /// The line in it, from 1.
    pub(super) line: Option<u32>,
    /// Whether the compiler put it into the next one.
    pub(super) is_inlined: bool,
}

/// A file's symbols and debug information.
pub(super) struct Symbols {
    functions: Vec<Function>,
    names: Vec<u8>,
    debug_info: Option<DebugInfo>,
    go_table: Option<GoTable>,
}

impl Symbols {
    /// Reads them from the file, and from the one with its debug information that `find` may open.
    pub(super) fn read(file: &File, path: &[u8], find: &dyn Fn(&[u8]) -> Option<File>) -> Self {
        let mut symbols = Self {
            functions: Vec::new(),
            names: Vec::new(),
            debug_info: None,
            go_table: None,
        };
        let Ok(file) = file.try_clone() else {
            return symbols;
        };
        // It may have been written to since it was first read.
        if sizes::check(&file).is_err() {
            return symbols;
        }
        let own = ReadCache::new(file);
        let Ok(elf) = object::File::parse(&own) else {
            return symbols;
        };
        symbols.add(&elf);
        symbols.debug_info = DebugInfo::load(&elf, path, find);
        if symbols.debug_info.is_none()
            && let Some(separate) = debug_info::separate_file(&elf, path, find)
            && sizes::check(&separate).is_ok()
        {
            let separate = ReadCache::new(separate);
            if let Ok(elf) = object::File::parse(&separate) {
                symbols.add(&elf);
                symbols.debug_info = DebugInfo::load(&elf, path, find);
            }
        }
        if symbols.debug_info.is_none() {
            symbols.go_table = GoTable::load(&elf);
            if let Some(unpacked) = mini_debug_info::unpack(&elf)
                && let Ok(elf) = object::File::parse(&*unpacked)
            {
                symbols.add(&elf);
            }
        }
        symbols.functions.sort_by_key(|function| function.start);
        symbols
    }

    fn add<'a, R: ReadRef<'a>>(&mut self, elf: &object::File<'a, R>) {
        for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
            if self.functions.len() >= MAX_SYMBOLS {
                break;
            }
            let is_function = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label);
            let Ok(name) = symbol.name_bytes() else {
                continue;
            };
            if !is_function || !symbol.is_definition() || name.is_empty() {
                continue;
            }
            let start = self.names.len();
            if start + name.len() > MAX_NAMES {
                break;
            }
            self.names.extend_from_slice(name);
            self.functions.push(Function {
                start: symbol.address(),
                size: symbol.size(),
                name: (start, self.names.len()),
            });
        }
    }

    /// The places that an address stands for, the innermost inlined one first. Never empty.
    pub(super) fn resolve(&self, address: u64) -> Vec<Place> {
        let symbol = self.function(address);
        let mut places = self
            .debug_info
            .as_ref()
            .map(|info| info.places(address))
            .unwrap_or_default();
        if let Some(outermost) = places.last_mut() {
            // The symbol's name is the linker's, and has all that the debug information may lack:
            // namespaces, classes.
            if let Some(symbol) = symbol
                && !outermost.is_inlined
            {
                outermost.function = Some(symbol);
            }
        } else {
            let go = self.go_table.as_ref();
            let place = go.and_then(|table| table.place(address));
            let place = place.unwrap_or_default();
            places.push(Place {
                function: symbol.or(place.function),
                ..place
            });
        }
        places
    }

    fn function(&self, address: u64) -> Option<String> {
        let behind = self
            .functions
            .partition_point(|function| function.start <= address);
        // Names of one function may be many: the last one that says how long it is.
        let nearest = self.functions[..behind].last()?.start;
        let candidates = self.functions[..behind]
            .iter()
            .rev()
            .take(64)
            .filter(|function| {
                let offset = address - function.start;
                offset < function.size || (function.size == 0 && function.start == nearest)
            });
        let function = candidates.max_by_key(|function| (function.start, function.size != 0))?;
        let (start, end) = function.name;
        Some(demangle(&self.names[start..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(functions: &[(u64, u64, &str)]) -> Symbols {
        let mut symbols = Symbols {
            functions: Vec::new(),
            names: Vec::new(),
            debug_info: None,
            go_table: None,
        };
        for &(start, size, name) in functions {
            let from = symbols.names.len();
            symbols.names.extend_from_slice(name.as_bytes());
            symbols.functions.push(Function {
                start,
                size,
                name: (from, symbols.names.len()),
            });
        }
        symbols
    }

    #[test]
    fn an_address_belongs_to_the_function_that_it_is_in() {
        let symbols = symbols(&[(0x10, 0x10, "a"), (0x20, 0, "label"), (0x40, 8, "b")]);
        for (address, name) in [
            (0x0f, None),
            (0x10, Some("a")),
            (0x1f, Some("a")),
            (0x21, Some("label")),
            (0x40, Some("b")),
            (0x48, None),
        ] {
            let places = symbols.resolve(address);
            assert_eq!(places[0].function.as_deref(), name, "{address:#x}");
        }
    }
}
