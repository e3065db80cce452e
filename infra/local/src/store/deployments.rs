//! [`Deployments`] in the store.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use monitor::{
    deployment::{Deployment, SCHEMA, Summary},
    ports::{Clock, Deployments, History, StoreError, Stored},
};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::Deserialize;
use verdict::Status;

use super::{Outcome, Store, Trouble, json, row};

/// By id.
const ITEMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("deployments");
/// When each may be dropped, in seconds since 1970, and its id.
const EXPIRY: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("deployments-expiry");
/// App and environment, the start in nanoseconds since 1970, and the id.
const HISTORY: TableDefinition<'_, (&str, i128, &str), ()> = TableDefinition::new("deployments-history");

/// What an error calls an item.
const ITEM: &str = "the item of deployment";

pub(super) fn begin(transaction: &WriteTransaction) -> Result<(), Trouble> {
    Tables::open(transaction).map(drop)
}

/// The deployments of a store; the clock tells what has expired.
#[derive(Clone)]
pub(crate) struct StoredDeployments {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Read first: what another schema calls `status` may mean something else.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// What a list shows, and until when.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(flatten)]
    summary: Summary,
    expires_at: i64,
}

/// The items and what leads to them, changed together.
struct Tables<'a> {
    items: Table<'a, &'static str, &'static [u8]>,
    expiry: Table<'a, (i64, &'static str), ()>,
    history: Table<'a, (&'static str, i128, &'static str), ()>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, Trouble> {
        Ok(Self {
            items: transaction.open_table(ITEMS)?,
            expiry: transaction.open_table(EXPIRY)?,
            history: transaction.open_table(HISTORY)?,
        })
    }

    fn put(&mut self, item: &Deployment) -> Result<(), Trouble> {
        let id = item.deployment_id.as_str();
        self.items.insert(id, json(&format!("{ITEM} {id}"), item)?.as_slice())?;
        self.expiry.insert((item.expires_at, id), ())?;
        if let Some(of) = app_environment(item) {
            self.history.insert((of.as_str(), item.started_at.as_nanosecond(), id), ())?;
        }
        Ok(())
    }

    fn remove(&mut self, item: &Deployment) -> Result<(), Trouble> {
        let id = item.deployment_id.as_str();
        self.items.remove(id)?;
        self.expiry.remove((item.expires_at, id))?;
        if let Some(of) = app_environment(item) {
            self.history.remove((of.as_str(), item.started_at.as_nanosecond(), id))?;
        }
        Ok(())
    }

    /// Removes what has expired, as the table's TTL does on AWS.
    fn purge(&mut self, now: i64) -> Result<(), Trouble> {
        let mut expired = Vec::new();
        for entry in self.expiry.range(..(now, ""))? {
            let (key, _) = entry?;
            let (at, id) = key.value();
            expired.push((at, id.to_owned()));
        }
        for (at, id) in expired {
            if let Ok(Some(item)) = found(&self.items, &id) {
                self.remove(&item)?;
            }
            // What another version wrote goes, too; what leads to it then leads nowhere.
            self.items.remove(id.as_str())?;
            self.expiry.remove((at, id.as_str()))?;
        }
        Ok(())
    }
}

/// Neither name has the character between.
fn app_environment(item: &Deployment) -> Option<String> {
    let (app, environment) = item.app_environment();
    Some(format!("{}#{}", app?, environment?))
}

/// An item of this version, expired or not.
fn found(
    items: &impl ReadableTable<&'static str, &'static [u8]>,
    id: &str,
) -> Result<Option<Deployment>, Trouble> {
    match row::<Version>(items, ITEM, id)? {
        Some(Version { schema }) if schema != SCHEMA => {
            let what = format!("{ITEM} {id} has schema {schema}; this version reads schema {SCHEMA}");
            Err(StoreError::Broken { what, source: None }.into())
        }
        Some(_) => row(items, ITEM, id),
        None => Ok(None),
    }
}

/// A write that finds exactly its own content was done before, unheard.
fn same(there: &Deployment, item: &Deployment) -> Outcome<Stored> {
    Outcome::Leave(if there == item { Stored::Yes } else { Stored::Lost })
}

#[async_trait]
impl Deployments for StoredDeployments {
    async fn get(&self, deployment_id: &str) -> Result<Option<Deployment>, StoreError> {
        let (id, now) = (deployment_id.to_owned(), self.clock.now().as_second());
        let item = self.store.look(move |store| found(&store.open_table(ITEMS)?, &id)).await?;
        Ok(item.filter(|item| item.expires_at >= now))
    }

    async fn create(&self, item: &Deployment, now: Timestamp) -> Result<Stored, StoreError> {
        let (item, now) = (item.clone(), now.as_second());
        self.store
            .change(move |store| {
                let mut tables = Tables::open(store)?;
                tables.purge(now)?;
                if let Some(there) = found(&tables.items, &item.deployment_id)? {
                    return Ok(same(&there, &item));
                }
                tables.put(&item)?;
                Ok(Outcome::Keep(Stored::Yes))
            })
            .await
    }

    async fn update(&self, item: &Deployment) -> Result<Stored, StoreError> {
        let item = item.clone();
        self.store
            .change(move |store| {
                let mut tables = Tables::open(store)?;
                let Some(there) = found(&tables.items, &item.deployment_id)? else {
                    return Ok(Outcome::Leave(Stored::Lost));
                };
                let holds = there.status == Status::Pending
                    && there.rev.checked_add(1) == Some(item.rev)
                    && there.execution_arn == item.execution_arn;
                if !holds {
                    return Ok(same(&there, &item));
                }
                tables.remove(&there)?;
                tables.put(&item)?;
                Ok(Outcome::Keep(Stored::Yes))
            })
            .await
    }

    async fn history(
        &self,
        app: &str,
        environment: &str,
        limit: usize,
        after: Option<(Timestamp, &str)>,
    ) -> Result<History, StoreError> {
        let of = format!("{app}#{environment}");
        let (now, limit) = (self.clock.now().as_second(), limit.clamp(1, 100));
        let after = after.map(|(started_at, id)| (started_at.as_nanosecond(), id.to_owned()));
        self.store
            .look(move |store| {
                let items = store.open_table(ITEMS)?;
                let index = store.open_table(HISTORY)?;
                // No instant is so late.
                let (until, id) = after.as_ref().map_or((i128::MAX, ""), |(at, id)| (*at, id));
                let mut deployments = Vec::new();
                for entry in index.range((of.as_str(), i128::MIN, "")..(of.as_str(), until, id))?.rev() {
                    let (key, _) = entry?;
                    let (_, _, id) = key.value();
                    let listed: Option<Listed> = row(&items, ITEM, id)?;
                    let Some(listed) = listed.filter(|it| it.expires_at >= now) else { continue };
                    if deployments.len() == limit {
                        return Ok(History { deployments, more: true });
                    }
                    deployments.push(listed.summary);
                }
                Ok(History { deployments, more: false })
            })
            .await
    }
}
