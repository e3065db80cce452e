//! One check after another, with stores that fail and clusters that misbehave.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use monitor::{
    answer::Answer,
    check::{CheckError, CheckPorts, Checker, Ended, Settings},
    cluster::{ClusterRow, RowState},
    deployment::Deployment,
    environment::Environment,
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, MemoryVault, NoEks},
    namespaces::Namespaces,
    ports::{
        Auth, CheckMetrics, Checked, Clock, ClusterFailed, ClusterSecret, Clusters, Credentials, Dated,
        Deployments, Eks, EksError, Environments, Expected, History, Registry, StoreError, Stored, Vault,
    },
    request::{self, Execution, Request},
};
use secrecy::ExposeSecret as _;
use serde::Deserialize as _;
use serde_json::{Value, json};
use verdict::{AskError, AskErrorKind, HelmRelease, Payload, Reason, Revision, Status};

const START: &str = "2026-11-23T19:00:00Z";

struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    fn advance(&self, secs: i64) {
        let mut now = self.0.lock().unwrap();
        *now += SignedDuration::from_secs(secs);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

type Answering = dyn Fn(&Credentials, &str, usize) -> Result<Option<Value>, AskErrorKind> + Send + Sync;

/// A cluster that answers by a closure: credentials, release, how many questions before.
struct Scripted {
    clock: Arc<ManualClock>,
    asked: AtomicUsize,
    ever_asked: AtomicUsize,
    answering: Mutex<Box<Answering>>,
    silent: Mutex<Vec<String>>,
}

#[async_trait]
impl Clusters for Scripted {
    async fn helm_release(
        &self,
        credentials: &Credentials,
        _: &str,
        name: &str,
    ) -> Result<Dated<Option<Box<HelmRelease>>>, AskError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let before = self.ever_asked.fetch_add(1, Ordering::SeqCst);
        if self.silent.lock().unwrap().contains(&name.to_owned()) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        let answer = (self.answering.lock().unwrap())(credentials, name, before);
        match answer {
            Ok(object) => Ok(Dated {
                value: object.map(|o| Box::new(HelmRelease::deserialize(o).unwrap())),
                date: Some(self.clock.now()),
            }),
            Err(kind) => Err(AskError { kind, message: "refused".to_owned() }),
        }
    }

    async fn revisions(&self, _: &Credentials, _: &str, _: &str) -> Result<Dated<Vec<Revision>>, AskError> {
        Ok(Dated { value: Vec::new(), date: None })
    }

    async fn payload(&self, _: &Credentials, _: &str, _: &str) -> Result<Dated<Payload>, AskError> {
        Ok(Dated { value: Payload::Unreadable("none".to_owned()), date: None })
    }
}

/// A store that counts, and lets a rival in before the next writes.
struct Counted {
    inner: MemoryDeployments,
    gets: AtomicUsize,
    writes: AtomicUsize,
    rivals: Mutex<Vec<Deployment>>,
}

impl Counted {
    async fn let_rival_in(&self, now: Timestamp) {
        let rival = self.rivals.lock().unwrap().pop();
        if let Some(rival) = rival {
            let stored = if rival.rev == 1 {
                self.inner.create(&rival, now).await
            } else {
                self.inner.update(&rival).await
            };
            assert_eq!(stored.unwrap(), Stored::Yes);
        }
    }
}

#[async_trait]
impl Deployments for Counted {
    async fn get(&self, id: &str) -> Result<Option<Deployment>, StoreError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.inner.get(id).await
    }

    async fn create(&self, item: &Deployment, now: Timestamp) -> Result<Stored, StoreError> {
        self.let_rival_in(now).await;
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.create(item, now).await
    }

    async fn update(&self, item: &Deployment) -> Result<Stored, StoreError> {
        self.let_rival_in(item.checked_at).await;
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.update(item).await
    }

    async fn history(
        &self,
        app: &str,
        environment: &str,
        limit: usize,
        after: Option<(Timestamp, &str)>,
    ) -> Result<History, StoreError> {
        self.inner.history(app, environment, limit, after).await
    }
}

/// A vault that counts.
struct CountedVault(MemoryVault, AtomicUsize);

#[async_trait]
impl Vault for CountedVault {
    async fn get(&self, id: &str) -> Result<Option<ClusterSecret>, StoreError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.get(id).await
    }

    async fn put(&self, id: &str, secret: &ClusterSecret) -> Result<(), StoreError> {
        self.0.put(id, secret).await
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        self.0.delete(id).await
    }
}

/// What the figures were told: checks and closings by their reason, verdicts marked, and
/// clusters that could not be asked.
#[derive(Default)]
struct Figures(Mutex<Vec<String>>);

impl CheckMetrics for Figures {
    fn checked(&self, checked: &Checked<'_>) {
        let verdict = if checked.verdict { "verdict" } else { "checked" };
        self.0.lock().unwrap().push(format!("{verdict} {}", checked.item.reason));
    }

    fn closed(&self, item: &Deployment) {
        self.0.lock().unwrap().push(format!("closed {}", item.reason));
    }

    fn cluster_failed(&self, failed: &ClusterFailed<'_>) {
        let ClusterFailed { cluster, kind, targets, .. } = failed;
        self.0.lock().unwrap().push(format!("{cluster} {kind:?} {targets}"));
    }
}

impl Figures {
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct World {
    clock: Arc<ManualClock>,
    clusters: Arc<Scripted>,
    deployments: Arc<Counted>,
    registry: Arc<MemoryRegistry>,
    vault: Arc<CountedVault>,
    events: Arc<MemoryEvents>,
    figures: Arc<Figures>,
    ports: CheckPorts,
    checker: Checker,
}

fn credentials(url: &str, token: &str) -> Credentials {
    Credentials {
        api_url: url.to_owned(),
        token: token.into(),
        ca_cert: None,
        tls_server_name: None,
        personal: None,
    }
}

fn row(id: &str, name: &str, clock: &ManualClock) -> ClusterRow {
    let new = ClusterRow::new(id.to_owned(), name.to_owned(), "n".to_owned(), clock.now());
    ClusterRow { api_url: "https://one.example.com".to_owned(), state: RowState::Active, ..new }
}

async fn world(
    answering: impl Fn(&Credentials, &str, usize) -> Result<Option<Value>, AskErrorKind> + Send + Sync + 'static,
) -> World {
    let clock = Arc::new(ManualClock(Mutex::new(START.parse().unwrap())));
    let clusters = Arc::new(Scripted {
        clock: clock.clone(),
        asked: AtomicUsize::new(0),
        ever_asked: AtomicUsize::new(0),
        answering: Mutex::new(Box::new(answering)),
        silent: Mutex::default(),
    });
    let deployments = Arc::new(Counted {
        inner: MemoryDeployments::new(clock.clone()),
        gets: AtomicUsize::new(0),
        writes: AtomicUsize::new(0),
        rivals: Mutex::default(),
    });
    let registry = Arc::new(MemoryRegistry::default());
    let vault = Arc::new(CountedVault(MemoryVault::default(), AtomicUsize::new(0)));
    let events = Arc::new(MemoryEvents::default());
    let figures = Arc::new(Figures::default());
    for (id, name) in [("prod-eu", "Prod EU"), ("prod-us", "prod-us")] {
        let row = row(id, name, &clock);
        assert_eq!(registry.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
        vault.0.put(id, &credentials("https://one.example.com", "old").into()).await.unwrap();
    }
    let ports = CheckPorts {
        deployments: deployments.clone(),
        registry: registry.clone(),
        environments: registry.clone(),
        vault: vault.clone(),
        eks: Arc::new(NoEks),
        clusters: clusters.clone(),
        events: events.clone(),
        metrics: figures.clone(),
        clock: clock.clone(),
    };
    let checker = Checker::new(ports.clone(), Settings::default());
    World { clock, clusters, deployments, registry, vault, events, figures, ports, checker }
}

fn asked(change: impl Fn(&mut Value)) -> (Request, Execution) {
    let mut event = json!({
        "deploymentId": "d-1", "helmType": "flux", "timeoutSecs": 60,
        "targets": [{"cluster": "Prod EU", "namespace": "shop", "release": "checkout"}],
        "execution": {"arn": "arn:aws:states:eu-west-1:1:execution:m:run-1", "startedAt": START}
    });
    change(&mut event);
    let (request, execution) = request::parse(&event).unwrap();
    (request, execution.unwrap())
}

/// A HelmRelease that rests at a generation, with a chart version.
fn resting(generation: i64, chart: &str) -> Value {
    json!({
        "metadata": {"uid": "u", "generation": generation},
        "spec": {},
        "status": {
            "observedGeneration": generation, "lastAttemptedGeneration": generation,
            "lastAttemptedRevision": chart, "lastAttemptedConfigDigest": "c",
            "conditions": [{"type": "Ready", "status": "True", "reason": "UpgradeSucceeded", "message": "upgraded"}],
            "history": [{"name": "checkout", "version": generation, "status": "deployed", "chartVersion": chart}]
        }
    })
}

impl World {
    async fn check(&self, asked: &(Request, Execution)) -> Answer {
        self.checker.check(&asked.0, Some(&asked.1)).await.unwrap()
    }

    async fn stored(&self) -> Deployment {
        self.deployments.inner.get("d-1").await.unwrap().unwrap()
    }

    fn another_process(&self) -> Checker {
        Checker::new(self.ports.clone(), Settings::default())
    }

    fn counts(&self) -> [usize; 4] {
        [&self.deployments.gets, &self.deployments.writes, &self.clusters.asked, &self.vault.1]
            .map(|c| c.swap(0, Ordering::SeqCst))
    }
}

#[tokio::test]
async fn a_change_after_the_first_look_is_awaited_and_judged_once() {
    let world =
        world(|_, _, n| Ok(Some(if n < 2 { resting(1, "1.0.0") } else { resting(2, "1.1.0") }))).await;
    let asked = asked(|_| ());
    let first = world.check(&asked).await;
    assert_eq!((first.status, first.reason, first.polls), (Status::Pending, Reason::WaitingForChange, 1));
    assert_eq!(world.counts(), [1, 1, 1, 1], "read, write, ask, credentials");
    assert_eq!(world.stored().await.targets[0].api_url.as_deref(), Some("https://one.example.com"));

    world.clock.advance(5);
    let second = world.check(&asked).await;
    assert_eq!((second.status, second.polls), (Status::Pending, 2));
    assert_eq!(world.counts(), [1, 0, 1, 0], "a check in which nothing changed reads once and asks once");

    for (polls, status) in [(3, Status::Pending), (4, Status::Succeeded)] {
        world.clock.advance(5);
        let answer = world.check(&asked).await;
        assert_eq!((answer.status, answer.polls), (status, polls));
        assert_eq!(world.counts(), [1, 1, 1, 0]);
    }
    let end = world.stored().await;
    world.clock.advance(500);
    let late = world.check(&asked).await;
    assert_eq!(late, Answer::from(&end), "a verdict stands, and nobody is asked again");
    assert_eq!(world.counts(), [1, 0, 0, 0]);
    assert_eq!(world.stored().await, end);
}

#[tokio::test]
async fn another_process_goes_on_where_the_first_was_killed() {
    let world =
        world(|_, _, n| Ok(Some(if n == 0 { resting(1, "1.0.0") } else { resting(2, "1.1.0") }))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    for (polls, status) in [(2, Status::Pending), (3, Status::Succeeded)] {
        world.clock.advance(5);
        let answer = world.another_process().check(&asked.0, Some(&asked.1)).await.unwrap();
        assert_eq!((answer.status, answer.polls), (status, polls));
    }
}

#[tokio::test]
async fn a_retried_check_is_no_second_look() {
    let world =
        world(|_, _, n| Ok(Some(if n == 0 { resting(1, "1.0.0") } else { resting(2, "1.1.0") }))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    world.clock.advance(5);
    for _ in 0..5 {
        assert_eq!(world.check(&asked).await.status, Status::Pending);
    }
    world.clock.advance(5);
    assert_eq!(world.check(&asked).await.status, Status::Succeeded);
}

#[tokio::test]
async fn the_deadline_is_set_once_and_ends_it() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let asked = asked(|_| ());
    let first = world.check(&asked).await;
    world.clock.advance(59);
    assert_eq!(world.check(&asked).await.status, Status::Pending);
    world.clock.advance(1);
    let last = world.check(&asked).await;
    assert_eq!((last.status, last.reason), (Status::Failed, Reason::Timeout));
    assert_eq!(last.last_reason, Some(Reason::WaitingForChange));
    assert_eq!((last.deadline, last.started_at), (first.deadline, first.started_at));
    assert!(
        last.message.starts_with("timed out after 60 s waiting for HelmRelease shop/checkout on Prod EU: ")
    );
}

#[tokio::test]
async fn a_check_that_comes_too_late_asks_nobody() {
    let world = world(|_, _, _| Ok(Some(resting(2, "1.1.0")))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    world.counts();
    world.clock.advance(60 + 61);
    let late = world.another_process().check(&asked.0, Some(&asked.1)).await.unwrap();
    assert_eq!((late.status, late.reason), (Status::Failed, Reason::Timeout));
    assert_eq!(world.counts(), [1, 1, 0, 0]);
}

#[tokio::test]
async fn a_rival_that_was_quicker_is_adopted_without_asking_again() {
    let world =
        world(|_, _, n| Ok(Some(if n == 0 { resting(1, "1.0.0") } else { resting(2, "1.1.0") }))).await;
    let asked = asked(|_| ());
    // A twin looked first, and saw what was there before the push.
    world.check(&asked).await;
    let twins = world.stored().await;
    let late = self::world(|_, _, _| Ok(Some(resting(2, "1.1.0")))).await;
    late.deployments.rivals.lock().unwrap().push(twins.clone());
    late.clock.advance(1);
    let answer = late.check(&asked).await;
    assert_eq!(answer.status, Status::Pending);
    assert_eq!(late.counts(), [2, 2, 1, 1]);
    let merged = late.stored().await;
    assert_eq!(
        merged.targets[0].state.baseline, twins.targets[0].state.baseline,
        "the first baseline stands"
    );
    late.clock.advance(5);
    assert_eq!(late.check(&asked).await.status, Status::Succeeded);
}

#[tokio::test]
async fn lost_twice_is_transient_and_a_rivals_verdict_is_taken() {
    let world =
        world(|_, _, n| Ok(Some(if n == 0 { resting(1, "1.0.0") } else { resting(2, "1.1.0") }))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    let mut rival = world.stored().await;
    rival.rev += 1;
    let mut second = rival.clone();
    second.rev += 1;
    *world.deployments.rivals.lock().unwrap() = vec![second.clone(), rival];
    world.clock.advance(5);
    let lost = world.checker.check(&asked.0, Some(&asked.1)).await;
    assert!(matches!(lost, Err(CheckError::Transient(..))), "{lost:?}");

    second.rev += 1;
    second.status = Status::Succeeded;
    second.reason = Reason::UpgradeSucceeded;
    world.deployments.rivals.lock().unwrap().push(second.clone());
    world.clock.advance(5);
    world.figures.told();
    assert_eq!(world.check(&asked).await, Answer::from(&second));
    assert_eq!(world.figures.told(), ["checked UpgradeSucceeded"], "it was the rival's to count");
}

#[tokio::test]
async fn an_id_that_is_used_twice_returns_no_old_verdict() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let first = asked(|_| ());
    world.check(&first).await;
    let before = world.stored().await;
    let second = asked(|e| e["execution"]["arn"] = json!("arn:aws:states:eu-west-1:1:execution:m:run-2"));
    for checker in [&world.checker, &world.another_process()] {
        let error = checker.check(&second.0, Some(&second.1)).await.unwrap_err();
        let CheckError::InvalidRequest(sentence) = error else { panic!("{error:?}") };
        assert!(sentence.contains("DeploymentIdConflict") && sentence.contains("run-1"), "{sentence}");
    }
    assert_eq!(world.stored().await, before);
    assert!(world.checker.check(&first.0, None).await.is_err());
}

#[tokio::test]
async fn without_an_execution_the_request_itself_owns_the_item() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let (request, _) = asked(|_| ());
    world.checker.check(&request, None).await.unwrap();
    world.checker.check(&request, None).await.unwrap();
    let other = Request { timeout_secs: Some(61), ..request };
    assert!(matches!(world.checker.check(&other, None).await, Err(CheckError::InvalidRequest(_))));
}

#[tokio::test]
async fn unknown_clusters_are_each_named() {
    let world = world(|_, _, _| Ok(None)).await;
    let asked = asked(|e| {
        e["targets"] = json!([
            {"cluster": "prod-eu", "release": "a"}, {"cluster": "nowhere", "release": "a"}, {"cluster": "prod/us", "release": "a"}
        ]);
    });
    let error = world.checker.check(&asked.0, Some(&asked.1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "/targets/1/cluster: no cluster \"nowhere\" is registered; \
         /targets/2/cluster: no cluster \"prod/us\" is registered"
    );
    assert_eq!(world.counts()[1..], [0, 0, 0]);
}

#[tokio::test]
async fn a_rotated_token_is_noticed_by_its_refusal_and_tried_at_once() {
    let world = world(|c, _, n| match c.token.expose_secret() {
        "old" if n > 0 => Err(AskErrorKind::Unauthorized),
        _ => Ok(Some(resting(1, "1.0.0"))),
    })
    .await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    world.vault.0.put("prod-eu", &credentials("https://one.example.com", "new").into()).await.unwrap();
    world.counts();
    world.clock.advance(5);
    let answer = world.check(&asked).await;
    assert_eq!((answer.status, answer.reason), (Status::Pending, Reason::WaitingForChange));
    assert_eq!(world.counts(), [1, 0, 2, 1], "read again once, tried at once, and nobody noticed");
}

#[tokio::test]
async fn a_token_that_stays_refused_is_a_failure_on_the_third_poll() {
    let world = world(|_, _, _| Err(AskErrorKind::Unauthorized)).await;
    let asked = asked(|_| ());
    for status in [Status::Pending, Status::Pending, Status::Failed] {
        let answer = world.check(&asked).await;
        assert_eq!((answer.status, answer.reason), (status, Reason::Unauthorized), "{}", answer.message);
        world.clock.advance(5);
    }
}

#[tokio::test]
async fn a_cluster_that_was_registered_anew_is_not_asked() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    world.vault.0.put("prod-eu", &credentials("https://two.example.com", "new").into()).await.unwrap();
    world.counts();
    world.clock.advance(5);
    let answer = world.another_process().check(&asked.0, Some(&asked.1)).await.unwrap();
    assert_eq!((answer.status, answer.reason), (Status::Failed, Reason::ClusterChanged));
    assert_eq!(world.counts()[2], 0, "the token is not sent to another address");
}

fn open_to(patterns: &[&str]) -> Namespaces {
    Namespaces::parse(patterns.iter().map(|it| (*it).to_owned()).collect()).unwrap()
}

#[tokio::test]
async fn a_namespace_that_is_not_open_is_refused_at_the_first_check_and_failed_at_a_later_one() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let closed = ClusterRow {
        namespaces: open_to(&["team-*", "ops"]),
        nonce: "m".to_owned(),
        ..row("prod-eu", "Prod EU", &world.clock)
    };
    assert_eq!(world.registry.put(&closed, Expected::Nonce("n")).await.unwrap(), Stored::Yes);
    let asked = asked(|_| ());
    let refused = world.checker.check(&asked.0, Some(&asked.1)).await.unwrap_err().to_string();
    assert!(refused.starts_with("/targets/0/namespace") && refused.contains("team-*, ops"), "{refused}");
    assert_eq!(world.counts()[2], 0, "nobody was asked");

    let open = ClusterRow { namespaces: Namespaces::default(), ..closed };
    assert_eq!(world.registry.put(&open, Expected::Nonce("m")).await.unwrap(), Stored::Yes);
    assert_eq!(world.check(&asked).await.status, Status::Pending);

    // What counts from then on stands in the secret; a warm process reads it every ten minutes.
    let secret = ClusterSecret {
        namespaces: open_to(&["ops"]),
        ..credentials("https://one.example.com", "old").into()
    };
    world.vault.0.put("prod-eu", &secret).await.unwrap();
    world.clock.advance(5);
    let another = world.another_process();
    world.counts();
    let answer = another.check(&asked.0, Some(&asked.1)).await.unwrap();
    assert_eq!((answer.status, answer.reason), (Status::Failed, Reason::NamespaceNotAllowed));
    assert!(answer.message.contains("shop") && answer.message.contains("ops"), "{}", answer.message);
    assert_eq!(world.counts()[2], 0, "nobody was asked");
}

#[tokio::test]
async fn an_environment_is_resolved_at_the_first_check_and_kept() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let asked = asked(|e| {
        let event = e.as_object_mut().unwrap();
        event.remove("helmType");
        event.remove("targets");
        event.remove("timeoutSecs");
        event.insert("app".to_owned(), json!("checkout"));
        event.insert("environment".to_owned(), json!("production"));
    });
    let refused = world.checker.check(&asked.0, Some(&asked.1)).await.unwrap_err().to_string();
    assert!(refused.starts_with("/environment") && refused.contains("production"), "{refused}");

    let spec = |cluster: &str, release: &str, timeout: u32| {
        let spec = request::parse_environment(&json!({
            "helmType": "flux", "timeoutSecs": timeout,
            "targets": [{"cluster": cluster, "namespace": "shop", "release": release}],
        }))
        .unwrap();
        Environment {
            app: "checkout".to_owned(),
            environment: "production".to_owned(),
            helm_type: spec.helm_type,
            targets: spec.targets,
            timeout_secs: spec.timeout_secs,
            created_at: world.clock.now(),
            updated_at: world.clock.now(),
        }
    };
    let put = async |environment: Environment, id: &str| {
        assert_eq!(
            world.registry.put_environment(&environment, &[id.to_owned()]).await.unwrap(),
            Stored::Yes
        );
    };
    put(spec("Prod EU", "checkout", 60), "prod-eu").await;
    let first = world.check(&asked).await;
    assert_eq!(first.targets[0].cluster, "Prod EU");
    assert_eq!(first.deadline.duration_since(first.started_at).as_secs(), 60);

    // What is registered later is of no matter to a deployment that runs, whoever asks.
    put(spec("prod-us", "another", 7200), "prod-us").await;
    world.clock.advance(5);
    for checker in [&world.checker, &world.another_process()] {
        let later = checker.check(&asked.0, Some(&asked.1)).await.unwrap();
        assert_eq!((later.deadline, &later.targets[0].release), (first.deadline, &first.targets[0].release));
        assert_eq!(later.targets.len(), 1);
    }
    assert!(world.registry.remove_environment("checkout", "production").await.unwrap());
    world.clock.advance(5);
    assert_eq!(world.check(&asked).await.status, Status::Pending);
}

/// EKS, as it answers: an address and a token for each time it is asked.
struct Minting(AtomicUsize, Mutex<Result<String, String>>);

#[async_trait]
impl Eks for Minting {
    async fn credentials(&self, _: &monitor::cluster::EksCluster) -> Result<Credentials, EksError> {
        let n = self.0.fetch_add(1, Ordering::SeqCst);
        let url = self.1.lock().unwrap().clone().map_err(EksError::Refused)?;
        Ok(credentials(&url, &format!("minted-{n}")))
    }

    fn role_allowed(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn an_eks_cluster_is_entered_by_tokens_that_are_made_and_made_anew() {
    let accepted = Arc::new(Mutex::new("minted-0"));
    let of_cluster = accepted.clone();
    let mut world = world(move |credentials, _, _| {
        let known = *of_cluster.lock().unwrap() == credentials.token.expose_secret();
        if known { Ok(Some(resting(1, "1.0.0"))) } else { Err(AskErrorKind::Unauthorized) }
    })
    .await;
    let eks = Arc::new(Minting(AtomicUsize::new(0), Mutex::new(Ok("https://eks.example.com".to_owned()))));
    world.ports.eks = eks.clone();
    world.checker = world.another_process();
    let cluster = monitor::cluster::EksCluster {
        cluster_name: "prod".to_owned(),
        region: "eu-central-1".to_owned(),
        role_arn: None,
    };
    let secret = ClusterSecret { auth: Auth::Eks(cluster), namespaces: Namespaces::default() };
    world.vault.0.put("prod-eu", &secret).await.unwrap();
    let asked = asked(|e| e["timeoutSecs"] = json!(7200));
    assert_eq!(world.check(&asked).await.reason, Reason::WaitingForChange);
    world.clock.advance(5);
    assert_eq!(world.check(&asked).await.reason, Reason::WaitingForChange);
    assert_eq!(eks.0.load(Ordering::SeqCst), 1, "a token serves many checks");

    // One that is refused is made anew at once; without that, another is made after ten minutes.
    *accepted.lock().unwrap() = "minted-1";
    world.clock.advance(5);
    assert_eq!(world.check(&asked).await.reason, Reason::WaitingForChange);
    assert_eq!(eks.0.load(Ordering::SeqCst), 2);
    *accepted.lock().unwrap() = "minted-2";
    world.clock.advance(600);
    assert_eq!(world.check(&asked).await.reason, Reason::WaitingForChange);
    assert_eq!(eks.0.load(Ordering::SeqCst), 3);

    // What AWS refuses may pass, and is told.
    *eks.1.lock().unwrap() = Err("no right to describe it".to_owned());
    world.clock.advance(600);
    let answer = world.check(&asked).await;
    assert_eq!((answer.status, answer.reason), (Status::Pending, Reason::CredentialsUnavailable));
    assert!(answer.message.contains("no right to describe it"), "{}", answer.message);

    // The address is asked for at each mint: another one ends the deployment, as with a stored token.
    *eks.1.lock().unwrap() = Ok("https://elsewhere.example.com".to_owned());
    world.clock.advance(5);
    let answer = world.check(&asked).await;
    assert_eq!((answer.status, answer.reason), (Status::Failed, Reason::ClusterChanged));
}

#[tokio::test]
async fn a_cluster_that_was_removed_is_told_after_three_polls() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    world.vault.0.delete("prod-eu").await.unwrap();
    for reason in [Reason::CredentialsUnavailable, Reason::CredentialsUnavailable, Reason::ClusterRemoved] {
        world.clock.advance(5);
        let answer = world.another_process().check(&asked.0, Some(&asked.1)).await.unwrap();
        assert_eq!(answer.reason, reason);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_cluster_delays_the_others_by_the_budget_at_most() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    world.clusters.silent.lock().unwrap().push("mute".to_owned());
    let asked = asked(|e| {
        e["targets"] =
            json!([{"cluster": "prod-us", "release": "mute"}, {"cluster": "prod-eu", "release": "a"}]);
    });
    let began = tokio::time::Instant::now();
    let answer = world.check(&asked).await;
    assert_eq!(began.elapsed(), Duration::from_millis(4500));
    assert_eq!(answer.targets[0].reason, Reason::ClusterSlow);
    assert_eq!(answer.targets[1].reason, Reason::WaitingForChange);
}

/// Its `Date` is that of the answer, seconds after the look began: taken for a clock that
/// is ahead, it would move the push past what came of it.
#[tokio::test]
async fn a_slow_answer_is_no_clock_that_is_ahead() {
    let world = world(|_, _, _| Ok(None)).await;
    let mut pushed = resting(2, "1.1.0");
    pushed["metadata"]["managedFields"] = json!([
        {"manager": "kustomize-controller", "operation": "Apply", "time": START, "fieldsV1": {"f:spec": {}}}
    ]);
    let clock = world.clock.clone();
    *world.clusters.answering.lock().unwrap() = Box::new(move |_, _, _| {
        clock.advance(3);
        Ok(Some(pushed.clone()))
    });
    let asked = asked(|e| {
        e["pushedAt"] = json!(START);
        e["expect"] = json!({"chartVersion": "1.1.0"});
    });
    let answer = world.check(&asked).await;
    assert_eq!((answer.status, answer.reason), (Status::Succeeded, Reason::UpgradeSucceeded), "{answer:?}");
}

#[tokio::test]
async fn many_targets_on_one_cluster_read_its_credentials_once() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let targets: Vec<Value> =
        (0..40).map(|n| json!({"cluster": "prod-eu", "release": format!("r{n}")})).collect();
    let asked = asked(|e| e["targets"] = json!(targets));
    let answer = world.check(&asked).await;
    assert_eq!(answer.targets.len(), 40);
    assert_eq!(world.counts(), [1, 1, 40, 1]);
}

#[tokio::test]
async fn all_are_awaited_or_with_fail_fast_none() {
    let answering = |_: &Credentials, name: &str, _: usize| match name {
        "bad" => {
            let mut bad = resting(1, "1.0.0");
            bad["metadata"]["deletionTimestamp"] = json!(START);
            Ok(Some(bad))
        }
        _ => Ok(None),
    };
    for (fail_fast, status, reason) in
        [(false, Status::Pending, Reason::NotFound), (true, Status::Failed, Reason::Removed)]
    {
        let world = world(move |c, n, i| if i < 2 { Ok(None) } else { answering(c, n, i) }).await;
        let asked = asked(|e| {
            e["failFast"] = json!(fail_fast);
            e["targets"] =
                json!([{"cluster": "prod-eu", "release": "slow"}, {"cluster": "prod-us", "release": "bad"}]);
        });
        world.check(&asked).await;
        world.clock.advance(5);
        let answer = world.check(&asked).await;
        assert_eq!((answer.status, answer.reason), (status, reason), "{}", answer.message);
        assert_eq!(answer.targets[0].status, Status::Pending);
        assert_eq!(answer.targets[0].reason == Reason::NotAwaited, fail_fast);
    }
}

fn ended(status: &str, error: Option<&str>, arn: &str) -> Ended {
    Ended {
        execution: Execution { arn: arn.to_owned(), started_at: START.parse().unwrap() },
        deployment_id: Some("d-1".to_owned()),
        status: status.to_owned(),
        error: error.map(str::to_owned),
        cause: None,
    }
}

#[tokio::test]
async fn what_an_execution_left_pending_is_closed_and_told() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    let other = world.checker.close(&ended("ABORTED", None, "arn:aws:states:x:1:execution:m:run-2")).await;
    assert_eq!(other.unwrap(), None, "another execution's end closes nothing");
    assert_eq!(world.stored().await.status, Status::Pending);

    let arn = asked.1.arn.as_str();
    let closed = world.checker.close(&ended("ABORTED", None, arn)).await.unwrap().unwrap();
    assert_eq!((closed.status, closed.reason), (Status::Failed, Reason::MonitorError));
    assert!(
        closed.message.contains("stopped by hand") && closed.message.contains("last seen"),
        "{}",
        closed.message
    );
    assert_eq!(closed.last_reason, Some(Reason::WaitingForChange));
    assert_eq!(world.events.published(), std::slice::from_ref(&closed));

    // Again, and a check that was under way: the end stands.
    let again = world.checker.close(&ended("ABORTED", None, arn)).await.unwrap().unwrap();
    assert_eq!(again, closed);
    assert_eq!(world.check(&asked).await, closed);
}

#[tokio::test]
async fn a_verdict_that_the_state_machine_has_told_is_not_told_again() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    world.clock.advance(60);
    world.check(&asked).await;
    let closed =
        world.checker.close(&ended("FAILED", Some("DeploymentTimedOut"), &asked.1.arn)).await.unwrap();
    assert_eq!(closed.unwrap().reason, Reason::Timeout);
    assert!(world.events.published().is_empty());
    world.checker.close(&ended("FAILED", Some("States.Runtime"), &asked.1.arn)).await.unwrap();
    assert_eq!(world.events.published().len(), 1, "a verdict that it could not tell is");
}

#[tokio::test]
async fn a_verdict_is_counted_once_by_whoever_stored_it() {
    let world =
        world(|_, _, n| Ok(Some(if n == 0 { resting(1, "1.0.0") } else { resting(2, "1.1.0") }))).await;
    let asked = asked(|_| ());
    for _ in 0..3 {
        world.check(&asked).await;
        world.clock.advance(5);
    }
    assert_eq!(
        world.figures.told(),
        ["checked WaitingForChange", "checked Progressing", "verdict UpgradeSucceeded"]
    );
    // A late check, one in another process, and both kinds of end.
    world.check(&asked).await;
    let other = Checker::new(world.ports.clone(), Settings::default());
    other.check(&asked.0, Some(&asked.1)).await.unwrap();
    assert_eq!(world.figures.told(), ["checked UpgradeSucceeded", "checked UpgradeSucceeded"]);
    for end in [ended("ABORTED", None, &asked.1.arn), ended("FAILED", Some("MonitorError"), &asked.1.arn)] {
        world.checker.close(&end).await.unwrap();
    }
    assert_eq!(world.figures.told(), [""; 0]);
}

#[tokio::test]
async fn what_the_state_machine_marked_is_counted_at_the_end_of_its_execution() {
    let world = world(|_, _, _| Ok(Some(resting(1, "1.0.0")))).await;
    let asked = asked(|_| ());
    world.check(&asked).await;
    let mut marked = world.stored().await;
    marked.rev += 1;
    marked.status = Status::Failed;
    marked.reason = Reason::InvalidRequest;
    assert_eq!(world.deployments.inner.update(&marked).await.unwrap(), Stored::Yes);
    world.figures.told();
    world.checker.close(&ended("FAILED", Some("InvalidRequest"), &asked.1.arn)).await.unwrap();
    assert_eq!(world.figures.told(), ["closed InvalidRequest"]);
}

#[tokio::test]
async fn clusters_that_can_not_be_asked_are_counted_by_id_and_kind() {
    let world = world(|_, _, _| Err(AskErrorKind::Unreachable)).await;
    let asked = asked(|event| {
        let target = |cluster, release| json!({"cluster": cluster, "namespace": "shop", "release": release});
        event["targets"] =
            json!([target("Prod EU", "one"), target("prod-us", "one"), target("Prod EU", "two")]);
    });
    world.check(&asked).await;
    let mut told = world.figures.told();
    assert!(told.pop().unwrap().starts_with("checked"));
    assert_eq!(told, ["prod-eu Unreachable 2", "prod-us Unreachable 1"]);
}

#[tokio::test]
async fn an_execution_that_never_checked_leaves_a_trace() {
    let world = world(|_, _, _| Ok(None)).await;
    let closed = world.checker.close(&ended("TIMED_OUT", None, "arn:aws:states:x:1:execution:m:d-1")).await;
    let closed = closed.unwrap().unwrap();
    assert_eq!((closed.status, closed.reason), (Status::Failed, Reason::MonitorError));
    assert_eq!(Answer::from(&world.stored().await), closed);
}
