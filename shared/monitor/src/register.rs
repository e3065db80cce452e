//! Registering clusters, changing and removing them.
//!
//! Two stores hold a cluster: the registry its row, the vault its credentials. No
//! transaction spans them, so the row is the lock: it is put first, in a state that
//! says what is going on; then the vault is written; then the row is settled, if it
//! is still ours (its nonce is the one we wrote). Whoever crashes in between leaves
//! a row that says so, and once it is a minute old the next one may take it over and
//! do the work again. Credentials are never in the vault without a row that names
//! them, except for the recovery window of what was deleted.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use uuid::Uuid;

use crate::{
    check::chain,
    cluster::{ClusterRow, RowState},
    ports::{Clock, Expected, Page, RegistrationRules, Registry, StoreError, Stored, Vault},
    request::{Refusal, sentence},
    slug::slug,
};

mod fields;
#[cfg(test)]
mod tests;

use fields::{Given, NewGiven};

/// When a row that somebody left in the middle may be taken over. Nobody works
/// longer than [`WORK_LIMIT`], and the rest is for a write that is still on its way
/// when its sender gives up. Shorter, and a slow one could write over its successor's
/// credentials; longer, and the operator waits in vain.
const TAKEOVER_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// How long one registration, change or removal may work. API Gateway and the
/// function give up after 29 s; here it ends in an answer, and in the local program,
/// which nobody stops, it keeps the premise of [`TAKEOVER_AFTER`].
const WORK_LIMIT: Duration = Duration::from_secs(25);

/// When to try again, where nothing was left in the middle.
const RETRY_SOON_SECS: u32 = 5;

/// When to try again, where a row was or may have been left in the middle.
const RETRY_AFTER_TAKEOVER_SECS: u32 = 60;

/// Longest name, in characters; an id is never longer than its name.
const MAX_NAME_CHARS: usize = 100;

/// The use cases of the registry.
#[derive(Clone)]
pub struct Registrar {
    /// The rows.
    pub registry: Arc<dyn Registry>,
    /// The credentials.
    pub vault: Arc<dyn Vault>,
    /// What addresses, certificates and server names are allowed.
    pub rules: Arc<dyn RegistrationRules>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// A cluster to register. What is missing is refused together with what is wrong.
#[derive(Debug, Default)]
pub struct NewCluster {
    /// For people; its slug becomes the id.
    pub name: Option<String>,
    /// Where the API server is.
    pub api_url: Option<String>,
    /// What opens it.
    pub service_account_token: Option<SecretString>,
    /// What alone is trusted; `None`: the public roots.
    pub ca_cert: Option<String>,
    /// The name in the server's certificate; `None`: the address's host.
    pub tls_server_name: Option<String>,
}

/// What is to change; `None` stays, `Some(None)` is removed.
#[derive(Debug, Default)]
pub struct Change {
    /// As in [`NewCluster`].
    pub api_url: Option<String>,
    /// As in [`NewCluster`].
    pub service_account_token: Option<SecretString>,
    /// As in [`NewCluster`].
    pub ca_cert: Option<Option<String>>,
    /// As in [`NewCluster`].
    pub tls_server_name: Option<Option<String>>,
}

/// A cluster that was registered or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its row.
    pub row: ClusterRow,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Why a use case did not come to its end. `Display` is for the caller, the
/// sources are for the log.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Fields were refused.
    #[error("{}", sentence(.0))]
    Invalid(Vec<Refusal>),
    /// No cluster has this id.
    #[error("there is no cluster with this id")]
    Unknown,
    /// A registered cluster has the id already.
    #[error("the id {id} belongs to the registered cluster {existing:?}")]
    Taken {
        /// The id.
        id: String,
        /// The name of the one that has it.
        existing: String,
    },
    /// Somebody is at work on the cluster, or was a moment ago.
    #[error("{id} is being {doing} right now; try again in a minute")]
    Busy {
        /// The id.
        id: String,
        /// What is being done.
        doing: &'static str,
    },
    /// A registration or removal broke off, so there is nothing to change.
    #[error("the {broken_off} of {id} broke off; register it again or remove it")]
    Unfinished {
        /// The id.
        id: String,
        /// What broke off.
        broken_off: &'static str,
    },
    /// A store did not answer. What was asked for may have been done or not; the
    /// same request again sets it right.
    #[error("a service behind the registry did not answer; send the same request again")]
    Unavailable {
        /// When to try again.
        retry_after_secs: u32,
        /// Which, and how.
        #[source]
        source: StoreError,
    },
    /// A store refused us, or holds what we can't read.
    #[error("the registry does not work; its operator finds the cause in the log")]
    Broken(#[source] StoreError),
}

impl RegisterError {
    /// When to try again, where that can help.
    #[must_use]
    pub const fn retry_after_secs(&self) -> Option<u32> {
        match self {
            Self::Busy { .. } => Some(RETRY_AFTER_TAKEOVER_SECS),
            Self::Unavailable { retry_after_secs, .. } => Some(*retry_after_secs),
            _ => None,
        }
    }

    /// A store failed before anything was written.
    fn before_writing(source: StoreError) -> Self {
        Self::of_store(source, RETRY_SOON_SECS)
    }

    /// A store failed while the row was ours, or may have been.
    fn at_work(source: StoreError) -> Self {
        Self::of_store(source, RETRY_AFTER_TAKEOVER_SECS)
    }

    fn of_store(source: StoreError, retry_after_secs: u32) -> Self {
        match source {
            StoreError::Transient(..) => Self::Unavailable { retry_after_secs, source },
            StoreError::Broken { .. } => Self::Broken(source),
        }
    }
}

impl Registrar {
    /// What is wrong with a registration, without asking anybody; nothing is stored.
    #[must_use]
    pub fn review(&self, new: NewCluster) -> Vec<Refusal> {
        NewGiven::check(new, &*self.rules, self.now()).err().unwrap_or_default()
    }

    /// What is wrong with a change, without asking anybody; nothing is stored.
    #[must_use]
    pub fn review_change(&self, change: Change) -> Vec<Refusal> {
        Given::check(change, &*self.rules, self.now()).err().unwrap_or_default()
    }

    /// Registers a cluster.
    ///
    /// # Errors
    /// [`RegisterError::Invalid`] with every field that is wrong; `Taken` where the
    /// id is registered; `Busy` where somebody is at work on it.
    pub async fn register(&self, new: NewCluster) -> Result<Registered, RegisterError> {
        let new = NewGiven::check(new, &*self.rules, self.now()).map_err(RegisterError::Invalid)?;
        in_time(self.register_checked(new)).await
    }

    async fn register_checked(&self, new: NewGiven) -> Result<Registered, RegisterError> {
        let NewGiven { id, name, settled } = new;
        let there = self.registry.get(&id).await.map_err(RegisterError::before_writing)?;
        if let Some(there) = &there {
            match there.state {
                RowState::Active | RowState::Updating => {
                    return Err(RegisterError::Taken { id, existing: there.name.clone() });
                }
                RowState::Registering | RowState::Deleting => self.refuse_if_at_work(there)?,
            }
        }
        let now = self.now();
        let ours = settled.describe(ClusterRow {
            id: id.clone(),
            name,
            api_url: String::new(),
            tls_server_name: None,
            ca_fingerprint: None,
            ca_not_after: None,
            token_expires_at: None,
            state: RowState::Registering,
            nonce: nonce(),
            created_at: now,
            updated_at: now,
        });
        self.write(&ours, there.as_ref().map_or(Expected::Absent, |row| Expected::Nonce(&row.nonce))).await?;
        if let Err(error) = self.vault.put(&id, &settled.credentials).await {
            return Err(if self.undo_registration(&ours).await {
                RegisterError::before_writing(error)
            } else {
                RegisterError::at_work(error)
            });
        }
        let row = self.settle(&ours, ours.clone()).await?;
        tracing::info!(cluster = %id, "registered");
        Ok(self.registered(row))
    }

    /// Takes back a row whose credentials could not be written, so that the next try
    /// need not wait. The write may have been done unheard, so the credentials go
    /// first: where they can't, the row stays and says that there may be some.
    async fn undo_registration(&self, ours: &ClusterRow) -> bool {
        let undone = async {
            self.vault.delete(&ours.id).await?;
            self.registry.remove(&ours.id, &ours.nonce).await
        };
        undo(&ours.id, undone.await)
    }

    /// Changes a registered cluster.
    ///
    /// # Errors
    /// [`RegisterError::Invalid`] with every field that is wrong; `Unknown`; `Busy`
    /// where somebody is at work on it; `Unfinished` where it was never registered
    /// to the end.
    pub async fn change(&self, id: &str, change: Change) -> Result<Registered, RegisterError> {
        let given = Given::check(change, &*self.rules, self.now()).map_err(RegisterError::Invalid)?;
        in_time(self.change_checked(id, given)).await
    }

    async fn change_checked(&self, id: &str, given: Given) -> Result<Registered, RegisterError> {
        let before = self.get(id).await?;
        match before.state {
            RowState::Active => {}
            // A change broke off. This one begins with what the vault holds, the old
            // or the new, whole in either case.
            RowState::Updating => self.refuse_if_at_work(&before)?,
            RowState::Registering | RowState::Deleting => {
                self.refuse_if_at_work(&before)?;
                let broken_off = if before.state == RowState::Deleting { "removal" } else { "registration" };
                return Err(RegisterError::Unfinished { id: before.id, broken_off });
            }
        }
        // Read before the row is ours, and true nevertheless: any writer between here
        // and our write would have changed the nonce.
        let stored = if given.is_complete() {
            None
        } else {
            self.vault.get(id).await.map_err(RegisterError::before_writing)?
        };
        let settled = given.settle(stored, &before, &*self.rules).map_err(RegisterError::Invalid)?;

        let ours = ClusterRow {
            state: RowState::Updating,
            nonce: nonce(),
            updated_at: self.now(),
            ..before.clone()
        };
        self.write(&ours, Expected::Nonce(&before.nonce)).await?;
        if let Err(error) = self.vault.put(id, &settled.credentials).await {
            // As it was, `updated_at` too: what could be taken over before can be again.
            let back = ClusterRow { nonce: nonce(), ..before };
            return Err(if undo(id, self.registry.put(&back, Expected::Nonce(&ours.nonce)).await) {
                RegisterError::before_writing(error)
            } else {
                RegisterError::at_work(error)
            });
        }
        let row = self.settle(&ours, settled.describe(ours.clone())).await?;
        tracing::info!(cluster = %id, "changed");
        Ok(self.registered(row))
    }

    /// Removes a cluster, and what a registration or removal of it left behind.
    ///
    /// # Errors
    /// [`RegisterError::Unknown`]; `Busy` where somebody is at work on it.
    pub async fn remove(&self, id: &str) -> Result<(), RegisterError> {
        in_time(self.remove_in_time(id)).await
    }

    async fn remove_in_time(&self, id: &str) -> Result<(), RegisterError> {
        let before = self.get(id).await?;
        match before.state {
            RowState::Active => {}
            // Not even a removal is joined before its time: if we finished it, and the
            // name were registered anew at once, the first remover's late call to the
            // vault would take away the new credentials.
            RowState::Registering | RowState::Updating | RowState::Deleting => {
                self.refuse_if_at_work(&before)?
            }
        }
        // Environments, once there are any, are asked here: a cluster that one of them
        // names stays.
        let ours = ClusterRow {
            state: RowState::Deleting,
            nonce: nonce(),
            updated_at: self.now(),
            ..before.clone()
        };
        self.write(&ours, Expected::Nonce(&before.nonce)).await?;
        // Where this fails the row stays `Deleting`: the credentials may be gone, and
        // a cluster without them must not look as if it were in use.
        self.vault.delete(id).await.map_err(RegisterError::at_work)?;
        match self.registry.remove(id, &ours.nonce).await.map_err(RegisterError::at_work)? {
            Stored::Yes => {
                tracing::info!(cluster = %id, "removed");
                Ok(())
            }
            Stored::Lost => Err(taken_over(id)),
        }
    }

    /// One cluster.
    ///
    /// # Errors
    /// [`RegisterError::Unknown`], or what became of a store.
    pub async fn get(&self, id: &str) -> Result<ClusterRow, RegisterError> {
        // What can't be an id isn't looked up: it might not even be allowed as a key.
        if id.is_empty() || id.len() > MAX_NAME_CHARS || slug(id) != id {
            return Err(RegisterError::Unknown);
        }
        let row = self.registry.get(id).await.map_err(RegisterError::before_writing)?;
        row.ok_or(RegisterError::Unknown)
    }

    /// Clusters in the order of their ids: at most `limit` (1-100), after the id `after`.
    ///
    /// # Errors
    /// What became of a store.
    pub async fn list(&self, limit: usize, after: Option<&str>) -> Result<Page, RegisterError> {
        self.registry.list(limit, after).await.map_err(RegisterError::before_writing)
    }

    /// Ends the work on a row that is ours.
    async fn settle(&self, ours: &ClusterRow, row: ClusterRow) -> Result<ClusterRow, RegisterError> {
        let row = ClusterRow { state: RowState::Active, nonce: nonce(), updated_at: self.now(), ..row };
        self.write(&row, Expected::Nonce(&ours.nonce)).await?;
        Ok(row)
    }

    async fn write(&self, row: &ClusterRow, expected: Expected<'_>) -> Result<(), RegisterError> {
        match self.registry.put(row, expected).await.map_err(RegisterError::at_work)? {
            Stored::Yes => Ok(()),
            Stored::Lost => Err(taken_over(&row.id)),
        }
    }

    fn refuse_if_at_work(&self, row: &ClusterRow) -> Result<(), RegisterError> {
        if self.now().duration_since(row.updated_at) >= TAKEOVER_AFTER {
            return Ok(());
        }
        let doing = match row.state {
            RowState::Registering => "registered",
            RowState::Active | RowState::Updating => "changed",
            RowState::Deleting => "removed",
        };
        Err(RegisterError::Busy { id: row.id.clone(), doing })
    }

    fn registered(&self, row: ClusterRow) -> Registered {
        let warnings = fields::warnings(&row, self.now());
        Registered { row, warnings }
    }

    /// To the millisecond: nobody reads the nanoseconds of a registration.
    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

fn nonce() -> String {
    Uuid::new_v4().to_string()
}

fn taken_over(id: &str) -> RegisterError {
    RegisterError::Busy { id: id.to_owned(), doing: "changed by somebody else" }
}

/// Whether taking back has worked. If not, its own error is told here: the caller
/// hears of the one that made it necessary.
fn undo(id: &str, undone: Result<Stored, StoreError>) -> bool {
    match undone {
        Ok(Stored::Yes) => true,
        Ok(Stored::Lost) => false,
        Err(error) => {
            tracing::warn!(cluster = %id, error = %chain(&error), "could not take back what was begun");
            false
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, RegisterError>>) -> Result<T, RegisterError> {
    tokio::time::timeout(WORK_LIMIT, work).await.unwrap_or_else(|elapsed| {
        Err(RegisterError::at_work(StoreError::Transient("the registry or the vault", Box::new(elapsed))))
    })
}
