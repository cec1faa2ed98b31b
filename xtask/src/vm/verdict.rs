//! Whether what a virtual machine reports is as it should be. Pure.

use super::{
    console::{Console, Outcome},
    matrix::{Kernel, Skip},
};

/// What is wrong, a line each; nothing where all is as expected.
pub(crate) fn faults(kernel: &Kernel, skips: &[Skip], console: &Console) -> Vec<String> {
    let mut faults = console.troubles.clone();
    faults.extend(faults_of_check(kernel, console));
    if console.planned == Some(0) {
        faults.push("there is no test of that name".to_owned());
    } else if console.planned != Some(console.tests.len()) {
        let planned = console
            .planned
            .map_or("?".to_owned(), |count| count.to_string());
        faults.push(format!(
            "{} of {planned} tests have run",
            console.tests.len()
        ));
    }
    for test in &console.tests {
        let expected: Vec<_> = skips
            .iter()
            .filter(|skip| skip.test == test.name && skip.holds_for(kernel))
            .collect();
        let name = &test.name;
        match &test.outcome {
            Outcome::Failed => faults.push(format!("{name} failed")),
            Outcome::TimedOut => faults.push(format!("{name} did not end")),
            Outcome::Passed => faults.extend(
                expected
                    .first()
                    .map(|_| format!("{name} ran, and xtask/kernels.toml says that it is skipped")),
            ),
            Outcome::Skipped(reason) => match expected.iter().find(|skip| skip.says == *reason) {
                None => faults.push(format!(
                    "{name} was skipped ({reason}), and xtask/kernels.toml does not say so"
                )),
                Some(skip) => faults.extend(contradiction(skip, console)),
            },
        }
    }
    faults
}

/// A test that blames a program which runs, by the word of `check`.
fn contradiction(skip: &Skip, console: &Console) -> Option<String> {
    let name = skip.program.as_ref()?;
    let program = console
        .programs
        .iter()
        .find(|program| program.name == *name);
    let says = match program {
        None => "does not know it",
        Some(program) if program.verified.is_some() => "says that it runs",
        Some(_) => return None,
    };
    Some(format!(
        "{} was skipped for want of {name}, and `check` {says}",
        skip.test
    ))
}

fn faults_of_check(kernel: &Kernel, console: &Console) -> Vec<String> {
    let mut faults = Vec::new();
    for program in &console.programs {
        let name = &program.name;
        match (program.verified, kernel.missing.contains(name)) {
            (None, false) => faults.push(format!("`check` says that {name} does not run")),
            (Some(_), true) => faults.push(format!(
                "`check` says that {name} runs, and xtask/kernels.toml says that it does not"
            )),
            _ => {}
        }
    }
    for name in &kernel.missing {
        if !console.programs.iter().any(|program| program.name == *name) {
            faults.push(format!(
                "`check` does not know {name}, which xtask/kernels.toml names"
            ));
        }
    }
    if console.programs.is_empty() {
        faults.push("`check` names no program".to_owned());
    }
    // 1 is its answer where a program does not run.
    let expected = i32::from(
        console
            .programs
            .iter()
            .any(|program| program.verified.is_none()),
    );
    if console.check != Some(expected) {
        let code = console
            .check
            .map_or("nothing".to_owned(), |code| code.to_string());
        faults.push(format!("`check` exits with {code} instead of {expected}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            console::{Program, Test},
            matrix::Architecture,
        },
        *,
    };

    fn kernel(missing: &[&str]) -> Kernel {
        Kernel {
            name: "6.1".to_owned(),
            architecture: Architecture::Amd64,
            suite: "s".to_owned(),
            version: "1".to_owned(),
            may_fail: false,
            tests: Vec::new(),
            missing: missing.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn skip(program: Option<&str>, kernels: &[&str]) -> Skip {
        Skip {
            test: "a::b".to_owned(),
            says: "none here".to_owned(),
            why: "it is so".to_owned(),
            program: program.map(str::to_owned),
            kernels: kernels.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn console(outcome: Outcome, verified: Option<u32>) -> Console {
        Console {
            programs: vec![Program {
                name: "xdp".to_owned(),
                verified,
            }],
            check: Some(i32::from(verified.is_none())),
            planned: Some(1),
            tests: vec![Test {
                name: "a::b".to_owned(),
                outcome,
                seconds: 1.0,
                output: Vec::new(),
            }],
            is_done: true,
            ..Console::default()
        }
    }

    fn skipped() -> Outcome {
        Outcome::Skipped("none here".to_owned())
    }

    #[test]
    fn what_is_expected_is_no_fault() {
        let none = [""; 0];
        assert_eq!(
            faults(&kernel(&[]), &[], &console(Outcome::Passed, Some(1))),
            none
        );
        let skips = [skip(None, &[])];
        assert_eq!(
            faults(&kernel(&[]), &skips, &console(skipped(), Some(1))),
            none
        );
        let skips = [skip(Some("xdp"), &["6.1"])];
        assert_eq!(
            faults(&kernel(&["xdp"]), &skips, &console(skipped(), None)),
            none
        );
        let skips = [skip(None, &["6.12"])];
        assert_eq!(
            faults(&kernel(&[]), &skips, &console(Outcome::Passed, Some(1))),
            none
        );
    }

    /// The only fault, which contains `words`.
    fn one(kernel: &Kernel, skips: &[Skip], console: &Console, words: &str) {
        let found = faults(kernel, skips, console);
        assert!(
            matches!(&found[..], [fault] if fault.contains(words)),
            "{words}: {found:?}"
        );
    }

    #[test]
    fn a_test_that_fails_or_does_not_end_is_a_fault() {
        one(
            &kernel(&[]),
            &[],
            &console(Outcome::Failed, Some(1)),
            "failed",
        );
        one(
            &kernel(&[]),
            &[],
            &console(Outcome::TimedOut, Some(1)),
            "did not end",
        );
        let skips = [skip(None, &[])];
        one(
            &kernel(&[]),
            &skips,
            &console(Outcome::Failed, Some(1)),
            "failed",
        );
    }

    #[test]
    fn a_skip_must_be_listed_for_its_kernel_and_its_reason() {
        let other = console(Outcome::Skipped("other".to_owned()), Some(1));
        one(
            &kernel(&[]),
            &[],
            &console(skipped(), Some(1)),
            "does not say so",
        );
        one(
            &kernel(&[]),
            &[skip(None, &["6.12"])],
            &console(skipped(), Some(1)),
            "does not say so",
        );
        one(&kernel(&[]), &[skip(None, &[])], &other, "does not say so");
        one(
            &kernel(&[]),
            &[skip(None, &[])],
            &console(Outcome::Passed, Some(1)),
            "ran, and",
        );
    }

    #[test]
    fn check_must_say_the_same() {
        one(
            &kernel(&[]),
            &[skip(Some("xdp"), &[])],
            &console(skipped(), Some(1)),
            "says that it runs",
        );
        one(
            &kernel(&[]),
            &[skip(Some("tc"), &[])],
            &console(skipped(), Some(1)),
            "does not know it",
        );
        one(
            &kernel(&[]),
            &[],
            &console(Outcome::Passed, None),
            "xdp does not run",
        );
        one(
            &kernel(&["xdp"]),
            &[],
            &console(Outcome::Passed, Some(1)),
            "says that xdp runs",
        );
        one(
            &kernel(&["tc"]),
            &[],
            &console(Outcome::Passed, Some(1)),
            "does not know tc",
        );
        let mut wrong_code = console(Outcome::Passed, Some(1));
        wrong_code.check = Some(1);
        one(&kernel(&[]), &[], &wrong_code, "exits with 1 instead of 0");
        wrong_code.check = None;
        one(&kernel(&[]), &[], &wrong_code, "exits with nothing");
    }

    #[test]
    fn every_test_must_have_run() {
        let mut fewer = console(Outcome::Passed, Some(1));
        fewer.planned = Some(2);
        one(&kernel(&[]), &[], &fewer, "1 of 2 tests");
        fewer.planned = None;
        one(&kernel(&[]), &[], &fewer, "1 of ? tests");
        fewer.planned = Some(0);
        one(&kernel(&[]), &[], &fewer, "no test of that name");
        fewer.planned = Some(1);
        fewer.troubles.push("cannot insert tun".to_owned());
        one(&kernel(&[]), &[], &fewer, "cannot insert tun");
    }
}
