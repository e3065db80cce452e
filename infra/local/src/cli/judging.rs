//! What `watch` and `run` have in common: what a push should bring, how it is told, and
//! the command that pushes.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::parsers::{ExpectedValue, expected_value};

/// What counts, and how it is told.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct Judging {
    /// The chart's version that the push should bring.
    #[arg(long, value_name = "VERSION", help_heading = "Verdict")]
    pub(crate) expect_chart: Option<String>,
    /// The app's version that the push should bring.
    #[arg(long, value_name = "VERSION", help_heading = "Verdict")]
    pub(crate) expect_app: Option<String>,
    /// A value that the push should bring, by JSON pointer, as /image/tag=1.2.3; repeatable.
    #[arg(
        long = "expect-value",
        value_name = "POINTER=VALUE",
        value_parser = expected_value,
        help_heading = "Verdict"
    )]
    pub(crate) expect_values: Vec<ExpectedValue>,
    /// An instant not later than the push (RFC 3339), as of `date -u +%Y-%m-%dT%H:%M:%SZ`
    /// before it; by default now, or the moment before the command.
    #[arg(long, value_name = "TIME", conflicts_with = "command", help_heading = "Verdict")]
    pub(crate) pushed_at: Option<Timestamp>,
    /// When a failure counts: once nobody will try again, or at the first failed attempt.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, help_heading = "Verdict")]
    pub(crate) fail_on: FailOn,
    /// End at the first failed release; by default each is waited for.
    #[arg(long, help_heading = "Verdict")]
    pub(crate) fail_fast: bool,
    /// Judge what is there, even if nothing happened since the push: for reruns.
    #[arg(long, help_heading = "Verdict")]
    pub(crate) allow_unchanged: bool,

    /// What is printed: a live view (lines, where there is no terminal), a JSON object for
    /// each change, or lines with annotations and a job summary for GitHub Actions.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Output,

    /// A command that pushes, run with this terminal before anything is judged.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// Once nobody will try again.
    #[default]
    Final,
    /// At the first failed attempt.
    First,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For a person.
    #[default]
    Text,
    /// For a program.
    Json,
    /// For GitHub Actions.
    Github,
}
