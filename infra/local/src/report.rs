//! What is seen meanwhile and at the end, in each of the forms.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
};

use console::style;
use jiff::Timestamp;
use monitor::answer::{Answer, TargetAnswer};
use tokio::{
    sync::mpsc::{self, UnboundedSender},
    time::interval,
};
use verdict::{Reason, Status};

use crate::{
    cli::Output,
    display::{Display, FRAME, colour, columns, line_of},
    driver::{Progress, Refused},
    github,
    outcome::Outcome,
    row::Row,
    text::wrap,
};

/// Tells what happens to the releases, a row each.
pub(crate) struct Report {
    rows: Vec<Row>,
    form: Form,
    hint: Hint,
    /// Why the last look had no answer, as it was told.
    trouble: Option<Refused>,
}

/// What to do about a failure's reason.
pub(crate) type Hint = fn(Reason) -> Option<&'static str>;

enum Form {
    Text(Option<Display>),
    Json { told: Option<Told> },
    Github { summary: Option<PathBuf> },
}

/// What tells two answers apart for a reader: where each target stands, and why.
type Told = (Status, Reason, String, Vec<(Status, Reason, String)>);

impl Report {
    pub(crate) fn new(output: Output, summary: Option<PathBuf>, hint: Hint) -> Self {
        let form = match output {
            Output::Text => Form::Text(None),
            Output::Json => Form::Json { told: None },
            Output::Github => Form::Github { summary },
        };
        Self { rows: Vec::new(), form, hint, trouble: None }
    }

    /// Something for a person, beside the answers. Where the output is for a program it
    /// goes to the standard error.
    pub(crate) fn say(&self, sentence: &str) -> io::Result<()> {
        match self.form {
            Form::Text(_) if io::stdout().is_terminal() => {
                let lines = wrap(sentence, columns().saturating_sub(1));
                lines.iter().try_for_each(|line| writeln!(io::stdout(), "{line}"))
            }
            Form::Text(_) => writeln!(io::stdout(), "{sentence}"),
            Form::Github { .. } => writeln!(io::stdout(), "{}", github::harmless(sentence)),
            Form::Json { .. } => writeln!(io::stderr(), "{sentence}"),
        }
    }

    /// Shows these from here on: as a live view, where there is a terminal. Takes in what is
    /// told while the work goes on.
    pub(crate) async fn during<T>(
        &mut self,
        rows: Vec<Row>,
        work: impl AsyncFnOnce(UnboundedSender<Progress>) -> T,
    ) -> io::Result<T> {
        self.rows = rows;
        if let Form::Text(display) = &mut self.form {
            *display = Some(Display::new(&self.rows, "release"));
        }
        let (tell, mut told) = mpsc::unbounded_channel();
        let work = work(tell);
        tokio::pin!(work);
        let mut frames = interval(FRAME);
        let done = loop {
            tokio::select! {
                Some(progress) = told.recv() => self.take(&progress)?,
                done = &mut work => break done,
                _ = frames.tick() => self.draw(),
            }
        };
        while let Ok(progress) = told.try_recv() {
            self.take(&progress)?;
        }
        Ok(done)
    }

    fn take(&mut self, progress: &Progress) -> io::Result<()> {
        let now = Timestamp::now();
        match progress {
            // A line of its own each time would say nothing new.
            Progress::Retrying(refused) if !matches!(self.form, Form::Text(Some(Display::Live(_)))) => {
                if self.trouble.as_ref() != Some(refused) {
                    writeln!(io::stderr(), "dag-monitor: {}; trying again", refused.said())?;
                    self.trouble = Some(refused.clone());
                }
                return Ok(());
            }
            _ => self.trouble = None,
        }
        for (index, row) in self.rows.iter_mut().enumerate() {
            if row.take(of_target(progress, index), now) {
                match &self.form {
                    Form::Text(Some(display)) => display.changed(row)?,
                    Form::Github { .. } => {
                        writeln!(io::stdout(), "{}", github::harmless(&line_of(row, now)))?;
                    }
                    Form::Text(None) | Form::Json { .. } => {}
                }
            }
        }
        match (&mut self.form, progress) {
            (Form::Json { told }, Progress::Answered(answer)) => {
                let now_told = Some(told_by(answer));
                if *told != now_told {
                    *told = now_told;
                    object(answer)?;
                }
            }
            (Form::Json { .. }, Progress::GaveUp(refused)) => {
                writeln!(io::stderr(), "dag-monitor: {}", refused.said())?;
            }
            _ => {}
        }
        io::stdout().flush()
    }

    fn draw(&mut self) {
        if let Form::Text(Some(display)) = &mut self.form {
            display.draw(&self.rows);
        }
    }

    /// The end: told, or where it was interrupted nothing more is drawn.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(crate) fn close(self, outcome: Option<Outcome>) -> io::Result<Outcome> {
        match outcome {
            None => {
                self.interrupted();
                Ok(Outcome::Interrupted)
            }
            Some(outcome) => {
                self.end(outcome)?;
                Ok(outcome)
            }
        }
    }

    /// Tells what became of each release, and what to do.
    fn end(self, outcome: Outcome) -> io::Result<()> {
        let Self { rows, form, hint, .. } = self;
        let hints = hints(&rows, hint);
        let now = Timestamp::now();
        match form {
            Form::Text(display) => {
                let live = matches!(display, Some(Display::Live(_)));
                if let Some(display) = display {
                    display.close()?;
                }
                let mut out = io::stdout().lock();
                if live {
                    rows.iter().try_for_each(|row| write!(out, "{}", paragraph(row, now)))?;
                }
                let width = columns().saturating_sub(1).max(40);
                for line in hints.iter().flat_map(|hint| wrap(hint, width)) {
                    writeln!(out, "{line}")?;
                }
                let sentence = sentence(&rows, outcome, now);
                let good = outcome == Outcome::Succeeded;
                let sentence = if good { style(sentence).green() } else { style(sentence).red() };
                writeln!(out, "{sentence}")?;
                out.flush()
            }
            Form::Json { .. } => hints.iter().try_for_each(|hint| writeln!(io::stderr(), "{hint}")),
            Form::Github { summary } => {
                let mut out = io::stdout().lock();
                rows.iter().try_for_each(|row| writeln!(out, "{}", github::annotation(row)))?;
                hints.iter().try_for_each(|hint| writeln!(out, "{hint}"))?;
                writeln!(out, "{}", sentence(&rows, outcome, now))?;
                out.flush()?;
                summary.map_or(Ok(()), |path| github::add(&path, &github::summary(&rows, now)))
            }
        }
    }

    fn interrupted(self) {
        let live = matches!(&self.form, Form::Text(Some(Display::Live(_))));
        drop(self);
        if live && io::stderr().is_terminal() {
            // Below what was drawn last, and the `^C`.
            let _ = writeln!(io::stderr());
        }
    }
}

/// What the driver tells, of one target alone.
pub(crate) fn of_target(progress: &Progress, index: usize) -> Progress {
    match progress {
        Progress::Answered(answer) => match answer.targets.get(index) {
            None => progress.clone(),
            Some(target) => Progress::Answered(Box::new(Answer {
                status: target.status,
                reason: target.reason,
                last_reason: target.last_reason,
                evidence: target.evidence,
                message: target.message.clone(),
                finished_at: target.status.is_terminal().then_some(target.since),
                targets: vec![target.clone()],
                ..(**answer).clone()
            })),
        },
        other => other.clone(),
    }
}

fn told_by(answer: &Answer) -> Told {
    let of = |it: &TargetAnswer| (it.status, it.reason, it.message.clone());
    (answer.status, answer.reason, answer.message.clone(), answer.targets.iter().map(of).collect())
}

fn object(answer: &Answer) -> io::Result<()> {
    let object = serde_json::to_string(answer).map_err(io::Error::other)?;
    writeln!(io::stdout(), "{object}")
}

/// One release at the end, its message below it.
pub(crate) fn paragraph(row: &Row, now: Timestamp) -> String {
    let status = row.status();
    let mark = match status {
        Status::Succeeded => "✓",
        Status::Failed => "✗",
        Status::Pending => "·",
    };
    let colour = colour(status);
    let (elapsed, name, reason) = (row.elapsed_secs(now), &row.name, row.reason());
    let mut text = format!(
        "{} {name}  {}  {reason}  {elapsed} s\n",
        colour.apply_to(mark),
        colour.apply_to(status.as_str())
    );
    for line in wrap(row.message(), columns().saturating_sub(5).clamp(36, 116)) {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

/// What to do, each once.
fn hints(rows: &[Row], hint: Hint) -> Vec<String> {
    let mut hints = Vec::new();
    for row in rows.iter().filter(|row| row.status() == Status::Failed) {
        let answer = row.answer.as_ref();
        let last = answer.and_then(|it| it.last_reason.filter(|_| it.reason == Reason::Timeout));
        let told = [row.verdict_reason(), last].into_iter().flatten().find_map(hint);
        let told = told.map(|hint| format!("Hint: {hint}."));
        hints.extend(told.filter(|it| !hints.contains(it)));
    }
    hints
}

fn sentence(rows: &[Row], outcome: Outcome, now: Timestamp) -> String {
    let good = rows.iter().filter(|row| row.status() == Status::Succeeded).count();
    let secs = rows.iter().map(|row| row.elapsed_secs(now)).max().unwrap_or_default();
    let counted = match (rows.len(), good) {
        (1, _) if outcome == Outcome::NotLooked => "Could not look".to_owned(),
        (1, 1) => "Deployed".to_owned(),
        (1, _) => "Not deployed".to_owned(),
        (all, good) => format!("{good} of {all} releases deployed"),
    };
    let how = match outcome {
        Outcome::TimedOut => ", timed out",
        Outcome::NotLooked if rows.len() > 1 => ", not all could be looked at",
        _ => "",
    };
    format!("{counted}{how}, after {secs} s.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        driver::tests::{answer, refused},
        outcome::{hint, hint_of_known_push},
        row::tests::row,
    };

    fn judged(status: Status, reason: Reason, last_reason: Option<Reason>) -> Row {
        let mut row = row("shop/cart");
        let answer = Answer { last_reason, ..answer(status, reason, "one two three") };
        let now = row.started_at;
        row.take(Progress::Answered(Box::new(answer)), now);
        row
    }

    #[test]
    fn the_end_is_told_in_a_sentence_and_what_to_do_is_told_once() {
        let now = row("x").started_at;
        let good = || judged(Status::Succeeded, Reason::Deployed, None);
        let denied = || judged(Status::Failed, Reason::Forbidden, None);
        let late = || judged(Status::Failed, Reason::Timeout, Some(Reason::NotFound));
        for (rows, outcome, told, hinted) in [
            (vec![good()], Outcome::Succeeded, "Deployed, after 12 s.", 0),
            (vec![good(), good()], Outcome::Succeeded, "2 of 2 releases deployed, after 12 s.", 0),
            (vec![denied()], Outcome::NotLooked, "Could not look, after 12 s.", 1),
            (vec![late()], Outcome::TimedOut, "Not deployed, timed out, after 12 s.", 1),
            (
                vec![good(), denied(), denied()],
                Outcome::NotLooked,
                "1 of 3 releases deployed, not all could be looked at, after 12 s.",
                1,
            ),
        ] {
            let sentence = sentence(&rows, outcome, now);
            assert!(sentence.starts_with(told), "{sentence}");
            assert_eq!(hints(&rows, hint).len(), hinted, "{sentence}");
        }
        let waiting = [judged(Status::Failed, Reason::Timeout, Some(Reason::WaitingForChange))];
        assert_eq!((hints(&waiting, hint).len(), hints(&waiting, hint_of_known_push).len()), (1, 0));
    }

    #[test]
    fn a_paragraph_names_the_release_and_its_message() {
        let row = judged(Status::Failed, Reason::RolledBack, None);
        let text = paragraph(&row, row.started_at);
        assert_eq!(
            console::strip_ansi_codes(&text),
            "✗ shop/cart  failed  RolledBack  12 s\n    one two three\n"
        );
    }

    #[test]
    fn trouble_is_every_rows() {
        let trouble = Progress::Retrying(refused("Transient"));
        assert_eq!(of_target(&trouble, 7), trouble);
    }
}
