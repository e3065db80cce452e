//! The API from outside: requests through the router, the stores in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use kubernetes::{AddressPolicy, Rules};
use monitor::{
    cluster::ClusterRow,
    memory::{MemoryRegistry, MemoryVault},
    ports::{Clock, Credentials, Expected, Page, Registry, StoreError, Stored, SystemClock, Vault},
    register::Registrar,
};
use serde_json::{Value, json};
use tower::ServiceExt;

const TOKEN: &str = "sEcReT-token";
const URL: &str = "https://eu.example.com:6443";

fn registrar() -> Registrar {
    Registrar {
        registry: Arc::new(MemoryRegistry::default()),
        vault: Arc::new(MemoryVault::default()),
        rules: Arc::new(Rules::new(AddressPolicy::default())),
        clock: Arc::new(SystemClock),
    }
}

fn api() -> Router {
    register::router(Arc::new(registrar()))
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Also checks that it is a whole problem of its status.
    fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header(header::CONTENT_TYPE), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:dag-monitor:problem:{kind}"));
        assert_eq!(problem["status"], status);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem
    }

    /// The refused fields.
    fn refused(&self) -> Vec<String> {
        let problem = self.problem(422, "invalid-request");
        let errors = problem["errors"].as_array().unwrap();
        for error in errors {
            let detail = error["detail"].as_str().unwrap();
            assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
        }
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }
}

async fn send(api: &Router, request: Request<Body>) -> Answer {
    let response = api.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(!text.contains("sEcReT"), "a token in an answer: {text}");
    assert!(!format!("{:?}", parts.headers).contains("sEcReT"), "a token in a header");
    Answer { status: parts.status, headers: parts.headers, text }
}

async fn raw(api: &Router, method: &str, path: &str, body: impl Into<Body>) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    send(api, request.body(body.into()).unwrap()).await
}

async fn call(api: &Router, method: &str, path: &str, body: Value) -> Answer {
    raw(api, method, path, body.to_string()).await
}

async fn get(api: &Router, path: &str) -> Answer {
    send(api, Request::get(path).body(Body::empty()).unwrap()).await
}

async fn delete(api: &Router, path: &str) -> Answer {
    send(api, Request::delete(path).body(Body::empty()).unwrap()).await
}

fn cluster(name: &str) -> Value {
    json!({"name": name, "apiUrl": URL, "serviceAccountToken": TOKEN})
}

fn ca() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2050, 1, 2);
    params.self_signed(&key).unwrap().pem()
}

fn jwt(expires: Timestamp) -> String {
    let payload = URL_SAFE_NO_PAD.encode(json!({"exp": expires.as_second()}).to_string());
    format!("{}.{payload}.sEcReT", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#))
}

#[tokio::test]
async fn a_cluster_comes_and_goes() {
    let api = api();
    let mut body = cluster("Prod EU");
    body["caCert"] = ca().into();
    body["tlsServerName"] = "kubernetes.default.svc".into();
    let created = call(&api, "POST", "/clusters", body).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.header(header::LOCATION), "/clusters/prod-eu");
    assert_eq!(created.header(header::CONTENT_TYPE), "application/json");
    let shown = created.json();
    let mut fields: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["apiUrl", "caCert", "createdAt", "id", "name", "state", "tlsServerName", "token", "updatedAt"]
    );
    assert_eq!(shown["name"], "Prod EU");
    assert_eq!(shown["apiUrl"], URL);
    assert_eq!(shown["tlsServerName"], "kubernetes.default.svc");
    assert_eq!(shown["caCert"]["notAfter"], "2050-01-02T00:00:00Z");
    assert_eq!(shown["caCert"]["sha256Fingerprint"].as_str().unwrap().len(), 95);
    assert_eq!(shown["token"], json!({"expiresAt": null}));
    assert_eq!(shown["state"], "active");

    let location = created.header(header::LOCATION);
    assert_eq!(get(&api, location).await.json(), shown);
    assert_eq!(get(&api, "/clusters").await.json(), json!({"clusters": [shown], "nextToken": null}));

    let change = json!({"serviceAccountToken": TOKEN, "caCert": null, "tlsServerName": null});
    let changed = call(&api, "PUT", location, change).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let changed = changed.json();
    assert_eq!((&changed["caCert"], &changed["tlsServerName"]), (&Value::Null, &Value::Null));
    assert_eq!(changed["createdAt"], shown["createdAt"]);

    let removed = delete(&api, location).await;
    assert_eq!((removed.status, removed.text.as_str()), (StatusCode::NO_CONTENT, ""));
    get(&api, location).await.problem(404, "unknown-cluster");
    delete(&api, location).await.problem(404, "unknown-cluster");
    assert_eq!(call(&api, "POST", "/clusters", cluster("prod eu")).await.status, 201);
}

#[tokio::test]
async fn what_ends_soon_is_warned_of() {
    let api = api();
    let mut body = cluster("Prod EU");
    body["serviceAccountToken"] = jwt(Timestamp::now() + SignedDuration::from_hours(72)).into();
    let created = call(&api, "POST", "/clusters", body).await.json();
    let warnings = created["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].as_str().unwrap().starts_with("serviceAccountToken expires at "), "{warnings:?}");
    assert_eq!(get(&api, "/clusters/prod-eu").await.json()["token"], created["token"]);

    let expired = Timestamp::now() - SignedDuration::from_secs(1);
    let refused = call(&api, "PUT", "/clusters/prod-eu", json!({"serviceAccountToken": jwt(expired)})).await;
    assert_eq!(refused.refused(), ["/serviceAccountToken"]);
    let instant = Timestamp::from_second(expired.as_second()).unwrap().to_string();
    assert!(refused.text.contains(&instant), "{}", refused.text);
}

#[tokio::test]
async fn every_refused_field_is_named() {
    let api = api();
    let change = |body: Value| merge(cluster("Prod EU"), &body);
    for (body, pointers) in [
        (json!({}), &["/name", "/apiUrl", "/serviceAccountToken"] as &[_]),
        (change(json!({"name": ""})), &["/name"]),
        (change(json!({"name": "x".repeat(101)})), &["/name"]),
        (change(json!({"name": "a\u{0}b"})), &["/name"]),
        (change(json!({"name": "東京"})), &["/name"]),
        (change(json!({"name": null})), &["/name"]),
        (change(json!({"name": 7})), &["/name"]),
        (change(json!({"apiUrl": "http://eu.example.com"})), &["/apiUrl"]),
        (change(json!({"apiUrl": "https://127.0.0.1:6443"})), &["/apiUrl"]),
        (change(json!({"apiUrl": ["sEcReT"]})), &["/apiUrl"]),
        (change(json!({"serviceAccountToken": ""})), &["/serviceAccountToken"]),
        (change(json!({"serviceAccountToken": "sEcReT\n"})), &["/serviceAccountToken"]),
        (change(json!({"serviceAccountToken": {"sEcReT": 1}})), &["/serviceAccountToken"]),
        (change(json!({"serviceAccountToken": null})), &["/serviceAccountToken"]),
        (change(json!({"caCert": "sEcReT"})), &["/caCert"]),
        (change(json!({"caCert": true})), &["/caCert"]),
        (change(json!({"tlsServerName": "a b"})), &["/tlsServerName"]),
        (change(json!({"tlsServerName": 1.5})), &["/tlsServerName"]),
        (change(json!({"token": TOKEN})), &["/token"]),
        (change(json!({"a/b~c": null})), &["/a~1b~0c"]),
        // Form and content at once, each field once.
        (
            json!({"name": 1, "apiUrl": "x", "caCert": "x", "zone": "x"}),
            &["/name", "/zone", "/apiUrl", "/serviceAccountToken", "/caCert"],
        ),
        (json!([{"sEcReT": 1}]), &[""]),
        (json!("sEcReT"), &[""]),
        (json!(null), &[""]),
        (json!(false), &[""]),
        (json!(-1), &[""]),
    ] {
        let answer = call(&api, "POST", "/clusters", body.clone()).await;
        assert_eq!(answer.refused(), pointers, "{body}");
    }
    assert_eq!(get(&api, "/clusters").await.json()["clusters"], json!([]));
    // null where nothing is needed is nothing.
    let nulls = change(json!({"caCert": null, "tlsServerName": null}));
    assert_eq!(call(&api, "POST", "/clusters", nulls).await.status, 201);

    for (body, pointers) in [
        (json!({}), &[""] as &[_]),
        (json!({"name": "Prod EU"}), &["/name"]),
        (json!({"name": "Prod EU", "serviceAccountToken": "sEcReT x"}), &["/name", "/serviceAccountToken"]),
        (json!({"apiUrl": null}), &["/apiUrl"]),
        (json!({"serviceAccountToken": null}), &["/serviceAccountToken"]),
        (json!({"apiUrl": "https://other.example.com"}), &["/serviceAccountToken"]),
        (json!({"caCert": ca()}), &["/serviceAccountToken"]),
        (json!({"tlsServerName": "other"}), &["/serviceAccountToken"]),
        (json!({"id": "x"}), &["/id"]),
    ] {
        let answer = call(&api, "PUT", "/clusters/prod-eu", body.clone()).await;
        assert_eq!(answer.refused(), pointers, "{body}");
    }
}

fn merge(mut body: Value, more: &Value) -> Value {
    for (field, value) in more.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

#[tokio::test]
async fn equal_keys_are_refused_however_they_are_written() {
    let api = api();
    let body = format!(
        r#"{{"name":"Prod EU","apiUrl":"{URL}","apiUrl":"https://evil.example.com","serviceAccountToken":"{TOKEN}"}}"#
    );
    assert_eq!(raw(&api, "POST", "/clusters", body).await.refused(), ["/apiUrl"]);
    let body = format!(
        r#"{{"name":"Prod EU","apiUrl":"{URL}","serviceAccountToken":"{TOKEN}","\u006eame":"sEcReT","x":1,"x":2}}"#
    );
    assert_eq!(raw(&api, "POST", "/clusters", body).await.refused(), ["/name", "/x", "/x"]);
}

#[tokio::test]
async fn a_body_of_refusals_does_not_come_back_longer() {
    let api = api();
    let fields: Vec<String> = (0..2_000).map(|n| format!(r#""{n}{}":1"#, "/".repeat(10))).collect();
    let answer = raw(&api, "POST", "/clusters", format!("{{{}}}", fields.join(","))).await;
    assert_eq!(answer.refused().len(), 23, "20 of the form, 3 that are missing");
    assert!(answer.text.len() < 16_384);
}

#[tokio::test]
async fn what_can_not_be_read_is_no_matter_of_fields() {
    let api = api();
    for (body, place) in [
        ("", "empty"),
        (" \n", "empty"),
        ("{\"name\": sEcReT}", "line 1, column 10"),
        ("{\n\"serviceAccountToken\": \"sEcReT", "ends before it is complete: line 2"),
        ("{\"a\": 1} sEcReT", "line 1, column 10"),
        ("{\"a\": 1e999}", "is not JSON"),
        ("{\"a\": \"\n\"}", "is not JSON"),
    ] {
        let problem = raw(&api, "POST", "/clusters", body).await.problem(400, "malformed-request");
        assert!(problem["detail"].as_str().unwrap().contains(place), "{body}: {problem}");
    }
    let invalid_utf8 = b"{\"name\": \"\xff\"}".to_vec();
    raw(&api, "POST", "/clusters", invalid_utf8).await.problem(400, "malformed-request");
    raw(&api, "POST", "/clusters", "[".repeat(10_000)).await.problem(400, "malformed-request");

    let long = merge(cluster("Prod EU"), &json!({"name": "x".repeat(64 * 1024)}));
    call(&api, "POST", "/clusters", long.clone()).await.problem(413, "too-large");
    call(&api, "PUT", "/clusters/prod-eu", long).await.problem(413, "too-large");

    for content_type in
        [None, Some("text/plain"), Some("application/jsonp"), Some("application/x-www-form-urlencoded")]
    {
        let mut request = Request::post("/clusters");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(cluster("Prod EU").to_string().into()).unwrap();
        send(&api, request).await.problem(415, "unsupported-media-type");
    }
    let request = Request::post("/clusters").header(header::CONTENT_TYPE, "Application/JSON; charset=utf-8");
    let request = request.body(cluster("Prod EU").to_string().into()).unwrap();
    assert_eq!(send(&api, request).await.status, 201);
}

#[tokio::test]
async fn other_routes_and_methods_are_problems_too() {
    let api = api();
    for path in ["/", "/clusters/", "/clusters/a/b", "/v1/clusters", "/Clusters"] {
        get(&api, path).await.problem(404, "no-such-route");
    }
    for path in ["/clusters/Prod%20EU", "/clusters/%ff", "/clusters/..%2Fx", "/clusters/none"] {
        get(&api, path).await.problem(404, "unknown-cluster");
        call(&api, "PUT", path, json!({"serviceAccountToken": TOKEN})).await.problem(404, "unknown-cluster");
        delete(&api, path).await.problem(404, "unknown-cluster");
    }
    for (method, path, allowed) in [
        (Method::PUT, "/clusters", "GET,HEAD,POST"),
        (Method::DELETE, "/clusters", "GET,HEAD,POST"),
        (Method::POST, "/clusters/x", "GET,HEAD,PUT,DELETE"),
        (Method::PATCH, "/clusters/x", "GET,HEAD,PUT,DELETE"),
    ] {
        let answer = raw(&api, method.as_str(), path, "{}").await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header(header::ALLOW), allowed);
    }
}

#[tokio::test]
async fn pages_follow_each_other_to_the_end() {
    let api = api();
    for name in ["E", "a", "C 1", "b", "d"] {
        assert_eq!(call(&api, "POST", "/clusters", cluster(name)).await.status, 201);
    }
    let mut ids = Vec::new();
    let mut path = "/clusters?limit=2".to_owned();
    for last in [false, false, true] {
        let page = get(&api, &path).await.json();
        ids.extend(
            page["clusters"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()),
        );
        assert_eq!(page["nextToken"].is_null(), last, "{page}");
        path = format!("/clusters?nextToken={}&limit=2", page["nextToken"].as_str().unwrap_or_default());
    }
    assert_eq!(ids, ["a", "b", "c-1", "d", "e"]);
    for query in ["limit=0", "limit=101", "limit=x", "nextToken=prod-eu", "limit=1&limit=2", "size=5"] {
        get(&api, &format!("/clusters?{query}")).await.problem(400, "malformed-request");
    }
}

#[tokio::test]
async fn a_taken_name_says_by_whom() {
    let api = api();
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    let taken = call(&api, "POST", "/clusters", cluster("prod/eu")).await;
    let problem = taken.problem(409, "already-registered");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("\"Prod EU\"") && detail.contains("PUT /clusters/prod-eu"), "{detail}");
}

#[derive(Debug, Clone, Copy)]
enum Broken {
    Transient,
    Denied,
    Lost,
}

/// Stores that fail, and say why at length.
struct Failing(Broken);

impl Failing {
    fn fail<T>(&self) -> Result<T, StoreError> {
        let cause = || io::Error::other("the cause, for the log alone").into();
        Err(match self.0 {
            Broken::Denied => StoreError::Broken { what: "denied".to_owned(), source: Some(cause()) },
            _ => StoreError::Transient("the registry", cause()),
        })
    }
}

#[async_trait]
impl Registry for Failing {
    async fn get(&self, _: &str) -> Result<Option<ClusterRow>, StoreError> {
        if matches!(self.0, Broken::Lost) { Ok(None) } else { self.fail() }
    }
    async fn list(&self, _: usize, _: Option<&str>) -> Result<Page, StoreError> {
        self.fail()
    }
    async fn put(&self, _: &ClusterRow, _: Expected<'_>) -> Result<Stored, StoreError> {
        Ok(Stored::Lost)
    }
    async fn remove(&self, _: &str, _: &str) -> Result<Stored, StoreError> {
        self.fail()
    }
}

#[async_trait]
impl Vault for Failing {
    async fn get(&self, _: &str) -> Result<Option<Credentials>, StoreError> {
        self.fail()
    }
    async fn put(&self, _: &str, _: &Credentials) -> Result<(), StoreError> {
        self.fail()
    }
    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        self.fail()
    }
}

fn failing(broken: Broken) -> Router {
    let registrar =
        Registrar { registry: Arc::new(Failing(broken)), vault: Arc::new(Failing(broken)), ..registrar() };
    register::router(Arc::new(registrar))
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_store_that_fails_is_told_in_a_sentence_and_logged_once() {
    for (broken, status, kind, retry) in [
        (Broken::Transient, 503, "unavailable", "5"),
        (Broken::Denied, 500, "internal", ""),
        (Broken::Lost, 409, "cluster-busy", "60"),
    ] {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let answer = call(&failing(broken), "POST", "/clusters", cluster("Prod EU")).await;
        drop(guard);
        answer.problem(status, kind);
        assert_eq!(answer.header(header::RETRY_AFTER), retry, "{broken:?}");
        assert!(!answer.text.contains("log alone") && !answer.text.contains("denied"), "{}", answer.text);
        let causes = log.text().matches("the cause, for the log alone").count();
        assert_eq!(causes, usize::from(status >= 500), "{}", log.text());
        assert!(!log.text().contains("sEcReT"));
    }
}

#[tokio::test]
async fn who_is_at_work_is_left_alone() {
    struct Frozen;
    impl Clock for Frozen {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }
    // Registered in the future, as far as this clock knows: certainly no minute ago.
    let registrar = registrar();
    let api = register::router(Arc::new(registrar.clone()));
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    let row = registrar.registry.get("prod-eu").await.unwrap().unwrap();
    let left =
        ClusterRow { state: monitor::cluster::RowState::Deleting, nonce: "left".to_owned(), ..row.clone() };
    assert_eq!(registrar.registry.put(&left, Expected::Nonce(&row.nonce)).await.unwrap(), Stored::Yes);
    let api = register::router(Arc::new(Registrar { clock: Arc::new(Frozen), ..registrar }));
    for answer in [
        call(&api, "POST", "/clusters", cluster("Prod EU")).await,
        call(&api, "PUT", "/clusters/prod-eu", json!({"serviceAccountToken": TOKEN})).await,
        delete(&api, "/clusters/prod-eu").await,
    ] {
        answer.problem(409, "cluster-busy");
        assert_eq!(answer.header(header::RETRY_AFTER), "60");
    }
    assert_eq!(get(&api, "/clusters/prod-eu").await.json()["state"], "deleting");
}

/// The sample events, read as the function reads them, and answered as it answers.
#[tokio::test]
async fn the_sample_events_are_served() {
    use lambda_http::IntoResponse;

    let api = api();
    let events = concat!(env!("CARGO_MANIFEST_DIR"), "/../../infra/events");
    for (event, status) in [
        ("register-post", 201),
        ("register-post", 409),
        ("register-get", 200),
        ("register-list", 200),
        ("register-put", 200),
        ("register-delete", 204),
        ("register-delete", 404),
    ] {
        let text = std::fs::read_to_string(format!("{events}/{event}.json")).unwrap();
        // Without AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH, which a test can't set, the
        // stage comes before the path; an event without one is the same request.
        let mut event: Value = serde_json::from_str(&text).unwrap();
        event["requestContext"]["stage"] = Value::Null;
        let request = lambda_http::request::from_str(&event.to_string()).unwrap();
        let response = api.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{event}");
        // API Gateway takes text as it is, and anything else as base64 of bytes.
        let response = response.into_response().await;
        let is_text = match response.body() {
            lambda_http::Body::Empty => status == 204,
            lambda_http::Body::Text(text) => status == 204 || serde_json::from_str::<Value>(text).is_ok(),
            _ => false,
        };
        assert!(is_text, "{:?}", response.body());
    }
}
