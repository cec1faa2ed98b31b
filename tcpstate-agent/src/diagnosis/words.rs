//! Numbers, times and names as a person reads them.

use crate::host::process::terminal_text;

/// Processes that are named by number.
const NAMED: usize = 5;

/// What a process calls itself, without anything that moves the cursor. Blanks at its ends, or nothing
/// else, are seen by quotes around it.
pub(crate) fn terminal(text: &str) -> String {
    let shown = terminal_text(text.as_bytes());
    if text.is_empty() || text.trim() != text {
        format!("\"{shown}\"")
    } else {
        shown
    }
}

/// `4711`, or `1, 2 and 3 more`.
pub(crate) fn some_of(numbers: impl ExactSizeIterator<Item = u32>) -> String {
    let more = numbers.len().saturating_sub(NAMED);
    let named: Vec<String> = numbers
        .take(NAMED)
        .map(|number| number.to_string())
        .collect();
    match more {
        0 => named.join(", "),
        more => format!("{} and {} more", named.join(", "), grouped(count(more))),
    }
}

/// How often something happens, in the unit that a person would take.
pub(crate) fn pace(per_second: f64) -> String {
    let (number, unit) = match per_second {
        rate if rate >= 0.5 => (rate, "second"),
        rate if rate * 60.0 >= 0.5 => (rate * 60.0, "minute"),
        rate => (rate * 3_600.0, "hour"),
    };
    format!(
        "{number:.1} a{} {unit}",
        if unit == "hour" { "n" } else { "" }
    )
}

/// `1 socket`, `2 sockets`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// Who else holds something: by name, where names are known.
pub(crate) fn shared_with(pids: &[u32], names: &[String]) -> String {
    let pids = some_of(pids.iter().copied());
    if names.is_empty() {
        return format!("with pid {pids}");
    }
    let names: Vec<String> = names.iter().map(|name| terminal(name)).collect();
    format!("with {} (pid {pids})", names.join(", "))
}

/// One process of several, of which it is not known which.
pub(crate) fn one_of(name: &str, pid: u32, others: &[u32], names: &[String]) -> String {
    let pids = some_of(others.iter().copied());
    let others = match names {
        [] => format!("pid {pids}"),
        names => {
            let names: Vec<String> = names.iter().map(|name| terminal(name)).collect();
            format!("{} (pid {pids})", names.join(", "))
        }
    };
    format!("one of {} (pid {pid}) and {others}", terminal(name))
}

/// How many, as the others take it.
pub(crate) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// `1 socket is`, `2 sockets are`.
pub(crate) fn are(number: u64) -> String {
    let verb = if number == 1 { "is" } else { "are" };
    format!("{} {verb}", counted(number, "socket"))
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown of it")]
pub(crate) fn bytes(number: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{number} bytes"),
        unit => format!("{value:.1} {}", units[unit]),
    }
}

/// As people say it: two units at most.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole =
        std::time::Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |time| time.as_secs());
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", whole % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{} d {hours} h", grouped(days)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_blanks_is_seen() {
        for (name, expected) in [
            ("nginx", "nginx"),
            ("my app", "my app"),
            ("", "\"\""),
            ("   ", "\"   \""),
            (" nginx", "\" nginx\""),
        ] {
            assert_eq!(terminal(name), expected);
        }
    }

    #[test]
    fn a_pace_has_the_unit_that_a_person_would_take() {
        for (per_second, expected) in [
            (10.0, "10.0 a second"),
            (0.1, "6.0 a minute"),
            (1.0 / 600.0, "6.0 an hour"),
        ] {
            assert_eq!(pace(per_second), expected);
        }
    }

    #[test]
    fn of_many_processes_some_are_named() {
        assert_eq!(some_of([7].into_iter()), "7");
        let many: Vec<u32> = (1..=8).collect();
        assert_eq!(some_of(many.into_iter()), "1, 2, 3, 4, 5 and 3 more");
        let names = ["nginx".to_owned()];
        assert_eq!(shared_with(&[1, 2], &names), "with nginx (pid 1, 2)");
        assert_eq!(shared_with(&[1], &[]), "with pid 1");
        assert_eq!(
            one_of("php-fpm", 7, &[1, 2], &names),
            "one of php-fpm (pid 7) and nginx (pid 1, 2)"
        );
        assert_eq!(one_of("", 7, &[1], &[]), "one of \"\" (pid 7) and pid 1");
    }

    #[test]
    fn numbers_and_times_are_as_people_say_them() {
        for (seconds, expected) in [
            (0.004, "4 ms"),
            (1.25, "1.2 s"),
            (59.0, "59 s"),
            (61.0, "1 min 1 s"),
            (11_000.0, "3 h 3 min"),
            (200_000.0, "2 d 7 h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), expected);
        }
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1_572_864), "1.5 MiB");
    }
}
