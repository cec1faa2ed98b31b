//! Hashes of passwords: bcrypt's, as `htpasswd -B` makes them.

use thiserror::Error;

/// What a password is compared with for a user who is not there, so that it takes as long.
pub(super) const NOBODY: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// `$2y$10$`, 22 characters of salt, 31 of the hash.
const LENGTH: usize = 60;

/// Why it is no hash of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoHash {
    /// A password itself, perhaps.
    #[error("hashedSecret too short to be a bcrypted password")]
    Short,
    /// Of another kind.
    #[error("bcrypt hashes must start with '$', but hashedSecret started with {0:?}")]
    Prefix(char),
    /// Of another kind that begins alike, such as `$6$`.
    #[error("bcrypt algorithm version {0:?} requested, this knows version 2")]
    Version(char),
    /// No number of rounds.
    #[error("cost {0} is outside allowed inclusive range 4..31")]
    Cost(u32),
    /// Nothing that could be compared with.
    #[error("the hashedSecret cannot be read as a bcrypted password")]
    Malformed,
}

/// Whether `hash` is one.
pub(super) fn check(hash: &str) -> Result<(), NoHash> {
    if hash.len() < LENGTH - 1 {
        return Err(NoHash::Short);
    }
    let mut letters = hash.chars();
    match letters.next() {
        Some('$') => {}
        other => return Err(NoHash::Prefix(other.unwrap_or_default())),
    }
    match letters.next() {
        Some('2') => {}
        other => return Err(NoHash::Version(other.unwrap_or_default())),
    }
    let cost = hash.split('$').nth(2).and_then(|cost| cost.parse().ok());
    match cost {
        Some(4..=31) => {}
        Some(cost) => return Err(NoHash::Cost(cost)),
        None => return Err(NoHash::Malformed),
    }
    hash.parse::<bcrypt::HashParts>()
        .map(drop)
        .map_err(|_| NoHash::Malformed)
}

/// Whether `password` is the one of `hash`. Takes tenths of a second, as it is meant to.
pub(super) fn matches(password: &[u8], hash: &str) -> bool {
    bcrypt::verify(password, hash).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_another_kind_is_told_apart() {
        let long = |beginning: &str| format!("{beginning}{}", "x".repeat(LENGTH));
        for (hash, wrong) in [
            (String::new(), NoHash::Short),
            ("secret".to_owned(), NoHash::Short),
            (long("x"), NoHash::Prefix('x')),
            (long("$6$"), NoHash::Version('6')),
            (NOBODY.replace("$10$", "$03$"), NoHash::Cost(3)),
            (NOBODY.replace("$10$", "$32$"), NoHash::Cost(32)),
            (NOBODY.replace("$10$", "$1x$"), NoHash::Malformed),
            (NOBODY.replace('Q', "!"), NoHash::Malformed),
        ] {
            assert_eq!(check(&hash), Err(wrong), "{hash}");
        }
        assert_eq!(check(NOBODY), Ok(()));
    }

    #[test]
    fn a_password_matches_its_hash_only() {
        let hash = bcrypt::hash("secret", 4).unwrap();
        assert!(matches(b"secret", &hash));
        assert!(!matches(b"Secret", &hash));
        assert!(!matches(b"", &hash));
        assert!(!matches(b"secret", "no hash"));
    }
}
