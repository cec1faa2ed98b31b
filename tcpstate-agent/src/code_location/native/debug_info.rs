//! Files and lines, from the DWARF of a file or of the file that its distribution ships apart.

use std::fs::File;

use addr2line::Context;
use gimli::{Dwarf, EndianArcSlice, RunTimeEndian, SectionId};
use object::{Object as _, ReadCache};

use super::{demangle::demangle, image::section_bytes, sizes, symbols::Place};

type Reader = EndianArcSlice<RunTimeEndian>;
type Elf<'a> = object::File<'a, &'a ReadCache<File>>;

/// More inlined functions at one place than that are not believed.
const MAX_INLINED: usize = 64;

/// Debug information that can be asked for places.
pub(super) struct DebugInfo(Context<Reader>);

impl DebugInfo {
    /// Reads it, if the file has any.
    pub(super) fn load(
        elf: &Elf<'_>,
        path: &[u8],
        find: &dyn Fn(&[u8]) -> Option<File>,
    ) -> Option<Self> {
        // Without units or without lines there is nothing to be found.
        elf.section_by_name(SectionId::DebugLine.name())?;
        let mut dwarf = load(elf)?;
        if let Some(supplement) = supplement(elf, path, find) {
            dwarf.set_sup(supplement);
        }
        Context::from_dwarf(dwarf).ok().map(Self)
    }

    /// The places that an address stands for, the innermost inlined one first; none where nothing
    /// is known.
    pub(super) fn places(&self, address: u64) -> Vec<Place> {
        let mut places = Vec::new();
        let Ok(mut frames) = self.0.find_frames(address).skip_all_loads() else {
            return places;
        };
        while let Ok(Some(frame)) = frames.next() {
            let function = frame.function.and_then(|function| {
                function
                    .raw_name()
                    .ok()
                    .map(|name| demangle(name.as_bytes()))
            });
            let location = frame.location;
            places.push(Place {
                function,
                file: location
                    .as_ref()
                    .and_then(|location| location.file.map(str::to_owned)),
                line: location
                    .and_then(|location| location.line)
                    .filter(|line| *line > 0),
                is_inlined: true,
            });
            if places.len() == MAX_INLINED {
                break;
            }
        }
        if let Some(outermost) = places.last_mut() {
            outermost.is_inlined = false;
        }
        places
    }
}

fn load(elf: &Elf<'_>) -> Option<Dwarf<Reader>> {
    let endian = if elf.is_little_endian() {
        RunTimeEndian::Little
    } else {
        RunTimeEndian::Big
    };
    Dwarf::load(|id| {
        let bytes = section_bytes(elf, id.name()).unwrap_or_default();
        Ok::<_, ()>(Reader::new(bytes, endian))
    })
    .ok()
}

/// What several files of one package share, `.gnu_debugaltlink`.
fn supplement(
    elf: &Elf<'_>,
    path: &[u8],
    find: &dyn Fn(&[u8]) -> Option<File>,
) -> Option<Dwarf<Reader>> {
    let (link, _build_id) = elf.gnu_debugaltlink().ok()??;
    let file = if link.starts_with(b"/") {
        find(link)?
    } else {
        // Relative to the file that has the link, which lies where its build id says.
        let folder = build_id_path(elf)
            .or_else(|| Some(path.to_owned()))
            .map(|path| folder_of(&path).to_owned())?;
        find(&[&folder, b"/".as_slice(), link].concat())?
    };
    sizes::check(&file).ok()?;
    let file = ReadCache::new(file);
    load(&object::File::parse(&file).ok()?)
}

/// The file with the debug information of a file that has none, as GDB looks for it: by build id,
/// and by the name that it was given.
pub(super) fn separate_file(
    elf: &Elf<'_>,
    path: &[u8],
    find: &dyn Fn(&[u8]) -> Option<File>,
) -> Option<File> {
    let by_id = build_id_path(elf).and_then(|path| find(&path));
    by_id.or_else(|| {
        let (name, _checksum) = elf.gnu_debuglink().ok()??;
        if name.contains(&b'/') {
            return None;
        }
        let folder = folder_of(path);
        [
            [folder, b"/", name].concat(),
            [folder, b"/.debug/", name].concat(),
            [b"/usr/lib/debug", folder, b"/", name].concat(),
        ]
        .iter()
        // The link may well name the file itself.
        .filter(|candidate| candidate.as_slice() != path)
        .find_map(|candidate| find(candidate))
    })
}

fn build_id_path(elf: &Elf<'_>) -> Option<Vec<u8>> {
    let id = elf.build_id().ok()??;
    // Twenty bytes as a rule.
    if !(2..=64).contains(&id.len()) {
        return None;
    }
    let (first, rest) = id.split_at(1);
    let (first, rest) = (hexadecimal(first), hexadecimal(rest));
    Some(format!("/usr/lib/debug/.build-id/{first}/{rest}.debug").into_bytes())
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 15)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

fn folder_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..end]
}
