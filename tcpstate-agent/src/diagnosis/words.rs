//! Numbers, times and names as a person reads them.

use crate::host::process::terminal_text;

/// What a process calls itself, without anything that moves the cursor.
pub(crate) fn terminal(text: &str) -> String {
    terminal_text(text.as_bytes())
}

/// `1 socket`, `2 sockets`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// Who else holds something.
pub(crate) fn shared_with(pids: &[u32]) -> String {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    format!("with pid {}", pids.join(", "))
}

/// How many, as the others take it.
pub(crate) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
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
