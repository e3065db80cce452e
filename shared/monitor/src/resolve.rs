//! What a request names, looked up: the registered environment, the clusters, and
//! whether their namespaces may be watched.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use verdict::HelmType;

use crate::{
    cluster::ClusterRow,
    ports::{Environments, Registry, StoreError},
    request::{Refusal, Request, TargetRequest},
    slug::slug,
};

/// Why a request could not be resolved.
#[derive(Debug)]
pub(crate) enum Unresolved {
    /// It names what is not there, or not allowed.
    Refused(Vec<Refusal>),
    /// A store failed.
    Store(StoreError),
}

impl From<StoreError> for Unresolved {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a deployment watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) helm_type: HelmType,
    /// In the order in which they were named, each with its cluster's id.
    pub(crate) targets: Vec<(TargetRequest, String)>,
    /// The environment's own.
    pub(crate) timeout_secs: Option<u32>,
}

/// Looks up everything that a request names.
pub(crate) async fn resolve(
    registry: &dyn Registry,
    environments: &dyn Environments,
    request: &Request,
) -> Result<Resolved, Unresolved> {
    if let Some(helm_type) = request.helm_type {
        let ids = clusters(registry, &request.targets).await?;
        let targets = request.targets.iter().cloned().zip(ids).collect();
        return Ok(Resolved { helm_type, targets, timeout_secs: None });
    }
    let app = request.app.as_deref().unwrap_or_default();
    let name = request.environment.as_deref().unwrap_or_default();
    let Some(environment) = environments.environment(app, name).await? else {
        let detail = format!("app \"{app}\" has no registered environment \"{name}\"");
        return Err(Unresolved::Refused(vec![Refusal { pointer: "/environment".to_owned(), detail }]));
    };
    let ids = clusters(registry, &environment.targets).await.map_err(|unresolved| match unresolved {
        // The pointers lead into the environment, which the caller didn't send.
        Unresolved::Refused(refusals) => Unresolved::Refused(
            refusals
                .into_iter()
                .map(|it| Refusal {
                    pointer: "/environment".to_owned(),
                    detail: format!("{} of the registered environment: {}", it.pointer, it.detail),
                })
                .collect(),
        ),
        other => other,
    })?;
    Ok(Resolved {
        helm_type: environment.helm_type,
        targets: environment.targets.into_iter().zip(ids).collect(),
        timeout_secs: environment.timeout_secs,
    })
}

/// The ids of the targets' clusters, each of which is registered and lets deployments
/// watch the target's namespace.
pub(crate) async fn clusters(
    registry: &dyn Registry,
    targets: &[TargetRequest],
) -> Result<Vec<String>, Unresolved> {
    // Forty targets on one cluster are one row to read.
    let ids: BTreeSet<String> = targets.iter().map(|t| slug(&t.cluster)).collect();
    let read = ids.into_iter().map(|id| async move {
        // A name without letters and digits has no id to look for.
        let row = if id.is_empty() { None } else { registry.get(&id).await? };
        Ok((id, row))
    });
    let rows: BTreeMap<String, Option<ClusterRow>> =
        join_all(read).await.into_iter().collect::<Result<_, StoreError>>()?;
    let mut refusals = Vec::new();
    let mut ids = Vec::with_capacity(targets.len());
    for (index, target) in targets.iter().enumerate() {
        let row = rows.get(&slug(&target.cluster)).and_then(Option::as_ref);
        // The slug alone would let `prod/eu` stand for `prod-eu`.
        let row = row.filter(|r| r.name == target.cluster || r.id == target.cluster);
        let Some(row) = row.filter(|r| r.state.is_usable()) else {
            refusals.push(Refusal {
                pointer: format!("/targets/{index}/cluster"),
                detail: format!("no cluster \"{}\" is registered", target.cluster),
            });
            continue;
        };
        if !row.namespaces.allows(&target.namespace) {
            refusals.push(Refusal {
                pointer: format!("/targets/{index}/namespace"),
                detail: closed(&row.id, &target.namespace, &row.namespaces),
            });
        }
        ids.push(row.id.clone());
    }
    if refusals.is_empty() { Ok(ids) } else { Err(Unresolved::Refused(refusals)) }
}

/// That a namespace is closed, in words.
pub(crate) fn closed(cluster: &str, namespace: &str, namespaces: &crate::namespaces::Namespaces) -> String {
    format!("namespace {namespace} of cluster {cluster} is not open to deployments; open are {namespaces}")
}
