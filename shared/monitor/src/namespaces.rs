//! Which namespaces of a cluster deployments may watch.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many patterns a cluster may carry: a probe asks for each by itself.
pub const MAX_PATTERNS: usize = 50;
/// A namespace's longest name; a pattern is no longer.
const MAX_CHARS: usize = 63;

/// Globs over namespaces, of which one must fit: `*` stands for any characters,
/// also none. Without any, every namespace is open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Namespaces(Vec<String>);

impl Namespaces {
    /// From what was given: 1-50 patterns of `a-z`, `0-9`, `-` and `*`, at most 63
    /// characters each.
    ///
    /// # Errors
    /// What is wrong, with the index of the pattern; without one it is the list's.
    pub fn parse(patterns: Vec<String>) -> Result<Self, (Option<usize>, String)> {
        if !(1..=MAX_PATTERNS).contains(&patterns.len()) {
            let detail = format!(
                "a list of {} came; 1-{MAX_PATTERNS} namespaces or patterns like \"team-*\" are awaited, or null for all",
                patterns.len()
            );
            return Err((None, detail));
        }
        for (index, pattern) in patterns.iter().enumerate() {
            let fits = (1..=MAX_CHARS).contains(&pattern.len())
                && pattern.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'*'));
            if !fits {
                let shown: String = pattern.chars().filter(|c| !c.is_control()).take(70).collect();
                let detail = format!("\"{shown}\" came; 1-{MAX_CHARS} of a-z 0-9 - and * are awaited");
                return Err((Some(index), detail));
            }
            if patterns[..index].contains(pattern) {
                return Err((Some(index), format!("\"{pattern}\" is in the list already")));
            }
        }
        Ok(Self(patterns))
    }

    /// Whether a deployment may watch this namespace.
    #[must_use]
    pub fn allows(&self, namespace: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| fits(pattern.as_bytes(), namespace.as_bytes()))
    }

    /// Whether every namespace is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.bytes().all(|b| b == b'*'))
    }

    /// The patterns, as given; none where every namespace is open.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("all") } else { f.write_str(&self.0.join(", ")) }
    }
}

/// Greedy with one way back: the last `*` takes one character more. Linear in
/// practice, quadratic at worst, over 63 characters.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            back = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star, taken)) = back {
            back = Some((star, taken + 1));
            p = star + 1;
            t = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(patterns: &[&str]) -> Namespaces {
        Namespaces::parse(patterns.iter().map(|p| (*p).to_owned()).collect()).unwrap()
    }

    #[test]
    fn a_pattern_fits_the_whole_name() {
        for (pattern, fitting, other) in [
            ("shop", "shop", "shop-2"),
            ("team-*", "team-a", "my-team-a"),
            ("team-*", "team-", "team"),
            ("*-prod", "shop-prod", "shop-prod-2"),
            ("a*b*c", "a-b-b-c", "a-b-b"),
            ("*a*", "a", "b"),
            ("a**b", "ab", "a"),
        ] {
            assert!(of(&[pattern]).allows(fitting), "{pattern} {fitting}");
            assert!(!of(&[pattern]).allows(other), "{pattern} {other}");
        }
        assert!(of(&["shop", "team-*"]).allows("team-b"));
        assert!(Namespaces::default().allows("anything"));
        assert!(Namespaces::default().is_open() && of(&["shop", "*"]).is_open() && !of(&["*a"]).is_open());
    }

    #[test]
    fn what_is_no_pattern_is_named_by_its_index() {
        let parse = |patterns: &[&str]| {
            Namespaces::parse(patterns.iter().map(|p| (*p).to_owned()).collect()).unwrap_err().0
        };
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&["a"; MAX_PATTERNS + 1]), None);
        for wrong in ["", "Shop", "a/b", "a?", "a.b", "ä", &"x".repeat(64)] {
            assert_eq!(parse(&["ok", wrong]), Some(1), "{wrong}");
        }
        assert_eq!(parse(&["a", "b", "a"]), Some(2));
    }

    proptest! {
        #[test]
        fn it_is_what_a_plain_definition_says(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            fn plain(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|n| plain(rest, &text[n..])),
                    Some((c, rest)) => text.split_first().is_some_and(|(t, left)| t == c && plain(rest, left)),
                }
            }
            prop_assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), plain(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
