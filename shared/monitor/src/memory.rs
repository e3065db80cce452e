//! In-memory twins of the stores: the same contract as the real ones, for the
//! demo, the local server and tests. They forget everything when the process ends.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use verdict::Status;

use crate::{
    answer::Answer,
    cluster::ClusterRow,
    deployment::{Deployment, SCHEMA},
    ports::{
        Clock, Credentials, Deployments, Events, Expected, Page, Registry, StoreError, Stored, SystemClock,
        Vault,
    },
};

/// How many events are kept for [`MemoryEvents::published`]: a server that runs
/// for weeks must not grow by each deployment.
const KEPT_EVENTS: usize = 1_000;

/// Every section below leaves the data whole at each step, so what a panicking
/// thread left behind can be used.
fn lock<T>(data: &Mutex<T>) -> MutexGuard<'_, T> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`Deployments`] in memory.
pub struct MemoryDeployments {
    items: Mutex<BTreeMap<String, Deployment>>,
    clock: Arc<dyn Clock>,
}

impl MemoryDeployments {
    /// An empty store; the clock tells what has expired.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { items: Mutex::default(), clock }
    }
}

impl Default for MemoryDeployments {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

#[async_trait]
impl Deployments for MemoryDeployments {
    async fn get(&self, deployment_id: &str) -> Result<Option<Deployment>, StoreError> {
        let now = self.clock.now().as_second();
        let items = lock(&self.items);
        let Some(item) = items.get(deployment_id).filter(|item| item.expires_at >= now) else {
            return Ok(None);
        };
        if item.schema != SCHEMA {
            return Err(StoreError::Broken {
                what: format!(
                    "the item of deployment {deployment_id} has schema {}; this version reads schema {SCHEMA}",
                    item.schema
                ),
                source: None,
            });
        }
        Ok(Some(item.clone()))
    }

    async fn create(&self, item: &Deployment, now: Timestamp) -> Result<Stored, StoreError> {
        let now = now.as_second();
        let mut items = lock(&self.items);
        match items.get(&item.deployment_id) {
            Some(there) if there.expires_at >= now => Ok(same(there, item)),
            _ => {
                // Nothing else removes expired items here, as the table's TTL does.
                items.retain(|_, there| there.expires_at >= now);
                items.insert(item.deployment_id.clone(), item.clone());
                Ok(Stored::Yes)
            }
        }
    }

    async fn update(&self, item: &Deployment) -> Result<Stored, StoreError> {
        match lock(&self.items).get_mut(&item.deployment_id) {
            None => Ok(Stored::Lost),
            Some(there) if there.status == Status::Pending && there.rev.checked_add(1) == Some(item.rev) => {
                there.clone_from(item);
                Ok(Stored::Yes)
            }
            Some(there) => Ok(same(there, item)),
        }
    }
}

/// A write that finds exactly its own content was done before, unheard: over a
/// network the answer to a write can be lost while the write is not.
fn same<T: PartialEq>(there: &T, written: &T) -> Stored {
    if there == written { Stored::Yes } else { Stored::Lost }
}

/// [`Registry`] in memory.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    rows: Mutex<BTreeMap<String, ClusterRow>>,
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn get(&self, id: &str) -> Result<Option<ClusterRow>, StoreError> {
        Ok(lock(&self.rows).get(id).cloned())
    }

    async fn list(&self, limit: usize, after: Option<&str>) -> Result<Page, StoreError> {
        let limit = limit.clamp(1, 100);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = lock(&self.rows);
        let mut found = rows.range::<str, _>((from, Bound::Unbounded)).map(|(_, row)| row);
        let page = found.by_ref().take(limit).cloned().collect();
        Ok(Page { rows: page, more: found.next().is_some() })
    }

    async fn put(&self, row: &ClusterRow, expected: Expected<'_>) -> Result<Stored, StoreError> {
        let mut rows = lock(&self.rows);
        let there = rows.get(&row.id);
        let holds = match expected {
            Expected::Absent => there.is_none(),
            Expected::Nonce(nonce) => there.is_some_and(|there| there.nonce == nonce),
        };
        if holds {
            rows.insert(row.id.clone(), row.clone());
            return Ok(Stored::Yes);
        }
        Ok(there.map_or(Stored::Lost, |there| same(there, row)))
    }

    async fn remove(&self, id: &str, nonce: &str) -> Result<Stored, StoreError> {
        let mut rows = lock(&self.rows);
        if rows.get(id).is_some_and(|row| row.nonce != nonce) {
            return Ok(Stored::Lost);
        }
        rows.remove(id);
        Ok(Stored::Yes)
    }
}

/// [`Vault`] in memory. Deleted credentials stay, scheduled for deletion, until
/// they are put again, as during Secrets Manager's recovery window.
#[derive(Debug, Default)]
pub struct MemoryVault {
    secrets: Mutex<BTreeMap<String, Secret>>,
}

#[derive(Debug)]
struct Secret {
    credentials: Credentials,
    scheduled: bool,
}

#[async_trait]
impl Vault for MemoryVault {
    async fn get(&self, cluster_id: &str) -> Result<Option<Credentials>, StoreError> {
        let secrets = lock(&self.secrets);
        Ok(secrets
            .get(cluster_id)
            .filter(|secret| !secret.scheduled)
            .map(|secret| secret.credentials.clone()))
    }

    async fn put(&self, cluster_id: &str, credentials: &Credentials) -> Result<(), StoreError> {
        let secret = Secret { credentials: credentials.clone(), scheduled: false };
        lock(&self.secrets).insert(cluster_id.to_owned(), secret);
        Ok(())
    }

    async fn delete(&self, cluster_id: &str) -> Result<(), StoreError> {
        if let Some(secret) = lock(&self.secrets).get_mut(cluster_id) {
            secret.scheduled = true;
        }
        Ok(())
    }
}

/// [`Events`] in memory.
#[derive(Debug, Default)]
pub struct MemoryEvents {
    published: Mutex<VecDeque<Answer>>,
}

impl MemoryEvents {
    /// What was published, oldest first: the last thousand.
    #[must_use]
    pub fn published(&self) -> Vec<Answer> {
        lock(&self.published).iter().cloned().collect()
    }
}

#[async_trait]
impl Events for MemoryEvents {
    async fn deployment_finished(&self, answer: &Answer) -> Result<(), StoreError> {
        let mut published = lock(&self.published);
        if published.len() == KEPT_EVENTS {
            published.pop_front();
        }
        published.push_back(answer.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[tokio::test]
    async fn deployments_keep_the_contract() {
        contract::deployments(&MemoryDeployments::default(), Timestamp::now()).await;
    }

    #[tokio::test]
    async fn the_registry_keeps_the_contract() {
        contract::registry(&MemoryRegistry::default()).await;
    }

    #[tokio::test]
    async fn the_vault_keeps_the_contract() {
        contract::vault(&MemoryVault::default()).await;
    }

    #[tokio::test]
    async fn events_keep_the_contract_and_are_recorded() {
        let events = MemoryEvents::default();
        contract::events(&events).await;
        let published = events.published();
        assert_eq!(published.len(), 2);
        assert_eq!(published.first(), published.last());
    }

    #[tokio::test]
    async fn events_do_not_grow_for_ever() {
        let events = MemoryEvents::default();
        let now = Timestamp::now();
        for n in 0..KEPT_EVENTS + 3 {
            let answer = Answer::from(&contract::deployment(&format!("d-{n}"), now));
            events.deployment_finished(&answer).await.unwrap();
        }
        let published = events.published();
        assert_eq!(published.len(), KEPT_EVENTS);
        assert_eq!(published[0].deployment_id, "d-3");
    }

    #[tokio::test]
    async fn expired_deployments_make_room() {
        let store = MemoryDeployments::default();
        let now = Timestamp::now();
        let mut old = contract::deployment("old", now);
        old.expires_at = now.as_second() - 1;
        assert_eq!(store.create(&old, now).await.unwrap(), Stored::Yes);
        assert_eq!(store.create(&contract::deployment("new", now), now).await.unwrap(), Stored::Yes);
        assert_eq!(lock(&store.items).len(), 1);
    }

    #[test]
    fn a_thread_that_panicked_locks_nobody_out() {
        let data = Arc::new(Mutex::new(7));
        let theirs = Arc::clone(&data);
        let panicked = std::thread::spawn(move || {
            let _guard = theirs.lock();
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert_eq!(*lock(&data), 7);
    }
}
