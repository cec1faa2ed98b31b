//! A page of metrics, taken apart as Prometheus would.

use std::collections::BTreeMap;

/// A page of metrics.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) text: String,
    samples: Vec<Sample>,
}

/// One line of it.
#[derive(Debug)]
pub(crate) struct Sample {
    name: String,
    pub(crate) labels: BTreeMap<String, String>,
    value: String,
}

impl Page {
    /// Takes `text` apart; fails where it is not in the text format.
    pub(crate) fn parse(text: String) -> Self {
        let is_raw_control = |character: char| character.is_control() && !matches!(character, '\n');
        assert!(!text.contains(is_raw_control), "{text:?}");
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| Sample::parse(line).unwrap_or_else(|| panic!("{line:?} is no sample")))
            .collect();
        Self { text, samples }
    }

    /// The samples of a metric that have these labels, whatever others they have.
    pub(crate) fn samples(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let samples = self.samples.iter().filter(|sample| sample.name == name);
        samples
            .filter(|sample| {
                labels
                    .iter()
                    .all(|(label, value)| sample.label(label) == *value)
            })
            .collect()
    }

    /// Their sum; 0 where there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let samples = self.samples(name, labels);
        samples.into_iter().map(Sample::count).sum()
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let end_of_name = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(end_of_name);
        let mut labels = BTreeMap::new();
        let value = match rest.strip_prefix('{') {
            None => rest,
            Some(rest) => parse_labels(rest, &mut labels)?,
        };
        let value = value.strip_prefix(' ')?;
        value.parse::<f64>().ok()?;
        Some(Self {
            name: name.to_owned(),
            labels,
            value: value.to_owned(),
        })
    }

    /// The value of a label; empty where it has none, as to Prometheus.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", |value| value)
    }

    /// The value, which must be a whole number.
    pub(crate) fn count(&self) -> u64 {
        self.value
            .parse()
            .unwrap_or_else(|_| panic!("not a whole number: {self:?}"))
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.value.parse().unwrap()
    }
}

/// Takes `name="value",…}` off the front, and returns what follows. A label that comes twice, and
/// an escape that the format does not know, are faults.
fn parse_labels<'a>(mut text: &'a str, labels: &mut BTreeMap<String, String>) -> Option<&'a str> {
    loop {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    same @ ('"' | '\\') => same,
                    _ => return None,
                }),
                (_, other) => value.push(other),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        text = &rest[end + 1..];
        match text.split_at_checked(1)? {
            (",", rest) => text = rest,
            ("}", rest) => return Some(rest),
            _ => return None,
        }
    }
}
