//! Registering clusters, changing and removing them.
//!
//! Two stores hold a cluster: the registry its row, the vault its credentials. No
//! transaction spans them, so the row is the lock: it is put first, in a state that
//! says what is going on; then the vault is written; then the row is settled, if it
//! is still ours (its nonce is the one we wrote). Whoever crashes in between leaves
//! a row that says so, and once it is a minute old the next one may take it over and
//! do the work again. Credentials are never in the vault without a row that names
//! them, except for the recovery window of what was deleted.
//!
//! A cluster is asked before anything of it is written: a probe that fails leaves
//! everything as it was, and so does a process that ends during one.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use uuid::Uuid;

use crate::{
    check::chain,
    cluster::{ClusterRow, RowState},
    ports::{
        Clock, Credentials, Eks, Environments, Events, Expected, Metrics, Page, Prober, RegistrationRules,
        Registry, StoreError, Stored, Vault,
    },
    probe::{LastProbe, ProbeFailure},
    request::{Refusal, sentence},
    slug::slug,
};

mod fields;
mod probing;
#[cfg(test)]
mod tests;

use fields::{Given, NewGiven, Settled};

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

/// What is said of a cluster that was stored without asking it.
const NOT_PROBED: &str = "nothing was asked of the cluster: whether it can be reached, and what the account may do \
                          there, is not known until it is probed";

/// Longest name, in characters; an id is never longer than its name.
const MAX_NAME_CHARS: usize = 100;

/// The use cases of the registry.
#[derive(Clone)]
pub struct Registrar {
    /// The rows.
    pub registry: Arc<dyn Registry>,
    /// The environments: a cluster that one of them names is not removed.
    pub environments: Arc<dyn Environments>,
    /// The credentials.
    pub vault: Arc<dyn Vault>,
    /// Entering EKS clusters.
    pub eks: Arc<dyn Eks>,
    /// Asking clusters.
    pub prober: Arc<dyn Prober>,
    /// Where the daily probe tells of clusters that somebody should look at.
    pub events: Arc<dyn Events>,
    /// Where the daily probe leaves its figures.
    pub metrics: Arc<dyn Metrics>,
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
    /// Which namespaces deployments may watch; `None`: all.
    pub namespaces: Option<Vec<String>>,
    /// Entered by our AWS identity, instead of address, token and CA.
    pub eks: Option<NewEks>,
}

/// An EKS cluster as it is given.
#[derive(Debug, Default, Clone)]
pub struct NewEks {
    /// Its name in EKS.
    pub cluster_name: Option<String>,
    /// The AWS region that it is in.
    pub region: Option<String>,
    /// The role that is taken on the way: one of the parameter `EksRoleArns`.
    pub role_arn: Option<String>,
}

/// Whether a cluster is probed before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probing {
    /// It is, and a failed probe stores nothing.
    First,
    /// It is not, and the answer warns of it.
    Skipped,
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
    /// As in [`NewCluster`].
    pub namespaces: Option<Option<Vec<String>>>,
    /// As in [`NewCluster`].
    pub eks: Option<NewEks>,
}

/// A cluster that was registered or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its row.
    pub row: ClusterRow,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// What a probe of all clusters came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// How many were probed.
    pub probed: usize,
    /// Of how many somebody was told to look at them.
    pub attention: usize,
    /// How many were not probed: there was no time, or a service behind did not answer.
    pub left: usize,
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
    /// The probe failed, so nothing was stored.
    #[error("the cluster can't be asked: {}; {}", .0.detail, .0.help)]
    ProbeFailed(ProbeFailure),
    /// Environments name the cluster, so it stays.
    #[error("{id} is named by {}; change or remove them first", named(.environments))]
    InUse {
        /// The id.
        id: String,
        /// App and environment of each, ten at most.
        environments: Vec<(String, String)>,
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

    /// The row was never registered, or never removed, to the end.
    fn unfinished(row: &ClusterRow) -> Self {
        let broken_off = if row.state == RowState::Deleting { "removal" } else { "registration" };
        Self::Unfinished { id: row.id.clone(), broken_off }
    }

    /// The vault has lost what it should hold.
    fn credentials_gone() -> Self {
        let detail = "the stored credentials are gone; give them again, by a change of the cluster";
        Self::Invalid(vec![Refusal { pointer: String::new(), detail: detail.to_owned() }])
    }

    fn of_store(source: StoreError, retry_after_secs: u32) -> Self {
        match source {
            StoreError::Transient(..) => Self::Unavailable { retry_after_secs, source },
            StoreError::Broken { .. } | StoreError::Told(_) => Self::Broken(source),
        }
    }
}

impl Registrar {
    /// What is wrong with a registration, without asking anybody; nothing is stored.
    #[must_use]
    pub fn review(&self, new: NewCluster) -> Vec<Refusal> {
        NewGiven::check(new, &*self.rules, &*self.eks, self.now()).err().unwrap_or_default()
    }

    /// What is wrong with a change, without asking anybody; nothing is stored.
    #[must_use]
    pub fn review_change(&self, change: Change) -> Vec<Refusal> {
        Given::check(change, &*self.rules, &*self.eks, self.now()).err().unwrap_or_default()
    }

    /// Registers a cluster.
    ///
    /// # Errors
    /// [`RegisterError::Invalid`] with every field that is wrong; `Taken` where the
    /// id is registered; `Busy` where somebody is at work on it; `ProbeFailed` where
    /// the cluster can't be asked, or EKS refuses to tell of it: then nothing is stored.
    pub async fn register(&self, new: NewCluster, probing: Probing) -> Result<Registered, RegisterError> {
        let new =
            NewGiven::check(new, &*self.rules, &*self.eks, self.now()).map_err(RegisterError::Invalid)?;
        in_time(self.register_checked(new, probing)).await
    }

    async fn register_checked(&self, new: NewGiven, probing: Probing) -> Result<Registered, RegisterError> {
        let NewGiven { id, name, settled } = new;
        // Before anything is asked: where the registration is refused anyway, no token
        // is sent anywhere.
        let there = self.registry.get(&id).await.map_err(RegisterError::before_writing)?;
        if let Some(there) = &there {
            match there.state {
                RowState::Active | RowState::Updating => {
                    return Err(RegisterError::Taken { id, existing: there.name.clone() });
                }
                RowState::Registering | RowState::Deleting => self.refuse_if_at_work(there)?,
            }
        }
        let asked = self.ask_first(&id, &settled, probing).await?;
        // Of this instant, not of the beginning: the minute until a takeover runs from
        // the first write.
        let now = self.now();
        let blank = ClusterRow::new(id.clone(), name, nonce(), now);
        let (row, warnings) = settled.describe(Some(&asked.credentials), blank, &*self.rules, now);
        let ours = ClusterRow { last_probe: asked.last_probe, ..row };
        self.write(&ours, there.as_ref().map_or(Expected::Absent, |row| Expected::Nonce(&row.nonce))).await?;
        if let Err(error) = self.vault.put(&id, &settled.secret).await {
            return Err(if self.undo_registration(&ours, there).await {
                RegisterError::before_writing(error)
            } else {
                RegisterError::at_work(error)
            });
        }
        let row = self.settle(&ours, ours.clone()).await?;
        tracing::info!(cluster = %id, "registered");
        Ok(registered(row, warnings, probing))
    }

    /// Enters and asks a cluster that is about to be stored.
    async fn ask_first(&self, id: &str, settled: &Settled, probing: Probing) -> Result<Asked, RegisterError> {
        let asked = async {
            let credentials = self.enter(&settled.secret.auth).await?;
            let last_probe = match probing {
                Probing::First => Some(self.ask(&credentials, &settled.secret.namespaces).await?),
                Probing::Skipped => None,
            };
            Ok(Asked { credentials, last_probe })
        };
        asked.await.inspect_err(|error| {
            if let RegisterError::ProbeFailed(failure) = error {
                tracing::info!(
                    cluster = %id,
                    reason = ?failure.reason,
                    detail = failure.detail,
                    "the probe failed; nothing was stored"
                );
            }
        })
    }

    /// Takes back a row whose credentials could not be written, so that the next try
    /// need not wait. The write may have been done unheard, so the credentials go
    /// first: where they can't, the row stays and says that there may be some.
    ///
    /// A row that was taken over is put back instead: it said already that there may
    /// be some, and an environment may name it.
    async fn undo_registration(&self, ours: &ClusterRow, there: Option<ClusterRow>) -> bool {
        let undone = async {
            if let Some(there) = there {
                let back = ClusterRow { nonce: nonce(), ..there };
                return self.registry.put(&back, Expected::Nonce(&ours.nonce)).await;
            }
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
    /// to the end; `ProbeFailed` where it can't be asked as it would be then, or EKS
    /// refuses to tell of it: then nothing is changed.
    pub async fn change(
        &self,
        id: &str,
        change: Change,
        probing: Probing,
    ) -> Result<Registered, RegisterError> {
        let given =
            Given::check(change, &*self.rules, &*self.eks, self.now()).map_err(RegisterError::Invalid)?;
        in_time(self.change_checked(id, given, probing)).await
    }

    async fn change_checked(
        &self,
        id: &str,
        given: Given,
        probing: Probing,
    ) -> Result<Registered, RegisterError> {
        let before = self.get(id).await?;
        match before.state {
            RowState::Active => {}
            // A change broke off. This one begins with what the vault holds, the old
            // or the new, whole in either case.
            RowState::Updating => self.refuse_if_at_work(&before)?,
            RowState::Registering | RowState::Deleting => {
                self.refuse_if_at_work(&before)?;
                return Err(RegisterError::unfinished(&before));
            }
        }
        // Read before the row is ours, and true nevertheless: any writer between here
        // and our write would have changed the nonce.
        let stored = if given.is_complete() {
            None
        } else {
            self.vault.get(id).await.map_err(RegisterError::before_writing)?
        };
        let settled =
            given.settle(stored, &before, &*self.rules, self.now()).map_err(RegisterError::Invalid)?;
        let asked = self.ask_first(id, &settled, probing).await?;

        let now = self.now();
        let ours =
            ClusterRow { state: RowState::Updating, nonce: nonce(), updated_at: now, ..before.clone() };
        self.write(&ours, Expected::Nonce(&before.nonce)).await?;
        // The last probe is of what was there: of the row of a change that broke off,
        // nobody knows which that was.
        let still_true = !settled.moved && before.state == RowState::Active;
        let last_probe = asked.last_probe.or_else(|| before.last_probe.clone().filter(|_| still_true));
        if let Err(error) = self.vault.put(id, &settled.secret).await {
            // As it was, `updated_at` too: what could be taken over before can be again.
            let back = ClusterRow { nonce: nonce(), ..before };
            return Err(if undo(id, self.registry.put(&back, Expected::Nonce(&ours.nonce)).await) {
                RegisterError::before_writing(error)
            } else {
                RegisterError::at_work(error)
            });
        }
        let (row, warnings) = settled.describe(Some(&asked.credentials), ours.clone(), &*self.rules, now);
        let row = self.settle(&ours, ClusterRow { last_probe, ..row }).await?;
        tracing::info!(cluster = %id, "changed");
        Ok(registered(row, warnings, probing))
    }

    /// Removes a cluster, and what a registration or removal of it left behind.
    ///
    /// # Errors
    /// [`RegisterError::Unknown`]; `Busy` where somebody is at work on it; `InUse`
    /// where environments name it: then it stays as it is.
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
        // Asked twice. Here, so that a removal that is refused disturbs nobody: while the
        // row is `Deleting`, deployments don't find their cluster.
        let environments =
            self.environments.naming_cluster(id).await.map_err(RegisterError::before_writing)?;
        if !environments.is_empty() {
            self.restore(before).await?;
            return Err(RegisterError::InUse { id: id.to_owned(), environments });
        }
        let ours = ClusterRow {
            state: RowState::Deleting,
            nonce: nonce(),
            updated_at: self.now(),
            ..before.clone()
        };
        self.write(&ours, Expected::Nonce(&before.nonce)).await?;
        // And once the row is `Deleting`: after that no environment is stored that names
        // it, and one that was stored before is seen here.
        let named = self.environments.naming_cluster(id).await;
        if !matches!(&named, Ok(environments) if environments.is_empty()) {
            let back = ClusterRow { nonce: nonce(), ..before };
            let back = self.registry.put(&back, Expected::Nonce(&ours.nonce)).await;
            return Err(match (named, back) {
                (Ok(environments), Ok(Stored::Yes)) => {
                    RegisterError::InUse { id: id.to_owned(), environments }
                }
                (Ok(_), Ok(Stored::Lost)) => taken_over(id),
                (Ok(_), Err(error)) => RegisterError::at_work(error),
                (Err(error), back) => {
                    if undo(id, back) {
                        RegisterError::before_writing(error)
                    } else {
                        RegisterError::at_work(error)
                    }
                }
            });
        }
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

    /// Puts back a cluster whose removal broke off although an environment names it.
    /// That removal had not come to the credentials: it takes them only once no
    /// environment names the cluster, and then none can any more. If there are none
    /// nevertheless, it stays as it is, for a registration to take over.
    async fn restore(&self, left: ClusterRow) -> Result<(), RegisterError> {
        if left.state != RowState::Deleting {
            return Ok(());
        }
        let Some(secret) = self.vault.get(&left.id).await.map_err(RegisterError::before_writing)? else {
            return Ok(());
        };
        let settled = Settled::of_stored(secret, &left, &*self.rules, self.now());
        let back = ClusterRow { state: RowState::Active, nonce: nonce(), ..left.clone() };
        let (back, _) = settled.describe(None, back, &*self.rules, self.now());
        self.write(&back, Expected::Nonce(&left.nonce)).await
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

    /// To the millisecond: nobody reads the nanoseconds of a registration.
    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

/// A cluster that was entered, and asked where it had to be.
struct Asked {
    credentials: Credentials,
    last_probe: Option<LastProbe>,
}

/// The answer, with the warnings of the fields and of the probe that was just made.
fn registered(row: ClusterRow, mut warnings: Vec<String>, probing: Probing) -> Registered {
    match probing {
        Probing::First => warnings.extend(row.last_probe.iter().flat_map(|probe| probe.warnings.clone())),
        Probing::Skipped => warnings.push(NOT_PROBED.to_owned()),
    }
    Registered { row, warnings }
}

/// The environments, in words.
fn named(environments: &[(String, String)]) -> String {
    let all: Vec<String> = environments.iter().map(|(app, name)| format!("{app}/{name}")).collect();
    all.join(", ")
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
