//! The kernel's type information, in the [BTF format], read where it lies.
//!
//! Nothing is copied but where each type begins and which names there are: some 2 MiB for a kernel
//! with 150,000 types. Whatever the bytes, questions end, since types may refer to themselves.
//!
//! [BTF format]: https://docs.kernel.org/bpf/btf.html

use std::hash::BuildHasher as _;

use rustc_hash::FxBuildHasher;
use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
/// Of the header, whose length it says itself.
const LENGTH_FIELD: usize = 4;
/// What every type begins with.
const COMMON: usize = 12;
/// `MAX_RESOLVE_DEPTH` of the kernel: a longer chain of typedefs is no type.
const MAX_CHAIN: usize = 32;

/// Why bytes are no type information.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BtfError {
    /// The header is none, or says that sections are where no bytes are.
    #[error("it does not begin as BTF does")]
    Header,
    /// A type of a kind that is not known here, so that nobody knows where the next one begins.
    #[error("type {id} is of the unknown kind {kind}")]
    Kind {
        /// Its number.
        id: u32,
        /// The number of its kind.
        kind: u8,
    },
    /// The section ends within a type.
    #[error("type {0} is cut off")]
    Cut(u32),
}

/// What a type is. Those that no question is about are [`Kind::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Int,
    /// A pointer.
    Pointer,
    /// So many of another.
    Array,
    /// Members one after the other.
    Struct,
    /// Members in the same place.
    Union,
    /// Named numbers of at most 32 bits.
    Enum,
    /// Another name of a type.
    Typedef,
    /// `const`, `volatile`, `restrict`, or a tag.
    Qualifier,
    /// A function; its type has the parameters.
    Function,
    /// What a function takes and returns.
    Prototype,
    /// None of these.
    Other,
}

/// A number, by which types refer to each other; 0 is `void`.
pub type TypeId = u32;

/// The types.
#[derive(Debug)]
pub struct Btf<B> {
    bytes: B,
    /// Where the strings begin and end.
    strings: (usize, usize),
    /// Where each type begins, from type 1 on.
    starts: Vec<u32>,
    /// Hashes of the names that types have, and those types, in order.
    names: Vec<(u32, TypeId)>,
}

/// One type.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    /// Its number.
    pub id: TypeId,
    /// What it is.
    pub kind: Kind,
    name: u32,
    /// Offsets of members are in the lower 24 bits, above them the sizes of bit fields.
    has_bit_fields: bool,
    /// The size in bytes, or the type that it refers to.
    size_or_target: u32,
    /// How many members, values or parameters it has.
    pub count: usize,
    /// What is behind the common part.
    rest: &'a [u8],
}

/// A member of a struct or a union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    name: u32,
    /// Its type.
    pub of: TypeId,
    /// Where it begins, in bits.
    pub bit_offset: u32,
    /// Whether it is one of several in a number.
    pub is_bit_field: bool,
}

impl<B: AsRef<[u8]>> Btf<B> {
    /// Finds the types in `bytes`.
    pub fn parse(bytes: B) -> Result<Self, BtfError> {
        let all = bytes.as_ref();
        let header = |at: usize| word(all, at).and_then(|word| usize::try_from(word).ok());
        let is_magic = all.first_chunk::<2>() == Some(&MAGIC.to_le_bytes());
        let section = |at: usize| {
            let begin = header(LENGTH_FIELD)?.checked_add(header(at)?)?;
            let end = begin.checked_add(header(at + 4)?)?;
            (end <= all.len()).then_some((begin, end))
        };
        let (Some(types), Some(strings), true) = (section(8), section(16), is_magic) else {
            return Err(BtfError::Header);
        };
        // Offsets are kept in 32 bits.
        if u32::try_from(types.1).is_err() {
            return Err(BtfError::Header);
        }
        let starts = starts(all, types)?;
        let mut found = Self {
            bytes,
            strings,
            starts,
            names: Vec::new(),
        };
        found.names = found.hashes();
        Ok(found)
    }

    /// The type with this number.
    pub fn get(&self, id: TypeId) -> Option<Type<'_>> {
        let place = usize::try_from(id.checked_sub(1)?).ok()?;
        let start = usize::try_from(*self.starts.get(place)?).ok()?;
        let all = self.bytes.as_ref();
        let info = word(all, start + 4)?;
        let (count, kind) = count_and_kind(info);
        let length = rest(kind, count)?;
        Some(Type {
            id,
            kind: Kind::of(kind),
            name: word(all, start)?,
            has_bit_fields: info >> 31 != 0,
            size_or_target: word(all, start + 8)?,
            count,
            rest: all.get(start + COMMON..start + COMMON + length)?,
        })
    }

    /// All of them, in order.
    pub fn all(&self) -> impl Iterator<Item = Type<'_>> {
        (1..).map_while(|id| self.get(id))
    }

    /// Those of this kind and name, in order.
    pub fn named(&self, kind: Kind, name: &str) -> impl Iterator<Item = Type<'_>> {
        let hash = hash(name.as_bytes());
        let from = self.names.partition_point(|(other, _)| *other < hash);
        self.names[from..]
            .iter()
            .take_while(move |(other, _)| *other == hash)
            .filter_map(|&(_, id)| self.get(id))
            .filter(move |found| found.kind == kind && self.name_of(found) == name.as_bytes())
    }

    /// The name of a type; empty where it has none.
    pub fn name_of(&self, of: &Type<'_>) -> &[u8] {
        self.string(of.name)
    }

    /// The name of a member; empty where it has none.
    pub fn name_of_member(&self, of: &Member) -> &[u8] {
        self.string(of.name)
    }

    /// The named values of an enum, in the order in which they are written.
    pub fn values<'a>(&'a self, of: &Type<'a>) -> impl Iterator<Item = (&'a [u8], u32)> {
        let rest = if of.kind == Kind::Enum { of.rest } else { &[] };
        let values = rest.as_chunks::<8>().0.iter();
        values.filter_map(|value| Some((self.string(word(value, 0)?), word(value, 4)?)))
    }

    /// The type that `id` is another name of, without qualifiers.
    pub fn bare(&self, id: TypeId) -> Option<Type<'_>> {
        let mut found = self.get(id)?;
        for _ in 0..MAX_CHAIN {
            match found.kind {
                Kind::Typedef | Kind::Qualifier => found = self.get(found.size_or_target)?,
                _ => return Some(found),
            }
        }
        None
    }

    /// Size in bytes of a type of data. `None` for what has none.
    pub fn size(&self, of: &Type<'_>) -> Option<u32> {
        let mut factor = 1_u32;
        let mut of = *of;
        for _ in 0..MAX_CHAIN {
            let size = match of.kind {
                Kind::Int | Kind::Struct | Kind::Union | Kind::Enum => of.size_or_target,
                Kind::Pointer => 8,
                Kind::Array => {
                    factor = factor.checked_mul(word(of.rest, 8)?)?;
                    of = self.bare(word(of.rest, 0)?)?;
                    continue;
                }
                _ => return None,
            };
            return factor.checked_mul(size);
        }
        None
    }

    /// The string at this place; empty where none is.
    fn string(&self, at: u32) -> &[u8] {
        let (begin, end) = self.strings;
        let strings = self.bytes.as_ref().get(begin..end).unwrap_or_default();
        let from = usize::try_from(at).ok().and_then(|at| strings.get(at..));
        let from = from.unwrap_or_default();
        let length = from.iter().position(|&byte| byte == 0).unwrap_or(0);
        &from[..length]
    }

    fn hashes(&self) -> Vec<(u32, TypeId)> {
        let is_asked_for = |found: &Type<'_>| {
            found.name != 0
                && matches!(
                    found.kind,
                    Kind::Struct | Kind::Enum | Kind::Typedef | Kind::Function
                )
        };
        let mut names = Vec::with_capacity(self.starts.len());
        for found in self.all().filter(is_asked_for) {
            names.push((hash(self.name_of(&found)), found.id));
        }
        names.sort_unstable();
        names
    }
}

impl<'a> Type<'a> {
    /// The members of a struct or a union.
    pub fn members(self) -> impl Iterator<Item = Member> + 'a {
        let has_members = matches!(self.kind, Kind::Struct | Kind::Union);
        let rest = if has_members { self.rest } else { &[] };
        rest.as_chunks::<12>().0.iter().filter_map(move |member| {
            let offset = word(member, 8)?;
            let (bits, bit_offset) = if self.has_bit_fields {
                (offset >> 24, offset & 0x00ff_ffff)
            } else {
                (0, offset)
            };
            Some(Member {
                name: word(member, 0)?,
                of: word(member, 4)?,
                bit_offset,
                is_bit_field: bits != 0,
            })
        })
    }

    /// The type that a pointer, a typedef, a qualifier or a function leads to.
    #[must_use]
    pub fn leads_to(self) -> Option<TypeId> {
        matches!(
            self.kind,
            Kind::Pointer | Kind::Typedef | Kind::Qualifier | Kind::Function
        )
        .then_some(self.size_or_target)
    }
}

impl Kind {
    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Int,
            2 => Self::Pointer,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            8 => Self::Typedef,
            9..=11 | 18 => Self::Qualifier,
            12 => Self::Function,
            13 => Self::Prototype,
            _ => Self::Other,
        }
    }
}

/// How long a type of this kind is behind its common part. `None` where the kind is not known.
fn rest(kind: u8, count: usize) -> Option<usize> {
    Some(match kind {
        // int, variable, declaration tag
        1 | 14 | 17 => 4,
        // pointer, forward, typedef, qualifiers, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        // array
        3 => 12,
        // struct, union, section, enum of 64 bits
        4 | 5 | 15 | 19 => count * 12,
        // enum, prototype
        6 | 13 => count * 8,
        _ => return None,
    })
}

fn starts(all: &[u8], (begin, end): (usize, usize)) -> Result<Vec<u32>, BtfError> {
    let mut starts = Vec::new();
    let mut at = begin;
    while at < end {
        let id = u32::try_from(starts.len() + 1).unwrap_or(u32::MAX);
        let cut = BtfError::Cut(id);
        let (count, kind) = count_and_kind(word(&all[..end], at + 4).ok_or(cut)?);
        let rest = rest(kind, count).ok_or(BtfError::Kind { id, kind })?;
        let next = at + COMMON + rest;
        if next > end {
            return Err(cut);
        }
        starts.push(u32::try_from(at).map_err(|_| cut)?);
        at = next;
    }
    Ok(starts)
}

/// How many members a type has, and the number of its kind.
fn count_and_kind(info: u32) -> (usize, u8) {
    let [low, high, _, kind] = info.to_le_bytes();
    (usize::from(u16::from_le_bytes([low, high])), kind & 0x1f)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

fn hash(name: &[u8]) -> u32 {
    let hash = FxBuildHasher.hash_one(name);
    u32::try_from(hash >> 32).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Types written one by one.
    pub(crate) struct Written {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Written {
        pub(crate) fn new() -> Self {
            Self {
                types: Vec::new(),
                strings: vec![0],
            }
        }

        fn string(&mut self, text: &str) -> u32 {
            if text.is_empty() {
                return 0;
            }
            let at = u32::try_from(self.strings.len()).unwrap();
            self.strings.extend_from_slice(text.as_bytes());
            self.strings.push(0);
            at
        }

        fn words(&mut self, words: &[u32]) {
            for word in words {
                self.types.extend_from_slice(&word.to_le_bytes());
            }
        }

        /// A type without members.
        pub(crate) fn add(&mut self, kind: u32, name: &str, size_or_target: u32, rest: &[u32]) {
            let name = self.string(name);
            self.words(&[name, kind << 24, size_or_target]);
            self.words(rest);
        }

        /// A struct (4) or a union (5): names, types and offsets of its members, with the sizes of
        /// bit fields in the upper eight bits.
        pub(crate) fn structure(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) {
            let name = self.string(name);
            let count = u32::try_from(members.len()).unwrap();
            self.words(&[name, 1 << 31 | kind << 24 | count, 64]);
            for (name, of, offset) in members {
                let name = self.string(name);
                self.words(&[name, *of, *offset]);
            }
        }

        pub(crate) fn bytes(&self) -> Vec<u8> {
            let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
            let (types, strings) = (length(&self.types), length(&self.strings));
            let mut bytes = vec![0x9f, 0xeb, 1, 0];
            for word in [24, 0, types, types, strings] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            [bytes, self.types.clone(), self.strings.clone()].concat()
        }
    }

    fn some() -> Vec<u8> {
        let mut written = Written::new();
        written.add(1, "int", 4, &[32]);
        written.add(8, "u32", 3, &[]);
        written.add(10, "", 1, &[]);
        written.add(3, "", 0, &[2, 1, 6]);
        written.structure(
            4,
            "s",
            &[("a", 1, 0), ("flag", 1, 1 << 24 | 0x25), ("of", 4, 64)],
        );
        written.add(8, "around", 6, &[]);
        written.bytes()
    }

    #[test]
    fn types_are_found_by_name_and_by_number() {
        let btf = Btf::parse(some()).unwrap();
        assert_eq!(btf.all().count(), 6);
        assert!(btf.get(0).is_none() && btf.get(7).is_none());
        let found: Vec<_> = btf.named(Kind::Typedef, "u32").collect();
        assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [2]);
        assert_eq!(btf.named(Kind::Struct, "u32").count(), 0);
        let structure = btf.named(Kind::Struct, "s").next().unwrap();
        let members: Vec<_> = structure.members().collect();
        assert_eq!(btf.name_of_member(&members[1]), b"flag");
        assert!(members[1].is_bit_field && members[1].bit_offset == 37);
        assert!(!members[2].is_bit_field && members[2].bit_offset == 64);
        // Behind a typedef and a qualifier, six times.
        assert_eq!(btf.size(&btf.get(4).unwrap()), Some(24));
    }

    #[test]
    fn a_type_that_stands_for_itself_is_none() {
        let btf = Btf::parse(some()).unwrap();
        assert!(btf.bare(6).is_none());
        assert_eq!(btf.bare(2).unwrap().id, 1);
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        let whole = some();
        assert_eq!(Btf::parse(&whole[..20]).unwrap_err(), BtfError::Header);
        assert_eq!(Btf::parse(&[0; 24][..]).unwrap_err(), BtfError::Header);
        let mut unknown = Written::new();
        unknown.add(31, "", 0, &[]);
        let error = Btf::parse(unknown.bytes()).unwrap_err();
        assert_eq!(error, BtfError::Kind { id: 1, kind: 31 });
        let mut cut = Written::new();
        cut.add(1, "int", 4, &[]);
        assert_eq!(Btf::parse(cut.bytes()).unwrap_err(), BtfError::Cut(1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(at in 0..200_usize, with: [u8; 4]) {
            let mut bytes = some();
            let length = bytes.len();
            for (place, byte) in (at..length).zip(with) {
                bytes[place] = byte;
            }
            if let Ok(btf) = Btf::parse(bytes) {
                for found in btf.all() {
                    let _ = (btf.name_of(&found), btf.size(&found), btf.bare(found.id));
                    let _ = (found.members().count(), btf.values(&found).count());
                }
            }
        }
    }
}
