//! `.gnu_debugdata`: the symbols of a stripped file's functions, which some distributions leave in it.
//!
//! It is an ELF file, compressed with xz, with a table of symbols and nothing else.

use std::io::Read as _;

use lzma_rust2::XzReader;
use object::{Object as _, ReadRef};

use super::image::section_bytes;

/// Larger ones are not unpacked: those of the largest programs have some.
const MAX_BYTES: u64 = 64 << 20;
/// What unpacking may use, KiB.
const MEMORY_KIB: u32 = 64 << 10;

/// The file in that section; `None` where there is none, or it makes no sense.
pub(super) fn unpack<'a, R: ReadRef<'a>>(elf: &object::File<'a, R>) -> Option<Vec<u8>> {
    elf.section_by_name(".gnu_debugdata")?;
    let packed = section_bytes(elf, ".gnu_debugdata")?;
    unpack_bytes(&packed)
}

fn unpack_bytes(packed: &[u8]) -> Option<Vec<u8>> {
    let mut unpacked = Vec::new();
    XzReader::new_mem_limit(packed, false, MEMORY_KIB)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut unpacked)
        .ok()?;
    (unpacked.len() as u64 <= MAX_BYTES).then_some(unpacked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `printf %s "what a file is made of" | xz`
    #[rustfmt::skip]
    const PACKED: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00,
        0x21, 0x01, 0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x15, 0x77,
        0x68, 0x61, 0x74, 0x20, 0x61, 0x20, 0x66, 0x69, 0x6c, 0x65, 0x20, 0x69, 0x73, 0x20,
        0x6d, 0x61, 0x64, 0x65, 0x20, 0x6f, 0x66, 0x00, 0x00, 0x00, 0x8a, 0x5b, 0xac, 0x13,
        0xbe, 0xef, 0xe2, 0xca, 0x00, 0x01, 0x2e, 0x16, 0x56, 0x09, 0x55, 0xdf, 0x1f, 0xb6,
        0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
    ];

    #[test]
    fn what_xz_has_packed_is_unpacked() {
        assert_eq!(
            unpack_bytes(PACKED).as_deref(),
            Some(&b"what a file is made of"[..])
        );
        assert_eq!(unpack_bytes(b""), None);
        assert_eq!(unpack_bytes(&PACKED[..PACKED.len() / 2]), None);
    }

    #[test]
    fn more_memory_than_makes_sense_is_not_taken() {
        let mut greedy = PACKED.to_vec();
        // The block's header: its size, flags, the filter and the size of its properties, which are
        // the size of the dictionary: 4 GiB.
        assert_eq!(greedy[14..16], [0x21, 1]);
        greedy[16] = 40;
        let checksum = crc32(&greedy[12..20]);
        greedy[20..24].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(unpack_bytes(&greedy), None);
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_without_harm(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            let mut bytes = PACKED.to_vec();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let _ = unpack_bytes(&bytes);
        }
    }
}
