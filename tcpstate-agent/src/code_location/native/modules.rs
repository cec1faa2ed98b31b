//! The files that a process runs code of, as the process sees them: in its mount namespace, and
//! when they have been deleted or replaced.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    time::{Duration, Instant},
};

use framehop::Module;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    image::Image,
    registers::UserRegisters,
    scan::{Code, is_call, scan},
    symbols::Place,
    unwind::{ReadStack, StackEnd, StackUnwinder, Unwound},
};
use crate::{
    code_location::{
        maps::{self, Mapping},
        memory::{Memory as _, ProcessMemory},
        open::{open_host_debug, open_in, open_link},
        perf_map::PerfMap,
    },
    host::process::terminal_text,
};

/// How often the mappings are read again for an address that is in none of them.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// Executable mappings beyond that are not looked at.
const MAX_EXECUTABLE: usize = 8192;
/// Files beyond that are not read.
const MAX_IMAGES: usize = 4096;
/// Longer names are cut.
const MAX_NAME: usize = 200;
/// Stacks with fewer addresses than that have lost their way in the first function.
const FEW: usize = 4;

/// A place in the code of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NativeFrame {
    /// The function, where the file tells.
    pub function: Option<String>,
    /// The file of the source, where the debug information tells.
    pub source: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// Whether the compiler put the function into the one that follows.
    pub is_inlined: bool,
    /// The path of the file with the code, as the process sees it; empty for code that was made
    /// while it ran.
    pub module: String,
    /// The address in that file, or in the process where there is no file.
    pub offset: u64,
}

/// The code of one process.
pub struct Modules {
    pid: u32,
    root: io::Result<OwnedFd>,
    memory: Option<ProcessMemory>,
    mapped: Vec<Mapped>,
    images: FxHashMap<(String, u64), Option<Image>>,
    unwinder: StackUnwinder,
    perf_map: Option<PerfMap>,
    read_at: Option<Instant>,
    unreadable: Option<String>,
}

/// An executable mapping.
struct Mapped {
    mapping: Mapping,
    /// What lies at address 0 of its file, where that could be read.
    base: Option<u64>,
    has_tables: bool,
}

impl Modules {
    /// Opens what is needed of a process; what cannot be read of it is asked for by
    /// [`unreadable`](Self::unreadable).
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let root = File::open(format!("/proc/{pid}/root")).map(OwnedFd::from);
        let mut modules = Self {
            pid,
            root,
            memory: ProcessMemory::open(pid).ok(),
            mapped: Vec::new(),
            images: FxHashMap::default(),
            unwinder: StackUnwinder::new(),
            perf_map: None,
            read_at: None,
            unreadable: None,
        };
        modules.refresh();
        modules
    }

    /// The last reason why a file could not be read, if there was one.
    #[must_use]
    pub fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    /// The process's memory, where it can be read.
    #[must_use]
    pub fn memory(&self) -> Option<&ProcessMemory> {
        self.memory.as_ref()
    }

    /// The paths of the files with its code.
    #[must_use]
    pub fn paths(&self) -> Vec<&[u8]> {
        let files = self.mapped.iter().map(|mapped| &mapped.mapping);
        files
            .filter(|mapping| mapping.is_of_file())
            .map(|mapping| mapping.path.as_slice())
            .collect()
    }

    /// Whether it has written down which code it has made while it ran.
    pub fn writes_map(&mut self) -> bool {
        !self.perf_map().is_empty()
    }

    fn perf_map(&mut self) -> &PerfMap {
        let read = || PerfMap::read(self.pid, &|path| open_in_root(&self.root, path));
        self.perf_map.get_or_insert_with(read)
    }

    /// The address of something that a file of the process defines, and the file's path. `wanted`
    /// says of a path, and of whether it is the program's own, whether to look into it.
    #[must_use]
    pub fn symbol(
        &self,
        name: &str,
        wanted: &dyn Fn(&[u8], bool) -> bool,
    ) -> Option<(u64, Vec<u8>)> {
        let program = std::fs::metadata(format!("/proc/{}/exe", self.pid));
        let program = program.map_or(0, |found| found.ino());
        self.mapped.iter().find_map(|mapped| {
            let Mapping { path, file, .. } = &mapped.mapping;
            if !wanted(until_deleted(path), file.1 == program) {
                return None;
            }
            let address = self.images.get(file)?.as_ref()?.find(name)?;
            Some((mapped.base?.wrapping_add(address), path.clone()))
        })
    }

    /// Opens a file by the path that the process has for it, and never one outside its root.
    fn open_in_root(&self, path: &[u8]) -> io::Result<File> {
        open_in_root(&self.root, path)
    }

    fn refresh(&mut self) {
        if self
            .read_at
            .is_some_and(|read| read.elapsed() < REFRESH_INTERVAL)
        {
            return;
        }
        self.read_at = Some(Instant::now());
        let mappings = match maps::read(self.pid) {
            Ok(mappings) => mappings,
            Err(error) => {
                // Of a process that has ended nothing changes any more.
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.unreadable = Some(format!(
                        "its mappings: {error} (grant CAP_SYS_PTRACE; without it no function is \
                         named)"
                    ));
                }
                return;
            }
        };
        let mut executable: Vec<Mapping> = mappings
            .into_iter()
            .filter(|mapping| mapping.is_executable)
            .collect();
        if executable.len() > MAX_EXECUTABLE {
            self.unreadable = Some(format!(
                "{} executable mappings, of which the first {MAX_EXECUTABLE} are looked at",
                executable.len()
            ));
            executable.truncate(MAX_EXECUTABLE);
        }
        // What is left in here in the end is new.
        let mut new: FxHashSet<Mapping> = executable.into_iter().collect();
        let unwinder = &mut self.unwinder;
        self.mapped.retain(|mapped| {
            let stays = new.remove(&mapped.mapping);
            if !stays {
                unwinder.remove(mapped.mapping.start);
            }
            stays
        });
        let mut new: Vec<Mapping> = new.into_iter().collect();
        new.sort_unstable_by_key(|mapping| mapping.start);
        for mapping in new {
            self.add(mapping);
        }
        self.mapped.sort_by_key(|mapped| mapped.mapping.start);
    }

    fn add(&mut self, mapping: Mapping) {
        let mut mapped = Mapped {
            base: None,
            has_tables: false,
            mapping,
        };
        if mapped.mapping.is_of_file() {
            self.read_image(&mapped.mapping);
            let mapping = &mapped.mapping;
            if let Some(Some(image)) = self.images.get(&mapping.file) {
                mapped.base = image.base(mapping.start, mapping.offset);
                mapped.has_tables = image.has_tables;
                if let Some(base) = mapped.base {
                    self.unwinder.add(Module::new(
                        String::new(),
                        mapping.start..mapping.end,
                        base,
                        image.sections(),
                    ));
                }
            }
        }
        self.mapped.push(mapped);
    }

    fn read_image(&mut self, mapping: &Mapping) {
        if self.images.contains_key(&mapping.file) || self.images.len() >= MAX_IMAGES {
            return;
        }
        let image = self.open_mapped(mapping).and_then(Image::read);
        if let Err(error) = &image {
            self.unreadable = Some(format!("{}: {error}", shown(&mapping.path)));
        }
        self.images.insert(mapping.file.clone(), image.ok());
    }

    /// The very file that is mapped, whatever its path leads to by now.
    fn open_mapped(&self, mapping: &Mapping) -> io::Result<File> {
        let Mapping { start, end, .. } = mapping;
        let exact = open_link(&format!("/proc/{}/map_files/{start:x}-{end:x}", self.pid));
        // Takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, and the process.
        exact.or_else(|_| {
            let file = self.open_in_root(&mapping.path)?;
            if file.metadata()?.ino() == mapping.file.1 {
                return Ok(file);
            }
            Err(io::Error::other(
                "replaced since it was started, and the old one cannot be opened without \
                 CAP_CHECKPOINT_RESTORE",
            ))
        })
    }

    /// Unwinds a stack whose words `read` gives.
    pub fn unwind(&mut self, registers: &UserRegisters, read: &mut ReadStack<'_>) -> Unwound {
        if self.find(registers.instruction).is_none() {
            self.refresh();
        }
        let found = self.unwinder.unwind(registers, read);
        // A static program may have tables for its own functions, and none for musl's.
        if found.end != StackEnd::Lost || found.addresses.len() >= FEW {
            return found;
        }
        let Some(memory) = &self.memory else {
            return found;
        };
        let code = Scanned {
            mapped: &self.mapped,
            memory,
        };
        match scan(&mut self.unwinder, registers, read, &code) {
            Some(mut way) if way.addresses.len() + 1 > found.addresses.len() => {
                way.addresses.insert(0, registers.instruction);
                way
            }
            _ => found,
        }
    }

    fn find(&self, address: u64) -> Option<&Mapped> {
        find(&self.mapped, address)
    }

    /// The places that an address stands for, the innermost inlined one first. Never empty.
    pub fn resolve(&mut self, address: u64) -> Vec<NativeFrame> {
        if self.find(address).is_none() {
            self.refresh();
        }
        let found = self.find(address).and_then(|mapped| {
            let base = mapped.base?;
            Some((mapped.mapping.clone(), address.wrapping_sub(base)))
        });
        let Some((mapping, offset)) = found else {
            return vec![self.resolve_without_file(address)];
        };
        // Taken out and put back: the file of its debug information is looked for meanwhile.
        let Some(Some(mut image)) = self.images.remove(&mapping.file) else {
            return vec![self.resolve_without_file(address)];
        };
        let path = until_deleted(&mapping.path);
        let places = image
            .symbols(path, &|path| self.open_debug_file(path))
            .resolve(offset);
        self.images.insert(mapping.file.clone(), Some(image));
        let module = shown(&mapping.path);
        places
            .into_iter()
            .map(|place| native_frame(place, module.clone(), offset))
            .collect()
    }

    /// The place in the file, without looking for its name.
    #[must_use]
    pub fn unnamed(&self, address: u64) -> NativeFrame {
        let mapped = self.find(address);
        let base = mapped.and_then(|mapped| mapped.base).unwrap_or(0);
        NativeFrame {
            function: None,
            source: None,
            line: None,
            is_inlined: false,
            module: mapped.map_or_else(String::new, |mapped| shown(&mapped.mapping.path)),
            offset: address.wrapping_sub(base),
        }
    }

    fn open_debug_file(&self, path: &[u8]) -> Option<File> {
        let opened = self.open_in_root(path);
        opened.or_else(|_| open_host_debug(path)).ok()
    }

    fn resolve_without_file(&mut self, address: u64) -> NativeFrame {
        let mapped = self.find(address);
        let module = mapped.map_or_else(String::new, |mapped| shown(&mapped.mapping.path));
        let function = self.perf_map().function(address);
        let function = function.map(|name| shown(name.as_bytes()));
        NativeFrame {
            function,
            source: None,
            line: None,
            is_inlined: false,
            module,
            offset: address,
        }
    }
}

fn open_in_root(root: &io::Result<OwnedFd>, path: &[u8]) -> io::Result<File> {
    let root = root.as_ref().map_err(io::Error::kind)?;
    open_in(root, path)
}

fn find(mapped: &[Mapped], address: u64) -> Option<&Mapped> {
    let behind = mapped.partition_point(|mapped| mapped.mapping.start <= address);
    let candidate = mapped[..behind].last()?;
    (address < candidate.mapping.end).then_some(candidate)
}

fn native_frame(place: Place, module: String, offset: u64) -> NativeFrame {
    NativeFrame {
        function: place.function.map(|name| shown(name.as_bytes())),
        source: place.file.map(|file| shown(file.as_bytes())),
        line: place.line,
        is_inlined: place.is_inlined,
        module,
        offset,
    }
}

/// What a process or its files call something, harmless and not too long.
fn shown(name: &[u8]) -> String {
    let mut text = terminal_text(&name[..name.len().min(4 * MAX_NAME)]);
    if let Some((end, _)) = text.char_indices().nth(MAX_NAME) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn until_deleted(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

struct Scanned<'a> {
    mapped: &'a [Mapped],
    memory: &'a ProcessMemory,
}

impl Code for Scanned<'_> {
    fn has_tables(&self, address: u64) -> bool {
        find(self.mapped, address)
            .is_some_and(|mapped| mapped.has_tables && address > mapped.mapping.start + 8)
    }

    fn follows_call(&self, address: u64) -> bool {
        let mut before = [0; 8];
        self.memory
            .read(address.wrapping_sub(8), &mut before)
            .is_ok_and(|()| is_call(before))
    }
}
