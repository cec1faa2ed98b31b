//! Names of functions as their authors wrote them.

use std::fmt;

/// Longer names are not looked into, and of what comes out no more is kept: a few bytes of a
/// mangled name can stand for gigabytes.
const MAX_NAME: usize = 4096;

/// The name that a symbol stands for; itself where it is not mangled.
pub(super) fn demangle(symbol: &[u8]) -> String {
    let symbol = &symbol[..symbol.len().min(MAX_NAME)];
    if let Ok(text) = std::str::from_utf8(symbol)
        && let Ok(name) = rustc_demangle::try_demangle(text)
    {
        // Without the hash.
        return bounded(|out| fmt::Write::write_fmt(out, format_args!("{name:#}")));
    }
    if symbol.starts_with(b"_Z")
        && let Ok(name) = cpp_demangle::Symbol::new(symbol)
    {
        let options = cpp_demangle::DemangleOptions::new()
            .no_params()
            .no_return_type();
        let text = bounded(|out| {
            name.structured_demangle(out, &options)
                .map_err(|_| fmt::Error)
        });
        if !text.is_empty() {
            return text;
        }
    }
    String::from_utf8_lossy(symbol).into_owned()
}

/// What `write` writes, as far as it fits.
fn bounded(write: impl FnOnce(&mut Bounded) -> fmt::Result) -> String {
    let mut out = Bounded(String::new());
    // It fails where it does not fit. What came before is good.
    let _ = write(&mut out);
    out.0
}

struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_NAME {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_rust_cpp_and_c_read_as_written() {
        for (symbol, name) in [
            ("main", "main"),
            (
                "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE",
                "core::fmt::Write::write_fmt",
            ),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            (
                "_ZN3app7HandlerIiE11handle_leakE4Conn",
                "app::Handler<int>::handle_leak",
            ),
            ("_Znope", "_Znope"),
            ("main.serve", "main.serve"),
        ] {
            assert_eq!(demangle(symbol.as_bytes()), name);
        }
    }

    #[test]
    fn a_name_that_grows_without_end_is_cut() {
        // Each substitution doubles.
        let mut symbol = b"_Z1fSt4pairIS_IiiES_IiiEE".to_vec();
        for _ in 0..2_000 {
            symbol.extend_from_slice(b"S1_");
        }
        assert!(demangle(&symbol).len() <= MAX_NAME);
        assert!(demangle(&vec![b'x'; 100_000]).len() <= MAX_NAME);
    }

    proptest! {
        #[test]
        fn any_symbol_gives_a_bounded_name(symbol in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(demangle(&symbol).len() <= 3 * MAX_NAME);
        }

        #[test]
        fn what_looks_mangled_gives_a_bounded_name(symbol in "_(Z|R)[A-Za-z0-9_]{0,60}") {
            prop_assert!(demangle(symbol.as_bytes()).len() <= MAX_NAME);
        }
    }
}
