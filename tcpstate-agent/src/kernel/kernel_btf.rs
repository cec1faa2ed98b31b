//! What the running kernel's BTF says: where a field lies, whether a hook exists.

use std::{collections::BTreeMap, io, path::Path};

use tcpstate_common::KernelField;
use thiserror::Error;

use super::btf_file::BtfFile;
use crate::decode::btf::{Btf, Kind, Type, TypeId};

/// Where the kernel publishes its types (Linux 5.4, `CONFIG_DEBUG_INFO_BTF`).
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// How deep anonymous structs and unions may lie in each other, and how many members may be looked
/// at for one name: far more than any kernel has.
const MAX_DEPTH: u32 = 16;
const MAX_MEMBERS: u32 = 65_536;
/// No struct is as long, so that whoever adds to an offset needs no care.
const MAX_BITS: u32 = 1 << 27;

/// The types of a kernel, open for questions.
pub struct KernelBtf(Btf<BtfFile>);

/// Why the offset of a field is not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FieldError {
    /// The struct has another name on this kernel, or is not built in.
    #[error("the kernel has no struct {structure}")]
    NoStruct {
        /// Name of the struct.
        structure: &'static str,
    },
    /// The struct has no such member.
    #[error("struct {structure} has no member {member} (wanted {path})")]
    NoMember {
        /// Name of the struct.
        structure: &'static str,
        /// The member of the path that is missing.
        member: String,
        /// The whole path.
        path: &'static str,
    },
    /// A bit field, or a member of another size than the program reads.
    #[error("struct {structure} member {path} is {actual} bytes, not {wanted}")]
    Size {
        /// Name of the struct.
        structure: &'static str,
        /// The whole path.
        path: &'static str,
        /// Its size on this kernel, 0 for a bit field or where the size is unknown.
        actual: u32,
        /// The size that the program reads.
        wanted: u32,
    },
}

impl KernelBtf {
    /// Opens the BTF file at `path`, [`KERNEL_BTF`] for the running kernel.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(BtfFile::open(path)?)
    }

    /// The types that these bytes say.
    pub fn from_bytes(bytes: Vec<u8>) -> io::Result<Self> {
        Self::of(BtfFile::Read(bytes))
    }

    fn of(file: BtfFile) -> io::Result<Self> {
        Btf::parse(file)
            .map(Self)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Offset of `field` in bytes, or in bits where it is a single one, by the first of its names that
    /// this kernel has. The error is that of the first.
    pub fn offset(&self, field: &KernelField) -> Result<u32, FieldError> {
        let names = field.paths.iter().map(|&path| (path, field.size));
        let (offset, _) = self.first_of(field.structure, names)?;
        Ok(offset)
    }

    /// Offset and size of the first of these members that there is: the kernel renames fields, and
    /// makes them smaller. The error is that of the first.
    pub fn first_of(
        &self,
        structure: &'static str,
        names: impl IntoIterator<Item = (&'static str, u32)>,
    ) -> Result<(u32, u32), FieldError> {
        let mut first = None;
        for (path, size) in names {
            match self.offset_of(structure, path, size) {
                Ok(offset) => return Ok((offset, size)),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.unwrap_or(FieldError::NoStruct { structure }))
    }

    /// Offset of the member that `path` leads to, of `wanted` bytes; in bits where that is 0 and it
    /// is a bit field.
    pub fn offset_of(
        &self,
        structure: &'static str,
        path: &'static str,
        wanted: u32,
    ) -> Result<u32, FieldError> {
        let mut current = self
            .structure(structure)
            .ok_or(FieldError::NoStruct { structure })?;
        let mut bits = 0;
        let mut segments = path.split('.').peekable();
        while let Some(segment) = segments.next() {
            let no_member = || FieldError::NoMember {
                structure,
                member: segment.to_owned(),
                path,
            };
            let found = self.member(current, segment).ok_or_else(no_member)?;
            bits = found
                .bit_offset
                .checked_add(bits)
                .filter(|bits| *bits <= MAX_BITS)
                .ok_or_else(no_member)?;
            if segments.peek().is_some() {
                if !matches!(found.of.kind, Kind::Struct | Kind::Union) {
                    return Err(no_member());
                }
                current = found.of;
                continue;
            }
            if wanted == 0 && found.is_bit_field {
                return Ok(bits);
            }
            let actual = if found.is_bit_field {
                0
            } else {
                self.0.size(&found.of).unwrap_or(0)
            };
            if actual != wanted || bits % 8 != 0 {
                return Err(FieldError::Size {
                    structure,
                    path,
                    actual,
                    wanted,
                });
            }
        }
        Ok(bits / 8)
    }

    /// Whether a struct has a member of this name.
    #[must_use]
    pub fn has_member(&self, structure: &str, name: &str) -> bool {
        self.structure(structure)
            .is_some_and(|found| self.member(found, name).is_some())
    }

    /// The size of a struct in bytes.
    #[must_use]
    pub fn size_of(&self, structure: &str) -> Option<u32> {
        self.0.size(&self.structure(structure)?)
    }

    /// The values of enumerators whose names begin with one of `prefixes`, whatever enum they are
    /// of: many have no name.
    #[must_use]
    pub fn enumerators(&self, prefixes: &[&str]) -> BTreeMap<String, u32> {
        let mut found = BTreeMap::new();
        for r#enum in self.0.all().filter(|found| found.kind == Kind::Enum) {
            // Those of one enum begin alike.
            let wanted = |(name, value)| {
                let name = str::from_utf8(name).ok()?;
                let begins = prefixes.iter().any(|prefix| name.starts_with(prefix));
                begins.then(|| (name.to_owned(), value))
            };
            found.extend(self.0.values(&r#enum).map_while(wanted));
        }
        found
    }

    /// Whether a function of this name exists.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.0.named(Kind::Function, name).next().is_some()
    }

    /// The typedef of this name; a tracepoint `x` that tp_btf can attach to has `btf_trace_x`.
    #[must_use]
    pub fn typedef(&self, name: &str) -> Option<TypeId> {
        let mut found = self.0.named(Kind::Typedef, name);
        found.next().map(|found| found.id)
    }

    /// Whether `enum name` has a value called `value`.
    #[must_use]
    pub fn has_enum_value(&self, name: &str, value: &str) -> bool {
        let value = value.as_bytes();
        let mut found = self.0.named(Kind::Enum, name);
        found.any(|found| self.0.values(&found).any(|(name, _)| name == value))
    }

    /// The names of the values of `enum name`, in the order of their numbers, without the last,
    /// which by the kernel's custom says how many there are. Empty where there is none or the
    /// numbers are not 0, 1, 2, ….
    #[must_use]
    pub fn enum_values(&self, name: &str) -> Vec<String> {
        let Some(found) = self.0.named(Kind::Enum, name).next() else {
            return Vec::new();
        };
        let mut values: Vec<_> = self.0.values(&found).collect();
        values.pop();
        let is_counted = values
            .iter()
            .zip(0..)
            .all(|((_, value), number)| *value == number);
        if !is_counted {
            return Vec::new();
        }
        let names = values.iter();
        names
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    /// How many parameters the function has that the typedef `name` is a pointer to.
    #[must_use]
    pub fn parameters(&self, name: &str) -> Option<usize> {
        let mut found = self.0.named(Kind::Typedef, name);
        found.find_map(|found| {
            let pointer = self.0.get(found.leads_to()?)?;
            if pointer.kind != Kind::Pointer {
                return None;
            }
            self.prototype_parameters(pointer.leads_to()?)
        })
    }

    /// How many parameters the kernel's function `name` has.
    #[must_use]
    pub fn function_parameters(&self, name: &str) -> Option<usize> {
        let mut found = self.0.named(Kind::Function, name);
        found.find_map(|found| self.prototype_parameters(found.leads_to()?))
    }

    fn prototype_parameters(&self, of: TypeId) -> Option<usize> {
        let found = self.0.get(of)?;
        (found.kind == Kind::Prototype).then_some(found.count)
    }

    fn structure(&self, name: &str) -> Option<Type<'_>> {
        self.0.named(Kind::Struct, name).next()
    }

    /// The member `name` of `of`, looked for in its anonymous structs and unions too.
    fn member<'a>(&'a self, of: Type<'a>, name: &str) -> Option<Found<'a>> {
        self.member_within(of, name, MAX_DEPTH, &mut { MAX_MEMBERS })
    }

    fn member_within<'a>(
        &'a self,
        of: Type<'a>,
        name: &str,
        depth: u32,
        members: &mut u32,
    ) -> Option<Found<'a>> {
        let depth = depth.checked_sub(1)?;
        for member in of.members() {
            *members = members.checked_sub(1)?;
            let called = self.0.name_of_member(&member);
            let found = if called == name.as_bytes() {
                Found {
                    bit_offset: 0,
                    is_bit_field: member.is_bit_field,
                    of: self.0.bare(member.of)?,
                }
            } else if called.is_empty()
                && let Some(inner) = self.0.bare(member.of)
                && let Some(found) = self.member_within(inner, name, depth, members)
            {
                found
            } else {
                continue;
            };
            return Some(Found {
                bit_offset: found.bit_offset.checked_add(member.bit_offset)?,
                ..found
            });
        }
        None
    }
}

/// A member, and where it lies in the struct that was asked.
#[derive(Clone, Copy)]
struct Found<'a> {
    bit_offset: u32,
    is_bit_field: bool,
    of: Type<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::btf::tests::Written;

    /// `struct s { int first; union { struct { int; short port; }; long whole; }; int bit : 1; }`
    fn kernel() -> KernelBtf {
        let mut written = Written::new();
        written.add(1, "int", 4, &[32]);
        written.add(1, "short", 2, &[16]);
        written.structure(4, "", &[("", 1, 0), ("port", 2, 32)]);
        written.structure(5, "", &[("", 3, 0), ("whole", 2, 0)]);
        written.structure(
            4,
            "s",
            &[("first", 1, 0), ("", 4, 64), ("bit", 1, 1 << 24 | 0x82)],
        );
        written.structure(4, "endless", &[("", 6, 8), ("", 6, 16), ("", 6, 24)]);
        KernelBtf::from_bytes(written.bytes()).unwrap()
    }

    #[test]
    fn members_are_found_in_anonymous_structs_and_unions() {
        let kernel = kernel();
        assert_eq!(kernel.offset_of("s", "first", 4), Ok(0));
        assert_eq!(kernel.offset_of("s", "port", 2), Ok(12));
        assert_eq!(kernel.offset_of("s", "whole", 2), Ok(8));
        assert!(kernel.has_member("s", "port") && !kernel.has_member("s", "other"));
        // A bit field has bits, and no bytes.
        assert_eq!(kernel.offset_of("s", "bit", 0), Ok(130));
        assert!(kernel.offset_of("s", "bit", 4).is_err());
    }

    #[test]
    fn what_is_missing_or_of_another_size_is_named() {
        let kernel = kernel();
        let said = |path, size| kernel.offset_of("s", path, size).unwrap_err().to_string();
        assert_eq!(said("port", 4), "struct s member port is 2 bytes, not 4");
        assert_eq!(
            said("first.inner", 4),
            "struct s has no member first (wanted first.inner)"
        );
        let none = kernel.offset_of("t", "a", 4).unwrap_err();
        assert_eq!(none, FieldError::NoStruct { structure: "t" });
    }

    #[test]
    fn a_struct_in_itself_is_not_looked_through_for_ever() {
        assert!(!kernel().has_member("endless", "x"));
    }
}
