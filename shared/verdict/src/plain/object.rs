//! What is read of Helm's release secrets.

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    RevisionId, Values,
    bounded::{null_is_default, text, word},
};

/// One release secret, by its labels and metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revision {
    /// The secret's name; by it the payload is fetched.
    pub name: String,
    /// `metadata.uid`: which secret it is.
    pub uid: String,
    /// The label `version`, as a number: v10 is above v9.
    pub version: i64,
    /// The label `status`.
    pub status: ReleaseStatus,
    /// `metadata.creationTimestamp`; the labels `modifiedAt` and `createdAt` are not to be trusted.
    pub created: Option<Timestamp>,
    /// Whether `metadata.managedFields` names helm-controller.
    pub by_flux: bool,
}

impl Revision {
    /// What names this revision.
    #[must_use]
    pub fn id(&self) -> RevisionId {
        RevisionId { uid: self.uid.clone(), version: self.version, created: self.created }
    }
}

/// Helm's words for where a revision stands (Helm `pkg/release/status.go`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The words are Helm's own.
pub enum ReleaseStatus {
    #[default]
    Unknown,
    Deployed,
    Uninstalled,
    Superseded,
    Failed,
    Uninstalling,
    PendingInstall,
    PendingUpgrade,
    PendingRollback,
}

impl ReleaseStatus {
    /// The status of a label; a word that Helm does not know is `Unknown`.
    #[must_use]
    pub fn from_label(label: &str) -> Self {
        match label {
            "deployed" => Self::Deployed,
            "uninstalled" => Self::Uninstalled,
            "superseded" => Self::Superseded,
            "failed" => Self::Failed,
            "uninstalling" => Self::Uninstalling,
            "pending-install" => Self::PendingInstall,
            "pending-upgrade" => Self::PendingUpgrade,
            "pending-rollback" => Self::PendingRollback,
            _ => Self::Unknown,
        }
    }

    /// Helm's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Deployed => "deployed",
            Self::Uninstalled => "uninstalled",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::Uninstalling => "uninstalling",
            Self::PendingInstall => "pending-install",
            Self::PendingUpgrade => "pending-upgrade",
            Self::PendingRollback => "pending-rollback",
        }
    }

    /// Whether Helm is, or was when it was interrupted, at work on it.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::PendingInstall | Self::PendingUpgrade | Self::PendingRollback)
    }
}

/// The payload of one revision, or why it could not be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// It was read.
    Read(Box<Release>),
    /// It was fetched but could not be read: broken, too large, or gone meanwhile.
    Unreadable(String),
}

/// A release as Helm stores it, as far as a verdict needs it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Release {
    /// What happened to it.
    #[serde(deserialize_with = "null_is_default")]
    pub info: Info,
    /// The chart.
    #[serde(deserialize_with = "null_is_default")]
    pub chart: Chart,
    /// The values the user gave.
    pub config: Option<Values>,
}

/// `info` of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Helm's sentence on the last action.
    #[serde(deserialize_with = "text")]
    pub description: String,
    /// The revision rolled back to, where Helm writes it.
    #[serde(deserialize_with = "null_is_default")]
    pub rollback_revision: i64,
}

/// `chart` of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Chart {
    /// `Chart.yaml`.
    #[serde(deserialize_with = "null_is_default")]
    pub metadata: ChartMetadata,
}

/// `Chart.yaml`, as far as a verdict needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ChartMetadata {
    /// The chart's name.
    #[serde(deserialize_with = "word")]
    pub name: Option<String>,
    /// The chart's version.
    #[serde(deserialize_with = "word")]
    pub version: Option<String>,
    /// The app's version.
    #[serde(deserialize_with = "word")]
    pub app_version: Option<String>,
}
