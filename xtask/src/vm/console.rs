//! What a virtual machine has printed, line by line, and what follows from it. Pure.

use crate::test;

/// What is known of a virtual machine so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Console {
    /// Release of the kernel, once it has come up.
    pub(crate) kernel: Option<String>,
    /// What the agent's `check` says of each program.
    pub(crate) programs: Vec<Program>,
    /// Exit code of `check`, once it has ended.
    pub(crate) check: Option<i32>,
    /// How many tests there are, once that is known.
    pub(crate) planned: Option<usize>,
    /// Those that have ended.
    pub(crate) tests: Vec<Test>,
    /// What went wrong outside the tests.
    pub(crate) troubles: Vec<String>,
    /// Whether it has come to its end.
    pub(crate) is_done: bool,
    /// The test that is running, and what it has said.
    pub(super) running: Option<(String, Vec<String>)>,
    /// Whether what comes is from `check`.
    pub(super) is_checking: bool,
}

/// A program of the agent's, according to `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: String,
    /// The instructions that the kernel verified, 0 where it does not say; `None` if the program
    /// does not run.
    pub(crate) verified: Option<u32>,
}

/// A test that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    /// What it printed.
    pub(crate) output: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// It passed, and said that it tested nothing.
    Skipped(String),
    Failed,
    /// It was ended because it took too long.
    TimedOut,
}

const MARK: &str = "@tcpstate ";
/// What `timeout -s KILL` gives.
const KILLED: i32 = 128 + 9;

impl Console {
    /// Takes in a line.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(report) = line.strip_prefix(MARK) {
            if self.report(report).is_none() {
                self.troubles.push(format!("does not make sense: {line}"));
            }
        } else if self.is_checking {
            self.programs.extend(program(line));
        } else if let Some((_, output)) = &mut self.running {
            output.push(line.to_owned());
        }
    }

    /// The test that is running, with what it has said.
    pub(crate) fn running(&self) -> Option<(&str, &[String])> {
        let (name, output) = self.running.as_ref()?;
        Some((name, output))
    }

    fn report(&mut self, report: &str) -> Option<()> {
        let (kind, rest) = report.split_once(' ').unwrap_or((report, ""));
        match kind {
            "kernel" => self.kernel = Some(rest.to_owned()),
            "trouble" => self.troubles.push(rest.to_owned()),
            "begin-check" => self.is_checking = true,
            "end-check" => {
                self.is_checking = false;
                self.check = Some(rest.parse().ok()?);
            }
            "tests" => self.planned = Some(rest.parse().ok()?),
            "begin-test" => self.running = Some((rest.to_owned(), Vec::new())),
            "end-test" => {
                let test = self.ended(rest)?;
                self.tests.push(test);
            }
            "done" => self.is_done = true,
            _ => return None,
        }
        Some(())
    }

    /// `NAME CODE START END`, the latter two in seconds.
    fn ended(&mut self, report: &str) -> Option<Test> {
        let words: Vec<_> = report.split(' ').collect();
        let [name, code, start, end] = words[..] else {
            return None;
        };
        let (running, output) = self.running.take()?;
        if running != name {
            return None;
        }
        let seconds = end.parse::<f64>().ok()? - start.parse::<f64>().ok()?;
        let outcome = outcome(code.parse().ok()?, &output);
        Some(Test {
            name: running,
            outcome,
            seconds,
            output,
        })
    }
}

fn outcome(code: i32, output: &[String]) -> Outcome {
    // A name that fits no test would pass too.
    let has_run = output
        .iter()
        .any(|line| line.starts_with("test result: ok. 1 passed"));
    match code {
        0 if has_run => test::why_skipped(output.iter().map(String::as_str))
            .map_or(Outcome::Passed, Outcome::Skipped),
        KILLED => Outcome::TimedOut,
        _ => Outcome::Failed,
    }
}

/// `program NAME (HOOK): runs, N instructions verified`, or `…: does not run`.
fn program(line: &str) -> Option<Program> {
    let (name, rest) = line.strip_prefix("program ")?.split_once(" (")?;
    let (_, verdict) = rest.split_once("): ")?;
    let verified = if verdict == "does not run" {
        None
    } else {
        let (count, _) = verdict.strip_prefix("runs, ")?.split_once(' ')?;
        Some(count.parse().ok()?)
    };
    Some(Program {
        name: name.to_owned(),
        verified,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &str) -> Console {
        let mut console = Console::default();
        for line in text.lines() {
            console.line(line);
        }
        console
    }

    const PASSED: &str = "test result: ok. 1 passed; 0 failed; 0 ignored";

    fn outcome_of(code: i32, said: &str) -> Outcome {
        let console = console(&format!(
            "@tcpstate begin-test a::b\n{said}\n@tcpstate end-test a::b {code} 1.5 2.25\r"
        ));
        assert_eq!(console.troubles, [""; 0]);
        let [test] = &console.tests[..] else {
            panic!("{console:?}");
        };
        assert_eq!((&*test.name, test.seconds), ("a::b", 0.75));
        test.outcome.clone()
    }

    #[test]
    fn a_test_passes_if_it_has_run_and_ended_well() {
        assert_eq!(outcome_of(0, PASSED), Outcome::Passed);
        assert_eq!(
            outcome_of(101, "test result: FAILED. 0 passed; 1 failed"),
            Outcome::Failed
        );
        assert_eq!(outcome_of(101, PASSED), Outcome::Failed);
        assert_eq!(outcome_of(137, ""), Outcome::TimedOut);
        assert_eq!(outcome_of(127, "not found"), Outcome::Failed);
        assert_eq!(
            outcome_of(0, "test result: ok. 0 passed; 0 failed"),
            Outcome::Failed
        );
    }

    #[test]
    fn a_test_that_says_so_is_skipped() {
        let skipped = Outcome::Skipped("promtool is not here".to_owned());
        let said = format!("test a::b ... SKIPPED: promtool is not here\nok\n{PASSED}");
        assert_eq!(outcome_of(0, &said), skipped);
        assert_eq!(outcome_of(101, &said), Outcome::Failed);
    }

    #[test]
    fn programs_are_what_check_says() {
        let console = console(
            "@tcpstate kernel 6.1.0\n@tcpstate begin-check\n\
             kernel 6.1.0\n\
             program one (tp_btf/x): runs, 1915 instructions verified\n  a purpose\n\
             program two (iter/tcp): does not run\n  cause: program x (y): runs, 1 z\n\
             @tcpstate end-check 1\n\
             program three (late): runs, 1 instructions verified\n@tcpstate tests 3\n",
        );
        let program = |name: &str, verified| Program {
            name: name.to_owned(),
            verified,
        };
        assert_eq!(
            console.programs,
            [program("one", Some(1915)), program("two", None)]
        );
        assert_eq!(console.kernel.as_deref(), Some("6.1.0"));
        assert_eq!((console.check, console.planned), (Some(1), Some(3)));
        assert!(!console.is_done);
    }

    #[test]
    fn what_is_cut_off_is_still_running_and_no_result() {
        let console = console("@tcpstate begin-test a::b\nrunning 1 test\nKernel panic");
        let (name, said) = console.running().unwrap();
        assert_eq!((name, said.len()), ("a::b", 2));
        assert!(console.tests.is_empty() && !console.is_done);
    }

    #[test]
    fn what_makes_no_sense_is_trouble() {
        for line in [
            "@tcpstate nonsense",
            "@tcpstate end-check",
            "@tcpstate tests many",
            "@tcpstate end-test never::begun 0 1 2",
            "@tcpstate end-test",
        ] {
            assert_eq!(console(line).troubles.len(), 1, "{line}");
        }
        assert_eq!(console("@tcpstate trouble x y").troubles, ["x y"]);
    }
}
