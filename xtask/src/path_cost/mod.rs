//! How many instructions and helper calls the transition program takes for each step of a
//! connection.
//!
//! The committed object is run here as the kernel would run it, for a connection that is opened and
//! closed in good order, with both of its ends. What comes out is the same on every machine and
//! kernel, so a change that makes a step dearer is found however busy the machine is. It says
//! nothing of how long an instruction takes: `cargo xtask bench transition` does.

mod machine;
mod memory;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya_obj::{Map, Object, generated::bpf_insn};
use object::{Object as _, ObjectSymbol as _};

use self::{
    machine::{Kernel, run},
    memory::Memory,
};
use crate::workspace;

pub(crate) use self::machine::PathCost;

const OBJECT: &str = "tcpstate-agent/ebpf-object/tcpstate.bpf.o";
const PROGRAM: &str = "tcp_transition";
/// The map of globals that are set before the program is loaded.
const GLOBALS: &str = ".rodata";

/// The states of a connection, in the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
        }
    }
}

/// Which of the two ends goes through a step.
#[derive(Clone, Copy)]
enum End {
    Client,
    Server,
}

/// All steps of a connection, in their order; the client closes first.
const CONNECTION: [(End, State, State); 10] = [
    (End::Client, State::Close, State::SynSent),
    (End::Server, State::Listen, State::SynRecv),
    (End::Client, State::SynSent, State::Established),
    (End::Server, State::SynRecv, State::Established),
    (End::Client, State::Established, State::FinWait1),
    (End::Server, State::Established, State::CloseWait),
    (End::Client, State::FinWait1, State::FinWait2),
    (End::Server, State::CloseWait, State::LastAck),
    (End::Client, State::FinWait2, State::Close),
    (End::Server, State::LastAck, State::Close),
];

/// What each step takes, by the names of the two states.
pub(crate) fn of_connection() -> Result<BTreeMap<String, PathCost>> {
    let path = workspace::root()?.join(OBJECT);
    let elf = fs::read(&path).with_context(|| format!("cannot read {OBJECT}"))?;
    let mut host = Host::new(&elf)?;
    let ends = [host.new_socket()?, host.new_socket()?];
    let mut costs = BTreeMap::new();
    for (end, old, new) in CONNECTION {
        let socket = ends[end as usize];
        if new == State::Close {
            // The peer's FIN has come, and the process has let go.
            host.set(socket, "SK_FLAGS", 0b11)?;
        }
        let name = format!("{} -> {}", old.name(), new.name());
        let cost = host
            .transition(socket, old, new)
            .with_context(|| format!("{PROGRAM} cannot be followed from {name}"))?;
        costs.insert(name, cost);
    }
    Ok(costs)
}

/// What the program sees of a kernel.
struct Host {
    code: Vec<bpf_insn>,
    memory: Memory,
    maps: Maps,
    /// Where in a socket the program looks for each field.
    fields: BTreeMap<String, u64>,
    /// The address of the `struct net` of all sockets.
    namespace: u64,
    context: u64,
}

impl Host {
    /// Puts the program's maps into memory, and a place for each field into its globals.
    fn new(elf: &[u8]) -> Result<Self> {
        let Linked { code, maps } = link(elf)?;
        let mut memory = Memory::default();
        let mut placed = Vec::new();
        for (name, map) in maps {
            let size =
                u64::from(map.value_size().next_multiple_of(8)) * u64::from(map.max_entries());
            let contents = if map.data().is_empty() {
                vec![0; usize::try_from(size)?]
            } else {
                map.data().to_vec()
            };
            let elements = memory.add(contents);
            placed.push(PlacedMap {
                name,
                map,
                elements,
            });
        }
        let maps = Maps { placed, clock: 0 };
        let globals = maps.named(GLOBALS)?.elements;
        let mut fields = BTreeMap::new();
        let mut namespace = 0;
        for (name, offset) in globals_of(elf)? {
            let address = globals + offset;
            // What the agent has not found yet, which is what it sets to the offset of a field.
            if memory.load(address, 4)? == u64::from(u32::MAX) {
                let place = FIELD_BYTES * fields.len() as u64;
                memory.store(address, 4, place)?;
                fields.insert(name.clone(), place);
            }
            if name == "SK_STATE" {
                // The program tells namespaces by how far they are from here, and an element that
                // is nobody's yet has 0 for that: so the first one is this namespace's.
                namespace = address;
            }
        }
        ensure!(namespace != 0, "the object has no global SK_STATE");
        let context = memory.add(vec![0; 24]);
        Ok(Self {
            code,
            memory,
            maps,
            fields,
            namespace,
            context,
        })
    }

    /// A socket with what every one has that the program looks at.
    fn new_socket(&mut self) -> Result<u64> {
        let bytes = FIELD_BYTES * self.fields.len() as u64;
        let socket = self.memory.add(vec![0; usize::try_from(bytes)?]);
        let namespace = self.namespace;
        for (field, value) in [
            ("SK_PROTOCOL", 6),
            ("SK_FAMILY", 2),
            ("SK_NET", namespace),
            // 113 µs, in eighths.
            ("SRTT", 113 << 3),
            ("TCP_CLOCK", 1_000_000),
        ] {
            self.set(socket, field, value)?;
        }
        Ok(socket)
    }

    fn set(&mut self, socket: u64, field: &str, value: u64) -> Result<()> {
        let place = self.fields.get(field);
        let place = place.with_context(|| format!("the object has no global {field}"))?;
        self.memory.store(socket + place, 8, value)
    }

    fn transition(&mut self, socket: u64, old: State, new: State) -> Result<PathCost> {
        for (index, argument) in [socket, old as u64, new as u64].into_iter().enumerate() {
            let place = self.context + 8 * index as u64;
            self.memory.store(place, 8, argument)?;
        }
        run(&self.code, &mut self.memory, &mut self.maps, self.context)
    }
}

/// A field has so much place: the longest is an address of IPv6.
const FIELD_BYTES: u64 = 16;

/// The program with all that it calls, and the maps that its instructions name by their place here.
struct Linked {
    code: Vec<bpf_insn>,
    maps: Vec<(String, Map)>,
}

fn link(elf: &[u8]) -> Result<Linked> {
    let mut object = Object::parse(elf).with_context(|| format!("cannot understand {OBJECT}"))?;
    let mut maps: Vec<(String, Map)> = std::mem::take(&mut object.maps).into_iter().collect();
    maps.sort_by(|(one, _), (other, _)| one.cmp(other));
    let text: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let named = maps
        .iter()
        .zip(0..)
        .map(|((name, map), descriptor)| (name.as_str(), descriptor, map));
    object.relocate_maps(named, &text)?;
    object.relocate_calls(&text)?;
    let program = object.programs.get(PROGRAM);
    let program = program.with_context(|| format!("{OBJECT} has no program {PROGRAM}"))?;
    let function = object.functions.get(&program.function_key());
    let function = function.with_context(|| format!("{PROGRAM} has no instructions"))?;
    Ok(Linked {
        code: function.instructions.clone(),
        maps,
    })
}

/// The names of the globals of four bytes, and where each is.
fn globals_of(elf: &[u8]) -> Result<Vec<(String, u64)>> {
    let file = object::File::parse(elf).with_context(|| format!("cannot read {OBJECT}"))?;
    let section = file.section_by_name(GLOBALS);
    let section = section.map(|section| object::ObjectSection::index(&section));
    ensure!(section.is_some(), "{OBJECT} has no {GLOBALS}");
    let globals = file
        .symbols()
        .filter(|symbol| symbol.section_index() == section && symbol.size() == 4);
    globals
        .map(|symbol| Ok((symbol.name()?.to_owned(), symbol.address())))
        .collect()
}

/// A map, and where its elements are.
struct PlacedMap {
    name: String,
    map: Map,
    elements: u64,
}

/// All maps; the descriptor of one is its place among them.
struct Maps {
    placed: Vec<PlacedMap>,
    clock: u64,
}

impl Maps {
    fn named(&self, name: &str) -> Result<&PlacedMap> {
        let found = self.placed.iter().find(|map| map.name == name);
        found.with_context(|| format!("{OBJECT} has no map {name}"))
    }

    /// A program has a map by a number that is no address.
    fn of_handle(&self, handle: u64) -> Result<&PlacedMap> {
        let found = usize::try_from(handle)
            .ok()
            .and_then(|at| self.placed.get(at));
        found.context("what is looked up in is no map")
    }
}

/// `BPF_MAP_TYPE_ARRAY` and `BPF_MAP_TYPE_PERCPU_ARRAY`.
const ARRAYS: [u32; 2] = [2, 6];

/// Of the kernel's `enum bpf_func_id`, those that a connection in good order needs.
const MAP_LOOKUP: u32 = 1;
const CLOCK: u32 = 5;
const READ_KERNEL: u32 = 113;
const TO_TCP_SOCK: u32 = 137;

impl Kernel for Maps {
    fn help(&mut self, memory: &mut Memory, helper: u32, arguments: [u64; 5]) -> Result<u64> {
        let [first, second, third, ..] = arguments;
        match helper {
            MAP_LOOKUP => {
                let PlacedMap { map, elements, .. } = self.of_handle(first)?;
                ensure!(ARRAYS.contains(&map.map_type()), "a look-up in no array");
                let index = memory.load(second, 4)?;
                let stride = u64::from(map.value_size().next_multiple_of(8));
                let is_there = index < map.max_entries().into();
                Ok(if is_there {
                    elements + index * stride
                } else {
                    0
                })
            }
            CLOCK => {
                self.clock += 1_000;
                Ok(self.clock)
            }
            READ_KERNEL => {
                let bytes = memory.bytes(third, usize::try_from(second)?)?.to_vec();
                memory.bytes(first, bytes.len())?.copy_from_slice(&bytes);
                Ok(0)
            }
            TO_TCP_SOCK => Ok(first),
            other => bail!("helper {other} is none that a connection in good order needs"),
        }
    }

    fn map(&self, descriptor: i32, offset: Option<u32>) -> Result<u64> {
        let handle = u64::try_from(descriptor)?;
        let map = self.of_handle(handle)?;
        Ok(offset.map_or(handle, |offset| map.elements + u64::from(offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_connection_is_followed_to_its_end() -> Result<()> {
        let costs = of_connection()?;
        assert_eq!(costs.len(), CONNECTION.len());
        // A child's first step is only counted, and everything else is that and more.
        let least = costs["listen -> syn_recv"];
        for (step, cost) in &costs {
            assert!(cost.instructions >= least.instructions, "{step}: {costs:?}");
            assert!(cost.helper_calls >= least.helper_calls, "{step}: {costs:?}");
        }
        Ok(())
    }

    #[test]
    fn what_a_connection_leaves_in_the_counters_shows_that_it_was_followed() -> Result<()> {
        let elf = fs::read(workspace::root()?.join(OBJECT))?;
        let mut host = Host::new(&elf)?;
        let socket = host.new_socket()?;
        let counted = |host: &mut Host| -> Result<u64> {
            let counters = host.maps.named("COUNTERS")?;
            let (at, bytes) = (counters.elements, counters.map.value_size());
            let bytes = host.memory.bytes(at, usize::try_from(bytes)?)?;
            Ok(bytes.iter().map(|byte| u64::from(*byte)).sum())
        };
        host.transition(socket, State::Listen, State::SynRecv)?;
        let once = counted(&mut host)?;
        host.transition(socket, State::Listen, State::SynRecv)?;
        assert_eq!((once, counted(&mut host)?), (1, 2));
        // Another protocol's is none.
        host.set(socket, "SK_PROTOCOL", 132)?;
        host.transition(socket, State::Listen, State::SynRecv)?;
        assert_eq!(counted(&mut host)?, 2);
        Ok(())
    }
}
