//! What the push should bring, held against what is there.

use crate::{Expect, Values, values::Found, version};

/// The versions of a release.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Versions<'a> {
    pub(crate) chart: Option<&'a str>,
    pub(crate) app: Option<&'a str>,
}

/// Whether a release is the expected one. An expectation is never met by what is absent.
pub(crate) fn met(expect: &Expect, seen: Versions<'_>, values: Option<&Values>) -> bool {
    let version = |expected: Option<&str>, seen: Option<&str>| {
        expected.is_none_or(|e| seen.is_some_and(|s| version::meets(e, s)))
    };
    version(expect.chart_version.as_deref(), seen.chart)
        && version(expect.app_version.as_deref(), seen.app)
        && missing_value(expect, values).is_none()
}

/// Whether what runs is newer than what was expected, and that newer than what
/// ran before: then the expected one will not come any more.
pub(crate) fn overtaken(expect: &Expect, now: Versions<'_>, then: Versions<'_>) -> bool {
    let passed = |expected: &str, now: Option<&str>, then: Option<&str>| {
        let (Some(now), Some(then)) = (now, then) else {
            return false;
        };
        version::newer(now, expected) == Some(true) && version::newer(expected, then) == Some(true)
    };
    match (&expect.chart_version, &expect.app_version) {
        (Some(chart), _) => passed(chart, now.chart, then.chart),
        (None, Some(app)) => passed(app, now.app, then.app),
        (None, None) => false,
    }
}

/// The first pointer whose value is not there, and whether anything is.
pub(crate) fn missing_value<'a>(expect: &'a Expect, values: Option<&Values>) -> Option<(&'a str, bool)> {
    let found = values.map(|values| values.found(expect)).unwrap_or_default();
    expect.values.keys().find_map(|pointer| match found.get(pointer) {
        Some(Found::Expected) => None,
        other => Some((pointer.as_str(), other.is_some())),
    })
}

/// What is expected, in words; never a value.
pub(crate) fn expected(expect: &Expect) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(expect.chart_version.as_ref().map(|v| format!("chart {v}")));
    parts.extend(expect.app_version.as_ref().map(|v| format!("app {v}")));
    if parts.is_empty() {
        let pointers: Vec<&str> = expect.values.keys().map(String::as_str).collect();
        parts.push(format!("a release with the expected value at {}", pointers.join(", ")));
    }
    parts.join(" with ")
}

/// What runs, in words, as far as it matters to what is expected.
pub(crate) fn running(expect: &Expect, seen: Versions<'_>) -> String {
    let chart = format!("chart {}", seen.chart.unwrap_or("of unknown version"));
    match expect.app_version {
        Some(_) => format!("{chart} with app {}", seen.app.unwrap_or("of unknown version")),
        None => chart,
    }
}
