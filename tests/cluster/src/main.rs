#![doc = include_str!("../README.md")]

use std::{env, error::Error, fs, io, mem, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, header},
};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use kubernetes::{AddressPolicy, KubernetesClient, Rules};
use monitor::{
    check::{CheckPorts, Checker, Settings},
    memory::{
        MemoryDeployments, MemoryEvents, MemoryExecutions, MemoryRegistry, MemoryVault, NoEks, NoMetrics,
    },
    ports::{Clock, SystemClock},
    register::Registrar,
    request::{self, parse, sentence},
};
use register::Api;
use serde_json::{Value, json};
use testkit::FixedClock;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, stdin},
    time::{MissedTickBehavior, interval},
};
use tower::ServiceExt as _;

/// As the state machine waits between two checks.
const PERIOD: Duration = Duration::from_secs(5);
/// How often a cluster is asked that does not answer in time: a small machine on
/// which many of these run is slow to.
const PROBES: usize = 5;
const USAGE: &str = "live BODY ALLOWED_CIDRS [by-hand] <DEPLOYMENTS";

type Failed = Box<dyn Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let mut arguments = env::args_os().skip(1);
    let body = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let allowed = arguments.next().and_then(|it| it.into_string().ok()).ok_or(USAGE)?;
    let policy = AddressPolicy::parse(&allowed)?;
    match arguments.next() {
        None => live(body, policy).await,
        Some(word) if word == "by-hand" => by_hand(body, policy).await,
        Some(_) => Err(USAGE.into()),
    }
}

/// Judges the deployments of the input's lines until each has its verdict.
async fn live(body: PathBuf, policy: AddressPolicy) -> Result<(), Failed> {
    let input = io::read_to_string(io::stdin())?;
    let (checker, api) = connected(policy, Arc::new(SystemClock))?;
    let Some(mut cluster) = Registered::register(api, body).await? else { return Ok(()) };
    let mut pending = input.lines().map(deployment).collect::<Result<Vec<_>, _>>()?;

    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !pending.is_empty() {
        ticks.tick().await;
        cluster.follow_body().await?;
        for request in mem::take(&mut pending) {
            let answer = checker.check(&request, None).await?;
            tell("answer", &serde_json::to_value(&answer)?);
            if !answer.status.is_terminal() {
                pending.push(request);
            }
        }
    }
    Ok(())
}

/// Checks a deployment for each line of the input, each check a period after the one before.
async fn by_hand(body: PathBuf, policy: AddressPolicy) -> Result<(), Failed> {
    let clock = FixedClock::new(SystemClock.now());
    let (checker, api) = connected(policy, Arc::new(clock.clone()))?;
    let Some(mut cluster) = Registered::register(api, body).await? else { return Ok(()) };

    let mut lines = BufReader::new(stdin()).lines();
    while let Some(event) = lines.next_line().await? {
        cluster.follow_body().await?;
        clock.advance(SignedDuration::try_from(PERIOD)?);
        let answer = checker.check(&deployment(&event)?, None).await?;
        tell("answer", &serde_json::to_value(&answer)?);
    }
    Ok(())
}

fn deployment(event: &str) -> Result<request::Request, Failed> {
    let (request, _) = parse(&serde_json::from_str(event)?).map_err(|refused| sentence(&refused))?;
    Ok(request)
}

/// The cluster of a body that the API took, and will be told of each change of it.
struct Registered {
    api: Router,
    id: String,
    body: PathBuf,
    sent: Vec<u8>,
}

impl Registered {
    /// `None`: refused, so there is no cluster to judge a deployment on.
    async fn register(api: Router, body: PathBuf) -> Result<Option<Self>, Failed> {
        let sent = fs::read(&body)?;
        let mut answer = sent_to(&api, Method::POST, "/clusters", sent.clone()).await?;
        for _ in 1..PROBES {
            if answer["body"]["reason"] == "TimedOut" {
                answer = sent_to(&api, Method::POST, "/clusters", sent.clone()).await?;
            }
        }
        let id = answer["body"]["id"].as_str().map(str::to_owned);
        tell("registered", &answer);
        Ok(id.map(|id| Self { api, id, body, sent }))
    }

    async fn follow_body(&mut self) -> Result<(), Failed> {
        let now = fs::read(&self.body)?;
        if now != self.sent {
            let body: Value = serde_json::from_slice(&now)?;
            let change = json!({ "serviceAccountToken": body["serviceAccountToken"] }).to_string();
            let path = format!("/clusters/{}", self.id);
            tell("changed", &sent_to(&self.api, Method::PUT, &path, change.into_bytes()).await?);
            self.sent = now;
        }
        Ok(())
    }
}

/// The check and the API, as the functions wire them, with stores in memory.
fn connected(policy: AddressPolicy, clock: Arc<dyn Clock>) -> Result<(Checker, Router), Failed> {
    let registry = Arc::new(MemoryRegistry::default());
    let deployments = Arc::new(MemoryDeployments::default());
    let (vault, events) = (Arc::new(MemoryVault::default()), Arc::new(MemoryEvents::default()));
    let eks = Arc::new(NoEks);
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
            metrics: Arc::new(NoMetrics),
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
async fn sent_to(api: &Router, method: Method, path: &str, body: Vec<u8>) -> Result<Value, Failed> {
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
