//! A registered app environment: where an app is deployed, and how.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use verdict::HelmType;

use crate::request::TargetRequest;

/// An environment of an app, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// 1-63 of `a-z0-9-`.
    pub app: String,
    /// 1-63 of `a-z0-9-`.
    pub environment: String,
    /// How Helm is driven there.
    pub helm_type: HelmType,
    /// What a deployment watches: 1-40, unique.
    pub targets: Vec<TargetRequest>,
    /// How long a deployment is waited for, 10-7,200 s; `None`: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u32>,
    /// When it was first registered.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
}

/// One page of an app's environments, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentPage {
    /// The environments.
    pub environments: Vec<Environment>,
    /// Whether there are more after the last of them.
    pub more: bool,
}
