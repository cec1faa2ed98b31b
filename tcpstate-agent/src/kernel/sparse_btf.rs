//! The kernel's types as the BPF library takes them: those that programs are attached to, and
//! nothing in the places of all others.
//!
//! The library asks them which number a typedef has, and nothing else. Given all types it would
//! keep them parsed meanwhile, in some 20 MiB.

use std::collections::BTreeMap;

use aya::{Btf, BtfError, Endianness};

use crate::decode::btf::TypeId;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
const HEADER: u32 = 24;
const TYPEDEF: u32 = 8 << 24;
const CONST: u32 = 10 << 24;
/// Bytes of a type that has neither members nor values.
const TYPE: usize = 12;

/// Types of which these are typedefs, by their names and numbers.
pub(super) fn of_typedefs(typedefs: &BTreeMap<String, TypeId>) -> Result<Btf, BtfError> {
    let last = typedefs.values().copied().max().unwrap_or(0);
    let mut strings = vec![0];
    let mut names = BTreeMap::new();
    for (name, &id) in typedefs {
        names.insert(id, length(&strings));
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    let mut types = Vec::with_capacity((last as usize).saturating_mul(TYPE));
    for id in 1..=last {
        let (name, kind) = match names.get(&id) {
            Some(&name) => (name, TYPEDEF),
            None => (0, CONST),
        };
        for word in [name, kind, 0] {
            types.extend_from_slice(&word.to_le_bytes());
        }
    }
    let mut bytes = Vec::with_capacity(types.len() + strings.len() + HEADER as usize);
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&[VERSION, 0]);
    for word in [HEADER, 0, length(&types), length(&types), length(&strings)] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.append(&mut types);
    bytes.append(&mut strings);
    Btf::parse(&bytes, Endianness::Little)
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::btf::{self, Kind};

    #[test]
    fn each_typedef_has_the_number_that_it_has_in_the_kernel() {
        let typedefs = [("btf_trace_b".to_owned(), 3), ("btf_trace_a".to_owned(), 7)];
        let bytes = of_typedefs(&BTreeMap::from(typedefs)).unwrap().to_bytes();
        let found = btf::Btf::parse(bytes).unwrap();
        let all: Vec<_> = found.all().map(|found| found.kind).collect();
        assert_eq!(all.len(), 7);
        for (name, id) in [("btf_trace_b", 3), ("btf_trace_a", 7)] {
            let ids = found.named(Kind::Typedef, name).map(|found| found.id);
            assert_eq!(ids.collect::<Vec<_>>(), [id]);
        }
        let typedefs = all.iter().filter(|kind| **kind == Kind::Typedef);
        assert_eq!(typedefs.count(), 2);
    }

    #[test]
    fn none_is_none() {
        assert!(of_typedefs(&BTreeMap::new()).is_ok());
    }
}
