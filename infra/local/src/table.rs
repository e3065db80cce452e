//! The table of the end.

use console::style;
use verdict::{Reason, Status};

use crate::{
    display::colour,
    row::Row,
    text::{fit, wrap},
};

/// A verdict, as it is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) status: Status,
    pub(crate) reason: Reason,
    /// What a timeout is to have waited for.
    pub(crate) last_reason: Option<Reason>,
    /// The reason that a look tells which falls between two writes of one action.
    pub(crate) between_writes: Option<Reason>,
}

impl Expected {
    pub(crate) fn is_met_by(&self, row: &Row) -> bool {
        let answer = row.answer.as_ref();
        let reasons = [Some(self.reason), self.between_writes];
        row.status() == self.status
            && reasons.iter().flatten().any(|it| row.reason() == it.as_str())
            && answer.and_then(|it| it.last_reason) == self.last_reason
    }

    /// For a person who sees another verdict.
    fn told(&self) -> String {
        let waited = self.last_reason.map(|it| format!(", waiting with {it}")).unwrap_or_default();
        format!("expected was {} {}{waited}", self.status, self.reason)
    }
}

/// The table: a row for each deployment, its message below it.
pub(crate) fn table(rows: &[(&Row, Expected)], columns: usize) -> String {
    let columns = columns.clamp(40, 120);
    let names = rows.iter().map(|(row, _)| row.name.len()).max().unwrap_or_default();
    let head =
        format!("  {:names$}  {:9}  {:9}  {:16}  polls  time", "deployment", "expected", "verdict", "reason");
    let mut out = format!("{}\n", style(fit(&head, columns)).dim());
    for (row, expected) in rows {
        let met = expected.is_met_by(row);
        let mark = if met { style("✓").green() } else { style("✗").red().bold() };
        let status = row.status();
        let verdict = colour(status).apply_to(format!("{:9}", status.as_str()));
        let elapsed = format!("{} s", row.elapsed_secs(jiff::Timestamp::now()));
        out.push_str(&format!(
            "{mark} {:names$}  {:9}  {verdict}  {:16}  {:>5}  {elapsed:>4}\n",
            row.name,
            expected.status.as_str(),
            row.reason(),
            row.polls(),
        ));
        let not_as_expected = (!met).then(|| expected.told());
        for text in [Some(row.message()), not_as_expected.as_deref()].into_iter().flatten() {
            for line in wrap(text, columns.saturating_sub(4)) {
                out.push_str(&format!("    {}\n", style(line).dim()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        driver::{Progress, tests::answer},
        row::tests::row,
    };

    const ROLLED_BACK: Expected = Expected {
        status: Status::Failed,
        reason: Reason::RolledBack,
        last_reason: None,
        between_writes: None,
    };

    fn judged(status: Status, reason: Reason, last_reason: Option<Reason>) -> Row {
        let mut row = row("cart-values");
        let answer = monitor::answer::Answer { last_reason, ..answer(status, reason, "one two three") };
        let now = row.started_at;
        row.take(Progress::Answered(Box::new(answer)), now);
        row
    }

    #[test]
    fn a_verdict_is_as_expected_with_its_reason() {
        assert!(ROLLED_BACK.is_met_by(&judged(Status::Failed, Reason::RolledBack, None)));
        assert!(!ROLLED_BACK.is_met_by(&judged(Status::Failed, Reason::UpgradeFailed, None)));
        assert!(!ROLLED_BACK.is_met_by(&judged(Status::Pending, Reason::RolledBack, None)));
        assert!(!ROLLED_BACK.is_met_by(&row("cart-values")));
        let waited = Some(Reason::DependencyNotReady);
        let between_writes = Some(Reason::UpgradeFailed);
        let caught = Expected { between_writes, ..ROLLED_BACK };
        assert!(caught.is_met_by(&judged(Status::Failed, Reason::RolledBack, None)));
        assert!(caught.is_met_by(&judged(Status::Failed, Reason::UpgradeFailed, None)));
        assert!(!caught.is_met_by(&judged(Status::Failed, Reason::InstallFailed, None)));
        let timeout = Expected { reason: Reason::Timeout, last_reason: waited, ..ROLLED_BACK };
        assert!(timeout.is_met_by(&judged(Status::Failed, Reason::Timeout, waited)));
        assert!(!timeout.is_met_by(&judged(Status::Failed, Reason::Timeout, None)));
    }

    #[test]
    fn the_table_says_what_was_expected_where_it_was_not_met() {
        let met = judged(Status::Failed, Reason::RolledBack, None);
        let missed = judged(Status::Failed, Reason::UpgradeFailed, None);
        let shown = table(&[(&met, ROLLED_BACK), (&missed, ROLLED_BACK)], 80);
        assert_eq!(
            console::strip_ansi_codes(&shown),
            "  deployment   expected   verdict    reason            polls  time\n\
             ✓ cart-values  failed     failed     RolledBack            3  12 s\n    one two three\n\
             ✗ cart-values  failed     failed     UpgradeFailed         3  12 s\n    one two three\n    \
             expected was failed RolledBack\n"
        );
    }
}
