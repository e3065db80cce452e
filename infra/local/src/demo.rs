//! The demo: what is deployed, and what is expected of it.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use console::style;
use jiff::Timestamp;
use monitor::check::chain;
use serde_json::{Value, json};
use testkit::{Scenario, ScenarioError};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep_until},
};
use verdict::{HelmType, Reason, Status};

use crate::{
    display::{Display, FRAME, columns, helm_type},
    driver::Progress,
    row::Row,
    stage::{CLUSTER, Stage, StageError},
    table::{Expected, table},
    text::wrap,
};

const NAMESPACE: &str = "shop";
/// How long a deployment waits, where its case says nothing. The longest recording
/// ends 43 s after its push; with the checks around it, it is judged well before.
const TIMEOUT_SECS: u32 = 55;
/// A minute is promised: what has no verdict by then never gets one.
const LIMIT: Duration = Duration::from_secs(58);
/// As a shell tells of a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// One deployment of the demo.
struct Case {
    id: &'static str,
    /// What happens, for a person.
    story: &'static str,
    recording: &'static str,
    release: &'static str,
    /// When the push is, in seconds after the start: one after the other, so that
    /// there is always something to see.
    push_in_secs: u64,
    timeout_secs: u32,
    expect: Value,
    expected: Expected,
}

fn cases() -> Vec<Case> {
    let ended = |status, reason| Expected { status, reason, last_reason: None, between_writes: None };
    let succeeded = |reason| ended(Status::Succeeded, reason);
    let failed = |reason| ended(Status::Failed, reason);
    vec![
        Case {
            id: "checkout-upgrade",
            story: "Flux upgrades to chart 1.1.0",
            recording: "flux/chart-upgrade",
            release: "checkout",
            push_in_secs: 3,
            timeout_secs: TIMEOUT_SECS,
            expect: json!({"chartVersion": "1.1.0"}),
            expected: succeeded(Reason::UpgradeSucceeded),
        },
        Case {
            id: "cart-values",
            story: "Flux gets new values; the chart stays",
            recording: "flux/values-only-upgrade",
            release: "cart",
            push_in_secs: 8,
            timeout_secs: TIMEOUT_SECS,
            expect: json!({"values": {"/message": "two"}}),
            expected: succeeded(Reason::UpgradeSucceeded),
        },
        Case {
            id: "payments-broken",
            story: "Flux tries twice, then rolls back",
            recording: "flux/upgrade-fails-rolled-back",
            release: "payments",
            push_in_secs: 0,
            timeout_secs: TIMEOUT_SECS,
            expect: json!({}),
            expected: failed(Reason::RolledBack),
        },
        Case {
            id: "search-dependency",
            story: "Flux waits for what never comes, 25 s at most",
            recording: "flux/waits-for-dependency",
            release: "search",
            push_in_secs: 6,
            timeout_secs: 25,
            expect: json!({"chartVersion": "1.1.0"}),
            expected: Expected { last_reason: Some(Reason::DependencyNotReady), ..failed(Reason::Timeout) },
        },
        Case {
            id: "catalog-install",
            story: "Flux installs a release for the first time",
            recording: "flux/first-install",
            release: "catalog",
            push_in_secs: 14,
            timeout_secs: TIMEOUT_SECS,
            expect: json!({"chartVersion": "1.0.0"}),
            expected: succeeded(Reason::InstallSucceeded),
        },
        Case {
            id: "invoices-upgrade",
            story: "Helm 4 upgrades to chart 1.1.0",
            recording: "helm/helm4-upgrade",
            release: "invoices",
            push_in_secs: 11,
            timeout_secs: TIMEOUT_SECS,
            expect: json!({"chartVersion": "1.1.0"}),
            expected: succeeded(Reason::Deployed),
        },
        Case {
            id: "mailer-atomic",
            story: "Helm 3 fails with --atomic, and rolls back",
            recording: "helm/helm3-upgrade-rolled-back",
            release: "mailer",
            push_in_secs: 17,
            timeout_secs: TIMEOUT_SECS,
            expect: json!({}),
            expected: Expected { between_writes: Some(Reason::UpgradeFailed), ..failed(Reason::RolledBack) },
        },
        Case {
            id: "reports-install",
            story: "Helm 4 installs a release for the first time",
            recording: "helm/helm4-first-install",
            release: "reports",
            push_in_secs: 20,
            timeout_secs: TIMEOUT_SECS,
            expect: json!({}),
            expected: succeeded(Reason::Deployed),
        },
    ]
}

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(
        "the recordings are missing: there is no folder {}. The demo is run in a clone of the repository, by `cargo run`",
        .0.display()
    )]
    NoRecordings(PathBuf),
    #[error("the recording {recording} can't be replayed")]
    Recording { recording: &'static str, source: ScenarioError },
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("the output can't be written")]
    Output(#[from] io::Error),
}

/// Runs it to its end, or to Ctrl-C.
pub(crate) async fn run() -> ExitCode {
    let started = Instant::now();
    let ended = tokio::select! {
        // First, so that Ctrl-C is heard from the beginning on.
        biased;
        Ok(()) = tokio::signal::ctrl_c() => None,
        ended = play(started) => Some(ended),
    };
    match ended {
        Some(Ok(true)) => ExitCode::SUCCESS,
        Some(Ok(false)) => ExitCode::FAILURE,
        Some(Err(error)) => {
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "dag-monitor: {}", chain(&error));
            ExitCode::FAILURE
        }
        None => {
            let _ = writeln!(io::stderr(), "\nInterrupted: the demo is stopped, and nothing is left of it.");
            ExitCode::from(INTERRUPTED)
        }
    }
}

/// Whether every verdict was the expected one. Dropped, it stops all that it has started.
async fn play(started: Instant) -> Result<bool, DemoError> {
    let cases = cases();
    let scenarios = scenarios(&cases)?;
    let (told, mut progress) = mpsc::unbounded_channel();
    let listener = move |name: &str, progress| {
        // Nobody listens any more only where all is being stopped.
        drop(told.send((name.to_owned(), progress)));
    };
    let stage = Stage::set(Box::new(listener)).await?;
    introduce(&stage, &cases, &scenarios).await?;

    let mut rows = Vec::with_capacity(cases.len());
    for (case, scenario) in cases.iter().zip(&scenarios) {
        let push_in = Duration::from_secs(case.push_in_secs);
        let played = stage.cluster.play(scenario, Some(NAMESPACE), Some(case.release), push_in);
        let played = played.map_err(|source| DemoError::Recording { recording: case.recording, source })?;
        let begun = stage.deploy(&body(case, scenario.helm_type(), played.pushed_at)).await?;
        rows.push(Row::new(case.id, scenario.helm_type(), begun.started_at, begun.deadline));
    }
    watch(&mut rows, &mut progress, started + LIMIT).await?;
    stage.strike().await;
    conclude(&cases, &rows, started.elapsed())
}

fn scenarios(cases: &[Case]) -> Result<Vec<Scenario>, DemoError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    let recordings = root.join("tests/fixtures");
    if !recordings.is_dir() {
        return Err(DemoError::NoRecordings(recordings));
    }
    let load = |case: &Case| {
        Scenario::load(&recordings, case.recording)
            .map_err(|source| DemoError::Recording { recording: case.recording, source })
    };
    cases.iter().map(load).collect()
}

/// What a pipeline would send after its push.
fn body(case: &Case, helm_type_: HelmType, pushed_at: Timestamp) -> Value {
    json!({
        "deploymentId": case.id,
        "helmType": helm_type(helm_type_),
        "targets": [{"cluster": CLUSTER, "namespace": NAMESPACE, "release": case.release}],
        "timeoutSecs": case.timeout_secs,
        "expect": case.expect,
        "pushedAt": pushed_at,
    })
}

/// Says what there is, registers the cluster, and says what is going to happen.
async fn introduce(stage: &Stage, cases: &[Case], scenarios: &[Scenario]) -> Result<(), DemoError> {
    let mut out = io::stdout();
    writeln!(out, "A simulated cluster at {} replays what real ones answered.", stage.cluster.api_url())?;
    writeln!(out, "The API is at http://{}. Registering the cluster, which is probed first:\n", stage.api)?;
    let registration = stage.register().await?;
    writeln!(out, "{}", registration.command)?;
    writeln!(out, "{}", style(registration.status).green())?;
    // Compact JSON has no space at which a line could end.
    let body = registration.body.replace(",\"", ", \"").replace("\":", "\": ");
    for line in wrap(&body, columns().saturating_sub(1)) {
        writeln!(out, "{}", style(line).dim())?;
    }
    for line in wrap(&format!("The probe: {}", registration.probe), columns().saturating_sub(1)) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "\nStarting {} deployments by POST /deployments, a check every 5 s:\n", cases.len())?;
    let names = cases.iter().map(|case| case.id.len()).max().unwrap_or_default();
    for (case, scenario) in cases.iter().zip(scenarios) {
        let helm_type = helm_type(scenario.helm_type());
        writeln!(out, "  {:names$}  {helm_type:5}  {}", case.id, case.story)?;
    }
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// Shows what the deployments tell until each has ended, or time is up.
async fn watch(
    rows: &mut [Row],
    progress: &mut mpsc::UnboundedReceiver<(String, Progress)>,
    until: Instant,
) -> Result<(), DemoError> {
    let mut display = Display::new(rows, "deployment");
    let mut frames = interval(FRAME);
    while rows.iter().any(|row| row.status() == Status::Pending) {
        tokio::select! {
            told = progress.recv() => {
                let Some((name, progress)) = told else { break };
                if let Some(row) = rows.iter_mut().find(|row| row.name == name)
                    && row.take(progress, Timestamp::now())
                {
                    display.changed(row)?;
                }
            }
            _ = frames.tick() => display.draw(rows),
            () = sleep_until(until) => break,
        }
    }
    display.close()?;
    Ok(())
}

fn conclude(cases: &[Case], rows: &[Row], took: Duration) -> Result<bool, DemoError> {
    let judged: Vec<_> = rows.iter().zip(cases).map(|(row, case)| (row, case.expected)).collect();
    let met = judged.iter().filter(|(row, expected)| expected.is_met_by(row)).count();
    let mut out = io::stdout();
    writeln!(out, "{}", table(&judged, columns().saturating_sub(1)))?;
    let sentence = format!("{met} of {} verdicts as expected, in {} s.", judged.len(), took.as_secs());
    let all = met == judged.len();
    writeln!(out, "{}", if all { style(sentence).green() } else { style(sentence).red() })?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The data file that the golden tests ask, too: the demo must not expect anything else.
    #[test]
    fn what_is_expected_is_what_the_golden_tests_expect() {
        let golden: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/verdicts.json")).unwrap();
        for case in cases() {
            let verdict = &golden.as_array().unwrap().iter().find(|it| it["recording"] == case.recording);
            let verdict =
                &verdict.unwrap_or_else(|| panic!("{} is not judged there", case.recording))["verdict"];
            assert_eq!(verdict["status"], case.expected.status.as_str(), "{}", case.id);
            assert_eq!(verdict["reason"], case.expected.reason.as_str(), "{}", case.id);
            let last_reason = case.expected.last_reason.map(Reason::as_str);
            assert_eq!(verdict["lastReason"].as_str(), last_reason, "{}", case.id);
            let between_writes = case.expected.between_writes.map(Reason::as_str);
            assert_eq!(verdict["betweenWrites"].as_str(), between_writes, "{}", case.id);
        }
    }

    #[test]
    fn every_case_can_be_played_and_asked() {
        let cases = cases();
        let scenarios = scenarios(&cases).unwrap();
        let releases: HashSet<_> = cases.iter().map(|case| (case.id, case.release)).collect();
        assert_eq!(releases.len(), cases.len());
        let now = Timestamp::now();
        for (case, scenario) in cases.iter().zip(&scenarios) {
            let body = body(case, scenario.helm_type(), now);
            let request = monitor::request::parse_start(&body, "another", now).unwrap();
            assert_eq!(request.deployment_id, case.id);
            // Its end, the second until the push's own, and a check after it.
            let end = case.push_in_secs as i64 * 1000 + scenario.ends_after_push_ms() + 1_000 + 2 * 5_000;
            assert!(end < LIMIT.as_millis() as i64, "{} ends after {end} ms", case.id);
        }
    }
}
