//! The eBPF programs and maps that a process holds, by what the kernel says of its descriptors.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::loaded_maps,
    programs::{ProgramInfo, loaded_programs},
};

use crate::folder;

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProgramFacts {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// Instructions that the verifier went through; `None` before Linux 5.16.
    pub(crate) verified: Option<u64>,
    /// What it has taken while statistics were on.
    pub(crate) runs: Runs,
}

/// How often a program has run, and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) nanoseconds: u64,
    pub(crate) count: u64,
}

/// A map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapFacts {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// Kernel memory.
    pub(crate) bytes: u64,
    /// Whether each CPU has a copy.
    pub(crate) is_per_cpu: bool,
}

pub(crate) fn programs_of(pid: u32) -> Result<Vec<ProgramFacts>> {
    kept_programs(pid)?
        .iter()
        .map(|program| {
            Ok(ProgramFacts {
                id: program.id(),
                name: program.name_as_str().unwrap_or_default().to_owned(),
                verified: program.verified_instruction_count().map(u64::from),
                runs: Runs {
                    nanoseconds: u64::try_from(program.run_time().as_nanos())?,
                    count: program.run_count(),
                },
            })
        })
        .collect()
}

/// The programs that a process keeps, by descriptors of their own or by links.
fn kept_programs(pid: u32) -> Result<Vec<ProgramInfo>> {
    let ids: BTreeSet<u32> = descriptors(pid)?
        .iter()
        .filter_map(|text| program(text))
        .collect();
    let mut programs = Vec::new();
    for program in loaded_programs() {
        let program = program.context("cannot list the kernel's eBPF programs")?;
        if ids.contains(&program.id()) {
            programs.push(program);
        }
    }
    Ok(programs)
}

/// The maps that a process keeps, by descriptors of their own or by its programs.
pub(crate) fn maps_of(pid: u32) -> Result<Vec<MapFacts>> {
    let mut ids: BTreeSet<u32> = descriptors(pid)?
        .iter()
        .filter_map(|text| number(text, "map_id")?.try_into().ok())
        .collect();
    for program in kept_programs(pid)? {
        let of_program = program
            .map_ids()
            .context("cannot ask for a program's maps")?;
        ids.extend(of_program.unwrap_or_default());
    }
    let mut maps = Vec::new();
    for info in loaded_maps() {
        let info = info.context("cannot list the kernel's eBPF maps")?;
        if ids.contains(&info.id()) {
            let descriptor = info.fd().context("cannot open a map")?;
            let number = descriptor.as_fd().as_raw_fd();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))
                .context("cannot read what the kernel says of a map")?;
            let name = info.name_as_str().unwrap_or_default();
            maps.extend(map(&text, name));
        }
    }
    Ok(maps)
}

/// What the kernel says of each descriptor of a process.
fn descriptors(pid: u32) -> Result<Vec<String>> {
    let files = folder::entries(Path::new(&format!("/proc/{pid}/fdinfo")))?;
    // One may have been closed meanwhile.
    let texts = files
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    Ok(texts.collect())
}

/// The number of a program that a descriptor keeps, itself or by a link to it.
fn program(fdinfo: &str) -> Option<u32> {
    number(fdinfo, "prog_id")?.try_into().ok()
}

fn map(fdinfo: &str, name: &str) -> Option<MapFacts> {
    let kind = number(fdinfo, "map_type")?;
    let id = number(fdinfo, "map_id")?.try_into().ok()?;
    Some(MapFacts {
        id,
        name: name.to_owned(),
        bytes: number(fdinfo, "memlock")?,
        is_per_cpu: PER_CPU_KINDS.contains(&kind),
    })
}

/// `BPF_MAP_TYPE_PERCPU_HASH`, `_PERCPU_ARRAY` and `_LRU_PERCPU_HASH` of linux/bpf.h.
const PER_CPU_KINDS: [u64; 3] = [5, 6, 10];

fn field<'a>(fdinfo: &'a str, name: &str) -> Option<&'a str> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn number(fdinfo: &str, name: &str) -> Option<u64> {
    field(fdinfo, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "pos:\t0\nprog_type:\t26\nprog_jited:\t1\nprog_tag:\t00\nmemlock:\t4096\n\
                           prog_id:\t7\nrun_time_ns:\t1000\nrun_cnt:\t10\nrecursion_misses:\t0\n\
                           verified_insns:\t219\n";
    const MAP: &str = "pos:\t0\nmap_type:\t6\nkey_size:\t4\nmax_entries:\t1\nmemlock:\t8192\n\
                       map_id:\t3\nfrozen:\t0\n";

    #[test]
    fn a_program_and_a_map_are_told_apart() {
        assert_eq!(program(PROGRAM), Some(7));
        assert_eq!(program(MAP), None);
        assert_eq!(map(PROGRAM, ""), None);
        let found = map(MAP, "CLOCK");
        assert_eq!(
            found.map(|map| (map.name, map.bytes, map.is_per_cpu)),
            Some(("CLOCK".to_owned(), 8192, true))
        );
    }

    #[test]
    fn a_link_leads_to_its_program_and_any_other_file_to_nothing() {
        let link = "link_type:\ttracing\nlink_id:\t1\nprog_tag:\t00\nprog_id:\t7\n";
        assert_eq!(program(link), Some(7));
        for text in [link, "pos:\t0\nflags:\t02\n", ""] {
            assert_eq!(map(text, ""), None);
        }
        assert_eq!(program("pos:\t0\nflags:\t02\n"), None);
    }
}
