//! A registered cluster.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{namespaces::Namespaces, probe::LastProbe};

/// An EKS cluster that is entered without a stored token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EksCluster {
    /// Its name in EKS.
    pub cluster_name: String,
    /// The AWS region that it is in.
    pub region: String,
    /// The role that is taken on the way, as for another account; `None`: our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
}

/// A cluster's row in the registry: everything but the credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRow {
    /// The name's slug.
    pub id: String,
    /// As the operator wrote it, 1-100 characters.
    pub name: String,
    /// For showing; what is connected to stands in the secret.
    pub api_url: String,
    /// For showing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// For showing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_fingerprint: Option<String>,
    /// When the first of the CA's certificates ends, of those that were valid when
    /// they were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_not_after: Option<Timestamp>,
    /// The token's `exp`, where it is a JWT that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<Timestamp>,
    /// The token's `iss` and `sub`, where it is a JWT: for showing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_issuer: Option<String>,
    /// See `token_issuer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_subject: Option<String>,
    /// For showing: entered by an AWS identity instead of a stored token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eks: Option<EksCluster>,
    /// For showing; what is enforced stands in the secret.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// The last probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe: Option<LastProbe>,
    /// Where the row stands.
    pub state: RowState,
    /// Changed by every write but that of a probe: a writer goes on only while it is
    /// its own.
    pub nonce: String,
    /// When it was first registered.
    pub created_at: Timestamp,
    /// When it was last registered or changed, or somebody began to; a probe leaves it.
    pub updated_at: Timestamp,
}

impl ClusterRow {
    /// A row that shows nothing yet but the cluster's name, as its registration begins.
    #[must_use]
    pub fn new(id: String, name: String, nonce: String, now: Timestamp) -> Self {
        Self {
            id,
            name,
            api_url: String::new(),
            tls_server_name: None,
            ca_fingerprint: None,
            ca_not_after: None,
            token_expires_at: None,
            token_issuer: None,
            token_subject: None,
            eks: None,
            namespaces: Namespaces::default(),
            last_probe: None,
            state: RowState::Registering,
            nonce,
            created_at: now,
            updated_at: now,
        }
    }
}

/// Where a row stands. The row is the lock of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowState {
    /// Being registered for the first time: the secret may not be there yet.
    Registering,
    /// In use.
    Active,
    /// In use; its secret is being replaced.
    Updating,
    /// Being removed: the secret may be gone already.
    Deleting,
}

impl RowState {
    /// Whether a deployment may use the cluster.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Active | Self::Updating)
    }
}
