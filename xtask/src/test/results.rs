//! What the test runner has written of each test. Pure.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use roxmltree::{Document, Node};

/// A test that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    /// Why it tested nothing, if it says so.
    pub(crate) skipped: Option<String>,
}

/// Reads a report in JUnit's format.
pub(crate) fn read(report: &str) -> Result<Vec<Test>> {
    let document = Document::parse(report).context("cannot read the report of the tests")?;
    document
        .descendants()
        .filter(|node| node.has_tag_name("testcase"))
        .map(|case| test(case).context("the report of the tests has one without name or time"))
        .collect()
}

fn test(case: Node<'_, '_>) -> Option<Test> {
    let output = case
        .children()
        .find(|node| node.has_tag_name("system-out"))
        .and_then(|node| node.text());
    Some(Test {
        name: case.attribute("name")?.to_owned(),
        seconds: case.attribute("time")?.parse().ok()?,
        skipped: output.and_then(|output| why_skipped(output.lines())),
    })
}

/// The reason in what a test has printed. The test runner may have begun the line.
pub(crate) fn why_skipped<'a>(mut output: impl Iterator<Item = &'a str>) -> Option<String> {
    output.find_map(|line| Some(line.split_once("SKIPPED: ")?.1.to_owned()))
}

/// The slowest `count` of them, a line each.
pub(crate) fn slowest(tests: &[Test], count: usize) -> String {
    let mut sorted: Vec<&Test> = tests.iter().collect();
    sorted.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    let seconds: f64 = tests.iter().map(|test| test.seconds).sum();
    let shown = sorted.len().min(count);
    let mut text = format!(
        "\nThe slowest {shown} of {} tests, which took {seconds:.0} s together:\n",
        tests.len()
    );
    for test in &sorted[..shown] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:>9.1} s  {}", test.seconds, test.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="3" failures="1" errors="0" time="1.3">
    <testsuite name="tcpstate-agent::privileged" tests="3" disabled="0" errors="0" failures="1">
        <testcase name="a::quick" classname="tcpstate-agent::privileged" time="0.250">
            <system-out>running 1 test
test a::quick ... ok
</system-out>
        </testcase>
        <testcase name="a::skipped" classname="tcpstate-agent::privileged" time="0.001">
            <system-out>running 1 test
test a::skipped ... SKIPPED: promtool is &lt;not&gt; here
ok
</system-out>
        </testcase>
        <testcase name="b::slow" classname="tcpstate-agent::privileged" time="12.5">
            <failure type="test failure"/>
        </testcase>
    </testsuite>
</testsuites>"#;

    fn case(name: &str, seconds: f64, skipped: Option<&str>) -> Test {
        Test {
            name: name.to_owned(),
            seconds,
            skipped: skipped.map(str::to_owned),
        }
    }

    #[test]
    fn each_test_has_its_time_and_why_it_was_skipped() {
        let expected = [
            case("a::quick", 0.25, None),
            case("a::skipped", 0.001, Some("promtool is <not> here")),
            case("b::slow", 12.5, None),
        ];
        assert_eq!(read(REPORT).unwrap(), expected);
    }

    #[test]
    fn a_report_that_does_not_say_all_is_an_error() {
        for bad in ["", "<testsuites>", &REPORT.replace("time=\"0.250\"", "")] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_slowest_come_first() {
        let text = slowest(&read(REPORT).unwrap(), 2);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let expected = [
            "",
            "The slowest 2 of 3 tests, which took 13 s together:",
            "12.5 s  b::slow",
            "0.2 s  a::quick",
        ];
        assert_eq!(lines, expected);
    }
}
