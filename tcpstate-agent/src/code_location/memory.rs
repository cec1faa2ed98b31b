//! The memory of another process, which goes on running.
//!
//! What is read was written by that process a moment ago or is being written now: it is never
//! believed, only looked at.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// Nobody needs more at once.
const MAX_BYTES: usize = 1 << 20;

/// `/proc/PID/mem`, open. It stays that of the same process: once that has ended, nothing can be
/// read any more, even if another one has its number.
#[derive(Debug)]
pub struct ProcessMemory(File);

/// Somewhere to read bytes by address.
pub trait Memory {
    /// Fills `bytes` from `address` on.
    fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// The eight bytes at `address`, as a number.
    fn word(&self, address: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The four bytes at `address`, as a number.
    fn half(&self, address: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// `length` bytes from `address` on; an error where that is more than a megabyte.
    fn bytes(&self, address: u64, length: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_BYTES)
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; length];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }
}

impl ProcessMemory {
    /// Opens it. Takes CAP_SYS_PTRACE for another user's process.
    pub fn open(pid: u32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/mem")).map(Self)
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, address)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Pieces of memory by their addresses.
    #[derive(Debug, Default)]
    pub(in crate::code_location) struct Pieces(pub(in crate::code_location) BTreeMap<u64, Vec<u8>>);

    impl Memory for Pieces {
        fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
            let (start, piece) = self
                .0
                .range(..=address)
                .next_back()
                .ok_or(io::ErrorKind::InvalidInput)?;
            let from = usize::try_from(address - start).map_err(io::Error::other)?;
            let to = from
                .checked_add(bytes.len())
                .ok_or(io::ErrorKind::InvalidInput)?;
            let found = piece.get(from..to).ok_or(io::ErrorKind::InvalidInput)?;
            bytes.copy_from_slice(found);
            Ok(())
        }
    }

    #[test]
    fn its_own_memory_can_be_read() {
        let number = Box::new(0x1122_3344_5566_7788_u64);
        let memory = ProcessMemory::open(std::process::id()).unwrap();
        let address = std::ptr::from_ref(&*number) as u64;
        assert_eq!(memory.word(address).unwrap(), *number);
        assert_eq!(memory.half(address + 4).unwrap(), 0x1122_3344);
        assert_eq!(memory.bytes(address, 2).unwrap(), [0x88, 0x77]);
    }

    #[test]
    fn what_is_not_there_is_an_error_and_so_is_what_is_too_much() {
        let memory = ProcessMemory::open(std::process::id()).unwrap();
        assert!(memory.word(8).is_err());
        assert!(memory.word(u64::MAX - 3).is_err());
        assert!(memory.bytes(0, u64::MAX).is_err());
        assert!(memory.bytes(0, 1 << 21).is_err());
    }
}
