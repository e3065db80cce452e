//! From the moment when the cluster first shows the end to the moment when we say
//! it, over all recordings, in virtual time.
//!
//! The end is shown by the first answer that, stayed it for ever, would bring the
//! verdict that polling the whole recording brings.

use std::{collections::BTreeMap, fs, io::Read as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize as _;
use serde_json::Value;
use testkit::Scenario;
use verdict::{
    AskError, AskErrorKind, Decision, Expect, FailOn, HelmRelease, HelmType, Look, Payload, Question, Reason,
    ReleaseStatus, Releases, Revision, Seen, Status, TargetState, decide,
};

use crate::{
    table::{Row, Sample, Table, Unit},
    world::{fixtures, scenario},
};

/// Between two polls, in milliseconds.
const PERIOD: i64 = 5_000;
/// The polls fall at so many places within a period.
const PHASES: i64 = 50;
const TIMEOUT_SECS: u32 = 120;

pub(crate) fn measure(table: &mut Table) {
    table.heading("Time to verdict, from when the cluster shows the end; a period is 5 s");
    let mut found: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for case in recordings() {
        for with_expect in [true, false] {
            let watch = Watch::new(&case, with_expect);
            for (status, delay) in watch.delays() {
                let what = match status {
                    (Status::Succeeded, _) => "succeeded",
                    (_, Reason::Timeout) => "timed out, from the deadline",
                    _ => "failed",
                };
                let how = if with_expect { "with `expect`" } else { "without `expect`" };
                found.entry((what, how)).or_default().push(delay as f64 / 1000.0);
            }
        }
    }
    for ((what, how), delays) in found {
        let row = row(&format!("{what}, {how}"), &delays);
        table.add(match (what, how) {
            ("succeeded", "without `expect`") | ("failed", _) => row.worst_at_most(10.0, "≤ 2 periods"),
            _ => row.worst_at_most(5.0, "≤ 1 period"),
        });
    }
    let row = row("the cluster refuses the token from then on", &refused());
    table.add(row.worst_at_most(15.0, "≤ 3 periods"));
}

/// With the distribution.
fn row(what: &str, delays: &[f64]) -> Row {
    let within = |periods: f64| {
        let count = delays.iter().filter(|it| **it <= periods * 5.0).count();
        count * 100 / delays.len()
    };
    let what = format!("{what} ({} % within 1 period, {} % within 2)", within(1.0), within(2.0));
    Row::new(what, &Sample::of(Unit::Seconds, delays.iter().copied()))
}

/// All recordings that have a verdict written down, each once.
fn recordings() -> Vec<Scenario> {
    let cases = fs::read(fixtures().join("verdicts.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    let mut names: Vec<_> = cases.iter().map(|it| it["recording"].as_str().unwrap()).collect();
    names.dedup();
    names.into_iter().map(scenario).collect()
}

/// One way of asking about one recording.
struct Watch {
    helm_type: HelmType,
    release: String,
    expect: Expect,
    push: Timestamp,
    answers: Vec<(i64, Shown)>,
}

/// What an answer is, read.
struct Shown {
    object: Option<Box<HelmRelease>>,
    revisions: Vec<(Revision, Option<Payload>)>,
}

impl Watch {
    fn new(scenario: &Scenario, with_expect: bool) -> Self {
        let helm_type = scenario.helm_type();
        let answers: Vec<_> =
            scenario.answers().map(|(at, objects)| (at, Shown::read(helm_type, &objects))).collect();
        let chart_version = pushed_chart(&answers).filter(|_| with_expect);
        Self {
            helm_type,
            release: scenario.release().to_owned(),
            expect: Expect { chart_version, ..Expect::default() },
            push: scenario.pushed_at(),
            answers,
        }
    }

    /// What was said, and how long after the end was shown, for each phase.
    fn delays(&self) -> Vec<((Status, Reason), i64)> {
        let mut all = Vec::new();
        for phase in 0..PHASES {
            // The first look is before the push, as where the execution is started before it.
            let first = phase * PERIOD / PHASES - PERIOD;
            let (mut state, mut at) = (self.first_state(first), first);
            while !state.status.is_terminal() {
                state = self.look(first, &state, at, self.shown(at));
                at += PERIOD;
            }
            let (said, said_at) = ((state.status, state.reason), at - PERIOD);
            let end = match said.1 {
                Reason::Timeout => first + i64::from(TIMEOUT_SECS) * 1000,
                _ => self.end(first, said),
            };
            all.push((said, said_at - end));
        }
        all
    }

    fn first_state(&self, first: i64) -> TargetState {
        TargetState::new(self.time(first))
    }

    fn time(&self, after_push: i64) -> Timestamp {
        self.push + SignedDuration::from_millis(after_push)
    }

    fn shown(&self, at: i64) -> &Shown {
        let shown = self.answers.iter().rev().find(|(from, _)| *from <= at);
        &shown.unwrap_or(&self.answers[0]).1
    }

    /// From when on the cluster shows what this verdict rests on.
    fn end(&self, first: i64, said: (Status, Reason)) -> i64 {
        let before = self.look(first, &self.first_state(first), first, self.shown(first));
        let ends = self.answers.iter().filter(|(from, _)| *from > first).find(|(from, shown)| {
            let mut state = before.clone();
            for poll in 0..4 {
                state = self.look(first, &state, from + poll * PERIOD, shown);
                if state.status.is_terminal() {
                    return (state.status, state.reason) == said;
                }
            }
            false
        });
        ends.unwrap_or_else(|| panic!("{}: nothing shows {said:?}", self.release)).0
    }

    fn look(&self, first: i64, before: &TargetState, at: i64, shown: &Shown) -> TargetState {
        let mut asked = Vec::new();
        for _ in 0..4 {
            match self.decide(first, before, at, shown.seen(self.helm_type, &asked)) {
                Decision::Known(state) => return *state,
                Decision::NeedsPayloads(names) => asked.extend(names),
            }
        }
        panic!("asked for payloads without end");
    }

    fn decide(&self, first: i64, before: &TargetState, at: i64, seen: Seen) -> Decision {
        let started_at = self.time(first);
        let question = Question {
            helm_type: self.helm_type,
            cluster: "prod",
            namespace: "apps",
            release: &self.release,
            expect: &self.expect,
            pushed_at: Some(self.push),
            started_at,
            deadline: started_at + SignedDuration::from_secs(TIMEOUT_SECS.into()),
            timeout_secs: TIMEOUT_SECS,
            fail_on: FailOn::Final,
            allow_unchanged: false,
        };
        let at = self.time(at);
        let cluster_date = Timestamp::from_second(at.as_second()).ok();
        decide(&question, before, &Look { at, cluster_date, seen })
    }
}

impl Shown {
    fn read(helm_type: HelmType, objects: &[&Value]) -> Self {
        if helm_type == HelmType::Flux {
            let object = objects.first().map(|it| Box::new(HelmRelease::deserialize(*it).unwrap()));
            return Self { object, revisions: Vec::new() };
        }
        let revisions = objects.iter().map(|it| (revision(it), payload(it))).collect();
        Self { object: None, revisions }
    }

    fn seen(&self, helm_type: HelmType, asked: &[String]) -> Seen {
        if helm_type == HelmType::Flux {
            return Seen::HelmRelease(self.object.clone());
        }
        let gone = || Payload::Unreadable("it is gone".to_owned());
        let fetched = self.revisions.iter().filter(|(revision, _)| asked.contains(&revision.name));
        Seen::Releases(Releases {
            revisions: self.revisions.iter().map(|it| it.0.clone()).collect(),
            payloads: fetched.map(|it| (it.0.uid.clone(), it.1.clone().unwrap_or_else(gone))).collect(),
        })
    }
}

fn revision(secret: &Value) -> Revision {
    let metadata = &secret["metadata"];
    let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    Revision {
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
        version: text(&metadata["labels"]["version"]).parse().unwrap(),
        status: ReleaseStatus::from_label(&text(&metadata["labels"]["status"])),
        created: text(&metadata["creationTimestamp"]).parse().ok(),
        by_flux: metadata["managedFields"].to_string().contains("helm-controller"),
    }
}

fn payload(secret: &Value) -> Option<Payload> {
    let packed = STANDARD.decode(STANDARD.decode(secret["data"]["release"].as_str()?).ok()?).ok()?;
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut json).ok()?;
    Some(Payload::Read(serde_json::from_slice(&json).ok()?))
}

/// The chart version that the push brought: what a caller would expect.
fn pushed_chart(answers: &[(i64, Shown)]) -> Option<String> {
    let (_, last) = answers.last()?;
    if let Some(object) = &last.object {
        return object.status.last_attempted_revision.clone();
    }
    let was = |uid: &str| answers[0].1.revisions.iter().any(|it| it.0.uid == uid);
    let new = answers.iter().flat_map(|it| &it.1.revisions).find(|it| !was(&it.0.uid))?;
    match &new.1 {
        Some(Payload::Read(release)) => release.chart.metadata.version.clone(),
        _ => None,
    }
}

/// A cluster that answered well once, and says 401 from some moment on.
fn refused() -> Vec<f64> {
    let watch = Watch::new(&scenario("flux/chart-upgrade"), false);
    let mut delays = Vec::new();
    for phase in 0..PHASES {
        let (first, moment) = (-PERIOD, phase * PERIOD / PHASES - PERIOD + 1);
        let mut state = watch.look(first, &watch.first_state(first), first, watch.shown(first));
        let mut at = first;
        while !state.status.is_terminal() {
            at += PERIOD;
            let error = AskError { kind: AskErrorKind::Unauthorized, message: "HTTP 401".to_owned() };
            match watch.decide(first, &state, at, Seen::Failed(error)) {
                Decision::Known(next) => state = *next,
                Decision::NeedsPayloads(_) => unreachable!("nothing was read"),
            }
        }
        delays.push((at - moment) as f64 / 1000.0);
    }
    delays
}
