//! What the web configuration file says: the keys of every Prometheus exporter, read strictly.

use std::{collections::BTreeMap, fmt};

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use super::passwords;

/// The file, as it is written. A key that is not here is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    tls_server_config: Option<TlsSection>,
    http_server_config: Option<HttpSection>,
    basic_auth_users: Option<BTreeMap<String, Option<String>>>,
    rate_limit: Option<RateLimitSection>,
}

/// `tls_server_config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsSection {
    pub(super) cert: Option<String>,
    pub(super) cert_file: Option<String>,
    pub(super) key: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) client_ca: Option<String>,
    pub(super) client_ca_file: Option<String>,
    pub(super) client_auth_type: Option<String>,
    pub(super) client_allowed_sans: Option<Vec<String>>,
    pub(super) min_version: Option<String>,
    pub(super) max_version: Option<String>,
    pub(super) cipher_suites: Option<Vec<String>>,
    /// Known and without effect: the server has no order of its own.
    prefer_server_cipher_suites: Option<Flag>,
    pub(super) curve_preferences: Option<Vec<String>>,
}

impl TlsSection {
    /// Whether TLS is to be spoken. Versions and suites alone do not ask for it.
    pub(super) fn is_enabled(&self) -> bool {
        [
            &self.cert,
            &self.cert_file,
            &self.key,
            &self.key_file,
            &self.client_ca,
            &self.client_ca_file,
            &self.client_auth_type,
        ]
        .into_iter()
        .any(|text| is_given(text.as_deref()))
    }
}

/// Whether a text is there and says something.
pub(super) fn is_given(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpSection {
    http2: Option<Flag>,
    headers: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimitSection {
    interval: Option<Interval>,
    burst: Option<Count>,
}

/// A duration in nanoseconds, written as in Go: a number of nanoseconds, or `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interval(i64);

/// A truth value, in YAML's old words too. A text in quotes is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flag(bool);

/// A whole number. A text in quotes is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count(i64);

/// What the file means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Absent where plain HTTP is spoken.
    pub(super) tls: Option<TlsSection>,
    pub(super) http2: bool,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Hashes of passwords by the users' names. Nobody has to log in where it is empty.
    pub(super) users: BTreeMap<String, String>,
    /// Nanoseconds between requests and how many may come at once.
    pub(super) rate_limit: Option<(u64, u64)>,
    /// A key stands in it that nobody else may read.
    pub(super) has_secret: bool,
}

/// What is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// No such thing may stand there.
    #[error("yaml: {0}")]
    Yaml(String),
    /// Not one of the headers that may be set.
    #[error(
        "HTTP header {0:?} can not be configured (only Content-Security-Policy, \
         Strict-Transport-Security, X-Content-Type-Options, X-Frame-Options and X-XSS-Protection)"
    )]
    Header(String),
    /// Not one of the values that this header may have.
    #[error("invalid value for {name}. Expected one of: {expected:?}, but got: {value:?}")]
    HeaderValue {
        /// The header.
        name: &'static str,
        /// What it may be.
        expected: &'static [&'static str],
        /// What it is.
        value: String,
    },
}

/// The headers that may be set, and what to; anything where that is empty.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

impl File {
    /// Reads `text`.
    pub(super) fn parse(text: &[u8]) -> Result<Self, FileError> {
        let written = written(text)?;
        let http = written.http_server_config.unwrap_or_default();
        let tls = written.tls_server_config.filter(TlsSection::is_enabled);
        let has_secret = tls.as_ref().is_some_and(|tls| is_given(tls.key.as_deref()));
        let users = written.basic_auth_users.unwrap_or_default().into_iter();
        Ok(Self {
            tls,
            http2: http.http2.is_none_or(|Flag(is_on)| is_on),
            headers: headers(http.headers.unwrap_or_default())?,
            users: users
                .map(|(user, hash)| (user, hash.unwrap_or_default()))
                .collect(),
            rate_limit: written.rate_limit.and_then(rate_limit),
            has_secret,
        })
    }

    /// Whether every password's hash is one. Asked at the start only: one that is broken later
    /// lets its user in no more, and the others still.
    pub(super) fn check_users(&self) -> Result<(), (String, passwords::NoHash)> {
        self.users.iter().try_for_each(|(user, hash)| {
            passwords::check(hash).map_err(|error| (user.clone(), error))
        })
    }
}

fn written(text: &[u8]) -> Result<Written, FileError> {
    use serde_saphyr::{Error, Options, from_slice_with_options, options};

    let options: Options = options! { with_snippet: false };
    // A file with nothing in it is one that says nothing.
    let file: Result<Option<Written>, Error> = from_slice_with_options(text, options);
    file.map(Option::unwrap_or_default).map_err(|error| {
        FileError::Yaml(match &error {
            Error::SerdeUnknownField {
                field,
                expected,
                location,
            } => format!(
                "line {}: field {field} not found (known here: {})",
                location.line(),
                expected.join(", ")
            ),
            other => other.to_string(),
        })
    })
}

fn headers(
    written: BTreeMap<String, Option<String>>,
) -> Result<Vec<(HeaderName, HeaderValue)>, FileError> {
    let mut headers = Vec::new();
    for (name, value) in written {
        let Some((known, expected)) = HEADERS.iter().find(|(known, _)| *known == name) else {
            return Err(FileError::Header(name));
        };
        let value = value.unwrap_or_default();
        let is_expected = expected.is_empty() || expected.contains(&&*value);
        match (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(&value),
        ) {
            (Ok(name), Ok(value)) if is_expected => headers.push((name, value)),
            _ => {
                return Err(FileError::HeaderValue {
                    name: known,
                    expected,
                    value,
                });
            }
        }
    }
    Ok(headers)
}

/// None where there is no limit. A burst below 0 is none, so everything is refused.
fn rate_limit(section: RateLimitSection) -> Option<(u64, u64)> {
    let Interval(interval) = section.interval.unwrap_or_default();
    let interval = u64::try_from(interval)
        .ok()
        .filter(|interval| *interval > 0)?;
    let burst = u64::try_from(section.burst.unwrap_or_default().0).unwrap_or(0);
    Some((interval, burst))
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Interval;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a duration such as 30s or 1m30s")
            }

            fn visit_i64<E: de::Error>(self, nanoseconds: i64) -> Result<Interval, E> {
                Ok(Interval(nanoseconds))
            }

            fn visit_u64<E: de::Error>(self, nanoseconds: u64) -> Result<Interval, E> {
                i64::try_from(nanoseconds)
                    .map(Interval)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(nanoseconds), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Interval, E> {
                nanoseconds(text)
                    .map(Interval)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Flag;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("true or false")
            }

            fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<Flag, E> {
                Ok(Flag(is_on))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Flag, E> {
                match text {
                    "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(Flag(true)),
                    "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Ok(Flag(false)),
                    _ => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Count;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a whole number")
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Count, E> {
                Ok(Count(count))
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Count, E> {
                i64::try_from(count)
                    .map(Count)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(count), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// A duration as Go writes it: numbers with units, one behind the other.
fn nanoseconds(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("μs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, behind) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let end = behind
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(behind.len());
        let (name, behind) = behind.split_at(end);
        let (_, unit) = UNITS.iter().find(|(unit, _)| *unit == name)?;
        sum += number * unit;
        rest = behind;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "within the range, and durations are no finer than nanoseconds"
    )]
    (sum < 9.2e18).then_some((sign * sum) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match File::parse(text.as_bytes()) {
            Ok(file) => panic!("{text:?} is {file:?}"),
            Err(error) => error.to_string(),
        }
    }

    /// Each was given to Debian's node_exporter 1.11.1, which refused it.
    #[test]
    fn what_is_no_web_configuration_is_refused_by_name() {
        for (text, words) in [
            ("hello\n", "line 1"),
            ("tls_server_config: [1]\n", ""),
            (
                "tls_server_config:\n  cert_files: x\n",
                "line 2: field cert_files not found",
            ),
            ("foo: 1\n", "line 1: field foo not found"),
            ("a: &x 1\n", "field a not found"),
            ("http_server_config:\n  foo: 1\n", "field foo not found"),
            ("rate_limit:\n  foo: 1\n", "field foo not found"),
            ("basic_auth_users:\n  a: x\n  a: y\n", "a"),
            ("http_server_config:\n  http2: 'true'\n", ""),
            ("http_server_config:\n  http2: 1\n", ""),
            ("rate_limit:\n  interval: 1x\n", "1x"),
            ("rate_limit:\n  interval: 1d\n", "1d"),
            ("rate_limit:\n  burst: a\n", ""),
            ("rate_limit:\n  burst: '3'\n", ""),
            (
                "http_server_config:\n  headers:\n    X-Foo: a\n",
                "HTTP header \"X-Foo\" can not be configured",
            ),
            (
                "http_server_config:\n  headers:\n    x-frame-options: deny\n",
                "can not be configured",
            ),
            (
                "http_server_config:\n  headers:\n    X-Frame-Options: foo\n",
                "invalid value for X-Frame-Options. Expected one of: [\"deny\", \"sameorigin\"], but got: \"foo\"",
            ),
            (
                "http_server_config:\n  headers:\n    X-Frame-Options: DENY\n",
                "invalid value for",
            ),
            (
                "http_server_config:\n  headers:\n    X-Content-Type-Options: ''\n",
                "invalid value for",
            ),
        ] {
            let error = error(text);
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    /// Each was given to Debian's node_exporter 1.11.1, which took it.
    #[test]
    fn what_says_little_is_plain_http() {
        for text in [
            "",
            "---\n",
            "# nothing\n",
            "{}\n",
            "tls_server_config:\n",
            "tls_server_config:\n  min_version: TLS12\n",
            "tls_server_config: {}\n",
            "basic_auth_users: &u {}\n",
            "http_server_config:\n  http2: yes\n",
            "rate_limit:\n  interval: 0\n",
            "rate_limit:\n  interval: -1s\n  burst: 3\n",
        ] {
            let file =
                File::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(
                file.tls.is_none() && file.users.is_empty() && file.rate_limit.is_none(),
                "{text:?}"
            );
            assert!(file.http2);
        }
    }

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, duration) in [
            ("1s", Some(1_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("-2ms", Some(-2_000_000)),
            ("3us", Some(3000)),
            ("3µs", Some(3000)),
            ("0", Some(0)),
            ("", None),
            ("-", None),
            ("1", None),
            ("s", None),
            ("1d", None),
            ("1s1", None),
            ("1..5s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(nanoseconds(text), duration, "{text:?}");
        }
    }

    #[test]
    fn a_burst_without_room_refuses_everything() {
        for (text, limit) in [
            (
                "rate_limit: {interval: 1s, burst: 3}",
                Some((1_000_000_000, 3)),
            ),
            (
                "rate_limit: {interval: 1s, burst: 0}",
                Some((1_000_000_000, 0)),
            ),
            ("rate_limit: {interval: 1s}", Some((1_000_000_000, 0))),
            (
                "rate_limit: {interval: 1h30m, burst: -3}",
                Some((5_400_000_000_000, 0)),
            ),
            ("rate_limit: {interval: 1}", Some((1, 0))),
            ("rate_limit: {burst: 3}", None),
        ] {
            assert_eq!(
                File::parse(text.as_bytes()).unwrap().rate_limit,
                limit,
                "{text}"
            );
        }
    }
}
