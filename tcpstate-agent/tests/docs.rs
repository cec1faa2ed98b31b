//! The documentation says what the code says.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Arg, Command, CommandFactory as _};
use tcpstate_agent::{
    cli::Cli,
    collect::close_wait::advice,
    exposition::catalogue::{self, Kind},
};

/// Relative to the root of the workspace.
const REFERENCE: &str = "docs/metrics.md";
const CHANGELOG: &str = "CHANGELOG.md";
/// Those that are written by hand.
const DOCUMENTS: [&str; 8] = [
    "README.md",
    CHANGELOG,
    "docs/architecture.md",
    "docs/diagnosis.md",
    "docs/json.md",
    "docs/reliability.md",
    "docs/web.md",
    "SECURITY.md",
];
/// What a histogram's name has behind it in queries.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];

#[test]
fn the_metrics_reference_is_what_the_catalogue_says() -> Result<()> {
    let generated = catalogue::reference();
    if env::var_os("TCPSTATE_BLESS").is_some_and(|value| value == "1") {
        let path = root().join(REFERENCE);
        return fs::write(path, generated).with_context(|| format!("cannot write {REFERENCE}"));
    }
    let written = read(REFERENCE).context("run `cargo xtask docs`")?;
    assert!(
        written == generated,
        "{REFERENCE} is not what the catalogue says: run `cargo xtask docs`"
    );
    Ok(())
}

const VERDICTS: &str = "docs/diagnosis.md";
/// Around the table of verdicts.
const MARKS: [&str; 2] = [
    "<!-- The verdicts, generated from tcpstate-agent/src/collect/close_wait/advice.rs: cargo xtask docs -->\n",
    "<!-- The end of the verdicts -->\n",
];

#[test]
fn the_table_of_verdicts_is_what_the_code_says() -> Result<()> {
    let text = read(VERDICTS)?;
    let [begin, end] = MARKS;
    let (before, rest) = text.split_once(begin).context(begin)?;
    let (written, after) = rest.split_once(end).context(end)?;
    let generated = advice::reference();
    if env::var_os("TCPSTATE_BLESS").is_some_and(|value| value == "1") {
        let all = [before, begin, &generated, end, after].concat();
        return fs::write(root().join(VERDICTS), all)
            .with_context(|| format!("cannot write {VERDICTS}"));
    }
    assert!(
        written == generated,
        "{VERDICTS} does not have the verdicts that the code has: run `cargo xtask docs`"
    );
    Ok(())
}

/// A row of the table is | `--flag` | `VARIABLE` | `default` | meaning |.
#[test]
fn the_readme_has_every_flag_with_its_variable_and_default() -> Result<()> {
    let readme = read("README.md")?;
    let documented: BTreeSet<[String; 3]> = table_rows(&readme)
        .filter(|row| row[0].starts_with("`--"))
        .map(|row| [0, 1, 2].map(|cell| row.get(cell).map_or("", |text| text).replace('`', "")))
        .collect();
    assert_eq!(documented, flags(&Cli::command()));
    Ok(())
}

#[test]
fn the_readme_has_every_command() -> Result<()> {
    let readme = read("README.md")?;
    let rows: Vec<String> = table_rows(&readme).map(|row| row[0].to_owned()).collect();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(rows.contains(&format!("`{name}`")), "no row for `{name}`");
    }
    Ok(())
}

#[test]
fn every_metric_that_is_spoken_of_exists() -> Result<()> {
    let mut documents = vec![(REFERENCE, catalogue::reference())];
    for document in DOCUMENTS {
        let text = read(document)?;
        documents.push((
            document,
            if document == CHANGELOG {
                new_in(&text)
            } else {
                text
            },
        ));
    }
    for (document, text) in documents {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        for word in words.filter(|word| word.starts_with("tcpstate_")) {
            let mut metrics = catalogue::ALL.iter();
            let exists = metrics.any(|metric| match metric.kind {
                Kind::Histogram => word
                    .strip_prefix(metric.name)
                    .is_some_and(|end| end.is_empty() || OF_HISTOGRAMS.contains(&end)),
                Kind::Counter | Kind::Gauge => word == metric.name,
            });
            assert!(exists, "{document}: there is no metric {word}");
        }
    }
    Ok(())
}

/// The changelog without what is no longer as it was, which names metrics that are gone.
fn new_in(changelog: &str) -> String {
    changelog
        .split("\n### ")
        .filter(|part| !part.starts_with("Changed") && !part.starts_with("Removed"))
        .collect()
}

/// A link whose text is the name of something in code, as [`name`](file.rs), leads to a file with
/// that name in it.
#[test]
fn every_link_leads_to_what_it_names() -> Result<()> {
    for document in DOCUMENTS {
        let text = read(document)?;
        for (text, target) in links(&text) {
            let path = target.split('#').next().unwrap_or(target);
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let folder = Path::new(document).parent().unwrap_or(Path::new(""));
            let found = read(folder.join(path)).with_context(|| format!("a link in {document}"))?;
            let name = text.trim_matches('`');
            assert!(
                name == text || path.ends_with(name) || found.contains(name),
                "{document}: {path} has no {name}"
            );
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {}", path.display()))
}

fn flags(command: &Command) -> BTreeSet<[String; 3]> {
    command
        .get_arguments()
        .filter_map(flag)
        .chain(command.get_subcommands().flat_map(flags))
        .collect()
}

fn flag(argument: &Arg) -> Option<[String; 3]> {
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| text(value))
        .collect();
    Some([
        format!("--{}", argument.get_long()?),
        argument.get_env().map(text).unwrap_or_default(),
        defaults.join(","),
    ])
}

/// The rows of all tables of a Markdown text, by cell.
fn table_rows(markdown: &str) -> impl Iterator<Item = Vec<&str>> {
    markdown.lines().filter_map(|line| {
        let row = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(row.split('|').map(str::trim).collect())
    })
}

/// The text and the target of every link of a Markdown text.
fn links(markdown: &str) -> impl Iterator<Item = (&str, &str)> {
    markdown
        .match_indices("](")
        .filter_map(|(middle, between)| {
            let text = markdown[..middle].rsplit('[').next()?;
            let target = markdown[middle + between.len()..].split(')').next()?;
            Some((text, target))
        })
}
