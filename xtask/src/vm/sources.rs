//! The mirrors that the machine's own apt uses, in both forms of its files.

use std::{fs, path::Path};

use anyhow::Result;

use crate::folder;

/// One archive in apt's sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    uri: String,
    suites: Vec<String>,
}

/// What apt's files on this machine name.
pub(crate) fn of_machine() -> Result<Vec<Source>> {
    let etc = Path::new("/etc/apt");
    let parts = etc.join("sources.list.d");
    let mut files = vec![etc.join("sources.list")];
    if parts.is_dir() {
        files.extend(folder::entries(&parts)?);
    }
    let mut sources = Vec::new();
    for file in files {
        // One that may not be read is one the less.
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(stanzas(&text)),
            _ => {}
        }
    }
    Ok(sources)
}

/// Where to look for a suite of Debian's, the likeliest first.
pub(crate) fn mirrors(sources: &[Source], suite: &str) -> Vec<String> {
    let security = suite.ends_with("-security");
    let mut mirrors = Vec::new();
    for source in sources {
        if source.has_security() == security {
            mirrors.push(source.uri.clone());
        }
    }
    if security {
        // Mirrors mostly have both beside each other.
        let beside = sources.iter().filter(|source| !source.has_security());
        mirrors.extend(beside.map(|source| format!("{}-security", source.uri)));
    }
    // An archive of someone else's may be among the sources.
    mirrors.retain(|mirror| {
        let last = mirror.rsplit('/').next().unwrap_or_default();
        last.starts_with("debian") || mirror.contains("security.debian.org")
    });
    let mut unique: Vec<String> = Vec::new();
    for mirror in mirrors {
        if !unique.contains(&mirror) {
            unique.push(mirror);
        }
    }
    unique
}

impl Source {
    fn has_security(&self) -> bool {
        self.suites
            .iter()
            .any(|suite| suite.ends_with("-security") || suite.contains("/updates"))
    }
}

/// `deb [options] URI suite component…`
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?;
    let (options, rest) = match (line.find('['), line.find(']')) {
        (Some(start), Some(end)) => (&line[..start], &line[end + 1..]),
        _ => line.trim_start().split_once(char::is_whitespace)?,
    };
    if options.trim() != "deb" {
        return None;
    }
    let mut words = rest.split_whitespace();
    Some(Source {
        uri: base(words.next()?),
        suites: vec![words.next()?.to_owned()],
    })
}

/// Paragraphs of `Field: values`, in which a line that begins with a space goes on.
fn stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    for stanza in text.replace("\n ", " ").replace("\n\t", " ").split("\n\n") {
        let values = |name: &str| -> Vec<String> {
            let line = stanza.lines().find_map(|line| {
                let (field, values) = line.split_once(':')?;
                field.eq_ignore_ascii_case(name).then_some(values)
            });
            let words = line.unwrap_or_default().split_whitespace();
            words.map(str::to_owned).collect()
        };
        let is_off = values("Enabled").first().is_some_and(|value| value == "no");
        if is_off || !values("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        sources.extend(values("URIs").iter().map(|uri| Source {
            uri: base(uri),
            suites: values("Suites"),
        }));
    }
    sources
}

fn base(uri: &str) -> String {
    uri.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suites: &[&str]) -> Source {
        Source {
            uri: uri.to_owned(),
            suites: suites.iter().map(|&suite| suite.to_owned()).collect(),
        }
    }

    #[test]
    fn both_forms_of_files_are_read_without_their_comments() {
        let text = "# http://old/debian x\nTypes: deb deb-src\n# URIs: http://older/debian\n\
                    URIs: http://a/debian/\n http://b/debian\nSuites: x x-updates\n\n\
                    Types: deb\nEnabled: no\nURIs: http://c/debian\nSuites: x\n\n\
                    Types: deb-src\nURIs: http://d/debian\nSuites: x\n";
        let suites = ["x", "x-updates"];
        assert_eq!(
            stanzas(text),
            [
                source("http://a/debian", &suites),
                source("http://b/debian", &suites)
            ]
        );
        for line in [
            "deb http://a/debian x main",
            "deb [arch=amd64 signed-by=/k] http://a/debian/ x main # y",
        ] {
            assert_eq!(
                one_line(line),
                Some(source("http://a/debian", &["x"])),
                "{line}"
            );
        }
        for line in [
            "",
            "# deb http://a/debian x main",
            "deb-src http://a/debian x main",
            "deb",
        ] {
            assert_eq!(one_line(line), None, "{line}");
        }
    }

    #[test]
    fn each_suite_is_looked_for_where_it_is_likeliest() {
        let sources = [
            source("http://other/tools", &["x"]),
            source("http://a/debian", &["x", "x-updates"]),
            source("http://s/debian-security", &["x-security"]),
        ];
        assert_eq!(mirrors(&sources, "y-backports"), ["http://a/debian"]);
        assert_eq!(
            mirrors(&sources, "y-security"),
            ["http://s/debian-security", "http://a/debian-security"]
        );
        assert_eq!(mirrors(&sources[..1], "y"), [""; 0]);
        assert_eq!(
            mirrors(&sources[1..2], "y-security"),
            ["http://a/debian-security"]
        );
    }
}
