//! The results as a page, and whether the page that is checked in still tells them. Pure.

use std::collections::BTreeSet;

use super::{
    console::{Console, Outcome},
    matrix::{Architecture, Kernel, Matrix, Skip},
};

/// A kernel and what came of it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) kernel: Kernel,
    /// Version of the package that was used.
    pub(crate) version: String,
    /// What it printed, or why there is no result.
    pub(crate) result: Result<Console, String>,
    /// Why the first boot had no result, where there was a second.
    pub(crate) first_failure: Option<String>,
    /// What is wrong.
    pub(crate) faults: Vec<String>,
}

impl Row {
    /// Whether another version took the place of the one that is checked in.
    pub(crate) fn is_replaced(&self) -> bool {
        self.version != self.kernel.version
    }
}

/// `docs/kernels.md`.
pub(crate) fn page(matrix: &Matrix, rows: &[Row]) -> String {
    let Matrix { kernels, skips, .. } = matrix;
    let mut page = String::from(
        "<!-- Made by `cargo xtask vm` from what it finds. Change xtask/kernels.toml instead. -->\n\
         # Kernels\n\n\
         `cargo xtask vm` boots each of these kernels in an emulator, as Debian ships it, and runs \
         privileged tests on it, of those that are run on the host the ones that a kernel can \
         break: real programs in that kernel, real sockets in its network namespaces, compared with \
         what its `ss` shows. An emulated CPU is slow, so what a test does many thousand times it \
         does a 25th as often. `cargo xtask vm -- ''` runs them all.\n\n",
    );
    page.push_str(&self::kernels(rows));
    // Of all kernels: one that could not be fetched is still one that is claimed.
    page.push_str(&chosen(kernels));
    for kernel in kernels.iter().filter(|kernel| kernel.may_fail) {
        page.push_str("\nA failure on ");
        page.push_str(&kernel.name);
        page.push_str(" is shown here and fails nothing.\n");
    }
    page.push_str(
        "\nPrograms, by what `tcpstate-agent check` says there. A program that runs has been \
         loaded, and attached or run. The number is of the instructions that the kernel's verifier \
         went through; kernels before 5.16 do not tell (–).\n\n",
    );
    page.push_str(&programs(rows));
    page.push_str(&skipped(rows, skips));
    page
}

/// Each kernel, and what came of its tests.
pub(crate) fn kernels(rows: &[Row]) -> String {
    let heads = [
        "kernel",
        "release",
        "architecture",
        "Debian package",
        "tests passed",
    ];
    let lines = rows.iter().map(|row| {
        let kernel = &row.kernel;
        let release = row
            .result
            .as_ref()
            .ok()
            .and_then(|console| console.kernel.as_deref());
        let architecture = match kernel.architecture {
            Architecture::Amd64 => "x86_64",
            Architecture::Arm64 => "aarch64",
        };
        let mut package = format!("{} ({})", row.version, kernel.suite);
        if row.is_replaced() {
            package.push_str(", in place of ");
            package.push_str(&kernel.version);
            package.push_str(", which the archive no longer has");
        }
        vec![
            kernel.name.clone(),
            release.unwrap_or("–").to_owned(),
            architecture.to_owned(),
            package,
            tests(row),
        ]
    });
    table(heads.map(str::to_owned).to_vec(), lines)
}

fn tests(row: &Row) -> String {
    let console = match &row.result {
        Ok(console) => console,
        Err(why) => return format!("none: {why}"),
    };
    let count = |is_it: fn(&Outcome) -> bool| {
        let outcomes = console.tests.iter().map(|test| &test.outcome);
        outcomes.filter(|outcome| is_it(outcome)).count()
    };
    let passed = count(|outcome| *outcome == Outcome::Passed);
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed | Outcome::TimedOut));
    let mut parts = vec![format!(
        "{passed} of {}",
        console.planned.unwrap_or_default()
    )];
    if skipped > 0 {
        parts.push(format!("{skipped} skipped"));
    }
    if failed > 0 {
        parts.push(format!("{failed} failed"));
    }
    parts.join(", ")
}

/// Which tests were run, where not all were.
fn chosen(kernels: &[Kernel]) -> String {
    let mut choices: Vec<(&[String], Vec<&str>)> = Vec::new();
    for kernel in kernels.iter().filter(|kernel| !kernel.tests.is_empty()) {
        let tests = &*kernel.tests;
        match choices.iter_mut().find(|(same, _)| *same == tests) {
            Some((_, kernels)) => kernels.push(&kernel.name),
            None => choices.push((tests, vec![&kernel.name])),
        }
    }
    let lines = choices.into_iter().map(|(tests, kernels)| {
        let names: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
        format!(
            "\nRun on {}: the tests whose names have {} in them.\n",
            kernels.join(", "),
            names.join(", ")
        )
    });
    lines.collect()
}

/// Each program on each kernel.
pub(crate) fn programs(rows: &[Row]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for console in rows.iter().filter_map(|row| row.result.as_ref().ok()) {
        for program in &console.programs {
            if !names.contains(&&*program.name) {
                names.push(&program.name);
            }
        }
    }
    let mut heads = vec!["kernel".to_owned()];
    heads.extend(names.iter().map(|name| format!("`{name}`")));
    let lines = rows.iter().map(|row| {
        let cells = names.iter().map(|name| program(row, name));
        std::iter::once(row.kernel.name.clone())
            .chain(cells)
            .collect()
    });
    table(heads, lines)
}

fn table(heads: Vec<String>, lines: impl Iterator<Item = Vec<String>>) -> String {
    let rule = vec!["---".to_owned(); heads.len()];
    let mut table = String::new();
    for cells in [heads, rule].into_iter().chain(lines) {
        table.push_str("| ");
        table.push_str(&cells.join(" | "));
        table.push_str(" |\n");
    }
    table
}

fn program(row: &Row, name: &str) -> String {
    let console = row.result.as_ref().ok();
    let program =
        console.and_then(|console| console.programs.iter().find(|program| program.name == name));
    match program.map(|program| program.verified) {
        None => "not known".to_owned(),
        Some(None) => "does not run".to_owned(),
        Some(Some(0)) => "runs, –".to_owned(),
        Some(Some(verified)) => format!("runs, {verified}"),
    }
}

fn skipped(rows: &[Row], skips: &[Skip]) -> String {
    let occurred: BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| row.result.as_ref().ok())
        .flat_map(|console| &console.tests)
        .filter(|test| matches!(test.outcome, Outcome::Skipped(_)))
        .map(|test| &*test.name)
        .collect();
    let listed: Vec<_> = skips
        .iter()
        .filter(|skip| occurred.contains(&*skip.test))
        .collect();
    if listed.is_empty() {
        return String::new();
    }
    let lines = listed.iter().map(|skip| {
        let kernels = if skip.kernels.is_empty() {
            "all".to_owned()
        } else {
            skip.kernels.join(", ")
        };
        format!("- `{}` ({kernels}): {}.\n", skip.test, skip.why)
    });
    std::iter::once("\nSkipped, and why:\n\n".to_owned())
        .chain(lines)
        .collect()
}

/// A line without how many instructions were gone through, which may be another number at the next boot.
fn uncounted(line: &str) -> String {
    let cells = line.split(" | ");
    let cells = cells.map(|cell| {
        if cell.starts_with("runs, ") {
            "runs"
        } else {
            cell
        }
    });
    cells.collect::<Vec<_>>().join(" | ")
}

/// Where two pages differ first: the line of `committed` and the one that belongs in its place.
/// The rows of the kernels in `free` may differ.
pub(crate) fn drift(committed: &str, made: &str, free: &[&str]) -> Option<(String, String)> {
    let lines = |page: &str| -> Vec<String> {
        let is_bound = |line: &&str| {
            !free
                .iter()
                .any(|name| line.starts_with(&format!("| {name} |")))
        };
        page.lines().filter(is_bound).map(uncounted).collect()
    };
    let (committed, made) = (lines(committed), lines(made));
    let line = |page: &[String], at: usize| page.get(at).cloned().unwrap_or_default();
    (0..committed.len().max(made.len()))
        .find(|&at| committed.get(at) != made.get(at))
        .map(|at| (line(&committed, at), line(&made, at)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::console::{Program, Test},
        *,
    };

    fn row(name: &str, outcomes: &[Outcome]) -> Row {
        let test = |outcome: &Outcome| Test {
            name: "a::b".to_owned(),
            outcome: outcome.clone(),
            seconds: 1.0,
            output: Vec::new(),
        };
        let program = |name: &str, verified| Program {
            name: name.to_owned(),
            verified,
        };
        Row {
            kernel: Kernel {
                name: name.to_owned(),
                architecture: Architecture::Amd64,
                suite: "suite".to_owned(),
                version: "1-1".to_owned(),
                may_fail: false,
                tests: Vec::new(),
                missing: Vec::new(),
            },
            version: "1-1".to_owned(),
            result: Ok(Console {
                kernel: Some(format!("{name}.0")),
                programs: vec![
                    program("one", Some(1915)),
                    program("two", Some(0)),
                    program("three", None),
                ],
                planned: Some(outcomes.len()),
                tests: outcomes.iter().map(test).collect(),
                ..Console::default()
            }),
            first_failure: None,
            faults: Vec::new(),
        }
    }

    fn skip() -> Skip {
        Skip {
            test: "a::b".to_owned(),
            says: "s".to_owned(),
            why: "it is so".to_owned(),
            program: None,
            kernels: Vec::new(),
        }
    }

    /// Of which all kernels have `rows`.
    fn matrix(rows: &[Row], skips: Vec<Skip>) -> Matrix {
        Matrix {
            kernels: rows.iter().map(|row| row.kernel.clone()).collect(),
            skips,
            host_skips: Vec::new(),
        }
    }

    #[test]
    fn the_page_tells_kernels_programs_tests_and_skips() {
        let skipped = Outcome::Skipped("s".to_owned());
        let rows = [
            row("6.1", &[Outcome::Passed, skipped]),
            row("6.2", &[Outcome::Failed, Outcome::TimedOut]),
        ];
        let page = page(&matrix(&rows, vec![skip()]), &rows);
        for line in [
            "| 6.1 | 6.1.0 | x86_64 | 1-1 (suite) | 1 of 2, 1 skipped |",
            "| 6.2 | 6.2.0 | x86_64 | 1-1 (suite) | 0 of 2, 2 failed |",
            "| kernel | `one` | `two` | `three` |",
            "| 6.1 | runs, 1915 | runs, – | does not run |",
            "- `a::b` (all): it is so.",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        let rows = [row("6.1", &[Outcome::Passed])];
        let without = super::page(&matrix(&rows, vec![skip()]), &rows);
        assert!(!without.contains("a::b"), "{without}");
    }

    #[test]
    fn a_kernel_in_the_place_of_another_and_one_without_result_are_told() {
        let mut replaced = row("6.1", &[Outcome::Passed]);
        replaced.version = "1-2".to_owned();
        let mut failed = row("6.2", &[]);
        failed.result = Err("it hung".to_owned());
        let mut few = row("6.3", &[Outcome::Passed]);
        few.kernel.tests = vec!["a::".to_owned(), "b::".to_owned()];
        let rows = [replaced, failed, few];
        let page = page(&matrix(&rows, Vec::new()), &rows);
        for words in [
            "| 1-1 (suite) | 1 of 1 |",
            "Run on 6.3: the tests whose names have `a::`, `b::` in them.",
            "| 1-2 (suite), in place of 1-1, which the archive no longer has |",
            "| 6.2 | – | x86_64 | 1-1 (suite) | none: it hung |",
            "| 6.2 | not known | not known | not known |",
        ] {
            assert!(page.contains(words), "{words}\n{page}");
        }
    }

    #[test]
    fn a_kernel_that_cannot_be_had_is_no_drift() {
        let mut rows = vec![row("6.1", &[Outcome::Passed]), row("6.2", &[])];
        for row in &mut rows {
            row.kernel.tests = vec!["a::".to_owned()];
            row.kernel.may_fail = true;
        }
        let matrix = matrix(&rows, Vec::new());
        let committed = page(&matrix, &rows);
        rows.pop();
        let made = page(&matrix, &rows);
        assert_eq!(drift(&committed, &made, &["6.2"]), None);
        assert!(drift(&committed, &made, &[]).is_some());
    }

    #[test]
    fn a_page_has_drifted_where_a_line_that_is_bound_differs() {
        let differ = |one: &str, other: &str| Some((one.to_owned(), other.to_owned()));
        assert_eq!(drift("a\n| 6.1 | x |\n", "a\n| 6.1 | x |\n", &[]), None);
        assert_eq!(
            drift("a\n| 6.1 | x |\n", "a\n| 6.1 | y |\n", &["6.1"]),
            None
        );
        assert_eq!(
            drift("a\n", "a\n| 6.1 | y |\nb\n", &["6.1"]),
            differ("", "b")
        );
        assert_eq!(
            drift("| 6.1 | x |", "| 6.1 | y |", &["6.12"]),
            differ("| 6.1 | x |", "| 6.1 | y |")
        );
        assert_eq!(
            drift("| 6.12 | x |", "| 6.12 | y |", &["6.1"]),
            differ("| 6.12 | x |", "| 6.12 | y |")
        );
        assert_eq!(drift("", "a", &[]), differ("", "a"));
    }
}
