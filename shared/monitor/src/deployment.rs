//! The stored item of a deployment.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use verdict::{Evidence, HelmType, Reason, Status, TargetState};

use crate::request::Request;

/// The version of the item's form. An item with another one is not touched.
pub const SCHEMA: u32 = 1;

/// All that is kept of a deployment between two checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// The key.
    pub deployment_id: String,
    /// [`SCHEMA`].
    pub schema: u32,
    /// Counts the writes.
    pub rev: u64,
    /// The execution that it belongs to; `None` where there is none, as in `sam local invoke`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_arn: Option<String>,
    /// The request's digest; empty where the item was marked before any check ran.
    #[serde(default)]
    pub digest: String,
    /// The request; `None` where the item was marked before any check ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// App and environment of an item that was marked before any check ran, where its
    /// request had them. Else they stand in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<(String, String)>,
    /// When the execution began.
    pub started_at: Timestamp,
    /// When waiting ends. Written once.
    pub deadline: Timestamp,
    /// When the clusters were last asked, as far as it was written.
    pub checked_at: Timestamp,
    /// When the verdict was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Where the deployment stands.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// What a timeout waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reason: Option<Reason>,
    /// On what the verdict rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// One sentence for a person.
    pub message: String,
    /// How often the clusters were asked, as far as it was written.
    pub polls: u32,
    /// The targets, in the request's order.
    pub targets: Vec<Target>,
    /// When the item may be dropped, in seconds since 1970.
    pub expires_at: i64,
}

impl Deployment {
    /// App and environment, where they are known.
    #[must_use]
    pub fn app_environment(&self) -> (Option<String>, Option<String>) {
        match (&self.request, &self.labels) {
            (Some(request), _) => (request.app.clone(), request.environment.clone()),
            (None, Some((app, environment))) => (Some(app.clone()), Some(environment.clone())),
            (None, None) => (None, None),
        }
    }
}

/// One target and all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The cluster as the request named it.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The namespace.
    pub namespace: String,
    /// The release.
    pub release: String,
    /// How Helm is driven there.
    pub helm_type: HelmType,
    /// The address that the first tick asked: a token is never sent elsewhere afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    /// What is known.
    #[serde(flatten)]
    pub state: TargetState,
}

/// A deployment in short, as a list shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The deployment.
    pub deployment_id: String,
    /// Where it stands.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// When the execution began.
    pub started_at: Timestamp,
    /// When the verdict was reached.
    pub finished_at: Option<Timestamp>,
}
