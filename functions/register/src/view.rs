//! A cluster as callers see it.

use jiff::Timestamp;
use monitor::{
    cluster::{ClusterRow, RowState},
    ports::Page,
};
use serde::Serialize;

use crate::page::next_token;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    id: String,
    name: String,
    api_url: String,
    tls_server_name: Option<String>,
    ca_cert: Option<CaCert>,
    token: Token,
    state: RowState,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CaCert {
    sha256_fingerprint: String,
    not_after: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    expires_at: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Clusters {
    clusters: Vec<Cluster>,
    next_token: Option<String>,
}

impl Cluster {
    pub(crate) fn new(row: ClusterRow, warnings: Vec<String>) -> Self {
        let ca_cert = row
            .ca_fingerprint
            .zip(row.ca_not_after)
            .map(|(sha256_fingerprint, not_after)| CaCert { sha256_fingerprint, not_after });
        Self {
            id: row.id,
            name: row.name,
            api_url: row.api_url,
            tls_server_name: row.tls_server_name,
            ca_cert,
            token: Token { expires_at: row.token_expires_at },
            state: row.state,
            created_at: row.created_at,
            updated_at: row.updated_at,
            warnings,
        }
    }
}

impl From<Page> for Clusters {
    fn from(page: Page) -> Self {
        let next_token = page.rows.last().filter(|_| page.more).map(|row| next_token(&row.id));
        let clusters = page.rows.into_iter().map(|row| Cluster::new(row, Vec::new())).collect();
        Self { clusters, next_token }
    }
}
