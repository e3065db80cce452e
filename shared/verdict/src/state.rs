//! What is kept of a target between two checks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Evidence, Reason, Status};

/// All that is known of one target: the answer shown and the memory behind it.
/// A decision takes the old one and returns the new one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetState {
    /// Where the target stands.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// What a `Timeout` waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reason: Option<Reason>,
    /// On what the verdict rests; `None` while pending and after a `Timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// One sentence for a person, at most 1,024 bytes; no running times.
    pub message: String,
    /// What was last seen there.
    #[serde(default)]
    pub observed: Observed,
    /// Since when status and reason are what they are.
    pub since: Timestamp,
    /// The first successful look; `None` until there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// What earlier looks left behind.
    #[serde(default)]
    pub memory: Memory,
}

impl TargetState {
    /// A target that nobody has looked at yet.
    #[must_use]
    pub fn new(since: Timestamp) -> Self {
        Self {
            status: Status::Pending,
            reason: Reason::Starting,
            last_reason: None,
            evidence: None,
            message: "not looked at yet".to_owned(),
            observed: Observed::default(),
            since,
            baseline: None,
            memory: Memory::default(),
        }
    }
}

/// What was last seen of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// Helm's revision.
    #[serde(default)]
    pub revision: Option<i64>,
    /// The chart's version.
    #[serde(default)]
    pub chart_version: Option<String>,
    /// The app's version.
    #[serde(default)]
    pub app_version: Option<String>,
    /// Flux's reason on Ready or Helm's status, in its own words.
    #[serde(default)]
    pub condition: Option<String>,
}

/// The first successful look: what was there when the deployment began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Baseline {
    /// No such HelmRelease.
    HelmReleaseAbsent,
    /// The HelmRelease as it was.
    HelmRelease(Box<FluxBaseline>),
    /// The release secrets as they were.
    Releases(PlainBaseline),
}

/// What is kept of the HelmRelease that was there first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FluxBaseline {
    /// `metadata.uid`.
    pub uid: Option<String>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `status.lastAttemptedRevision`.
    pub last_attempted_revision: Option<String>,
    /// `status.lastAttemptedConfigDigest`.
    pub last_attempted_config_digest: Option<String>,
    /// `status.lastAttemptedRevisionDigest`.
    pub last_attempted_revision_digest: Option<String>,
    /// `status.failures`.
    pub failures: i64,
    /// Whether it was being deleted.
    pub deleting: bool,
    /// When the spec was last really written, by `metadata.managedFields`.
    pub spec_written_at: Option<Timestamp>,
    /// The history's entries, newest version first, at most [`crate::KEPT_REVISIONS`].
    pub history: Vec<ReleaseId>,
    /// Chart version of the newest history entry.
    pub chart_version: Option<String>,
    /// App version of the newest history entry.
    pub app_version: Option<String>,
}

/// What names one entry of a HelmRelease's history: a release can start again at
/// version 1, so the version alone does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseId {
    /// The Helm release's name.
    pub name: String,
    /// Helm's revision.
    pub version: i64,
    /// When the action began, in whole seconds.
    pub last_deployed: Option<Timestamp>,
}

/// What is kept of the release secrets that were there first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlainBaseline {
    /// The highest revisions, newest first, at most [`crate::KEPT_REVISIONS`].
    pub revisions: Vec<RevisionId>,
    /// Whether there were more than are kept.
    pub truncated: bool,
}

/// What names one release secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionId {
    /// `metadata.uid`.
    pub uid: String,
    /// The label `version`.
    pub version: i64,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
}

/// What earlier looks left behind. While nothing happens it stays as it is, so
/// that a tick in which nothing changed writes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// The object, or something new, was seen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub seen: bool,
    /// Something happened to the HelmRelease after the push. That stays true, also
    /// where the history that showed it is trimmed, or the cluster's clock is lost.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub news: bool,
    /// What must be seen on several polls running, and how often it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streak: Option<Streak>,
    /// The failures of asking since the last good answer that can't pass by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusals: Option<Streak>,
    /// The release that met the expectation while Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<ReleaseId>,
    /// The likely cause, told at the deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The newest secret that was new, by its `uid`: what was new stays new,
    /// also where the cluster's clock is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<String>,
    /// The last words of what is gone since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_words: Option<String>,
}

/// Something seen on polls running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Streak {
    /// What was seen; another thing starts the count again.
    pub what: String,
    /// On how many polls, each at least 4 s after the one counted before.
    pub polls: u32,
    /// When the last counted poll was.
    pub at: Timestamp,
}
