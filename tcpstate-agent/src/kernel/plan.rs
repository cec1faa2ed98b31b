//! From facts to a plan: which programs can run here, and what keeps the others from it.
//!
//! A pure function. A program whose needs are not met is left out, visibly; the others run.

use std::sync::LazyLock;

use tcpstate_common::{FIELDS, program};

use super::{
    facts::{BtfFacts, Capability, Facts},
    kernel_btf::KERNEL_BTF,
    load::OBJECT,
    needs::{self, Needs},
};

/// What each program reads of the kernel.
static NEEDS: LazyLock<Needs> = LazyLock::new(|| {
    // It was made with this program, and a test reads it.
    needs::read(OBJECT).unwrap_or_default()
});

/// A program of the eBPF objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProgramId {
    /// Counts state transitions and writes event records.
    Transition,
    /// Counts SYN-ACKs that are sent again.
    SynAck,
    /// Counts resets that are sent.
    ResetSent,
    /// Counts resets that come.
    ResetReceived,
    /// Reads the kernel's own tables of sockets.
    Tables,
    /// Tells which processes hold sockets in CLOSE_WAIT, and those that listen.
    Owners,
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    /// At a tracepoint of the kernel, by the name of the program's section.
    Tracepoint(&'static str),
    /// Nowhere by itself: the agent runs it (`BPF_PROG_TEST_RUN` of a raw tracepoint).
    OnRequest,
}

/// What there is to know of a program before it is loaded.
struct Program {
    id: ProgramId,
    /// In the object and in `bpftool`.
    name: &'static str,
    hook: Hook,
    /// What is not known without it.
    purpose: &'static str,
    /// The oldest kernel that has what it needs.
    since: &'static str,
}

/// The programs, in the order in which they are shown.
const PROGRAMS: [Program; 6] = [
    Program {
        id: ProgramId::Transition,
        name: program::TRANSITION,
        hook: Hook::Tracepoint("tp_btf/inet_sock_set_state"),
        purpose: "state transitions, and gauges that move with each of them",
        since: "5.8",
    },
    Program {
        id: ProgramId::SynAck,
        name: program::SYNACK,
        hook: Hook::Tracepoint("tp_btf/tcp_retransmit_synack"),
        purpose: "how many SYN-ACKs are sent again, by listening socket",
        since: "5.8",
    },
    Program {
        id: ProgramId::ResetSent,
        name: program::RESET_SENT,
        hook: Hook::Tracepoint("tp_btf/tcp_send_reset"),
        purpose: "resets that this host sends, and why",
        since: "5.8",
    },
    Program {
        id: ProgramId::ResetReceived,
        name: program::RESET_RECEIVED,
        hook: Hook::Tracepoint("tp_btf/tcp_receive_reset"),
        purpose: "resets that come for connections of this host",
        since: "5.8",
    },
    Program {
        id: ProgramId::Tables,
        name: program::READ_TABLE,
        hook: Hook::OnRequest,
        purpose: "how many sockets there are in each state, why they stay in CLOSE_WAIT, the \
                  queues of listening sockets, and which peers do not answer",
        since: "5.10",
    },
    Program {
        id: ProgramId::Owners,
        name: program::OWNERS,
        hook: Hook::OnRequest,
        purpose: "which processes hold the sockets in CLOSE_WAIT, and those that listen",
        since: "5.10",
    },
];

impl ProgramId {
    /// Every program, in the order in which they are shown.
    pub const ALL: [Self; PROGRAMS.len()] = {
        let mut all = [Self::Transition; PROGRAMS.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = PROGRAMS[at].id;
            at += 1;
        }
        all
    };
    /// Those that look at what there is, and see nothing of what happens.
    pub const SNAPSHOT: [Self; 2] = [Self::Tables, Self::Owners];

    const fn program(self) -> &'static Program {
        // In the order of the enum, which a test holds.
        &PROGRAMS[self as usize]
    }

    /// The program's name in the object and in `bpftool`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.program().name
    }

    /// The hook in the kernel that it attaches to, if it attaches to one.
    #[must_use]
    pub const fn hook(self) -> &'static str {
        match self.program().hook {
            Hook::Tracepoint(section) => section,
            Hook::OnRequest => "run on request",
        }
    }

    /// What is not known without it.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        self.program().purpose
    }

    /// The tracepoint that it is attached to, as the kernel calls it; `None` for one that is not
    /// attached.
    pub(super) fn tracepoint(self) -> Option<&'static str> {
        match self.program().hook {
            Hook::Tracepoint(section) => section.strip_prefix("tp_btf/"),
            Hook::OnRequest => None,
        }
    }
}

/// Why a program cannot run, and what would let it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What is missing.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

/// What to do with one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The program.
    pub program: ProgramId,
    /// `Err` where it cannot run.
    pub verdict: Result<(), Obstacle>,
}

/// Decides for every program whether `facts` allow it.
#[must_use]
pub fn plan(facts: &Facts) -> Vec<Decision> {
    ProgramId::ALL
        .into_iter()
        .map(|program| Decision {
            program,
            verdict: verdict(facts, program),
        })
        .collect()
}

fn verdict(facts: &Facts, program: ProgramId) -> Result<(), Obstacle> {
    let btf = facts.btf.as_ref().map_err(|error| Obstacle {
        cause: format!("the kernel's type information cannot be read: {error}"),
        remedy: format!(
            "run a kernel built with CONFIG_DEBUG_INFO_BTF=y that shows {KERNEL_BTF} \
             (in a container, mount /sys)"
        ),
    })?;
    hook_exists(btf, facts, program)?;
    fields_exist(btf, program)?;
    may_load(facts)
}

fn hook_exists(btf: &BtfFacts, facts: &Facts, program: ProgramId) -> Result<(), Obstacle> {
    let missing = match program.tracepoint() {
        Some(name) if !btf.tracepoints.contains_key(name) => program.hook(),
        None if !btf.has_run_on_request => "BPF_PROG_TEST_RUN of raw tracepoints",
        _ if !btf.has_ring_buffer => "BPF ring buffers",
        _ => return Ok(()),
    };
    Err(Obstacle {
        cause: format!("kernel {} has no {missing}", facts.kernel_release),
        remedy: format!("run Linux {} or newer", program.program().since),
    })
}

fn fields_exist(btf: &BtfFacts, program: ProgramId) -> Result<(), Obstacle> {
    let missing = match program {
        ProgramId::Tables => btf.layout.as_ref().err().map(ToString::to_string),
        ProgramId::Owners => btf.owners.as_ref().err().map(ToString::to_string),
        _ => missing_field(btf, program),
    };
    missing.map_or(Ok(()), |cause| {
        Err(Obstacle {
            cause,
            remedy: "this kernel lays out its sockets in a way this version does not know; \
                     report it with the output of `uname -r`"
                .to_owned(),
        })
    })
}

fn missing_field(btf: &BtfFacts, program: ProgramId) -> Option<String> {
    let needed = NEEDS.get(program.name())?;
    FIELDS
        .iter()
        .filter(|field| !field.is_optional && needed.contains(field.global))
        .find_map(|field| match btf.offsets.get(field.global) {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some(format!("{} was not looked up", field.global)),
        })
}

fn may_load(facts: &Facts) -> Result<(), Obstacle> {
    let needed = [Capability::Bpf, Capability::Perfmon];
    let Some(missing) = facts.capabilities.missing(&needed) else {
        return Ok(());
    };
    Err(Obstacle {
        cause: format!("missing {missing}"),
        remedy: "run as root, or grant CAP_BPF and CAP_PERFMON".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{facts::Capabilities, kernel_btf::FieldError, layout::Layout, pass::OwnerLayout},
        *,
    };

    const EVERY_CAPABILITY: Capabilities = Capabilities(u64::MAX);

    fn btf() -> BtfFacts {
        BtfFacts {
            tracepoints: ProgramId::ALL
                .into_iter()
                .filter_map(ProgramId::tracepoint)
                .zip(1..)
                .collect(),
            has_run_on_request: true,
            owners: Ok(OwnerLayout::default()),
            reset_reasons: Vec::new(),
            has_ring_buffer: true,
            layout: Ok(Box::new(Layout::made_up())),
            offsets: FIELDS.iter().map(|field| (field.global, Ok(8))).collect(),
        }
    }

    fn facts(capabilities: Capabilities, btf: Result<BtfFacts, String>) -> Facts {
        Facts {
            kernel_release: "6.1.0-test".to_owned(),
            capabilities,
            btf,
        }
    }

    fn causes(facts: &Facts) -> Vec<Option<String>> {
        plan(facts)
            .into_iter()
            .map(|decision| decision.verdict.err().map(|obstacle| obstacle.cause))
            .collect()
    }

    fn only(capabilities: &[Capability]) -> Capabilities {
        Capabilities(
            capabilities
                .iter()
                .map(|&capability| 1 << capability as u64)
                .sum(),
        )
    }

    #[test]
    fn everything_runs_where_nothing_is_missing() {
        assert_eq!(
            causes(&facts(EVERY_CAPABILITY, Ok(btf()))),
            [const { None }; 6]
        );
    }

    #[test]
    fn bpf_and_perfmon_suffice_to_load_and_so_does_sys_admin() {
        for capabilities in [
            only(&[Capability::Bpf, Capability::Perfmon]),
            only(&[Capability::SysAdmin]),
        ] {
            assert_eq!(causes(&facts(capabilities, Ok(btf()))), [const { None }; 6]);
        }
    }

    #[test]
    fn each_missing_capability_is_named() {
        for (capabilities, cause) in [
            (only(&[]), "missing CAP_BPF and CAP_PERFMON"),
            (only(&[Capability::Perfmon]), "missing CAP_BPF"),
            (only(&[Capability::Bpf]), "missing CAP_PERFMON"),
        ] {
            let found = causes(&facts(capabilities, Ok(btf())));
            assert_eq!(
                found,
                [const { Some(()) }; 6].map(|found| found.map(|()| cause.to_owned()))
            );
        }
    }

    #[test]
    fn a_kernel_without_btf_runs_nothing_and_says_where_it_looked() {
        let found = plan(&facts(
            EVERY_CAPABILITY,
            Err("/sys/kernel/btf/vmlinux: no such file".to_owned()),
        ));
        for decision in found {
            let obstacle = decision.verdict.unwrap_err();
            assert!(obstacle.cause.contains("/sys/kernel/btf/vmlinux"));
            assert!(obstacle.remedy.contains("CONFIG_DEBUG_INFO_BTF"));
        }
    }

    #[test]
    fn a_missing_hook_turns_off_its_program_alone() {
        for program in ProgramId::ALL {
            let Some(tracepoint) = program.tracepoint() else {
                continue;
            };
            let hook = program.hook();
            let mut without = btf();
            without.tracepoints.remove(tracepoint);
            let causes = causes(&facts(EVERY_CAPABILITY, Ok(without)));
            assert_eq!(
                causes.into_iter().flatten().collect::<Vec<_>>(),
                [format!("kernel 6.1.0-test has no {hook}")]
            );
        }
    }

    #[test]
    fn a_kernel_too_old_for_ring_buffers_is_told_so() {
        let old = BtfFacts {
            has_ring_buffer: false,
            ..btf()
        };
        for cause in causes(&facts(EVERY_CAPABILITY, Ok(old))) {
            assert_eq!(
                cause.as_deref(),
                Some("kernel 6.1.0-test has no BPF ring buffers")
            );
        }
    }

    #[test]
    fn a_missing_field_turns_off_the_programs_that_read_it_and_names_it() {
        let missing = FieldError::NoMember {
            structure: "tcp_sock",
            member: "srtt_us".to_owned(),
            path: "srtt_us",
        };
        let turned_off = |btf| {
            let found = plan(&facts(EVERY_CAPABILITY, Ok(btf)));
            let refused = found.into_iter().filter_map(|decision| {
                let obstacle = decision.verdict.err()?;
                assert_eq!(obstacle.cause, missing.to_string());
                Some(decision.program)
            });
            refused.collect::<Vec<_>>()
        };
        let mut moved = btf();
        moved.offsets.insert("SRTT", Err(missing.clone()));
        assert_eq!(turned_off(moved), [ProgramId::Transition]);
        let moved = BtfFacts {
            layout: Err(missing.clone()),
            ..btf()
        };
        assert_eq!(turned_off(moved), [ProgramId::Tables]);
        let moved = BtfFacts {
            owners: Err(missing.clone()),
            ..btf()
        };
        assert_eq!(turned_off(moved), [ProgramId::Owners]);
    }

    #[test]
    fn a_kernel_that_runs_nothing_on_request_still_shows_what_happens() {
        let old = BtfFacts {
            has_run_on_request: false,
            ..btf()
        };
        let causes = causes(&facts(EVERY_CAPABILITY, Ok(old)));
        let missing = "kernel 6.1.0-test has no BPF_PROG_TEST_RUN of raw tracepoints".to_owned();
        let expected = [None, None, None, None, Some(missing.clone()), Some(missing)];
        assert_eq!(causes, expected);
    }

    #[test]
    fn a_field_that_programs_can_do_without_turns_nothing_off() {
        let mut without = btf();
        for field in FIELDS.iter().filter(|field| field.is_optional) {
            let missing = FieldError::NoStruct {
                structure: field.structure,
            };
            without.offsets.insert(field.global, Err(missing));
        }
        assert_eq!(
            causes(&facts(EVERY_CAPABILITY, Ok(without))),
            [const { None }; 6]
        );
    }

    #[test]
    fn the_table_is_in_the_order_of_the_programs() {
        for (program, id) in PROGRAMS.iter().zip(ProgramId::ALL) {
            assert_eq!(program.id, id);
            assert_eq!(id.name(), program.name);
        }
    }
}
