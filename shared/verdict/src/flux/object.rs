//! What is read of a HelmRelease (`helm.toolkit.fluxcd.io/v2`).

use std::cmp::Reverse;

use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    FluxBaseline, KEPT_REVISIONS, ReleaseId, Values,
    bounded::{Kept, list, null_is_default, start_of_word, text, time, word},
};

/// The manager's name under which helm-controller writes
/// (its `ControllerName`, helm-controller `main.go`).
pub const HELM_CONTROLLER: &str = "helm-controller";

/// A HelmRelease, as far as a verdict needs it. Every field may be absent:
/// older controllers do not write all, and a person may have written the object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HelmRelease {
    /// What the object says it is, a `HelmRelease`; read with the rest, so that a body is read once.
    #[serde(deserialize_with = "word")]
    pub kind: Option<String>,
    /// The API's group and version, as `helm.toolkit.fluxcd.io/v2`.
    #[serde(deserialize_with = "word")]
    pub api_version: Option<String>,
    /// `metadata`.
    #[serde(deserialize_with = "null_is_default")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "null_is_default")]
    pub spec: Spec,
    /// `status`.
    #[serde(deserialize_with = "null_is_default")]
    pub status: FluxStatus,
}

/// `metadata` of a HelmRelease.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// The object's name.
    #[serde(deserialize_with = "word")]
    pub name: Option<String>,
    /// The object's namespace.
    #[serde(deserialize_with = "word")]
    pub namespace: Option<String>,
    /// Names this object for ever: one made again has another.
    #[serde(deserialize_with = "word")]
    pub uid: Option<String>,
    /// Moves with every change of the spec.
    pub generation: Option<i64>,
    /// Set once the object is being deleted.
    pub deletion_timestamp: Option<IgnoredAny>,
    /// The labels; the Kustomization that applied the object is named there.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: Labels,
    /// Who wrote which fields, and when.
    #[serde(deserialize_with = "list")]
    pub managed_fields: Vec<ManagedFields>,
}

/// The two labels by which kustomize-controller marks what it applied.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Labels {
    /// The Kustomization's name.
    #[serde(rename = "kustomize.toolkit.fluxcd.io/name", deserialize_with = "word")]
    pub kustomization: Option<String>,
    /// The Kustomization's namespace.
    #[serde(rename = "kustomize.toolkit.fluxcd.io/namespace", deserialize_with = "word")]
    pub kustomization_namespace: Option<String>,
}

/// One entry of `metadata.managedFields`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ManagedFields {
    /// Who wrote.
    #[serde(deserialize_with = "word")]
    pub manager: Option<String>,
    /// `status` for a write of the status.
    #[serde(deserialize_with = "word")]
    pub subresource: Option<String>,
    /// When the entry was last changed.
    #[serde(deserialize_with = "time")]
    pub time: Option<Timestamp>,
    /// What the manager owns.
    #[serde(rename = "fieldsV1", deserialize_with = "null_is_default")]
    pub fields: Fields,
}

/// What a manager owns, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Fields {
    /// There where the manager owns a part of the spec.
    #[serde(rename = "f:spec")]
    pub spec: Option<IgnoredAny>,
}

/// `spec` of a HelmRelease.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// Flux leaves a suspended object alone.
    #[serde(deserialize_with = "null_is_default")]
    pub suspend: bool,
    /// Flux's patience with one Helm action, as Go writes durations; 5 minutes where absent.
    #[serde(deserialize_with = "word")]
    pub timeout: Option<String>,
    /// The chart by name and version.
    #[serde(deserialize_with = "null_is_default")]
    pub chart: ChartTemplate,
    /// The values written in the object.
    pub values: Option<Values>,
    /// Values from elsewhere; what stands there can't be seen.
    #[serde(deserialize_with = "null_is_default")]
    pub values_from: Vec<IgnoredAny>,
    /// How a failed install is retried.
    #[serde(deserialize_with = "null_is_default")]
    pub install: Action,
    /// How a failed upgrade is retried.
    #[serde(deserialize_with = "null_is_default")]
    pub upgrade: Action,
}

/// `spec.chart`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ChartTemplate {
    /// `spec.chart.spec`.
    #[serde(deserialize_with = "null_is_default")]
    pub spec: ChartSpec,
}

/// `spec.chart.spec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ChartSpec {
    /// A version or a range in Helm's grammar.
    #[serde(deserialize_with = "word")]
    pub version: Option<String>,
    /// Where the chart comes from.
    #[serde(deserialize_with = "null_is_default")]
    pub source_ref: SourceRef,
}

/// `spec.chart.spec.sourceRef`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SourceRef {
    /// `HelmRepository`, `GitRepository` or `Bucket`.
    #[serde(deserialize_with = "word")]
    pub kind: Option<String>,
}

/// `spec.install` or `spec.upgrade`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Action {
    /// `remediation`.
    #[serde(deserialize_with = "null_is_default")]
    pub remediation: Remediation,
}

/// `remediation` of an action.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Remediation {
    /// How often Flux tries again; negative: without end.
    pub retries: Option<i64>,
}

/// `status` of a HelmRelease.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FluxStatus {
    /// Written when a reconcile ended well or for good.
    pub observed_generation: Option<i64>,
    /// The generation that was really tried.
    pub last_attempted_generation: Option<i64>,
    /// The chart version that was tried.
    #[serde(deserialize_with = "word")]
    pub last_attempted_revision: Option<String>,
    /// The digest of the values that were tried.
    #[serde(deserialize_with = "word")]
    pub last_attempted_config_digest: Option<String>,
    /// The digest of the OCI artifact that was tried.
    #[serde(deserialize_with = "word")]
    pub last_attempted_revision_digest: Option<String>,
    /// Failed attempts since generation, chart or values last changed.
    pub failures: Option<i64>,
    /// Failed installs that left a release behind.
    pub install_failures: Option<i64>,
    /// Failed upgrades that left a release behind.
    pub upgrade_failures: Option<i64>,
    /// The conditions, in any order.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
    /// What Helm stored, in any order; trimmed by the controller.
    #[serde(deserialize_with = "list")]
    pub history: Vec<HistoryEntry>,
}

/// One condition.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// Ready, Released, Reconciling, Stalled, TestSuccess or Remediated.
    #[serde(rename = "type", deserialize_with = "start_of_word")]
    pub kind: String,
    /// True, False or Unknown.
    #[serde(deserialize_with = "start_of_word")]
    pub status: String,
    /// One CamelCase word.
    #[serde(deserialize_with = "start_of_word")]
    pub reason: String,
    /// A text for a person.
    #[serde(deserialize_with = "text")]
    pub message: String,
}

/// One entry of `status.history`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The Helm release's name.
    #[serde(deserialize_with = "start_of_word")]
    pub name: String,
    /// Helm's revision.
    #[serde(deserialize_with = "null_is_default")]
    pub version: i64,
    /// Helm's word for where the revision stands.
    #[serde(deserialize_with = "start_of_word")]
    pub status: String,
    /// When the action began, in whole seconds.
    #[serde(deserialize_with = "time")]
    pub last_deployed: Option<Timestamp>,
    /// The chart's version.
    #[serde(deserialize_with = "word")]
    pub chart_version: Option<String>,
    /// The app's version.
    #[serde(deserialize_with = "word")]
    pub app_version: Option<String>,
}

impl Kept for ManagedFields {
    /// Of those that wrote the spec only the last one counts.
    const MOST: usize = 1;

    fn counts(&self) -> bool {
        self.fields.spec.is_some()
            && self.subresource.as_deref().unwrap_or_default().is_empty()
            && self.manager.as_deref() != Some(HELM_CONTROLLER)
    }

    fn trim(all: &mut Vec<Self>) {
        all.sort_by_key(|m| Reverse(m.time));
        all.truncate(Self::MOST);
    }
}

impl Kept for Condition {
    /// helm-controller writes each of these six kinds once.
    const MOST: usize = 6;

    fn counts(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "Ready" | "Released" | "Reconciling" | "Stalled" | "TestSuccess" | "Remediated"
        )
    }

    /// Of several of a kind the one that [`HelmRelease::condition`] takes.
    fn trim(all: &mut Vec<Self>) {
        all.sort_by(|a, b| (&b.kind, b.text()).cmp(&(&a.kind, a.text())));
        all.dedup_by(|a, b| a.kind == b.kind);
    }
}

impl Condition {
    fn text(&self) -> (&str, &str, &str) {
        (&self.status, &self.reason, &self.message)
    }
}

impl Kept for HistoryEntry {
    /// helm-controller trims to those since the last that was deployed, five as a rule.
    const MOST: usize = 16;

    fn trim(all: &mut Vec<Self>) {
        all.sort_by_key(|h| Reverse((h.version, h.last_deployed)));
        all.truncate(Self::MOST);
    }
}

impl HistoryEntry {
    /// What names this entry.
    #[must_use]
    pub fn id(&self) -> ReleaseId {
        ReleaseId { name: self.name.clone(), version: self.version, last_deployed: self.last_deployed }
    }
}

impl HelmRelease {
    /// The condition of a type; of several the first with the greatest text, so
    /// that their order does not matter.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().filter(|c| c.kind == kind).max_by_key(|c| c.text())
    }

    /// The history entry with the highest version; of two the one deployed later.
    #[must_use]
    pub fn head(&self) -> Option<&HistoryEntry> {
        self.status.history.iter().max_by_key(|h| {
            (h.version, h.last_deployed, &h.name, &h.status, &h.chart_version, &h.app_version)
        })
    }

    /// When the spec was last really written: the latest entry of
    /// `metadata.managedFields` that owns a part of the spec and is neither of a
    /// subresource nor helm-controller's.
    #[must_use]
    pub fn spec_written_at(&self) -> Option<Timestamp> {
        self.metadata.managed_fields.iter().filter(|m| m.counts()).filter_map(|m| m.time).max()
    }

    /// What is kept of it where it is the first that was seen.
    #[must_use]
    pub fn baseline(&self) -> FluxBaseline {
        let head = self.head();
        let mut history: Vec<ReleaseId> = self.status.history.iter().map(HistoryEntry::id).collect();
        history.sort_by(|a, b| {
            (b.version, b.last_deployed, &b.name).cmp(&(a.version, a.last_deployed, &a.name))
        });
        history.truncate(KEPT_REVISIONS);
        FluxBaseline {
            uid: self.metadata.uid.clone(),
            generation: self.metadata.generation,
            last_attempted_revision: self.status.last_attempted_revision.clone(),
            last_attempted_config_digest: self.status.last_attempted_config_digest.clone(),
            last_attempted_revision_digest: self.status.last_attempted_revision_digest.clone(),
            failures: self.status.failures.unwrap_or(0),
            deleting: self.metadata.deletion_timestamp.is_some(),
            spec_written_at: self.spec_written_at(),
            history,
            chart_version: head.and_then(|h| h.chart_version.clone()),
            app_version: head.and_then(|h| h.app_version.clone()),
        }
    }
}
