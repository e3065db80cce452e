//! The API: requests as a server reads them, and events as API Gateway sends them.
//!
//! Records with 0x1e between them, each of them a request to the same API: a line with method and target, one with the
//! content type, and the body. A record that begins with `{` is an event.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt;
use lambda_http::{Context, LambdaEvent};
use monitor::{
    contract,
    ports::{Environments, Expected, Stored},
};
use register::events::{ERROR_NAMES, Function, handle};
use serde_json::{Value, json, value::RawValue};
use tower::ServiceExt;

use super::world;
use crate::{Heap, Target, fixtures, input};

/// `targets/api.rs` says what it is given.
pub const API: Target = Target { name: "api", seeds, run, heap: Heap { fixed: 1 << 20, times: 256 } };

/// Between requests.
const RECORD: u8 = 0x1e;
/// How many requests an input has.
const REQUESTS: usize = 4;

/// Nothing that a caller sends may be answered by these.
const OURS: [StatusCode; 3] =
    [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY];

fn seeds() -> Vec<Vec<u8>> {
    let json =
        |method: &str, target: &str, body: Value| format!("{method} {target}\napplication/json\n{body}");
    let none = |method: &str, target: &str| format!("{method} {target}\n\n");
    let cluster = json!({
        "name": "Prod EU", "apiUrl": "https://prod-eu.example.com:6443", "serviceAccountToken": "not-a-real-token-but-long",
        "tlsServerName": "kubernetes", "namespaces": ["shop", "team-*"]
    });
    let eks = json!({"name": "Prod US", "auth": {"eks": {"clusterName": "prod", "region": "eu-central-1", "roleArn": null}}});
    let deployment =
        json!({"deploymentId": "d-1", "helmType": "flux", "targets": [{"cluster": "first", "release": "x"}]});
    let environment = json!({"helmType": "plain", "targets": [{"cluster": "first", "namespace": "shop", "release": "x"}], "timeoutSecs": 60});
    let all = [
        vec![
            json("POST", "/clusters", cluster.clone()),
            none("GET", "/clusters/prod-eu"),
            none("DELETE", "/clusters/prod-eu"),
        ],
        vec![json("POST", "/clusters?probe=false", eks), none("GET", "/clusters?limit=1")],
        vec![
            json("PUT", "/clusters/first", json!({"namespaces": null, "caCert": null})),
            none("POST", "/clusters/first/probe"),
        ],
        vec![
            none("DELETE", "/clusters/first"),
            none("GET", "/openapi.json"),
            none("GET", "/clusters?limit=1&nextToken=Zmlyc3Q"),
        ],
        vec![
            json("POST", "/deployments", deployment.clone()),
            json("POST", "/deployments", deployment),
            none("GET", "/deployments/d-1"),
        ],
        vec![
            none("GET", "/deployments?app=checkout&environment=production&limit=2"),
            none("PATCH", "/clusters"),
            none("GET", "/x"),
        ],
        vec![
            json("PUT", "/apps/checkout/environments/staging", environment.clone()),
            none("GET", "/apps/checkout/environments"),
            none("DELETE", "/apps/checkout/environments/staging"),
        ],
        vec![json(
            "POST",
            "/deployments",
            json!({"app": "checkout", "environment": "production", "deploymentId": "d-2"}),
        )],
        vec![
            format!("POST /clusters\ntext/plain\n{cluster}"),
            format!(
                r#"POST /clusters{}application/json{}{{"name":1,"name":2,"auth":[],"x":{{}}}}"#,
                '\n', '\n'
            ),
        ],
    ];
    let mut seeds: Vec<Vec<u8>> = all.iter().map(|requests| requests.join("\u{1e}").into_bytes()).collect();
    let events = fixtures::folder("infra/events").into_iter().filter(|(name, _)| !name.starts_with("check-"));
    let mut events: Vec<Value> = events.map(|(_, event)| event).collect();
    // Without the variable that leaves the stage out of the path there must be none.
    events.iter_mut().for_each(|event| {
        if let Some(context) = event.get_mut("requestContext") {
            context["stage"] = Value::Null;
        }
    });
    let mut encoded = events.iter().find(|event| !event["body"].is_null()).unwrap().clone();
    encoded["isBase64Encoded"] = true.into();
    encoded["body"] = "e30=".into();
    seeds.extend(events.iter().chain([&encoded]).map(|event| event.to_string().into_bytes()));
    let few: Vec<String> = events.iter().take(3).map(Value::to_string).collect();
    seeds.push(few.join("\u{1e}").into_bytes());
    seeds
}

fn run(data: &[u8]) {
    world::runtime().block_on(async {
        let api = world::api();
        let registrar = api.registrar.clone();
        let row = contract::cluster("first", "nonce");
        assert_eq!(registrar.registry.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
        registrar.vault.put("first", &contract::credentials("a-token-that-is-stored").into()).await.unwrap();
        let environment = contract::environment("checkout", "production", &["first"]);
        let environments: &dyn Environments = &*registrar.environments;
        let _ = environments.put_environment(&environment, &["first".to_owned()]).await.unwrap();
        let router = register::router(Arc::new(api));
        let function = Function { router: router.clone(), registrar };
        for record in data.split(|byte| *byte == RECORD).take(REQUESTS) {
            if record.starts_with(b"{") {
                event(&function, record).await;
            } else {
                request(&router, record).await;
            }
        }
    });
}

async fn request(router: &Router, record: &[u8]) {
    let [first, content_type, body] = input::lines(record);
    let Some((method, target)) = std::str::from_utf8(first).ok().and_then(|line| line.split_once(' ')) else {
        return;
    };
    let mut request = Request::builder().method(method).uri(target);
    if !content_type.is_empty() {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    // What is none by its form reaches no route.
    let Ok(request) = request.body(Body::from(body.to_vec())) else { return };
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, answer) = response.into_parts();
    let answer = answer.collect().await.unwrap().to_bytes();
    let content_type = parts.headers.get(header::CONTENT_TYPE).map_or("", |it| it.to_str().unwrap());
    is_told(method, parts.status, content_type, &answer);
    tells_no_secret(body, &answer);
}

async fn event(function: &Function, record: &[u8]) {
    let Ok(payload) = std::str::from_utf8(record)
        .map_err(drop)
        .and_then(|text| RawValue::from_string(text.to_owned()).map_err(drop))
    else {
        return;
    };
    let method = serde_json::from_str::<Value>(payload.get())
        .ok()
        .and_then(|it| it["httpMethod"].as_str().map(str::to_owned));
    match handle(function, LambdaEvent::new(payload, Context::default())).await {
        Ok(served) => {
            let served = serde_json::to_value(&served).unwrap();
            let Some(status) = served["statusCode"].as_u64() else {
                assert!(served["probed"].is_u64(), "{served}");
                return;
            };
            let status = StatusCode::from_u16(u16::try_from(status).unwrap()).unwrap();
            let content_type = &served["multiValueHeaders"]["content-type"][0];
            assert_eq!(served["isBase64Encoded"], false, "{served}");
            let answer = served["body"].as_str().unwrap_or_default().as_bytes();
            is_told(&method.unwrap_or_default(), status, content_type.as_str().unwrap_or_default(), answer);
            tells_no_secret(record, answer);
        }
        Err(failure) => {
            let name = lambda_runtime::Diagnostic::from(failure).error_type;
            assert!(ERROR_NAMES.contains(&name.as_str()), "{name}");
        }
    }
}

/// JSON, a problem where it is one, and never a fault of ours.
fn is_told(method: &str, status: StatusCode, content_type: &str, answer: &[u8]) {
    let shown = String::from_utf8_lossy(answer);
    assert!(!OURS.contains(&status), "{status}: {shown}");
    if status == StatusCode::NO_CONTENT || method == "HEAD" {
        assert!(answer.is_empty(), "{status}: {shown}");
        return;
    }
    let json: Value =
        serde_json::from_slice(answer).unwrap_or_else(|error| panic!("{error}: {status}: {shown}"));
    if status.is_success() {
        assert_eq!(content_type, "application/json");
        return;
    }
    assert_eq!(content_type, "application/problem+json", "{shown}");
    assert_eq!(json["status"], status.as_u16(), "{shown}");
    assert!(json["type"].as_str().is_some_and(|it| it.starts_with("urn:dag-monitor:problem:")), "{shown}");
}

/// The stored token, and one that was sent as such and nowhere else, are in no answer.
fn tells_no_secret(body: &[u8], answer: &[u8]) {
    let answer = String::from_utf8_lossy(answer);
    assert!(!answer.contains("a-token-that-is-stored"), "{answer}");
    let Ok(mut sent) = serde_json::from_slice::<Value>(body) else { return };
    let Some(token) = sent.get_mut("serviceAccountToken").map(Value::take) else { return };
    let Some(token) = token.as_str().filter(|it| it.len() >= 16 && it.bytes().all(|b| b.is_ascii_graphic()))
    else {
        return;
    };
    let mut rest = "[redacted]".to_owned();
    texts(&sent, &mut rest);
    assert!(rest.contains(token) || !answer.contains(token), "{token:?} is in {answer}");
}

/// Every name and text in it, as a refusal shows them: without control characters.
fn texts(value: &Value, into: &mut String) {
    let mut shown = |text: &str| into.extend(text.chars().filter(|c| !c.is_control()));
    match value {
        Value::String(text) => shown(text),
        Value::Array(items) => items.iter().for_each(|it| texts(it, into)),
        Value::Object(fields) => {
            fields.keys().for_each(|name| shown(name));
            fields.values().for_each(|it| texts(it, into));
        }
        _ => {}
    }
}
