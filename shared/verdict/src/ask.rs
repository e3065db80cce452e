//! What is asked, and what a look at the cluster brought.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{HelmRelease, HelmType, Payload, Revision};

/// What the push should bring. With it the answer is exact, and a poll quicker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// The chart version that must run; compared as semver without `v` and `+build`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chart_version: Option<String>,
    /// The app version that must run; compared as the chart version is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_version: Option<String>,
    /// JSON pointers into the release's values, and what must stand there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Value>,
}

impl Expect {
    /// Whether nothing is expected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chart_version.is_none() && self.app_version.is_none() && self.values.is_empty()
    }
}

/// When a failure counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailOn {
    /// Once nobody will try again.
    #[default]
    Final,
    /// At the first failed attempt.
    First,
}

/// What is asked about one target. It never changes while a deployment runs.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// How Helm is driven there.
    pub helm_type: HelmType,
    /// The cluster as the caller named it; for messages only.
    pub cluster: &'a str,
    /// The namespace of the HelmRelease or of the release secrets.
    pub namespace: &'a str,
    /// The HelmRelease's name (flux) or the Helm release's (plain).
    pub release: &'a str,
    /// What the push should bring.
    pub expect: &'a Expect,
    /// An instant not later than the push, as the caller gave it.
    pub pushed_at: Option<Timestamp>,
    /// When the deployment began: stands for `pushed_at` where that is absent.
    pub started_at: Timestamp,
    /// When waiting ends.
    pub deadline: Timestamp,
    /// The whole time allowed, in seconds; for messages and for `Locked`.
    pub timeout_secs: u32,
    /// When a failure counts.
    pub fail_on: FailOn,
    /// Judge what is there even if nothing happened since the push.
    pub allow_unchanged: bool,
}

/// One look at the cluster.
#[derive(Debug, Clone)]
pub struct Look {
    /// When it was taken, on our clock.
    pub at: Timestamp,
    /// The answer's `Date` header: the cluster's clock. Without it time is no evidence.
    pub cluster_date: Option<Timestamp>,
    /// What came.
    pub seen: Seen,
}

/// What a look brought: absence and failure are inputs like any other.
#[derive(Debug, Clone)]
pub enum Seen {
    /// The HelmRelease; `None` where the API server said that there is none.
    HelmRelease(Option<Box<HelmRelease>>),
    /// The release's secrets (labels only), and those payloads that were fetched.
    Releases(Releases),
    /// The asking failed.
    Failed(AskError),
}

/// Helm's release secrets of one release.
#[derive(Debug, Clone, Default)]
pub struct Releases {
    /// The revisions, in any order.
    pub revisions: Vec<Revision>,
    /// The payloads fetched so far, by the revision's `uid`.
    pub payloads: BTreeMap<String, Payload>,
}

/// Why a cluster could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskError {
    /// The kind, which decides whether it can pass.
    pub kind: AskErrorKind,
    /// The server's or the transport's words; never a secret.
    pub message: String,
}

/// The kinds of failing to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AskErrorKind {
    /// DNS, refused, reset: may pass.
    Unreachable,
    /// Not answered in time: may pass.
    Slow,
    /// 429: may pass.
    Throttled,
    /// 5xx: may pass.
    ServerError,
    /// The cluster's credentials could not be read: may pass.
    CredentialsUnavailable,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404 in plain text for a HelmRelease: the API group is missing.
    FluxNotInstalled,
    /// The certificate was not accepted.
    Tls,
    /// Not what was asked for: HTML, another kind, broken JSON, too large, a redirect, another 4xx.
    NotKubernetes,
    /// The registration is gone.
    ClusterRemoved,
    /// The registration points to another address than at the first tick: no waiting helps.
    ClusterChanged,
    /// The registration does not let deployments watch this namespace: no waiting helps.
    NamespaceNotAllowed,
}
