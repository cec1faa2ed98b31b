//! What dashboards, alerts and scripts rely on stays, or the changelog says what became of it.
//!
//! docs/contract.txt has a line for every promise. It is written by `cargo xtask docs`, which takes
//! no promise out that CHANGELOG.md does not name. Every line begins with a checksum of the rest,
//! so that replacing a name in all files of the tree does not replace the promise too.

#[path = "shared/documented_json.rs"]
mod documented_json;

use std::{
    collections::BTreeSet,
    env, fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tcpstate_agent::exposition::catalogue;

use crate::documented_json::{Example, examples, paths};

const FILE: &str = "docs/contract.txt";
const CHANGELOG: &str = "CHANGELOG.md";
const PREFACE: &str = "\
# What dashboards, alerts and scripts may rely on: metrics with their types and labels, and the
# members of JSON. `cargo xtask docs` writes it; a change by hand is found by the checksums.
";
/// The member of JSON that says whether a reader knows the others.
const SCHEMA_VERSION: &str = "schema_version";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Promise {
    /// A metric, or a member of what a command prints: `COMMAND.PATH`.
    name: String,
    /// What else is promised of it.
    terms: String,
}

impl fmt::Display for Promise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, terms } = self;
        let separator = if terms.is_empty() { "" } else { " " };
        write!(formatter, "{name}{separator}{terms}")
    }
}

type Contract = BTreeSet<Promise>;

#[test]
fn a_promise_is_dropped_only_where_the_changelog_says_so() -> Result<()> {
    let kept = kept()?;
    let path = root().join(FILE);
    let given = read(&fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?)?;
    let changelog = fs::read_to_string(root().join(CHANGELOG)).context(CHANGELOG)?;
    let faults = faults(&given, &kept, &changelog);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    if env::var_os("TCPSTATE_BLESS").is_some_and(|value| value == "1") {
        return fs::write(&path, written(&kept)).with_context(|| format!("cannot write {FILE}"));
    }
    assert!(
        given == kept,
        "{FILE} is not what the code promises: run `cargo xtask docs`"
    );
    Ok(())
}

/// What the catalogue and the documentation promise. That commands print what is documented is for
/// other tests to tell.
fn kept() -> Result<Contract> {
    let mut contract = Contract::new();
    for metric in catalogue::ALL {
        let labels: Vec<&str> = metric.labels.iter().map(|label| label.name).collect();
        contract.insert(Promise {
            name: metric.name.to_owned(),
            terms: format!("{} {{{}}}", metric.kind.name(), labels.join(",")),
        });
    }
    for Example { name, value } in examples()? {
        for path in paths(&value) {
            let terms = if path == SCHEMA_VERSION {
                value[SCHEMA_VERSION].to_string()
            } else {
                String::new()
            };
            contract.insert(Promise {
                name: format!("{name}.{path}"),
                terms,
            });
        }
    }
    Ok(contract)
}

/// What is wrong with going from one contract to another.
fn faults(given: &Contract, kept: &Contract, changelog: &str) -> Vec<String> {
    let announced = announced(changelog);
    let mut faults = Vec::new();
    for promise in given.difference(kept) {
        let name = &promise.name;
        if !announced.contains(&format!("`{name}`")) {
            faults.push(format!(
                "`{promise}` is gone or changed, and {CHANGELOG} does not name `{name}` among \
                 what is Changed or Removed in the next version"
            ));
        }
        if let Some((command, member)) = name.split_once('.')
            && member != SCHEMA_VERSION
            && given
                .intersection(kept)
                .any(|promise| promise.name == format!("{command}.{SCHEMA_VERSION}"))
        {
            faults.push(format!(
                "`{name}` is gone, and {SCHEMA_VERSION} of {command} is what it was"
            ));
        }
    }
    faults
}

/// The parts of the changelog that tell what is no longer as it was.
fn announced(changelog: &str) -> String {
    let next = changelog
        .split("\n## ")
        .find(|section| section.starts_with("[Unreleased]"))
        .unwrap_or_default();
    next.split("\n### ")
        .filter(|part| part.starts_with("Changed") || part.starts_with("Removed"))
        .collect()
}

fn written(contract: &Contract) -> String {
    let lines = contract.iter().map(|promise| {
        let promise = promise.to_string();
        format!("{:08x} {promise}\n", checksum(&promise))
    });
    lines.fold(PREFACE.to_owned(), |text, line| text + &line)
}

fn read(text: &str) -> Result<Contract> {
    let mut contract = Contract::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sum, promise) = line.split_once(' ').with_context(|| line.to_owned())?;
        if sum != format!("{:08x}", checksum(promise)) {
            bail!(
                "{FILE} was changed by hand: `{promise}`. Take back what was there (git checkout \
                 {FILE}), and run `cargo xtask docs`"
            );
        }
        let (name, terms) = promise.split_once(' ').unwrap_or((promise, ""));
        contract.insert(Promise {
            name: name.to_owned(),
            terms: terms.to_owned(),
        });
    }
    Ok(contract)
}

/// FNV-1a.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

mod the_check {
    use super::*;

    fn contract(promises: &[(&str, &str)]) -> Contract {
        let promise = |&(name, terms): &(&str, &str)| Promise {
            name: name.to_owned(),
            terms: terms.to_owned(),
        };
        promises.iter().map(promise).collect()
    }

    fn count(given: &[(&str, &str)], kept: &[(&str, &str)], changelog: &str) -> usize {
        faults(&contract(given), &contract(kept), changelog).len()
    }

    const SILENT: &str = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- `x_total`: counts.\n\n\
                          ## [0.1.0]\n\n### Removed\n\n- `x_total`, once.\n";
    const ANNOUNCED: &str = "## [Unreleased]\n\n### Added\n\n- `y_total`\n\n### Changed\n\n\
                             - `x_total` is `y_total`; `c.old` is gone, and so `c.schema_version`\n";

    #[test]
    fn a_metric_is_renamed_with_a_word_of_the_changelog_only() {
        let (old, new) = (("x_total", "counter {a}"), ("y_total", "counter {a}"));
        assert_eq!(count(&[old], &[new], &format!("\n{SILENT}")), 1);
        assert_eq!(count(&[old], &[new], &format!("\n{ANNOUNCED}")), 0);
        assert_eq!(count(&[old], &[old, new], SILENT), 0);
    }

    #[test]
    fn types_and_labels_are_promised_too() {
        let old = ("x_total", "counter {a}");
        for new in [("x_total", "gauge {a}"), ("x_total", "counter {a,b}")] {
            assert_eq!(count(&[old], &[new], SILENT), 1, "{new:?}");
        }
    }

    #[test]
    fn a_member_of_json_goes_with_a_new_schema_version_only() {
        let (old, first, second) = (
            ("c.old", ""),
            ("c.schema_version", "1"),
            ("c.schema_version", "2"),
        );
        let announced = format!("\n{ANNOUNCED}");
        assert_eq!(count(&[old, first], &[first], &announced), 1);
        assert_eq!(count(&[old, first], &[second], &announced), 0);
        assert_eq!(count(&[old, first], &[second], SILENT), 2);
    }

    #[test]
    fn a_name_that_is_replaced_in_the_file_too_is_found() {
        let given = contract(&[("x_total", "counter {a}"), ("c.schema_version", "1")]);
        let text = written(&given);
        assert_eq!(read(&text).unwrap(), given);
        assert!(read(&text.replace("x_total", "y_total")).is_err());
    }
}
