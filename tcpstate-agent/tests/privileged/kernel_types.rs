//! The reader of the kernel's types beside another one, over all types of this kernel.

use std::fs;

use btf_rs::{BtfType, Type};
use tcpstate_agent::{
    decode::btf::{Btf, Kind},
    kernel::kernel_btf::KERNEL_BTF,
};

/// Name, offset in bits, and whether it is a bit field.
type Members = Vec<(String, u32, bool)>;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_type_of_this_kernel_is_read_as_another_reader_reads_it() {
    let bytes = fs::read(KERNEL_BTF).unwrap();
    let other = btf_rs::Btf::from_bytes(&bytes).unwrap();
    let own = Btf::parse(&bytes[..]).unwrap();
    let name = |of: &dyn BtfType| other.resolve_name(of).unwrap_or_default();
    let mut last = 0;
    for found in own.all() {
        last = found.id;
        let theirs = other.resolve_type_by_id(found.id).unwrap();
        let (kind, called, size) = match &theirs {
            Type::Int(of) => (Kind::Int, name(of), Some(of.size())),
            Type::Ptr(_) => (Kind::Pointer, String::new(), Some(8)),
            Type::Array(_) => (Kind::Array, String::new(), None),
            Type::Struct(of) => (Kind::Struct, name(of), Some(of.size())),
            Type::Union(of) => (Kind::Union, name(of), Some(of.size())),
            Type::Enum(of) => (Kind::Enum, name(of), Some(of.size())),
            Type::Typedef(of) => (Kind::Typedef, name(of), None),
            Type::Func(of) => (Kind::Function, name(of), None),
            Type::FuncProto(_) => (Kind::Prototype, String::new(), None),
            Type::Volatile(_) | Type::Const(_) | Type::Restrict(_) => {
                (Kind::Qualifier, String::new(), None)
            }
            Type::TypeTag(of) => (Kind::Qualifier, name(of), None),
            _ => (Kind::Other, text(own.name_of(&found)), None),
        };
        assert_eq!((found.kind, text(own.name_of(&found))), (kind, called));
        if let Some(size) = size {
            assert_eq!(own.size(&found), Some(u32::try_from(size).unwrap()));
        }
        if let Type::Struct(of) | Type::Union(of) = &theirs {
            let ours = found.members().map(|member| {
                let called = text(own.name_of_member(&member));
                (called, member.bit_offset, member.is_bit_field)
            });
            let theirs = of.members.iter().map(|member| {
                let is_bit_field = member.bitfield_size().is_some_and(|bits| bits != 0);
                (name(member), member.bit_offset(), is_bit_field)
            });
            assert_eq!(ours.collect::<Members>(), theirs.collect::<Members>());
        }
        if let Type::Enum(of) = &theirs {
            let ours = own.values(&found).map(|(name, value)| (text(name), value));
            let theirs = of.members.iter().map(|member| (name(member), member.val()));
            assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>());
        }
        if let Type::FuncProto(of) = &theirs {
            assert_eq!(found.count, of.parameters.len());
        }
        if kind == Kind::Struct && !text(own.name_of(&found)).is_empty() {
            let called = text(own.name_of(&found));
            assert!(
                own.named(Kind::Struct, &called)
                    .any(|named| named.id == found.id),
                "{called} is not found by its name"
            );
        }
    }
    assert!(last > 10_000, "there are only {last} types");
    assert!(other.resolve_type_by_id(last + 1).is_err());
}
