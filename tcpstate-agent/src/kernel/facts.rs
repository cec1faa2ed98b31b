//! What this host offers: learned once, before anything is loaded.
//!
//! Facts are plain values. What follows from them is decided in [`plan`](super::plan), which can
//! therefore be tested for every kernel and every set of permissions without having them.

use std::{collections::BTreeMap, path::Path};

use tcpstate_common::FIELDS;

use super::{
    kernel_btf::{FieldError, KERNEL_BTF, KernelBtf},
    layout::Layout,
    pass::OwnerLayout,
    plan::ProgramId,
};
use crate::decode::btf::TypeId;

/// What the agent needs to know of kernel and permissions.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Release of the running kernel, as `uname -r` prints it.
    pub kernel_release: String,
    /// What this process may do.
    pub capabilities: Capabilities,
    /// What the kernel's BTF says, or why it cannot be read.
    pub btf: Result<BtfFacts, String>,
}

/// What the kernel's BTF says.
#[derive(Clone, Debug)]
pub struct BtfFacts {
    /// The tracepoints that programs can be attached to, of those that some program wants, and the
    /// numbers of their types.
    pub tracepoints: BTreeMap<&'static str, TypeId>,
    /// Raw tracepoint programs can be run on request.
    pub has_run_on_request: bool,
    /// Why resets are sent, in words, by the kernel's numbers; none where it does not tell.
    pub reset_reasons: Vec<String>,
    /// BPF ring buffers exist.
    pub has_ring_buffer: bool,
    /// Where the kernel keeps what a walk over its processes reads, or what is missing.
    pub owners: Result<OwnerLayout, FieldError>,
    /// Where things lie in the kernel's tables, or what is missing.
    pub layout: Result<Box<Layout>, FieldError>,
    /// Offset by the name of the global that wants it.
    pub offsets: BTreeMap<&'static str, Result<u32, FieldError>>,
}

/// Effective capabilities, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(pub u64);

/// A capability of [capabilities(7)] that the agent has a use for.
///
/// [capabilities(7)]: https://man7.org/linux/man-pages/man7/capabilities.7.html
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Attaches programs to network interfaces.
    NetAdmin = 12,
    /// Does for `Perfmon` and `Bpf` as well.
    SysAdmin = 21,
    /// Attaches tracing programs, and lets programs read the kernel's memory.
    Perfmon = 38,
    /// Loads programs and makes maps.
    Bpf = 39,
}

impl Capability {
    /// The name as systemd units and container specifications spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

impl Capabilities {
    /// Whether `capability` is there, itself or through the older `CAP_SYS_ADMIN`.
    #[must_use]
    pub const fn has(self, capability: Capability) -> bool {
        let sys_admin = self.0 & (1 << Capability::SysAdmin as u64) != 0;
        match capability {
            Capability::Bpf | Capability::Perfmon if sys_admin => true,
            _ => self.0 & (1 << capability as u64) != 0,
        }
    }

    /// The names of those of `needed` that are not there, in words; `None` where all are.
    #[must_use]
    pub fn missing(self, needed: &[Capability]) -> Option<String> {
        let missing: Vec<&str> = needed
            .iter()
            .filter(|&&capability| !self.has(capability))
            .map(|capability| capability.name())
            .collect();
        (!missing.is_empty()).then(|| missing.join(" and "))
    }
}

impl Facts {
    /// Looks at this host.
    #[must_use]
    pub fn gather() -> Self {
        // Of the calling thread, which loads the programs too. This needs no /proc.
        let capabilities = rustix::thread::capabilities(None)
            .map_or(Capabilities(0), |sets| Capabilities(sets.effective.bits()));
        Self {
            kernel_release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            capabilities,
            btf: BtfFacts::read(Path::new(KERNEL_BTF)),
        }
    }
}

impl BtfFacts {
    fn read(path: &Path) -> Result<Self, String> {
        KernelBtf::open(path)
            .map(|btf| Self::of(&btf))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// What these types say.
    #[must_use]
    pub fn of(btf: &KernelBtf) -> Self {
        Self {
            tracepoints: ProgramId::ALL
                .into_iter()
                .filter_map(ProgramId::tracepoint)
                .filter_map(|name| Some((name, btf.typedef(&type_of_tracepoint(name))?)))
                .collect(),
            has_run_on_request: btf.has_function("bpf_prog_test_run_raw_tp"),
            reset_reasons: reset_reasons(btf),
            has_ring_buffer: btf.has_enum_value("bpf_map_type", "BPF_MAP_TYPE_RINGBUF"),
            owners: OwnerLayout::resolve(btf),
            layout: Layout::find(btf).map(Box::new),
            offsets: FIELDS
                .iter()
                .map(|field| (field.global, btf.offset(field)))
                .collect(),
        }
    }
}

/// The typedef by which a program is attached to a tracepoint.
pub(super) fn type_of_tracepoint(name: &str) -> String {
    format!("btf_trace_{name}")
}

/// Where the kernel tells why it sends a reset (Linux 6.11), its names for that. The argument of
/// the tracepoint is what counts: the names came a version earlier.
fn reset_reasons(btf: &KernelBtf) -> Vec<String> {
    // The first parameter is the tracing program's own.
    let arguments = btf.parameters("btf_trace_tcp_send_reset").unwrap_or(0);
    if arguments < 4 {
        return Vec::new();
    }
    let names = btf.enum_values("sk_rst_reason");
    names.into_iter().map(|name| reset_reason(&name)).collect()
}

/// `SK_RST_REASON_TCP_ABORT_ON_DATA` becomes `tcp_abort_on_data`.
fn reset_reason(name: &str) -> String {
    let name = name.strip_prefix("SK_RST_REASON_").unwrap_or(name);
    if name == "NOT_SPECIFIED" {
        return UNKNOWN_RESET.to_owned();
    }
    name.to_ascii_lowercase()
}

/// The reason of a reset of which the kernel does not say why.
pub const UNKNOWN_RESET: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named_as_the_kernel_names_them() {
        assert_eq!(
            reset_reason("SK_RST_REASON_TCP_ABORT_ON_DATA"),
            "tcp_abort_on_data"
        );
        assert_eq!(reset_reason("SK_RST_REASON_NOT_SPECIFIED"), "unknown");
    }
}
