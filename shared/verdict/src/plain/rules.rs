//! The rows of the verdict over the release secrets of one release. The first
//! that matches decides.
//!
//! What Helm 3 and 4 write, action by action, carries the rules: the old
//! `deployed` stays visible while the new revision is `pending-upgrade` and after
//! it failed; with `--atomic` (`--rollback-on-failure`) `failed` is the newest for
//! about 100 ms only, then a third revision, the *old* chart, is `deployed`; and
//! an error before the first write (templates, schema) leaves no trace at all.

use std::{cmp::Reverse, collections::HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::{
    Baseline, Evidence, KEPT_REVISIONS, Memory, Observed, Payload, PlainBaseline, Question, Reason, Release,
    ReleaseStatus, Releases, Revision, Status, TargetState,
    decide::{ClusterClock, Next, REFUSALS, count, object},
    expectation::{Versions, expected, met, overtaken, running},
    text::said,
    version,
};

/// Polls running on which what was new must be gone before it counts.
const GONE: u32 = 3;
/// A revision that is pending for longer was left by an interrupted Helm.
const LOCKED: SignedDuration = SignedDuration::from_mins(15);
/// Of how many new revisions the payloads are read at most: they are large.
const PAYLOADS: usize = 5;

pub(crate) fn decide(
    question: &Question<'_>,
    before: &TargetState,
    at: Timestamp,
    clock: ClusterClock,
    seen: &Releases,
) -> Result<Next, Vec<String>> {
    let mut revisions: Vec<&Revision> = seen.revisions.iter().collect();
    revisions.sort_by_key(|r| Reverse((r.version, r.created, &r.uid)));
    let baseline = match &before.baseline {
        Some(Baseline::Releases(baseline)) => baseline.clone(),
        _ => first_look(&revisions),
    };
    let facts = Facts::new(question, &baseline, before.memory.top.as_deref(), clock, seen, revisions);
    let mut memory = before.memory.clone();
    memory.refusals = None;
    let mut streak = memory.streak.take();
    let verdict = facts.rows(&memory, &mut streak, at)?;
    memory.streak = if verdict.counted { streak } else { None };
    memory.hint = if memory.seen { None } else { facts.hint() };
    if let Some(top) = facts.top {
        memory.seen = true;
        memory.hint = facts.hint();
        memory.top = facts.new.first().map(|r| r.uid.clone());
        let (version, status) = (top.version, top.status.as_str());
        memory.last_words = Some(match facts.read(top) {
            Some(release) => format!("revision {version} was {status}: {}", said(&release.info.description)),
            None => format!("revision {version} was {status}"),
        });
    }
    let mut notes = Vec::new();
    let settled = facts.revisions.first().is_some_and(|r| r.status == ReleaseStatus::Deployed);
    if before.baseline.is_none()
        && question.pushed_at.is_none()
        && settled
        && verdict.status == Status::Pending
    {
        notes.push(
            "pushedAt is missing: if Helm was quicker than this first look, its release can't be told from \
             what was there before"
                .to_owned(),
        );
    }
    Ok(Next {
        status: verdict.status,
        reason: verdict.reason,
        evidence: verdict.evidence,
        message: verdict.message,
        observed: facts.observed(before),
        baseline: Some(Baseline::Releases(baseline.clone())),
        memory,
        notes,
    })
}

/// What is kept of the secrets that were there first, newest first.
fn first_look(revisions: &[&Revision]) -> PlainBaseline {
    PlainBaseline {
        revisions: revisions.iter().take(KEPT_REVISIONS).map(|r| r.id()).collect(),
        truncated: revisions.len() > KEPT_REVISIONS,
    }
}

struct Verdict {
    status: Status,
    reason: Reason,
    evidence: Option<Evidence>,
    message: String,
    /// Whether this look was one of polls running.
    counted: bool,
}

fn pending(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict { status: Status::Pending, reason, evidence: None, message: message.into(), counted: false }
}

fn failed(reason: Reason, evidence: Evidence, message: impl Into<String>) -> Verdict {
    Verdict {
        status: Status::Failed,
        reason,
        evidence: Some(evidence),
        message: message.into(),
        counted: false,
    }
}

/// What one look tells, once against the baseline.
struct Facts<'a> {
    question: &'a Question<'a>,
    clock: ClusterClock,
    seen: &'a Releases,
    name: String,
    /// Newest first.
    revisions: Vec<&'a Revision>,
    /// Those that were not in the baseline, or were made after the push.
    new: Vec<&'a Revision>,
    /// Those that were not in the baseline.
    unseen: Vec<&'a Revision>,
    /// The newest of the baseline that is still there.
    old: Option<&'a Revision>,
    /// The newest of `new`, or with `allowUnchanged` of all.
    top: Option<&'a Revision>,
    evidence: Evidence,
}

impl<'a> Facts<'a> {
    fn new(
        question: &'a Question<'a>,
        baseline: &PlainBaseline,
        known_new: Option<&str>,
        clock: ClusterClock,
        seen: &'a Releases,
        revisions: Vec<&'a Revision>,
    ) -> Self {
        let known: HashSet<&str> = baseline.revisions.iter().map(|r| r.uid.as_str()).collect();
        let highest = baseline.revisions.iter().map(|r| r.version).max();
        let newest = baseline.revisions.iter().filter_map(|r| r.created).max();
        // Where the baseline was too long to be kept whole, one that is not among
        // the kept may have been there: only a higher one, or one made later, is new.
        let is_unseen = |r: &Revision| {
            !known.contains(r.uid.as_str())
                && (!baseline.truncated || Some(r.version) > highest || r.created > newest)
        };
        let is_new = |r: &Revision| {
            is_unseen(r) || known_new == Some(r.uid.as_str()) || clock.not_before_push(question, r.created)
        };
        let new: Vec<&Revision> = revisions.iter().copied().filter(|r| is_new(r)).collect();
        let unseen: Vec<&Revision> = revisions.iter().copied().filter(|r| is_unseen(r)).collect();
        let old = revisions.iter().copied().find(|r| !is_unseen(r));
        let top = if question.allow_unchanged { revisions.first() } else { new.first() }.copied();
        let evidence = match top {
            Some(top) if !new.iter().any(|r| r.uid == top.uid) => Evidence::Unchanged,
            _ => Evidence::Changed,
        };
        Self { question, clock, seen, name: object(question), revisions, new, unseen, old, top, evidence }
    }

    /// The payload, fetched: asks for it where it was not.
    fn payload(&self, revision: &Revision) -> Result<&'a Payload, Vec<String>> {
        self.seen.payloads.get(&revision.uid).ok_or_else(|| vec![revision.name.clone()])
    }

    fn payloads(&self, revisions: &[&Revision]) -> Result<(), Vec<String>> {
        let missing: Vec<String> = revisions
            .iter()
            .filter(|r| !self.seen.payloads.contains_key(&r.uid))
            .map(|r| r.name.clone())
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    fn read(&self, revision: &Revision) -> Option<&'a Release> {
        match self.seen.payloads.get(&revision.uid) {
            Some(Payload::Read(release)) => Some(release),
            _ => None,
        }
    }

    fn meets(&self, release: &Release) -> bool {
        met(self.question.expect, versions(release), release.config.as_ref())
    }

    fn observed(&self, before: &TargetState) -> Observed {
        let Some(shown) = self.top.or_else(|| self.revisions.first().copied()) else {
            return before.observed.clone();
        };
        let chart = self.read(shown).map(|r| &r.chart.metadata);
        let as_before = before.observed.revision == Some(shown.version);
        let or_before = |now: Option<String>, then: &Option<String>| {
            now.or_else(|| if as_before { then.clone() } else { None })
        };
        Observed {
            revision: Some(shown.version),
            chart_version: or_before(chart.and_then(|c| c.version.clone()), &before.observed.chart_version),
            app_version: or_before(chart.and_then(|c| c.app_version.clone()), &before.observed.app_version),
            condition: Some(shown.status.as_str().to_owned()),
        }
    }

    fn rows(
        &self,
        memory: &Memory,
        streak: &mut Option<crate::Streak>,
        at: Timestamp,
    ) -> Result<Verdict, Vec<String>> {
        // P0
        if let Some(newest) = self.revisions.first().filter(|r| r.by_flux) {
            return Ok(failed(
                Reason::UseFlux,
                self.evidence,
                format!(
                    "{}: revision {} was written by Flux's helm-controller; its retries are told by its HelmRelease \
                     alone: use helmType flux",
                    self.name, newest.version
                ),
            ));
        }
        let Some(top) = self.top else {
            return Ok(self.rows_without_news(memory, streak, at));
        };
        match top.status {
            ReleaseStatus::Failed => self.row_failed(top),
            ReleaseStatus::PendingRollback => self.row_rolling_back(top),
            ReleaseStatus::PendingInstall | ReleaseStatus::PendingUpgrade => Ok(pending(
                Reason::Progressing,
                format!("{}: revision {} is {}{}", self.name, top.version, top.status.as_str(), since(top)),
            )),
            ReleaseStatus::Uninstalling | ReleaseStatus::Uninstalled => Ok(failed(
                Reason::Uninstalled,
                self.evidence,
                format!("{}: revision {} is {}", self.name, top.version, top.status.as_str()),
            )),
            ReleaseStatus::Deployed => self.rows_deployed(top, streak, at),
            ReleaseStatus::Superseded | ReleaseStatus::Unknown => Ok(pending(
                Reason::Progressing,
                format!("{}: revision {} is {}", self.name, top.version, top.status.as_str()),
            )),
        }
    }

    /// P1 to P3: nothing new is there.
    fn rows_without_news(
        &self,
        memory: &Memory,
        streak: &mut Option<crate::Streak>,
        at: Timestamp,
    ) -> Verdict {
        if memory.seen {
            let words = memory.last_words.as_deref().unwrap_or("nothing is known of it");
            let message = format!(
                "{}: the new revision is gone ({words}); an install with --atomic or --rollback-on-failure \
                 removes itself when it fails",
                self.name
            );
            let mut verdict = if count(streak, "gone", at) >= GONE {
                failed(Reason::Removed, Evidence::Changed, message)
            } else {
                pending(Reason::NotFound, message)
            };
            verdict.counted = true;
            return verdict;
        }
        let Some(newest) = self.revisions.first() else {
            return pending(Reason::NotFound, format!("there is no {} yet", self.name));
        };
        let age = self.clock.now().zip(newest.created).map(|(now, made)| now.duration_since(made));
        let patience = LOCKED.max(SignedDuration::from_secs(i64::from(self.question.timeout_secs)));
        if newest.status.is_pending() && age.is_some_and(|age| age > patience) {
            return failed(
                Reason::Locked,
                Evidence::Unchanged,
                format!(
                    "{}: revision {} is {}{}: an interrupted Helm left it so, and Helm refuses to upgrade over it; \
                     roll back to the last good revision first",
                    self.name,
                    newest.version,
                    newest.status.as_str(),
                    since(newest)
                ),
            );
        }
        pending(
            Reason::WaitingForChange,
            format!(
                "{}: no new revision since the push; revision {} is {}",
                self.name,
                newest.version,
                newest.status.as_str()
            ),
        )
    }

    /// P4. With `--atomic` the rollback can fail, too: then the newest has the old
    /// chart, and what failed first stands before it.
    fn row_failed(&self, top: &Revision) -> Result<Verdict, Vec<String>> {
        self.payload(top)?;
        let Some(others) = self.read(top).and_then(|r| self.others_failure(top, r)) else {
            return Ok(self.failed(top));
        };
        let before: Vec<&Revision> =
            self.new.iter().copied().filter(|r| r.version < top.version).take(PAYLOADS).collect();
        self.payloads(&before)?;
        let ours = before.into_iter().find(|r| {
            let Some(release) = self.read(r).filter(|release| self.others_failure(r, release).is_none())
            else {
                return false;
            };
            // Helm turns the failed one into `superseded` when it begins to roll back.
            r.status == ReleaseStatus::Failed
                || (r.status == ReleaseStatus::Superseded && is_failure(&release.info.description))
        });
        Ok(ours.map_or(others, |ours| self.failed(ours)))
    }

    /// The label stands, also where the payload can't be read.
    fn failed(&self, revision: &Revision) -> Verdict {
        let words = self.words(revision);
        let reason = if revision.version == 1 { Reason::InstallFailed } else { Reason::UpgradeFailed };
        failed(reason, self.evidence, format!("{}: revision {} failed: {words}", self.name, revision.version))
    }

    /// Helm's own words on a revision.
    fn words(&self, revision: &Revision) -> String {
        match self.read(revision).map(|r| said(&r.info.description)) {
            Some(words) if !words.is_empty() => words,
            _ => "Helm's own words can't be read".to_owned(),
        }
    }

    /// P5: an atomic upgrade undoes itself.
    fn row_rolling_back(&self, top: &Revision) -> Result<Verdict, Vec<String>> {
        let Some(undone) = self.failed_before(top) else {
            return Ok(pending(
                Reason::Progressing,
                format!("{}: revision {} is {}{}", self.name, top.version, top.status.as_str(), since(top)),
            ));
        };
        self.payload(undone)?;
        if let Some(verdict) = self.read(undone).and_then(|r| self.others_failure(undone, r)) {
            return Ok(verdict);
        }
        Ok(self.rolled_back(top, undone))
    }

    /// Where another version than the expected one failed, it is another push's failure.
    fn others_failure(&self, revision: &Revision, release: &Release) -> Option<Verdict> {
        let expected = self.question.expect.chart_version.as_deref()?;
        let chart = release.chart.metadata.version.as_deref()?;
        (!version::meets(expected, chart)).then(|| {
            pending(
                Reason::OtherVersion,
                format!(
                    "{}: revision {} with chart {chart} failed, not {expected} which is awaited: {}",
                    self.name,
                    revision.version,
                    said(&release.info.description)
                ),
            )
        })
    }

    /// The newest failed revision that is new and older than this one. What
    /// `allowUnchanged` lends does not count: a failure of long ago is not this push's.
    fn failed_before(&self, top: &Revision) -> Option<&'a Revision> {
        self.new.iter().copied().find(|r| r.status == ReleaseStatus::Failed && r.version < top.version)
    }

    fn rolled_back(&self, top: &Revision, undone: &Revision) -> Verdict {
        let words = self.words(undone);
        failed(
            Reason::RolledBack,
            self.evidence,
            format!(
                "{}: revision {} failed and was rolled back by revision {}: {words}",
                self.name, undone.version, top.version
            ),
        )
    }

    /// P8 to P10: the newest is deployed; its payload tells what it is.
    fn rows_deployed(
        &self,
        top: &Revision,
        streak: &mut Option<crate::Streak>,
        at: Timestamp,
    ) -> Result<Verdict, Vec<String>> {
        let release = match self.payload(top)? {
            Payload::Read(release) => release,
            Payload::Unreadable(why) => {
                let message = format!(
                    "{}: revision {} is deployed, but its payload can't be read, so it can't be told from a rollback: {}",
                    self.name,
                    top.version,
                    said(why)
                );
                let unreadable = format!("unreadable {}", top.uid);
                let mut verdict = if count(streak, &unreadable, at) >= REFUSALS {
                    failed(Reason::PayloadUnreadable, self.evidence, message)
                } else {
                    pending(Reason::PayloadUnreadable, message)
                };
                verdict.counted = true;
                return Ok(verdict);
            }
        };
        let expecting = !self.question.expect.is_empty();
        let met = self.meets(release);
        // What `allowUnchanged` lends is judged as it stands: deployed.
        if is_rollback(release) && self.new.iter().any(|r| r.uid == top.uid) {
            if let Some(undone) = self.failed_before(top) {
                self.payload(undone)?;
                return Ok(self.rolled_back(top, undone));
            }
            if !(expecting && met) {
                return Ok(failed(
                    Reason::RolledBack,
                    self.evidence,
                    format!(
                        "{}: revision {} is a rollback ({}), not what was pushed",
                        self.name,
                        top.version,
                        said(&release.info.description)
                    ),
                ));
            }
        } else if !met {
            return self.row_not_met(top, release);
        }
        let chart = &release.chart.metadata;
        let mut message = format!(
            "{}: revision {} with chart {} {} is deployed: {}",
            self.name,
            top.version,
            chart.name.as_deref().unwrap_or("of unknown name"),
            chart.version.as_deref().unwrap_or("of unknown version"),
            said(&release.info.description),
        );
        if self.evidence == Evidence::Unchanged {
            message.push_str("; it was already there before the push");
        }
        Ok(Verdict {
            status: Status::Succeeded,
            reason: Reason::Deployed,
            evidence: Some(if expecting { Evidence::Expected } else { self.evidence }),
            message,
            counted: false,
        })
    }

    /// P9: another release is deployed than the one expected.
    fn row_not_met(&self, top: &Revision, release: &Release) -> Result<Verdict, Vec<String>> {
        let others: Vec<&Revision> =
            self.unseen.iter().copied().filter(|r| r.uid != top.uid).take(PAYLOADS).collect();
        let expect = self.question.expect;
        let by_version = expect.chart_version.is_some() || expect.app_version.is_some();
        let is_new = self.unseen.iter().any(|r| r.uid == top.uid);
        let mut wanted = others.clone();
        wanted.extend(self.old.filter(|_| is_new && by_version));
        self.payloads(&wanted)?;

        let running = running(expect, versions(release));
        for other in others {
            let Some(theirs) = self.read(other).filter(|r| self.meets(r)) else {
                continue;
            };
            let description = theirs.info.description.as_str();
            match other.status {
                ReleaseStatus::Superseded if !is_failure(description) => {
                    return Ok(Verdict {
                        status: Status::Succeeded,
                        reason: Reason::Superseded,
                        evidence: Some(Evidence::Expected),
                        message: format!(
                            "{}: revision {} was deployed as expected ({}); revision {} ({running}) has superseded it since",
                            self.name,
                            other.version,
                            said(description),
                            top.version
                        ),
                        counted: false,
                    });
                }
                ReleaseStatus::Failed => return Ok(self.failed(other)),
                _ => {}
            }
        }
        let awaited = expected(expect);
        let before = self.old.and_then(|r| self.read(r)).map(versions);
        if is_new && before.is_some_and(|before| overtaken(expect, versions(release), before)) {
            return Ok(failed(
                Reason::Superseded,
                self.evidence,
                format!(
                    "{}: revision {} ({running}) came before {awaited} could run",
                    self.name, top.version
                ),
            ));
        }
        Ok(pending(
            Reason::OtherVersion,
            format!("{}: revision {} with {running} runs, {awaited} is awaited", self.name, top.version),
        ))
    }

    /// The likely cause, told at the deadline.
    fn hint(&self) -> Option<String> {
        match self.top {
            Some(top) if top.status.is_pending() => Some(format!(
                "Helm may have been interrupted: look at the pipeline that ran it; while revision {} is {} Helm \
                 refuses another upgrade",
                top.version,
                top.status.as_str()
            )),
            None => Some(
                "Helm wrote nothing: an error before its first write (templates, schema, values) leaves no trace \
                 in the cluster; look at the log of what ran it"
                    .to_owned(),
            ),
            Some(_) => None,
        }
    }
}

fn versions(release: &Release) -> Versions<'_> {
    let chart = &release.chart.metadata;
    Versions { chart: chart.version.as_deref(), app: chart.app_version.as_deref() }
}

fn since(revision: &Revision) -> String {
    revision.created.map_or_else(String::new, |made| format!(" since {made}"))
}

/// Helm 3 and 4 write the description, Helm 4 the revision, too
/// (Helm `pkg/action/rollback.go`). A description can be the user's own, so it must be Helm's whole sentence.
fn is_rollback(release: &Release) -> bool {
    let to = release.info.description.strip_prefix("Rollback to ");
    release.info.rollback_revision > 0
        || to.is_some_and(|to| !to.is_empty() && to.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether Helm's last words on a revision are of a failure, or of an action
/// that never came to its end (Helm `pkg/action/install.go`, `upgrade.go`,
/// `rollback.go`). What ended well may carry the user's own `--description`.
fn is_failure(description: &str) -> bool {
    description.contains(" failed: ")
        || matches!(description, "Initial install underway" | "Preparing upgrade" | "")
}
