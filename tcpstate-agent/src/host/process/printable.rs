//! Bytes that a process chose, as text that harms no reader.
//!
//! Any process may call itself `\x1b[2J` with prctl(2), or put a right-to-left override into its
//! arguments. Prometheus would store it and every dashboard and terminal would obey it.
//!
//! The escapes are for readers. They are not reversible, since a backslash stays as it is.

use std::fmt::Write as _;

/// Text for the value of a Prometheus label.
///
/// Valid UTF-8 stays as it is, newline, quote and backslash included: the text format's encoder
/// escapes these three itself. Other control characters, characters that change the direction of
/// the text or cannot be seen, and bytes that are not UTF-8 become `\x1b` or `\u{202e}`.
#[must_use]
pub fn label_text(bytes: &[u8]) -> String {
    escape(bytes, |text, character| match character {
        '\n' => text.push('\n'),
        other => push_escaped(text, other),
    })
}

/// Text for a terminal: what [`label_text`] gives, on one line. Nothing in it moves the cursor. A
/// backslash that would be read as the beginning of an escape for a line break is doubled; others
/// stay, as systemd has them in the names of units.
#[must_use]
pub fn terminal_text(bytes: &[u8]) -> String {
    let mut unambiguous = Vec::with_capacity(bytes.len());
    for (place, byte) in bytes.iter().enumerate() {
        unambiguous.push(*byte);
        if *byte == b'\\' && matches!(bytes.get(place + 1), Some(b'n' | b't' | b'r' | b'\\')) {
            unambiguous.push(b'\\');
        }
    }
    escape(&unambiguous, |text, character| match character {
        '\n' => text.push_str("\\n"),
        '\t' => text.push_str("\\t"),
        '\r' => text.push_str("\\r"),
        other => push_escaped(text, other),
    })
}

/// What comes before the first NUL, which is where C ends a string.
#[must_use]
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn escape(bytes: &[u8], push_unsafe: impl Fn(&mut String, char)) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_unsafe(character) {
                push_unsafe(&mut text, character);
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            push_hexadecimal(&mut text, *byte);
        }
    }
    text
}

/// Whether a character acts on its surroundings instead of being seen.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // Arabic letter mark; zero width; marks, embeddings and isolates of direction; word
            // joiner and invisible operators; the byte order mark.
            '\u{061c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
            // Line and paragraph separator.
            | '\u{2028}'..='\u{2029}'
        )
}

/// One byte as `\x1b`; a character that takes more than one as `\u{0085}`, so that it differs
/// from the byte 0x85, which is not UTF-8.
fn push_escaped(text: &mut String, character: char) {
    if let Ok(byte) = u8::try_from(character)
        && byte.is_ascii()
    {
        push_hexadecimal(text, byte);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\u{{{:04x}}}", u32::from(character));
    }
}

fn push_hexadecimal(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\\x{byte:02x}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_can_be_seen_stays_as_it_is() {
        for text in [
            "",
            "nginx",
            "kworker/0:1",
            "Isolated Web Co",
            "größe",
            "名前 🦀",
        ] {
            assert_eq!(label_text(text.as_bytes()), text);
            assert_eq!(terminal_text(text.as_bytes()), text);
        }
    }

    #[test]
    fn what_the_encoder_escapes_is_left_to_it() {
        let text = "a\nb\"c\\d";
        assert_eq!(label_text(text.as_bytes()), text);
    }

    #[test]
    fn control_characters_are_spelled_out() {
        for (bytes, label, terminal) in [
            (b"\0".as_slice(), r"\x00", r"\x00"),
            (b"\x1b[2J", r"\x1b[2J", r"\x1b[2J"),
            (b"a\tb", r"a\x09b", r"a\tb"),
            (b"a\rb", r"a\x0db", r"a\rb"),
            (b"a\nb", "a\nb", r"a\nb"),
            (b"\x7f", r"\x7f", r"\x7f"),
            ("\u{9b}2J".as_bytes(), r"\u{009b}2J", r"\u{009b}2J"),
        ] {
            assert_eq!(label_text(bytes), label, "{bytes:?}");
            assert_eq!(terminal_text(bytes), terminal, "{bytes:?}");
        }
    }

    #[test]
    fn a_backslash_before_a_letter_is_no_line_break() {
        for (text, expected) in [
            (r"a\nb", r"a\\nb"),
            (r"a\tb", r"a\\tb"),
            (r"a\\nb", r"a\\\\nb"),
            // As systemd spells units.
            (r"dev-disk\x2dby.swap", r"dev-disk\x2dby.swap"),
            (r"a\b", r"a\b"),
        ] {
            assert_eq!(terminal_text(text.as_bytes()), expected);
            assert_ne!(terminal_text(text.as_bytes()), terminal_text(b"a\nb"));
        }
    }

    #[test]
    fn characters_that_mislead_are_spelled_out() {
        for (text, expected) in [
            ("exe\u{202e}gpj", r"exe\u{202e}gpj"),
            ("\u{2066}a\u{2069}", r"\u{2066}a\u{2069}"),
            ("na\u{200b}me", r"na\u{200b}me"),
            ("\u{feff}sshd", r"\u{feff}sshd"),
            ("a\u{2028}b\u{2029}c", r"a\u{2028}b\u{2029}c"),
            ("\u{061c}1", r"\u{061c}1"),
        ] {
            assert_eq!(label_text(text.as_bytes()), expected);
            assert_eq!(terminal_text(text.as_bytes()), expected);
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_spelled_out() {
        for (bytes, expected) in [
            (b"\xff".as_slice(), r"\xff"),
            (b"a\xc3", r"a\xc3"),
            (b"\xe5\x90b", r"\xe5\x90b"),
            // A C1 character as one byte, as in Latin-1.
            (b"\x9b2J", r"\x9b2J"),
            // A surrogate.
            (b"\xed\xa0\x80", r"\xed\xa0\x80"),
        ] {
            assert_eq!(label_text(bytes), expected, "{bytes:?}");
            assert_eq!(terminal_text(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_c_string_ends_at_its_nul() {
        for (bytes, expected) in [
            (b"".as_slice(), b"".as_slice()),
            (b"nginx", b"nginx"),
            (b"nginx\0\0\0", b"nginx"),
            (b"\0nginx", b""),
            (b"a\0b\0", b"a"),
        ] {
            assert_eq!(until_nul(bytes), expected);
        }
    }

    proptest! {
        #[test]
        fn nothing_unsafe_comes_through(bytes: Vec<u8>, text: String) {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                prop_assert!(!terminal_text(bytes).contains(is_unsafe));
                prop_assert!(!label_text(bytes).replace('\n', "").contains(is_unsafe));
            }
        }

        #[test]
        fn text_that_is_safe_already_does_not_change(bytes: Vec<u8>) {
            let label = label_text(&bytes);
            prop_assert_eq!(label_text(label.as_bytes()), label);
        }
    }
}
