//! The demo as a person starts it, but without a terminal.
#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of these tests are tests themselves")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// The demo promises a minute. Twice that, and the test gives up on it.
const HARD_LIMIT: Duration = Duration::from_secs(120);

struct Demo {
    child: Child,
    lines: mpsc::Receiver<String>,
    started: Instant,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dag-monitor"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, started: Instant::now() }
    }

    fn left(&self) -> Duration {
        HARD_LIMIT.saturating_sub(self.started.elapsed())
    }

    fn lines_until(&self, wanted: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(self.left()) {
            seen.push(line);
            if seen.last().is_some_and(|line| line.contains(wanted)) {
                return seen;
            }
        }
        panic!("{wanted:?} never came; what came:\n{}", seen.join("\n"));
    }

    fn end(&mut self) -> (ExitStatus, String) {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut stderr = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                return (status, stderr);
            }
            assert!(!self.left().is_zero(), "it does not end");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended; and a failed test leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_ends_with_a_table_of_the_expected_verdicts() {
    let mut demo = Demo::start(&[]);
    let lines = demo.lines_until("verdicts as expected");
    let shown = lines.join("\n");
    let (status, stderr) = demo.end();
    assert_eq!(status.code(), Some(0), "{shown}\n{stderr}");
    assert_eq!(stderr, "");
    assert!(lines.iter().any(|line| line == "201 Created"), "{shown}");
    assert!(lines.iter().any(|line| line.starts_with("The probe: Kubernetes v")), "{shown}");

    for (name, verdict, reason) in [
        ("checkout-upgrade", "succeeded", "UpgradeSucceeded"),
        ("cart-values", "succeeded", "UpgradeSucceeded"),
        ("payments-broken", "failed", "RolledBack"),
        ("search-dependency", "failed", "Timeout"),
        ("catalog-install", "succeeded", "InstallSucceeded"),
        ("invoices-upgrade", "succeeded", "Deployed"),
        ("mailer-atomic", "failed", "RolledBack"),
        ("reports-install", "succeeded", "Deployed"),
    ] {
        let row = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut row = row.filter(|words| words.starts_with(&["✓", name]));
        let words = row.next().unwrap_or_else(|| panic!("no row {name}:\n{shown}"));
        assert_eq!(words[2..5], [verdict, verdict, reason], "{shown}");
        // Before its verdict it was waited for.
        let waited =
            lines.iter().any(|line| line.contains(&format!("  {name}  ")) && line.contains("  pending  "));
        assert!(waited, "{name} was judged at once:\n{shown}");
    }
    assert!(shown.contains("8 of 8 verdicts as expected"), "{shown}");
}

#[test]
fn an_interrupt_ends_it_cleanly() {
    let mut demo = Demo::start(&["demo"]);
    demo.lines_until("  pending  ");
    let kill = Command::new("sh").arg("-c").arg(format!("kill -INT {}", demo.child.id())).status().unwrap();
    assert!(kill.success());
    let (status, stderr) = demo.end();
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("Interrupted"), "{stderr}");
}

#[test]
fn what_it_does_not_know_is_refused_with_help() {
    let mut demo = Demo::start(&["demmo"]);
    let (status, stderr) = demo.end();
    assert_eq!(status.code(), Some(3), "2 would say that a deployment timed out");
    assert!(stderr.contains("'demmo'") && stderr.contains("'demo'") && stderr.contains("--help"), "{stderr}");
}
