//! The documentation says what the code says.

use std::{
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
const DOCUMENTS: [&str; 15] = [
    "README.md",
    CHANGELOG,
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/commands.md",
    "docs/contributing.md",
    "docs/deployment.md",
    "docs/diagnosis.md",
    "docs/json.md",
    "docs/prometheus.md",
    "docs/reliability.md",
    "docs/segments.md",
    "docs/web.md",
    "docs/where.md",
    "SECURITY.md",
];
/// What a histogram's name has behind it in queries.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];

#[test]
fn the_metrics_reference_is_what_the_catalogue_says() -> Result<()> {
    is_generated(REFERENCE, &catalogue::reference())
}

/// Compares a document with what the code says, or writes it where that is asked for.
fn is_generated(document: &str, generated: &str) -> Result<()> {
    if env::var_os("TCPSTATE_BLESS").is_some_and(|value| value == "1") {
        let path = root().join(document);
        return fs::write(path, generated).with_context(|| format!("cannot write {document}"));
    }
    let written = read(document).context("run `cargo xtask docs`")?;
    assert!(
        written == generated,
        "{document} is not what the code says: run `cargo xtask docs`"
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
    let (_, after) = rest.split_once(end).context(end)?;
    let generated = [before, begin, &advice::reference(), end, after].concat();
    is_generated(VERDICTS, &generated)
}

const FLAGS: &str = "docs/flags.md";

#[test]
fn the_reference_of_flags_is_what_the_command_line_says() -> Result<()> {
    is_generated(FLAGS, &flags_reference(&Cli::command()))
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

/// A flag, and the commands that take it.
struct Flag {
    name: String,
    variable: String,
    default: String,
    meaning: String,
    commands: Vec<String>,
}

/// Every flag once, in the order of the commands; those of all commands last.
fn flags_reference(cli: &Command) -> String {
    let commands: Vec<&Command> = cli.get_subcommands().collect();
    let mut flags: Vec<Flag> = Vec::new();
    for command in &commands {
        for flag in command.get_arguments().filter_map(flag) {
            let same = flags
                .iter_mut()
                .find(|known| (&known.name, &known.variable) == (&flag.name, &flag.variable));
            let name = format!("`{}`", command.get_name());
            match same {
                Some(known) => known.commands.push(name),
                None => flags.push(Flag {
                    commands: vec![name],
                    ..flag
                }),
            }
        }
    }
    flags.extend(
        cli.get_arguments()
            .filter(|argument| argument.is_global_set())
            .filter_map(flag),
    );
    let mut text = "# Flags\n\n\
        <!-- Generated from what `tcpstate-agent --help` says: cargo xtask docs -->\n\n\
        Every flag can be set in the environment too. The command line wins. Without a command it \
        is `run`.\n\n\
        | flag | variable | default | commands | meaning |\n\
        | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for flag in flags {
        let default = if flag.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", flag.default)
        };
        let commands = if flag.commands.is_empty() {
            "all".to_owned()
        } else {
            flag.commands.join(", ")
        };
        let Flag {
            name,
            variable,
            meaning,
            ..
        } = flag;
        let cells = [
            format!("`{name}`"),
            format!("`{variable}`"),
            default,
            commands,
            meaning,
        ];
        text.extend(["| ", &cells.join(" | "), " |\n"]);
    }
    text
}

fn flag(argument: &Arg) -> Option<Flag> {
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| text(value))
        .collect();
    let help = argument
        .get_long_help()
        .or(argument.get_help())?
        .to_string();
    let mut meaning = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() {
        meaning.push_str(": ");
        meaning.push_str(&values.join(", "));
    }
    Some(Flag {
        name: format!("--{}", argument.get_long()?),
        variable: argument.get_env().map(text)?,
        default: defaults.join(","),
        meaning: meaning.replace('|', "\\|"),
        commands: Vec::new(),
    })
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
