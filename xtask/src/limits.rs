//! What the programs may cost: instructions that the verifier goes through, memory of maps, and
//! instructions and helper calls of each step that a connection takes.
//!
//! All of it comes out the same every time, however busy the machine is, so a change that makes one of
//! them grow is found here and not in a figure that may be noise.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::util::nr_cpus;
use serde::{Deserialize, Serialize};

use crate::{
    bench::{self, Agent, MapFacts, ProgramFacts},
    path_cost::{self, PathCost},
    process, test, workspace,
};

const FILE: &str = "xtask/limits.toml";
const PREFACE: &str = "\
# What the eBPF programs may cost. `cargo xtask limits` compares, as a step of `cargo xtask ci`;
# `cargo xtask limits --update` writes this file: what there is, and a tenth more.
";
/// All maps together: 5 MiB of stopwatches, 3 MiB of live counters, and the elements that the pass
/// shares with the kernel, which are as long as one run is to be; see docs/performance.md.
const ALL_MAPS: u64 = 20 * 1024 * 1024;
/// The least that a limit is rounded up to.
const INSTRUCTIONS: u64 = 100;
const PAGE: u64 = 4096;

/// The file.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// Verifiers of other kernels count differently.
    kernel: String,
    /// All maps together.
    all_map_bytes: u64,
    /// Instructions verified, by program.
    instructions: BTreeMap<String, u64>,
    /// By map; of those that each CPU has a copy of, one copy.
    map_bytes: BTreeMap<String, u64>,
    /// By step: what the transition program takes for it, on every kernel.
    step_instructions: BTreeMap<String, u64>,
    step_helper_calls: BTreeMap<String, u64>,
}

/// What is in the kernel.
#[derive(Debug, Default)]
struct Found {
    kernel: String,
    cpus: u64,
    programs: Vec<ProgramFacts>,
    maps: Vec<MapFacts>,
    steps: BTreeMap<String, PathCost>,
}

impl Found {
    /// What a program or map costs, by name, as the file has it. Of several with one name, all.
    fn instructions(&self) -> BTreeMap<String, u64> {
        let mut costs = BTreeMap::new();
        for program in &self.programs {
            *costs.entry(program.name.clone()).or_default() += program.verified.unwrap_or(0);
        }
        costs
    }

    fn map_bytes(&self) -> BTreeMap<String, u64> {
        let mut costs = BTreeMap::new();
        for map in &self.maps {
            let copies = if map.is_per_cpu { self.cpus.max(1) } else { 1 };
            *costs.entry(map.name.clone()).or_default() += map.bytes.div_ceil(copies);
        }
        costs
    }

    fn of_steps(&self, cost: impl Fn(&PathCost) -> u64) -> BTreeMap<String, u64> {
        let steps = self.steps.iter();
        steps
            .map(|(step, of_it)| (step.clone(), cost(of_it)))
            .collect()
    }

    fn step_instructions(&self) -> BTreeMap<String, u64> {
        self.of_steps(|cost| cost.instructions)
    }

    fn step_helper_calls(&self) -> BTreeMap<String, u64> {
        self.of_steps(|cost| cost.helper_calls)
    }

    fn all_map_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.bytes).sum()
    }
}

/// `cargo xtask limits`.
pub(crate) fn run(is_update: bool) -> Result<()> {
    if !test::is_root()? {
        if is_update || env::var_os("CI").is_some() {
            bail!("cannot load the programs: not root");
        }
        test::banner("SKIPPED: what the programs cost, for want of root.");
        return Ok(());
    }
    let found = look()?;
    if is_update {
        return write(&limits_for(&found));
    }
    let limits = read()?;
    print!("{}", table(&limits, &found));
    if limits.kernel != found.kernel {
        test::banner(&format!(
            "NOT CHECKED: instructions. {FILE} is of Linux {}, this is {}, whose verifier may \
             count differently.\n`cargo xtask limits --update` writes the file for this kernel.",
            limits.kernel, found.kernel
        ));
    }
    let faults = faults(&limits, &found);
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!(
            "{} limits of {FILE} are not kept, named above (where that is meant: `cargo xtask \
             limits --update`)",
            faults.len()
        );
    }
    Ok(())
}

/// Runs the agent and looks at what it has in the kernel.
fn look() -> Result<Found> {
    let binary = bench::build_agent()?;
    let help = process::output(std::process::Command::new(&binary).args(["run", "--help"]))?;
    // Programs that run only where they are asked for.
    let more: &[&str] = if help.contains(bench::SEGMENTS_FLAG) {
        &[bench::SEGMENTS_FLAG, "lo"]
    } else {
        &[]
    };
    let agent = Agent::start(&binary, more)?;
    let (programs, maps) = (agent.programs()?, agent.maps()?);
    agent.end()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read which kernel this is")?;
    let cpus = nr_cpus().map_err(|(_, error)| error);
    Ok(Found {
        kernel: version(&release),
        cpus: cpus.context("cannot read how many CPUs there can be")? as u64,
        programs,
        maps,
        steps: path_cost::of_connection()?,
    })
}

/// The first two numbers of a release.
fn version(release: &str) -> String {
    let numbers: Vec<&str> = release
        .split(|letter: char| !letter.is_ascii_digit())
        .take(2)
        .collect();
    numbers.join(".")
}

/// What is not as the file says.
fn faults(limits: &Limits, found: &Found) -> Vec<String> {
    let mut faults = Vec::new();
    if limits.kernel == found.kernel {
        faults.extend(exceeded(
            "program",
            "instructions verified",
            &limits.instructions,
            &found.instructions(),
        ));
    }
    faults.extend(exceeded(
        "map",
        "bytes",
        &limits.map_bytes,
        &found.map_bytes(),
    ));
    faults.extend(step_faults(limits, found));
    let (all, most) = (found.all_map_bytes(), limits.all_map_bytes);
    if all > most {
        faults.push(format!("all maps together: {all} bytes, of {most} at most"));
    }
    faults
}

fn step_faults(limits: &Limits, found: &Found) -> Vec<String> {
    let (allowed, costs) = (&limits.step_instructions, found.step_instructions());
    let mut faults = exceeded("step", "instructions", allowed, &costs);
    let (allowed, costs) = (&limits.step_helper_calls, found.step_helper_calls());
    faults.extend(exceeded("step", "helper calls", allowed, &costs));
    faults
}

fn exceeded(
    kind: &str,
    unit: &str,
    limits: &BTreeMap<String, u64>,
    found: &BTreeMap<String, u64>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, cost) in found {
        match limits.get(name) {
            None => faults.push(format!("{kind} {name}: has no limit, and {cost} {unit}")),
            Some(limit) if cost > limit => {
                faults.push(format!("{kind} {name}: {cost} {unit}, of {limit} at most"));
            }
            Some(_) => {}
        }
    }
    for name in limits.keys().filter(|name| !found.contains_key(*name)) {
        faults.push(format!("{kind} {name}: has a limit, and is not there"));
    }
    faults
}

/// Limits that this keeps, with room for small changes.
fn limits_for(found: &Found) -> Limits {
    let with_room = |costs: BTreeMap<String, u64>, unit: u64| {
        costs
            .into_iter()
            .map(|(name, cost)| (name, (cost + cost / 10).next_multiple_of(unit).max(unit)))
            .collect()
    };
    Limits {
        kernel: found.kernel.clone(),
        all_map_bytes: ALL_MAPS,
        instructions: with_room(found.instructions(), INSTRUCTIONS),
        map_bytes: with_room(found.map_bytes(), PAGE),
        step_instructions: with_room(found.step_instructions(), 1),
        // Each is a decision.
        step_helper_calls: found.step_helper_calls(),
    }
}

fn table(limits: &Limits, found: &Found) -> String {
    let mut text = String::new();
    for (kind, costs, limits) in [
        ("instructions", found.instructions(), &limits.instructions),
        ("bytes", found.map_bytes(), &limits.map_bytes),
        (
            "instructions",
            found.step_instructions(),
            &limits.step_instructions,
        ),
        (
            "helper calls",
            found.step_helper_calls(),
            &limits.step_helper_calls,
        ),
    ] {
        for (name, cost) in costs {
            let limit = limits.get(&name).map_or_else(String::new, u64::to_string);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<26}{cost:>12} {kind:<14}{limit:>12} at most");
        }
    }
    let (all, most) = (found.all_map_bytes(), limits.all_map_bytes);
    let _ = writeln!(
        text,
        "{:<26}{all:>12} {:<14}{most:>12} at most",
        "all maps", "bytes"
    );
    text
}

fn path() -> Result<PathBuf> {
    Ok(workspace::root()?.join(FILE))
}

fn read() -> Result<Limits> {
    let text = fs::read_to_string(path()?).with_context(|| format!("cannot read {FILE}"))?;
    toml::from_str(&text).with_context(|| format!("cannot understand {FILE}"))
}

fn write(limits: &Limits) -> Result<()> {
    let table = toml::to_string(limits).context("cannot write limits as TOML")?;
    fs::write(path()?, format!("{PREFACE}{table}"))
        .with_context(|| format!("cannot write {FILE}"))?;
    println!("{FILE} is written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found {
            kernel: "6.18".to_owned(),
            cpus: 4,
            programs: vec![ProgramFacts {
                id: 1,
                name: "program".to_owned(),
                verified: Some(1_000),
                ..ProgramFacts::default()
            }],
            maps: vec![
                MapFacts {
                    id: 1,
                    name: "ONE".to_owned(),
                    bytes: 40_960,
                    is_per_cpu: false,
                },
                MapFacts {
                    id: 2,
                    name: "EACH".to_owned(),
                    bytes: 40_960,
                    is_per_cpu: true,
                },
            ],
            steps: BTreeMap::from([(
                "close -> syn_sent".to_owned(),
                PathCost {
                    instructions: 100,
                    helper_calls: 4,
                },
            )]),
        }
    }

    #[test]
    fn what_limits_are_made_for_keeps_them() {
        assert_eq!(faults(&limits_for(&found()), &found()), [""; 0]);
    }

    #[test]
    fn an_exceeded_limit_of_instructions_is_a_fault() {
        let mut limits = limits_for(&found());
        limits.instructions.insert("program".to_owned(), 999);
        let expected = ["program program: 1000 instructions verified, of 999 at most"];
        assert_eq!(faults(&limits, &found()), expected);
    }

    #[test]
    fn an_exceeded_limit_of_memory_is_a_fault() {
        let mut limits = limits_for(&found());
        limits.map_bytes.insert("EACH".to_owned(), 10_239);
        limits.all_map_bytes = 81_919;
        let expected = [
            "map EACH: 10240 bytes, of 10239 at most",
            "all maps together: 81920 bytes, of 81919 at most",
        ];
        assert_eq!(faults(&limits, &found()), expected);
    }

    #[test]
    fn what_the_file_does_not_name_is_a_fault_and_so_is_what_is_gone() {
        let limits = limits_for(&found());
        let mut other = found();
        other.programs[0].name = "new".to_owned();
        other.maps.remove(0);
        let expected = [
            "program new: has no limit, and 1000 instructions verified",
            "program program: has a limit, and is not there",
            "map ONE: has a limit, and is not there",
        ];
        assert_eq!(faults(&limits, &other), expected);
    }

    #[test]
    fn a_copy_for_each_cpu_counts_once_so_that_limits_hold_on_any_machine() {
        let limits = limits_for(&found());
        let mut larger = found();
        larger.cpus = 64;
        larger.maps[1].bytes *= 16;
        assert_eq!(faults(&limits, &larger), [""; 0]);
    }

    #[test]
    fn another_kernels_verifier_is_not_held_to_the_limits_but_maps_are() {
        let limits = limits_for(&found());
        let mut other = found();
        other.kernel = "6.1".to_owned();
        other.programs[0].verified = Some(50_000);
        assert_eq!(faults(&limits, &other), [""; 0]);
        other.maps[0].bytes *= 2;
        assert_eq!(faults(&limits, &other).len(), 1);
    }

    #[test]
    fn the_committed_file_is_understood_and_limits_something() -> Result<()> {
        let limits: Limits = toml::from_str(include_str!("../limits.toml"))?;
        assert!(!limits.instructions.is_empty() && !limits.map_bytes.is_empty());
        assert!(limits.all_map_bytes <= ALL_MAPS);
        Ok(())
    }

    #[test]
    fn a_step_that_takes_more_is_a_fault_on_every_kernel() {
        let limits = limits_for(&found());
        let mut dearer = found();
        dearer.kernel = "6.1".to_owned();
        let step = dearer.steps.values_mut().next().expect("there is a step");
        (step.instructions, step.helper_calls) = (111, 5);
        let expected = [
            "step close -> syn_sent: 111 instructions, of 110 at most",
            "step close -> syn_sent: 5 helper calls, of 4 at most",
        ];
        assert_eq!(faults(&limits, &dearer), expected);
    }

    #[test]
    fn the_committed_program_takes_no_more_for_a_step_than_the_committed_file_allows() -> Result<()>
    {
        let limits: Limits = toml::from_str(include_str!("../limits.toml"))?;
        let found = Found {
            steps: path_cost::of_connection()?,
            ..Found::default()
        };
        assert_eq!(step_faults(&limits, &found), [""; 0]);
        Ok(())
    }

    #[test]
    fn a_kernel_is_known_by_two_numbers() {
        assert_eq!(version("6.18.44-fc-v595\n"), "6.18");
        assert_eq!(version("7.3-rc7"), "7.3");
    }
}
