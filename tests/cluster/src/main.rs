#![doc = include_str!("../README.md")]

use std::{env, error::Error, fs, io, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, header},
};
use http_body_util::BodyExt as _;
use kubernetes::{AddressPolicy, KubernetesClient, Rules};
use monitor::{
    check::{CheckPorts, Checker, Settings},
    memory::{
        MemoryDeployments, MemoryEvents, MemoryExecutions, MemoryRegistry, MemoryVault, NoEks, NoMetrics,
    },
    ports::SystemClock,
    register::Registrar,
    request::parse,
};
use register::Api;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tower::ServiceExt as _;

/// As the state machine waits between two checks.
const PERIOD: Duration = Duration::from_secs(5);
const USAGE: &str = "live BODY ALLOWED_CIDRS <DEPLOYMENT";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let body = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let allowed = arguments.next().and_then(|it| it.into_string().ok()).ok_or(USAGE)?;
    let event = io::read_to_string(io::stdin())?;
    let (checker, api) = connected(AddressPolicy::parse(&allowed)?)?;

    let mut registered = fs::read(&body)?;
    let answer = sent(&api, Method::POST, "/clusters", registered.clone()).await?;
    let id = answer["body"]["id"].as_str().map(str::to_owned);
    tell("registered", &answer);
    // Refused: there is no cluster to judge a deployment on.
    let Some(id) = id else { return Ok(()) };
    if event.trim().is_empty() {
        return Ok(());
    }
    let (request, _) =
        parse(&serde_json::from_str(&event)?).map_err(|refused| monitor::request::sentence(&refused))?;

    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = fs::read(&body)?;
        if now != registered {
            let body: Value = serde_json::from_slice(&now)?;
            let change = json!({ "serviceAccountToken": body["serviceAccountToken"] }).to_string();
            tell("changed", &sent(&api, Method::PUT, &format!("/clusters/{id}"), change.into_bytes()).await?);
            registered = now;
        }
        let answer = checker.check(&request, None).await?;
        tell("answer", &serde_json::to_value(&answer)?);
        if answer.status.is_terminal() {
            return Ok(());
        }
    }
}

/// The check and the API, as the functions wire them, with stores in memory.
fn connected(policy: AddressPolicy) -> Result<(Checker, Router), Box<dyn Error>> {
    let registry = Arc::new(MemoryRegistry::default());
    let deployments = Arc::new(MemoryDeployments::default());
    let (vault, events) = (Arc::new(MemoryVault::default()), Arc::new(MemoryEvents::default()));
    let (eks, clock) = (Arc::new(NoEks), Arc::new(SystemClock));
    let client = Arc::new(KubernetesClient::new(policy.clone())?);
    let checker = Checker::new(
        CheckPorts {
            deployments: deployments.clone(),
            registry: registry.clone(),
            environments: registry.clone(),
            vault: vault.clone(),
            eks: eks.clone(),
            clusters: client.clone(),
            events: events.clone(),
            clock: clock.clone(),
        },
        Settings::default(),
    );
    let registrar = Registrar {
        registry: registry.clone(),
        environments: registry,
        vault,
        eks,
        prober: client,
        events,
        metrics: Arc::new(NoMetrics),
        rules: Arc::new(Rules::new(policy)),
        clock,
    };
    let api = Api::new(registrar, deployments, Arc::new(MemoryExecutions::default()), Settings::default());
    Ok((checker, register::router(Arc::new(api))))
}

/// What the API answers: status and body.
async fn sent(api: &Router, method: Method, path: &str, body: Vec<u8>) -> Result<Value, Box<dyn Error>> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body))?;
    let answer = api.clone().oneshot(request).await?;
    let status = answer.status().as_u16();
    let body: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
    Ok(json!({ "status": status, "body": body }))
}

/// One line, so that whoever reads knows how far it is.
fn tell(what: &str, value: &Value) {
    println!("{}", json!({ what: value }));
}
