//! What the use cases need from outside. One narrow trait for each use.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use verdict::{AskError, HelmRelease, Payload, Revision};

use crate::{answer::Answer, cluster::ClusterRow, deployment::Deployment};

/// Failing to read or write a store, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Throttled, timed out, unreachable: the same call may succeed later.
    #[error("{0} could not be reached")]
    Transient(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// Denied, misconfigured, or an item that this version cannot read.
    #[error("{what}")]
    Broken {
        /// What is wrong, for the log.
        what: String,
        /// Why, where something else failed first.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// Whether a conditional write was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Stored {
    /// It was done.
    Yes,
    /// The condition did not hold: somebody was quicker. Nothing was written.
    Lost,
}

/// The deployments that are being judged or have been.
#[async_trait]
pub trait Deployments: Send + Sync {
    /// The item, strongly consistent; `None` where there is none or it has expired.
    ///
    /// # Errors
    /// [`StoreError::Broken`] for an item of an unknown schema.
    async fn get(&self, deployment_id: &str) -> Result<Option<Deployment>, StoreError>;

    /// Writes the first item, if there is none (an expired one counts as none).
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn create(&self, item: &Deployment, now: Timestamp) -> Result<Stored, StoreError>;

    /// Replaces the item on the condition that what is stored has `rev` one
    /// below `item.rev` and is still pending. A write that was done before, whose
    /// answer was lost, is [`Stored::Yes`]: what is stored is this very item.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn update(&self, item: &Deployment) -> Result<Stored, StoreError>;
}

/// The registered clusters, without their credentials.
#[async_trait]
pub trait Registry: Send + Sync {
    /// One row, strongly consistent.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn get(&self, id: &str) -> Result<Option<ClusterRow>, StoreError>;

    /// Rows in the order of their ids: at most `limit` (1-100), after the id `after`.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn list(&self, limit: usize, after: Option<&str>) -> Result<Page, StoreError>;

    /// Writes a row on the condition that what is stored is as expected.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn put(&self, row: &ClusterRow, expected: Expected<'_>) -> Result<Stored, StoreError>;

    /// Removes a row on the condition that its nonce is this one. No row at all
    /// is [`Stored::Yes`]: it was removed before, and the answer was lost.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn remove(&self, id: &str, nonce: &str) -> Result<Stored, StoreError>;
}

/// One page of clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<ClusterRow>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// What must stand in the registry for a write to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected<'a> {
    /// No row of that id.
    Absent,
    /// A row with this nonce: nobody has written since it was read.
    Nonce(&'a str),
}

/// How to reach one cluster and be let in. Kept together in one secret, so that
/// whoever can edit the registry can't make us send a token elsewhere.
#[derive(Clone)]
pub struct Credentials {
    /// The API server's address: https, a path prefix kept, no trailing slash.
    pub api_url: String,
    /// The service account's token.
    pub token: SecretString,
    /// Certificates in PEM that alone are trusted; `None`: the public roots.
    pub ca_cert: Option<String>,
    /// The name that the server's certificate must carry, where not the URL's host.
    pub tls_server_name: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("api_url", &self.api_url).finish_non_exhaustive()
    }
}

/// The secrets.
#[async_trait]
pub trait Vault: Send + Sync {
    /// The credentials of a cluster; `None` where there are none or they are
    /// scheduled for deletion.
    ///
    /// # Errors
    /// Where the vault can't be reached, refuses, or holds something else.
    async fn get(&self, cluster_id: &str) -> Result<Option<Credentials>, StoreError>;

    /// Writes them, whatever is there: nothing, others, or others scheduled for deletion.
    ///
    /// # Errors
    /// Where the vault can't be reached, or refuses.
    async fn put(&self, cluster_id: &str, credentials: &Credentials) -> Result<(), StoreError>;

    /// Schedules them for deletion, with the vault's recovery window. Nothing
    /// there, or scheduled already: done.
    ///
    /// # Errors
    /// Where the vault can't be reached, or refuses.
    async fn delete(&self, cluster_id: &str) -> Result<(), StoreError>;
}

/// An answer of a cluster, with the cluster's clock.
#[derive(Debug, Clone)]
pub struct Dated<T> {
    /// What came.
    pub value: T,
    /// The `Date` header.
    pub date: Option<Timestamp>,
}

/// Asking a cluster. The least that a verdict needs: `get` one HelmRelease,
/// `list` secrets.
#[async_trait]
pub trait Clusters: Send + Sync {
    /// The HelmRelease; `None` where the API server says that there is none.
    ///
    /// # Errors
    /// Where the cluster can't be asked.
    async fn helm_release(
        &self,
        credentials: &Credentials,
        namespace: &str,
        name: &str,
    ) -> Result<Dated<Option<Box<HelmRelease>>>, AskError>;

    /// Labels and metadata of Helm's secrets of one release, in any order.
    ///
    /// # Errors
    /// Where the cluster can't be asked.
    async fn revisions(
        &self,
        credentials: &Credentials,
        namespace: &str,
        release: &str,
    ) -> Result<Dated<Vec<Revision>>, AskError>;

    /// The payload of one release secret, by the secret's name. One that is gone
    /// or broken is [`Payload::Unreadable`].
    ///
    /// # Errors
    /// Where the cluster can't be asked.
    async fn payload(
        &self,
        credentials: &Credentials,
        namespace: &str,
        secret: &str,
    ) -> Result<Dated<Payload>, AskError>;
}

/// What a registration gives, checked without asking anybody.
pub trait RegistrationRules: Send + Sync {
    /// The address as it is kept, or one sentence on what is wrong with it.
    ///
    /// # Errors
    /// The sentence.
    fn api_url(&self, text: &str) -> Result<String, String>;

    /// The certificates as PEM, or one sentence on what is wrong with them.
    ///
    /// # Errors
    /// The sentence.
    fn ca_cert(&self, text: &str) -> Result<CaCert, String>;

    /// Whether it can name a server, or one sentence on why not.
    ///
    /// # Errors
    /// The sentence.
    fn tls_server_name(&self, text: &str) -> Result<(), String>;
}

/// Certificates that were accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCert {
    /// As PEM.
    pub pem: String,
    /// SHA-256 of the first certificate's DER, in hex with colons.
    pub fingerprint: String,
    /// When the first of them ends.
    pub not_after: Timestamp,
}

/// Telling others that a deployment has ended.
#[async_trait]
pub trait Events: Send + Sync {
    /// Publishes the stored answer. Comes at least once; consumers drop repeats.
    ///
    /// # Errors
    /// Where the bus can't be reached, or refuses.
    async fn deployment_finished(&self, answer: &Answer) -> Result<(), StoreError>;
}

/// The time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock, in whole milliseconds: finer ones are noise in an answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}
