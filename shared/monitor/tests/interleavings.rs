//! Any order of checks and closings, of two processes at once, killed anywhere or frozen and
//! overtaken, by clocks that differ, with a store that fails and lies: one verdict, the right
//! one, written once, and told as it is stored.

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
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, MemoryVault, NoEks, NoMetrics},
    ports::{
        Clock, Clusters, Credentials, Dated, Deployments, Events, Expected, History, Registry, StoreError,
        Stored, Vault,
    },
    probe::Attention,
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
/// How far a host's clock is off at most, in seconds.
const SKEW: i64 = 3;
/// How long after the deadline a check still looks, in seconds (DESIGN: a redrive asks nobody).
const TOO_LATE: i64 = 60;

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

/// The same time on a host whose clock is off.
struct Skewed(Arc<ManualClock>, i64);

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        at(self.0.secs() + self.1)
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

/// The bus, with the fates of the calls to come.
struct FatefulEvents {
    inner: MemoryEvents,
    store: Arc<Fateful>,
}

#[async_trait]
impl Events for FatefulEvents {
    async fn deployment_finished(&self, answer: &Answer) -> Result<(), StoreError> {
        self.store.call(self.inner.deployment_finished(answer)).await
    }

    async fn cluster_needs_attention(&self, attention: &Attention) -> Result<(), StoreError> {
        self.inner.cluster_needs_attention(attention).await
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

/// Who asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The execution whose item it is.
    Own,
    /// Another one with the same id and the same request, which is never served.
    Foreign,
    /// Another one with the same id and another request.
    ForeignRequest,
}

/// One call of the handler.
#[derive(Debug, Clone, Copy)]
struct Call {
    /// Which process: 0 and 1 remember what they did, 2 was started just now.
    process: u8,
    by: By,
    /// A check; else the news that the execution has ended.
    check: bool,
    /// After how many of its awaits it is killed, or frozen.
    stops: Option<(u8, Stop)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Killed,
    /// As Lambda freezes a process; it goes on at [`Step::Thaw`].
    Frozen,
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// Time passes, in seconds.
    Wait(i64),
    /// One call, or two at once.
    Calls {
        calls: Vec<Call>,
        /// Whose turn it is, await by await; then they take turns.
        turns: Vec<bool>,
        /// What becomes of the calls to the store and the bus.
        fates: Vec<Fate>,
        /// Which questions the cluster does not answer.
        hiccups: Vec<bool>,
    },
    /// Whoever was frozen goes on, long overtaken.
    Thaw,
    /// The state machine gives up, and marks the item itself (infra/deployment-monitor.asl.json).
    Mark,
}

fn call() -> impl Strategy<Value = Call> {
    let by = prop_oneof![12 => Just(By::Own), 1 => Just(By::Foreign), 1 => Just(By::ForeignRequest)];
    let stop = sample::select(vec![Stop::Killed, Stop::Frozen]);
    (0_u8..3, by, prop::bool::weighted(0.95), option::weighted(0.35, (0_u8..16, stop)))
        .prop_map(|(process, by, check, stops)| Call { process, by, check, stops })
}

fn step() -> impl Strategy<Value = Step> {
    let fate = sample::select(vec![Fate::Fine, Fate::Fine, Fate::Fine, Fate::Lost, Fate::Unheard]);
    let calls = (
        collection::vec(call(), 1..3),
        collection::vec(any::<bool>(), 0..24),
        collection::vec(fate, 0..8),
        collection::vec(prop::bool::weighted(0.2), 0..3),
    )
        .prop_map(|(calls, turns, fates, hiccups)| Step::Calls { calls, turns, fates, hiccups });
    prop_oneof![
        80 => (0_i64..9).prop_map(Step::Wait),
        5 => (50_i64..4_000).prop_map(Step::Wait),
        200 => calls,
        20 => Just(Step::Thaw),
        1 => Just(Step::Mark),
    ]
}

struct World {
    clock: Arc<ManualClock>,
    store: Arc<Fateful>,
    events: Arc<FatefulEvents>,
    script: Arc<Script>,
    ports: CheckPorts,
    processes: [Arc<Checker>; 2],
    request: Request,
    /// Another request under the same id.
    other_request: Request,
    execution: Execution,
    foreign: Execution,
    frozen: Vec<Calling>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Option<Answer>, CheckError>>>>;

/// A call under way.
struct Calling {
    call: Call,
    left: Option<u8>,
    answering: Answering,
}

impl World {
    async fn new(pushed: bool, skews: [i64; 2]) -> Self {
        let clock = Arc::new(ManualClock(Mutex::new(0)));
        let store =
            Arc::new(Fateful { inner: MemoryDeployments::new(clock.clone()), fates: Mutex::default() });
        let events = Arc::new(FatefulEvents { inner: MemoryEvents::default(), store: store.clone() });
        let script = Arc::new(Script { clock: clock.clone(), pushed, hiccups: Mutex::default() });
        let registry = Arc::new(MemoryRegistry::default());
        let new = ClusterRow::new("prod".to_owned(), "prod".to_owned(), "n".to_owned(), clock.now());
        let row =
            ClusterRow { api_url: "https://one.example.com".to_owned(), state: RowState::Active, ..new };
        assert_eq!(registry.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
        let vault = Arc::new(MemoryVault::default());
        let credentials = Credentials {
            api_url: row.api_url,
            token: "t".into(),
            ca_cert: None,
            tls_server_name: None,
            personal: None,
        };
        vault.put("prod", &credentials.into()).await.unwrap();
        let ports = CheckPorts {
            deployments: store.clone(),
            registry: registry.clone(),
            environments: registry,
            vault,
            eks: Arc::new(NoEks),
            clusters: script.clone(),
            events: events.clone(),
            metrics: Arc::new(NoMetrics),
            clock: clock.clone(),
        };
        let event = json!({
            "deploymentId": "d", "helmType": "flux", "timeoutSecs": TIMEOUT_SECS, "pushedAt": START,
            "targets": [{"cluster": "prod", "namespace": "shop", "release": "checkout"}],
            "execution": {"arn": "arn:aws:states:x:1:execution:m:d", "startedAt": START},
        });
        let mut other = event.clone();
        other["targets"][0]["release"] = json!("basket");
        let (request, execution) = request::parse(&event).unwrap();
        let (other_request, _) = request::parse(&other).unwrap();
        let execution = execution.unwrap();
        let foreign = Execution { arn: "arn:aws:states:x:1:execution:m:other".to_owned(), ..execution };
        let processes = skews.map(|skew| {
            let ports = CheckPorts { clock: Arc::new(Skewed(clock.clone(), skew)), ..ports.clone() };
            Arc::new(Checker::new(ports, Settings::default()))
        });
        Self {
            clock,
            store,
            events,
            script,
            ports,
            processes,
            request,
            other_request,
            execution,
            foreign,
            frozen: Vec::new(),
        }
    }

    async fn stored(&self) -> Option<Deployment> {
        self.store.inner.get("d").await.unwrap()
    }

    fn begin(&self, call: Call) -> Calling {
        let remembering = self.processes.get(usize::from(call.process)).cloned();
        let checker =
            remembering.unwrap_or_else(|| Arc::new(Checker::new(self.ports.clone(), Settings::default())));
        let request = if call.by == By::ForeignRequest { &self.other_request } else { &self.request }.clone();
        let execution = if call.by == By::Own { &self.execution } else { &self.foreign }.clone();
        let answering: Answering = Box::pin(async move {
            if call.check {
                return checker.check(&request, Some(&execution)).await.map(Some);
            }
            let ended = Ended {
                execution,
                deployment_id: Some("d".to_owned()),
                status: "ABORTED".to_owned(),
                error: None,
                cause: None,
            };
            checker.close(&ended).await
        });
        Calling { call, left: call.stops.map(|(left, _)| left), answering }
    }

    /// Runs one or two calls side by side, await by await; who is stopped has no answer.
    fn run(
        &mut self,
        mut calling: Vec<Calling>,
        turns: &[bool],
    ) -> Vec<(Call, Result<Option<Answer>, CheckError>)> {
        let mut answers = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = turns.iter().copied();
        let mut turn = false;
        while !calling.is_empty() {
            turn = turns.next().unwrap_or(!turn);
            let index = usize::from(turn) % calling.len();
            let now = &mut calling[index];
            if now.left == Some(0) {
                let stopped = calling.remove(index);
                if matches!(stopped.call.stops, Some((_, Stop::Frozen))) {
                    self.frozen.push(Calling { left: None, ..stopped });
                }
                continue;
            }
            now.left = now.left.map(|left| left - 1);
            if let Poll::Ready(answer) = now.answering.as_mut().poll(&mut context) {
                answers.push((now.call, answer));
                drop(calling.remove(index));
            }
        }
        answers
    }

    /// One step; what was answered meanwhile.
    async fn take(&mut self, step: &Step) -> Vec<(Call, Result<Option<Answer>, CheckError>)> {
        match step {
            Step::Wait(secs) => {
                self.clock.advance(*secs);
                Vec::new()
            }
            Step::Calls { calls, turns, fates, hiccups } => {
                *self.store.fates.lock().unwrap() = fates.iter().copied().collect();
                *self.script.hiccups.lock().unwrap() = hiccups.iter().copied().collect();
                let begun = calls.iter().map(|call| self.begin(*call)).collect();
                let answers = self.run(begun, turns);
                self.store.fates.lock().unwrap().clear();
                self.script.hiccups.lock().unwrap().clear();
                answers
            }
            Step::Thaw => {
                let frozen = std::mem::take(&mut self.frozen);
                self.run(frozen, &[])
            }
            Step::Mark => {
                self.mark().await;
                Vec::new()
            }
        }
    }

    /// In one write, on its condition: the item is pending and this execution's. The world
    /// begins with a first check that wrote it, so it is never absent.
    async fn mark(&self) {
        let Some(item) = self.stored().await else { return };
        if item.status == Status::Pending && item.execution_arn.as_deref() == Some(&self.execution.arn) {
            let marked = Deployment {
                rev: item.rev + 1,
                status: Status::Failed,
                reason: Reason::MonitorError,
                finished_at: Some(self.clock.now()),
                ..item
            };
            assert_eq!(self.store.inner.update(&marked).await.unwrap(), Stored::Yes);
        }
    }
}

fn one(call: Call) -> Step {
    Step::Calls { calls: vec![call], turns: Vec::new(), fates: Vec::new(), hiccups: Vec::new() }
}

const HEALTHY: Call = Call { process: 0, by: By::Own, check: true, stops: None };

/// What must hold of the item from one step to the next.
fn follows(before: Option<&Deployment>, after: Option<&Deployment>) {
    let Some(before) = before else { return };
    let after = after.expect("an item does not go away");
    assert_eq!((after.deadline, after.started_at), (before.deadline, before.started_at));
    assert_eq!(after.execution_arn, before.execution_arn, "an item keeps its execution");
    assert_eq!(after.digest, before.digest, "and its request");
    assert!(after.rev >= before.rev);
    if before.status.is_terminal() {
        assert_eq!(after, before, "a verdict is written once");
    }
    let baseline = |item: &Deployment| item.targets.first().and_then(|it| it.state.baseline.clone());
    if let Some(taken) = baseline(before) {
        assert_eq!(baseline(after), Some(taken), "the baseline is taken once");
    }
}

/// Whether the verdict is one that could be reached, and when it could be.
fn right(item: &Deployment, pushed: bool, gave_up: bool) {
    let finished = item.finished_at.unwrap();
    match item.reason {
        Reason::UpgradeSucceeded => {
            assert!(pushed && item.status == Status::Succeeded);
            assert!(finished >= at(CHANGED - SKEW), "{item:?}");
            assert!(finished <= item.deadline + SignedDuration::from_secs(TOO_LATE), "{item:?}");
        }
        Reason::Timeout => assert!(finished >= item.deadline, "{item:?}"),
        Reason::MonitorError => assert!(gave_up),
        other => panic!("{other}: {}", item.message),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_there_is_one_verdict_and_it_is_right(
        pushed in any::<bool>(),
        skews in [-SKEW..=SKEW, -SKEW..=SKEW],
        steps in collection::vec(step(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(pushed, skews).await;
            // A first check that went well before the push was seen: later ones can't know the old release.
            // It comes later than the execution began, by which the deadline counts.
            world.take(&Step::Wait(2)).await;
            world.take(&one(HEALTHY)).await;
            let mut before = world.stored().await;
            let mut gave_up = false;
            // Then the world is well again, and the state machine goes on; what is still frozen
            // comes back when all is over, and the news of the end comes last.
            let rest = (0..40).flat_map(|_| [Step::Wait(5), one(HEALTHY)]);
            let news = Call { check: false, ..HEALTHY };
            let rest = rest.chain([Step::Thaw, one(news)]);
            for step in steps.into_iter().chain(rest) {
                gave_up |= match &step {
                    Step::Mark => true,
                    Step::Calls { calls, .. } => calls.iter().any(|it| !it.check && it.by == By::Own),
                    Step::Wait(_) | Step::Thaw => false,
                };
                let answers = world.take(&step).await;
                let now = world.stored().await;
                follows(before.as_ref(), now.as_ref());
                assert_eq!(now.as_ref().map(|it| it.deadline), Some(at(TIMEOUT_SECS)));
                for (call, answer) in answers {
                    match answer {
                        Ok(None) => assert!(!call.check && call.by != By::Own),
                        Ok(Some(_)) if call.by != By::Own => panic!("another execution was served"),
                        Err(CheckError::InvalidRequest(_)) if call.by != By::Own => {}
                        // An end that is told is the stored one.
                        Ok(Some(answer)) if answer.status.is_terminal() => {
                            assert_eq!(Some(answer), now.as_ref().map(Answer::from));
                            let told = !world.events.inner.published().is_empty();
                            assert!(call.check || told, "a closing that went well has told it");
                        }
                        Ok(Some(_)) => assert!(call.check, "who closes tells an end"),
                        Err(CheckError::Transient(..)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                if let Some(item) = now.as_ref().filter(|it| it.status.is_terminal()) {
                    right(item, pushed, gave_up);
                }
                for told in world.events.inner.published() {
                    assert_eq!(Some(told), now.as_ref().map(Answer::from), "told as it is stored");
                }
                before = now;
            }
            let end = before.unwrap();
            assert!(end.status.is_terminal(), "pending for ever: {}", end.message);
            assert!(!world.events.inner.published().is_empty(), "nothing lost");
        });
    }
}
