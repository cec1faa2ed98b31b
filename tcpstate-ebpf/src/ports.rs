//! The local ports of a network namespace, as a pass of `iter/tcp` gets to know them.

use aya_ebpf::{macros::map, maps::Array};
use tcpstate_common::PortSet;

/// By port: the pass that last found something there, and what. It spares the connections of
/// clients the lookup of a listener, and most others a second one.
#[map]
static PORTS: Array<u32> = Array::with_max_entries(1 << 16, 0);

/// The ports that `connect()` may choose. The agent writes them before the pass.
#[map]
static PORT_RANGE: Array<PortSet> = Array::with_max_entries(1, 0);

/// What a pass can know of a port, in the lowest bits of its element.
const ON_ONE: u32 = 1;
const ON_ANY: u32 = 2;
const BOUND: u32 = 4;
const CHOSEN: u32 = 8;
const KNOWN: u32 = ON_ONE | ON_ANY | BOUND | CHOSEN;

/// How the kernel came to give a port away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// It was asked for: `bind()`, or `listen()` without it. `connect()` passes over such a port,
    /// wherever it is to go to.
    Bound,
    /// At `connect()`, which may give it away again for another destination.
    Chosen,
}

/// A port and what is known of it.
pub(crate) struct Port {
    number: u16,
    element: *mut u32,
    known: u32,
}

impl Port {
    /// What this pass knows.
    #[inline(always)]
    pub(crate) fn look(number: u16, pass: u32) -> Option<Self> {
        let element = PORTS.get_ptr_mut(number.into())?;
        // Both fit: the agent counts passes below 2^28.
        let this_pass = pass << KNOWN.count_ones();
        // SAFETY: the map gave a valid element; only one pass runs at a time.
        let known = unsafe { *element };
        let known = if known & !KNOWN == this_pass {
            known
        } else {
            this_pass
        };
        Some(Self {
            number,
            element,
            known,
        })
    }

    /// The number.
    #[inline(always)]
    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    /// Something listens there.
    #[inline(always)]
    pub(crate) const fn is_served(&self) -> bool {
        self.known & (ON_ONE | ON_ANY) != 0
    }

    /// Something listens there, on one address.
    #[inline(always)]
    pub(crate) const fn is_served_on_one(&self) -> bool {
        self.known & ON_ONE != 0
    }

    /// Something listens there, on any address.
    #[inline(always)]
    pub(crate) const fn is_served_on_any(&self) -> bool {
        self.known & ON_ANY != 0
    }

    /// How it was given away, if the pass knows that.
    #[inline(always)]
    pub(crate) const fn given(&self) -> Option<Given> {
        if self.known & BOUND != 0 {
            Some(Given::Bound)
        } else if self.known & CHOSEN != 0 {
            Some(Given::Chosen)
        } else {
            None
        }
    }

    /// Takes note of what listens there.
    #[inline(always)]
    pub(crate) fn serve(&mut self, on_any: bool) {
        self.note(if on_any { ON_ANY } else { ON_ONE });
    }

    /// Takes note of how it was given away.
    #[inline(always)]
    pub(crate) fn give(&mut self, given: Given) {
        self.note(match given {
            Given::Bound => BOUND,
            Given::Chosen => CHOSEN,
        });
    }

    #[inline(always)]
    fn note(&mut self, bit: u32) {
        self.known |= bit;
        // SAFETY: the map gave a valid element; only one pass runs at a time.
        unsafe { *self.element = self.known };
    }

    /// Whether `connect()` may choose it, if nobody has bound it.
    #[inline(always)]
    pub(crate) fn can_be_chosen(&self) -> bool {
        let Some(range) = PORT_RANGE.get_ptr(0) else {
            return false;
        };
        // SAFETY: the map gave a valid element, which nobody writes during a pass; the number of
        // a port is within the set.
        let word = unsafe { (*range)[usize::from(self.number >> 6)] };
        (word >> (self.number & 63)) & 1 != 0
    }
}
