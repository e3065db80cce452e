//! Comparing versions of charts and apps.

use std::cmp::Ordering;

use semver::Version;

/// Parses one full version: a leading `v` is dropped, and `_` is read as `+`,
/// because Helm writes it so where `+` is not allowed. Ranges are `None`:
/// their grammar is Helm's, and they are not interpreted here.
pub(crate) fn full(text: &str) -> Option<Version> {
    let text = text.trim();
    let text = text.strip_prefix('v').unwrap_or(text);
    Version::parse(&text.replace('_', "+")).ok()
}

/// Whether what is seen is the version that is expected. `+build` does not
/// count, because Flux appends an artifact's digest there; but one that is
/// expected must begin the one that is seen. What is no semver is compared as text.
pub(crate) fn meets(expected: &str, seen: &str) -> bool {
    match (full(expected), full(seen)) {
        (Some(e), Some(s)) => {
            e.cmp_precedence(&s) == Ordering::Equal && s.build.as_str().starts_with(e.build.as_str())
        }
        _ => expected.trim() == seen.trim(),
    }
}

/// Whether both are full versions, and others. `+build` does not count: a spec
/// that pins a version names no artifact.
pub(crate) fn differ(a: &str, b: &str) -> bool {
    matches!((full(a), full(b)), (Some(a), Some(b)) if a.cmp_precedence(&b) != Ordering::Equal)
}

/// Whether `a` is newer than `b`; `None` where one of them is no semver.
pub(crate) fn newer(a: &str, b: &str) -> Option<bool> {
    Some(full(a)?.cmp_precedence(&full(b)?) == Ordering::Greater)
}

/// Whether two version texts of the same controller name the same artifact:
/// here `+build` counts, because it is the artifact's digest.
pub(crate) fn identical(a: &str, b: &str) -> bool {
    a == b || matches!((full(a), full(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_and_v_do_not_count_unless_expected() {
        for (expected, seen, met) in [
            ("1.4.0", "1.4.0", true),
            ("v1.4.0", "1.4.0+60fec512ea2b", true),
            ("1.4.0", "v1.4.0_abc", true),
            ("1.4.0+60fe", "1.4.0+60fec512ea2b", true),
            ("1.4.0+61", "1.4.0+60fec512ea2b", false),
            ("1.4.0+61", "1.4.0", false),
            ("1.4.0", "1.4.0-rc.1", false),
            ("1.4", "1.4.0", false),
            ("2026.01.3", "2026.01.3", true),
            ("2026.01.3", "2026.1.3", false),
            ("latest", "latest", true),
        ] {
            assert_eq!(meets(expected, seen), met, "{expected} {seen}");
        }
    }

    #[test]
    fn a_range_is_no_version() {
        for range in ["1.x", ">=1.0.0", "^1.2.3", "1.2", "*", "1.0.0 - 2.0.0"] {
            assert!(full(range).is_none(), "{range}");
        }
    }

    #[test]
    fn an_artifacts_digest_tells_two_apart() {
        assert!(!identical("1.0.0+aa", "1.0.0+bb"));
        assert!(identical("v1.0.0+aa", "1.0.0+aa"));
        assert_eq!(newer("1.10.0", "1.9.0"), Some(true));
        assert_eq!(newer("latest", "1.9.0"), None);
    }
}
