//! Clusters, environments and pages as callers see them. A deployment is seen as
//! `monitor::answer::Answer`, by everybody.

use jiff::Timestamp;
use monitor::{
    cluster::{ClusterRow, EksCluster, RowState},
    deployment::Summary,
    environment::{self, EnvironmentPage},
    ports::{History, Page},
    probe::{self, ProbeReason, ScopePermissions},
    request::TargetRequest,
};
use serde::Serialize;
use verdict::HelmType;

use crate::query::{next_deployment, next_token};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    id: String,
    name: String,
    api_url: Option<String>,
    tls_server_name: Option<String>,
    ca_cert: Option<CaCert>,
    token: Option<Token>,
    auth: Option<Auth>,
    namespaces: Option<Vec<String>>,
    state: RowState,
    last_probe: Option<LastProbe>,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<String>>,
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
    issuer: Option<String>,
    subject: Option<String>,
    expires_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Auth {
    eks: Eks,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Eks {
    cluster_name: String,
    region: String,
    role_arn: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LastProbe {
    at: Timestamp,
    ok: bool,
    reason: Option<ProbeReason>,
    message: String,
    kubernetes_version: Option<String>,
    permissions: Vec<ScopePermissions>,
    server_certificate_not_after: Option<Timestamp>,
    warnings: Vec<String>,
}

impl Cluster {
    /// As it is kept.
    pub(crate) fn shown(row: ClusterRow) -> Self {
        Self::new(row, None)
    }

    /// As it was just registered, changed or probed, with what the operator should know.
    pub(crate) fn with(row: ClusterRow, warnings: Vec<String>) -> Self {
        Self::new(row, Some(warnings))
    }

    fn new(row: ClusterRow, warnings: Option<Vec<String>>) -> Self {
        let ca_cert = row
            .ca_fingerprint
            .zip(row.ca_not_after)
            .map(|(sha256_fingerprint, not_after)| CaCert { sha256_fingerprint, not_after });
        // EKS clusters have a token only while they are asked.
        let token = row.eks.is_none().then_some(Token {
            issuer: row.token_issuer,
            subject: row.token_subject,
            expires_at: row.token_expires_at,
        });
        let patterns = row.namespaces.patterns();
        Self {
            id: row.id,
            name: row.name,
            // Nobody knows an EKS cluster's before it was asked for the first time.
            api_url: Some(row.api_url).filter(|url| !url.is_empty()),
            tls_server_name: row.tls_server_name,
            ca_cert,
            token,
            auth: row.eks.map(|EksCluster { cluster_name, region, role_arn }| Auth {
                eks: Eks { cluster_name, region, role_arn },
            }),
            namespaces: (!patterns.is_empty()).then(|| patterns.to_vec()),
            state: row.state,
            last_probe: row.last_probe.map(LastProbe::from),
            created_at: row.created_at,
            updated_at: row.updated_at,
            warnings,
        }
    }
}

impl From<probe::LastProbe> for LastProbe {
    fn from(it: probe::LastProbe) -> Self {
        Self {
            at: it.at,
            ok: it.reason.is_none(),
            reason: it.reason,
            message: it.message,
            kubernetes_version: it.kubernetes_version,
            permissions: it.permissions,
            server_certificate_not_after: it.server_certificate_not_after,
            warnings: it.warnings,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Clusters {
    clusters: Vec<Cluster>,
    next_token: Option<String>,
}

impl From<Page> for Clusters {
    fn from(page: Page) -> Self {
        let next_token = page.rows.last().filter(|_| page.more).map(|row| next_token(&row.id));
        Self { clusters: page.rows.into_iter().map(Cluster::shown).collect(), next_token }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Environment {
    app: String,
    environment: String,
    helm_type: HelmType,
    targets: Vec<TargetRequest>,
    timeout_secs: Option<u32>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<environment::Environment> for Environment {
    fn from(it: environment::Environment) -> Self {
        Self {
            app: it.app,
            environment: it.environment,
            helm_type: it.helm_type,
            targets: it.targets,
            timeout_secs: it.timeout_secs,
            created_at: it.created_at,
            updated_at: it.updated_at,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Environments {
    environments: Vec<Environment>,
    next_token: Option<String>,
}

impl From<EnvironmentPage> for Environments {
    fn from(page: EnvironmentPage) -> Self {
        let last = page.environments.last().filter(|_| page.more);
        let next_token = last.map(|it| next_token(&it.environment));
        Self { environments: page.environments.into_iter().map(Environment::from).collect(), next_token }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deployments {
    deployments: Vec<Summary>,
    next_token: Option<String>,
}

impl From<History> for Deployments {
    fn from(page: History) -> Self {
        let last = page.deployments.last().filter(|_| page.more);
        let next_token = last.map(|it| next_deployment(it.started_at, &it.deployment_id));
        Self { deployments: page.deployments, next_token }
    }
}
