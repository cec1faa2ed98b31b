//! What a code object says of itself.

use tcpstate_common::PythonFrame;

use super::{field, layout::Layout, strings};
use crate::code_location::{frame::Frame, memory::Memory};

/// The function, file and line of a frame; `None` where its code is none, or the interpreter's own.
pub(super) fn read(layout: &Layout, frame: PythonFrame, memory: &dyn Memory) -> Option<Frame> {
    let code = &layout.code;
    let object = |offset: u32| memory.word(field(frame.code, offset)).ok();
    let file = strings::text(layout, object(code.filename)?, memory)?;
    let function = strings::text(layout, object(code.name)?, memory)?;
    // What the interpreter puts between calls from C has such names, and no file.
    if function.is_empty() || file.is_empty() || function.starts_with("<interpreter") {
        return None;
    }
    let offset = match code.bytecode {
        // An address within the code.
        Some(bytecode) => frame
            .instruction
            .checked_sub(field(frame.code, bytecode))
            // Before the first one: the function has not begun.
            .filter(|offset| *offset < 1 << 32),
        // A number, of bytes or of units; -1 before the first one.
        None => Some(frame.instruction)
            .filter(|instruction| *instruction < 1 << 31)
            .map(|instruction| instruction * code.instruction_unit),
    };
    let line = offset.and_then(|offset| {
        let table = strings::bytes(object(code.line_table)?, memory)?;
        let first = memory.half(field(frame.code, code.first_line)).ok()?;
        code.lines.line(&table, first, offset)
    });
    Some(Frame::python(function, file, line))
}
