//! A figure, what it should reach, and what others need for the same.

use serde::Serialize;

use super::spread::Spread;

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    /// One thing divided by the same without the agent.
    Ratio,
    /// Of one core.
    Percent,
    PerSecond,
    Count,
}

impl Unit {
    /// A figure with three digits that count, in the unit that suits its size.
    pub(crate) fn show(self, value: f64) -> String {
        const SECONDS: [(f64, &str); 3] = [(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms")];
        match self {
            Self::Seconds => {
                let suits = |(size, _): &&(f64, &str)| value < size * 999.5;
                let (size, name) = SECONDS.iter().find(suits).unwrap_or(&(1.0, "s"));
                format!("{} {name}", digits(value / size))
            }
            Self::Bytes if value < 1024.0 * 1024.0 => format!("{} KiB", digits(value / 1024.0)),
            Self::Bytes => format!("{} MiB", digits(value / 1024.0 / 1024.0)),
            Self::Ratio => format!("{value:.3}"),
            Self::Percent => format!("{} %", digits(value)),
            Self::PerSecond => format!("{}/s", grouped(value)),
            Self::Count => grouped(value),
        }
    }

    /// The middle, and the ends where there are any.
    pub(crate) fn show_spread(self, spread: Spread) -> String {
        let middle = self.show(spread.median);
        if spread.count == 1 {
            return middle;
        }
        format!(
            "{middle} ({} to {})",
            self.show(spread.min),
            self.show(spread.max)
        )
    }
}

fn digits(value: f64) -> String {
    let places = match value.abs() {
        large if large >= 99.95 => 0,
        large if large >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

/// A whole number with commas between its thousands.
fn grouped(value: f64) -> String {
    if value.abs() < 100.0 && value.fract().abs() > f64::EPSILON {
        return digits(value);
    }
    let text = format!("{value:.0}");
    let (sign, text) = text
        .strip_prefix('-')
        .map_or(("", &*text), |rest| ("-", rest));
    let mut grouped = String::from(sign);
    for (place, digit) in text.chars().enumerate() {
        if place > 0 && (text.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reach {
    AtMost(f64),
    AtLeast(f64),
}

impl Reach {
    pub(crate) const fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    pub(crate) fn show(self, unit: Unit) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {}", unit.show(limit)),
            Self::AtLeast(limit) => format!("≥ {}", unit.show(limit)),
        }
    }
}

/// The same by someone else.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) figure: Spread,
    /// How many times the agent's figure it is.
    pub(crate) times_ours: Spread,
}

/// A line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) figure: Spread,
    pub(crate) reach: Option<Reach>,
    pub(crate) peers: Vec<Peer>,
    /// What one should know of it.
    pub(crate) note: Option<String>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, unit: Unit, figure: Spread) -> Self {
        Self {
            what: what.into(),
            unit,
            figure,
            reach: None,
            peers: Vec::new(),
            note: None,
        }
    }

    pub(crate) const fn reach(mut self, reach: Reach) -> Self {
        self.reach = Some(reach);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Puts someone else's figure beside it, where there is one.
    pub(crate) fn beside(mut self, name: &str, figure: Option<Spread>) -> Self {
        if let Some(figure) = figure {
            self.peers.push(Peer {
                name: name.to_owned(),
                figure,
                times_ours: figure.over(self.figure),
            });
        }
        self
    }

    /// Whether it is what it should be; `None` where nothing says what that is.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.reach.map(|reach| reach.is_met_by(self.figure.median))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_in_the_unit_that_suits_them() {
        for (unit, value, shown) in [
            (Unit::Seconds, 16.24e-9, "16.2 ns"),
            (Unit::Seconds, 999.6e-9, "1.00 µs"),
            (Unit::Seconds, 0.0021, "2.10 ms"),
            (Unit::Seconds, 36.8, "36.8 s"),
            (Unit::Seconds, -2e-9, "-2.00 ns"),
            (Unit::Bytes, 16.0 * 1024.0 * 1024.0, "16.0 MiB"),
            (Unit::Bytes, 512.0, "0.50 KiB"),
            (Unit::Ratio, 1.02, "1.020"),
            (Unit::Percent, 1.96, "1.96 %"),
            (Unit::PerSecond, 1_234_567.8, "1,234,568/s"),
            (Unit::Count, 219.0, "219"),
            (Unit::Count, 12.5, "12.5"),
        ] {
            assert_eq!(unit.show(value), shown);
        }
    }

    #[test]
    fn a_row_is_met_by_its_median_alone() {
        let figure = Spread {
            median: 60.0,
            min: 10.0,
            max: 100.0,
            count: 3,
        };
        let row = Row::new("x", Unit::Count, figure);
        assert_eq!(row.is_met(), None);
        assert_eq!(row.clone().reach(Reach::AtMost(60.0)).is_met(), Some(true));
        assert_eq!(row.clone().reach(Reach::AtMost(59.0)).is_met(), Some(false));
        assert_eq!(row.reach(Reach::AtLeast(61.0)).is_met(), Some(false));
    }

    #[test]
    fn a_peer_is_so_many_times_ours() {
        let row = Row::new("x", Unit::Count, Spread::single(2.0))
            .beside("one", Some(Spread::single(10.0)))
            .beside("absent", None);
        let ratios: Vec<f64> = row
            .peers
            .iter()
            .map(|peer| peer.times_ours.median)
            .collect();
        assert_eq!(ratios, [5.0]);
    }
}
