//! The clusters' credentials as one process keeps them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::ports::{Clock, Credentials, StoreError, Vault};

/// How long credentials are used before they are read again. A rotated token is
/// noticed at once by its refusal; this bounds how long a process goes on with
/// credentials that still work but were replaced.
const KEPT: SignedDuration = SignedDuration::from_mins(10);

/// How many clusters' credentials one process keeps.
const CLUSTERS: usize = 256;

/// Credentials as read, and whether this call read them.
pub(crate) struct Read {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) fresh: bool,
}

#[derive(Default)]
struct Slot {
    /// Held while reading, so that forty targets on one cluster read once.
    kept: tokio::sync::Mutex<Option<(Arc<Credentials>, Timestamp)>>,
}

/// Reads each cluster's credentials once, and again when they are found wanting.
pub(crate) struct CredentialCache {
    vault: Arc<dyn Vault>,
    clock: Arc<dyn Clock>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl CredentialCache {
    pub(crate) fn new(vault: Arc<dyn Vault>, clock: Arc<dyn Clock>) -> Self {
        Self { vault, clock, slots: Mutex::default() }
    }

    /// The credentials of a cluster; `None` where there are none (any more).
    /// `refused` are credentials that did not work: others are read.
    pub(crate) async fn get(
        &self,
        cluster_id: &str,
        refused: Option<&Arc<Credentials>>,
    ) -> Result<Option<Read>, StoreError> {
        let slot = self.slot(cluster_id);
        let mut kept = slot.kept.lock().await;
        let now = self.clock.now();
        if let Some((credentials, read_at)) = kept.as_ref() {
            let wanting = refused.is_some_and(|r| Arc::ptr_eq(r, credentials));
            if !wanting && now.duration_since(*read_at) < KEPT {
                // Where another target has read them anew meanwhile, they are fresh to this one.
                return Ok(Some(Read { credentials: credentials.clone(), fresh: refused.is_some() }));
            }
        }
        let read = self.vault.get(cluster_id).await?.map(Arc::new);
        *kept = read.clone().map(|credentials| (credentials, now));
        Ok(read.map(|credentials| Read { credentials, fresh: true }))
    }

    fn slot(&self, cluster_id: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= CLUSTERS && !slots.contains_key(cluster_id) {
            slots.clear();
        }
        slots.entry(cluster_id.to_owned()).or_default().clone()
    }
}
