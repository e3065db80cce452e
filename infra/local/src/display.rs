//! What is seen while deployments are followed.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use console::{Style, Term, measure_text_width, style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use verdict::{HelmType, Status};

use crate::{row::Row, text::fit};

/// How often a terminal is drawn anew: so that a spinner turns.
pub(crate) const FRAME: Duration = Duration::from_millis(100);
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// Where nobody says how wide it is, as in a pipe.
const USUAL_COLUMNS: usize = 100;

/// How many columns texts may take on the standard output.
pub(crate) fn columns() -> usize {
    Term::stdout().size_checked().map_or(USUAL_COLUMNS, |(_, columns)| columns.into())
}

pub(crate) fn helm_type(helm_type: HelmType) -> &'static str {
    match helm_type {
        HelmType::Flux => "flux",
        HelmType::Plain => "plain",
    }
}

pub(crate) fn colour(status: Status) -> Style {
    match status {
        Status::Pending => Style::new().cyan(),
        Status::Succeeded => Style::new().green(),
        Status::Failed => Style::new().red(),
    }
}

/// Lines that are drawn anew on a terminal; elsewhere a line for each change.
pub(crate) enum Display {
    Live(Live),
    Plain,
}

impl Display {
    /// `what` the rows are, for their heading.
    pub(crate) fn new(rows: &[Row], what: &'static str) -> Self {
        if io::stdout().is_terminal() { Self::Live(Live::new(rows, what)) } else { Self::Plain }
    }

    /// A row says something else than before.
    pub(crate) fn changed(&self, row: &Row) -> io::Result<()> {
        match self {
            // The next frame shows it.
            Self::Live(_) => Ok(()),
            Self::Plain => writeln!(io::stdout(), "{}", line_of(row, Timestamp::now())),
        }
    }

    /// Draws the rows as they are now.
    pub(crate) fn draw(&mut self, rows: &[Row]) {
        if let Self::Live(live) = self {
            live.draw(rows);
        }
    }

    /// Makes room for what tells the end: the table says all that stood here.
    pub(crate) fn close(self) -> io::Result<()> {
        match self {
            Self::Live(live) => {
                live.lines.iter().chain([&live.head]).for_each(ProgressBar::finish_and_clear);
                Ok(())
            }
            Self::Plain => writeln!(io::stdout()),
        }
    }
}

pub(crate) struct Live {
    all: MultiProgress,
    head: ProgressBar,
    lines: Vec<ProgressBar>,
    frame: usize,
    what: &'static str,
    /// How wide the terminal was at the last frame, and each line in it.
    columns: usize,
    widths: Vec<usize>,
}

impl Live {
    fn new(rows: &[Row], what: &'static str) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let add = || {
            let message_only = ProgressStyle::with_template("{msg}");
            let message_only = message_only.unwrap_or_else(|_| ProgressStyle::default_spinner());
            all.add(ProgressBar::no_length().with_style(message_only))
        };
        Self {
            head: add(),
            lines: rows.iter().map(|_| add()).collect(),
            all,
            frame: 0,
            what,
            columns: 0,
            widths: Vec::new(),
        }
    }

    fn draw(&mut self, rows: &[Row]) {
        self.reflow(columns());
        // The last column stays free: some terminals break the line after it.
        let columns = self.columns.saturating_sub(1);
        let names = rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max(self.what.len());
        let head = format!("  {:names$}  helm   time  left  status", self.what);
        let head = fit(&head, columns);
        self.widths = vec![measure_text_width(&head)];
        self.head.set_message(style(head).dim().to_string());
        let now = Timestamp::now();
        let spinner = SPINNER[self.frame % SPINNER.len()];
        self.frame = self.frame.wrapping_add(1);
        for (row, bar) in rows.iter().zip(&self.lines) {
            let line = line(row, now, spinner, names, columns);
            self.widths.push(measure_text_width(&line));
            bar.set_message(line);
        }
    }

    /// Where a terminal has become narrower it has broken the lines that are too long for
    /// it now, and there is more to remove than was drawn.
    fn reflow(&mut self, columns: usize) {
        let more = broken(&self.widths, columns);
        if columns < self.columns && more > 0 {
            // What can't be removed stays above: nothing worse.
            let _ = self.all.clear();
            let _ = Term::stdout().clear_last_lines(more);
        }
        self.columns = columns;
    }
}

/// How many more lines these take where they are broken at so many columns.
fn broken(widths: &[usize], columns: usize) -> usize {
    widths.iter().map(|width| width.div_ceil(columns.max(1)).saturating_sub(1)).sum()
}

impl Drop for Live {
    /// Where it is interrupted, what was drawn last stays: the terminal has
    /// written its `^C` below it, and a last frame would be drawn a line too low.
    fn drop(&mut self) {
        self.all.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// A row that changed, as a line that stays.
pub(crate) fn line_of(row: &Row, now: Timestamp) -> String {
    let elapsed = row.elapsed_secs(now);
    let (name, helm_type, status) = (&row.name, helm_type(row.helm_type), row.status());
    format!("{elapsed:>3} s  {name}  {helm_type}  {status}  {}", row.said())
}

/// One row in at most so many columns.
fn line(row: &Row, now: Timestamp, spinner: &str, names: usize, columns: usize) -> String {
    let status = row.status();
    let mark = match status {
        Status::Pending => spinner,
        Status::Succeeded => "✓",
        Status::Failed => "✗",
    };
    let left = row.left_secs(now).map(|secs| format!("{secs} s")).unwrap_or_default();
    let elapsed = format!("{} s", row.elapsed_secs(now));
    let known = format!(" {:names$}  {:5}  {elapsed:>4}  {left:>4}  ", row.name, helm_type(row.helm_type));
    let rest = columns.saturating_sub(1 + known.chars().count());
    if rest == 0 {
        return fit(&format!("{mark}{known}"), columns);
    }
    let word = fit(status.as_str(), rest);
    let said = fit(&format!(" {}", row.said_shortly()), rest.saturating_sub(word.chars().count()));
    let colour = colour(status);
    format!("{}{known}{}{said}", colour.apply_to(mark), colour.apply_to(word))
}

#[cfg(test)]
mod tests {
    use console::strip_ansi_codes;
    use verdict::Reason;

    use super::*;
    use crate::{
        driver::{Progress, tests::answer},
        row::tests::row,
    };

    #[test]
    fn a_narrower_terminal_has_broken_what_is_too_long() {
        for (columns, more) in [(80, 0), (79, 0), (60, 1), (39, 2), (20, 4), (1, 116), (0, 116)] {
            assert_eq!(broken(&[79, 39], columns), more, "{columns}");
        }
    }

    #[test]
    fn a_line_says_what_is_waited_for_and_fits_at_any_width() {
        let mut row = row("cart-values");
        let now = row.started_at;
        let text = "HelmRelease shop/cart still shows chart demo@1.0.0, generation 2";
        row.take(Progress::Answered(Box::new(answer(Status::Pending, Reason::WaitingForChange, text))), now);
        assert_eq!(
            strip_ansi_codes(&line(&row, now, "⠋", 12, 79)),
            "⠋ cart-values   flux    0 s  55 s  pending WaitingForChange: HelmRelease shop/…"
        );
        for columns in 0..200 {
            assert!(measure_text_width(&line(&row, now, "⠋", 12, columns)) <= columns, "{columns}");
        }
    }
}
