//! An ELF file that a process runs code of, read piece by piece.
//!
//! The file is the process's to choose. It is read, never mapped: a mapped file that is cut short
//! meanwhile ends whoever looks at it.

use std::{fs::File, io, ops::Range, sync::Arc};

use framehop::ExplicitModuleSectionInfo;
use object::{
    Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, ReadCache, ReadRef,
    SegmentFlags,
};

use super::{sizes, symbols::Symbols};

/// A section is not read where it is larger.
pub(super) const MAX_SECTION_BYTES: u64 = 512 << 20;
/// Tables that are smaller say nothing of any function: musl has such.
const MIN_TABLE_BYTES: usize = 200;

/// Bytes of a section, shared with the unwinder.
pub(super) type Bytes = Arc<[u8]>;

/// What is needed of a file.
pub(super) struct Image {
    file: File,
    segments: Vec<CodeSegment>,
    sections: ExplicitModuleSectionInfo<Bytes>,
    /// Whether it says how to unwind its functions.
    pub(super) has_tables: bool,
    symbols: Option<Symbols>,
}

/// A part of the file that is code.
#[derive(Clone, Debug)]
struct CodeSegment {
    file: Range<u64>,
    address: u64,
}

impl Image {
    /// Reads what unwinding needs.
    pub(super) fn read(file: File) -> io::Result<Self> {
        // Anything may be called a program: a pipe would be waited for.
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        sizes::check(&file)?;
        let cache = ReadCache::new(file);
        let (segments, sections) = {
            let elf = object::File::parse(&cache).map_err(invalid)?;
            let segments = code_segments(&elf);
            (segments, unwind_sections(&elf))
        };
        let tables = [&sections.eh_frame, &sections.debug_frame];
        let has_tables = tables
            .into_iter()
            .flatten()
            .any(|table| table.len() > MIN_TABLE_BYTES);
        Ok(Self {
            file: cache.into_inner(),
            segments,
            sections,
            has_tables,
            symbols: None,
        })
    }

    /// What lies at address 0 of the file, by where it is mapped: a mapping that begins at `start`
    /// with byte `offset` of the file.
    ///
    /// Two segments may share a page of the file, so it has to be the one with the code.
    pub(super) fn base(&self, start: u64, offset: u64) -> Option<u64> {
        const PAGE: u64 = 4095;
        let segment = self
            .segments
            .iter()
            .find(|segment| (segment.file.start & !PAGE) <= offset && offset < segment.file.end)?;
        Some(
            start
                .wrapping_sub(offset)
                .wrapping_add(segment.file.start)
                .wrapping_sub(segment.address),
        )
    }

    /// The sections that unwinding needs.
    pub(super) fn sections(&self) -> ExplicitModuleSectionInfo<Bytes> {
        self.sections.clone()
    }

    /// Where it defines something that others may use.
    pub(super) fn find(&self, name: &str) -> Option<u64> {
        // It may have been written to since.
        sizes::check(&self.file).ok()?;
        let cache = ReadCache::new(self.file.try_clone().ok()?);
        let elf = object::File::parse(&cache).ok()?;
        let mut symbols = elf.dynamic_symbols().chain(elf.symbols());
        symbols
            .find(|symbol| symbol.is_definition() && symbol.name_bytes() == Ok(name.as_bytes()))
            .map(|symbol| symbol.address())
    }

    /// Its symbols and its debug information, read when they are first asked for. `find` opens a
    /// file of separate debug information by its path.
    pub(super) fn symbols(
        &mut self,
        path: &[u8],
        find: &dyn Fn(&[u8]) -> Option<File>,
    ) -> &Symbols {
        let file = &self.file;
        self.symbols
            .get_or_insert_with(|| Symbols::read(file, path, find))
    }
}

fn invalid(error: object::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn code_segments<'a>(elf: &object::File<'a, &'a ReadCache<File>>) -> Vec<CodeSegment> {
    const PF_X: u32 = 1;
    elf.segments()
        .filter(|segment| {
            matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags & PF_X != 0)
        })
        .filter_map(|segment| {
            let (start, length) = segment.file_range();
            (length > 0).then_some(CodeSegment {
                file: start..start.saturating_add(length),
                address: segment.address(),
            })
        })
        .collect()
}

fn unwind_sections<'a>(
    elf: &object::File<'a, &'a ReadCache<File>>,
) -> ExplicitModuleSectionInfo<Bytes> {
    let range = |name| {
        let section = elf.section_by_name(name)?;
        let start = section.address();
        Some(start..start.checked_add(section.size())?)
    };
    let bytes = |name| section_bytes(elf, name);
    ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: range(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: bytes(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: bytes(".eh_frame_hdr"),
        debug_frame: bytes(".debug_frame"),
        ..ExplicitModuleSectionInfo::default()
    }
}

/// The bytes of a section, uncompressed; `None` where there is none, or it is larger than anything
/// that makes sense.
pub(super) fn section_bytes<'a, R: ReadRef<'a>>(
    elf: &object::File<'a, R>,
    name: &str,
) -> Option<Bytes> {
    let section = elf.section_by_name(name)?;
    // Before anything of it is read.
    let range = section.compressed_file_range().ok()?;
    let largest = range.compressed_size.max(range.uncompressed_size);
    if range.compressed_size == 0 || largest > MAX_SECTION_BYTES {
        return None;
    }
    let compressed = section.compressed_data().ok()?;
    compressed.decompress().ok().map(Bytes::from)
}

impl std::fmt::Debug for Image {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Image")
            .field("segments", &self.segments)
            .field("has_tables", &self.has_tables)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Seek as _, Write as _},
        path::PathBuf,
    };

    use framehop::Module;
    use proptest::prelude::*;
    use tcpstate_common::REGISTER_WORDS;

    use super::*;
    use crate::code_location::{
        maps,
        native::{registers::UserRegisters, unwind::StackUnwinder},
    };

    /// The smallest library that this process runs code of.
    fn library() -> Vec<u8> {
        let mappings = maps::read(std::process::id()).unwrap();
        let paths = mappings
            .iter()
            .filter(|mapping| mapping.is_executable && mapping.is_of_file())
            .map(|mapping| PathBuf::from(String::from_utf8_lossy(&mapping.path).into_owned()));
        let smallest =
            paths.min_by_key(|path| fs::metadata(path).map_or(u64::MAX, |found| found.len()));
        fs::read(smallest.unwrap()).unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn a_library_says_how_to_unwind_its_functions_and_what_they_are_called() {
        let mut image = Image::read(file(&library())).unwrap();
        assert!(image.has_tables);
        let segment = image.segments[0].clone();
        let base = image.base(0x7000_0000, segment.file.start & !4095).unwrap();
        let start = base.wrapping_add(segment.address);
        assert_eq!(start & !4095, 0x7000_0000);
        let named = (segment.address..segment.address + 0x4000)
            .step_by(16)
            .any(|address| {
                let places = image.symbols(b"/nowhere", &|_| None).resolve(address);
                places[0].function.is_some()
            });
        assert!(named);
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(Image::read(File::from(std::os::fd::OwnedFd::from(reader))).is_err());
        assert!(Image::read(file(b"")).is_err());
        assert!(Image::read(file(b"\x7fELF")).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_corrupt_library_is_read_and_unwound_without_harm(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
            headers in proptest::collection::vec((0_usize..512, any::<u8>()), 0..4),
            length in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
            address in any::<u64>(),
        ) {
            let mut bytes = library();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            for (place, byte) in headers {
                bytes[place] = byte;
            }
            if is_cut {
                bytes.truncate(length.index(bytes.len()));
            }
            if let Ok(mut image) = Image::read(file(&bytes)) {
                let start = 0x7000_0000;
                let _ = image.base(start, address & 0xff_f000);
                let mut unwinder = StackUnwinder::new();
                let end = start + (1 << 20);
                unwinder.add(Module::new(String::new(), start..end, start, image.sections()));
                let mut registers = [0; REGISTER_WORDS];
                registers.fill(start + address % (1 << 20));
                let registers = UserRegisters::from_kernel(&registers);
                let mut read = |place: u64| Some(start + place % (1 << 20));
                let _ = unwinder.unwind(&registers, &mut read);
                let _ = image.find("malloc");
                let symbols = image.symbols(b"/nowhere", &|_| None);
                prop_assert!(!symbols.resolve(address % (1 << 20)).is_empty());
            }
        }
    }
}
