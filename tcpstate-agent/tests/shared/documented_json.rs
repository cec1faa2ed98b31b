//! The examples of docs/json.md, and what readers of JSON rely on.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/json.md");

/// An object that a command prints, by the name of the command with `-` for what is between words.
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) value: Value,
}

/// Every example: the `json` block below each heading that is a command.
pub(crate) fn examples() -> Result<Vec<Example>> {
    DOCUMENT.split("\n## `").skip(1).map(example).collect()
}

fn example(section: &str) -> Result<Example> {
    let (command, text) = section.split_once('`').context("a heading without end")?;
    let block = text.split("```").nth(1);
    let json = block.and_then(|block| block.strip_prefix("json"));
    let json = json.with_context(|| format!("docs/json.md has no example of {command}"))?;
    Ok(Example {
        name: command.replace(" --", "-"),
        value: serde_json::from_str(json)
            .with_context(|| format!("docs/json.md: the example of {command}"))?,
    })
}

/// Where there is something in a value: `a`, `a.b`, and `a[].b` in the objects of a list.
pub(crate) fn paths(value: &Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    collect(value, "", &mut paths);
    paths
}

fn collect(value: &Value, place: &str, paths: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = match place {
                    "" => name.clone(),
                    _ => format!("{place}.{name}"),
                };
                collect(member, &path, paths);
                paths.insert(path);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect(item, &format!("{place}[]"), paths);
            }
        }
        _ => {}
    }
}
