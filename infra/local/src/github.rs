//! GitHub Actions: annotations and a job summary.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

use jiff::Timestamp;
use verdict::Status;

use crate::{outcome::tells_of_release, row::Row};

/// A text as the value of a workflow command: a line end would begin another command
/// (actions/toolkit, packages/core/src/command.ts).
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The same as the value of a command's property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// A line for the log that is no command, whatever a cluster said: the runner looks for
/// `::` at a line's beginning and for `##[` anywhere in it.
pub(crate) fn harmless(line: &str) -> String {
    let line = line.replace("##[", "##\u{200b}[").replace(['\r', '\n'], " ");
    if line.trim_start().starts_with("::") { format!("\u{200b}{line}") } else { line }
}

/// What is shown beside the job for one release.
pub(crate) fn annotation(row: &Row) -> String {
    let (command, title) = match row.status() {
        Status::Succeeded => ("notice", format!("{} is deployed", row.name)),
        Status::Failed => ("error", format!("{} is not deployed: {}", row.name, row.reason())),
        Status::Pending => ("warning", format!("{} has no verdict", row.name)),
    };
    let message = row.message().replace("##[", "##\u{200b}[");
    format!("::{command} title={}::{}", property(&title), data(&message))
}

/// A text within a table of Markdown, where it is nothing but text.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_control() => out.push(' '),
            c if c.is_ascii_punctuation()
                && !matches!(c, '.' | ',' | ':' | ';' | '/' | '"' | '\'' | '?' | '%' | '=' | '@') =>
            {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// The job's summary: a table with a row for each release.
pub(crate) fn summary(rows: &[Row], now: Timestamp) -> String {
    let mut text = String::from(
        "### dag-monitor\n\n| | release | verdict | reason | time | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let (mark, verdict) = match row.status() {
            Status::Succeeded => ("✅", "deployed"),
            Status::Failed if row.verdict_reason().is_some_and(tells_of_release) => ("❌", "not deployed"),
            Status::Failed => ("⚠️", "not looked at"),
            Status::Pending => ("⏳", "no verdict"),
        };
        text.push_str(&format!(
            "| {mark} | {} | {verdict} | {} | {} s | {} |\n",
            cell(&row.name),
            cell(row.reason()),
            row.elapsed_secs(now),
            cell(row.message())
        ));
    }
    text.push('\n');
    text
}

/// Adds it to the file that the runner named.
pub(crate) fn add(path: &Path, summary: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(summary.as_bytes())
}

#[cfg(test)]
mod tests {
    use verdict::Reason;

    use super::*;
    use crate::{
        driver::{Progress, tests::answer},
        row::tests::row,
    };

    fn judged(name: &str, status: Status, reason: Reason, message: &str) -> Row {
        let mut row = row(name);
        let now = row.started_at;
        row.take(Progress::Answered(Box::new(answer(status, reason, message))), now);
        row
    }

    #[test]
    fn an_annotation_is_one_line_whatever_it_says() {
        let failed = judged(
            "prod/shop/cart",
            Status::Failed,
            Reason::RolledBack,
            "100 %: a\n::add-mask::b ##[error]c",
        );
        assert_eq!(
            annotation(&failed),
            "::error title=prod/shop/cart is not deployed%3A RolledBack::100 %25: a%0A::add-mask::b ##\u{200b}[error]c"
        );
        let succeeded = judged("a:b,c", Status::Succeeded, Reason::Deployed, "done");
        assert_eq!(annotation(&succeeded), "::notice title=a%3Ab%2Cc is deployed::done");
        assert!(annotation(&row("cart")).starts_with("::warning title=cart has no verdict::"));
    }

    #[test]
    fn a_line_of_the_log_is_no_command() {
        assert_eq!(harmless("  3 s  cart  ::error::x"), "  3 s  cart  ::error::x");
        for line in ["::error::x", "  ::error::x", "a\n::error::x", "a ##[error]x"] {
            let made = harmless(line);
            assert!(
                !made.contains('\n') && !made.trim_start().starts_with("::") && !made.contains("##["),
                "{made}"
            );
        }
    }

    #[test]
    fn the_summary_is_a_table_and_nothing_else() {
        let rows = [
            judged("shop/cart", Status::Succeeded, Reason::Deployed, "done"),
            judged("shop/pay", Status::Failed, Reason::RolledBack, "a | b <img src=x> `c`\n# [d](e) *f*"),
            judged("shop/x", Status::Failed, Reason::Forbidden, "no"),
        ];
        let text = summary(&rows, rows[0].started_at);
        assert_eq!(
            text,
            "### dag-monitor\n\n| | release | verdict | reason | time | |\n| --- | --- | --- | --- | --- | --- |\n\
             | ✅ | shop/cart | deployed | Deployed | 12 s | done |\n\
             | ❌ | shop/pay | not deployed | RolledBack | 12 s | a \\| b &lt;img src=x&gt; \\`c\\` \\# \\[d\\]\\(e\\) \\*f\\* |\n\
             | ⚠️ | shop/x | not looked at | Forbidden | 12 s | no |\n\n"
        );
    }
}
