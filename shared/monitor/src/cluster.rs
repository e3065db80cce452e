//! A registered cluster.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// When the first of the CA's certificates ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_not_after: Option<Timestamp>,
    /// The token's `exp`, where it is a JWT that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<Timestamp>,
    /// Where the row stands.
    pub state: RowState,
    /// Changed by every write: a writer goes on only while it is its own.
    pub nonce: String,
    /// When it was first registered.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
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
