//! The result of a run: a table for people, JSON, and the page of the documentation.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    agent::scratch,
    machine::Machine,
    row::{Row, Unit},
    spread::Spread,
};
use crate::workspace;

const PAGE: &str = "docs/performance.md";

/// What is known after a run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) schema_version: u32,
    pub(crate) machine: Machine,
    pub(crate) is_quick: bool,
    pub(crate) took_seconds: f64,
    pub(crate) benchmarks: Vec<Benchmark>,
}

/// The figures of one benchmark.
#[derive(Serialize)]
pub(crate) struct Benchmark {
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) rows: Vec<Row>,
    /// What could not be measured here, and why.
    pub(crate) not_measured: Vec<String>,
    /// Why it ended before its time.
    pub(crate) failure: Option<String>,
}

impl Report {
    /// Writes it for people and for machines, and returns where.
    pub(crate) fn save(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self).context("cannot write JSON")?;
        for (name, text) in [("result.json", json + "\n"), ("result.txt", self.text())] {
            let path = scratch(name)?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok("target/bench/result.json and .txt".to_owned())
    }

    /// Writes the page of the documentation.
    pub(crate) fn write_page(&self) -> Result<()> {
        let path = workspace::root()?.join(PAGE);
        fs::write(&path, self.page()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.benchmarks.iter().flat_map(|benchmark| &benchmark.rows)
    }

    /// How many figures have something to reach, and how many reach it.
    pub(crate) fn reached(&self) -> (usize, usize) {
        let verdicts: Vec<bool> = self.rows().filter_map(Row::is_met).collect();
        (
            verdicts.len(),
            verdicts.iter().filter(|is_met| **is_met).count(),
        )
    }

    pub(crate) fn text(&self) -> String {
        let mut text = self.machine.text();
        let widest = self.rows().map(|row| row.what.chars().count()).max();
        let wide = widest.unwrap_or(0).max(40);
        let narrow = wide - 2;
        for benchmark in &self.benchmarks {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n{}: {}", benchmark.name, benchmark.subject);
            for row in &benchmark.rows {
                let verdict = match row.is_met() {
                    Some(true) => "ok    ",
                    Some(false) => "MISSED",
                    None => "      ",
                };
                let reach = row.reach.map(|reach| reach.show(row.unit));
                let _ = writeln!(
                    text,
                    "  {verdict} {:<wide$} {:<34} {}",
                    row.what,
                    row.unit.show_spread(row.figure),
                    reach.unwrap_or_default()
                );
                for peer in &row.peers {
                    let _ = writeln!(
                        text,
                        "           {:<narrow$} {:<34} {}",
                        peer.name,
                        row.unit.show_spread(peer.figure),
                        times(peer.times_ours)
                    );
                }
                if let Some(note) = &row.note {
                    let _ = writeln!(text, "           ({note})");
                }
            }
            for reason in &benchmark.not_measured {
                let _ = writeln!(text, "  NOT MEASURED: {reason}");
            }
            if let Some(failure) = &benchmark.failure {
                let _ = writeln!(text, "  FAILED: {failure}");
            }
        }
        let (all, reached) = self.reached();
        let _ = writeln!(
            text,
            "\n{reached} of {all} figures are what they should be; {:.0} s",
            self.took_seconds
        );
        text
    }

    fn page(&self) -> String {
        let mut page = PREFACE.to_owned();
        let _ = writeln!(page, "\n```text\n{}```\n", self.machine.text());
        let _ = writeln!(
            page,
            "{}It took {:.0} minutes. Where a figure has something to reach and does not, it is \
             **bold**.\n\n## How to read it\n\n{}",
            if self.is_quick { QUICK } else { "" },
            self.took_seconds / 60.0,
            READING.trim()
        );
        for benchmark in &self.benchmarks {
            let _ = writeln!(page, "\n## {}\n", capitalized(&benchmark.subject));
            let _ = writeln!(page, "`cargo xtask bench {}`\n", benchmark.name);
            if !benchmark.rows.is_empty() {
                page.push_str("| what | the agent | reach | others | times the agent's |\n");
                page.push_str("| --- | --- | --- | --- | --- |\n");
            }
            for row in &benchmark.rows {
                page.push_str(&table_row(row));
            }
            let notes = benchmark.rows.iter().filter_map(|row| {
                let note = row.note.as_ref()?;
                Some(format!("- {}: {note}.", capitalized(&row.what)))
            });
            let missing = benchmark
                .not_measured
                .iter()
                .map(|reason| format!("- Not measured: {reason}."));
            let failure = benchmark
                .failure
                .iter()
                .map(|failure| format!("- **Failed**: {}.", failure.replace('\n', " ")));
            for (number, line) in notes.chain(missing).chain(failure).enumerate() {
                let before = if number == 0 && !benchmark.rows.is_empty() {
                    "\n"
                } else {
                    ""
                };
                let _ = writeln!(page, "{before}{line}");
            }
        }
        page
    }
}

const PREFACE: &str = "\
# Performance

Written by `cargo xtask bench --write-docs`, as root, on a machine that does nothing else. Do not \
edit it: run that again.
";

const QUICK: &str = "\
**This was a quick run (`--quick`)**: fewer sockets, fewer repetitions. The figures at a million \
sockets are not in it.

";

const READING: &str = "\
- A figure is the median, with the least and the greatest of what was measured in parentheses.
- *Others* did the same in the same run, on the same sockets. *Times the agent's* is their median \
divided by the agent's; in parentheses, their least by the agent's greatest and the reverse.
- Costs in the kernel are above an empty program that is attached to the same place in the same \
run: `kernel.bpf_stats_enabled` itself costs more than the agent's program.
- *An empty program* beside a whole connection is what the kernel takes to call any program at each \
of its ten transitions.
- Everything happens in network namespaces of the benchmark's own, over the loopback.
- Sockets on one machine have both their ends there: 500,000 connections are a million sockets.
";

fn table_row(row: &Row) -> String {
    let figure = row.unit.show_spread(row.figure);
    let figure = match row.is_met() {
        Some(false) => format!("**{figure}**"),
        _ => figure,
    };
    let reach = row.reach.map(|reach| reach.show(row.unit));
    let list = |show: &dyn Fn(&super::row::Peer) -> String| {
        let shown: Vec<String> = row.peers.iter().map(show).collect();
        shown.join("<br>")
    };
    let others = list(&|peer| {
        let name = &peer.name;
        format!("{name}: {}", row.unit.show_spread(peer.figure))
    });
    let ratios = list(&|peer| times(peer.times_ours));
    format!(
        "| {} | {figure} | {} | {others} | {ratios} |\n",
        row.what,
        reach.unwrap_or_default()
    )
}

fn times(ratio: Spread) -> String {
    // It has no unit; three digits are enough.
    let show = |value: f64| Unit::Count.show(if value < 100.0 { round(value) } else { value });
    if ratio.count == 1 {
        return format!("×{}", show(ratio.median));
    }
    format!(
        "×{} ({} to {})",
        show(ratio.median),
        show(ratio.min),
        show(ratio.max)
    )
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::{super::row::Reach, *};

    fn report() -> Report {
        Report {
            schema_version: 1,
            machine: Machine {
                cpu: "a CPU".to_owned(),
                cpus: 2,
                memory_bytes: 1 << 30,
                kernel: "6.1".to_owned(),
                commit: "abc".to_owned(),
                date: "2026-01-02".to_owned(),
                is_clean: true,
            },
            is_quick: false,
            took_seconds: 120.0,
            benchmarks: vec![Benchmark {
                name: "scrape".to_owned(),
                subject: "what a scrape costs".to_owned(),
                rows: vec![
                    Row::new("a scrape", Unit::Seconds, Spread::single(0.002))
                        .reach(Reach::AtMost(0.01))
                        .beside("ss", Some(Spread::single(2.0))),
                    Row::new("memory", Unit::Bytes, Spread::single(1e9)).reach(Reach::AtMost(1e6)),
                ],
                not_measured: vec!["iperf3 is not there".to_owned()],
                failure: None,
            }],
        }
    }

    #[test]
    fn the_table_has_verdicts_peers_and_what_is_missing() {
        let text = report().text();
        for expected in [
            "ok     a scrape",
            "×1,000",
            "MISSED memory",
            "NOT MEASURED: iperf3",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
        assert!(text.contains("1 of 2 figures"), "{text}");
    }

    #[test]
    fn the_page_says_what_is_missed() {
        let page = report().page();
        let row = "| a scrape | 2.00 ms | ≤ 10.0 ms | ss: 2.00 s | ×1,000 |";
        assert!(page.contains(row), "{page}");
        assert!(page.contains("| memory | **954 MiB** |"), "{page}");
        assert!(
            page.contains("\n- Not measured: iperf3 is not there.\n"),
            "{page}"
        );
    }
}
