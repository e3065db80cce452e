//! The events of the function: read as it reads them, and answered as it answers.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{io, sync::Arc};

use async_trait::async_trait;
use lambda_http::{Context, LambdaEvent, lambda_runtime::Diagnostic};
use monitor::{
    cluster::ClusterRow,
    ports::{Expected, Page, Registry, StoreError, Stored},
    probe::ProbeReason,
    register::Registrar,
};
use register::events::{ERROR_NAMES, Failure, Function, handle};
use serde_json::{Value, json, value::RawValue};

mod world;

use world::{Log, World};

fn function(world: &World) -> Function {
    Function { router: register::router(Arc::new(world.api.clone())), registrar: world.api.registrar.clone() }
}

async fn call(function: &Function, event: &Value) -> Result<Value, Failure> {
    let payload = RawValue::from_string(event.to_string()).unwrap();
    let served = handle(function, LambdaEvent::new(payload, Context::default())).await?;
    Ok(serde_json::to_value(&served).unwrap())
}

/// One of the sample events. Without AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH, which a test
/// can't set, the stage comes before the path; an event without one is the same request.
fn sample(name: &str) -> Value {
    let path = format!("{}/../../infra/events/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let mut event: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    event["requestContext"]["stage"] = Value::Null;
    event
}

#[tokio::test]
async fn the_sample_events_are_served() {
    let function = function(&World::new());
    for (name, status) in [
        ("register-post", 201),
        ("register-post", 409),
        ("register-get", 200),
        ("register-list", 200),
        ("register-put", 200),
        ("register-delete", 204),
        ("register-delete", 404),
    ] {
        let answer = call(&function, &sample(name)).await.unwrap();
        assert_eq!(answer["statusCode"], status, "{name}: {answer}");
        // API Gateway takes text as it is, and anything else as base64 of bytes.
        assert_eq!(answer["isBase64Encoded"], false, "{name}");
        match answer["body"].as_str() {
            Some(body) if !body.is_empty() => assert!(serde_json::from_str::<Value>(body).is_ok(), "{body}"),
            _ => assert_eq!(status, 204, "{name}"),
        }
    }
}

#[tokio::test]
async fn a_body_may_come_as_base64() {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let function = function(&World::new());
    let mut event = sample("register-post");
    let body = event["body"].as_str().unwrap().to_owned();
    event["body"] = STANDARD.encode(&body).into();
    event["isBase64Encoded"] = true.into();
    assert_eq!(call(&function, &event).await.unwrap()["statusCode"], 201);
    event["body"] = "{}".into();
    assert!(matches!(call(&function, &event).await, Err(Failure::UnknownEvent)));
}

#[tokio::test]
async fn who_changes_something_is_logged_and_what_they_send_is_not() {
    let function = function(&World::new());
    for (name, told) in [
        ("register-post", "method=\"POST\" path=\"/clusters\""),
        ("register-put", "method=\"PUT\" path=\"/clusters/prod-eu\""),
        ("register-get", ""),
        ("register-list", ""),
        ("register-delete", "method=\"DELETE\" path=\"/clusters/prod-eu\""),
    ] {
        let log = Log::default();
        let guard = log.begin();
        call(&function, &sample(name)).await.unwrap();
        drop(guard);
        let text = log.text();
        let caller = "caller=\"arn:aws:iam::123456789012:user/operator\"";
        assert_eq!(text.matches(caller).count(), usize::from(!told.is_empty()), "{name}: {text}");
        assert!(text.contains(told), "{name}: {text}");
        assert!(!text.contains("not-a-real-token"), "{name}: {text}");
    }
    // As `sam local start-api` sends it.
    let mut event = sample("register-delete");
    event["requestContext"]["identity"] = json!({"sourceIp": "127.0.0.1"});
    let log = Log::default();
    let guard = log.begin();
    call(&function, &event).await.unwrap();
    drop(guard);
    assert!(log.text().contains("caller=\"unknown\""), "{}", log.text());
}

fn schedule() -> Value {
    json!({
        "version": "0", "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa", "detail-type": "Scheduled Event",
        "source": "aws.events", "account": "123456789012", "time": "2026-11-23T04:00:00Z",
        "region": "eu-central-1", "resources": ["arn:aws:events:eu-central-1:123456789012:rule/daily"],
        "detail": {}
    })
}

#[tokio::test]
async fn the_schedule_probes_every_cluster() {
    let world = World::new();
    let function = function(&world);
    assert_eq!(call(&function, &schedule()).await.unwrap(), json!({"probed": 0, "attention": 0, "left": 0}));
    call(&function, &sample("register-post")).await.unwrap();
    assert_eq!(world.script.asked().len(), 0, "the sample's cluster does not exist, so it skips the probe");
    assert_eq!(call(&function, &schedule()).await.unwrap(), json!({"probed": 1, "attention": 0, "left": 0}));
    assert_eq!(world.script.asked().len(), 1);

    world.script.fail(ProbeReason::Unauthorized);
    assert_eq!(call(&function, &schedule()).await.unwrap(), json!({"probed": 1, "attention": 1, "left": 0}));
    let shown: Value = serde_json::from_str(
        call(&function, &sample("register-get")).await.unwrap()["body"].as_str().unwrap(),
    )
    .unwrap();
    assert_eq!(shown["lastProbe"]["reason"], "Unauthorized");
}

struct Broken;

fn denied<T>() -> Result<T, StoreError> {
    let cause = io::Error::other("the cause, for the log");
    Err(StoreError::Broken { what: "denied".to_owned(), source: Some(Box::new(cause)) })
}

#[async_trait]
impl Registry for Broken {
    async fn get(&self, _: &str) -> Result<Option<ClusterRow>, StoreError> {
        denied()
    }
    async fn list(&self, _: usize, _: Option<&str>) -> Result<Page, StoreError> {
        denied()
    }
    async fn put(&self, _: &ClusterRow, _: Expected<'_>) -> Result<Stored, StoreError> {
        denied()
    }
    async fn remove(&self, _: &str, _: &str) -> Result<Stored, StoreError> {
        denied()
    }
}

#[tokio::test]
async fn probes_that_can_not_be_done_are_an_error_of_the_function() {
    let world = World::new();
    let registrar = Registrar { registry: Arc::new(Broken), ..world.api.registrar.clone() };
    let failure = call(&Function { registrar, ..function(&world) }, &schedule()).await.unwrap_err();
    assert!(format!("{failure:?}").contains("the cause, for the log"), "{failure:?}");
    let diagnostic = Diagnostic::from(failure);
    assert_eq!(diagnostic.error_type, ERROR_NAMES[1]);
    assert_eq!(diagnostic.error_message, "the clusters could not be probed");
}

#[tokio::test]
async fn other_events_are_refused_and_not_quoted() {
    let function = function(&World::new());
    let changed = |pointer: &str, value: Value| {
        let mut event = schedule();
        *event.pointer_mut(pointer).unwrap() = value;
        event
    };
    for event in [
        json!({}),
        json!(null),
        json!([1]),
        json!("sEcReT"),
        json!({"body": {"sEcReT": 1}, "httpMethod": "POST", "requestContext": 7}),
        // The payload of HTTP APIs and function URLs.
        json!({"version": "2.0", "rawPath": "/clusters", "requestContext": {"http": {"method": "GET", "path": "/clusters"}}}),
        changed("/source", json!("aws.states")),
        changed("/source", json!(["aws.events"])),
        changed("/detail-type", json!("Step Functions Execution Status Change")),
    ] {
        let failure = call(&function, &event).await.unwrap_err();
        assert!(matches!(failure, Failure::UnknownEvent), "{event}");
        assert!(!format!("{failure:?}").contains("sEcReT"), "{failure:?}");
        let diagnostic = Diagnostic::from(failure);
        assert_eq!(diagnostic.error_type, ERROR_NAMES[0]);
        assert!(!diagnostic.error_message.contains("sEcReT"));
    }
}

#[tokio::test]
async fn an_event_of_which_no_address_can_be_made_is_no_panic() {
    let function = function(&World::new());
    let changes: [fn(&mut Value); 3] = [
        |event| event["headers"]["X-Forwarded-Proto"] = json!("http@s"),
        |event| event["headers"]["Host"] = json!("a b"),
        |event| event["requestContext"]["domainName"] = json!("a b"),
    ];
    assert_eq!(call(&function, &sample("register-post")).await.unwrap()["statusCode"], 201);
    for change in changes {
        let mut event = sample("register-get");
        change(&mut event);
        assert_eq!(call(&function, &event).await.unwrap()["statusCode"], 200, "{event}");
    }
    for path in
        [Value::Null, json!(""), json!(":x"), json!("clusters"), json!(format!("/{}", "x".repeat(70_000)))]
    {
        let mut event = sample("register-get");
        event["path"] = path;
        assert!(matches!(call(&function, &event).await, Err(Failure::UnknownEvent)), "{event}");
    }
}
