//! Which interfaces are meant.

use thiserror::Error;

/// Names of interfaces, as patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(Vec<String>);

/// What can be no interface's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} can be no interface: a name such as eth0, a pattern such as eth* or veth?, or all")]
pub struct SelectionError(String);

/// The kernel's, without its NUL.
const LONGEST_NAME: usize = 15;

impl Selection {
    /// Interfaces with one of these names: `*` in them stands for any text, `?` for any letter,
    /// and the whole word `all` for every interface.
    pub fn new(patterns: Vec<String>) -> Result<Self, SelectionError> {
        let is_wrong = |pattern: &&String| {
            let letters = pattern.chars().filter(|letter| *letter != '*').count();
            pattern.is_empty()
                || letters > LONGEST_NAME
                || pattern.contains(|letter: char| letter == '/' || letter.is_whitespace())
        };
        match patterns.iter().find(is_wrong) {
            Some(wrong) => Err(SelectionError(wrong.clone())),
            None => Ok(Self(patterns)),
        }
    }

    /// Whether none is meant.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the interface with this name is meant.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let mut patterns = self.0.iter();
        patterns.any(|pattern| pattern == "all" || fits(pattern.as_bytes(), name.as_bytes()))
    }

    /// Patterns that name one interface, which is expected to be there.
    pub fn exact(&self) -> impl Iterator<Item = &str> {
        let exact = |pattern: &&String| !pattern.contains(['*', '?']) && *pattern != "all";
        self.0.iter().filter(exact).map(String::as_str)
    }
}

/// Goes back to the last `*` where what follows it does not fit, so the time is that of one loop
/// in the other.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                last_star = Some((at, in_name));
                at += 1;
            }
            Some(&letter) if letter == b'?' || letter == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => match &mut last_star {
                Some((star, from)) => {
                    *from += 1;
                    (at, in_name) = (*star + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selection(patterns: &[&str]) -> Result<Selection, SelectionError> {
        Selection::new(patterns.iter().map(|&text| text.to_owned()).collect())
    }

    #[test]
    fn names_patterns_and_all_are_understood() {
        for (pattern, name, has) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth0", true),
            ("eth*", "veth0", false),
            ("*eth*", "veth0", true),
            ("e?h0", "eth0", true),
            ("eth?", "eth", false),
            ("*", "anything", true),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("all", "lo", true),
            ("all", "all", true),
        ] {
            let selection = selection(&[pattern]).unwrap();
            assert_eq!(selection.has(name), has, "{pattern} {name}");
        }
        assert!(!Selection::default().has("eth0"));
        let several = selection(&["eth*", "lo"]).unwrap();
        assert_eq!(several.exact().collect::<Vec<_>>(), ["lo"]);
    }

    #[test]
    fn what_can_be_no_interface_is_refused() {
        for wrong in ["", "a/b", "a b", "a-name-of-16-let"] {
            assert!(selection(&["eth0", wrong]).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_made_of_a_name_fits_it(name in "[a-z]{1,15}", from in 0..15_usize, to in 0..15_usize) {
            let (from, to) = (from.min(name.len()), to.min(name.len()));
            let (from, to) = (from.min(to), from.max(to));
            let pattern = format!("{}*{}", &name[..from], &name[to..]);
            prop_assert!(fits(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
