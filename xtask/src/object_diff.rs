//! Where two ELF objects begin to differ, in words.

use object::{Object, ObjectSection};

/// The first byte in which `committed` and `built` differ, with the section of `built` that it
/// lies in; `None` where they are the same.
pub(crate) fn first_difference(committed: &[u8], built: &[u8]) -> Option<String> {
    let same = committed
        .iter()
        .zip(built)
        .take_while(|(one, other)| one == other)
        .count();
    if same == committed.len() && same == built.len() {
        return None;
    }
    Some(format!("byte {same:#x} on, in {}", place(built, same)))
}

fn place(elf: &[u8], offset: usize) -> String {
    let Ok(file) = object::File::parse(elf) else {
        return "a file that is no ELF object".to_owned();
    };
    let offset = offset as u64;
    file.sections()
        .find(|section| {
            section
                .file_range()
                .is_some_and(|(start, size)| (start..start + size).contains(&offset))
        })
        .and_then(|section| Some(format!("section {}", section.name().ok()?)))
        .unwrap_or_else(|| "the headers".to_owned())
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn equal_objects_have_no_difference() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
    }

    #[test]
    fn a_truncated_object_differs_where_it_ends() {
        let difference = first_difference(b"abc", b"ab");
        assert_eq!(
            difference.as_deref(),
            Some("byte 0x2 on, in a file that is no ELF object")
        );
    }
}
