//! Whether the parts of an ELF file are of sizes that make sense, found out before any of them is
//! read: a file with a hole may say that it has a terabyte of symbols, and has.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::image::MAX_SECTION_BYTES;

const PT_LOAD: u32 = 1;
const SHT_NOBITS: u32 = 8;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

/// Fails where a part that may be read as a whole is too large, and where the file is not one for
/// 64-bit CPUs of this byte order.
pub(super) fn check(file: &File) -> io::Result<()> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err(invalid("no 64-bit ELF file of this CPU"));
    }
    let segments = table(
        file,
        word(&header, 32),
        half(&header, 54),
        half(&header, 56),
        PROGRAM_HEADER,
    )?;
    for segment in segments.chunks_exact(PROGRAM_HEADER) {
        if double(segment, 0) != PT_LOAD {
            check_size(word(segment, 32))?;
        }
    }
    let sections = table(
        file,
        word(&header, 40),
        half(&header, 58),
        half(&header, 60),
        SECTION_HEADER,
    )?;
    for section in sections.chunks_exact(SECTION_HEADER) {
        if double(section, 4) != SHT_NOBITS {
            check_size(word(section, 32))?;
        }
    }
    Ok(())
}

/// The headers that begin at `offset`.
fn table(file: &File, offset: u64, size: u16, count: u16, expected: usize) -> io::Result<Vec<u8>> {
    if offset == 0 {
        return Ok(Vec::new());
    }
    // With 0 the number would be in the first header, and is beyond what a real file has.
    if count == 0 || usize::from(size) != expected {
        return Err(invalid("headers of a strange size or number"));
    }
    let mut bytes = vec![0; usize::from(count) * expected];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn check_size(size: u64) -> io::Result<()> {
    if size > MAX_SECTION_BYTES {
        return Err(invalid("a part of it is too large"));
    }
    Ok(())
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn double(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from(double(bytes, at)) | u64::from(double(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn own() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_program_has_parts_that_can_be_read_and_what_is_none_has_not() {
        assert!(check(&file(&own())).is_ok());
        assert!(check(&file(b"")).is_err());
        assert!(check(&file(&own()[..100])).is_err());
    }

    #[test]
    fn a_section_that_lies_in_a_hole_of_the_file_is_refused_before_it_is_read() {
        let mut bytes = own();
        let sections = usize::try_from(word(&bytes, 40)).unwrap();
        // The first one after the empty one.
        let size = sections + SECTION_HEADER + 32;
        bytes[size..size + 8].copy_from_slice(&(1_u64 << 39).to_le_bytes());
        let sparse = file(&bytes);
        sparse.set_len(1 << 40).unwrap();
        let error = check(&sparse).unwrap_err();
        assert_eq!(error.to_string(), "a part of it is too large");
        assert!(super::super::image::Image::read(sparse).is_err());
    }
}
