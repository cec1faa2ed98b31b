//! Copies of objects of the kernel, as the programs of a pass take them.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the sizes of the buffers are far below 32 bits"
)]

use tcpstate_common::pass::{
    HEAD_BYTES, HEAD_WORDS, MAX_PIECES, NO_KIND, Objects, PIECE_BYTES, PIECE_WORDS, Wanted,
};
use zerocopy::IntoBytes as _;

use crate::kernel::layout::{Bit, Field};

/// A copy of an object, as far as it was copied.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// Where it was: it tells the object from all others that live at the same time.
    pub address: u64,
    head: &'a [u64; HEAD_WORDS],
    pieces: Option<Pieces<'a>>,
}

/// Pieces of an object, and where each of them begins.
#[derive(Clone, Copy, Debug)]
struct Pieces<'a> {
    words: &'a [[u64; PIECE_WORDS]; MAX_PIECES],
    begin: &'a [u32; MAX_PIECES],
}

impl<'a> Object<'a> {
    /// The object with this number of those that a run has met.
    #[must_use]
    pub fn of(objects: &'a Objects, wanted: &'a Wanted, number: usize) -> Option<Self> {
        let kind = *objects.kinds.get(number)?;
        let pieces = (kind != NO_KIND).then_some(()).and_then(|()| {
            Some(Pieces {
                words: objects.pieces.get(number)?,
                begin: wanted.pieces.get(kind as usize)?,
            })
        });
        Some(Self {
            address: *objects.addresses.get(number)?,
            head: objects.heads.get(number)?,
            pieces,
        })
    }

    /// The bytes of a field; `None` where they were not copied.
    #[inline]
    fn bytes(&self, field: Field) -> Option<&'a [u8]> {
        let (begin, size) = (field.offset as usize, field.size as usize);
        if begin + size <= HEAD_BYTES {
            return self.head.as_bytes().get(begin..begin + size);
        }
        let pieces = self.pieces?;
        let place = pieces.begin.iter().position(|piece| {
            let piece = *piece as usize;
            piece != 0 && (piece..=piece + PIECE_BYTES - size.min(PIECE_BYTES)).contains(&begin)
        })?;
        let begin = begin - pieces.begin[place] as usize;
        pieces.words[place].as_bytes().get(begin..begin + size)
    }

    /// A number of at most eight bytes.
    #[inline]
    #[must_use]
    pub fn number(&self, field: Field) -> Option<u64> {
        let (begin, size) = (field.offset as usize, field.size as usize);
        // What is asked of every object is near its beginning: a whole word can be taken there.
        if (1..=8).contains(&size)
            && let Some(word) = self.head.as_bytes().get(begin..)
            && let Some(word) = word.first_chunk()
        {
            return Some(u64::from_le_bytes(*word) & u64::MAX >> (64 - 8 * size));
        }
        let bytes = self.bytes(field)?;
        let mut number = [0; 8];
        number.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(number))
    }

    /// A number, 0 where it was not copied.
    #[inline]
    #[must_use]
    pub fn number_or_zero(&self, field: Field) -> u64 {
        self.number(field).unwrap_or(0)
    }

    /// The lower four bytes of it.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "that is what it says")]
    pub fn number32(&self, field: Field) -> u32 {
        self.number_or_zero(field) as u32
    }

    /// The lower two bytes of it.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "that is what it says")]
    pub fn number16(&self, field: Field) -> u16 {
        self.number_or_zero(field) as u16
    }

    /// The lowest byte of it.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "that is what it says")]
    pub fn number8(&self, field: Field) -> u8 {
        self.number_or_zero(field) as u8
    }

    /// Whether a bit is set.
    #[must_use]
    pub fn is_set(&self, bit: Bit) -> bool {
        self.number_or_zero(bit.byte) >> bit.number & 1 != 0
    }

    /// The bytes of an array, zeros where it was not copied.
    #[must_use]
    pub fn array<const SIZE: usize>(&self, field: Field) -> [u8; SIZE] {
        self.bytes(field)
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or([0; SIZE])
    }
}

/// Where the pieces of an object have to begin for these fields to be in them. Those that the head
/// has need none. `None` where there are more than can be taken.
#[must_use]
pub fn pieces(fields: &[Field]) -> Option<[u32; MAX_PIECES]> {
    let begins = begins(fields, HEAD_BYTES);
    let mut pieces = [0; MAX_PIECES];
    pieces.get_mut(..begins.len())?.copy_from_slice(&begins);
    Some(pieces)
}

/// Where pieces have to begin for these fields to be in them, but for those that end within the
/// first `head` bytes: each a cache line of the object, as long as no field goes over its end.
#[must_use]
pub fn begins(fields: &[Field], head: usize) -> Vec<u32> {
    const PIECE: u32 = PIECE_BYTES as u32;
    let mut begins: Vec<u32> = Vec::new();
    let behind = fields.iter().copied();
    let mut behind: Vec<Field> = behind
        .filter(|field| (field.offset + field.size) as usize > head)
        .collect();
    behind.sort_unstable_by_key(|field| field.offset);
    for field in behind {
        let (begin, end) = (field.offset, field.offset + field.size);
        if begins
            .iter()
            .any(|&piece| piece <= begin && end <= piece + PIECE)
        {
            continue;
        }
        let line = begin / PIECE * PIECE;
        begins.push(if end <= line + PIECE {
            line
        } else {
            begin / 8 * 8
        });
    }
    begins
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromBytes as _, IntoBytes as _};

    use super::*;

    fn field(offset: u32, size: u32) -> Field {
        Field { offset, size }
    }

    #[test]
    fn each_field_lies_within_a_piece_and_those_of_a_line_share_one() {
        let fields = [
            field(16, 4),
            field(1412, 4),
            field(1408, 4),
            field(1470, 4),
            field(700, 16),
        ];
        let found = pieces(&fields).unwrap();
        // 700..716 goes over the end of a line, and so does 1470..1474.
        assert_eq!(found[..4], [696, 1408, 1464, 0]);
        assert_eq!(pieces(&[field(0, 128)]).unwrap(), [0; MAX_PIECES]);
        let many: Vec<_> = (10..20).map(|line| field(line * 64, 4)).collect();
        assert_eq!(pieces(&many), None);
    }

    #[test]
    fn a_field_is_read_from_head_or_piece_and_is_missing_where_it_was_not_copied() {
        let mut words = vec![0_u64; size_of::<Objects>() / 8];
        let objects = Objects::mut_from_bytes(words.as_mut_bytes()).unwrap();
        let mut wanted = Wanted::default();
        wanted.pieces[1][0] = 1408;
        objects.addresses[3] = 77;
        objects.kinds[3] = 1;
        objects.heads[3][2] = 0x0102_0304_0506_0708;
        objects.pieces[3][0][1] = 0x1112_1314_1516_1718;
        let object = Object::of(objects, &wanted, 3).unwrap();
        assert_eq!(object.address, 77);
        assert_eq!(object.number32(field(20, 4)), 0x0102_0304);
        assert_eq!(object.number16(field(1418, 2)), 0x1516);
        assert_eq!(object.number(field(1472, 4)), None);
        assert_eq!(object.number(field(124, 8)), None);
        let bit = |number| Bit {
            byte: field(16, 1),
            number,
        };
        assert!(object.is_set(bit(3)));
        assert!(!object.is_set(bit(0)));
        objects.kinds[3] = NO_KIND;
        let object = Object::of(objects, &wanted, 3).unwrap();
        assert_eq!(object.number(field(1418, 2)), None);
        assert_eq!(object.array::<16>(field(1400, 16)), [0; 16]);
        assert!(Object::of(objects, &wanted, 5000).is_none());
    }
}
