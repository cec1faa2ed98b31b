//! The repository's own packetdrill scripts, run beside the agent: what it counts of each connection
//! is what the script says that it was. For whoever has packetdrill; no step of `cargo xtask ci`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bench::{self, Agent, Exposition},
    folder, process, workspace,
};

const SCRIPTS: &str = "tcpstate-agent/tests/packetdrill";
/// Within what the agent shows what a script has made.
const PATIENCE: Duration = Duration::from_secs(5);
/// In a network namespace of its own, with nothing in it that a script does not make.
const IN_NAMESPACE: &str = "sysctl -q net.ipv4.tcp_timestamps=0 net.ipv4.tcp_ecn=0
exec \"$0\" \"$@\"";

/// A line `// expect …` of a script.
#[derive(Debug, PartialEq)]
enum Expectation {
    /// So many connections ended for this reason.
    Closes { reason: String, count: f64 },
    /// One state lasted longer than the first and no longer than the second: bounds of buckets, in
    /// seconds. Other sockets of this host may add to any sum.
    Duration {
        state: String,
        above: String,
        most: String,
    },
}

impl Expectation {
    fn parse(line: &str) -> Result<Option<Self>> {
        let Some(words) = line.strip_prefix("// expect ") else {
            return Ok(None);
        };
        let words: Vec<&str> = words.split(' ').collect();
        Ok(Some(match words[..] {
            ["closes", reason, count] => Self::Closes {
                reason: reason.to_owned(),
                count: count.parse()?,
            },
            ["duration", state, above, most] => Self::Duration {
                state: state.to_owned(),
                above: above.to_owned(),
                most: most.to_owned(),
            },
            _ => bail!("no expectation: {line}"),
        }))
    }

    /// Whether it came true between two pages of metrics.
    fn check(&self, before: &Exposition, after: &Exposition) -> Result<(), String> {
        let rose = |metric: &str, labels: &[(&str, &str)]| {
            let [before, after] = [before, after].map(|page| page.sum(metric, labels));
            after.unwrap_or(f64::NAN) - before.unwrap_or(f64::NAN)
        };
        match self {
            Self::Closes { reason, count } => {
                let found = rose("tcpstate_closes_total", &[("reason", reason)]);
                // Others of this host may have ended meanwhile.
                is_met(found >= *count, format!("{reason}: {found}, not {count}"))
            }
            Self::Duration { state, above, most } => {
                let up_to = |bound: &str| {
                    let labels = [("state", state.as_str()), ("le", bound)];
                    rose("tcpstate_state_duration_seconds_bucket", &labels)
                };
                let found = up_to(most) - up_to(above);
                // Nothing on this host is older than a day and ends in this very second.
                let endless = up_to("+Inf") - up_to("86400");
                is_met(
                    found >= 1.0 && endless == 0.0,
                    format!("{state}: {found} of {above} to {most} s, {endless} of days"),
                )
            }
        }
    }
}

fn is_met(is_met: bool, fault: String) -> Result<(), String> {
    if is_met { Ok(()) } else { Err(fault) }
}

/// `cargo xtask test packetdrill`.
pub(crate) fn run() -> Result<()> {
    let packetdrill =
        process::find("packetdrill").context("packetdrill is not installed: not in PATH")?;
    let mut scripts = folder::entries(&workspace::root()?.join(SCRIPTS))?;
    scripts.sort();
    ensure!(!scripts.is_empty(), "no scripts in {SCRIPTS}");
    process::run(process::cargo()?.args(["build", "--locked", "--package", "tcpstate-agent"]))?;
    let binary = bench::target_folder()?.join("debug/tcpstate-agent");
    let agent = Agent::start(&binary, &[])?;
    let mut failed = 0;
    for script in &scripts {
        let name = folder::name(script);
        match check(&packetdrill, script, &agent) {
            Ok(()) => println!("{name}: ok"),
            Err(error) => {
                failed += 1;
                println!("{name}: FAILED: {error:#}");
            }
        }
    }
    agent.end()?;
    ensure!(failed == 0, "{failed} of {} scripts failed", scripts.len());
    Ok(())
}

fn check(packetdrill: &Path, script: &PathBuf, agent: &Agent) -> Result<()> {
    let text = fs::read_to_string(script)?;
    let mut expectations = Vec::new();
    for line in text.lines() {
        expectations.extend(Expectation::parse(line)?);
    }
    ensure!(!expectations.is_empty(), "it expects nothing");
    let (before, _) = agent.scrape()?;
    process::output(
        Command::new("unshare")
            .args(["--net", "sh", "-c", IN_NAMESPACE])
            .arg(packetdrill)
            .args([
                "--ip_version=ipv4",
                "--local_ip=192.168.0.1",
                "--gateway_ip=192.168.0.1",
                "--netmask_ip=255.255.0.0",
                "--remote_ip=192.0.2.1",
                // What is checked is what the agent makes of it, on a machine that may be busy.
                "--tolerance_usecs=50000",
            ])
            .arg(script),
    )?;
    let mut faults = Vec::new();
    let met = agent.until(PATIENCE, "what the script says", |after| {
        faults = expectations
            .iter()
            .filter_map(|expectation| expectation.check(&before, after).err())
            .collect();
        faults.is_empty().then_some(())
    });
    met.with_context(|| faults.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_expects_something_that_is_understood() -> Result<()> {
        for script in folder::entries(&workspace::root()?.join(SCRIPTS))? {
            let text = fs::read_to_string(&script)?;
            let mut count = 0;
            for line in text.lines() {
                count += usize::from(Expectation::parse(line)?.is_some());
            }
            assert!(count > 0, "{}", script.display());
        }
        Ok(())
    }

    #[test]
    fn what_did_not_happen_is_told() -> Result<()> {
        let page = |count: u32, [brief, right, day, all]: [u32; 4]| {
            let bucket = "tcpstate_state_duration_seconds_bucket{state=\"closing\",le=";
            Exposition(format!(
                "tcpstate_closes_total{{reason=\"aborted\"}} {count}\n\
                 {bucket}\"0.01\"}} {brief}\n{bucket}\"0.25\"}} {right}\n\
                 {bucket}\"86400\"}} {day}\n{bucket}\"+Inf\"}} {all}\n"
            ))
        };
        let expectations = ["closes aborted 1", "duration closing 0.01 0.25"]
            .map(|words| Expectation::parse(&format!("// expect {words}")));
        for (after, met) in [
            (page(1, [0, 1, 1, 1]), [true, true]),
            (page(0, [0; 4]), [false, false]),
            (page(1, [1, 1, 1, 1]), [true, false]),
            (page(1, [0, 1, 1, 2]), [true, false]),
        ] {
            for (expectation, met) in expectations.iter().zip(met) {
                let expectation = expectation.as_ref().ok().and_then(Option::as_ref);
                let expectation = expectation.context("it is understood")?;
                assert_eq!(expectation.check(&page(0, [0; 4]), &after).is_ok(), met);
            }
        }
        assert!(Expectation::parse("// expect closes").is_err());
        assert_eq!(Expectation::parse("// what it is")?, None);
        Ok(())
    }
}
