//! The event of the check handler: a request, or the news that an execution ended.

use std::sync::Arc;

use async_trait::async_trait;
use lambda_runtime::Diagnostic;
use monitor::{
    check::{CheckPorts, Checker, Settings},
    cluster::ClusterRow,
    contract,
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, MemoryVault, NoEks, NoMetrics},
    ports::{Clusters, Credentials, Dated, Expected, Registry, Stored, Vault},
    request::{self, MAX_TARGETS, Refusal, Request, TIMEOUT_SECS},
};
use serde_json::{Value, json};
use verdict::{AskError, AskErrorKind, HelmRelease, Payload, Revision};

use super::world::{self, Still};
use crate::{Heap, Target, fixtures, promises};

/// `targets/event.rs` says what it is given.
pub const EVENT: Target = Target { name: "event", seeds, run, heap: Heap { fixed: 512 << 10, times: 256 } };

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = fixtures::folder("infra/events")
        .into_iter()
        .filter(|(name, _)| name.starts_with("check-") || name.starts_with("execution-"))
        .map(|(_, event)| event.to_string().into_bytes())
        .collect();
    let whole = json!({
        "deploymentId": "checkout-4711", "app": "checkout", "environment": "production", "helmType": "plain",
        "targets": [{"cluster": "Prod EU", "namespace": "shop", "release": "checkout"}, {"cluster": "prod-us", "release": "a.b"}],
        "timeoutSecs": 7200, "expect": {"chartVersion": "1.4.0", "appVersion": "x", "values": {"/a~1b/~0": {"c": [1.5, null]}}},
        "pushedAt": "2026-11-23T19:15:45+01:00", "failOn": "first", "failFast": true, "allowUnchanged": true,
        "execution": {"arn": "arn:aws:states:eu-central-1:123456789012:execution:m:checkout-4711", "startedAt": "2026-11-23T19:15:47.123Z"},
        "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID": "arn:aws:states:x"
    });
    let environment =
        json!({"helmType": "flux", "timeoutSecs": 10, "targets": [{"cluster": "prod-eu", "release": "x"}]});
    let wrong = json!({
        "deploymentId": "a b", "app": "A", "helmType": "argo", "targets": [1, {}, {"cluster": "", "x/y~z": 1}],
        "timeoutSecs": 7201, "expect": {"values": {"image": 1}, "chart": 1}, "pushedAt": "now", "failOn": 1, "failFast": "yes"
    });
    seeds.extend([whole, environment, wrong].map(|event| event.to_string().into_bytes()));
    seeds
}

/// One cluster has nothing, the other can't be asked.
struct Half;

impl Half {
    fn says<T>(credentials: &Credentials, value: T) -> Result<Dated<T>, AskError> {
        if credentials.tls_server_name.is_some() {
            return Ok(Dated { value, date: Some(promises::start()) });
        }
        Err(AskError { kind: AskErrorKind::Slow, message: "it is slow".to_owned() })
    }
}

#[async_trait]
impl Clusters for Half {
    async fn helm_release(
        &self,
        credentials: &Credentials,
        _: &str,
        _: &str,
    ) -> Result<Dated<Option<Box<HelmRelease>>>, AskError> {
        Self::says(credentials, None)
    }

    async fn revisions(
        &self,
        credentials: &Credentials,
        _: &str,
        _: &str,
    ) -> Result<Dated<Vec<Revision>>, AskError> {
        Self::says(credentials, Vec::new())
    }

    async fn payload(&self, credentials: &Credentials, _: &str, _: &str) -> Result<Dated<Payload>, AskError> {
        Self::says(credentials, Payload::Unreadable("is not there".to_owned()))
    }
}

async fn checker() -> Checker {
    let registry = Arc::new(MemoryRegistry::default());
    let vault = MemoryVault::default();
    for id in ["prod-eu", "prod-us"] {
        let row = ClusterRow { name: id.to_owned(), ..contract::cluster(id, "n") };
        assert_eq!(registry.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
        let mut credentials = contract::credentials(promises::TOKEN);
        credentials.tls_server_name.take_if(|_| id == "prod-us");
        vault.put(id, &credentials.into()).await.unwrap();
    }
    let ports = CheckPorts {
        deployments: Arc::new(MemoryDeployments::new(Arc::new(Still))),
        registry: registry.clone(),
        environments: registry,
        vault: Arc::new(vault),
        eks: Arc::new(NoEks),
        clusters: Arc::new(Half),
        events: Arc::new(MemoryEvents::default()),
        metrics: Arc::new(NoMetrics),
        clock: Arc::new(Still),
    };
    Checker::new(ports, Settings::default())
}

fn run(data: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Value>(data) else { return };
    match request::parse(&event) {
        Ok((request, _)) => is_whole(&request, &event),
        Err(refusals) => are_told(&refusals),
    }
    match request::parse_start(&event, "an-id", promises::start()) {
        Ok(request) => is_whole(&request, &event),
        Err(refusals) => are_told(&refusals),
    }
    match request::parse_environment(&event) {
        Ok(spec) => {
            assert!((1..=MAX_TARGETS).contains(&spec.targets.len()));
            assert!(spec.timeout_secs.is_none_or(|secs| TIMEOUT_SECS.contains(&secs)));
        }
        Err(refusals) => are_told(&refusals),
    }
    world::runtime().block_on(async {
        let checker = checker().await;
        let first = check::handle(&checker, event.clone()).await;
        let again = check::handle(&checker, event).await;
        match (first, again) {
            (Ok(None), Ok(None)) => {}
            (Ok(Some(first)), Ok(Some(again))) => {
                for answer in [&first, &again] {
                    promises::is_message(&answer.message);
                    answer.targets.iter().for_each(|target| promises::is_message(&target.message));
                }
                assert_eq!((first.deployment_id, first.deadline), (again.deployment_id, again.deadline));
                assert!(!first.status.is_terminal() || first.status == again.status, "a verdict stays");
            }
            (Err(first), Err(again)) => {
                let [first, again] = [first, again].map(Diagnostic::from);
                assert!(check::ERROR_NAMES.contains(&first.error_type.as_str()), "{}", first.error_type);
                promises::is_message(&first.error_message);
                assert_eq!((first.error_type, first.error_message), (again.error_type, again.error_message));
            }
            (first, again) => panic!("the same event came to {first:?}, and then to {again:?}"),
        }
    });
}

fn is_whole(request: &Request, event: &Value) {
    assert!(request.targets.len() <= MAX_TARGETS);
    assert_eq!(request.targets.is_empty(), request.helm_type.is_none(), "both, or neither");
    assert!(request.timeout_secs.is_none_or(|secs| TIMEOUT_SECS.contains(&secs)));
    assert!(request::is_deployment_id(&request.deployment_id));
    let written = serde_json::to_value(request).unwrap();
    let stored: Request = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(&stored, request, "what is stored is read back");
    let (read, _) = request::parse(&written).unwrap_or_else(|refusals| panic!("{refusals:?} of {event}"));
    assert_eq!((&read, read.digest()), (request, request.digest()), "it is itself");
}

fn are_told(refusals: &[Refusal]) {
    assert!((1..=20).contains(&refusals.len()), "{refusals:?}");
    for Refusal { pointer, detail } in refusals {
        assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer}");
        promises::is_detail(detail);
    }
    promises::is_message(&request::sentence(refusals));
}
