//! Programs that do nothing: what running any program costs, to be taken from what ours cost.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Btf, Ebpf, EbpfLoader, Endianness,
    programs::{BtfTracePoint, SchedClassifier, Xdp},
};
use object::{
    Architecture, BinaryFormat, Endianness as ElfEndianness, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
const NAME: &str = "bench_empty";

/// `r0 = value; exit`, as the kernel's struct bpf_insn.
fn instructions(value: i32) -> Vec<u8> {
    const MOVE_IMMEDIATE: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let mut bytes = vec![MOVE_IMMEDIATE, 0, 0, 0];
    bytes.extend(value.to_le_bytes());
    bytes.extend([EXIT, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// An ELF object with one program that returns `value`.
fn elf(section: &str, value: i32) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, ElfEndianness::Little);
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.set_section_data(license, b"GPL\0".as_slice(), 1);
    let program = object.add_section(Vec::new(), section.into(), SectionKind::Text);
    let code = instructions(value);
    let size = code.len() as u64;
    object.set_section_data(program, code, 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value: 0,
        size,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(program),
        flags: SymbolFlags::None,
    });
    object
        .write()
        .context("cannot write the object of an empty program")
}

/// An empty program in the kernel; it goes when this is dropped.
pub(crate) struct EmptyProgram {
    _ebpf: Ebpf,
    /// The kernel's number of it.
    pub(crate) id: u32,
}

impl EmptyProgram {
    /// Attached to `sock:inet_sock_set_state`, as the agent's is.
    pub(crate) fn on_transitions() -> Result<Self> {
        let mut ebpf = load("tp_btf/inet_sock_set_state", 0)?;
        let btf = Btf::parse_file(Path::new(KERNEL_BTF), Endianness::default())
            .with_context(|| format!("cannot read {KERNEL_BTF}"))?;
        let program: &mut BtfTracePoint = program(&mut ebpf)?.try_into()?;
        program.load("inet_sock_set_state", &btf)?;
        program
            .attach()
            .context("cannot attach an empty program to sock:inet_sock_set_state")?;
        let id = program.info()?.id();
        Ok(Self { _ebpf: ebpf, id })
    }

    /// An XDP program that passes everything; attached to nothing.
    pub(crate) fn xdp() -> Result<Self> {
        const XDP_PASS: i32 = 2;
        let mut ebpf = load("xdp", XDP_PASS)?;
        let program: &mut Xdp = program(&mut ebpf)?.try_into()?;
        program.load()?;
        let id = program.info()?.id();
        Ok(Self { _ebpf: ebpf, id })
    }

    /// The same for TC.
    pub(crate) fn tc() -> Result<Self> {
        const TC_ACT_OK: i32 = 0;
        let mut ebpf = load("classifier", TC_ACT_OK)?;
        let program: &mut SchedClassifier = program(&mut ebpf)?.try_into()?;
        program.load()?;
        let id = program.info()?.id();
        Ok(Self { _ebpf: ebpf, id })
    }
}

fn load(section: &str, value: i32) -> Result<Ebpf> {
    EbpfLoader::new()
        .btf(None)
        .load(&elf(section, value)?)
        .context("cannot load an empty program")
}

fn program(ebpf: &mut Ebpf) -> Result<&mut aya::programs::Program> {
    let there = ebpf.program(NAME).is_some();
    ensure!(there, "the object of an empty program has no program");
    ebpf.program_mut(NAME).context("no program")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_one_program_for_its_hook() -> Result<()> {
        use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
        let elf = elf("xdp", 2)?;
        let file = object::File::parse(&*elf)?;
        let section = file.section_by_name("xdp").context("no section")?;
        assert_eq!(section.data()?, instructions(2));
        assert!(file.symbols().any(|symbol| symbol.name() == Ok(NAME)));
        Ok(())
    }
}
