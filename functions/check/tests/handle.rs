//! The events of this handler, and the names of its errors.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use aws::EmfMetrics;
use lambda_runtime::Diagnostic;
use monitor::{
    check::{CheckPorts, Checker, Settings},
    contract,
    deployment::Deployment,
    memory::{MemoryDeployments, MemoryEvents, NoMetrics},
    ports::{
        CheckMetrics, Clock, Clusters, Credentials, Dated, Deployments, History, StoreError, Stored,
        SystemClock,
    },
};
use serde_json::{Value, json};
use verdict::{AskError, HelmRelease, Payload, Reason, Revision, Status};

mod world;

/// A cluster in which there is nothing.
struct Empty;

#[async_trait]
impl Clusters for Empty {
    async fn helm_release(
        &self,
        _: &Credentials,
        _: &str,
        _: &str,
    ) -> Result<Dated<Option<Box<HelmRelease>>>, AskError> {
        Ok(Dated { value: None, date: None })
    }

    async fn revisions(&self, _: &Credentials, _: &str, _: &str) -> Result<Dated<Vec<Revision>>, AskError> {
        Ok(Dated { value: Vec::new(), date: None })
    }

    async fn payload(&self, _: &Credentials, _: &str, _: &str) -> Result<Dated<Payload>, AskError> {
        Ok(Dated { value: Payload::Unreadable(String::new()), date: None })
    }
}

/// A store that is out of order in one way.
struct Faulty(fn() -> StoreError);

#[async_trait]
impl Deployments for Faulty {
    async fn get(&self, _: &str) -> Result<Option<Deployment>, StoreError> {
        Err(self.0())
    }

    async fn create(&self, _: &Deployment, _: jiff::Timestamp) -> Result<Stored, StoreError> {
        Err(self.0())
    }

    async fn update(&self, _: &Deployment) -> Result<Stored, StoreError> {
        Err(self.0())
    }

    async fn history(
        &self,
        _: &str,
        _: &str,
        _: usize,
        _: Option<(jiff::Timestamp, &str)>,
    ) -> Result<History, StoreError> {
        Err(self.0())
    }
}

async fn checker(deployments: Arc<dyn Deployments>) -> (Checker, Arc<MemoryEvents>) {
    checker_with(deployments, Arc::new(SystemClock), Arc::new(NoMetrics), &["prod-eu", "prod-us"]).await
}

/// With credentials for these of the two clusters.
async fn checker_with(
    deployments: Arc<dyn Deployments>,
    clock: Arc<dyn Clock>,
    metrics: Arc<dyn CheckMetrics>,
    entered: &[&str],
) -> (Checker, Arc<MemoryEvents>) {
    let events = Arc::new(MemoryEvents::default());
    let registered = ["prod-eu", "prod-us"].map(|id| (id.to_owned(), contract::credentials("token")));
    let ports = world::ports(registered, Arc::new(Empty), clock).await;
    for id in ["prod-eu", "prod-us"].iter().filter(|id| !entered.contains(id)) {
        ports.vault.delete(id).await.unwrap();
    }
    let ports = CheckPorts { deployments, events: events.clone(), metrics, ..ports };
    (Checker::new(ports, Settings::default()), events)
}

fn in_memory() -> Arc<MemoryDeployments> {
    Arc::new(MemoryDeployments::default())
}

fn sample(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../infra/events").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn the_sample_events_are_served() {
    for name in ["check-flux.json", "check-plain.json", "check-inline.json"] {
        let (checker, _) = checker(in_memory()).await;
        let answer = check::handle(&checker, sample(name)).await.unwrap().unwrap();
        assert_eq!((answer.status, answer.reason), (Status::Pending, Reason::NotFound), "{name}");
    }
}

#[tokio::test]
async fn an_execution_that_was_stopped_is_closed_and_told() {
    let (checker, events) = checker(in_memory()).await;
    let answer = check::handle(&checker, sample("execution-aborted.json")).await.unwrap().unwrap();
    assert_eq!((answer.deployment_id.as_str(), answer.reason), ("checkout-4711", Reason::MonitorError));
    assert_eq!(events.published(), [answer]);

    let mut running = sample("execution-aborted.json");
    running["detail"]["status"] = json!("RUNNING");
    assert!(check::handle(&checker, running).await.unwrap().is_none());
}

#[tokio::test]
async fn what_can_be_no_news_of_an_execution_is_refused_in_a_sentence() {
    for (field, value) in [("startDate", json!("x\n".repeat(2_000))), ("startDate", json!(i64::MAX))] {
        let mut event = sample("execution-aborted.json");
        event["detail"][field] = value;
        let (checker, _) = checker(in_memory()).await;
        let told = Diagnostic::from(check::handle(&checker, event).await.unwrap_err());
        assert_eq!(told.error_type, "InvalidRequest");
        assert!(told.error_message.starts_with("/detail"), "{}", told.error_message);
        assert_eq!(told.error_message, verdict::clean(&told.error_message));
    }
}

#[tokio::test]
async fn errors_have_the_names_that_the_state_machine_matches() {
    let broken: fn() -> StoreError = || StoreError::Broken { what: "denied".to_owned(), source: None };
    let transient: fn() -> StoreError = || StoreError::Transient("DynamoDB", "throttled".into());
    let stores: [(Arc<dyn Deployments>, Value, &str); 4] = [
        (in_memory(), json!({"helmType": "argo"}), "InvalidRequest"),
        (in_memory(), json!([]), "InvalidRequest"),
        (Arc::new(Faulty(transient)), sample("check-flux.json"), "Transient"),
        (Arc::new(Faulty(broken)), sample("check-flux.json"), "Internal"),
    ];
    for (store, event, name) in stores {
        let (checker, _) = checker(store).await;
        let diagnostic = Diagnostic::from(check::handle(&checker, event).await.unwrap_err());
        assert_eq!(diagnostic.error_type, name);
        assert!(!diagnostic.error_message.contains("throttled"), "the cause is for the log alone");
    }
}

#[test]
fn the_state_machine_matches_these_names_and_no_others_of_ours() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../infra/deployment-monitor.asl.json");
    let machine: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let check = &machine["States"]["Check"];
    let mut matched: Vec<&str> = [&check["Retry"], &check["Catch"]]
        .into_iter()
        .flat_map(|list| list.as_array().unwrap())
        .flat_map(|rule| rule["ErrorEquals"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .filter(|name| !name.contains('.'))
        .collect();
    matched.sort_unstable();
    matched.dedup();
    // `Internal` is caught with all others.
    assert_eq!(matched, ["InvalidRequest", "Transient"]);
    assert!(matched.iter().all(|name| check::ERROR_NAMES.contains(name)));
}

/// 15 s after the execution of [`event`] began.
struct Afterwards;

impl Clock for Afterwards {
    fn now(&self) -> jiff::Timestamp {
        "2026-11-23T19:16:02.120Z".parse().unwrap()
    }
}

fn event(timeout_secs: u32) -> Value {
    json!({
        "deploymentId": "checkout-4711", "helmType": "flux", "timeoutSecs": timeout_secs,
        "targets": [{"cluster": "prod-eu", "namespace": "shop", "release": "checkout"}],
        "execution": {
            "arn": "arn:aws:states:eu-central-1:123456789012:execution:dag-monitor:checkout-4711",
            "startedAt": "2026-11-23T19:15:47.120Z",
        },
    })
}

/// The lines of the figures that these events leave in the log, one after the other.
async fn figures(entered: &[&str], events: &[Value]) -> Vec<Value> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    let metrics = EmfMetrics::writing_to("dag-monitor-prod", Arc::new(Afterwards), move |line| {
        kept.lock().unwrap().push(serde_json::from_str::<Value>(line).unwrap());
    });
    let (checker, _) = checker_with(in_memory(), Arc::new(Afterwards), Arc::new(metrics), entered).await;
    for event in events {
        check::handle(&checker, event.clone()).await.unwrap();
    }
    let mut lines = lines.lock().unwrap().clone();
    // The words are the rules' to choose.
    for sentence in lines.iter_mut().filter_map(|line| line.get_mut("sentence")) {
        assert!(!sentence.as_str().unwrap().is_empty());
        *sentence = json!("…");
    }
    lines
}

/// What the tests of alarms and dashboard read, too.
fn kept(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/metrics").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_check_leaves_one_line() {
    assert_eq!(figures(&["prod-eu"], &[event(300)]).await, [kept("checked.json")]);
}

#[tokio::test]
async fn a_verdict_is_counted_by_the_check_that_stored_it_and_by_no_late_one() {
    let lines = figures(&["prod-eu"], &[event(10), event(10)]).await;
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], kept("verdict.json"));
    assert!(lines[1].get("Verdicts").is_none() && lines[1]["reason"] == "Timeout", "{}", lines[1]);
}

#[tokio::test]
async fn a_cluster_that_can_not_be_asked_is_counted() {
    let lines = figures(&[], &[event(300)]).await;
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], kept("cluster-failed.json"));
}

#[tokio::test]
async fn a_verdict_that_no_check_reached_is_counted_at_its_closing() {
    let lines = figures(&["prod-eu"], &[event(300), sample("execution-aborted.json")]).await;
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1], kept("closed.json"));
}

#[tokio::test]
async fn a_verdict_that_a_check_reached_is_not_counted_at_the_end_of_its_execution() {
    let lines = figures(&["prod-eu"], &[event(10), sample("execution-aborted.json")]).await;
    assert_eq!(lines, [kept("verdict.json")]);
}
