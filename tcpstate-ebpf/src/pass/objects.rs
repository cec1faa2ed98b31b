//! Taking copies of objects.

use tcpstate_common::pass::{
    HEAD_BYTES, MAX_KINDS, MAX_OBJECTS, MAX_PIECES, NO_KIND, Objects, PIECE_BYTES, Wanted,
};

use crate::memory::copy;

/// Takes the beginning of an object. Where, if it can be read and there is room.
#[inline(always)]
pub(crate) fn take_head(objects: &mut Objects, address: u64) -> Option<usize> {
    let number = objects.count as usize;
    if number >= MAX_OBJECTS {
        return None;
    }
    // SAFETY: a head has room for so many bytes.
    unsafe {
        copy(
            objects.heads[number].as_mut_ptr(),
            HEAD_BYTES as u32,
            address,
        )
    }
    .then_some(number)
}

/// Counts in an object whose beginning was taken, and takes the pieces that are wanted of it.
#[inline(always)]
pub(crate) fn keep(objects: &mut Objects, wanted: &Wanted, number: usize, address: u64) {
    let number = number & (MAX_OBJECTS - 1);
    let state = byte(&objects.heads[number], wanted.state) & 31;
    let mut found = NO_KIND;
    for kind in 0..MAX_KINDS {
        if wanted.states[kind] >> state & 1 == 0 {
            continue;
        }
        for piece in 0..MAX_PIECES {
            let offset = wanted.pieces[kind][piece];
            if offset != 0 {
                let to = objects.pieces[number][piece].as_mut_ptr();
                // SAFETY: a piece has room for so many bytes. One that cannot be read is zeros.
                unsafe { copy(to, PIECE_BYTES as u32, address + u64::from(offset)) };
            }
        }
        found = kind as u32;
        break;
    }
    objects.addresses[number] = address;
    objects.kinds[number] = found;
    objects.count = number as u32 + 1;
}

/// The word that lies so many bytes into a head, a multiple of 8.
#[inline(always)]
pub(crate) fn word(head: &[u64], offset: u32) -> u64 {
    let place = offset as usize & (HEAD_BYTES - 8);
    // SAFETY: it is within the head.
    let word = unsafe { head.as_ptr().byte_add(place) };
    // SAFETY: it is aligned.
    unsafe { word.read_volatile() }
}

/// The half word there, a multiple of 4.
#[inline(always)]
pub(crate) fn half(head: &[u64], offset: u32) -> u32 {
    let place = offset as usize & (HEAD_BYTES - 4);
    // SAFETY: it is within the head.
    let half = unsafe { head.as_ptr().cast::<u32>().byte_add(place) };
    // SAFETY: it is aligned.
    unsafe { half.read_volatile() }
}

/// The byte there.
#[inline(always)]
pub(crate) fn byte(head: &[u64], offset: u32) -> u8 {
    let place = offset as usize & (HEAD_BYTES - 1);
    // SAFETY: it is within the head.
    let byte = unsafe { head.as_ptr().cast::<u8>().byte_add(place) };
    // SAFETY: a byte is always aligned.
    unsafe { byte.read_volatile() }
}
