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
use tokio::task::JoinSet;

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

/// [`Executions`] in this process. Dropped, it stops all that run.
pub(crate) struct LocalExecutions<C> {
    machine: Arc<Machine<C>>,
    running: Mutex<JoinSet<()>>,
}

/// What all executions share.
struct Machine<C> {
    checks: Arc<C>,
    events: Arc<dyn Events>,
    listener: Option<Listener>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    executions: HashMap<String, Found>,
    /// Names, in the order in which they ended.
    ended: VecDeque<String>,
}

/// Every section below leaves the data whole at each step, so what a panicking
/// thread left behind can be used.
fn lock<T>(data: &Mutex<T>) -> MutexGuard<'_, T> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C: Check + 'static> LocalExecutions<C> {
    pub(crate) fn new(checks: Arc<C>, events: Arc<dyn Events>, listener: Option<Listener>) -> Self {
        let machine = Machine { checks, events, listener, known: Mutex::default() };
        Self { machine: Arc::new(machine), running: Mutex::default() }
    }
}

#[async_trait]
impl<C: Check + 'static> Executions for LocalExecutions<C> {
    async fn start(&self, name: &str, input: &Value) -> Result<Starting, StoreError> {
        let execution = Execution { arn: format!("{MACHINE}:{name}"), started_at: SystemClock.now() };
        match lock(&self.machine.known).executions.entry(name.to_owned()) {
            Entry::Occupied(there) => {
                let there = there.get();
                let same = there.running && there.input.as_ref() == Some(input);
                return Ok(if same { Starting::Begun(there.execution.clone()) } else { Starting::NameTaken });
            }
            Entry::Vacant(vacant) => {
                let input = Some(input.clone());
                vacant.insert(Found { execution: execution.clone(), input, running: true });
            }
        }
        let mut running = lock(&self.running);
        // Keeps the set from growing with those that have ended.
        while running.try_join_next().is_some() {}
        running.spawn(Arc::clone(&self.machine).run(execution.clone(), input.clone()));
        Ok(Starting::Begun(execution))
    }

    async fn find(&self, name: &str) -> Result<Option<Found>, StoreError> {
        Ok(lock(&self.machine.known).executions.get(name).cloned())
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
        self.end(name);
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

    fn end(&self, name: String) {
        let mut known = lock(&self.known);
        if let Some(found) = known.executions.get_mut(&name) {
            found.running = false;
        }
        known.ended.push_back(name);
        if known.ended.len() > ENDED_KEPT
            && let Some(oldest) = known.ended.pop_front()
        {
            known.executions.remove(&oldest);
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
mod tests {
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
        (LocalExecutions::new(Arc::new(checks), events.clone(), Some(listener)), events, heard)
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
    async fn the_oldest_that_have_ended_are_forgotten_first() {
        let (executions, ..) = executions(Script::new((0..ENDED_KEPT + 2).map(|_| succeeded())));
        for n in 0..ENDED_KEPT + 2 {
            let name = format!("d-{n}");
            assert!(matches!(executions.start(&name, &json!({})).await.unwrap(), Starting::Begun(_)));
            ended(&executions, &name).await;
        }
        let known = lock(&executions.machine.known);
        assert_eq!((known.executions.len(), known.ended.len()), (ENDED_KEPT, ENDED_KEPT));
        assert!(!known.executions.contains_key("d-1") && known.executions.contains_key("d-2"));
    }
}
