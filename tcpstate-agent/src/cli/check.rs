//! `check`: what this kernel and these permissions allow.

use std::io;

use anyhow::Context as _;
use clap::Args;
use tcpstate_common::RecordMask;

use super::{
    output::print,
    segments::{SegmentArgs, follow_segments},
};
use crate::{
    collect::segments::{Below, DeviceState, Seen, SegmentSettings, plan::plan},
    host::netlink::{Netlink, Offloads, XdpPresence},
    kernel::{
        self, KernelLogLevel, KernelTables, LoadOptions, ProgramStatus, SegmentOptions,
        facts::{Capability, Facts},
        plan::ProgramId,
    },
};

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub(super) struct CheckArgs {
    /// Where and how segments are to be counted; without it, what is on the interfaces already.
    #[command(flatten)]
    pub(super) segments: SegmentArgs,
}

/// Exit code of a command that did its work and found something wrong.
const FOUND_WRONG: u8 = 1;

/// Tries everything for real, prints what came of it, and returns the exit code.
pub(super) fn execute(segments: &SegmentSettings) -> anyhow::Result<u8> {
    let facts = Facts::gather();
    let mut loaded = kernel::load(
        &facts,
        &LoadOptions {
            programs: &ProgramId::ALL,
            record_mask: RecordMask::ABNORMAL_ENDS,
            event_ring_bytes: 0,
            every_owner: false,
            kernel_log: KernelLogLevel::Off,
        },
    )?;
    let namespaces = loaded
        .tables
        .as_mut()
        .map(KernelTables::namespaces)
        .transpose();
    print(|out| {
        writeln!(out, "kernel {}", facts.kernel_release)?;
        for status in &loaded.programs {
            write_program(out, status)?;
        }
        write_capabilities(out, &facts)?;
        match &namespaces {
            Ok(Some(found)) => writeln!(out, "network namespaces: {}", found.len()),
            // The program above says why.
            Ok(None) => Ok(()),
            Err(error) => writeln!(out, "network namespaces: cannot be read: {error}"),
        }
    })?;
    let interfaces_are_fine = check_interfaces(&facts, segments)?;
    let all_run = loaded.programs.iter().all(|status| status.outcome.is_ok());
    let is_fine = all_run && interfaces_are_fine;
    Ok(if is_fine { 0 } else { FOUND_WRONG })
}

fn write_program(out: &mut dyn io::Write, status: &ProgramStatus) -> io::Result<()> {
    let ProgramStatus { program, outcome } = status;
    let (name, hook, purpose) = (program.name(), program.hook(), program.purpose());
    match outcome {
        Ok(verified) => {
            writeln!(
                out,
                "program {name} ({hook}): runs, {verified} instructions verified"
            )?;
            writeln!(out, "  {purpose}")
        }
        Err(obstacle) => {
            writeln!(out, "program {name} ({hook}): does not run")?;
            writeln!(out, "  not known without it: {purpose}")?;
            writeln!(out, "  cause: {}", obstacle.cause)?;
            writeln!(out, "  remedy: {}", obstacle.remedy)
        }
    }
}

fn write_capabilities(out: &mut dyn io::Write, facts: &Facts) -> io::Result<()> {
    for (capability, purpose) in [
        (Capability::Bpf, "load programs"),
        (
            Capability::Perfmon,
            "attach them, and read the kernel's tables",
        ),
        (Capability::NetAdmin, "count segments on network interfaces"),
    ] {
        let answer = if facts.capabilities.has(capability) {
            "yes"
        } else {
            "missing"
        };
        writeln!(out, "{} ({purpose}): {answer}", capability.name())?;
    }
    Ok(())
}

/// On each network interface: what could be attached and what is there already. Those that are
/// asked for are tried for real. Returns whether all of those can be counted.
fn check_interfaces(facts: &Facts, settings: &SegmentSettings) -> anyhow::Result<bool> {
    let interfaces = Netlink::open().and_then(|mut netlink| netlink.interfaces());
    let interfaces = interfaces.context("cannot list the network interfaces")?;
    let mut offloads = Offloads::open().ok();
    let plans = interfaces.iter().map(|interface| {
        let below = Below::ask(interface, &interfaces, offloads.as_mut());
        plan(interface, &below, settings.xdp)
    });
    // Before anything is attached, which would be found there.
    let plans: Vec<_> = plans.collect();
    // Attached for as long as it takes to tell.
    let states = if settings.devices.is_empty() {
        Vec::new()
    } else {
        follow_segments(facts, SegmentOptions::default(), settings.clone())?.states()
    };
    print(|out| {
        for (interface, plan) in interfaces.iter().zip(&plans) {
            write!(out, "interface {}: ", interface.name)?;
            match interface.xdp {
                Some(XdpPresence { mode, program }) => {
                    write!(out, "XDP program {program} is there ({mode})")?;
                }
                None => write!(out, "no XDP program")?,
            }
            match plan {
                Ok(plan) => {
                    writeln!(out, ", segments can be counted")?;
                    write_without_xdp(out, plan.without_xdp.as_ref())?;
                }
                Err(obstacle) => writeln!(out, ", {}", obstacle.cause)?,
            }
        }
        states.iter().try_for_each(|state| write_device(out, state))
    })?;
    Ok(states.iter().all(|state| state.outcome.is_ok()))
}

fn write_device(out: &mut dyn io::Write, state: &DeviceState) -> io::Result<()> {
    let DeviceState { name, outcome } = state;
    match outcome {
        Ok(Seen {
            means: [ingress, egress],
            without_xdp,
            behind,
        }) => {
            writeln!(
                out,
                "segments on {name}: what comes in by {ingress}, what goes out by {egress}"
            )?;
            write_without_xdp(out, without_xdp.as_ref())?;
            behind
                .iter()
                .try_for_each(|why| writeln!(out, "  not every segment: {why}"))
        }
        Err(obstacle) => {
            writeln!(out, "segments on {name}: cannot be counted")?;
            writeln!(out, "  cause: {}", obstacle.cause)?;
            writeln!(out, "  remedy: {}", obstacle.remedy)
        }
    }
}

fn write_without_xdp(out: &mut dyn io::Write, why: Option<&String>) -> io::Result<()> {
    match why {
        Some(why) => writeln!(out, "  without XDP: {why}"),
        None => Ok(()),
    }
}
