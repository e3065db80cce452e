//! The clusters' credentials as one process keeps them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    namespaces::Namespaces,
    ports::{Auth, Clock, Credentials, Eks, EksError, StoreError, Vault},
};

/// How long credentials are used before they are read again. A rotated token is
/// noticed at once by its refusal; this bounds how long a process goes on with
/// credentials that still work but were replaced. A token that was made for EKS
/// is good for longer (see [`Eks::credentials`]).
const KEPT: SignedDuration = SignedDuration::from_mins(10);

/// How many clusters' credentials one process keeps.
const CLUSTERS: usize = 256;

/// A cluster as it is entered.
pub(crate) struct Entry {
    pub(crate) credentials: Credentials,
    pub(crate) namespaces: Namespaces,
}

/// An entry, and whether this call read it.
pub(crate) struct Read {
    pub(crate) entry: Arc<Entry>,
    pub(crate) fresh: bool,
}

/// Why a cluster can't be entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    /// The vault failed.
    #[error("the credentials can't be read")]
    Vault(#[from] StoreError),
    /// EKS gave none.
    #[error(transparent)]
    Eks(#[from] EksError),
}

#[derive(Default)]
struct Slot {
    /// Held while reading, so that forty targets on one cluster read once.
    kept: tokio::sync::Mutex<Option<(Arc<Entry>, Timestamp)>>,
}

/// Reads each cluster's credentials once, and again when they are found wanting.
pub(crate) struct CredentialCache {
    vault: Arc<dyn Vault>,
    eks: Arc<dyn Eks>,
    clock: Arc<dyn Clock>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl CredentialCache {
    pub(crate) fn new(vault: Arc<dyn Vault>, eks: Arc<dyn Eks>, clock: Arc<dyn Clock>) -> Self {
        Self { vault, eks, clock, slots: Mutex::default() }
    }

    /// How a cluster is entered; `None` where it is not registered (any more).
    /// `refused` is what did not work: another is read.
    pub(crate) async fn get(
        &self,
        cluster_id: &str,
        refused: Option<&Arc<Entry>>,
    ) -> Result<Option<Read>, EntryError> {
        let slot = self.slot(cluster_id);
        let mut kept = slot.kept.lock().await;
        let now = self.clock.now();
        if let Some((entry, read_at)) = kept.as_ref() {
            let wanting = refused.is_some_and(|r| Arc::ptr_eq(r, entry));
            if !wanting && now.duration_since(*read_at) < KEPT {
                // Where another target has read them anew meanwhile, they are fresh to this one.
                return Ok(Some(Read { entry: entry.clone(), fresh: refused.is_some() }));
            }
        }
        let read = self.read(cluster_id).await?.map(Arc::new);
        *kept = read.clone().map(|entry| (entry, now));
        Ok(read.map(|entry| Read { entry, fresh: true }))
    }

    async fn read(&self, cluster_id: &str) -> Result<Option<Entry>, EntryError> {
        let Some(secret) = self.vault.get(cluster_id).await? else {
            return Ok(None);
        };
        let credentials = match secret.auth {
            Auth::Token(credentials) => credentials,
            Auth::Eks(cluster) => self.eks.credentials(&cluster).await?,
        };
        Ok(Some(Entry { credentials, namespaces: secret.namespaces }))
    }

    fn slot(&self, cluster_id: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= CLUSTERS && !slots.contains_key(cluster_id) {
            // Any one: to know which was used longest ago would cost more than reading it again.
            slots.extract_if(|_, _| true).next();
        }
        slots.entry(cluster_id.to_owned()).or_default().clone()
    }
}
