//! The one table that a run ends with.

use std::{fmt::Write as _, time::Duration};

/// What a number is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Millis,
    Bytes,
    Mebibytes,
    Seconds,
    Instructions,
    Dollars,
    /// A number of these.
    Count,
}

/// Numbers of one kind, each measured by itself.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    unit: Unit,
    values: Vec<f64>,
}

impl Sample {
    pub(crate) fn new(unit: Unit) -> Self {
        Self { unit, values: Vec::new() }
    }

    pub(crate) fn of(unit: Unit, values: impl IntoIterator<Item = f64>) -> Self {
        Self { unit, values: values.into_iter().collect() }
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn add_time(&mut self, time: Duration) {
        self.values.push(time.as_secs_f64() * 1000.0);
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn worst(&self) -> f64 {
        self.values.iter().copied().fold(f64::NAN, f64::max)
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::Millis if value < 10.0 => format!("{value:.2} ms"),
            Unit::Millis => format!("{value:.1} ms"),
            Unit::Mebibytes => format!("{value:.1} MiB"),
            Unit::Seconds => format!("{value:.1} s"),
            Unit::Dollars => format!("${value:.4}"),
            Unit::Bytes | Unit::Instructions | Unit::Count => grouped(value),
        }
    }

    fn name(&self) -> &'static str {
        match self.unit {
            Unit::Bytes => " B",
            Unit::Instructions
            | Unit::Count
            | Unit::Dollars
            | Unit::Millis
            | Unit::Mebibytes
            | Unit::Seconds => "",
        }
    }
}

/// `12,345`; a fraction only where there is one and the number is small.
fn grouped(value: f64) -> String {
    if value < 100.0 && value.fract() > 0.001 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One line.
pub(crate) struct Row {
    what: String,
    times: String,
    median: String,
    worst: String,
    baseline: String,
    ratio: String,
    reach: String,
    value: (f64, f64),
    against: f64,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, sample: &Sample) -> Self {
        let shown = |value| format!("{}{}", sample.shown(value), sample.name());
        Self {
            what: what.into(),
            times: sample.values.len().to_string(),
            median: shown(sample.median()),
            worst: shown(sample.worst()),
            baseline: String::new(),
            ratio: String::new(),
            reach: String::new(),
            value: (sample.median(), sample.worst()),
            against: f64::NAN,
        }
    }

    /// One number that nothing varies.
    pub(crate) fn figure(what: impl Into<String>, sample: &Sample) -> Self {
        let row = Self::new(what, sample);
        Self { times: String::new(), worst: String::new(), ..row }
    }

    /// A line that says why there are no numbers.
    pub(crate) fn skipped(what: impl Into<String>, why: &str) -> Self {
        let mut row = Self::new(what, &Sample::new(Unit::Count));
        (row.times, row.median, row.worst) = ("0".to_owned(), why.to_owned(), String::new());
        row
    }

    /// The ratio of the medians.
    pub(crate) fn against(mut self, name: &str, baseline: &Sample) -> Self {
        let median = baseline.median();
        self.baseline = format!("{name}: {}{}", baseline.shown(median), baseline.name());
        self.against = median;
        let ratio = self.value.0 / median;
        self.ratio = if ratio < 0.1 { format!("1/{:.0}", 1.0 / ratio) } else { format!("{ratio:.2}") };
        self
    }

    fn reach(mut self, text: String, met: bool) -> Self {
        self.reach = format!("{text} {}", if met { "✓" } else { "✗" });
        self
    }

    pub(crate) fn median_at_most(self, limit: f64, text: &str) -> Self {
        let met = self.value.0 <= limit;
        self.reach(text.to_owned(), met)
    }

    pub(crate) fn worst_at_most(self, limit: f64, text: &str) -> Self {
        let met = self.value.1 <= limit;
        self.reach(text.to_owned(), met)
    }

    pub(crate) fn ratio_at_most(self, limit: f64, text: &str) -> Self {
        let met = self.value.0 / self.against <= limit;
        self.reach(text.to_owned(), met)
    }
}

/// Lines under headings.
#[derive(Default)]
pub(crate) struct Table {
    lines: Vec<Result<Row, String>>,
}

impl Table {
    pub(crate) fn heading(&mut self, text: &str) {
        self.lines.push(Err(text.to_owned()));
    }

    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("  {}: {} (worst {}) {} {}", row.what, row.median, row.worst, row.baseline, row.reach);
        self.lines.push(Ok(row));
    }

    /// As Markdown.
    pub(crate) fn render(&self) -> String {
        let mut text = "| what | times | median | worst | baseline, median | ratio | to reach |\n\
                        | --- | ---: | ---: | ---: | --- | ---: | --- |\n"
            .to_owned();
        for line in &self.lines {
            let _ = match line {
                Ok(row) => writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    row.what, row.times, row.median, row.worst, row.baseline, row.ratio, row.reach
                ),
                Err(heading) => writeln!(text, "| **{heading}** | | | | | | |"),
            };
        }
        text
    }
}
