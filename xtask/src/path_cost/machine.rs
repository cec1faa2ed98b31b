//! Runs an eBPF program instruction by instruction and counts them, as [RFC 9669] has them.
//!
//! [RFC 9669]: https://www.rfc-editor.org/rfc/rfc9669

use anyhow::{Context as _, Result, bail, ensure};
use aya_obj::generated::bpf_insn;

use super::memory::Memory;

/// More is no path that a program is meant to take.
const MOST: u64 = 100_000;
/// Bytes of stack that each function has.
const STACK: u64 = 512;
/// The register that points behind it, and those that a call leaves as they are.
const FRAME: usize = 10;
const SAVED: std::ops::Range<usize> = 6..10;

/// What a run takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathCost {
    pub(crate) instructions: u64,
    /// Among those.
    pub(crate) helper_calls: u64,
}

/// What the kernel does for a program: called with a helper's number and its arguments.
pub(super) trait Kernel {
    fn help(&mut self, memory: &mut Memory, helper: u32, arguments: [u64; 5]) -> Result<u64>;

    /// What a map's descriptor, or with `Some` a place in its first element, is to the program.
    fn map(&self, descriptor: i32, offset: Option<u32>) -> Result<u64>;
}

/// Where a function that calls another goes on, and with what.
struct Caller {
    next: usize,
    frame: u64,
    saved: [u64; 4],
}

/// Runs a program with the address of its context.
pub(super) fn run(
    code: &[bpf_insn],
    memory: &mut Memory,
    kernel: &mut impl Kernel,
    context: u64,
) -> Result<PathCost> {
    let mut taken = PathCost::default();
    let mut registers = [0_u64; 11];
    registers[1] = context;
    registers[FRAME] = new_frame(memory);
    let mut callers: Vec<Caller> = Vec::new();
    let mut at = 0;
    loop {
        let instruction = *code
            .get(at)
            .with_context(|| format!("there is no instruction {at}"))?;
        taken.instructions += 1;
        ensure!(taken.instructions < MOST, "it does not end");
        at += 1;
        let (class, operation) = (instruction.code & 7, instruction.code & 0xf0);
        match (class, operation) {
            (5, 0x80) if instruction.src_reg() == 1 => {
                callers.push(Caller {
                    next: at,
                    frame: registers[FRAME],
                    saved: [0, 1, 2, 3].map(|index| registers[SAVED.start + index]),
                });
                registers[FRAME] = new_frame(memory);
                at = jump(at, instruction.imm)?;
            }
            (5, 0x80) => {
                ensure!(instruction.src_reg() == 0, "a call of the kernel's own");
                let arguments = [1, 2, 3, 4, 5].map(|index| registers[index]);
                taken.helper_calls += 1;
                let helper = instruction.imm.cast_unsigned();
                registers[0] = kernel.help(memory, helper, arguments)?;
            }
            (5, 0x90) => {
                let Some(caller) = callers.pop() else {
                    return Ok(taken);
                };
                at = caller.next;
                registers[FRAME] = caller.frame;
                registers[SAVED].copy_from_slice(&caller.saved);
            }
            (5, 0x00) => at = jump(at, instruction.off.into())?,
            (5 | 6, _) => {
                let (left, right) = operands(instruction, &registers, class == 6);
                if is_met(operation, left, right, class == 6)? {
                    at = jump(at, instruction.off.into())?;
                }
            }
            (0, _) => {
                ensure!(instruction.code == 0x18, "a load of a packet");
                let second = code.get(at).context("half an instruction")?;
                at += 1;
                let offset = second.imm.cast_unsigned();
                registers[usize::from(instruction.dst_reg())] = match instruction.src_reg() {
                    0 => u64::from(instruction.imm.cast_unsigned()) | u64::from(offset) << 32,
                    1 => kernel.map(instruction.imm, None)?,
                    2 => kernel.map(instruction.imm, Some(offset))?,
                    other => bail!("a constant of kind {other}"),
                };
            }
            (1..=3, _) => move_memory(instruction, memory, &mut registers)?,
            (4 | 7, _) => calculate(instruction, &mut registers)?,
            _ => bail!("there is no instruction {:#04x}", instruction.code),
        }
    }
}

fn new_frame(memory: &mut Memory) -> u64 {
    memory.add(vec![0; usize::try_from(STACK).unwrap_or(0)]) + STACK
}

fn jump(at: usize, offset: i32) -> Result<usize> {
    let to = isize::try_from(offset).map(|offset| at.checked_add_signed(offset));
    to?.context("a jump before the beginning")
}

/// The two that an instruction is about; those of 32 bits in the lower halves.
fn operands(instruction: bpf_insn, registers: &[u64; 11], is_narrow: bool) -> (u64, u64) {
    let left = registers[usize::from(instruction.dst_reg())];
    let right = if instruction.code & 8 == 0 {
        i64::from(instruction.imm).cast_unsigned()
    } else {
        registers[usize::from(instruction.src_reg())]
    };
    if is_narrow {
        (left & LOW, right & LOW)
    } else {
        (left, right)
    }
}

const LOW: u64 = 0xffff_ffff;

/// A number of 64 bits, or of 32, with its sign.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is asked for"
)]
fn signed(number: u64, is_narrow: bool) -> i64 {
    if is_narrow {
        (number as i32).into()
    } else {
        number.cast_signed()
    }
}

fn is_met(operation: u8, left: u64, right: u64, is_narrow: bool) -> Result<bool> {
    let (signed_left, signed_right) = (signed(left, is_narrow), signed(right, is_narrow));
    Ok(match operation {
        0x10 => left == right,
        0x20 => left > right,
        0x30 => left >= right,
        0x40 => left & right != 0,
        0x50 => left != right,
        0x60 => signed_left > signed_right,
        0x70 => signed_left >= signed_right,
        0xa0 => left < right,
        0xb0 => left <= right,
        0xc0 => signed_left < signed_right,
        0xd0 => signed_left <= signed_right,
        other => bail!("there is no jump {other:#04x}"),
    })
}

fn calculate(instruction: bpf_insn, registers: &mut [u64; 11]) -> Result<()> {
    let is_narrow = instruction.code & 7 == 4;
    ensure!(
        instruction.off == 0,
        "a signed division or move, which the target has not"
    );
    let (left, right) = operands(instruction, registers, is_narrow);
    let width = if is_narrow { 31 } else { 63 };
    let result = match instruction.code & 0xf0 {
        0x00 => left.wrapping_add(right),
        0x10 => left.wrapping_sub(right),
        0x20 => left.wrapping_mul(right),
        0x30 => left.checked_div(right).unwrap_or(0),
        0x40 => left | right,
        0x50 => left & right,
        0x60 => left << (right & width),
        0x70 => left >> (right & width),
        0x80 => left.wrapping_neg(),
        0x90 => left.checked_rem(right).unwrap_or(left),
        0xa0 => left ^ right,
        0xb0 => right,
        0xc0 => (signed(left, is_narrow) >> (right & width)).cast_unsigned(),
        other => bail!("there is no operation {other:#04x}"),
    };
    registers[usize::from(instruction.dst_reg())] = if is_narrow { result & LOW } else { result };
    Ok(())
}

fn move_memory(
    instruction: bpf_insn,
    memory: &mut Memory,
    registers: &mut [u64; 11],
) -> Result<()> {
    let length = match instruction.code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    };
    let offset = i64::from(instruction.off);
    let (to, from) = (
        usize::from(instruction.dst_reg()),
        usize::from(instruction.src_reg()),
    );
    let (class, mode) = (instruction.code & 7, instruction.code & 0xe0);
    match (class, mode) {
        (1, 0x60) => {
            registers[to] = memory.load(registers[from].wrapping_add_signed(offset), length)?;
        }
        (2 | 3, 0x60) => {
            let number = if class == 2 {
                i64::from(instruction.imm).cast_unsigned()
            } else {
                registers[from]
            };
            memory.store(registers[to].wrapping_add_signed(offset), length, number)?;
        }
        // An atomic addition whose result nobody asks for.
        (3, 0xc0) if instruction.imm == 0 => {
            let address = registers[to].wrapping_add_signed(offset);
            let sum = memory.load(address, length)?.wrapping_add(registers[from]);
            memory.store(address, length, sum)?;
        }
        _ => bail!("there is no access to memory {:#04x}", instruction.code),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has one helper, which gives the sum of the first two arguments.
    struct Adder;

    impl Kernel for Adder {
        fn help(&mut self, _: &mut Memory, helper: u32, arguments: [u64; 5]) -> Result<u64> {
            ensure!(helper == 7, "no helper {helper}");
            Ok(arguments[0] + arguments[1])
        }

        fn map(&self, descriptor: i32, _: Option<u32>) -> Result<u64> {
            bail!("no map {descriptor}")
        }
    }

    /// An instruction: code, registers to and from, offset and constant.
    fn instruction((code, to, from, off, imm): (u8, u8, u8, i16, i32)) -> bpf_insn {
        let mut instruction = aya_obj::copy_instructions(&[code, 0, 0, 0, 0, 0, 0, 0])
            .expect("eight bytes are an instruction")[0];
        instruction.set_dst_reg(to);
        instruction.set_src_reg(from);
        (instruction.off, instruction.imm) = (off, imm);
        instruction
    }

    const MOVE: u8 = 0xb7;
    const EXIT: (u8, u8, u8, i16, i32) = (0x95, 0, 0, 0, 0);

    /// Runs a program, and tells what it took and what it left in its context of 16 bytes.
    fn outcome(program: &[(u8, u8, u8, i16, i32)]) -> Result<(PathCost, [u64; 2])> {
        let code: Vec<bpf_insn> = program.iter().copied().map(instruction).collect();
        let mut memory = Memory::default();
        let context = memory.add(vec![0; 16]);
        let taken = run(&code, &mut memory, &mut Adder, context)?;
        Ok((
            taken,
            [memory.load(context, 8)?, memory.load(context + 8, 8)?],
        ))
    }

    #[test]
    fn instructions_are_counted_on_the_path_that_is_taken_alone() -> Result<()> {
        let program = [
            (MOVE, 2, 0, 0, 5),
            // Not taken, and then taken.
            (0x15, 2, 0, 3, 4),
            (0x55, 2, 0, 1, 4),
            (MOVE, 2, 0, 0, 9),
            (0x7b, 1, 2, 8, 0),
            EXIT,
        ];
        let (taken, left) = outcome(&program)?;
        assert_eq!((taken.instructions, left), (5, [0, 5]));
        Ok(())
    }

    #[test]
    fn a_called_function_has_a_stack_of_its_own_and_gives_saved_registers_back() -> Result<()> {
        let program = [
            (0xbf, 6, 1, 0, 0),
            (0x7a, 10, 0, -8, 1),
            (0x85, 0, 1, 0, 3),
            (0x79, 2, 10, -8, 0),
            (0x7b, 6, 2, 0, 0),
            EXIT,
            // The function.
            (0x7a, 10, 0, -8, 2),
            (MOVE, 6, 0, 0, 0),
            EXIT,
        ];
        let (taken, left) = outcome(&program)?;
        assert_eq!((taken.instructions, left), (9, [1, 0]));
        Ok(())
    }

    #[test]
    fn helpers_are_counted_and_one_that_is_not_known_is_an_error() -> Result<()> {
        let program = |helper| {
            [
                (0xbf, 6, 1, 0, 0),
                (MOVE, 1, 0, 0, 40),
                (MOVE, 2, 0, 0, 2),
                (0x85, 0, 0, 0, helper),
                (0x7b, 6, 0, 0, 0),
                EXIT,
            ]
        };
        let (taken, left) = outcome(&program(7))?;
        assert_eq!((taken.helper_calls, left), (1, [42, 0]));
        assert!(outcome(&program(8)).is_err());
        Ok(())
    }

    #[test]
    fn numbers_of_32_bits_have_no_upper_half_and_a_sign_of_their_own() -> Result<()> {
        let program = [
            // -1 of 32 bits, shifted right by one with its sign.
            (0xb4, 2, 0, 0, -1),
            (0xc4, 2, 0, 0, 1),
            (0x7b, 1, 2, 0, 0),
            // -1 of 64 bits without one.
            (MOVE, 3, 0, 0, -1),
            (0x77, 3, 0, 0, 60),
            (0x7b, 1, 3, 8, 0),
            EXIT,
        ];
        assert_eq!(outcome(&program)?.1, [LOW, 15]);
        Ok(())
    }

    #[test]
    fn what_does_not_end_or_leaves_its_memory_is_an_error() {
        assert!(outcome(&[(0x05, 0, 0, -1, 0)]).is_err());
        assert!(outcome(&[(0x79, 2, 1, 16, 0), EXIT]).is_err());
        assert!(outcome(&[(MOVE, 2, 0, 0, 0)]).is_err());
    }
}
