//! Code that the CPU runs: from registers and a stack to addresses, and from those to functions and
//! lines.

mod debug_info;
mod demangle;
mod go_table;
mod image;
mod mini_debug_info;
mod modules;
mod registers;
mod scan;
mod sizes;
mod symbols;
mod unwind;

pub use modules::{Modules, NativeFrame};
pub use registers::UserRegisters;
#[cfg(feature = "fuzzing")]
pub use unwind::unwind_by;
pub use unwind::{StackEnd, Unwound};
