//! One check of a deployment: read while asking, decide, write only what changed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout_at};
use verdict::{
    AskError, AskErrorKind, Decision, HelmType, Look, Payload, Question, Reason, Releases, Seen, Status,
    TargetState, conclude, decide, expire, stop_waiting,
};

use crate::{
    answer::Answer,
    credentials::{CredentialCache, Entry, EntryError},
    deployment::{Deployment, SCHEMA, Target},
    ports::{
        CheckMetrics, Checked, Clock, ClusterFailed, Clusters, Credentials, Dated, Deployments, Eks,
        EksError, Environments, Events, Registry, StoreError, Stored, Vault,
    },
    request::{Execution, Request, sentence},
    resolve::{Unresolved, closed, resolve},
};

/// A check that comes so long after the deadline asks nobody: it is a redrive,
/// and what the cluster shows by then may be another push's.
const TOO_LATE: SignedDuration = SignedDuration::from_secs(60);
/// While nothing changes the item is written so often, so that a reader sees that it is alive.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(60);
/// How many deployments one process remembers between two checks.
const REMEMBERED: usize = 1024;
/// A payload is fetched in so many rounds at most; the rules need three.
const ROUNDS: usize = 4;

/// Why a check has no answer. The names are those that the state machine matches.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The request can't be served, now or later. The text is the sentence for the caller.
    #[error("{0}")]
    InvalidRequest(String),
    /// Somebody else was quicker, or a store can't be reached: the same check may succeed later.
    #[error("the check could not be finished: {0}")]
    Transient(&'static str, #[source] Option<StoreError>),
    /// Misconfigured, or an item that this version can't read.
    #[error("the check can't be done")]
    Internal(#[source] StoreError),
}

impl From<StoreError> for CheckError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Transient(..) => Self::Transient("a store is out of reach", Some(error)),
            StoreError::Broken { .. } | StoreError::Told(_) => Self::Internal(error),
        }
    }
}

/// What a checker is set to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long to wait where the request does not say, in seconds.
    pub default_timeout_secs: u32,
    /// How long an item is kept after its deadline, in days.
    pub record_ttl_days: u32,
    /// What all targets together may take in one check, payloads and second tries
    /// included. 4.5 s: the function has 10 s, and reading and writing need theirs.
    pub budget: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { default_timeout_secs: 300, record_ttl_days: 90, budget: Duration::from_millis(4500) }
    }
}

/// What a checker needs from outside.
#[derive(Clone)]
pub struct CheckPorts {
    /// The deployments.
    pub deployments: Arc<dyn Deployments>,
    /// The registered clusters.
    pub registry: Arc<dyn Registry>,
    /// The registered environments.
    pub environments: Arc<dyn Environments>,
    /// The clusters' credentials.
    pub vault: Arc<dyn Vault>,
    /// Entering EKS clusters.
    pub eks: Arc<dyn Eks>,
    /// The clusters themselves.
    pub clusters: Arc<dyn Clusters>,
    /// Where the end of a deployment is told.
    pub events: Arc<dyn Events>,
    /// Figures of the checks.
    pub metrics: Arc<dyn CheckMetrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Checks deployments. One per process: it keeps credentials, and remembers
/// what it wrote last, so that a check in which nothing changed asks the store
/// and the clusters at the same time.
pub struct Checker {
    ports: CheckPorts,
    settings: Settings,
    credentials: CredentialCache,
    remembered: Mutex<HashMap<String, Arc<Deployment>>>,
}

/// How an execution ended without the state machine's own doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The execution.
    pub execution: Execution,
    /// The deployment; `None`: named by the execution.
    pub deployment_id: Option<String>,
    /// Step Functions' word: `ABORTED`, `TIMED_OUT` or `FAILED`.
    pub status: String,
    /// The error's name, where there is one.
    pub error: Option<String>,
    /// The error's sentence, where there is one.
    pub cause: Option<String>,
}

impl Checker {
    /// A checker that remembers nothing yet.
    #[must_use]
    pub fn new(ports: CheckPorts, settings: Settings) -> Self {
        let credentials = CredentialCache::new(ports.vault.clone(), ports.eks.clone(), ports.clock.clone());
        Self { ports, settings, credentials, remembered: Mutex::default() }
    }

    /// One check: looks at every target that has no verdict yet, and says where
    /// the deployment stands. Repeated, late and twin calls change nothing.
    ///
    /// # Errors
    /// [`CheckError`]; nothing was written then, or somebody else wrote.
    pub async fn check(
        &self,
        request: &Request,
        execution: Option<&Execution>,
    ) -> Result<Answer, CheckError> {
        let began = self.ports.clock.now();
        let result = self.tick(request, execution).await;
        // What is not known for certain is read again before anybody is asked.
        self.forget(&request.deployment_id);
        let Ticked { item, written_here } = result?;
        let took = self.ports.clock.now().duration_since(began).max(SignedDuration::ZERO);
        let verdict = written_here && item.status.is_terminal();
        self.ports.metrics.checked(&Checked { item: &item, took, verdict });
        let answer = Answer::from(&item);
        if item.status == Status::Pending {
            self.remember(item);
        }
        Ok(answer)
    }

    async fn tick(&self, request: &Request, execution: Option<&Execution>) -> Result<Ticked, CheckError> {
        let now = self.ports.clock.now();
        let budget = Instant::now() + self.settings.budget;
        let remembered = self.recall(request, execution);
        let (stored, looks) = match &remembered {
            // Asked while reading: a look is of use to whatever the item says, and
            // is dropped where that says that the deployment is closed.
            Some(known) => {
                let (stored, looks) = tokio::join!(
                    self.ports.deployments.get(&request.deployment_id),
                    self.look_at_all(request, known, now, budget)
                );
                (stored?, Some(looks))
            }
            None => (self.ports.deployments.get(&request.deployment_id).await?, None),
        };
        let Some(stored) = stored else {
            return self.first_tick(request, execution, now, budget).await;
        };
        owned(&stored, request, execution)?;
        if stored.status.is_terminal() {
            return Ok(Ticked::found(stored));
        }
        let looks = match (looks, &remembered) {
            (Some(looks), Some(known)) if same_targets(known, &stored) => looks,
            _ => self.look_at_all(request, &stored, now, budget).await,
        };
        let polls = remembered.as_ref().map_or(0, |r| r.polls).max(stored.polls).saturating_add(1);
        let mut next = decided(request, &stored, &looks, now);
        next.polls = polls;
        match self.write(&stored, &mut next).await? {
            Stored::Yes => Ok(Ticked::here(next)),
            Stored::Lost => self.decide_once_more(request, execution, &stored, &looks, now).await,
        }
    }

    /// Writes what changed, where something did.
    async fn write(&self, stored: &Deployment, next: &mut Deployment) -> Result<Stored, StoreError> {
        if !changed(stored, next) {
            return Ok(Stored::Yes);
        }
        next.rev = stored.rev.saturating_add(1);
        self.ports.deployments.update(next).await
    }

    /// Nothing is stored yet: what the request names is resolved once, and the
    /// first look becomes the baseline by being stored.
    async fn first_tick(
        &self,
        request: &Request,
        execution: Option<&Execution>,
        now: Timestamp,
        budget: Instant,
    ) -> Result<Ticked, CheckError> {
        let mut item = self.new_item(request, execution, now).await?;
        let looks = self.look_at_all(request, &item, now, budget).await;
        for (target, look) in item.targets.iter_mut().zip(&looks) {
            target.api_url = look.as_ref().and_then(|l| l.api_url.clone());
        }
        let mut next = decided(request, &item, &looks, now);
        next.polls = 1;
        next.rev = 1;
        match self.ports.deployments.create(&next, now).await? {
            Stored::Yes => Ok(Ticked::here(next)),
            Stored::Lost => self.decide_once_more(request, execution, &next, &looks, now).await,
        }
    }

    /// Somebody else wrote meanwhile: decided from what stands there now, without
    /// asking again. Lost a second time, the state machine's retry is better than a third.
    async fn decide_once_more(
        &self,
        request: &Request,
        execution: Option<&Execution>,
        asked: &Deployment,
        looks: &[Option<Looked>],
        now: Timestamp,
    ) -> Result<Ticked, CheckError> {
        let stored = self.ports.deployments.get(&request.deployment_id).await?;
        let Some(stored) = stored else {
            return Err(CheckError::Transient("the deployment's item was removed meanwhile", None));
        };
        owned(&stored, request, execution)?;
        if stored.status.is_terminal() {
            return Ok(Ticked::found(stored));
        }
        if !same_targets(asked, &stored) {
            return Err(CheckError::Transient("the deployment's item was made anew meanwhile", None));
        }
        let mut next = decided(request, &stored, looks, now);
        next.polls = stored.polls.saturating_add(1);
        match self.write(&stored, &mut next).await? {
            Stored::Yes => Ok(Ticked::here(next)),
            Stored::Lost => Err(CheckError::Transient("another check was quicker, twice", None)),
        }
    }

    async fn new_item(
        &self,
        request: &Request,
        execution: Option<&Execution>,
        now: Timestamp,
    ) -> Result<Deployment, CheckError> {
        let resolved = resolve(&*self.ports.registry, &*self.ports.environments, request).await;
        let resolved = resolved.map_err(|unresolved| match unresolved {
            Unresolved::Refused(refusals) => CheckError::InvalidRequest(sentence(&refusals)),
            Unresolved::Store(error) => error.into(),
        })?;
        let targets = resolved
            .targets
            .into_iter()
            .map(|(target, cluster_id)| Target {
                cluster: target.cluster,
                cluster_id,
                namespace: target.namespace,
                release: target.release,
                helm_type: resolved.helm_type,
                api_url: None,
                state: TargetState::new(now),
            })
            .collect();
        let timeout_secs =
            request.timeout_secs.or(resolved.timeout_secs).unwrap_or(self.settings.default_timeout_secs);
        Ok(Deployment {
            digest: request.digest(),
            request: Some(Request { timeout_secs: Some(timeout_secs), ..request.clone() }),
            targets,
            ..self.blank_item(&request.deployment_id, execution, timeout_secs, now)
        })
    }

    /// An item of which nothing is known yet but when it began and when it will end.
    fn blank_item(
        &self,
        deployment_id: &str,
        execution: Option<&Execution>,
        timeout_secs: u32,
        now: Timestamp,
    ) -> Deployment {
        let started_at = execution.map_or(now, |e| e.started_at);
        let deadline = later(started_at, SignedDuration::from_secs(timeout_secs.into()));
        let kept = SignedDuration::from_hours(i64::from(self.settings.record_ttl_days) * 24);
        Deployment {
            deployment_id: deployment_id.to_owned(),
            schema: SCHEMA,
            rev: 0,
            execution_arn: execution.map(|e| e.arn.clone()),
            digest: String::new(),
            request: None,
            labels: None,
            started_at,
            deadline,
            checked_at: now,
            finished_at: None,
            status: Status::Pending,
            reason: Reason::Starting,
            last_reason: None,
            evidence: None,
            message: String::new(),
            polls: 0,
            targets: Vec::new(),
            expires_at: later(deadline, kept).as_second(),
        }
    }

    /// Looks at every target that has no verdict yet, all at once and within the
    /// budget. A check that comes too late asks nobody.
    async fn look_at_all(
        &self,
        request: &Request,
        item: &Deployment,
        now: Timestamp,
        budget: Instant,
    ) -> Vec<Option<Looked>> {
        let too_late = now.duration_since(item.deadline) > TOO_LATE;
        let looks = join_all(item.targets.iter().map(|target| async move {
            if too_late || target.state.status.is_terminal() {
                return None;
            }
            Some(self.look_at(request, item, target, now, budget).await)
        }))
        .await;
        self.count_failures(item, &looks);
        looks
    }

    /// By the clusters' ids: what a request calls a cluster is text of its caller.
    fn count_failures(&self, item: &Deployment, looks: &[Option<Looked>]) {
        let mut failed: Vec<ClusterFailed<'_>> = Vec::new();
        for (target, looked) in item.targets.iter().zip(looks) {
            let Some(Looked { look: Look { seen: Seen::Failed(error), .. }, .. }) = looked else {
                continue;
            };
            let (cluster, kind) = (target.cluster_id.as_str(), error.kind);
            match failed.iter_mut().find(|it| (it.cluster, it.kind) == (cluster, kind)) {
                Some(same) => same.targets = same.targets.saturating_add(1),
                None => failed.push(ClusterFailed {
                    deployment_id: &item.deployment_id,
                    cluster,
                    kind,
                    targets: 1,
                }),
            }
        }
        for it in &failed {
            self.ports.metrics.cluster_failed(it);
        }
    }

    async fn look_at(
        &self,
        request: &Request,
        item: &Deployment,
        target: &Target,
        now: Timestamp,
        budget: Instant,
    ) -> Looked {
        let slow = || failed_look(now, AskErrorKind::Slow, "it did not answer within the time of one check");
        let mut looked = Looked { api_url: None, look: slow() };
        let looking = self.look_with_credentials(request, item, target, now, &mut looked);
        if timeout_at(budget, looking).await.is_err() {
            looked.look = slow();
        }
        looked
    }

    /// Credentials that were kept may have been replaced meanwhile: where they
    /// are found wanting they are read again, once, and tried at once.
    async fn look_with_credentials(
        &self,
        request: &Request,
        item: &Deployment,
        target: &Target,
        now: Timestamp,
        looked: &mut Looked,
    ) {
        let mut refused: Option<Arc<Entry>> = None;
        for _ in 0..2 {
            let read = match self.credentials.get(&target.cluster_id, refused.as_ref()).await {
                Ok(Some(read)) => read,
                Ok(None) => {
                    let message = "its credentials are gone";
                    looked.look = failed_look(now, AskErrorKind::ClusterRemoved, message);
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        cluster = target.cluster_id,
                        error = chain(&error),
                        "credentials not read"
                    );
                    // The first refusal says more than the failing to read again.
                    if refused.is_none() {
                        let message = match error {
                            EntryError::Vault(StoreError::Told(why)) => why,
                            EntryError::Vault(_) => "Secrets Manager gave no answer or a refusal".to_owned(),
                            EntryError::Eks(EksError::Refused(why)) => why,
                            EntryError::Eks(error @ EksError::Transient(_)) => error.to_string(),
                        };
                        looked.look = failed_look(now, AskErrorKind::CredentialsUnavailable, message);
                    }
                    return;
                }
            };
            let Entry { credentials, namespaces } = &*read.entry;
            if !namespaces.allows(&target.namespace) {
                let message = closed(&target.cluster_id, &target.namespace, namespaces);
                looked.look = failed_look(now, AskErrorKind::NamespaceNotAllowed, message);
                return;
            }
            if let Some(pinned) = target.api_url.as_ref().filter(|url| **url != credentials.api_url) {
                let message =
                    format!("it was {pinned} when the deployment began, and is another address now");
                looked.look = failed_look(now, AskErrorKind::ClusterChanged, message);
                return;
            }
            looked.api_url = Some(credentials.api_url.clone());
            looked.look = self.ask(request, item, target, credentials, now).await;
            let wanting = matches!(
                &looked.look.seen,
                Seen::Failed(AskError {
                    kind: AskErrorKind::Unauthorized | AskErrorKind::Tls | AskErrorKind::Unreachable,
                    ..
                })
            );
            if !wanting || read.fresh {
                return;
            }
            refused = Some(read.entry);
        }
    }

    async fn ask(
        &self,
        request: &Request,
        item: &Deployment,
        target: &Target,
        credentials: &Credentials,
        now: Timestamp,
    ) -> Look {
        let clusters = &self.ports.clusters;
        let (namespace, release) = (target.namespace.as_str(), target.release.as_str());
        if target.helm_type == HelmType::Flux {
            return match clusters.helm_release(credentials, namespace, release).await {
                Ok(came) => {
                    let cluster_date = self.cluster_date(came.date, now);
                    let mut object = came.value;
                    // Not kept as they are while forty others are asked.
                    if let Some(values) = object.as_mut().and_then(|o| o.spec.values.as_mut()) {
                        values.look_up(&request.expect);
                    }
                    Look { at: now, cluster_date, seen: Seen::HelmRelease(object) }
                }
                Err(error) => Look { at: now, cluster_date: None, seen: Seen::Failed(error) },
            };
        }
        let came = match clusters.revisions(credentials, namespace, release).await {
            Ok(came) => came,
            Err(error) => return Look { at: now, cluster_date: None, seen: Seen::Failed(error) },
        };
        let mut look = Look {
            at: now,
            cluster_date: self.cluster_date(came.date, now),
            seen: Seen::Releases(Releases { revisions: came.value, ..Releases::default() }),
        };
        // Which payloads are needed is the rules' to say: they are asked until they have enough.
        for _ in 0..ROUNDS {
            let question = question(request, item, target);
            let Decision::NeedsPayloads(names) = decide(&question, &target.state, &look) else {
                return look;
            };
            let payloads = join_all(names.iter().map(|name| async {
                let mut came = clusters.payload(credentials, namespace, name).await;
                if let Ok(Dated { value: Payload::Read(release), .. }) = &mut came
                    && let Some(values) = &mut release.config
                {
                    values.look_up(&request.expect);
                }
                came
            }))
            .await;
            let Seen::Releases(releases) = &mut look.seen else {
                return look;
            };
            for (name, payload) in names.iter().zip(payloads) {
                let uid = releases.revisions.iter().find(|r| r.name == *name).map(|r| r.uid.clone());
                match (uid, payload) {
                    (Some(uid), Ok(payload)) => {
                        releases.payloads.insert(uid, payload.value);
                    }
                    (None, _) => {}
                    (_, Err(error)) => {
                        return Look { at: now, cluster_date: None, seen: Seen::Failed(error) };
                    }
                }
            }
        }
        look
    }

    /// What the cluster's clock showed when the look began. An answer is dated when it is
    /// given, seconds later where the cluster is slow: its clock is ahead only by what is
    /// more than that.
    fn cluster_date(&self, date: Option<Timestamp>, began: Timestamp) -> Option<Timestamp> {
        let took = self.ports.clock.now().duration_since(began).max(SignedDuration::ZERO);
        date.map(|date| if date > began { later(date, -took).max(began) } else { date })
    }

    /// Closes what an execution left pending, and tells the stored end. Called
    /// for executions that were stopped, timed out, or failed.
    ///
    /// # Errors
    /// Where a store can't be reached: the same call is safe to repeat.
    pub async fn close(&self, ended: &Ended) -> Result<Option<Answer>, CheckError> {
        let deployment_id = match &ended.deployment_id {
            Some(id) => id.clone(),
            None => ended.execution.name().to_owned(),
        };
        self.forget(&deployment_id);
        // Twice, because a check that was under way may write in between.
        for _ in 0..2 {
            let now = self.ports.clock.now();
            let stored = self.ports.deployments.get(&deployment_id).await?;
            let (item, written) = match stored {
                Some(item) if item.execution_arn.as_deref() != Some(ended.execution.arn.as_str()) => {
                    // Another execution's: an id that was used twice.
                    return Ok(None);
                }
                Some(item) if item.status.is_terminal() => (item, Stored::Yes),
                Some(mut item) => {
                    close_item(&mut item, ended, now);
                    item.rev = item.rev.saturating_add(1);
                    let written = self.ports.deployments.update(&item).await?;
                    (item, written)
                }
                // A verdict was reached and told, and its item removed since: no news of it is known better.
                None if told(ended) => return Ok(None),
                None => {
                    // The execution ended before any check ran.
                    let timeout_secs = self.settings.default_timeout_secs;
                    let mut item = self.blank_item(&deployment_id, Some(&ended.execution), timeout_secs, now);
                    close_item(&mut item, ended, now);
                    item.rev = 1;
                    let written = self.ports.deployments.create(&item, now).await?;
                    (item, written)
                }
            };
            if written == Stored::Lost {
                continue;
            }
            let answer = Answer::from(&item);
            // The state machine has told the verdicts that it reached itself.
            if !told(ended) {
                self.ports.events.deployment_finished(&answer).await?;
                // After the telling, which fails and is repeated as a whole. What a check
                // reached was counted by the check; these two no check reaches, also where
                // the state machine marked the item, which counts nothing itself.
                if matches!(item.reason, Reason::MonitorError | Reason::InvalidRequest) {
                    self.ports.metrics.closed(&item);
                }
            }
            return Ok(Some(answer));
        }
        Err(CheckError::Transient("another check was quicker, twice", None))
    }

    /// Tells the stored verdict of a deployment once more, where it has one and is this execution's.
    ///
    /// # Errors
    /// Where the store or the bus can't be reached: the same call is safe to repeat.
    pub async fn tell(&self, deployment_id: &str, execution_arn: &str) -> Result<Option<Answer>, CheckError> {
        let stored = self.ports.deployments.get(deployment_id).await?;
        let own = |it: &Deployment| it.execution_arn.as_deref() == Some(execution_arn);
        let Some(item) = stored.filter(|it| own(it) && it.status.is_terminal()) else {
            return Ok(None);
        };
        let answer = Answer::from(&item);
        self.ports.events.deployment_finished(&answer).await?;
        Ok(Some(answer))
    }

    fn recall(&self, request: &Request, execution: Option<&Execution>) -> Option<Arc<Deployment>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let item = remembered.get(&request.deployment_id)?;
        owned(item, request, execution).is_ok().then(|| Arc::clone(item))
    }

    fn remember(&self, item: Deployment) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED && !remembered.contains_key(&item.deployment_id) {
            // Any one: it costs the next check of that deployment a wait, and no request.
            remembered.extract_if(|_, _| true).next();
        }
        remembered.insert(item.deployment_id.clone(), Arc::new(item));
    }

    fn forget(&self, deployment_id: &str) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).remove(deployment_id);
    }
}

/// Where a check left a deployment.
struct Ticked {
    item: Deployment,
    /// Whether that is this check's own doing, and not what another had stored.
    written_here: bool,
}

impl Ticked {
    fn here(item: Deployment) -> Self {
        Self { item, written_here: true }
    }

    fn found(item: Deployment) -> Self {
        Self { item, written_here: false }
    }
}

/// One look, and the address that it went to.
struct Looked {
    api_url: Option<String>,
    look: Look,
}

impl Looked {
    /// The address was pinned after this look had begun, and is another: what was seen there
    /// is another cluster's. The next look says so.
    fn went_elsewhere(&self, target: &Target) -> bool {
        matches!((&self.api_url, &target.api_url), (Some(asked), Some(pinned)) if asked != pinned)
    }
}

fn failed_look(now: Timestamp, kind: AskErrorKind, message: impl Into<String>) -> Look {
    Look { at: now, cluster_date: None, seen: Seen::Failed(AskError { kind, message: message.into() }) }
}

/// An item belongs to the execution that made it; without one, to the request.
fn owned(item: &Deployment, request: &Request, execution: Option<&Execution>) -> Result<(), CheckError> {
    let refuse =
        |why: String| Err(CheckError::InvalidRequest(format!("DeploymentIdConflict: /deploymentId: {why}")));
    let id = &item.deployment_id;
    match (item.execution_arn.as_deref(), execution) {
        (Some(arn), Some(execution)) if arn == execution.arn => Ok(()),
        (Some(arn), _) => refuse(format!(
            "\"{id}\" belongs to execution {arn} already; take another id, so that an old verdict is not returned for a new push"
        )),
        (None, Some(_)) => refuse(format!("\"{id}\" was used without an execution already; take another id")),
        (None, None) if item.digest == request.digest() => Ok(()),
        (None, None) => refuse(format!("\"{id}\" was used for another request already; take another id")),
    }
}

fn question<'a>(request: &'a Request, item: &Deployment, target: &'a Target) -> Question<'a> {
    let waiting = item.deadline.duration_since(item.started_at).as_secs();
    Question {
        helm_type: target.helm_type,
        cluster: &target.cluster,
        namespace: &target.namespace,
        release: &target.release,
        expect: &request.expect,
        pushed_at: request.pushed_at,
        started_at: item.started_at,
        deadline: item.deadline,
        timeout_secs: u32::try_from(waiting).unwrap_or(0),
        fail_on: request.fail_on,
        allow_unchanged: request.allow_unchanged,
    }
}

/// Whether looks at the one's targets tell of the other's. They do unless the item was
/// deleted and made anew in between, and its environment names other targets by now.
fn same_targets(asked: &Deployment, stored: &Deployment) -> bool {
    let same = |(a, b): (&Target, &Target)| {
        (&a.cluster_id, &a.namespace, &a.release, a.helm_type)
            == (&b.cluster_id, &b.namespace, &b.release, b.helm_type)
    };
    asked.targets.len() == stored.targets.len() && asked.targets.iter().zip(&stored.targets).all(same)
}

/// The item after these looks. Pure: the same item and looks give the same one.
fn decided(request: &Request, stored: &Deployment, looks: &[Option<Looked>], now: Timestamp) -> Deployment {
    let mut next = stored.clone();
    let too_late = now.duration_since(stored.deadline) > TOO_LATE;
    for (index, target) in next.targets.iter_mut().enumerate() {
        let before = &stored.targets[index];
        let question = question(request, stored, before);
        let looked = looks.get(index).and_then(Option::as_ref).filter(|look| !look.went_elsewhere(before));
        target.state = match looked {
            _ if too_late => expire(&question, &before.state, now),
            // Told from another item than the one that was asked for, the rules may
            // need a payload that was not fetched: then this look tells nothing.
            Some(looked) => match decide(&question, &before.state, &looked.look) {
                Decision::Known(state) => *state,
                Decision::NeedsPayloads(_) => before.state.clone(),
            },
            None => before.state.clone(),
        };
        if target.api_url.is_none() {
            target.api_url = looked.and_then(|l| l.api_url.clone());
        }
    }
    next.checked_at = now;
    conclude_item(&mut next, request.fail_fast, now);
    next
}

fn conclude_item(item: &mut Deployment, fail_fast: bool, now: Timestamp) {
    let named: Vec<(&str, &TargetState)> =
        item.targets.iter().map(|t| (t.cluster.as_str(), &t.state)).collect();
    let conclusion = conclude(&named, fail_fast);
    item.status = conclusion.status;
    item.reason = conclusion.reason;
    item.last_reason = conclusion.last_reason;
    item.evidence = conclusion.evidence;
    item.message = conclusion.message;
    if item.status.is_terminal() {
        item.finished_at = Some(now);
        stop_waiting(item.targets.iter_mut().map(|t| &mut t.state));
    }
}

/// Whether the execution ended by a verdict.
fn told(ended: &Ended) -> bool {
    matches!(ended.error.as_deref(), Some("DeploymentFailed" | "DeploymentTimedOut"))
}

fn close_item(item: &mut Deployment, ended: &Ended, now: Timestamp) {
    let how = match ended.status.as_str() {
        "ABORTED" => "was stopped by hand",
        "TIMED_OUT" => "ran into its own time limit",
        _ => "failed",
    };
    let error = match (ended.error.as_deref(), ended.cause.as_deref()) {
        (Some(error), Some(cause)) => format!(" ({error}: {cause})"),
        (Some(word), None) | (None, Some(word)) => format!(" ({word})"),
        (None, None) => String::new(),
    };
    let seen = if item.message.is_empty() { "nothing" } else { item.message.as_str() };
    item.message =
        verdict::clean(&format!("the execution {how}{error} before there was a verdict; last seen: {seen}"));
    item.status = Status::Failed;
    item.last_reason = Some(item.reason);
    // The state machine's own word for a refusal, where it could not write it down itself.
    item.reason = match ended.error.as_deref() {
        Some("InvalidRequest") => Reason::InvalidRequest,
        _ => Reason::MonitorError,
    };
    item.evidence = None;
    item.finished_at = Some(now);
    stop_waiting(item.targets.iter_mut().map(|t| &mut t.state));
}

/// Whether a write is owed. `polls` and messages alone are not worth one.
fn changed(stored: &Deployment, next: &Deployment) -> bool {
    let target = |(a, b): (&Target, &Target)| {
        a.state.status != b.state.status
            || a.state.reason != b.state.reason
            || a.state.baseline != b.state.baseline
            || a.state.memory != b.state.memory
            || a.api_url != b.api_url
    };
    stored.status != next.status
        || stored.reason != next.reason
        || stored.targets.iter().zip(&next.targets).any(target)
        || next.checked_at.duration_since(stored.checked_at) >= HEARTBEAT
}

pub(crate) fn later(from: Timestamp, by: SignedDuration) -> Timestamp {
    from.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// An error and what caused it, once, for the log.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
