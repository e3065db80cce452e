//! The control port: what a test in another process, or a person, tells the
//! simulated cluster. Plain HTTP on the loopback interface.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{CertificateKind, Fault, Rule, Scenario, SimulatedCluster};

/// The routes of the control port.
///
/// | route | body |
/// | --- | --- |
/// | `GET /scenarios` | |
/// | `POST /play` | `{"scenario", "namespace"?, "name"?, "pushInMs"?, "speed"?}` |
/// | `POST /tokens` | `{"accept": ["…"]}` |
/// | `POST /rules` | `{"rules": [{"apiGroups", "resources", "verbs", "namespaces"?, "resourceNames"?}]}` |
/// | `POST /faults`, `DELETE /faults` | `{"fault", "times"?, "path"?}` |
/// | `POST /certificate` | `{"kind": "good" \| "expired" \| "wrongName" \| "otherIssuer"}` |
/// | `PUT /helmreleases/{namespace}/{name}` | the object |
/// | `PUT /secrets/{namespace}/{release}` | the secrets, a list |
/// | `GET /requests`, `DELETE /requests` | |
///
/// What can't be done is answered 400, with a sentence in `error`.
pub fn routes(cluster: Arc<SimulatedCluster>, fixtures: PathBuf) -> Router {
    Router::new()
        .route("/scenarios", get(scenarios))
        .route("/play", post(play))
        .route("/tokens", post(tokens))
        .route("/rules", post(rules))
        .route("/faults", post(arm).delete(disarm))
        .route("/certificate", post(certificate))
        .route("/helmreleases/{namespace}/{name}", put(helm_release))
        .route("/secrets/{namespace}/{release}", put(secrets))
        .route("/requests", get(requests).delete(forget))
        .with_state(Arc::new(Control { cluster, fixtures }))
}

struct Control {
    cluster: Arc<SimulatedCluster>,
    fixtures: PathBuf,
}

type Controlled = State<Arc<Control>>;

/// A sentence for whoever sent what can't be done.
struct Refused(String);

impl Refused {
    /// The error and its causes, in one line.
    fn because(error: &dyn Error) -> Self {
        let mut sentence = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            sentence = format!("{sentence}: {error}");
            cause = error.source();
        }
        Self(sentence)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({ "error": self.0 }))).into_response()
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused(format!("the body can't be read: {error}")))
}

async fn scenarios(State(control): Controlled) -> Json<Value> {
    Json(json!({ "scenarios": Scenario::list(&control.fixtures) }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Play {
    scenario: String,
    namespace: Option<String>,
    name: Option<String>,
    #[serde(default)]
    push_in_ms: u64,
    speed: Option<f64>,
}

async fn play(State(control): Controlled, body: Bytes) -> Result<Response, Refused> {
    let play: Play = read(&body)?;
    let refused = |error| Refused::because(&error);
    let scenario = Scenario::load(&control.fixtures, &play.scenario).map_err(refused)?;
    let played = control.cluster.play_at_speed(
        &scenario,
        play.namespace.as_deref(),
        play.name.as_deref(),
        Duration::from_millis(play.push_in_ms),
        play.speed.unwrap_or(1.0),
    );
    Ok(Json(played.map_err(refused)?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    accept: Vec<String>,
}

async fn tokens(State(control): Controlled, body: Bytes) -> Result<StatusCode, Refused> {
    let tokens: Tokens = read(&body)?;
    control.cluster.accept_tokens(tokens.accept.into_iter().map(Into::into).collect());
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    rules: Vec<Rule>,
}

async fn rules(State(control): Controlled, body: Bytes) -> Result<StatusCode, Refused> {
    let rules: Rules = read(&body)?;
    control.cluster.set_rules(rules.rules);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arm {
    fault: Fault,
    times: Option<u32>,
    path: Option<String>,
}

async fn arm(State(control): Controlled, body: Bytes) -> Result<StatusCode, Refused> {
    let arm: Arm = read(&body)?;
    let armed = control.cluster.queue_fault(arm.fault, arm.times, arm.path.as_deref()).await;
    armed.map_err(|error| Refused::because(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn disarm(State(control): Controlled) -> Result<StatusCode, Refused> {
    control.cluster.set_fault(None).await.map_err(|error| Refused::because(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    kind: CertificateKind,
}

async fn certificate(State(control): Controlled, body: Bytes) -> Result<StatusCode, Refused> {
    let certificate: Certificate = read(&body)?;
    control.cluster.set_certificate(certificate.kind);
    Ok(StatusCode::NO_CONTENT)
}

async fn helm_release(
    State(control): Controlled,
    Path((namespace, name)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    control.cluster.put_helm_release(&namespace, &name, read(&body)?);
    Ok(StatusCode::NO_CONTENT)
}

async fn secrets(
    State(control): Controlled,
    Path((namespace, release)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    control.cluster.put_secrets(&namespace, &release, read(&body)?);
    Ok(StatusCode::NO_CONTENT)
}

async fn requests(State(control): Controlled) -> Json<Value> {
    Json(json!({ "requests": control.cluster.requests(), "traffic": control.cluster.traffic() }))
}

async fn forget(State(control): Controlled) -> StatusCode {
    control.cluster.forget_requests();
    StatusCode::NO_CONTENT
}
