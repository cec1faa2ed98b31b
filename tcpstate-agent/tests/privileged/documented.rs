//! What the commands print is what docs/json.md shows.

#[path = "../shared/documented_json.rs"]
mod documented_json;

use std::collections::BTreeSet;

use serde_json::Value;

/// Compares the members of one or more objects with those of an example.
#[track_caller]
pub(crate) fn assert_as_documented<'a>(example: &str, shown: impl IntoIterator<Item = &'a Value>) {
    let mut members = BTreeSet::new();
    for object in shown {
        members.append(&mut documented_json::paths(object));
    }
    let examples = documented_json::examples().unwrap();
    let documented = examples.iter().find(|one| one.name == example);
    let documented = documented.unwrap_or_else(|| panic!("docs/json.md has no {example}"));
    assert_eq!(
        members,
        documented_json::paths(&documented.value),
        "{example}"
    );
}
