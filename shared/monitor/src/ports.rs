//! What the use cases need from outside. One narrow trait for each use.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::Value;
use verdict::{AskError, AskErrorKind, HelmRelease, Payload, Revision};

use crate::{
    answer::Answer,
    cluster::{ClusterRow, EksCluster},
    deployment::{Deployment, Summary},
    environment::{Environment, EnvironmentPage},
    namespaces::Namespaces,
    probe::{Attention, Findings, ProbeFailure},
    request::Execution,
};

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
    /// Refused for a reason that whoever waits for the answer can mend, as where the
    /// plugin of a kubeconfig fails: one sentence for them. No store of a handler says it.
    #[error("{0}")]
    Told(String),
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
    /// below `item.rev`, is still pending and belongs to the same execution: of an
    /// item that was removed and made anew by another, `rev` says nothing. A write
    /// that was done before, whose answer was lost, is [`Stored::Yes`]: what is
    /// stored is this very item.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn update(&self, item: &Deployment) -> Result<Stored, StoreError>;

    /// The deployments of an environment, newest first: at most `limit` (1-100),
    /// after the one that began at `after.0` and has the id `after.1`. May lag
    /// behind writes by seconds; expired ones are left out.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn history(
        &self,
        app: &str,
        environment: &str,
        limit: usize,
        after: Option<(Timestamp, &str)>,
    ) -> Result<History, StoreError>;
}

/// One page of an environment's deployments, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The deployments, told in short.
    pub deployments: Vec<Summary>,
    /// Whether there are more after the last of them.
    pub more: bool,
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

/// The registered environments. They share the clusters' store, since a cluster
/// that one of them names must stay.
#[async_trait]
pub trait Environments: Send + Sync {
    /// One environment, strongly consistent.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn environment(&self, app: &str, environment: &str) -> Result<Option<Environment>, StoreError>;

    /// An app's environments in the order of their names: at most `limit` (1-100),
    /// after the one named `after`.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn environments(
        &self,
        app: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<EnvironmentPage, StoreError>;

    /// Writes it, whatever was there, on the condition that each cluster of
    /// `cluster_ids` (those of its targets) has a row that may be used: told from a
    /// cluster that is being removed by the same instant, not by a look before.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn put_environment(
        &self,
        environment: &Environment,
        cluster_ids: &[String],
    ) -> Result<Stored, StoreError>;

    /// Removes it. Whether there was one.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn remove_environment(&self, app: &str, environment: &str) -> Result<bool, StoreError>;

    /// App and environment of some that name this cluster, strongly consistent; at
    /// most ten, for a sentence.
    ///
    /// # Errors
    /// Where the store can't be reached, or refuses.
    async fn naming_cluster(&self, cluster_id: &str) -> Result<Vec<(String, String)>, StoreError>;
}

/// How to reach one cluster and be let in. Kept together in one secret, so that
/// whoever can edit the registry can't make us send a token elsewhere.
#[derive(Clone)]
pub struct Credentials {
    /// The API server's address: https, a path prefix kept, no trailing slash.
    pub api_url: String,
    /// The service account's token. Empty only where a client certificate stands for it.
    pub token: SecretString,
    /// Certificates in PEM that alone are trusted; `None`: the public roots.
    pub ca_cert: Option<String>,
    /// The name that the server's certificate must carry, where not the URL's host.
    pub tls_server_name: Option<String>,
    /// What only a person's kubeconfig says. `None` for every registered cluster: no
    /// registration and no secret has a field for it.
    pub personal: Option<Arc<Personal>>,
}

/// What a person's own kubeconfig may say of a connection beyond a [`Credentials`] of
/// a registered cluster.
#[derive(Clone, Default)]
pub struct Personal {
    /// A client certificate, shown beside the token or instead of it.
    pub identity: Option<Identity>,
    /// The HTTP proxy through which the API server is reached (`CONNECT`). Then it is
    /// the proxy that resolves the API server's name.
    pub proxy: Option<String>,
}

/// A client certificate and its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, and those up to its CA, in PEM.
    pub certificate: String,
    /// The private key in PEM.
    pub key: SecretString,
}

impl fmt::Debug for Personal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Personal").finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("api_url", &self.api_url).finish_non_exhaustive()
    }
}

/// What is kept of a cluster in its secret.
#[derive(Debug, Clone)]
pub struct ClusterSecret {
    /// How it is reached and entered.
    pub auth: Auth,
    /// Which namespaces deployments may watch. Here, not in the registry: whoever
    /// can edit the table can't open what was closed.
    pub namespaces: Namespaces,
}

/// How a cluster is reached and entered.
#[derive(Debug, Clone)]
pub enum Auth {
    /// By a stored token.
    Token(Credentials),
    /// By our AWS identity: address, CA and token are asked for at each use.
    Eks(EksCluster),
}

impl From<Credentials> for ClusterSecret {
    /// With all namespaces open.
    fn from(credentials: Credentials) -> Self {
        Self { auth: Auth::Token(credentials), namespaces: Namespaces::default() }
    }
}

/// Entering EKS clusters by an AWS identity.
#[async_trait]
pub trait Eks: Send + Sync {
    /// Address and CA as EKS tells them now, and a token made for this very cluster,
    /// good for at least ten minutes.
    ///
    /// # Errors
    /// [`EksError`].
    async fn credentials(&self, cluster: &EksCluster) -> Result<Credentials, EksError>;

    /// Whether this role may be taken on the way: only those that the operator of
    /// the stack has named.
    ///
    /// # Errors
    /// One sentence on why not.
    fn role_allowed(&self, role_arn: &str) -> Result<(), String>;
}

/// Why an EKS cluster can't be entered.
#[derive(Debug, thiserror::Error)]
pub enum EksError {
    /// AWS did not answer: the same call may succeed later.
    #[error("AWS gave no answer about the EKS cluster")]
    Transient(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// AWS refused, or there is no such cluster, or it has no address yet. One
    /// sentence for a person, naming the cluster, the region and what is missing.
    #[error("{0}")]
    Refused(String),
}

/// Asking a cluster what it is and what an account may do there.
#[async_trait]
pub trait Prober: Send + Sync {
    /// Asks for the version, whether Flux is there, and what the account may do in
    /// the namespaces: in all at once where they are open, else one by one, and for
    /// a pattern, of which the namespaces are not known, in all at once.
    ///
    /// # Errors
    /// Why the cluster can't be asked, and what to do about it.
    async fn probe(
        &self,
        credentials: &Credentials,
        namespaces: &Namespaces,
    ) -> Result<Findings, ProbeFailure>;
}

/// The executions of the state machine. A deployment that is started here gives its
/// id to the execution as its name.
#[async_trait]
pub trait Executions: Send + Sync {
    /// Starts one with this input. The same name with the same input while it runs
    /// is [`Starting::Begun`], too.
    ///
    /// # Errors
    /// Where it can't be reached, or refuses.
    async fn start(&self, name: &str, input: &Value) -> Result<Starting, StoreError>;

    /// The execution of this name; `None` where there is none (any more: Step
    /// Functions forgets them 90 days after their end).
    ///
    /// # Errors
    /// Where it can't be reached, or refuses.
    async fn find(&self, name: &str) -> Result<Option<Found>, StoreError>;
}

/// What starting an execution came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Starting {
    /// It runs, now or already.
    Begun(Execution),
    /// The name was used: by another input, or by an execution that has ended.
    NameTaken,
}

/// An execution that was found by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The execution.
    pub execution: Execution,
    /// Its input; `None` where it is not told.
    pub input: Option<Value>,
    /// Whether it still runs.
    pub running: bool,
}

/// The secrets.
#[async_trait]
pub trait Vault: Send + Sync {
    /// What is kept of a cluster; `None` where there is nothing or it is scheduled for
    /// deletion.
    ///
    /// # Errors
    /// Where the vault can't be reached, refuses, or holds something else.
    async fn get(&self, cluster_id: &str) -> Result<Option<ClusterSecret>, StoreError>;

    /// Writes it, whatever is there: nothing, another, or one scheduled for deletion.
    ///
    /// # Errors
    /// Where the vault can't be reached, or refuses.
    async fn put(&self, cluster_id: &str, secret: &ClusterSecret) -> Result<(), StoreError>;

    /// Schedules it for deletion, with the vault's recovery window. Nothing
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

    /// Labels and metadata of Helm's secrets of one release, in any order; of very
    /// many those with the highest versions.
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

    /// The certificates as PEM, or one sentence on what is wrong with them, such as
    /// that they have all ended by `now`.
    ///
    /// # Errors
    /// The sentence.
    fn ca_cert(&self, text: &str, now: Timestamp) -> Result<CaCert, String>;

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
    /// When the first of those ends that were valid when they were checked.
    pub not_after: Timestamp,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Telling others that a deployment has ended.
#[async_trait]
pub trait Events: Send + Sync {
    /// Publishes the stored answer. Comes at least once; consumers drop repeats.
    ///
    /// # Errors
    /// Where the bus can't be reached, or refuses.
    async fn deployment_finished(&self, answer: &Answer) -> Result<(), StoreError>;

    /// Publishes that somebody should look at a cluster.
    ///
    /// # Errors
    /// Where the bus can't be reached, or refuses.
    async fn cluster_needs_attention(&self, attention: &Attention) -> Result<(), StoreError>;
}

/// Figures for dashboards and alarms. Writing them can't fail: they go to the log.
pub trait Metrics: Send + Sync {
    /// What the daily probe of a cluster came to. Seconds until the token and the
    /// first certificate end, negative once they have.
    fn cluster_probed(&self, probed: &Probed<'_>);
}

/// See [`Metrics::cluster_probed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed<'a> {
    /// The cluster's id.
    pub cluster: &'a str,
    /// Whether it could be reached and let us in.
    pub reached: bool,
    /// Until the token ends, where that is known.
    pub token_secs_left: Option<i64>,
    /// Until the first certificate ends, where that is known.
    pub certificate_secs_left: Option<i64>,
}

/// Figures of the checks. Writing them can't fail: they go to the log, a line each.
pub trait CheckMetrics: Send + Sync {
    /// A check was done. Once for each.
    fn checked(&self, checked: &Checked<'_>);

    /// A verdict that no check reached stands, and was told: closed from the outside,
    /// or marked by the state machine. Once for each deployment, but where the news of
    /// an execution's end comes twice.
    fn closed(&self, item: &Deployment);

    /// A cluster could not be asked. At most once a check for each cluster and kind.
    fn cluster_failed(&self, failed: &ClusterFailed<'_>);
}

/// See [`CheckMetrics::checked`].
#[derive(Debug, Clone, Copy)]
pub struct Checked<'a> {
    /// The deployment as it stands after the check.
    pub item: &'a Deployment,
    /// How long the check took, reading and writing included.
    pub took: SignedDuration,
    /// Whether this check stored the verdict. A late one finds it, and stored nothing.
    pub verdict: bool,
}

/// See [`CheckMetrics::cluster_failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterFailed<'a> {
    /// The deployment that was checked.
    pub deployment_id: &'a str,
    /// The cluster's id: that of a registered one, so there are not more of them than clusters.
    pub cluster: &'a str,
    /// Why.
    pub kind: AskErrorKind,
    /// How many of the deployment's targets there could not be asked.
    pub targets: u32,
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
