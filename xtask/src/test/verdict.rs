//! Whether tests may have been skipped.

use anyhow::{Result, bail};

use super::{banner, results::Test};

/// Fails where a program is missing that could have been fetched.
pub(crate) fn require(missing: &[&str], unfetched: &[String]) -> Result<()> {
    let needless: Vec<&str> = missing
        .iter()
        .filter(|name| !unfetched.iter().any(|one| one == *name))
        .copied()
        .collect();
    if !needless.is_empty() {
        bail!(
            "cannot test in full: {} missing (run `cargo xtask setup`)",
            needless.join(", ")
        );
    }
    Ok(())
}

/// Says which tests were skipped, and whether all is well: `outcome` is, tests have run, and where
/// `is_ci` none was skipped but for a program that could not be fetched.
pub(crate) fn of(
    ended: &[Test],
    unfetched: &[String],
    is_ci: bool,
    outcome: Result<()>,
) -> Result<()> {
    let (excused, faults) = skips(ended, unfetched);
    let all: Vec<&str> = excused.iter().chain(&faults).map(String::as_str).collect();
    if !all.is_empty() {
        banner(&format!("SKIPPED:\n{}", all.join("\n")));
    }
    outcome?;
    if ended.is_empty() {
        bail!("there is no test of that name");
    }
    if is_ci && !faults.is_empty() {
        bail!(
            "{} skipped, see above, and CI is set: only what could not be fetched for lack of \
             network is an excuse",
            faults.len()
        );
    }
    Ok(())
}

/// Tests that were skipped, with the reason: those that may be, and those that may not.
fn skips(ended: &[Test], unfetched: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut excused, mut faults) = (Vec::new(), Vec::new());
    for test in ended {
        let Some(reason) = &test.skipped else {
            continue;
        };
        let is_excused = unfetched
            .iter()
            .any(|program| *reason == format!("{program} is not here"));
        let list = if is_excused {
            &mut excused
        } else {
            &mut faults
        };
        list.push(format!("{}: {reason}", test.name));
    }
    (excused, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(skipped: &[Option<&str>]) -> Vec<Test> {
        let test = |skipped: Option<&str>| Test {
            name: "a::b".to_owned(),
            seconds: 1.0,
            skipped: skipped.map(str::to_owned),
        };
        skipped.iter().copied().map(test).collect()
    }

    fn unfetched() -> Vec<String> {
        vec!["nginx".to_owned()]
    }

    #[test]
    fn a_program_that_could_not_be_fetched_is_the_only_excuse() {
        let judge = |reason| of(&ended(&[None, Some(reason)]), &unfetched(), true, Ok(()));
        assert!(judge("nginx is not here").is_ok());
        for reason in [
            "node is not here",
            "no Multipath TCP: nginx is not here",
            "",
        ] {
            assert!(judge(reason).is_err(), "{reason}");
        }
    }

    #[test]
    fn a_developer_may_skip_and_is_told() {
        let test = ended(&[Some("node is not here")]);
        assert!(of(&test, &[], false, Ok(())).is_ok());
        let expected = (vec![], vec!["a::b: node is not here".to_owned()]);
        assert_eq!(skips(&test, &[]), expected);
    }

    #[test]
    fn what_has_failed_or_run_no_test_is_not_well() {
        assert!(of(&ended(&[None]), &[], false, Ok(())).is_ok());
        assert!(of(&ended(&[None]), &[], false, Err(anyhow::anyhow!("x"))).is_err());
        assert!(of(&[], &[], false, Ok(())).is_err());
    }

    #[test]
    fn what_is_missing_and_could_be_fetched_is_named() {
        assert!(require(&["nginx"], &unfetched()).is_ok());
        let error = require(&["node", "nginx"], &unfetched()).unwrap_err();
        assert!(error.to_string().contains(": node missing"), "{error}");
    }
}
