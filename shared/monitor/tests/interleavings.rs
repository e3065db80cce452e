//! Any order of checks, of two processes at once, killed anywhere, with a store that
//! fails and lies: one verdict, the right one, written once.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use monitor::{
    answer::Answer,
    check::{CheckError, CheckPorts, Checker, Ended, Settings},
    cluster::{ClusterRow, RowState},
    deployment::Deployment,
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, MemoryVault, NoEks},
    ports::{
        Clock, Clusters, Credentials, Dated, Deployments, Expected, History, Registry, StoreError, Stored,
        Vault,
    },
    request::{self, Execution, Request},
};
use proptest::{collection, option, prelude::*, sample};
use serde::Deserialize as _;
use serde_json::{Value, json};
use verdict::{AskError, AskErrorKind, HelmRelease, Payload, Reason, Revision, Status};

const START: &str = "2026-11-23T19:00:00Z";
const TIMEOUT_SECS: i64 = 60;
/// When the cluster shows the push, in seconds after the start.
const CHANGED: i64 = 12;

fn at(secs: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(secs)
}

struct ManualClock(Mutex<i64>);

impl ManualClock {
    fn secs(&self) -> i64 {
        *self.0.lock().unwrap()
    }

    fn advance(&self, secs: i64) {
        *self.0.lock().unwrap() += secs;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        at(self.secs())
    }
}

/// A point at which a process can be overtaken or killed.
async fn await_point() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// What becomes of a call to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Nothing is done.
    Lost,
    /// It is done, and the answer is lost.
    Unheard,
}

/// The store, with the fates of the calls to come.
struct Fateful {
    inner: MemoryDeployments,
    fates: Mutex<VecDeque<Fate>>,
}

impl Fateful {
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fate = self.fates.lock().unwrap().pop_front().unwrap_or(Fate::Fine);
        let broken = || StoreError::Transient("DynamoDB", "on purpose".into());
        await_point().await;
        if fate == Fate::Lost {
            return Err(broken());
        }
        let done = call.await;
        await_point().await;
        if fate == Fate::Unheard { Err(broken()) } else { done }
    }
}

#[async_trait]
impl Deployments for Fateful {
    async fn get(&self, id: &str) -> Result<Option<Deployment>, StoreError> {
        self.call(self.inner.get(id)).await
    }

    async fn create(&self, item: &Deployment, now: Timestamp) -> Result<Stored, StoreError> {
        self.call(self.inner.create(item, now)).await
    }

    async fn update(&self, item: &Deployment) -> Result<Stored, StoreError> {
        self.call(self.inner.update(item)).await
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

/// A cluster that shows the old release, then the new one where there was a push; and
/// fails to answer now and then.
struct Script {
    clock: Arc<ManualClock>,
    pushed: bool,
    hiccups: Mutex<VecDeque<bool>>,
}

fn resting(generation: i64) -> Value {
    json!({
        "metadata": {"uid": "u", "generation": generation},
        "spec": {},
        "status": {
            "observedGeneration": generation, "lastAttemptedGeneration": generation,
            "lastAttemptedRevision": format!("1.{generation}.0"), "lastAttemptedConfigDigest": "c",
            "conditions": [{"type": "Ready", "status": "True", "reason": "UpgradeSucceeded", "message": "upgraded"}],
            "history": [{
                "name": "checkout", "version": generation, "status": "deployed",
                "chartVersion": format!("1.{generation}.0"),
            }]
        }
    })
}

#[async_trait]
impl Clusters for Script {
    async fn helm_release(
        &self,
        _: &Credentials,
        _: &str,
        _: &str,
    ) -> Result<Dated<Option<Box<HelmRelease>>>, AskError> {
        // Seen at the moment of asking, told later: another process may be quicker.
        let generation = if self.pushed && self.clock.secs() >= CHANGED { 2 } else { 1 };
        let date = Some(self.clock.now());
        await_point().await;
        if self.hiccups.lock().unwrap().pop_front().unwrap_or(false) {
            return Err(AskError { kind: AskErrorKind::Unreachable, message: "on purpose".to_owned() });
        }
        let object = HelmRelease::deserialize(resting(generation)).unwrap();
        Ok(Dated { value: Some(Box::new(object)), date })
    }

    async fn revisions(&self, _: &Credentials, _: &str, _: &str) -> Result<Dated<Vec<Revision>>, AskError> {
        Ok(Dated { value: Vec::new(), date: None })
    }

    async fn payload(&self, _: &Credentials, _: &str, _: &str) -> Result<Dated<Payload>, AskError> {
        Ok(Dated { value: Payload::Unreadable(String::new()), date: None })
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// Time passes, in seconds.
    Wait(i64),
    /// One check, or two at once.
    Check {
        /// Which process: 0 and 1 remember what they did, 2 was started just now.
        processes: (u8, Option<u8>),
        /// Whose turn it is, await by await; then they take turns.
        turns: Vec<bool>,
        /// After how many of its awaits each is killed.
        killed: (Option<u8>, Option<u8>),
        /// What becomes of the calls to the store.
        fates: Vec<Fate>,
        /// Which questions the cluster does not answer.
        hiccups: Vec<bool>,
        /// By an execution that uses the same id, which is never served.
        foreign: bool,
    },
    /// News comes that the execution has failed, which is true once it has a verdict.
    Closed,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = sample::select(vec![Fate::Fine, Fate::Fine, Fate::Fine, Fate::Lost, Fate::Unheard]);
    let check = (
        (0_u8..3, option::of(0_u8..3)),
        collection::vec(any::<bool>(), 0..24),
        (option::weighted(0.3, 0_u8..16), option::weighted(0.3, 0_u8..16)),
        collection::vec(fate, 0..8),
        collection::vec(prop::bool::weighted(0.2), 0..3),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(processes, turns, killed, fates, hiccups, foreign)| Step::Check {
            processes,
            turns,
            killed,
            fates,
            hiccups,
            foreign,
        });
    prop_oneof![2 => (0_i64..9).prop_map(Step::Wait), 5 => check]
}

struct World {
    clock: Arc<ManualClock>,
    store: Arc<Fateful>,
    script: Arc<Script>,
    ports: CheckPorts,
    processes: [Checker; 2],
    request: Request,
    execution: Execution,
    foreign: Execution,
}

type Checking<'a> = Pin<Box<dyn Future<Output = Result<Answer, CheckError>> + 'a>>;

impl World {
    async fn new(pushed: bool) -> Self {
        let clock = Arc::new(ManualClock(Mutex::new(0)));
        let store =
            Arc::new(Fateful { inner: MemoryDeployments::new(clock.clone()), fates: Mutex::default() });
        let script = Arc::new(Script { clock: clock.clone(), pushed, hiccups: Mutex::default() });
        let registry = Arc::new(MemoryRegistry::default());
        let new = ClusterRow::new("prod".to_owned(), "prod".to_owned(), "n".to_owned(), clock.now());
        let row =
            ClusterRow { api_url: "https://one.example.com".to_owned(), state: RowState::Active, ..new };
        assert_eq!(registry.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
        let vault = Arc::new(MemoryVault::default());
        let credentials =
            Credentials { api_url: row.api_url, token: "t".into(), ca_cert: None, tls_server_name: None };
        vault.put("prod", &credentials.into()).await.unwrap();
        let ports = CheckPorts {
            deployments: store.clone(),
            registry: registry.clone(),
            environments: registry,
            vault,
            eks: Arc::new(NoEks),
            clusters: script.clone(),
            events: Arc::new(MemoryEvents::default()),
            clock: clock.clone(),
        };
        let event = json!({
            "deploymentId": "d", "helmType": "flux", "timeoutSecs": TIMEOUT_SECS, "pushedAt": START,
            "targets": [{"cluster": "prod", "namespace": "shop", "release": "checkout"}],
            "execution": {"arn": "arn:aws:states:x:1:execution:m:d", "startedAt": START},
        });
        let (request, execution) = request::parse(&event).unwrap();
        let execution = execution.unwrap();
        let foreign = Execution { arn: "arn:aws:states:x:1:execution:m:other".to_owned(), ..execution };
        let checker = || Checker::new(ports.clone(), Settings::default());
        let processes = [checker(), checker()];
        Self { clock, store, script, processes, ports, request, execution, foreign }
    }

    async fn stored(&self) -> Option<Deployment> {
        self.store.inner.get("d").await.unwrap()
    }

    /// Runs one or two checks side by side, await by await; who is killed has no answer.
    fn run<'a>(
        mut checks: Vec<(Checking<'a>, Option<u8>)>,
        turns: &[bool],
    ) -> Vec<Result<Answer, CheckError>> {
        let mut answers = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = turns.iter().copied();
        let mut turn = false;
        while !checks.is_empty() {
            turn = turns.next().unwrap_or(!turn);
            let index = usize::from(turn) % checks.len();
            let (check, left) = &mut checks[index];
            if *left == Some(0) {
                drop(checks.remove(index));
                continue;
            }
            *left = left.map(|left| left - 1);
            if let Poll::Ready(answer) = check.as_mut().poll(&mut context) {
                answers.push(answer);
                drop(checks.remove(index));
            }
        }
        answers
    }

    fn check(&self, step: &Step) -> Vec<(bool, Result<Answer, CheckError>)> {
        let Step::Check { processes, turns, killed, fates, hiccups, foreign } = step else {
            return Vec::new();
        };
        *self.store.fates.lock().unwrap() = fates.iter().copied().collect();
        *self.script.hiccups.lock().unwrap() = hiccups.iter().copied().collect();
        let fresh = Checker::new(self.ports.clone(), Settings::default());
        let execution = if *foreign { &self.foreign } else { &self.execution };
        let begin = |process: u8| -> Checking<'_> {
            let checker = self.processes.get(usize::from(process)).unwrap_or(&fresh);
            Box::pin(checker.check(&self.request, Some(execution)))
        };
        let mut checks = vec![(begin(processes.0), killed.0)];
        checks.extend(processes.1.map(|process| (begin(process), killed.1)));
        let answers = Self::run(checks, turns);
        self.store.fates.lock().unwrap().clear();
        self.script.hiccups.lock().unwrap().clear();
        answers.into_iter().map(|answer| (*foreign, answer)).collect()
    }
}

fn healthy() -> Step {
    Step::Check {
        processes: (0, None),
        turns: Vec::new(),
        killed: (None, None),
        fates: Vec::new(),
        hiccups: Vec::new(),
        foreign: false,
    }
}

/// What must hold of the item from one step to the next.
fn follows(before: Option<&Deployment>, after: Option<&Deployment>) {
    let Some(before) = before else { return };
    let after = after.expect("an item does not go away");
    assert_eq!((after.deadline, after.started_at), (before.deadline, before.started_at));
    assert_eq!(after.execution_arn, before.execution_arn, "an item keeps its execution");
    assert!(after.rev >= before.rev);
    if before.status.is_terminal() {
        assert_eq!(after, before, "a verdict is written once");
    }
    let baseline = |item: &Deployment| item.targets.first().and_then(|it| it.state.baseline.clone());
    if let Some(taken) = baseline(before) {
        assert_eq!(baseline(after), Some(taken), "the baseline is taken once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_there_is_one_verdict_and_it_is_right(
        pushed in any::<bool>(),
        steps in collection::vec(step(), 1..24),
        closed in option::weighted(0.2, 0_usize..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = World::new(pushed).await;
            // A first check that went well before the push was seen: later ones can't know the old release.
            world.check(&healthy());
            let mut before = world.stored().await;
            let mut steps = steps;
            if let Some(place) = closed {
                steps.insert(place.min(steps.len()), Step::Closed);
            }
            let mut was_closed = false;
            // Then the world is well again, and the state machine goes on.
            let rest = (0..40).flat_map(|_| [Step::Wait(5), healthy()]);
            for step in steps.into_iter().chain(rest) {
                let mut answers = Vec::new();
                match &step {
                    Step::Wait(secs) => world.clock.advance(*secs),
                    Step::Check { .. } => answers = world.check(&step),
                    Step::Closed => {
                        was_closed = true;
                        let ended = Ended {
                            execution: world.execution.clone(),
                            deployment_id: Some("d".to_owned()),
                            status: "ABORTED".to_owned(),
                            error: None,
                            cause: None,
                        };
                        let closing = world.processes[0].close(&ended);
                        let closing: Pin<Box<dyn Future<Output = _>>> = Box::pin(closing);
                        let mut closing = closing;
                        let mut context = Context::from_waker(Waker::noop());
                        while closing.as_mut().poll(&mut context).is_pending() {}
                    }
                }
                let now = world.stored().await;
                follows(before.as_ref(), now.as_ref());
                for (foreign, answer) in answers {
                    match answer {
                        Ok(_) if foreign => panic!("another execution was served"),
                        Err(CheckError::InvalidRequest(_)) if foreign => {}
                        // An end that is told is the stored one.
                        Ok(answer) if answer.status.is_terminal() => {
                            assert_eq!(Some(answer), now.as_ref().map(Answer::from));
                        }
                        Ok(_) | Err(CheckError::Transient(..)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                if let Some(item) = now.as_ref().filter(|it| it.status.is_terminal()) {
                    let finished = item.finished_at.unwrap();
                    match item.reason {
                        Reason::UpgradeSucceeded => {
                            assert!(pushed && finished >= at(CHANGED) && item.status == Status::Succeeded);
                        }
                        Reason::Timeout => assert!(finished >= item.deadline, "{item:?}"),
                        Reason::MonitorError => assert!(was_closed),
                        other => panic!("{other}: {}", item.message),
                    }
                }
                before = now;
            }
            let end = before.unwrap();
            assert!(end.status.is_terminal(), "pending for ever: {}", end.message);
        });
    }
}
