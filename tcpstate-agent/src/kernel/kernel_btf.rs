//! What the running kernel's BTF says: where a field lies, whether a hook exists.

use std::{collections::BTreeMap, io, path::Path};

use btf_rs::{Backend, Btf, BtfType, Struct, Type};
use tcpstate_common::KernelField;
use thiserror::Error;

/// Where the kernel publishes its types (Linux 5.4, `CONFIG_DEBUG_INFO_BTF`).
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The kernel's types, open for questions. Drop it when they are answered: it may hold tens of
/// MiB.
pub struct KernelBtf(Btf);

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
    ///
    /// Kernels from 6.16 let the file be mapped, which costs next to no memory; elsewhere it is
    /// parsed into memory.
    pub fn open(path: &Path) -> io::Result<Self> {
        Btf::from_file_with_backend(path, Backend::Mmap)
            .or_else(|_| Btf::from_file_with_backend(path, Backend::Cache))
            .map(Self)
            .map_err(io::Error::other)
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
            let found = self.member(&current, segment).ok_or_else(no_member)?;
            bits += found.bit_offset;
            if segments.peek().is_some() {
                let (Type::Struct(inner) | Type::Union(inner)) = found.r#type else {
                    return Err(no_member());
                };
                current = inner;
                continue;
            }
            if wanted == 0 && found.is_bit_field {
                return Ok(bits);
            }
            let actual = if found.is_bit_field {
                0
            } else {
                self.size(&found.r#type)
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
            .is_some_and(|found| self.member(&found, name).is_some())
    }

    /// The size of a struct in bytes.
    #[must_use]
    pub fn size_of(&self, structure: &str) -> Option<u32> {
        u32::try_from(self.structure(structure)?.size()).ok()
    }

    /// The values of enumerators whose names begin with one of `prefixes`, whatever enum they are
    /// of: many have no name.
    #[must_use]
    pub fn enumerators(&self, prefixes: &[&str]) -> BTreeMap<String, u32> {
        let mut found = BTreeMap::new();
        // They are numbered from 1 on.
        let all = (1..).map_while(|number| self.0.resolve_type_by_id(number).ok());
        for r#type in all {
            let Type::Enum(r#enum) = r#type else {
                continue;
            };
            for member in &r#enum.members {
                let Some(name) = self.name(member) else {
                    continue;
                };
                if !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                    // Those of one enum begin alike.
                    break;
                }
                found.insert(name, member.val());
            }
        }
        found
    }

    /// Whether a function of this name exists.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.types(name).any(|found| matches!(found, Type::Func(_)))
    }

    /// Whether a typedef of this name exists; a tracepoint `x` that tp_btf can attach to has
    /// `btf_trace_x`.
    #[must_use]
    pub fn has_typedef(&self, name: &str) -> bool {
        self.types(name)
            .any(|found| matches!(found, Type::Typedef(_)))
    }

    /// Whether `enum name` has a value called `value`.
    #[must_use]
    pub fn has_enum_value(&self, name: &str, value: &str) -> bool {
        self.types(name).any(|found| match found {
            Type::Enum(found) => found
                .members
                .iter()
                .any(|member| self.name(member).as_deref() == Some(value)),
            _ => false,
        })
    }

    /// The names of the values of `enum name`, in the order of their numbers, without the last,
    /// which by the kernel's custom says how many there are. Empty where there is none or the
    /// numbers are not 0, 1, 2, ….
    #[must_use]
    pub fn enum_values(&self, name: &str) -> Vec<String> {
        let found = self.types(name).find_map(|found| match found {
            Type::Enum(found) => Some(found),
            _ => None,
        });
        let Some(found) = found else {
            return Vec::new();
        };
        let members = &found.members[..found.members.len().saturating_sub(1)];
        let is_counted = members
            .iter()
            .zip(0..)
            .all(|(member, number)| member.val() == number);
        if !is_counted {
            return Vec::new();
        }
        members
            .iter()
            .map(|member| self.name(member).unwrap_or_default())
            .collect()
    }

    /// How many parameters the function has that the typedef `name` is a pointer to.
    #[must_use]
    pub fn parameters(&self, name: &str) -> Option<usize> {
        self.types(name).find_map(|found| {
            let Type::Typedef(found) = found else {
                return None;
            };
            let Type::Ptr(pointer) = self.0.resolve_chained_type(&found).ok()? else {
                return None;
            };
            match self.0.resolve_chained_type(&pointer).ok()? {
                Type::FuncProto(function) => Some(function.parameters.len()),
                _ => None,
            }
        })
    }

    /// How many parameters the kernel's function `name` has.
    #[must_use]
    pub fn function_parameters(&self, name: &str) -> Option<usize> {
        self.types(name).find_map(|found| {
            let Type::Func(found) = found else {
                return None;
            };
            match self.0.resolve_chained_type(&found).ok()? {
                Type::FuncProto(function) => Some(function.parameters.len()),
                _ => None,
            }
        })
    }

    fn types(&self, name: &str) -> impl Iterator<Item = Type> {
        self.0
            .resolve_types_by_name(name)
            .unwrap_or_default()
            .into_iter()
    }

    fn structure(&self, name: &str) -> Option<Struct> {
        self.types(name).find_map(|found| match found {
            Type::Struct(found) => Some(found),
            _ => None,
        })
    }

    fn name<T: BtfType>(&self, of: &T) -> Option<String> {
        self.0.resolve_name(of).ok().filter(|name| !name.is_empty())
    }

    /// The member `name` of `of`, looked for in its anonymous structs and unions too.
    fn member(&self, of: &Struct, name: &str) -> Option<Member> {
        of.members.iter().find_map(|member| {
            let r#type = self.bare_type(member)?;
            match self.name(member) {
                Some(found) if found == name => Some(Member {
                    bit_offset: member.bit_offset(),
                    is_bit_field: member.bitfield_size().is_some_and(|bits| bits != 0),
                    r#type,
                }),
                Some(_) => None,
                None => {
                    let (Type::Struct(inner) | Type::Union(inner)) = r#type else {
                        return None;
                    };
                    let mut found = self.member(&inner, name)?;
                    found.bit_offset += member.bit_offset();
                    Some(found)
                }
            }
        })
    }

    /// Size in bytes, 0 for what has none or was not needed so far.
    fn size(&self, of: &Type) -> u32 {
        let size = match of {
            Type::Int(found) => found.size(),
            Type::Enum(found) => found.size(),
            Type::Struct(found) | Type::Union(found) => found.size(),
            Type::Ptr(_) => 8,
            Type::Array(found) => {
                let element = self.bare_type(found);
                let element = element.map_or(0, |element| self.size(&element));
                return u32::try_from(found.len()).unwrap_or(0) * element;
            }
            _ => 0,
        };
        u32::try_from(size).unwrap_or(0)
    }

    /// The type that `of` refers to, without typedefs and qualifiers.
    fn bare_type<T: BtfType>(&self, of: &T) -> Option<Type> {
        let mut current = self.0.resolve_chained_type(of).ok()?;
        loop {
            current = match &current {
                Type::Typedef(inner) => self.0.resolve_chained_type(inner).ok()?,
                Type::Volatile(inner) | Type::Const(inner) | Type::Restrict(inner) => {
                    self.0.resolve_chained_type(inner).ok()?
                }
                Type::TypeTag(inner) => self.0.resolve_chained_type(inner).ok()?,
                _ => return Some(current),
            };
        }
    }
}

struct Member {
    bit_offset: u32,
    is_bit_field: bool,
    r#type: Type,
}
