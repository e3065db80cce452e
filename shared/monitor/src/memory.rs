//! In-memory twins of the stores: the same contract as the real ones, for the
//! demo, the local server and tests. They forget everything when the process ends.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use verdict::Status;

use crate::{
    answer::Answer,
    cluster::{ClusterRow, EksCluster},
    deployment::{Deployment, SCHEMA, Summary},
    environment::{Environment, EnvironmentPage},
    ports::{
        CheckMetrics, Checked, Clock, ClusterFailed, ClusterSecret, Credentials, Deployments, Eks, EksError,
        Environments, Events, Executions, Expected, Found, History, Metrics, Page, Probed, Registry,
        Starting, StoreError, Stored, SystemClock, Vault,
    },
    probe::Attention,
    request::Execution,
    slug::slug,
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
            Some(there)
                if there.status == Status::Pending
                    && there.rev.checked_add(1) == Some(item.rev)
                    && there.execution_arn == item.execution_arn =>
            {
                there.clone_from(item);
                Ok(Stored::Yes)
            }
            Some(there) => Ok(same(there, item)),
        }
    }

    async fn history(
        &self,
        app: &str,
        environment: &str,
        limit: usize,
        after: Option<(Timestamp, &str)>,
    ) -> Result<History, StoreError> {
        let (now, limit) = (self.clock.now().as_second(), limit.clamp(1, 100));
        let items = lock(&self.items);
        let mut found: Vec<&Deployment> = items
            .values()
            .filter(|item| item.expires_at >= now)
            .filter(|item| {
                let (of, named) = item.app_environment();
                of.as_deref() == Some(app) && named.as_deref() == Some(environment)
            })
            .filter(|item| after.is_none_or(|after| (item.started_at, item.deployment_id.as_str()) < after))
            .collect();
        found.sort_by(|a, b| (b.started_at, &b.deployment_id).cmp(&(a.started_at, &a.deployment_id)));
        let more = found.len() > limit;
        found.truncate(limit);
        let deployments = found
            .into_iter()
            .map(|item| Summary {
                deployment_id: item.deployment_id.clone(),
                status: item.status,
                reason: item.reason,
                started_at: item.started_at,
                finished_at: item.finished_at,
            })
            .collect();
        Ok(History { deployments, more })
    }
}

/// A write that finds exactly its own content was done before, unheard: over a
/// network the answer to a write can be lost while the write is not.
fn same<T: PartialEq>(there: &T, written: &T) -> Stored {
    if there == written { Stored::Yes } else { Stored::Lost }
}

/// [`Registry`] and [`Environments`] in memory.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    rows: Mutex<BTreeMap<String, ClusterRow>>,
    /// By app and environment. Locked after the rows, where both are.
    environments: Mutex<BTreeMap<(String, String), Environment>>,
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

#[async_trait]
impl Environments for MemoryRegistry {
    async fn environment(&self, app: &str, environment: &str) -> Result<Option<Environment>, StoreError> {
        Ok(lock(&self.environments).get(&(app.to_owned(), environment.to_owned())).cloned())
    }

    async fn environments(
        &self,
        app: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<EnvironmentPage, StoreError> {
        let limit = limit.clamp(1, 100);
        let from = Bound::Excluded((app.to_owned(), after.unwrap_or_default().to_owned()));
        let environments = lock(&self.environments);
        let mut found =
            environments.range((from, Bound::Unbounded)).map(|(_, it)| it).take_while(|it| it.app == app);
        let page = found.by_ref().take(limit).cloned().collect();
        Ok(EnvironmentPage { environments: page, more: found.next().is_some() })
    }

    async fn put_environment(
        &self,
        environment: &Environment,
        cluster_ids: &[String],
    ) -> Result<Stored, StoreError> {
        let rows = lock(&self.rows);
        if !cluster_ids.iter().all(|id| rows.get(id).is_some_and(|row| row.state.is_usable())) {
            return Ok(Stored::Lost);
        }
        let key = (environment.app.clone(), environment.environment.clone());
        lock(&self.environments).insert(key, environment.clone());
        Ok(Stored::Yes)
    }

    async fn remove_environment(&self, app: &str, environment: &str) -> Result<bool, StoreError> {
        Ok(lock(&self.environments).remove(&(app.to_owned(), environment.to_owned())).is_some())
    }

    async fn naming_cluster(&self, cluster_id: &str) -> Result<Vec<(String, String)>, StoreError> {
        let environments = lock(&self.environments);
        let naming = environments
            .iter()
            .filter(|(_, it)| it.targets.iter().any(|target| slug(&target.cluster) == cluster_id))
            .map(|(key, _)| key.clone());
        Ok(naming.take(10).collect())
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
    secret: ClusterSecret,
    scheduled: bool,
}

#[async_trait]
impl Vault for MemoryVault {
    async fn get(&self, cluster_id: &str) -> Result<Option<ClusterSecret>, StoreError> {
        let secrets = lock(&self.secrets);
        Ok(secrets.get(cluster_id).filter(|it| !it.scheduled).map(|it| it.secret.clone()))
    }

    async fn put(&self, cluster_id: &str, secret: &ClusterSecret) -> Result<(), StoreError> {
        let secret = Secret { secret: secret.clone(), scheduled: false };
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
    attention: Mutex<VecDeque<Attention>>,
}

impl MemoryEvents {
    /// What was published, oldest first: the last thousand.
    #[must_use]
    pub fn published(&self) -> Vec<Answer> {
        lock(&self.published).iter().cloned().collect()
    }

    /// Which clusters somebody should look at, oldest first: the last thousand.
    #[must_use]
    pub fn attention(&self) -> Vec<Attention> {
        lock(&self.attention).iter().cloned().collect()
    }
}

fn push<T>(kept: &Mutex<VecDeque<T>>, event: T) {
    let mut kept = lock(kept);
    if kept.len() == KEPT_EVENTS {
        kept.pop_front();
    }
    kept.push_back(event);
}

#[async_trait]
impl Events for MemoryEvents {
    async fn deployment_finished(&self, answer: &Answer) -> Result<(), StoreError> {
        push(&self.published, answer.clone());
        Ok(())
    }

    async fn cluster_needs_attention(&self, attention: &Attention) -> Result<(), StoreError> {
        push(&self.attention, attention.clone());
        Ok(())
    }
}

/// [`Executions`] that are only kept, not run.
#[derive(Debug, Default)]
pub struct MemoryExecutions {
    executions: Mutex<BTreeMap<String, Found>>,
}

impl MemoryExecutions {
    /// Ends one; without such a one, nothing.
    pub fn end(&self, name: &str) {
        if let Some(found) = lock(&self.executions).get_mut(name) {
            found.running = false;
        }
    }

    /// How many were started.
    #[must_use]
    pub fn started(&self) -> usize {
        lock(&self.executions).len()
    }
}

#[async_trait]
impl Executions for MemoryExecutions {
    async fn start(&self, name: &str, input: &Value) -> Result<Starting, StoreError> {
        match lock(&self.executions).entry(name.to_owned()) {
            Entry::Occupied(there) => {
                let there = there.get();
                let same = there.running && there.input.as_ref() == Some(input);
                Ok(if same { Starting::Begun(there.execution.clone()) } else { Starting::NameTaken })
            }
            Entry::Vacant(vacant) => {
                let execution = Execution {
                    arn: format!("arn:aws:states:local:000000000000:execution:deployment-monitor:{name}"),
                    started_at: SystemClock.now(),
                };
                let found = Found { execution: execution.clone(), input: Some(input.clone()), running: true };
                vacant.insert(found);
                Ok(Starting::Begun(execution))
            }
        }
    }

    async fn find(&self, name: &str) -> Result<Option<Found>, StoreError> {
        Ok(lock(&self.executions).get(name).cloned())
    }
}

/// [`Eks`] without an AWS identity.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEks;

#[async_trait]
impl Eks for NoEks {
    async fn credentials(&self, cluster: &EksCluster) -> Result<Credentials, EksError> {
        Err(EksError::Refused(format!(
            "the EKS cluster {} in {} is entered by an AWS identity, which there is only on AWS",
            cluster.cluster_name, cluster.region
        )))
    }

    fn role_allowed(&self, _: &str) -> Result<(), String> {
        Err("no role can be taken without an AWS identity".to_owned())
    }
}

/// [`Metrics`] and [`CheckMetrics`] that nobody reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMetrics;

impl Metrics for NoMetrics {
    fn cluster_probed(&self, _: &Probed<'_>) {}
}

impl CheckMetrics for NoMetrics {
    fn checked(&self, _: &Checked<'_>) {}

    fn closed(&self, _: &Deployment) {}

    fn cluster_failed(&self, _: &ClusterFailed<'_>) {}
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
    async fn environments_keep_the_contract() {
        contract::environments(&MemoryRegistry::default()).await;
    }

    #[tokio::test]
    async fn executions_keep_the_contract() {
        let executions = MemoryExecutions::default();
        contract::executions(&executions, async |name: &str| executions.end(name)).await;
        contract::executions_begun_twice(&executions).await;
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
        assert_eq!(events.attention().len(), 2);
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
