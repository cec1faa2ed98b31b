//! Services that the administrator has named: they have series whatever else there is on the host.

use std::{num::NonZeroU16, str::FromStr};

use thiserror::Error;

use super::owners::OwnerLabels;

/// A service, by what no other user's process can choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedService {
    /// Whatever has this port for its own: the one that it listens on, or that its peers do.
    Port(u16),
    /// Whatever belongs to this systemd unit.
    Unit(String),
}

/// What names no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("neither a port, such as 5432, nor a systemd unit, such as nginx.service")]
pub struct NamedServiceError;

impl FromStr for NamedService {
    type Err = NamedServiceError;

    fn from_str(text: &str) -> Result<Self, NamedServiceError> {
        if let Ok(port) = text.parse::<NonZeroU16>() {
            return Ok(Self::Port(port.get()));
        }
        let (name, kind) = text.rsplit_once('.').ok_or(NamedServiceError)?;
        let is_letter = |letter: char| !letter.is_whitespace() && letter != '/';
        if name.is_empty() || kind.is_empty() || !text.chars().all(is_letter) {
            return Err(NamedServiceError);
        }
        Ok(Self::Unit(text.to_owned()))
    }
}

impl NamedService {
    /// Whether this owner's service at this port is it.
    #[must_use]
    pub fn is(&self, owner: &OwnerLabels, port: Option<u16>) -> bool {
        match self {
            Self::Port(named) => port == Some(*named),
            Self::Unit(named) => owner.unit == *named,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_its_port_or_its_unit() {
        let owner = OwnerLabels {
            process: "postgres".to_owned(),
            unit: "postgresql@15-main.service".to_owned(),
            ..OwnerLabels::default()
        };
        let is = |text: &str, port| text.parse::<NamedService>().unwrap().is(&owner, port);
        assert!(is("5432", Some(5432)) && !is("5432", Some(5433)) && !is("5432", None));
        assert!(is("postgresql@15-main.service", None));
        assert!(!is("postgresql@15-main.servic", Some(5432)));
    }

    #[test]
    fn what_anybody_can_call_himself_names_no_service() {
        for text in [
            "",
            "0",
            "65536",
            "-1",
            "postgres",
            ".service",
            "a.",
            "a b.service",
            "/a.b",
        ] {
            assert_eq!(
                text.parse::<NamedService>(),
                Err(NamedServiceError),
                "{text}"
            );
        }
    }
}
