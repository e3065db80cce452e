//! The executions of the state machine, each played by the driver on a task of its own.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use monitor::{
    check::{Ended, chain},
    ports::{Clock as _, Events, Executions, Found, Starting, StoreError, SystemClock},
    request::{Execution, is_deployment_id},
};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinSet};

use crate::driver::{Check, Progress, Refused, drive};

/// What comes before an execution's name in its ARN.
const MACHINE: &str = "arn:aws:states:local:000000000000:execution:deployment-monitor";
/// How many executions are known after their end. Step Functions forgets them by
/// time; a process that runs for weeks must be bounded by number. What is forgotten
/// here still has its deployment's item.
const ENDED_KEPT: usize = 4_096;
/// How often closing is tried where a check that was under way writes in between.
/// Nothing is under way here once the driver has ended, so one is enough.
const CLOSINGS: usize = 3;

/// Whoever wants to hear how the executions get on, by their names.
pub(crate) type Listener = Box<dyn Fn(&str, Progress) + Send + Sync>;

/// What is known of the executions.
#[async_trait]
pub(crate) trait Ledger: Send + Sync {
    /// Enters one that begins, on the condition that there is none of its name; else
    /// comes back with that one.
    async fn enter(&self, begun: &Found) -> Result<Option<Found>, StoreError>;

    async fn find(&self, name: &str) -> Result<Option<Found>, StoreError>;

    /// One does not run any more. Of those that ended, so many are kept.
    async fn end(&self, name: &str, kept: usize) -> Result<(), StoreError>;

    /// The names of those that began last, newest first.
    async fn newest(&self, limit: usize) -> Result<Vec<String>, StoreError>;

    /// Those that have not ended.
    async fn running(&self) -> Result<Vec<Found>, StoreError>;
}

/// [`Executions`] in this process. Dropped, it stops all that run; what the ledger
/// keeps of them can be resumed.
pub(crate) struct LocalExecutions<C> {
    machine: Arc<Machine<C>>,
    running: Mutex<JoinSet<()>>,
}

/// What all executions share.
struct Machine<C> {
    checks: Arc<C>,
    events: Arc<dyn Events>,
    ledger: Arc<dyn Ledger>,
    listener: Option<Listener>,
}

/// [`Ledger`] in memory.
#[derive(Default)]
pub(crate) struct MemoryLedger(Mutex<Known>);

#[derive(Default)]
struct Known {
    executions: HashMap<String, Found>,
    /// Names, in the order in which they ended.
    ended: VecDeque<String>,
}

impl MemoryLedger {
    /// Every section below leaves the data whole at each step, so what a panicking
    /// thread left behind can be used.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn enter(&self, begun: &Found) -> Result<Option<Found>, StoreError> {
        match self.lock().executions.entry(begun.execution.name().to_owned()) {
            Entry::Occupied(there) => Ok(Some(there.get().clone())),
            Entry::Vacant(vacant) => {
                vacant.insert(begun.clone());
                Ok(None)
            }
        }
    }

    async fn find(&self, name: &str) -> Result<Option<Found>, StoreError> {
        Ok(self.lock().executions.get(name).cloned())
    }

    async fn end(&self, name: &str, kept: usize) -> Result<(), StoreError> {
        let mut known = self.lock();
        let Some(found) = known.executions.get_mut(name).filter(|it| it.running) else { return Ok(()) };
        found.running = false;
        known.ended.push_back(name.to_owned());
        if known.ended.len() > kept
            && let Some(oldest) = known.ended.pop_front()
        {
            known.executions.remove(&oldest);
        }
        Ok(())
    }

    async fn newest(&self, limit: usize) -> Result<Vec<String>, StoreError> {
        let known = self.lock();
        let mut all: Vec<_> =
            known.executions.iter().map(|(name, it)| (it.execution.started_at, name)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        Ok(all.into_iter().take(limit).map(|(_, name)| name.clone()).collect())
    }

    async fn running(&self) -> Result<Vec<Found>, StoreError> {
        Ok(self.lock().executions.values().filter(|it| it.running).cloned().collect())
    }
}

impl<C: Check + 'static> LocalExecutions<C> {
    pub(crate) fn new(
        checks: Arc<C>,
        events: Arc<dyn Events>,
        ledger: Arc<dyn Ledger>,
        listener: Option<Listener>,
    ) -> Self {
        let machine = Machine { checks, events, ledger, listener };
        Self { machine: Arc::new(machine), running: Mutex::default() }
    }

    /// Goes on with what ran when the ledger was last used: as it was begun, so with its
    /// old deadline. How many these are.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub(crate) async fn resume(&self) -> Result<usize, StoreError> {
        let running = self.machine.ledger.running().await?;
        let number = running.len();
        for Found { execution, input, .. } in running {
            let machine = Arc::clone(&self.machine);
            self.spawn(machine.run(execution, input.unwrap_or_default()));
        }
        Ok(number)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Keeps the set from growing with those that have ended.
        while running.try_join_next().is_some() {}
        running.spawn(task);
    }
}

#[async_trait]
impl<C: Check + 'static> Executions for LocalExecutions<C> {
    /// On a task of its own from the first write on: a caller that goes away meanwhile
    /// leaves no execution that is known and not played.
    async fn start(&self, name: &str, input: &Value) -> Result<Starting, StoreError> {
        let execution = Execution { arn: format!("{MACHINE}:{name}"), started_at: SystemClock.now() };
        let begun = Found { execution: execution.clone(), input: Some(input.clone()), running: true };
        let (told, entered) = oneshot::channel();
        let machine = Arc::clone(&self.machine);
        self.spawn(async move {
            let entered = machine.ledger.enter(&begun).await;
            let is_ours = matches!(entered, Ok(None));
            // Nobody may be left to hear it.
            let _ = told.send(entered);
            if is_ours {
                machine.run(begun.execution, begun.input.unwrap_or_default()).await;
            }
        });
        let ending = |error| StoreError::Transient("the server", Box::new(error));
        Ok(match entered.await.map_err(ending)?? {
            None => Starting::Begun(execution),
            Some(there) if there.running && there.input.as_ref() == Some(input) => {
                Starting::Begun(there.execution)
            }
            Some(_) => Starting::NameTaken,
        })
    }

    async fn find(&self, name: &str) -> Result<Option<Found>, StoreError> {
        self.machine.ledger.find(name).await
    }
}

impl<C: Check> Machine<C> {
    /// One execution from its start to its end.
    async fn run(self: Arc<Self>, execution: Execution, input: Value) {
        let name = execution.name().to_owned();
        let event = event(&execution, &input);
        let driven = drive(&*self.checks, &event, |progress| self.tell(&name, progress));
        // A panic ends a Lambda function's call, not its deployment.
        let driven = AssertUnwindSafe(driven).catch_unwind().await.unwrap_or_else(|_| {
            let refused = Refused { name: "Unhandled".to_owned(), message: "the check broke off".to_owned() };
            self.tell(&name, Progress::GaveUp(refused.clone()));
            Err(refused)
        });
        match driven {
            // As `Publish` does: a failure changes nothing.
            Ok(answer) => {
                if let Err(error) = self.events.deployment_finished(&answer).await {
                    tracing::warn!(deployment_id = name, error = chain(&error), "the end was not told");
                }
            }
            Err(refused) => self.mark(&execution, &input, &refused).await,
        }
        // Else it is driven once more after the next start, and found to have its verdict.
        if let Err(error) = self.ledger.end(&name, ENDED_KEPT).await {
            tracing::warn!(deployment_id = name, error = chain(&error), "the end was not kept");
        }
    }

    /// As `Mark` does: what has no verdict is closed, so that nothing stays pending.
    async fn mark(&self, execution: &Execution, input: &Value, refused: &Refused) {
        let id = input.get("deploymentId").and_then(Value::as_str).filter(|id| is_deployment_id(id));
        let ended = Ended {
            execution: execution.clone(),
            deployment_id: id.map(str::to_owned),
            status: "FAILED".to_owned(),
            error: Some(refused.name.clone()),
            // Whoever reads the item has no execution to look into.
            cause: Some(refused.message.clone()),
        };
        for _ in 0..CLOSINGS {
            match self.checks.close(&ended).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(execution = execution.arn, error = chain(&error), "not closed");
                }
            }
        }
    }

    fn tell(&self, name: &str, progress: Progress) {
        if let Some(listener) = &self.listener {
            listener(name, progress);
        }
    }
}

/// What the state machine sends to the check handler: the input, and the execution's own data.
fn event(execution: &Execution, input: &Value) -> Value {
    let mut event = input.clone();
    if let Some(object) = event.as_object_mut() {
        let own = serde_json::json!({"arn": execution.arn, "startedAt": execution.started_at});
        object.insert("execution".to_owned(), own);
    }
    event
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::HashSet, time::Duration};

    use monitor::{answer::Answer, check::CheckError, contract, memory::MemoryEvents};
    use serde_json::json;
    use tokio::{
        sync::{mpsc, watch},
        time::timeout,
    };
    use verdict::{Reason, Status};

    use super::*;
    use crate::driver::tests::{Script, answer, pending, refused, succeeded};

    /// Nothing here waits for a clock: longer is stuck.
    const HARD_LIMIT: Duration = Duration::from_secs(20);

    type Told = mpsc::UnboundedReceiver<(String, Progress)>;

    fn executions<C: Check + 'static>(checks: C) -> (LocalExecutions<C>, Arc<MemoryEvents>, Told) {
        let events = Arc::new(MemoryEvents::default());
        let (told, heard) = mpsc::unbounded_channel();
        let listener: Listener = Box::new(move |name, progress| drop(told.send((name.to_owned(), progress))));
        let ledger = Arc::new(MemoryLedger::default());
        (LocalExecutions::new(Arc::new(checks), events.clone(), ledger, Some(listener)), events, heard)
    }

    async fn ended<C: Check + 'static>(executions: &LocalExecutions<C>, name: &str) -> Found {
        let waiting = async {
            loop {
                match executions.find(name).await.unwrap() {
                    Some(found) if !found.running => return found,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        timeout(HARD_LIMIT, waiting).await.unwrap()
    }

    /// Judges an execution once its name is among those that are to end.
    struct Gate(watch::Receiver<HashSet<String>>);

    impl Check for Gate {
        async fn check(&self, event: &Value) -> Result<Answer, Refused> {
            let arn = event["execution"]["arn"].as_str().unwrap();
            let name = arn.rsplit(':').next().unwrap();
            self.0.clone().wait_for(|ended| ended.contains(name)).await.unwrap();
            succeeded()
        }

        async fn close(&self, _: &Ended) -> Result<Option<Answer>, CheckError> {
            Ok(None)
        }
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let (ends, gate) = watch::channel(HashSet::new());
        let (executions, ..) = executions(Gate(gate));
        let end = async |name: &str| {
            ends.send_modify(|it| {
                it.insert(name.to_owned());
            });
            ended(&executions, name).await;
        };
        timeout(HARD_LIMIT, contract::executions(&executions, end)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_to_its_end_and_tells_it() {
        let (executions, events, mut heard) = executions(Script::new([pending(), succeeded()]));
        let input = json!({"deploymentId": "checkout-1"});
        let Starting::Begun(execution) = executions.start("checkout-1", &input).await.unwrap() else {
            panic!("it did not begin");
        };
        assert_eq!(execution.name(), "checkout-1");
        let found = executions.find("checkout-1").await.unwrap().unwrap();
        assert_eq!(found, Found { execution: execution.clone(), input: Some(input.clone()), running: true });
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(ended(&executions, "checkout-1").await, Found { running: false, ..found });
        assert_eq!(events.published().len(), 1);
        assert_eq!(events.published()[0].status, Status::Succeeded);
        for status in [Status::Pending, Status::Succeeded] {
            let (name, progress) = heard.recv().await.unwrap();
            assert!(
                matches!(progress, Progress::Answered(it) if it.status == status && name == "checkout-1")
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_used_once() {
        let (executions, ..) = executions(Script::new([pending(), succeeded()]));
        let (input, other) = (json!({"deploymentId": "a"}), json!({"deploymentId": "a", "failFast": true}));
        let first = executions.start("a", &input).await.unwrap();
        assert!(matches!(first, Starting::Begun(_)));
        assert_eq!(executions.start("a", &input).await.unwrap(), first, "the same again, while it runs");
        assert_eq!(executions.start("a", &other).await.unwrap(), Starting::NameTaken);
        tokio::time::sleep(Duration::from_secs(6)).await;
        ended(&executions, "a").await;
        assert_eq!(executions.start("a", &input).await.unwrap(), Starting::NameTaken, "it has ended");
        assert_eq!(executions.find("b").await.unwrap(), None);
    }

    /// Answers nothing for ever, and says so when it is dropped.
    struct Hung(mpsc::UnboundedSender<()>);

    impl Check for Hung {
        async fn check(&self, _: &Value) -> Result<Answer, Refused> {
            let _told = self.0.clone();
            std::future::pending().await
        }

        async fn close(&self, _: &Ended) -> Result<Option<Answer>, CheckError> {
            Ok(None)
        }
    }

    #[tokio::test]
    async fn dropped_it_stops_what_runs() {
        let (held, mut dropped) = mpsc::unbounded_channel();
        let (executions, ..) = executions(Hung(held));
        assert!(matches!(executions.start("a", &json!({})).await.unwrap(), Starting::Begun(_)));
        tokio::task::yield_now().await;
        drop(executions);
        assert_eq!(timeout(HARD_LIMIT, dropped.recv()).await.unwrap(), None);
    }

    /// Refuses, or breaks off, and records how it was closed.
    struct Closed {
        refusal: Option<Refused>,
        closed: mpsc::UnboundedSender<Ended>,
    }

    impl Check for Closed {
        async fn check(&self, _: &Value) -> Result<Answer, Refused> {
            match &self.refusal {
                Some(refused) => Err(refused.clone()),
                None => panic!("on purpose"),
            }
        }

        async fn close(&self, ended: &Ended) -> Result<Option<Answer>, CheckError> {
            self.closed.send(ended.clone()).unwrap();
            Ok(Some(answer(Status::Failed, Reason::MonitorError, "")))
        }
    }

    #[tokio::test]
    async fn what_ends_without_a_verdict_is_closed_with_the_reason() {
        for (refusal, error) in [
            (Some(refused("InvalidRequest")), "InvalidRequest: no"),
            (None, "Unhandled: the check broke off"),
        ] {
            let (closed, mut seen) = mpsc::unbounded_channel();
            let (executions, ..) = executions(Closed { refusal, closed });
            let input = json!({"deploymentId": "checkout-1"});
            assert!(matches!(executions.start("checkout-1", &input).await.unwrap(), Starting::Begun(_)));
            let found = ended(&executions, "checkout-1").await;
            let (error, cause) = error.split_once(": ").unwrap();
            let expected = Ended {
                execution: found.execution,
                deployment_id: Some("checkout-1".to_owned()),
                status: "FAILED".to_owned(),
                error: Some(error.to_owned()),
                cause: Some(cause.to_owned()),
            };
            assert_eq!(seen.try_recv().unwrap(), expected);
            assert!(seen.try_recv().is_err(), "closed once");
        }
    }

    #[tokio::test]
    async fn the_memorys_ledger_keeps_its_contract() {
        ledger_contract(&MemoryLedger::default()).await;
    }

    /// What every ledger is held to. It wants an empty one.
    pub(crate) async fn ledger_contract(ledger: &dyn Ledger) {
        const KEPT: usize = 5;
        let began = SystemClock.now();
        let begun = |number: usize| {
            let started_at = began + jiff::SignedDuration::from_millis(i64::try_from(number).unwrap());
            let execution = Execution { arn: format!("{MACHINE}:d-{number}"), started_at };
            Found { execution, input: Some(serde_json::json!({"number": number})), running: true }
        };
        assert_eq!(ledger.find("d-0").await.unwrap(), None);
        assert!(ledger.newest(10).await.unwrap().is_empty() && ledger.running().await.unwrap().is_empty());
        ledger.end("d-0", KEPT).await.unwrap();

        assert_eq!(ledger.enter(&begun(0)).await.unwrap(), None);
        let rival = Found { input: None, ..begun(0) };
        assert_eq!(ledger.enter(&rival).await.unwrap(), Some(begun(0)), "a name is used once");
        assert_eq!(ledger.find("d-0").await.unwrap(), Some(begun(0)));
        assert_eq!(ledger.running().await.unwrap(), [begun(0)]);
        for _ in 0..2 {
            ledger.end("d-0", KEPT).await.unwrap();
            let ended = Found { running: false, ..begun(0) };
            assert_eq!(ledger.find("d-0").await.unwrap().as_ref(), Some(&ended));
            assert!(ledger.running().await.unwrap().is_empty());
            assert_eq!(ledger.enter(&begun(0)).await.unwrap(), Some(ended), "nor after its end");
        }

        // The oldest that have ended are forgotten first, and none that runs.
        assert_eq!(ledger.enter(&begun(1)).await.unwrap(), None);
        for number in 2..KEPT + 3 {
            assert_eq!(ledger.enter(&begun(number)).await.unwrap(), None);
            ledger.end(&format!("d-{number}"), KEPT).await.unwrap();
        }
        for (number, known) in [(0, false), (1, true), (2, false), (3, true), (KEPT + 2, true)] {
            let found = ledger.find(&format!("d-{number}")).await.unwrap();
            assert_eq!(found.is_some(), known, "{number}");
        }
        assert_eq!(ledger.running().await.unwrap(), [begun(1)]);
        let newest = [KEPT + 2, KEPT + 1, KEPT].map(|number| format!("d-{number}"));
        assert_eq!(ledger.newest(3).await.unwrap(), newest);
        let all = ledger.newest(usize::MAX).await.unwrap();
        assert_eq!((all.len(), all.last().map(String::as_str)), (KEPT + 1, Some("d-1")));
    }
}
