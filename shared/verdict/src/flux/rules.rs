//! The rows of the verdict over one HelmRelease. The first that matches decides.
//!
//! Words: `gen` is `metadata.generation`, `obs` `status.observedGeneration`,
//! `lag` `status.lastAttemptedGeneration`, `lar` `status.lastAttemptedRevision`;
//! the *head* is the history entry with the highest version.
//!
//! Three facts of helm-controller 1.6 carry the rules. A condition's own
//! `observedGeneration` is stamped with the object's current generation even when
//! the attempt before the push ends after it, so only `obs` and `lag` tell what
//! was tried. A status update is two writes, conditions first, so a look can fall
//! between. And Ready keeps its old value while a reconcile starts.

use jiff::{SignedDuration, Timestamp};

use crate::{
    Baseline, Evidence, FailOn, FluxBaseline, HelmRelease, Memory, Observed, Question, Reason, Status,
    TargetState,
    decide::{ClusterClock, Next, count, object},
    expectation::{Versions, expected, met, missing_value, overtaken, running},
    flux::object::{Condition, HistoryEntry},
    text::{cut, said},
    version,
};

/// Attempts that died before Helm stored anything (templates, schema, values)
/// never make an object Stalled; after so many of them it is called failing. With
/// the controller's back-off that is some minutes of trying.
const UNSTORED_ATTEMPTS: i64 = 8;
/// A remediation that fails is repeated without end.
const UNSTORED_REMEDIATIONS: i64 = 2;
/// The strategy RetryOnFailure never gives up.
const RETRIES_ON_FAILURE: i64 = 3;
/// Polls running on which an object is gone before it counts.
const GONE: u32 = 3;
/// Polls running on which Ready=False must be seen where nothing else tells that it is final.
const NOT_READY: u32 = 2;
/// Polls running on which the same generation and release must be seen where
/// nothing was expected: one push can change two objects, and settle twice.
const SETTLED: u32 = 2;
/// Ready's reason where something newer broke off the health checks: a new reconcile follows.
const HEALTH_CHECK_CANCELED: &str = "HealthCheckCanceled";
/// `spec.timeout` where it is absent (helm-controller `HelmRelease.GetTimeout`).
const FLUX_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

pub(crate) fn decide(
    question: &Question<'_>,
    before: &TargetState,
    at: Timestamp,
    clock: ClusterClock,
    seen: Option<&HelmRelease>,
) -> Next {
    let mut memory = before.memory.clone();
    memory.refusals = None;
    let Some(seen) = seen else {
        return absent(question, before, at, memory);
    };
    let first = before.baseline.is_none();
    let baseline = match &before.baseline {
        Some(baseline @ (Baseline::HelmRelease(_) | Baseline::HelmReleaseAbsent)) => baseline.clone(),
        Some(Baseline::Releases(_)) | None => Baseline::HelmRelease(Box::new(seen.baseline())),
    };
    memory.seen = true;
    let facts = Facts::new(question, &baseline, memory.news, clock, seen);
    memory.news = facts.news;
    facts.remember_met(&mut memory);
    memory.hint = facts.hint();
    let mut streak = memory.streak.take();
    let (verdict, counted) = facts.rows(&memory, &mut streak, at);
    // What was not seen on this poll was not seen on polls running.
    memory.streak = if counted { streak } else { None };
    Next {
        status: verdict.status,
        reason: verdict.reason,
        evidence: verdict.evidence,
        message: verdict.message,
        observed: facts.observed(),
        notes: if first { facts.notes(verdict.status) } else { Vec::new() },
        baseline: Some(baseline),
        memory,
    }
}

/// T1: the API server says that there is no such object.
fn absent(question: &Question<'_>, before: &TargetState, at: Timestamp, mut memory: Memory) -> Next {
    let name = object(question);
    let mut next = Next {
        status: Status::Pending,
        reason: Reason::NotFound,
        evidence: None,
        message: format!("there is no {name} yet"),
        observed: before.observed.clone(),
        baseline: Some(before.baseline.clone().unwrap_or(Baseline::HelmReleaseAbsent)),
        memory: Memory::default(),
        notes: Vec::new(),
    };
    if memory.seen {
        next.message = format!("{name} is gone");
        if count(&mut memory.streak, "gone", at) >= GONE {
            next.status = Status::Failed;
            next.reason = Reason::Removed;
            next.evidence = Some(Evidence::Changed);
            next.message = format!("{name} was removed");
        }
    } else {
        memory.streak = None;
        memory.hint = Some(
            "the HelmRelease was never created: look at the Kustomization that should apply it".to_owned(),
        );
    }
    next.memory = memory;
    next
}

#[derive(Debug)]
struct Verdict {
    status: Status,
    reason: Reason,
    evidence: Option<Evidence>,
    message: String,
}

fn pending(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict { status: Status::Pending, reason, evidence: None, message: message.into() }
}

fn succeeded(reason: Reason, evidence: Evidence, message: impl Into<String>) -> Verdict {
    Verdict { status: Status::Succeeded, reason, evidence: Some(evidence), message: message.into() }
}

/// What one look tells, once against the baseline.
struct Facts<'a> {
    question: &'a Question<'a>,
    seen: &'a HelmRelease,
    baseline: Option<&'a FluxBaseline>,
    name: String,
    head: Option<&'a HistoryEntry>,
    ready: Option<&'a Condition>,
    released: Option<&'a Condition>,
    reconciling: Option<&'a Condition>,
    /// Something was tried that had not been tried at the baseline.
    attempt: bool,
    /// Something happened after the push.
    news: bool,
    /// What runs was released after the push, by the cluster's clock.
    released_since: bool,
}

impl<'a> Facts<'a> {
    fn new(
        question: &'a Question<'a>,
        baseline: &'a Baseline,
        known_news: bool,
        clock: ClusterClock,
        seen: &'a HelmRelease,
    ) -> Self {
        let baseline = match baseline {
            Baseline::HelmRelease(baseline) => Some(baseline.as_ref()),
            Baseline::HelmReleaseAbsent | Baseline::Releases(_) => None,
        };
        let head = seen.head();
        let released_since = clock.not_before_push(question, head.and_then(|h| h.last_deployed));
        let (attempt, news) = baseline.map_or((true, true), |b| {
            let attempt = attempted(b, seen);
            let moved =
                matches!((seen.metadata.generation, b.generation), (Some(now), Some(then)) if now > then);
            let same_generation = seen.metadata.generation == b.generation;
            let written = clock.not_before_push(question, b.spec_written_at);
            // The push was quicker than the first look, and left the spec alone: a
            // new chart in a range, from Git or OCI.
            let released = same_generation
                && !attempt
                && b.failures == 0
                && released_since
                && began_since(question, b, clock, seen);
            (attempt, known_news || attempt || moved || written || released)
        });
        Self {
            question,
            seen,
            baseline,
            name: object(question),
            head,
            ready: seen.condition("Ready"),
            released: seen.condition("Released"),
            reconciling: seen.condition("Reconciling"),
            attempt,
            news,
            released_since,
        }
    }

    /// News, or lent by `allowUnchanged`.
    fn counts(&self) -> bool {
        self.news || self.question.allow_unchanged
    }

    fn is(condition: Option<&Condition>, status: &str) -> bool {
        condition.is_some_and(|c| c.status == status)
    }

    /// A field that is absent is not held against the object.
    fn tried_this_spec(&self) -> bool {
        agree(self.seen.status.last_attempted_generation, self.seen.metadata.generation)
    }

    fn observed_this_spec(&self) -> bool {
        agree(self.seen.status.observed_generation, self.seen.metadata.generation)
    }

    fn generation(&self) -> i64 {
        self.seen.metadata.generation.unwrap_or(0)
    }

    fn failures(&self) -> i64 {
        self.seen.status.failures.unwrap_or(0)
    }

    /// Failed attempts that died before Helm stored anything.
    fn unstored_failures(&self) -> i64 {
        let status = &self.seen.status;
        self.failures()
            .saturating_sub(status.install_failures.unwrap_or(0))
            .saturating_sub(status.upgrade_failures.unwrap_or(0))
    }

    /// Where another version than the expected one was tried, its failure is another push's.
    fn others_attempt(&self) -> Option<&str> {
        let expected = self.question.expect.chart_version.as_deref()?;
        let tried = self.seen.status.last_attempted_revision.as_deref()?;
        (!version::meets(expected, tried)).then_some(tried)
    }

    fn is_new(&self, head: &HistoryEntry) -> bool {
        self.baseline.is_none_or(|b| !b.history.contains(&head.id()))
    }

    fn meets(&self, head: &HistoryEntry) -> bool {
        met(self.question.expect, versions(head), self.seen.spec.values.as_ref())
    }

    /// What runs, where the controller has recorded what it tried last: between
    /// its two writes the history is still the old one.
    fn recorded(&self) -> Option<&'a HistoryEntry> {
        self.head.filter(|h| {
            let tried = (&h.chart_version, &self.seen.status.last_attempted_revision);
            h.status == "deployed" && !matches!(tried, (Some(c), Some(t)) if !version::identical(c, t))
        })
    }

    /// Keeps the release that met the expectation while Ready, for the case
    /// that something newer supersedes it before the controller says the last word.
    fn remember_met(&self, memory: &mut Memory) {
        if let Some(head) = self.head
            && !self.question.expect.is_empty()
            && !self.question.allow_unchanged
            && Self::is(self.ready, "True")
            && head.status == "deployed"
            && self.is_new(head)
            && self.meets(head)
        {
            memory.met = Some(head.id());
        }
    }

    fn observed(&self) -> Observed {
        Observed {
            revision: self.head.map(|h| h.version),
            chart_version: self.head.and_then(|h| h.chart_version.clone()),
            app_version: self.head.and_then(|h| h.app_version.clone()),
            condition: self.ready.map(|c| c.reason.clone()),
        }
    }

    fn failed(&self, reason: Reason, message: impl Into<String>) -> Verdict {
        let evidence = if self.news { Evidence::Changed } else { Evidence::Unchanged };
        Verdict { status: Status::Failed, reason, evidence: Some(evidence), message: message.into() }
    }

    /// A failure, unless it is another push's.
    fn failed_here(&self, reason: Reason, message: impl Into<String>) -> Verdict {
        let message = message.into();
        match (self.others_attempt(), self.question.expect.chart_version.as_deref()) {
            (Some(tried), Some(expected)) => pending(
                Reason::OtherVersion,
                format!("{}: chart {tried} failed, not {expected} which is awaited: {message}", self.name),
            ),
            _ => self.failed(reason, message),
        }
    }

    /// The words on a failure: Released has the error itself where Ready speaks
    /// of the remediation already.
    fn failure_text(&self) -> String {
        let ready = said(self.ready.map_or("", |c| c.message.as_str()));
        match self.released.filter(|c| c.status == "False").map(|c| said(&c.message)) {
            Some(released) if !ready.is_empty() && released != ready => {
                format!("{}: {}; {}", self.name, cut(released, 400), cut(ready, 250))
            }
            Some(released) => format!("{}: {released}", self.name),
            None => format!("{}: {ready}", self.name),
        }
    }

    fn ready_text(&self) -> String {
        let words = self.ready.map_or("no Ready condition yet", |c| c.message.as_str());
        format!("{}: {}", self.name, said(words))
    }

    /// Pending with what Ready says, where that is a refusal.
    fn waiting_on_ready(&self) -> Verdict {
        pending(self.ready.map_or(Reason::NotReady, |c| mapped(&c.reason)), self.ready_text())
    }

    /// T2 to T16. The flag says whether this look was one of polls running.
    fn rows(&self, memory: &Memory, streak: &mut Option<crate::Streak>, at: Timestamp) -> (Verdict, bool) {
        let deleting = self.seen.metadata.deletion_timestamp.is_some();
        if deleting {
            return (self.row_deleted(), false);
        }
        // What has run already is not waited for, whatever the object asks for since.
        let not_pushed = if memory.met.is_some() { None } else { self.row_not_pushed() };
        if let Some(verdict) = not_pushed.or_else(|| self.row_suspended()) {
            return (verdict, false);
        }
        if let Some(verdict) = self.row_keeps_failing().or_else(|| self.row_first_failure()) {
            return (verdict, false);
        }
        if !self.observed_this_spec() {
            return (self.row_not_observed(), false);
        }
        if Self::is(self.reconciling, "True") {
            return (self.row_reconciling(), false);
        }
        if Self::is(self.seen.condition("Stalled"), "True") {
            return (self.row_stalled(), false);
        }
        if Self::is(self.ready, "False") {
            // T9
            let cancelled = self.ready.is_some_and(|c| c.reason == HEALTH_CHECK_CANCELED);
            if !self.tried_this_spec() || !self.counts() || cancelled {
                return (self.waiting_on_ready(), false);
            }
            let verdict = self
                .failed_here(self.ready.map_or(Reason::NotReady, |c| mapped(&c.reason)), self.failure_text());
            if verdict.status == Status::Pending {
                return (verdict, false);
            }
            // Another generation's attempt is no second look at this one's.
            let what = format!("not ready gen {}", self.generation());
            if count(streak, &what, at) >= NOT_READY {
                return (verdict, true);
            }
            return (self.waiting_on_ready(), true);
        }
        // T10, T11
        if !Self::is(self.ready, "True") || !self.tried_this_spec() {
            return (pending(Reason::Progressing, self.ready_text()), false);
        }
        // T12: a look between two writes.
        let Some(head) = self.recorded() else {
            let message = format!("{}: Ready, but the release is not recorded yet", self.name);
            return (pending(Reason::Progressing, message), false);
        };
        if !self.question.expect.is_empty() {
            let verdict = if self.meets(head) { self.row_met(head) } else { self.row_not_met(head, memory) };
            return (verdict, false);
        }
        if !self.counts() {
            return (self.row_unchanged(head), false);
        }
        // T15
        let what = format!(
            "settled gen {} {} v{} {}",
            self.generation(),
            head.name,
            head.version,
            head.last_deployed.map_or(0, Timestamp::as_second),
        );
        let polls = count(streak, &what, at);
        if polls >= SETTLED || self.question.allow_unchanged {
            let evidence = if self.news { Evidence::Changed } else { Evidence::Unchanged };
            return (self.success(head, evidence), true);
        }
        let message = format!("{}: settled, confirming with one more look", self.ready_text());
        (pending(Reason::Progressing, message), true)
    }

    /// T2: the object is being deleted.
    fn row_deleted(&self) -> Verdict {
        let there_before = self
            .baseline
            .is_some_and(|b| b.deleting && agree(b.uid.as_deref(), self.seen.metadata.uid.as_deref()));
        if there_before {
            pending(Reason::BeingRemoved, format!("{} was being deleted before the push already", self.name))
        } else {
            Verdict {
                status: Status::Failed,
                reason: Reason::Removed,
                evidence: Some(Evidence::Changed),
                message: format!("{} is being deleted", self.name),
            }
        }
    }

    /// T3: the object does not even ask for what the push should bring.
    fn row_not_pushed(&self) -> Option<Verdict> {
        let expect = self.question.expect;
        let spec = &self.seen.spec;
        if let Some((pointer, found)) = missing_value(expect, spec.values.as_ref()) {
            let why = if !found && !spec.values_from.is_empty() {
                format!(
                    "the value at {pointer} can't be seen: it is not in spec.values, and spec.valuesFrom is set"
                )
            } else if found {
                format!(
                    "the push has not reached the cluster: the value at {pointer} is not the expected one"
                )
            } else {
                format!("the push has not reached the cluster: there is no value at {pointer}")
            };
            return Some(pending(Reason::WaitingForChange, format!("{}: {why}", self.name)));
        }
        let expected = expect.chart_version.as_deref()?;
        let chart = &spec.chart.spec;
        let asked = chart.version.as_deref()?;
        let other =
            chart.source_ref.kind.as_deref() == Some("HelmRepository") && version::differ(expected, asked);
        other.then(|| {
            let why = if version::newer(asked, expected) == Some(true) {
                "a newer push may have come before it"
            } else {
                "the push has not reached the cluster"
            };
            pending(
                Reason::WaitingForChange,
                format!("{} asks for chart {asked}, not {expected}: {why}", self.name),
            )
        })
    }

    /// T4: suspended.
    fn row_suspended(&self) -> Option<Verdict> {
        if !self.seen.spec.suspend {
            return None;
        }
        let waiting = || {
            pending(
                Reason::Suspended,
                format!("{} is suspended: Flux does nothing with it until it is resumed", self.name),
            )
        };
        if !self.observed_this_spec() {
            return Some(waiting());
        }
        if self.attempt && Self::is(self.ready, "False") {
            let reason = self.ready.map_or(Reason::NotReady, |c| mapped(&c.reason));
            return Some(self.failed(reason, format!("{}; suspended now", self.failure_text())));
        }
        if self.attempt
            && Self::is(self.ready, "True")
            && let Some(head) = self.recorded()
            && self.meets(head)
        {
            let evidence =
                if self.question.expect.is_empty() { Evidence::Changed } else { Evidence::Expected };
            let mut verdict = self.success(head, evidence);
            verdict.message.push_str("; suspended now");
            return Some(verdict);
        }
        // An object that was never tried is not deployed, so `allowUnchanged`
        // lends news here, but no attempt.
        if self.counts() && !self.attempt {
            return Some(self.failed(
                Reason::Suspended,
                format!("{} is suspended: what was pushed will not be tried until it is resumed", self.name),
            ));
        }
        Some(waiting())
    }

    /// T5: what fails again and again without ever becoming Stalled.
    fn row_keeps_failing(&self) -> Option<Verdict> {
        let ready = self.ready.filter(|c| c.status == "False")?;
        if !self.tried_this_spec() || !self.counts() {
            return None;
        }
        let unstored = self.unstored_failures();
        let remediating = matches!(ready.reason.as_str(), "RollbackFailed" | "UninstallFailed");
        let retrying = self.reconciling.is_some_and(|c| c.message.starts_with("retrying after"));
        let keeps_failing = unstored >= UNSTORED_ATTEMPTS
            || (remediating && unstored >= UNSTORED_REMEDIATIONS)
            || (retrying && self.failures() >= RETRIES_ON_FAILURE);
        keeps_failing.then(|| {
            let message =
                format!("{} (failed {} times; Flux will go on trying)", self.failure_text(), self.failures());
            self.failed_here(Reason::KeepsFailing, message)
        })
    }

    /// T5a: `failOn: first`.
    fn row_first_failure(&self) -> Option<Verdict> {
        if self.question.fail_on != FailOn::First || !self.tried_this_spec() || !self.counts() {
            return None;
        }
        let failed = [self.released, self.seen.condition("TestSuccess")]
            .into_iter()
            .flatten()
            .find(|c| c.status == "False")?;
        let failures_before = self.baseline.filter(|b| self.is_same_attempt(b)).map_or(0, |b| b.failures);
        (self.failures() > failures_before).then(|| {
            self.failed_here(mapped(&failed.reason), format!("{}: {}", self.name, said(&failed.message)))
        })
    }

    fn is_same_attempt(&self, b: &FluxBaseline) -> bool {
        self.seen.metadata.generation == b.generation
            && self.seen.status.last_attempted_revision == b.last_attempted_revision
            && self.seen.status.last_attempted_config_digest == b.last_attempted_config_digest
    }

    /// T6: whatever Ready says belongs to the old spec, unless this one was tried.
    fn row_not_observed(&self) -> Verdict {
        let refused = self.ready.filter(|c| c.status == "False");
        if self.tried_this_spec() {
            return match refused {
                Some(_) => self.waiting_on_ready(),
                None => pending(Reason::Progressing, self.ready_text()),
            };
        }
        // What an attempt waits for is told before it begins; every other word is
        // the old attempt's. Pending either way, so quoting it can't mislead.
        let prerequisite = |c: &&Condition| {
            Self::is(self.reconciling, "True")
                && matches!(
                    mapped(&c.reason),
                    Reason::DependencyNotReady
                        | Reason::SourceNotReady
                        | Reason::ArtifactFailed
                        | Reason::ValuesError
                        | Reason::AccessDenied
                        | Reason::InvalidSpec
                )
        };
        match refused.filter(prerequisite) {
            Some(ready) => pending(
                mapped(&ready.reason),
                format!(
                    "{}: generation {} is not tried yet; {}",
                    self.name,
                    self.generation(),
                    said(&ready.message)
                ),
            ),
            None => pending(
                Reason::Progressing,
                format!("{}: generation {} is not picked up yet", self.name, self.generation()),
            ),
        }
    }

    /// T7: at work; a retry shows what fails.
    fn row_reconciling(&self) -> Verdict {
        if Self::is(self.ready, "False") {
            return self.waiting_on_ready();
        }
        let words = self.reconciling.map_or("", |c| c.message.as_str());
        pending(Reason::Progressing, format!("{}: {}", self.name, said(words)))
    }

    /// T8: the controller has given up.
    fn row_stalled(&self) -> Verdict {
        let stalled = self.seen.condition("Stalled");
        let reason = self.ready.or(stalled).map_or("", |c| c.reason.as_str());
        if reason == HEALTH_CHECK_CANCELED {
            return pending(Reason::HealthCheckCanceled, self.ready_text());
        }
        let text = match (self.ready, stalled) {
            (None, Some(stalled)) => format!("{}: {}", self.name, said(&stalled.message)),
            _ => self.failure_text(),
        };
        if self.counts() {
            return self.failed_here(mapped(reason), text);
        }
        pending(
            Reason::WaitingForChange,
            format!("nothing has changed since the push, and an earlier failure still stands: {text}"),
        )
    }

    /// T13: another release runs than the one expected.
    fn row_not_met(&self, head: &HistoryEntry, memory: &Memory) -> Verdict {
        let expect = self.question.expect;
        let running = running(expect, versions(head));
        let ran = memory.met.as_ref().filter(|met| **met != head.id()).filter(|met| {
            let entry = self.seen.status.history.iter().find(|h| h.id() == **met);
            // Trimmed from the history it can only have been superseded.
            entry.is_none_or(|h| h.status == "superseded")
        });
        if let Some(ran) = ran {
            return succeeded(
                Reason::Superseded,
                Evidence::Expected,
                format!(
                    "{}: revision {} was deployed as expected; revision {} ({running}) has superseded it since",
                    self.name, ran.version, head.version
                ),
            );
        }
        let expected = expected(expect);
        let before = self
            .baseline
            .map(|b| Versions { chart: b.chart_version.as_deref(), app: b.app_version.as_deref() });
        if self.is_new(head) && before.is_some_and(|before| overtaken(expect, versions(head), before)) {
            return self.failed(
                Reason::Superseded,
                format!("{}: {running} came before {expected} could run", self.name),
            );
        }
        pending(Reason::OtherVersion, format!("{}: {running} runs, {expected} is awaited", self.name))
    }

    /// T14: what was expected runs.
    fn row_met(&self, head: &HistoryEntry) -> Verdict {
        let expect = self.question.expect;
        let differs = |expected: &Option<String>, then: &Option<String>| {
            expected.as_ref().zip(then.as_ref()).is_some_and(|(e, t)| !version::meets(e, t))
        };
        let new_version = self.baseline.is_some_and(|b| {
            differs(&expect.chart_version, &b.chart_version) || differs(&expect.app_version, &b.app_version)
        });
        if self.counts() || new_version {
            return self.success(head, Evidence::Expected);
        }
        pending(
            Reason::WaitingForChange,
            format!(
                "{}: {} ran before the push already; nothing has changed since",
                self.name,
                expected(expect)
            ),
        )
    }

    /// T16: nothing happened since the push.
    fn row_unchanged(&self, head: &HistoryEntry) -> Verdict {
        pending(
            Reason::WaitingForChange,
            format!(
                "{}: nothing has changed since the push; revision {} with chart {} (generation {}) still runs",
                self.name,
                head.version,
                head.chart_version.as_deref().unwrap_or("of unknown version"),
                self.generation(),
            ),
        )
    }

    fn success(&self, head: &HistoryEntry, evidence: Evidence) -> Verdict {
        let reason = match self.ready.map_or("", |c| c.reason.as_str()) {
            "InstallSucceeded" => Reason::InstallSucceeded,
            "UpgradeSucceeded" => Reason::UpgradeSucceeded,
            "TestSucceeded" => Reason::TestSucceeded,
            _ => Reason::Deployed,
        };
        let mut message = self.ready_text();
        if !self.news && self.question.allow_unchanged {
            message.push_str("; it was already there before the push");
        } else if !self.is_new(head) && !self.released_since {
            message.push_str("; the change needed no new release");
        }
        succeeded(reason, evidence, message)
    }

    /// The likely cause, told at the deadline.
    fn hint(&self) -> Option<String> {
        let mut hints = Vec::new();
        let labels = &self.seen.metadata.labels;
        let unobserved = matches!(
            (self.seen.status.observed_generation, self.seen.metadata.generation),
            (Some(observed), Some(generation)) if observed < generation
        );
        if !self.news {
            let kustomization = match (&labels.kustomization, &labels.kustomization_namespace) {
                (Some(name), Some(namespace)) => format!("Kustomization {namespace}/{name}"),
                (Some(name), None) => format!("Kustomization {name}"),
                _ => "Kustomization that applies it".to_owned(),
            };
            hints.push(format!(
                "the HelmRelease never changed: look at the {kustomization}, or the push kept the chart version"
            ));
        } else if unobserved && !Self::is(self.reconciling, "True") {
            hints.push("the controller did not pick it up: look at helm-controller's log".to_owned());
        }
        hints.extend(self.impatience());
        (!hints.is_empty()).then(|| hints.join("; "))
    }

    /// Said where the deadline is shorter than Flux's own patience.
    fn impatience(&self) -> Option<String> {
        let spec = &self.seen.spec;
        let timeout = spec.timeout.as_deref().and_then(|t| t.parse().ok()).unwrap_or(FLUX_PATIENCE);
        let action = if self.head.is_some() { &spec.upgrade } else { &spec.install };
        let retries = action.remediation.retries.unwrap_or(0);
        let patience =
            u32::try_from(retries).ok().map(|r| timeout.as_secs().saturating_mul(i64::from(r) + 1));
        let allowed = self.question.timeout_secs;
        match patience {
            Some(secs) if secs <= i64::from(allowed) => None,
            Some(secs) => Some(format!(
                "the deadline of {allowed} s is shorter than Flux's own patience of {secs} s (spec.timeout × attempts)"
            )),
            None => Some(format!(
                "Flux retries without end here (remediation.retries is negative), longer than the deadline of {allowed} s"
            )),
        }
    }

    /// Said once, in the first answer.
    fn notes(&self, status: Status) -> Vec<String> {
        let mut notes: Vec<String> = self.impatience().into_iter().collect();
        let settled = status == Status::Pending
            && self.observed_this_spec()
            && !Self::is(self.reconciling, "True")
            && Self::is(self.ready, "True");
        if self.question.pushed_at.is_none() && settled {
            notes.push(
                "pushedAt is missing: if the cluster was quicker than this first look, the push can't be told \
                 from what was there before"
                    .to_owned(),
            );
        }
        notes
    }
}

fn versions(head: &HistoryEntry) -> Versions<'_> {
    Versions { chart: head.chart_version.as_deref(), app: head.app_version.as_deref() }
}

/// Whether every attempt since the baseline began after the push. One that was
/// under way before may have failed since, and what is released now be its
/// retry: an old push's. The counters stay through a success, so each failure that
/// they tell of must be seen in the history.
fn began_since(question: &Question<'_>, b: &FluxBaseline, clock: ClusterClock, seen: &HelmRelease) -> bool {
    let status = &seen.status;
    let stored = status.install_failures.unwrap_or(0).saturating_add(status.upgrade_failures.unwrap_or(0));
    let failures = status.failures.unwrap_or(0);
    let new = || status.history.iter().filter(|h| !b.history.contains(&h.id()));
    failures <= stored
        && usize::try_from(failures).unwrap_or(0) <= new().filter(|h| h.status == "failed").count()
        && new().all(|h| clock.not_before_push(question, h.last_deployed))
}

/// Whether something was tried since the baseline. What is absent now is no
/// evidence; nor is a field that appears, unless nothing at all had been tried.
fn attempted(b: &FluxBaseline, seen: &HelmRelease) -> bool {
    let untried = b.last_attempted_revision.is_none()
        && b.last_attempted_config_digest.is_none()
        && b.last_attempted_revision_digest.is_none();
    let differs = |now: &Option<String>, then: &Option<String>| {
        now.is_some() && now != then && (then.is_some() || untried)
    };
    (b.uid.is_some() && differs(&seen.metadata.uid, &b.uid))
        || differs(&seen.status.last_attempted_revision, &b.last_attempted_revision)
        || differs(&seen.status.last_attempted_config_digest, &b.last_attempted_config_digest)
        || differs(&seen.status.last_attempted_revision_digest, &b.last_attempted_revision_digest)
}

/// Whether two fields agree; one that is absent is not held against the object.
fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// Flux's word for a refusal in ours (helm-controller `api/v2/condition_types.go`
/// and `internal/controller`, Flux `apis/meta/conditions.go`). A remediation is told by what failed first.
fn mapped(reason: &str) -> Reason {
    match reason {
        "InstallFailed" => Reason::InstallFailed,
        "UpgradeFailed" => Reason::UpgradeFailed,
        "TestFailed" => Reason::TestFailed,
        "RollbackSucceeded" | "RollbackFailed" => Reason::RolledBack,
        "UninstallSucceeded" | "UninstallFailed" => Reason::Uninstalled,
        "ArtifactFailed" => Reason::ArtifactFailed,
        "SourceNotReady" => Reason::SourceNotReady,
        "DependencyNotReady" => Reason::DependencyNotReady,
        "ValuesError" => Reason::ValuesError,
        "DriftDetected" => Reason::DriftDetected,
        "AccessDenied" => Reason::AccessDenied,
        "InvalidCELExpression" | "InvalidSpec" => Reason::InvalidSpec,
        HEALTH_CHECK_CANCELED => Reason::HealthCheckCanceled,
        "Suspended" => Reason::Suspended,
        _ => Reason::NotReady,
    }
}
