//! What the check handler answers, `GET /deployments/{id}` shows and the event carries.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use verdict::{Evidence, HelmType, Observed, Reason, Status};

use crate::deployment::Deployment;

/// The answer on a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The deployment.
    pub deployment_id: String,
    /// The app, where the request named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The environment, where the request named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// What a timeout waited for.
    pub last_reason: Option<Reason>,
    /// On what the verdict rests.
    pub evidence: Option<Evidence>,
    /// One sentence for a person.
    pub message: String,
    /// When the execution began.
    pub started_at: Timestamp,
    /// When waiting ends.
    pub deadline: Timestamp,
    /// When the clusters were last asked.
    pub checked_at: Timestamp,
    /// When the verdict was reached.
    pub finished_at: Option<Timestamp>,
    /// How often the clusters were asked; at least, after a restart.
    pub polls: u32,
    /// The targets, in the request's order.
    pub targets: Vec<TargetAnswer>,
}

/// The answer on one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetAnswer {
    /// The cluster as the request named it.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// The release.
    pub release: String,
    /// How Helm is driven there.
    pub helm_type: HelmType,
    /// Where it stands.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// What a timeout waited for.
    pub last_reason: Option<Reason>,
    /// On what the verdict rests.
    pub evidence: Option<Evidence>,
    /// One sentence for a person.
    pub message: String,
    /// What was last seen.
    pub observed: Observed,
    /// Since when it stands so.
    pub since: Timestamp,
}

impl From<&Deployment> for Answer {
    fn from(item: &Deployment) -> Self {
        let (app, environment) = item.app_environment();
        Self {
            deployment_id: item.deployment_id.clone(),
            app,
            environment,
            status: item.status,
            reason: item.reason,
            last_reason: item.last_reason,
            evidence: item.evidence,
            message: item.message.clone(),
            started_at: item.started_at,
            deadline: item.deadline,
            checked_at: item.checked_at,
            finished_at: item.finished_at,
            polls: item.polls,
            targets: item
                .targets
                .iter()
                .map(|t| TargetAnswer {
                    cluster: t.cluster.clone(),
                    namespace: t.namespace.clone(),
                    release: t.release.clone(),
                    helm_type: t.helm_type,
                    status: t.state.status,
                    reason: t.state.reason,
                    last_reason: t.state.last_reason,
                    evidence: t.state.evidence,
                    message: t.state.message.clone(),
                    observed: t.state.observed.clone(),
                    since: t.state.since,
                })
                .collect(),
        }
    }
}
