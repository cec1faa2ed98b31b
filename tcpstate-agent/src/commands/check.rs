//! `check`: what this kernel and these permissions allow.

use std::io;

use anyhow::Context as _;
use tcpstate_common::RecordMask;

use super::{FOUND_WRONG, print};
use crate::{
    bpf::{
        self, KernelLogLevel, LoadOptions, ProgramStatus,
        facts::{Capability, Facts},
        plan::ProgramId,
    },
    netns::{Discovery, Found, VisitError, Visitor},
};

/// Tries everything for real, prints what came of it, and returns the exit code.
pub fn execute() -> anyhow::Result<u8> {
    let facts = Facts::gather();
    let loaded = bpf::load(
        &facts,
        &LoadOptions {
            programs: &ProgramId::ALL,
            record_mask: RecordMask::ABNORMAL_ENDS,
            event_ring_bytes: 0,
            every_owner: false,
            kernel_log: KernelLogLevel::Off,
        },
    )?;
    let visitor = Visitor::new().context("cannot open the agent's own network namespace")?;
    let namespaces = Discovery::default().look_everywhere();
    print(|out| {
        writeln!(out, "kernel {}", facts.kernel_release)?;
        for status in &loaded.programs {
            write_program(out, status)?;
        }
        write_capabilities(out, &facts)?;
        match &namespaces {
            Ok(found) => write_namespaces(out, &visitor, found),
            Err(error) => writeln!(out, "network namespaces: cannot read /proc: {error}"),
        }
    })?;
    let all_run = loaded.programs.iter().all(|status| status.outcome.is_ok());
    Ok(if all_run { 0 } else { FOUND_WRONG })
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
        (Capability::Perfmon, "attach them"),
        (Capability::SysAdmin, "enter other network namespaces"),
        (
            Capability::SysPtrace,
            "find the network namespaces of other users' processes",
        ),
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

/// Enters each, as the agent would.
fn write_namespaces(out: &mut dyn io::Write, visitor: &Visitor, found: &Found) -> io::Result<()> {
    let mut entered = 0;
    let mut refused = Vec::new();
    for namespace in found.namespaces.values() {
        match visitor.visit(namespace, || ()) {
            Ok(()) => entered += 1,
            Err(VisitError::Gone) => {}
            Err(error) => refused.push((namespace, error)),
        }
    }
    writeln!(
        out,
        "network namespaces: {entered} can be counted, {} cannot",
        refused.len() + found.hidden.len()
    )?;
    for (namespace, error) in refused {
        let route = namespace
            .routes
            .first()
            .map(|route| route.display().to_string());
        let route = route.unwrap_or_default();
        writeln!(out, "  {} ({route}): {error}", namespace.inode)?;
    }
    for hidden in &found.hidden {
        let process = hidden.process.display();
        writeln!(
            out,
            "  that of {process}: cannot look into it; grant CAP_SYS_PTRACE"
        )?;
    }
    Ok(())
}
