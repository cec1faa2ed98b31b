//! From facts to a plan: which programs can run here, and what keeps the others from it.
//!
//! A pure function. A program whose needs are not met is left out, visibly; the others run.

use tcpstate_common::{FIELDS, program};

use super::{
    facts::{BtfFacts, Capability, Facts},
    kernel_btf::KERNEL_BTF,
};

/// A program of the eBPF object.
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

impl ProgramId {
    /// Every program, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::Transition,
        Self::SynAck,
        Self::ResetSent,
        Self::ResetReceived,
        Self::Tables,
        Self::Owners,
    ];
    /// Those that look at what there is, and see nothing of what happens.
    pub const SNAPSHOT: [Self; 2] = [Self::Tables, Self::Owners];

    /// The program's name in the object and in `bpftool`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transition => program::TRANSITION,
            Self::Tables => program::READ_TABLE,
            Self::Owners => program::OWNERS,
            Self::SynAck => program::SYNACK,
            Self::ResetSent => program::RESET_SENT,
            Self::ResetReceived => program::RESET_RECEIVED,
        }
    }

    /// The hook in the kernel that it attaches to.
    #[must_use]
    pub const fn hook(self) -> &'static str {
        match self {
            Self::Transition => "tp_btf/inet_sock_set_state",
            Self::Tables | Self::Owners => "run on request",
            Self::SynAck => "tp_btf/tcp_retransmit_synack",
            Self::ResetSent => "tp_btf/tcp_send_reset",
            Self::ResetReceived => "tp_btf/tcp_receive_reset",
        }
    }

    /// What is not known without it.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Transition => "state transitions, and gauges that move with each of them",
            Self::Tables => {
                "how many sockets there are in each state, why they stay in CLOSE_WAIT, the queues \
                 of listening sockets, and which peers do not answer"
            }
            Self::Owners => "which processes hold the sockets in CLOSE_WAIT, and those that listen",
            Self::SynAck => "how many SYN-ACKs are sent again, by listening socket",
            Self::ResetSent => "resets that this host sends, and why",
            Self::ResetReceived => "resets that come for connections of this host",
        }
    }

    /// The oldest kernel that has what the program needs.
    const fn since(self) -> &'static str {
        match self {
            Self::Transition | Self::SynAck | Self::ResetSent | Self::ResetReceived => "5.8",
            Self::Tables | Self::Owners => "5.10",
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
    let hook = match program {
        ProgramId::Transition => btf.has_state_tracepoint,
        ProgramId::Tables | ProgramId::Owners => btf.has_run_on_request,
        ProgramId::SynAck => btf.has_synack_tracepoint,
        ProgramId::ResetSent => btf.has_reset_sent_tracepoint,
        ProgramId::ResetReceived => btf.has_reset_received_tracepoint,
    };
    let missing = if !hook && is_run(program) {
        "BPF_PROG_TEST_RUN of raw tracepoints"
    } else if !hook {
        program.hook()
    } else if !btf.has_ring_buffer {
        "BPF ring buffers"
    } else {
        return Ok(());
    };
    Err(Obstacle {
        cause: format!("kernel {} has no {missing}", facts.kernel_release),
        remedy: format!("run Linux {} or newer", program.since()),
    })
}

/// Whether it is attached to nothing.
const fn is_run(program: ProgramId) -> bool {
    matches!(program, ProgramId::Tables | ProgramId::Owners)
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
    FIELDS
        .iter()
        .filter(|field| field.needed_by.contains(&program.name()))
        .find_map(|field| match btf.offsets.get(field.global) {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some(format!(
                "{}.{} was not looked up",
                field.structure, field.path
            )),
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
            has_state_tracepoint: true,
            has_run_on_request: true,
            owners: Ok(OwnerLayout::default()),
            has_synack_tracepoint: true,
            has_reset_sent_tracepoint: true,
            has_reset_received_tracepoint: true,
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
        let without_tracepoint = BtfFacts {
            has_state_tracepoint: false,
            ..btf()
        };
        let without_resets = BtfFacts {
            has_reset_sent_tracepoint: false,
            ..btf()
        };
        for (btf, hook) in [
            (without_tracepoint, "tp_btf/inet_sock_set_state"),
            (without_resets, "tp_btf/tcp_send_reset"),
        ] {
            let causes = causes(&facts(EVERY_CAPABILITY, Ok(btf)));
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
        for field in FIELDS.iter().filter(|field| field.needed_by.is_empty()) {
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
    fn every_field_is_needed_by_a_program_that_exists() {
        for field in FIELDS {
            for name in field.needed_by {
                assert!(
                    ProgramId::ALL.iter().any(|program| program.name() == *name),
                    "{} is for {name}, which does not exist",
                    field.global
                );
            }
        }
    }
}
