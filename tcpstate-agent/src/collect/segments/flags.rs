//! Names of flag combinations, and which of them no healthy connection has.

use std::sync::LazyLock;

use tcpstate_common::flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

const NAMES: [(u8, &str); 8] = [
    (SYN, "SYN"),
    (FIN, "FIN"),
    (RST, "RST"),
    (PSH, "PSH"),
    (URG, "URG"),
    (ECE, "ECE"),
    (CWR, "CWR"),
    (ACK, "ACK"),
];

/// Combinations that every host sees: they have a series before they occur.
pub const SHOWN_AT_ZERO: [u8; 7] = [SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK];

/// The name of a combination: SYN-ACK, FIN-PSH-ACK; `none` for no flag at all.
#[must_use]
pub fn flag_names(flags: u8) -> &'static str {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| (0..=u8::MAX).map(join).collect());
    &ALL[usize::from(flags)]
}

fn join(flags: u8) -> String {
    if flags == 0 {
        return "none".to_owned();
    }
    let set = NAMES.iter().filter(|(flag, _)| flags & flag != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join("-")
}

/// Why no healthy connection has such a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// No flag at all.
    Null,
    /// SYN and FIN.
    SynFin,
    /// SYN and RST.
    SynRst,
    /// FIN and RST.
    FinRst,
    /// FIN, PSH and URG without ACK.
    Xmas,
    /// FIN without ACK.
    FinWithoutAck,
    /// None of SYN, RST and ACK.
    NoAck,
}

impl Anomaly {
    /// All, in the order in which they are looked for.
    pub const ALL: [Self; 7] = [
        Self::Null,
        Self::SynFin,
        Self::SynRst,
        Self::FinRst,
        Self::Xmas,
        Self::FinWithoutAck,
        Self::NoAck,
    ];

    /// What is wrong with these flags: the first that fits.
    #[must_use]
    pub fn of(flags: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|anomaly| anomaly.fits(flags))
    }

    const fn fits(self, flags: u8) -> bool {
        match self {
            Self::Null => flags == 0,
            Self::SynFin => flags & SYN != 0 && flags & FIN != 0,
            Self::SynRst => flags & SYN != 0 && flags & RST != 0,
            Self::FinRst => flags & FIN != 0 && flags & RST != 0,
            Self::Xmas => flags & (FIN | PSH | URG | ACK) == FIN | PSH | URG,
            Self::FinWithoutAck => flags & (FIN | ACK) == FIN,
            Self::NoAck => flags & (SYN | RST | ACK) == 0,
        }
    }

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::SynFin => "syn_fin",
            Self::SynRst => "syn_rst",
            Self::FinRst => "fin_rst",
            Self::Xmas => "xmas",
            Self::FinWithoutAck => "fin_without_ack",
            Self::NoAck => "no_ack",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_joined_in_the_order_of_the_metrics() {
        for (flags, name) in [
            (0, "none"),
            (SYN, "SYN"),
            (SYN | ACK, "SYN-ACK"),
            (FIN | ACK, "FIN-ACK"),
            (PSH | ACK, "PSH-ACK"),
            (FIN | PSH | ACK, "FIN-PSH-ACK"),
            (RST | ACK, "RST-ACK"),
            (SYN | ECE | CWR, "SYN-ECE-CWR"),
            (0xff, "SYN-FIN-RST-PSH-URG-ECE-CWR-ACK"),
        ] {
            assert_eq!(flag_names(flags), name);
        }
    }

    #[test]
    fn every_combination_has_a_name_of_its_own() {
        let names: BTreeSet<_> = (0..=u8::MAX).map(flag_names).collect();
        assert_eq!(names.len(), 256);
    }

    #[test]
    fn the_first_anomaly_that_fits_is_the_one() {
        for (flags, anomaly) in [
            (0, Some(Anomaly::Null)),
            (SYN | FIN | RST, Some(Anomaly::SynFin)),
            (SYN | RST, Some(Anomaly::SynRst)),
            (FIN | RST | ACK, Some(Anomaly::FinRst)),
            (FIN | PSH | URG, Some(Anomaly::Xmas)),
            (FIN | PSH | URG | ACK, None),
            (FIN, Some(Anomaly::FinWithoutAck)),
            (FIN | PSH, Some(Anomaly::FinWithoutAck)),
            (PSH, Some(Anomaly::NoAck)),
            (URG | ECE, Some(Anomaly::NoAck)),
            (SYN, None),
            (SYN | ACK, None),
            (SYN | ECE | CWR, None),
            (ACK, None),
            (PSH | ACK, None),
            (FIN | ACK, None),
            (RST, None),
            (RST | ACK, None),
        ] {
            assert_eq!(Anomaly::of(flags), anomaly, "{}", flag_names(flags));
        }
    }
}
