//! From registers and a stack to the addresses of the functions that called each other.
//!
//! The stack and the tables are the watched process's to choose. Whatever they are, this ends, with
//! at most [`MAX_FRAMES`] addresses.

use framehop::{
    CacheNative, Error, MayAllocateDuringUnwind, Module, Unwinder as _, UnwinderNative,
};

use tcpstate_common::LONG_STACK;

use super::{image::Bytes, registers::UserRegisters};

/// Deeper stacks are cut.
const MAX_FRAMES: usize = 256;

/// What lies farther up is in no copy.
const LONGEST_COPY: u64 = LONG_STACK as u64;

/// Stacks of threads are 8 MiB as a rule.
const MAX_STACK: u64 = 8 << 20;

/// Reads a word of the stack.
pub(super) type ReadStack<'a> = dyn FnMut(u64) -> Option<u64> + 'a;

/// Functions that called each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unwound {
    /// Addresses within the instructions that called, the innermost first; never empty.
    pub addresses: Vec<u64>,
    /// Why it ends there.
    pub end: StackEnd,
}

/// Why a stack ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackEnd {
    /// It is where the thread began.
    Start,
    /// More of the stack is needed, which a longer copy would have.
    CutOff,
    /// The next function's part of the stack is farther away than any copy goes.
    OutOfReach,
    /// Nothing tells how to go on.
    Lost,
}

/// Unwinds the stacks of one process.
pub(super) struct StackUnwinder {
    unwinder: UnwinderNative<Bytes, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl StackUnwinder {
    pub(super) fn new() -> Self {
        Self {
            unwinder: UnwinderNative::new(),
            cache: CacheNative::new(),
        }
    }

    pub(super) fn add(&mut self, module: Module<Bytes>) {
        self.unwinder.add_module(module);
    }

    pub(super) fn remove(&mut self, start: u64) {
        self.unwinder.remove_module(start);
    }

    pub(super) fn unwind(
        &mut self,
        registers: &UserRegisters,
        read: &mut ReadStack<'_>,
    ) -> Unwound {
        let mut read = |address| read(address).ok_or(());
        let mut frames = self.unwinder.iter_frames(
            registers.instruction,
            registers.all,
            &mut self.cache,
            &mut read,
        );
        let mut addresses = Vec::new();
        let end = loop {
            match frames.next() {
                Ok(Some(frame)) => {
                    addresses.push(frame.address_for_lookup());
                    if addresses.len() == MAX_FRAMES {
                        break StackEnd::Lost;
                    }
                }
                Ok(None) | Err(Error::ReturnAddressIsNull) => break StackEnd::Start,
                Err(Error::CouldNotReadStack(address)) => {
                    break match address.wrapping_sub(registers.stack) {
                        ..LONGEST_COPY => StackEnd::CutOff,
                        LONGEST_COPY..MAX_STACK => StackEnd::OutOfReach,
                        // No stack, but what a register held that was none of a frame.
                        MAX_STACK.. => StackEnd::Lost,
                    };
                }
                Err(_) => break StackEnd::Lost,
            }
        };
        if addresses.is_empty() {
            addresses.push(registers.instruction);
        }
        Unwound { addresses, end }
    }
}

/// For the fuzzer: unwinds in a program whose tables, registers and stack anybody may have made.
#[cfg(feature = "fuzzing")]
#[must_use]
pub fn unwind_by(
    tables: &[u8],
    words: &[u64; tcpstate_common::REGISTER_WORDS],
    stack: &[u8],
) -> Unwound {
    use framehop::ExplicitModuleSectionInfo;
    /// Where the program is, and where in it the tables are.
    const PROGRAM: u64 = 0x40_0000;
    const TABLES: u64 = 0x1_0000;
    let registers = UserRegisters::from_kernel(words);
    let mut unwinder = StackUnwinder::new();
    let sections = ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: Some(0..TABLES),
        eh_frame_svma: Some(TABLES..TABLES + tables.len() as u64),
        eh_frame: Some(Bytes::from(tables)),
        ..ExplicitModuleSectionInfo::default()
    };
    let end = PROGRAM + TABLES + tables.len() as u64;
    unwinder.add(Module::new(String::new(), PROGRAM..end, PROGRAM, sections));
    unwinder.unwind(&registers, &mut |address| {
        let from = usize::try_from(address.checked_sub(registers.stack)?).ok()?;
        let word = stack.get(from..)?.first_chunk()?;
        Some(u64::from_le_bytes(*word))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcpstate_common::REGISTER_WORDS;

    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_longer_copy_is_wanted_only_where_it_would_have_what_is_missing() {
        const STACK: u64 = 0x7000_0000_0000;
        for (distance, end) in [
            (20_000, StackEnd::CutOff),
            (100_000, StackEnd::OutOfReach),
            (1 << 40, StackEnd::Lost),
        ] {
            let mut registers = [STACK; REGISTER_WORDS];
            // The frame pointer.
            registers[4] = STACK + distance;
            let registers = UserRegisters::from_kernel(&registers);
            let found = StackUnwinder::new().unwind(&registers, &mut |_| None);
            assert_eq!(found.end, end, "{distance}");
        }
    }

    proptest! {
        #[test]
        fn any_registers_and_any_stack_end(
            words in proptest::array::uniform32(any::<u64>()),
            stack in proptest::collection::vec(any::<u64>(), 0..64),
        ) {
            let mut registers = [0; REGISTER_WORDS];
            registers[..32].copy_from_slice(&words);
            let registers = UserRegisters::from_kernel(&registers);
            let mut read = |address: u64| {
                let word = address.wrapping_sub(registers.stack) / 8;
                stack.get(usize::try_from(word).ok()?).copied()
            };
            let found = StackUnwinder::new().unwind(&registers, &mut read);
            prop_assert!((1..=MAX_FRAMES).contains(&found.addresses.len()));
        }

        #[test]
        fn a_chain_of_frame_pointers_that_goes_in_circles_ends(seed in any::<[u64; 16]>()) {
            let base = 0x7000_0000_0000_u64;
            let mut registers = [0; REGISTER_WORDS];
            // Every register that could be a frame pointer or a stack pointer.
            registers.fill(base);
            let registers = UserRegisters::from_kernel(&registers);
            let mut read = |address: u64| {
                let word = seed[usize::try_from(address / 8 % 16).ok()?];
                Some(base + word % 128)
            };
            let found = StackUnwinder::new().unwind(&registers, &mut read);
            prop_assert!(found.addresses.len() <= MAX_FRAMES);
        }
    }
}
