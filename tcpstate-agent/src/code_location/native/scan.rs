//! Going on where a library says nothing of its functions: musl has no tables at all.
//!
//! Somewhere above lies the address that a call from code with tables has left. From there the
//! tables lead on. What is not such an address leads nowhere soon, so the longest way is taken.

use super::{
    registers::UserRegisters,
    unwind::{ReadStack, StackUnwinder, Unwound},
};

/// A library's own functions need no more stack than that.
const SCANNED_BYTES: u64 = 4096;
/// Ways that are tried.
const MAX_WAYS: usize = 8;
const WORD: u64 = 8;

/// A place to go on from.
pub(super) trait Code {
    /// Whether `address` is in code that has tables.
    fn has_tables(&self, address: u64) -> bool;
    /// Whether the instruction before `address` is a call.
    fn follows_call(&self, address: u64) -> bool;
}

/// The longest way up from a caller within reach; `None` where there is none.
pub(super) fn scan(
    unwinder: &mut StackUnwinder,
    registers: &UserRegisters,
    read: &mut ReadStack<'_>,
    code: &dyn Code,
) -> Option<Unwound> {
    let mut best: Option<Unwound> = None;
    let mut ways = 0;
    for offset in (0..SCANNED_BYTES).step_by(8) {
        let place = registers.stack.wrapping_add(offset);
        let Some(address) = read(place) else { break };
        if !code.has_tables(address) || !code.follows_call(address) {
            continue;
        }
        let from = registers.at(address - 1, place.wrapping_add(WORD));
        let way = unwinder.unwind(&from, read);
        if best
            .as_ref()
            .is_none_or(|best| way.addresses.len() > best.addresses.len())
        {
            best = Some(way);
        }
        ways += 1;
        if ways == MAX_WAYS {
            break;
        }
    }
    best
}

/// Whether bytes that end where a call would return to are a call.
pub(super) fn is_call(before: [u8; 8]) -> bool {
    if cfg!(target_arch = "x86_64") {
        // E8 and four bytes, or FF /2 with an operand of one to six.
        let direct = before[3] == 0xe8;
        let indirect = (2..=7).any(|length| {
            let at = before.len() - length;
            before[at] == 0xff && (before[at + 1] >> 3) & 7 == 2
        });
        direct || indirect
    } else {
        let word = u32::from_le_bytes([before[4], before[5], before[6], before[7]]);
        // BL, BLR.
        word & 0xfc00_0000 == 0x9400_0000 || word & 0xffff_fc1f == 0xd63f_0000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_are_known_by_their_bytes() {
        for (bytes, expected) in [
            // call rel32
            ([0x90, 0x90, 0x90, 0xe8, 1, 2, 3, 4], true),
            // call rax
            ([0, 0, 0, 0, 0, 0, 0xff, 0xd0], true),
            // call [rip+…]
            ([0, 0, 0xff, 0x15, 1, 2, 3, 4], true),
            // jmp rax
            ([0, 0, 0, 0, 0, 0, 0xff, 0xe0], false),
            ([0x90; 8], false),
        ] {
            assert_eq!(is_call(bytes), expected, "{bytes:x?}");
        }
    }
}
