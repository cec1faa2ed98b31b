//! The rules of the source tree that no compiler knows.
//!
//! Most are absences: what a part of the tree does not name. They keep each library behind the
//! one module that speaks for it, and they hold only for as long as something looks.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{folder, workspace};

/// The crates of the agent that only some of its files may name: those of a folder, or, with `*/`,
/// those of a name.
const CONFINED: [(&str, &[&str]); 4] = [
    ("aya", &["kernel/"]),
    ("aya_log", &["kernel/"]),
    ("prometheus", &["exposition/", "*/metrics.rs"]),
    ("clap", &["cli/"]),
];
const AGENT: &str = "tcpstate-agent/src/";
const EBPF: &str = "tcpstate-ebpf/src/";

/// The folders in which sockets are counted.
const COUNTING: [&str; 3] = ["collect/", "decode/", "engine/"];
/// What leads to files.
const OPENING: [&str; 5] = ["fs::", "File::", "OpenOptions", "procfs", "read_dir"];

/// The crate that has no unsafe code, by the compiler's word.
const SAFE: &str = "tcpstate-common/src/lib.rs";

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: [&str; 3] = ["utils.rs", "helpers.rs", "types.rs"];

const MAX_LINES: usize = 600;

/// The kernel cuts longer names of programs and maps (`BPF_OBJ_NAME_LEN`, with its final NUL).
const MAX_NAME: usize = 15;

/// The attributes that make a program of the function below them, besides `link_section`.
const PROGRAM_MACROS: [&str; 7] = [
    "btf_tracepoint",
    "classifier",
    "fentry",
    "fexit",
    "kprobe",
    "tracepoint",
    "xdp",
];

/// A file of the workspace; `path` is relative to its root.
struct Source {
    path: String,
    text: String,
}

/// `cargo xtask tidy`.
pub(crate) fn run() -> Result<()> {
    let root = workspace::root()?;
    let mut sources = Vec::new();
    read_sources(&root, &root, &mut sources)?;
    let (manifests, sources): (Vec<_>, Vec<_>) = sources
        .into_iter()
        .partition(|source| source.path.ends_with("Cargo.toml"));

    let mut faults = Vec::new();
    for source in &sources {
        faults.extend(confined_crates(source));
        faults.extend(opened_paths(source));
        faults.extend(missing_forbid_unsafe(source));
        faults.extend(too_long(source));
        faults.extend(empty_name(source));
        faults.extend(cut_names(source));
    }
    faults.extend(dependencies(&manifests)?);

    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults in the source tree, named above", faults.len());
    }
    println!("{} sources are tidy", sources.len());
    Ok(())
}

/// Collects the Rust sources and manifests below `folder`.
fn read_sources(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for path in folder::entries(folder)? {
        let name = folder::name(&path);
        if path.is_dir() {
            // Hidden folders and what cargo builds are not ours.
            if !name.starts_with('.') && name != "target" {
                read_sources(root, &path, sources)?;
            }
        } else if name == "Cargo.toml" || path.extension() == Some("rs".as_ref()) {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let path = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            sources.push(Source { path, text });
        }
    }
    Ok(())
}

fn confined_crates(source: &Source) -> Vec<String> {
    let Some(file) = source.path.strip_prefix(AGENT) else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    for (name, to) in CONFINED {
        if to.iter().any(|place| is_at(file, place)) {
            continue;
        }
        for (number, line) in code_lines(&source.text) {
            if names_crate(line, name) {
                let place = to.join(", ");
                faults.push(format!(
                    "{}:{number}: names `{name}`, outside {place}",
                    source.path
                ));
            }
        }
    }
    faults
}

fn is_at(file: &str, place: &str) -> bool {
    match place.strip_prefix('*') {
        Some(name) => file.ends_with(name),
        None => file.starts_with(place),
    }
}

/// Whether a line of code uses the crate `name`, as a path's first part or in a `use`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + name.len()..]);
        // `exposition::prometheus` is a module; in ` ::prometheus` it is the crate again.
        let first = !before.ends_with("::") || before.ends_with(" ::");
        let whole = !before.ends_with(is_in_name) && !after.starts_with(is_in_name);
        first && whole && (after.starts_with("::") || before.ends_with("use "))
    })
}

/// What counts opens no file: whoever mounts a file system chooses whether a path in it answers. Files
/// are the business of host/, whose questions that may find no answer have a thread and a deadline.
fn opened_paths(source: &Source) -> Vec<String> {
    let counts = COUNTING.iter().any(|folder| {
        let file = source.path.strip_prefix(AGENT);
        file.is_some_and(|file| file.starts_with(folder))
    });
    if !counts {
        return Vec::new();
    }
    code_lines(&source.text)
        .filter_map(|(number, line)| {
            let opens = OPENING.iter().find(|opens| line.contains(**opens))?;
            let path = &source.path;
            Some(format!(
                "{path}:{number}: `{opens}`, where sockets are counted"
            ))
        })
        .collect()
}
/// In the programs it has two instructions that the verifier wants.
const FORBIDS_UNSAFE: &str = r#"#![cfg_attr(not(target_arch = "bpf"), forbid(unsafe_code))]"#;

fn missing_forbid_unsafe(source: &Source) -> Option<String> {
    let present = code_lines(&source.text).any(|(_, line)| line.trim() == FORBIDS_UNSAFE);
    (source.path == SAFE && !present).then(|| format!("{}: has no `{FORBIDS_UNSAFE}`", source.path))
}

fn too_long(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > MAX_LINES).then(|| {
        format!(
            "{}: {lines} lines, of {MAX_LINES} at most (find its second subject)",
            source.path
        )
    })
}

fn empty_name(source: &Source) -> Option<String> {
    let name = source.path.rsplit('/').next().unwrap_or(&source.path);
    EMPTY_NAMES
        .contains(&name)
        .then(|| format!("{}: a file is named after its subject", source.path))
}

/// The names of eBPF programs and maps that the kernel would cut.
fn cut_names(source: &Source) -> Vec<String> {
    if !source.path.starts_with(EBPF) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    // Whether an attribute seen before belongs to the next function, or to the next static.
    let (mut program, mut map) = (false, false);
    for (number, line) in code_lines(&source.text) {
        if let Some(attribute) = line.trim_start().strip_prefix("#[") {
            let macro_name = leading_name(attribute);
            program |= attribute.contains("link_section") || PROGRAM_MACROS.contains(&macro_name);
            map |= macro_name == "map";
            continue;
        }
        let (function, variable) = (item_name(line, "fn "), item_name(line, "static "));
        let named = function.filter(|_| program).or(variable.filter(|_| map));
        if let Some(name) = named.filter(|name| name.len() > MAX_NAME) {
            faults.push(format!(
                "{}:{number}: `{name}` has {} characters, of {MAX_NAME} at most",
                source.path,
                name.len()
            ));
        }
        if function.or(variable).is_some() {
            (program, map) = (false, false);
        }
    }
    faults
}

/// The name of the item that `keyword` begins in `line`, if it does.
fn item_name<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let (before, after) = line.split_once(keyword)?;
    let name = leading_name(after.strip_prefix("mut ").unwrap_or(after));
    (!before.ends_with(is_in_name)).then_some(name)
}

fn leading_name(text: &str) -> &str {
    text.split(|character| !is_in_name(character))
        .next()
        .unwrap_or(text)
}

fn is_in_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Dependencies that several members share but do not take from the workspace, and those of the
/// workspace that accept any version.
fn dependencies(manifests: &[Source]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    // By dependency, the manifests that name it and whether they leave its version to the workspace.
    let mut uses: BTreeMap<String, Vec<(&str, bool)>> = BTreeMap::new();
    for manifest in manifests {
        let table: toml::Table = manifest
            .text
            .parse()
            .with_context(|| format!("cannot parse {}", manifest.path))?;
        let shared = table
            .get("workspace")
            .and_then(|workspace| workspace.get("dependencies"));
        for (name, value) in entries(shared) {
            let version = value.get("version").unwrap_or(value).as_str();
            if value.get("path").is_none() && version.is_none_or(|version| version.contains('*')) {
                faults.push(format!(
                    "{}: `{name}` is not pinned to a version",
                    manifest.path
                ));
            }
        }
        if manifest.path != "Cargo.toml" && table.contains_key("workspace") {
            // A workspace of its own, which can take nothing from this one.
            continue;
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in entries(table.get(section)) {
                let inherited = value.get("workspace").is_some();
                uses.entry(name.clone())
                    .or_default()
                    .push((&manifest.path, inherited));
            }
        }
    }
    for (name, uses) in uses {
        let several = uses.iter().any(|(path, _)| *path != uses[0].0);
        for (path, _) in uses.iter().filter(|(_, inherited)| several && !inherited) {
            faults.push(format!(
                "{path}: `{name}` is shared, so its version is the workspace's"
            ));
        }
    }
    Ok(faults)
}

fn entries(table: Option<&toml::Value>) -> impl Iterator<Item = (&String, &toml::Value)> {
    table.and_then(toml::Value::as_table).into_iter().flatten()
}

/// The numbered lines of a Rust source, without their comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| {
        let comment = line
            .match_indices("//")
            .find(|(at, _)| !line[..*at].ends_with(':'));
        (index + 1, comment.map_or(line, |(at, _)| &line[..at]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_confined_crate_is_found_outside_its_place() {
        for line in [
            "use aya::Ebpf;",
            "use ::aya::Ebpf;",
            "use aya as b;",
            "fn f(e: &aya::Ebpf) {}",
        ] {
            let text = format!("//! About aya::Ebpf.\n{line}\n");
            let found = confined_crates(&source("tcpstate-agent/src/engine/mod.rs", &text));
            let expected = ["tcpstate-agent/src/engine/mod.rs:2: names `aya`, outside kernel/"];
            assert_eq!(found, expected, "{line}");
            assert!(
                confined_crates(&source("tcpstate-agent/src/kernel/load.rs", &text)).is_empty()
            );
        }
    }

    #[test]
    fn series_become_text_in_the_files_named_metrics_of_every_subject() {
        let line = "use prometheus::proto::MetricFamily;";
        let faults = |path: &str| confined_crates(&source(path, line)).len();
        assert_eq!(faults("tcpstate-agent/src/collect/closes/metrics.rs"), 0);
        assert_eq!(faults("tcpstate-agent/src/collect/closes/recent.rs"), 1);
        assert_eq!(faults("tcpstate-agent/src/collect/no_metrics.rs"), 1);
    }

    #[test]
    fn a_file_that_is_opened_where_sockets_are_counted_is_found() {
        for line in [
            "use std::fs::File;",
            "let text = fs::read_to_string(path)?;",
            "let file = File::open(path)?;",
        ] {
            let faults = |path: &str| opened_paths(&source(path, line)).len();
            assert_eq!(faults("tcpstate-agent/src/engine/state.rs"), 1, "{line}");
            assert_eq!(faults("tcpstate-agent/src/collect/look.rs"), 1, "{line}");
            assert_eq!(faults("tcpstate-agent/src/host/orphans.rs"), 0, "{line}");
        }
        let harmless = "    /// [`fs::read`] is not called.\n    let confsets = 1;";
        assert!(opened_paths(&source("tcpstate-agent/src/engine/mod.rs", harmless)).is_empty());
    }

    #[test]
    fn what_only_looks_like_a_confined_crate_is_let_be() {
        for line in [
            "use crate::exposition::prometheus::Registry;",
            "// clap::Parser would do it",
            "let maya::X = y; himalaya::z()",
            "let aya = 1;",
            "\"run prometheus: it is there\"",
        ] {
            assert!(
                confined_crates(&source("tcpstate-agent/src/collect/look.rs", line)).is_empty(),
                "{line}"
            );
        }
    }

    #[test]
    fn the_shared_crate_forbids_unsafe_code() {
        let path = "tcpstate-common/src/lib.rs";
        assert_eq!(
            missing_forbid_unsafe(&source(path, &format!("#![no_std]\n{FORBIDS_UNSAFE}"))),
            None
        );
        let comment = format!("// {FORBIDS_UNSAFE}");
        assert!(missing_forbid_unsafe(&source(path, &comment)).is_some());
    }

    #[test]
    fn a_file_has_600_lines_at_most() {
        assert_eq!(too_long(&source("a.rs", &"x\n".repeat(600))), None);
        assert!(too_long(&source("a.rs", &"x\n".repeat(601))).is_some());
    }

    #[test]
    fn a_file_is_not_named_utils() {
        assert_eq!(
            empty_name(&source("tcpstate-agent/src/my_utils.rs", "")),
            None
        );
        assert!(empty_name(&source("tcpstate-agent/src/utils.rs", "")).is_some());
    }

    #[test]
    fn names_of_programs_and_maps_have_15_characters_at_most() {
        let good = "#[map]\nstatic NAME_IS_15_CHAR: A = B;\n\
                    #[btf_tracepoint(function = \"f\")]\nfn name_is_15_char(c: C) -> i32 {}\n\
                    fn helper_with_a_long_name() {}\n\
                    #[unsafe(link_section = \"license\")]\nstatic LICENSE_WITH_A_LONG_NAME: u8 = 0;";
        assert!(cut_names(&source("tcpstate-ebpf/src/main.rs", good)).is_empty());
        for bad in [
            "#[map]\nstatic NAME_IS_16_CHARS: A = B;",
            "#[map]\n#[cfg(x)]\npub(crate) static mut NAME_IS_16_CHARS: A = B;",
            "#[xdp]\npub fn name_is_16_chars(c: C) -> u32 {}",
            "#[unsafe(no_mangle)]\n#[unsafe(link_section = \"iter/tcp\")]\n\
             extern \"C\" fn name_is_16_chars(c: *const C) -> i32 {}",
        ] {
            let found = cut_names(&source("tcpstate-ebpf/src/main.rs", bad));
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            assert!(cut_names(&source("tcpstate-agent/src/main.rs", bad)).is_empty());
        }
    }

    #[test]
    fn shared_dependencies_are_pinned_in_the_workspace() -> Result<()> {
        let root = "[workspace.dependencies]\na = \"1\"\nb = { path = \"b\" }";
        let one = "[dependencies]\na.workspace = true\nc = \"1\"";
        let two = "[dev-dependencies]\na.workspace = true";
        let tree = |root, one, two| {
            dependencies(&[
                source("Cargo.toml", root),
                source("1.toml", one),
                source("2.toml", two),
            ])
        };
        assert_eq!(tree(root, one, two)?, [""; 0]);

        let root = "[workspace.dependencies]\na = \"*\"\nb = { git = \"x\" }";
        let two = "[dev-dependencies]\na = \"1\"";
        let expected = [
            "Cargo.toml: `a` is not pinned to a version",
            "Cargo.toml: `b` is not pinned to a version",
            "2.toml: `a` is shared, so its version is the workspace's",
        ];
        assert_eq!(tree(root, one, two)?, expected);
        Ok(())
    }
}
