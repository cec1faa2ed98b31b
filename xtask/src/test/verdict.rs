//! Whether tests may have been skipped.

use anyhow::{Result, bail};

use super::{banner, results::Test};
use crate::vm::HostSkip;

/// For what a test may be skipped where else none may be.
#[derive(Debug, Default)]
pub(crate) struct Excuses {
    /// Programs that could not be fetched for lack of network.
    pub(crate) unfetched: Vec<String>,
    /// What the kernel of the host may lack, because the test is run on another one.
    pub(crate) of_kernel: Vec<HostSkip>,
}

impl Excuses {
    /// Fails where a program is missing that could have been fetched.
    pub(crate) fn require(&self, missing: &[&str]) -> Result<()> {
        let mut needless = missing.to_vec();
        needless.retain(|name| !self.unfetched.iter().any(|one| one == name));
        if !needless.is_empty() {
            bail!(
                "cannot test in full: {} missing (run `cargo xtask setup`)",
                needless.join(", ")
            );
        }
        Ok(())
    }

    fn hold_for(&self, test: &str, reason: &str) -> bool {
        let program = reason.strip_suffix(" is not here");
        let is_unfetched = self
            .unfetched
            .iter()
            .any(|unfetched| program == Some(unfetched));
        let mut of_kernel = self.of_kernel.iter();
        is_unfetched || of_kernel.any(|skip| skip.test == test && skip.says == reason)
    }
}

/// Says which tests were skipped, and whether all is well: `outcome` is, tests have run, and where
/// `is_ci` none was skipped without excuse.
pub(crate) fn of(
    ended: &[Test],
    excuses: &Excuses,
    is_ci: bool,
    outcome: Result<()>,
) -> Result<()> {
    let (allowed, faults) = skips(ended, excuses);
    let all: Vec<&str> = allowed.iter().chain(&faults).map(String::as_str).collect();
    if !all.is_empty() {
        banner(&format!("SKIPPED:\n{}", all.join("\n")));
    }
    outcome?;
    if ended.is_empty() {
        bail!("there is no test of that name");
    }
    if is_ci && !faults.is_empty() {
        bail!(
            "skipped without excuse, and CI is set:\n{}\n(an excuse is a program that could not be \
             fetched for lack of network, or a host_skip in xtask/kernels.toml)",
            faults.join("\n")
        );
    }
    Ok(())
}

/// Tests that were skipped, with the reason: those with an excuse, and those without.
fn skips(ended: &[Test], excuses: &Excuses) -> (Vec<String>, Vec<String>) {
    let (mut allowed, mut faults) = (Vec::new(), Vec::new());
    for test in ended {
        if let Some(reason) = &test.skipped {
            let list = if excuses.hold_for(&test.name, reason) {
                &mut allowed
            } else {
                &mut faults
            };
            list.push(format!("{}: {reason}", test.name));
        }
    }
    (allowed, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(skipped: Option<&str>) -> Vec<Test> {
        vec![Test {
            name: "a::b".to_owned(),
            seconds: 1.0,
            skipped: skipped.map(str::to_owned),
        }]
    }

    fn excuses() -> Excuses {
        let of = |test: &str| HostSkip {
            test: test.to_owned(),
            says: "no bonds".to_owned(),
        };
        Excuses {
            unfetched: vec!["nginx".to_owned()],
            of_kernel: vec![of("a::b"), of("a::c")],
        }
    }

    #[test]
    fn in_ci_a_skip_takes_an_excuse() {
        let judge = |reason| of(&ended(Some(reason)), &excuses(), true, Ok(()));
        for reason in ["nginx is not here", "no bonds"] {
            assert!(judge(reason).is_ok(), "{reason}");
        }
        for reason in ["node is not here", "no bridges", "nginx", ""] {
            assert!(judge(reason).is_err(), "{reason}");
        }
    }

    #[test]
    fn what_a_kernel_may_lack_excuses_the_test_that_is_run_on_another_alone() {
        let mut tests = ended(Some("no bonds"));
        tests[0].name = "a::d".to_owned();
        assert!(of(&tests, &excuses(), true, Ok(())).is_err());
    }

    #[test]
    fn a_developer_may_skip_and_is_told() {
        let tests = ended(Some("node is not here"));
        assert!(of(&tests, &excuses(), false, Ok(())).is_ok());
        let expected = (vec![], vec!["a::b: node is not here".to_owned()]);
        assert_eq!(skips(&tests, &excuses()), expected);
    }

    #[test]
    fn what_has_failed_or_run_no_test_is_not_well() {
        let judge = |ended: &[Test], outcome| of(ended, &excuses(), false, outcome);
        assert!(judge(&ended(None), Ok(())).is_ok());
        assert!(judge(&ended(None), Err(anyhow::anyhow!("x"))).is_err());
        assert!(judge(&[], Ok(())).is_err());
    }

    #[test]
    fn what_is_missing_and_could_be_fetched_is_named() {
        assert!(excuses().require(&["nginx"]).is_ok());
        let error = excuses().require(&["node", "nginx"]).unwrap_err();
        assert!(error.to_string().contains(": node missing"), "{error}");
    }
}
