//! A copy of a thread's registers and stack, from the kernel side's bytes.

use tcpstate_common::{PYTHON_FRAMES, PythonFrame, SampleHeader, SampleKind};
use thiserror::Error;
use zerocopy::FromBytes as _;

use super::native::UserRegisters;

/// What a thread was doing, and where.
#[derive(Debug)]
pub struct Sample<'a> {
    /// Its name in the sockets' traces.
    pub id: u32,
    /// What it was doing.
    pub kind: SampleKind,
    /// The registers that it had.
    pub registers: UserRegisters,
    /// The frames of Python, the innermost first.
    pub python: Vec<PythonFrame>,
    /// Whether there are more of them.
    pub python_is_cut: bool,
    /// The stack, from its pointer upwards.
    stack: &'a [u8],
}

/// Why bytes are no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SampleError {
    /// Not the length of one.
    #[error("a sample of {0} bytes")]
    Length(usize),
    /// A number that is none of a kind.
    #[error("{0} is no kind of sample")]
    Kind(u32),
}

impl<'a> Sample<'a> {
    /// Reads one; nothing of it is believed without a check.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, SampleError> {
        let (header, stack) =
            SampleHeader::read_from_prefix(bytes).map_err(|_| SampleError::Length(bytes.len()))?;
        let SampleHeader {
            id,
            thread: _,
            kind,
            stack_bytes,
            python_frames,
            python_is_cut,
            registers,
            python,
        } = header;
        let stack = usize::try_from(stack_bytes)
            .ok()
            .and_then(|length| stack.get(..length))
            .ok_or(SampleError::Length(bytes.len()))?;
        let frames = usize::try_from(python_frames).unwrap_or(PYTHON_FRAMES);
        Ok(Self {
            id,
            kind: SampleKind::from_record(kind).ok_or(SampleError::Kind(kind))?,
            registers: UserRegisters::from_kernel(&registers),
            python: python[..frames.min(PYTHON_FRAMES)].to_vec(),
            python_is_cut: python_is_cut != 0,
            stack,
        })
    }

    /// The word of the stack at an address of the process.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u64> {
        let from = usize::try_from(address.checked_sub(self.registers.stack)?).ok()?;
        let bytes = self.stack.get(from..from.checked_add(size_of::<u64>())?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Bytes of the stack.
    #[must_use]
    pub const fn stack_bytes(&self) -> usize {
        self.stack.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcpstate_common::REGISTER_WORDS;
    use zerocopy::IntoBytes as _;

    use super::*;

    fn header() -> SampleHeader {
        SampleHeader {
            id: 7,
            thread: 1,
            kind: SampleKind::ReadEnd as u32,
            stack_bytes: 16,
            python_frames: 1,
            python_is_cut: 1,
            registers: [0x1000; REGISTER_WORDS],
            python: [PythonFrame {
                code: 1,
                instruction: 2,
            }; PYTHON_FRAMES],
        }
    }

    #[test]
    fn a_sample_has_its_registers_its_frames_and_its_stack() {
        let mut bytes = header().as_bytes().to_vec();
        bytes.extend_from_slice(&1_u64.to_le_bytes());
        bytes.extend_from_slice(&2_u64.to_le_bytes());
        // What lies behind the valid part is an older sample's.
        bytes.extend_from_slice(&3_u64.to_le_bytes());
        let sample = Sample::decode(&bytes).unwrap();
        assert_eq!((sample.id, sample.kind), (7, SampleKind::ReadEnd));
        assert_eq!((sample.python.len(), sample.stack_bytes()), (1, 16));
        assert!(sample.python_is_cut);
        assert_eq!(sample.word(0x1000), Some(1));
        assert_eq!(sample.word(0x1008), Some(2));
        assert_eq!(sample.word(0x1009), None);
        assert_eq!(sample.word(0x1010), None);
        assert_eq!(sample.word(0xfff), None);
        assert_eq!(sample.word(u64::MAX), None);
    }

    #[test]
    fn lengths_and_kinds_that_cannot_be_are_refused() {
        let mut wrong = header();
        wrong.stack_bytes = 17;
        let bytes = [wrong.as_bytes(), &[0; 16]].concat();
        let refused = Sample::decode(&bytes).unwrap_err();
        assert_eq!(refused, SampleError::Length(bytes.len()));
        wrong.stack_bytes = 0;
        wrong.kind = 99;
        let refused = Sample::decode(wrong.as_bytes()).unwrap_err();
        assert_eq!(refused, SampleError::Kind(99));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
            address in any::<u64>(),
        ) {
            if let Ok(sample) = Sample::decode(&bytes) {
                let _ = sample.word(address);
            }
        }
    }
}
