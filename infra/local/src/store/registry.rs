//! [`Registry`] and [`Environments`] in the store.

use std::ops::Bound;

use async_trait::async_trait;
use monitor::{
    cluster::ClusterRow,
    environment::{Environment, EnvironmentPage},
    ports::{Environments, Expected, Page, Registry, StoreError, Stored},
    slug::slug,
};
use redb::{ReadableTable as _, TableDefinition, WriteTransaction};

use super::{Outcome, Store, Trouble, json, parsed, row};

/// By id.
const CLUSTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("clusters");
/// By app and environment.
const ENVIRONMENTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("environments");

/// What an error calls a row.
const CLUSTER: &str = "the row of cluster";
/// Enough for a sentence.
const NAMING: usize = 10;

pub(super) fn begin(transaction: &WriteTransaction) -> Result<(), Trouble> {
    transaction.open_table(CLUSTERS)?;
    transaction.open_table(ENVIRONMENTS)?;
    Ok(())
}

fn what(app: &str, environment: &str) -> String {
    format!("environment {environment} of app {app}")
}

#[async_trait]
impl Registry for Store {
    async fn get(&self, id: &str) -> Result<Option<ClusterRow>, StoreError> {
        let id = id.to_owned();
        self.look(move |store| row(&store.open_table(CLUSTERS)?, CLUSTER, &id)).await
    }

    async fn list(&self, limit: usize, after: Option<&str>) -> Result<Page, StoreError> {
        let (limit, after) = (limit.clamp(1, 100), after.map(str::to_owned));
        self.look(move |store| {
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let table = store.open_table(CLUSTERS)?;
            let mut found = table.range::<&str>((from, Bound::Unbounded))?;
            let mut rows = Vec::new();
            for entry in found.by_ref().take(limit) {
                let (id, row) = entry?;
                rows.push(parsed(&format!("{CLUSTER} {}", id.value()), row.value())?);
            }
            Ok(Page { rows, more: found.next().transpose()?.is_some() })
        })
        .await
    }

    async fn put(&self, row: &ClusterRow, expected: Expected<'_>) -> Result<Stored, StoreError> {
        let row = row.clone();
        let nonce = match expected {
            Expected::Absent => None,
            Expected::Nonce(nonce) => Some(nonce.to_owned()),
        };
        self.change(move |store| {
            let mut table = store.open_table(CLUSTERS)?;
            let there: Option<ClusterRow> = self::row(&table, CLUSTER, &row.id)?;
            if there.as_ref().map(|it| &it.nonce) == nonce.as_ref() {
                table.insert(row.id.as_str(), json(CLUSTER, &row)?.as_slice())?;
                return Ok(Outcome::Keep(Stored::Yes));
            }
            // A write that was done before, and its answer lost.
            Ok(Outcome::Leave(if there == Some(row) { Stored::Yes } else { Stored::Lost }))
        })
        .await
    }

    async fn remove(&self, id: &str, nonce: &str) -> Result<Stored, StoreError> {
        let (id, nonce) = (id.to_owned(), nonce.to_owned());
        self.change(move |store| {
            let mut table = store.open_table(CLUSTERS)?;
            let there: Option<ClusterRow> = row(&table, CLUSTER, &id)?;
            if there.is_some_and(|row| row.nonce != nonce) {
                return Ok(Outcome::Leave(Stored::Lost));
            }
            table.remove(id.as_str())?;
            Ok(Outcome::Keep(Stored::Yes))
        })
        .await
    }
}

#[async_trait]
impl Environments for Store {
    async fn environment(&self, app: &str, environment: &str) -> Result<Option<Environment>, StoreError> {
        let (app, environment) = (app.to_owned(), environment.to_owned());
        self.look(move |store| {
            let table = store.open_table(ENVIRONMENTS)?;
            let found = table.get((app.as_str(), environment.as_str()))?;
            Ok(found.map(|it| parsed(&what(&app, &environment), it.value())).transpose()?)
        })
        .await
    }

    async fn environments(
        &self,
        app: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<EnvironmentPage, StoreError> {
        let (limit, app) = (limit.clamp(1, 100), app.to_owned());
        let after = after.unwrap_or_default().to_owned();
        self.look(move |store| {
            let table = store.open_table(ENVIRONMENTS)?;
            let from = Bound::Excluded((app.as_str(), after.as_str()));
            let mut environments = Vec::new();
            for entry in table.range::<(&str, &str)>((from, Bound::Unbounded))? {
                let (key, found) = entry?;
                let (of, name) = key.value();
                if of != app {
                    break;
                }
                if environments.len() == limit {
                    return Ok(EnvironmentPage { environments, more: true });
                }
                environments.push(parsed(&what(of, name), found.value())?);
            }
            Ok(EnvironmentPage { environments, more: false })
        })
        .await
    }

    async fn put_environment(
        &self,
        environment: &Environment,
        cluster_ids: &[String],
    ) -> Result<Stored, StoreError> {
        let (environment, ids) = (environment.clone(), cluster_ids.to_vec());
        self.change(move |store| {
            let clusters = store.open_table(CLUSTERS)?;
            for id in &ids {
                let there: Option<ClusterRow> = row(&clusters, CLUSTER, id)?;
                if !there.is_some_and(|row| row.state.is_usable()) {
                    return Ok(Outcome::Leave(Stored::Lost));
                }
            }
            let key = (environment.app.as_str(), environment.environment.as_str());
            let written = json(&what(key.0, key.1), &environment)?;
            store.open_table(ENVIRONMENTS)?.insert(key, written.as_slice())?;
            Ok(Outcome::Keep(Stored::Yes))
        })
        .await
    }

    async fn remove_environment(&self, app: &str, environment: &str) -> Result<bool, StoreError> {
        let (app, environment) = (app.to_owned(), environment.to_owned());
        self.change(move |store| {
            let mut table = store.open_table(ENVIRONMENTS)?;
            let there = table.remove((app.as_str(), environment.as_str()))?.is_some();
            Ok(Outcome::Keep(there))
        })
        .await
    }

    async fn naming_cluster(&self, cluster_id: &str) -> Result<Vec<(String, String)>, StoreError> {
        let id = cluster_id.to_owned();
        self.look(move |store| {
            let mut naming = Vec::new();
            for entry in store.open_table(ENVIRONMENTS)?.iter()? {
                let (key, found) = entry?;
                let (app, name) = key.value();
                let it: Environment = parsed(&what(app, name), found.value())?;
                if it.targets.iter().any(|target| slug(&target.cluster) == id) {
                    naming.push((it.app, it.environment));
                }
                if naming.len() == NAMING {
                    break;
                }
            }
            Ok(naming)
        })
        .await
    }
}
