//! The memory that an interpreted program sees: separate pieces, so that an address that strays out
//! of one is an error and not another piece's contents.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// Pieces by the address at which each begins.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<u64, Vec<u8>>);

impl Memory {
    /// Pieces begin so far from one another; none is as long.
    const APART: u64 = 1 << 32;

    /// Puts a piece of memory behind all others, and tells where.
    pub(super) fn add(&mut self, bytes: Vec<u8>) -> u64 {
        let last = self.0.last_key_value().map_or(0, |(base, _)| *base);
        self.0.insert(last + Self::APART, bytes);
        last + Self::APART
    }

    /// `length` bytes at an address.
    pub(super) fn bytes(&mut self, address: u64, length: usize) -> Result<&mut [u8]> {
        let found = self.0.range_mut(..=address).next_back();
        found
            .and_then(|(base, piece)| {
                let from = usize::try_from(address - base).ok()?;
                piece.get_mut(from..from.checked_add(length)?)
            })
            .with_context(|| format!("{length} bytes at {address:#x} are nobody's"))
    }

    /// The number of so many bytes at an address.
    pub(super) fn load(&mut self, address: u64, length: usize) -> Result<u64> {
        let mut number = [0; 8];
        number[..length].copy_from_slice(self.bytes(address, length)?);
        Ok(u64::from_le_bytes(number))
    }

    /// Writes the lower bytes of a number.
    pub(super) fn store(&mut self, address: u64, length: usize, number: u64) -> Result<()> {
        self.bytes(address, length)?
            .copy_from_slice(&number.to_le_bytes()[..length]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_no_piece_reaches_into_another() -> Result<()> {
        let mut memory = Memory::default();
        let (one, other) = (memory.add(vec![0; 16]), memory.add(vec![0; 16]));
        memory.store(one + 8, 8, 0x1122_3344_5566_7788)?;
        assert_eq!(memory.load(one + 8, 2)?, 0x7788);
        assert_eq!(memory.load(other, 8)?, 0);
        memory.store(one + 15, 1, u64::MAX)?;
        assert_eq!(memory.load(one + 12, 4)?, 0xff22_3344);
        for (address, length) in [(0, 1), (one + 16, 1), (one + 9, 8), (u64::MAX, 8)] {
            assert!(memory.load(address, length).is_err(), "{address:#x}");
        }
        Ok(())
    }
}
