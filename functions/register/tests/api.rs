//! The API from outside: requests through the router, the stores in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, LazyLock, Mutex, PoisonError},
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
use jsonschema::Validator;
use monitor::{
    cluster::{ClusterRow, EksCluster, RowState},
    deploy::Deployer,
    environment::{Environment, EnvironmentPage},
    environments::EnvironmentDesk,
    ports::{
        Clock, ClusterSecret, Credentials, Eks, EksError, Environments, Executions as _, Expected, Page,
        Registry, StoreError, Stored, Vault,
    },
    probe::ProbeReason,
    register::Registrar,
};
use register::Api;
use serde_json::{Value, json};
use tower::ServiceExt;

mod document;
mod world;

use world::{Log, World};

const TOKEN: &str = "sEcReT-token";
const URL: &str = "https://eu.example.com:6443";

static DOCUMENT: LazyLock<Value> = LazyLock::new(document::read);
/// By schema. To make one takes longer than all the rest of a test.
static VALIDATORS: Mutex<BTreeMap<String, Validator>> = Mutex::new(BTreeMap::new());

fn serve(api: &Api) -> Router {
    register::router(Arc::new(api.clone()))
}

fn api() -> Router {
    serve(&World::new().api)
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

    /// Of a status that is no problem.
    fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header(header::CONTENT_TYPE), "application/json");
        self.json()
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
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }
}

/// Fails where the document doesn't know the answer's status, type, header or body.
fn conform(method: &str, path: &str, answer: &Answer) {
    let Answer { status, headers, text } = answer;
    let said = format!("{method} {path} answered {status} {headers:?}: {text}");
    let document = &*DOCUMENT;
    let segments: Vec<&str> = path.split('?').next().unwrap().split('/').collect();
    let fits = |known: &str| {
        let known: Vec<&str> = known.split('/').collect();
        known.len() == segments.len()
            && known
                .iter()
                .zip(&segments)
                .all(|(known, it)| known == it || known.starts_with('{') && !it.is_empty())
    };
    let item = document["paths"].as_object().unwrap().iter().find(|(known, _)| fits(known));
    let is_head = method == "HEAD";
    let method = if is_head { "get".to_owned() } else { method.to_lowercase() };
    let responses = match item.map(|(_, item)| &item[&method]["responses"]) {
        None => return drop(answer.problem(404, "no-such-route")),
        Some(Value::Null) => return drop(answer.problem(405, "method-not-allowed")),
        Some(responses) => responses,
    };
    let response = &responses[status.as_str()];
    assert!(!response.is_null(), "undocumented status: {said}");
    for header in [header::LOCATION, header::RETRY_AFTER] {
        let name = header.as_str();
        let documented = response["headers"].as_object().into_iter().flatten();
        let documented = documented.map(|(name, _)| name.to_lowercase()).any(|known| known == name);
        assert!(documented || !headers.contains_key(header.as_str()), "undocumented {name}: {said}");
    }
    let Some(content) = response["content"].as_object() else {
        assert_eq!(text, "", "undocumented body: {said}");
        return;
    };
    let schema = &content[answer.header(header::CONTENT_TYPE)]["schema"];
    if !is_head {
        let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
        let validator =
            validators.entry(schema.to_string()).or_insert_with(|| document::validator(document, schema));
        let errors = document::errors(validator, &answer.json());
        assert!(errors.is_empty(), "{errors:#?} where {said}");
    }
}

async fn send(api: &Router, request: Request<Body>) -> Answer {
    let (method, path) = (request.method().to_string(), request.uri().to_string());
    let response = api.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(!text.contains("sEcReT"), "a token in an answer: {text}");
    assert!(!format!("{:?}", parts.headers).contains("sEcReT"), "a token in a header");
    let answer = Answer { status: parts.status, headers: parts.headers, text };
    conform(&method, &path, &answer);
    answer
}

async fn raw(api: &Router, method: &str, path: &str, body: impl Into<Body>) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    send(api, request.body(body.into()).unwrap()).await
}

async fn call(api: &Router, method: &str, path: &str, body: Value) -> Answer {
    raw(api, method, path, body.to_string()).await
}

async fn bare(api: &Router, method: &str, path: &str) -> Answer {
    send(api, Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
}

async fn get(api: &Router, path: &str) -> Answer {
    bare(api, "GET", path).await
}

async fn delete(api: &Router, path: &str) -> Answer {
    bare(api, "DELETE", path).await
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
    let claims = json!({
        "exp": expires.as_second(), "iss": "https://issuer.example.com",
        "sub": "system:serviceaccount:dag-monitor:dag-monitor",
    });
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
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
        [
            "apiUrl",
            "auth",
            "caCert",
            "createdAt",
            "id",
            "lastProbe",
            "name",
            "namespaces",
            "state",
            "tlsServerName",
            "token",
            "updatedAt",
            "warnings"
        ]
    );
    assert_eq!(shown["name"], "Prod EU");
    assert_eq!(shown["apiUrl"], URL);
    assert_eq!(shown["tlsServerName"], "kubernetes.default.svc");
    assert_eq!(shown["caCert"]["notAfter"], "2050-01-02T00:00:00Z");
    assert_eq!(shown["caCert"]["sha256Fingerprint"].as_str().unwrap().len(), 95);
    assert_eq!(shown["token"], json!({"issuer": null, "subject": null, "expiresAt": null}));
    assert_eq!((&shown["auth"], &shown["namespaces"]), (&Value::Null, &Value::Null));
    assert!(shown["warnings"].is_array());
    assert_eq!(shown["state"], "active");

    let location = created.header(header::LOCATION);
    let mut shown = shown;
    shown.as_object_mut().unwrap().remove("warnings");
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
    let warned = |it: &Value| it.as_str().unwrap().starts_with("serviceAccountToken expires at ");
    assert!(warnings.iter().any(warned), "{warnings:?}");
    assert_eq!(created["token"]["issuer"], "https://issuer.example.com");
    assert_eq!(created["token"]["subject"], "system:serviceaccount:dag-monitor:dag-monitor");
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
        (change(json!({"namespaces": []})), &["/namespaces"]),
        (change(json!({"namespaces": "shop"})), &["/namespaces"]),
        (change(json!({"namespaces": ["shop", 7, null]})), &["/namespaces/1", "/namespaces/2"]),
        (change(json!({"namespaces": ["shop", "Shop"]})), &["/namespaces/1"]),
        (change(json!({"namespaces": ["a", "a"]})), &["/namespaces/1"]),
        (change(json!({"auth": 7})), &["/auth", "/apiUrl", "/serviceAccountToken"]),
        (json!({"name": "x", "auth": 7}), &["/auth"]),
        (json!({"name": "x", "auth": {}}), &["/auth/eks"]),
        (json!({"name": "x", "auth": {"eks": null}}), &["/auth/eks"]),
        (
            json!({"name": "x", "auth": {"eks": {}, "gke": {}}}),
            &["/auth/gke", "/auth/eks/clusterName", "/auth/eks/region"],
        ),
        (
            json!({"name": "x", "auth": {"eks": {"clusterName": 1, "region": "eu-central-1", "zone": "x", "roleArn": []}}}),
            &["/auth/eks/clusterName", "/auth/eks/roleArn", "/auth/eks/zone"],
        ),
        (
            json!({"name": "x", "auth": {"eks": {"clusterName": "", "region": "Mars", "roleArn": "x"}}}),
            &["/auth/eks/clusterName", "/auth/eks/region", "/auth/eks/roleArn"],
        ),
        (
            change(
                json!({"caCert": "x", "tlsServerName": "x", "auth": {"eks": {"clusterName": "a", "region": "eu-central-1"}}}),
            ),
            &["/apiUrl", "/serviceAccountToken", "/caCert", "/tlsServerName"],
        ),
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
    let nulls = change(json!({"caCert": null, "tlsServerName": null, "namespaces": null, "auth": null}));
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
        (json!({"auth": null}), &["/auth"]),
        (json!({"auth": {"eks": {}}}), &["/auth/eks/clusterName", "/auth/eks/region"]),
        (json!({"namespaces": [""]}), &["/namespaces/0"]),
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

    // At any depth, and on every route that takes a body.
    let body = r#"{"name":"x","auth":{"eks":{"region":"eu-central-1","region":"x","clusterName":"a"}},"y":[{"a":1,"a":2}]}"#;
    let refused = raw(&api, "POST", "/clusters", body).await.refused();
    assert_eq!(refused, ["/auth/eks/region", "/y/0/a", "/y"]);
    let body = r#"{"serviceAccountToken":"x","serviceAccountToken":"sEcReT"}"#;
    assert_eq!(raw(&api, "PUT", "/clusters/prod-eu", body).await.refused(), ["/serviceAccountToken"]);
    let body = r#"{"targets":[{"cluster":"a","cluster":"b","release":"R"}],"helmType":"flux","helmType":"x","timeoutSecs":1}"#;
    let awaited = ["/targets/0/cluster", "/helmType", "/targets/0/release", "/timeoutSecs"];
    assert_eq!(raw(&api, "POST", "/deployments", body).await.refused(), awaited);
    assert_eq!(raw(&api, "PUT", "/apps/a/environments/b", body).await.refused(), awaited);
    let body = r#"{"app":"a","environment":"b","expect":{"values":{"/image":{"tag":1,"tag":2}}}}"#;
    assert_eq!(raw(&api, "POST", "/deployments", body).await.refused(), ["/expect/values/~1image/tag"]);
}

#[tokio::test]
async fn a_body_of_refusals_does_not_come_back_longer() {
    let api = api();
    let fields: Vec<String> = (0..2_000).map(|n| format!(r#""{n}{}":1"#, "/".repeat(10))).collect();
    let answer = raw(&api, "POST", "/clusters", format!("{{{}}}", fields.join(","))).await;
    assert_eq!(answer.refused().len(), 23, "20 of the form, 3 that are missing");
    assert!(answer.text.len() < 16_384);
}

const WITH_BODY: [(&str, &str); 4] = [
    ("POST", "/clusters"),
    ("PUT", "/clusters/prod-eu"),
    ("PUT", "/apps/checkout/environments/production"),
    ("POST", "/deployments"),
];

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
    for (method, path) in WITH_BODY {
        for body in [
            "",
            "{",
            "{\"a\": 1} sEcReT",
            &"[".repeat(10_000),
            &format!("{}{}", "[".repeat(65), "]".repeat(65)),
        ] {
            raw(&api, method, path, body.to_owned()).await.problem(400, "malformed-request");
        }
        raw(&api, method, path, " ".repeat(64 * 1024) + "{}").await.problem(413, "too-large");
        let request = Request::builder().method(method).uri(path).body("{}".into()).unwrap();
        send(&api, request).await.problem(415, "unsupported-media-type");
        for body in [json!([{"sEcReT": 1}]), json!(7), json!(null)] {
            assert_eq!(call(&api, method, path, body).await.refused(), [""]);
        }
    }

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
    for path in [
        "/",
        "/clusters/",
        "/clusters//",
        "/clusters/a/b",
        "/clusters/a/",
        "/clusters/a/probe/",
        "/apps",
        "/apps/a",
        "/apps/a/environments/",
        "/apps/a/environments/b/c",
        "/deployments/",
        "/deployments/a/b",
        "/openapi.yaml",
        "/openapi.json/",
        "/v1/clusters",
        "/Clusters",
    ] {
        get(&api, path).await.problem(404, "no-such-route");
    }
    for id in ["Prod%20EU", "%ff", "..%2Fx", "none", "prod-eu%00", &"x".repeat(101)] {
        let path = format!("/clusters/{id}");
        get(&api, &path).await.problem(404, "unknown-cluster");
        call(&api, "PUT", &path, json!({"serviceAccountToken": TOKEN})).await.problem(404, "unknown-cluster");
        delete(&api, &path).await.problem(404, "unknown-cluster");
        bare(&api, "POST", &format!("{path}/probe")).await.problem(404, "unknown-cluster");
        let path = format!("/apps/checkout/environments/{id}");
        get(&api, &path).await.problem(404, "unknown-environment");
        delete(&api, &path).await.problem(404, "unknown-environment");
        get(&api, &format!("/deployments/{id}")).await.problem(404, "unknown-deployment");
        if id != "none" && !id.starts_with('x') {
            get(&api, &format!("/apps/{id}/environments")).await.problem(404, "unknown-environment");
        }
    }
    for (method, path, allowed) in [
        (Method::PUT, "/clusters", "GET,HEAD,POST"),
        (Method::DELETE, "/clusters", "GET,HEAD,POST"),
        (Method::OPTIONS, "/clusters", "GET,HEAD,POST"),
        (Method::TRACE, "/clusters", "GET,HEAD,POST"),
        (Method::POST, "/clusters/x", "GET,HEAD,PUT,DELETE"),
        (Method::PATCH, "/clusters/x", "GET,HEAD,PUT,DELETE"),
        (Method::GET, "/clusters/x/probe", "POST"),
        (Method::HEAD, "/clusters/x/probe", "POST"),
        (Method::POST, "/apps/a/environments", "GET,HEAD"),
        (Method::POST, "/apps/a/environments/b", "GET,HEAD,PUT,DELETE"),
        (Method::DELETE, "/deployments/x", "GET,HEAD"),
        (Method::PUT, "/deployments", "GET,HEAD,POST"),
        (Method::OPTIONS, "/openapi.json", "GET,HEAD"),
    ] {
        let request = Request::builder().method(&method).uri(path).body(Body::empty()).unwrap();
        let response = api.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 405, "{method} {path}");
        assert_eq!(response.headers()[header::ALLOW], allowed, "{method} {path}");
    }
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    // A percent-encoded letter is the letter.
    assert_eq!(get(&api, "/clusters/%70rod%2Deu").await.ok(200)["id"], "prod-eu");
    for path in ["/clusters", "/clusters/prod-eu", "/openapi.json"] {
        let head = bare(&api, "HEAD", path).await;
        assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""), "{path}");
    }
}

#[tokio::test]
async fn an_unknown_query_is_refused_everywhere() {
    let world = World::new();
    let api = serve(&world.api);
    let mut routes = BTreeSet::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        routes.extend(item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    assert_eq!(routes.len(), 14);
    for (method, path) in routes {
        let path = path.replace("{id}", "x").replace("{app}", "a").replace("{environment}", "b");
        let (known, more) = if path == "/deployments" && method == "GET" {
            ("?app=a&environment=b&", "app=a")
        } else {
            ("?", "probe=maybe")
        };
        for query in ["colour=red", "Probe=false", "%00=", more] {
            let path = format!("{path}{known}{query}");
            call(&api, &method, &path, cluster("Prod EU")).await.problem(400, "malformed-request");
        }
    }
    assert!(world.script.asked().is_empty());
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
    for query in ["limit=0", "limit=101", "limit=%2B5", "nextToken=prod-eu", "limit=1&limit=2", "size=5"] {
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
impl Environments for Failing {
    async fn environment(&self, _: &str, _: &str) -> Result<Option<Environment>, StoreError> {
        self.fail()
    }
    async fn environments(&self, _: &str, _: usize, _: Option<&str>) -> Result<EnvironmentPage, StoreError> {
        self.fail()
    }
    async fn put_environment(&self, _: &Environment, _: &[String]) -> Result<Stored, StoreError> {
        Ok(Stored::Lost)
    }
    async fn remove_environment(&self, _: &str, _: &str) -> Result<bool, StoreError> {
        self.fail()
    }
    async fn naming_cluster(&self, _: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.fail()
    }
}

#[async_trait]
impl Vault for Failing {
    async fn get(&self, _: &str) -> Result<Option<ClusterSecret>, StoreError> {
        self.fail()
    }
    async fn put(&self, _: &str, _: &ClusterSecret) -> Result<(), StoreError> {
        self.fail()
    }
    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        self.fail()
    }
}

fn failing(broken: Broken) -> Router {
    let store = Arc::new(Failing(broken));
    let Api { registrar, environments, deployer } = World::new().api;
    serve(&Api {
        registrar: Registrar {
            registry: store.clone(),
            environments: store.clone(),
            vault: store.clone(),
            ..registrar
        },
        environments: EnvironmentDesk {
            registry: store.clone(),
            environments: store.clone(),
            ..environments
        },
        deployer: Deployer { registry: store.clone(), environments: store, ..deployer },
    })
}

#[tokio::test]
async fn a_store_that_fails_is_told_in_a_sentence_and_logged_once() {
    for (broken, status, kind, retry) in
        [(Broken::Transient, 503, "unavailable", "5"), (Broken::Denied, 500, "internal", "")]
    {
        for (method, path, body) in [
            ("POST", "/clusters", cluster("Prod EU")),
            ("GET", "/clusters", json!(null)),
            ("PUT", "/clusters/prod-eu", json!({"serviceAccountToken": TOKEN})),
            ("DELETE", "/clusters/prod-eu", json!(null)),
            ("POST", "/clusters/prod-eu/probe", json!(null)),
            ("PUT", "/apps/checkout/environments/production", environment()),
            ("GET", "/apps/checkout/environments", json!(null)),
            ("GET", "/apps/checkout/environments/production", json!(null)),
            ("DELETE", "/apps/checkout/environments/production", json!(null)),
            ("POST", "/deployments", deployment("checkout-1")),
        ] {
            let log = Log::default();
            let guard = log.begin();
            let answer = call(&failing(broken), method, path, body).await;
            drop(guard);
            answer.problem(status, kind);
            assert_eq!(answer.header(header::RETRY_AFTER), retry, "{broken:?} {method} {path}");
            assert!(!answer.text.contains("log alone") && !answer.text.contains("denied"), "{}", answer.text);
            let causes = log.text().matches("the cause, for the log alone").count();
            assert_eq!(causes, 1, "{method} {path}: {}", log.text());
            assert!(!log.text().contains("sEcReT"));
        }
    }
    let lost = call(&failing(Broken::Lost), "POST", "/clusters", cluster("Prod EU")).await;
    lost.problem(409, "cluster-busy");
    assert_eq!(lost.header(header::RETRY_AFTER), "60");
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
    let world = World::new();
    let api = serve(&world.api);
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    leave(&world, RowState::Deleting).await;
    let registrar = Registrar { clock: Arc::new(Frozen), ..world.api.registrar.clone() };
    let api = serve(&Api { registrar, ..world.api.clone() });
    for answer in [
        call(&api, "POST", "/clusters", cluster("Prod EU")).await,
        call(&api, "PUT", "/clusters/prod-eu", json!({"serviceAccountToken": TOKEN})).await,
        bare(&api, "POST", "/clusters/prod-eu/probe").await,
        delete(&api, "/clusters/prod-eu").await,
    ] {
        answer.problem(409, "cluster-busy");
        assert_eq!(answer.header(header::RETRY_AFTER), "60");
    }
    assert_eq!(get(&api, "/clusters/prod-eu").await.ok(200)["state"], "deleting");
}

/// Leaves the row of `prod-eu` as somebody who crashed in the middle would.
async fn leave(world: &World, state: RowState) {
    let row = Registry::get(&*world.registry, "prod-eu").await.unwrap().unwrap();
    let left = ClusterRow { state, nonce: "left".to_owned(), ..row.clone() };
    let stored = Registry::put(&*world.registry, &left, Expected::Nonce(&row.nonce)).await.unwrap();
    assert_eq!(stored, Stored::Yes);
}

#[tokio::test]
async fn what_broke_off_can_not_be_changed() {
    struct Later;
    impl Clock for Later {
        fn now(&self) -> Timestamp {
            Timestamp::now() + SignedDuration::from_mins(2)
        }
    }
    let world = World::new();
    assert_eq!(call(&serve(&world.api), "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    leave(&world, RowState::Registering).await;
    let registrar = Registrar { clock: Arc::new(Later), ..world.api.registrar.clone() };
    let api = serve(&Api { registrar, ..world.api.clone() });
    let change = json!({"serviceAccountToken": TOKEN});
    call(&api, "PUT", "/clusters/prod-eu", change).await.problem(409, "unfinished");
    bare(&api, "POST", "/clusters/prod-eu/probe").await.problem(409, "unfinished");
    assert_eq!(delete(&api, "/clusters/prod-eu").await.status, 204);
}

#[tokio::test]
async fn a_cluster_is_probed_before_it_is_stored_and_again() {
    let world = World::new();
    let api = serve(&world.api);
    let mut body = cluster("Prod EU");
    body["namespaces"] = json!(["shop", "team-*"]);
    let created = call(&api, "POST", "/clusters", body).await.ok(201);
    assert_eq!(created["namespaces"], json!(["shop", "team-*"]));
    let probe = &created["lastProbe"];
    assert_eq!((&probe["ok"], &probe["reason"]), (&json!(true), &Value::Null));
    assert_eq!(probe["kubernetesVersion"], "v1.36.3");
    assert_eq!(probe["serverCertificateNotAfter"], "2050-01-02T00:00:00Z");
    assert_eq!(
        probe["permissions"],
        json!([
            {"namespace": "shop", "flux": "allowed", "plain": "denied"},
            {"namespace": "team-*", "flux": "allowed", "plain": "denied"},
        ])
    );
    assert_eq!(world.script.asked(), [URL]);

    // Two minutes of somebody else's doing need not pass: a probe is no change.
    let again = bare(&api, "POST", "/clusters/prod-eu/probe").await.ok(200);
    assert_eq!((&again["lastProbe"]["ok"], &again["updatedAt"]), (&json!(true), &created["updatedAt"]));
    assert!(again["warnings"].is_array());
    let other = json!({"apiUrl": "https://other.example.com", "serviceAccountToken": TOKEN});
    assert_eq!(call(&api, "PUT", "/clusters/prod-eu", other).await.ok(200)["lastProbe"]["ok"], true);
    assert_eq!(world.script.asked(), [URL, URL, "https://other.example.com"]);
}

#[tokio::test]
async fn a_failed_probe_says_why_and_nothing_is_stored() {
    let world = World::new();
    let api = serve(&world.api);
    for reason in [ProbeReason::DnsFailed, ProbeReason::CertificateForAnotherName, ProbeReason::Unauthorized]
    {
        world.script.fail(reason);
        let problem = call(&api, "POST", "/clusters?probe=true", cluster("Prod EU")).await;
        let problem = problem.problem(422, "probe-failed");
        assert_eq!(problem["reason"], serde_json::to_value(reason).unwrap());
        assert_eq!(problem["help"], "look there");
        assert!(problem["detail"].as_str().unwrap().contains(&format!("{reason:?} was met")), "{problem}");
        get(&api, "/clusters/prod-eu").await.problem(404, "unknown-cluster");
        assert!(world.vault.get("prod-eu").await.unwrap().is_none());
    }

    call(&api, "POST", "/clusters", cluster("Prod EU")).await.ok(201);
    let before = get(&api, "/clusters/prod-eu").await.json();
    world.script.fail(ProbeReason::ConnectionRefused);
    let change = json!({"apiUrl": "https://other.example.com", "serviceAccountToken": TOKEN});
    call(&api, "PUT", "/clusters/prod-eu", change).await.problem(422, "probe-failed");
    assert_eq!(get(&api, "/clusters/prod-eu").await.json(), before);

    // What is stored already shows its last probe, a failed one, too.
    world.script.fail(ProbeReason::TimedOut);
    bare(&api, "POST", "/clusters/prod-eu/probe").await.problem(422, "probe-failed");
    let shown = get(&api, "/clusters/prod-eu").await.ok(200);
    let probe = &shown["lastProbe"];
    assert_eq!((&probe["ok"], &probe["reason"]), (&json!(false), &json!("TimedOut")));
    assert_eq!((&probe["permissions"], &shown["updatedAt"]), (&json!([]), &before["updatedAt"]));
}

#[tokio::test]
async fn a_probe_can_be_skipped_and_that_is_warned_of() {
    let world = World::new();
    let api = serve(&world.api);
    let created = call(&api, "POST", "/clusters?probe=false", cluster("Prod EU")).await.ok(201);
    assert_eq!(created["lastProbe"], Value::Null);
    assert!(!created["warnings"].as_array().unwrap().is_empty());
    let change = json!({"serviceAccountToken": TOKEN});
    let changed = call(&api, "PUT", "/clusters/prod-eu?probe=false", change).await.ok(200);
    assert!(!changed["warnings"].as_array().unwrap().is_empty());
    assert!(world.script.asked().is_empty());
}

/// EKS as an account has it that has one cluster.
struct OneEks;

#[async_trait]
impl Eks for OneEks {
    async fn credentials(&self, cluster: &EksCluster) -> Result<Credentials, EksError> {
        if cluster.cluster_name != "prod-us" {
            return Err(EksError::Refused(format!("there is no cluster {}", cluster.cluster_name)));
        }
        Ok(Credentials {
            api_url: "https://us.example.com".to_owned(),
            token: TOKEN.into(),
            ca_cert: Some(ca()),
            tls_server_name: None,
            personal: None,
        })
    }

    fn role_allowed(&self, role_arn: &str) -> Result<(), String> {
        if role_arn.ends_with("/dag-monitor") { Ok(()) } else { Err("this role may not be taken".to_owned()) }
    }
}

#[tokio::test]
async fn an_eks_cluster_needs_no_token() {
    let world = World::new();
    let registrar = Registrar { eks: Arc::new(OneEks), ..world.api.registrar.clone() };
    let api = serve(&Api { registrar, ..world.api.clone() });
    let role = "arn:aws:iam::123456789012:role/dag-monitor";
    let body = |name: &str, role: &str| json!({"name": "Prod US", "auth": {"eks": {"clusterName": name, "region": "us-east-1", "roleArn": role}}});
    let refused = call(&api, "POST", "/clusters", body("prod-us", &format!("{role}-2"))).await;
    assert_eq!(refused.refused(), ["/auth/eks/roleArn"]);
    let problem = call(&api, "POST", "/clusters", body("other", role)).await.problem(422, "probe-failed");
    assert_eq!(problem["reason"], "EksRefused");

    let shown = call(&api, "POST", "/clusters", body("prod-us", role)).await.ok(201);
    let eks = json!({"clusterName": "prod-us", "region": "us-east-1", "roleArn": role});
    assert_eq!(shown["auth"], json!({"eks": eks}));
    assert_eq!((&shown["token"], &shown["apiUrl"]), (&Value::Null, &json!("https://us.example.com")));
    assert_eq!(world.script.asked(), ["https://us.example.com"]);

    // To a token and back.
    let by_token = json!({"apiUrl": URL, "serviceAccountToken": TOKEN});
    let shown = call(&api, "PUT", "/clusters/prod-us", by_token).await.ok(200);
    assert_eq!((&shown["auth"], &shown["apiUrl"]), (&Value::Null, &json!(URL)));
    let by_eks = json!({"auth": {"eks": {"clusterName": "prod-us", "region": "us-east-1"}}});
    assert_eq!(call(&api, "PUT", "/clusters/prod-us", by_eks).await.ok(200)["token"], Value::Null);
}

fn environment() -> Value {
    json!({"helmType": "flux", "targets": [{"cluster": "Prod EU", "namespace": "shop", "release": "checkout"}]})
}

#[tokio::test]
async fn an_environment_comes_and_goes() {
    let api = api();
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    let path = "/apps/checkout/environments/production";
    get(&api, path).await.problem(404, "unknown-environment");
    let created = call(&api, "PUT", path, environment()).await;
    let shown = created.ok(201);
    assert_eq!(created.header(header::LOCATION), path);
    assert_eq!((&shown["app"], &shown["environment"]), (&json!("checkout"), &json!("production")));
    assert_eq!((&shown["helmType"], &shown["timeoutSecs"]), (&json!("flux"), &Value::Null));
    assert_eq!(shown["targets"], environment()["targets"]);
    assert_eq!(get(&api, path).await.ok(200), shown);

    let mut other = environment();
    other["timeoutSecs"] = json!(60);
    let replaced = call(&api, "PUT", path, other).await;
    assert_eq!(replaced.header(header::LOCATION), "");
    let replaced = replaced.ok(200);
    assert_eq!((&replaced["timeoutSecs"], &replaced["createdAt"]), (&json!(60), &shown["createdAt"]));

    // The cluster stays while it is named.
    let problem = delete(&api, "/clusters/prod-eu").await.problem(409, "cluster-in-use");
    assert!(problem["detail"].as_str().unwrap().contains("checkout/production"), "{problem}");
    assert_eq!(delete(&api, path).await.status, 204);
    delete(&api, path).await.problem(404, "unknown-environment");
    assert_eq!(delete(&api, "/clusters/prod-eu").await.status, 204);
}

#[tokio::test]
async fn environments_are_listed_a_page_at_a_time() {
    let api = api();
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    for name in ["e", "a", "c", "b", "d"] {
        call(&api, "PUT", &format!("/apps/checkout/environments/{name}"), environment()).await.ok(201);
    }
    let mut names = Vec::new();
    let mut path = "/apps/checkout/environments?limit=2".to_owned();
    for last in [false, false, true] {
        let page = get(&api, &path).await.ok(200);
        let found = page["environments"].as_array().unwrap().iter();
        names.extend(found.map(|it| it["environment"].as_str().unwrap().to_owned()));
        assert_eq!(page["nextToken"].is_null(), last, "{page}");
        let token = page["nextToken"].as_str().unwrap_or_default();
        path = format!("/apps/checkout/environments?nextToken={token}&limit=2");
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let none = json!({"environments": [], "nextToken": null});
    assert_eq!(get(&api, "/apps/nobody/environments").await.ok(200), none);
    for query in ["limit=0", "nextToken=a", "nextToken=", "app=checkout"] {
        get(&api, &format!("/apps/checkout/environments?{query}")).await.problem(400, "malformed-request");
    }
}

#[tokio::test]
async fn every_refused_field_of_an_environment_is_named() {
    let api = api();
    let mut narrow = cluster("Prod EU");
    narrow["namespaces"] = json!(["shop"]);
    assert_eq!(call(&api, "POST", "/clusters", narrow).await.status, 201);
    let target = |change: Value| {
        merge(environment(), &json!({"targets": [merge(environment()["targets"][0].clone(), &change)]}))
    };
    for (body, pointers) in [
        (json!({}), &["/helmType", "/targets"] as &[_]),
        (merge(environment(), &json!({"helmType": "argo"})), &["/helmType"]),
        (merge(environment(), &json!({"timeoutSecs": 9})), &["/timeoutSecs"]),
        (merge(environment(), &json!({"timeoutSecs": 1.5, "failOn": "first"})), &["/failOn", "/timeoutSecs"]),
        (merge(environment(), &json!({"targets": []})), &["/targets"]),
        (target(json!({"cluster": "nowhere"})), &["/targets/0/cluster"]),
        (target(json!({"namespace": "other"})), &["/targets/0/namespace"]),
        (target(json!({"release": "../x", "zone": 1})), &["/targets/0/zone", "/targets/0/release"]),
    ] {
        let answer = call(&api, "PUT", "/apps/checkout/environments/production", body.clone()).await;
        assert_eq!(answer.refused(), pointers, "{body}");
    }
    for path in ["/apps/Checkout/environments/production", "/apps/checkout/environments/%ff"] {
        assert!(call(&api, "PUT", path, environment()).await.refused().contains(&String::new()), "{path}");
    }
    get(&api, "/apps/checkout/environments/production").await.problem(404, "unknown-environment");
}

fn deployment(id: &str) -> Value {
    merge(environment(), &json!({"deploymentId": id, "app": "checkout", "environment": "production"}))
}

#[tokio::test]
async fn a_deployment_is_started_once() {
    let world = World::new();
    let api = serve(&world.api);
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    let started = call(&api, "POST", "/deployments", deployment("checkout-1")).await;
    let shown = started.ok(202);
    assert_eq!(started.header(header::LOCATION), "/deployments/checkout-1");
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("pending"), &json!("Starting")));
    assert_eq!(get(&api, "/deployments/checkout-1").await.ok(200), shown);

    let again = call(&api, "POST", "/deployments", deployment("checkout-1")).await;
    assert_eq!((again.ok(202), again.header(header::LOCATION)), (shown, "/deployments/checkout-1"));
    assert_eq!(world.executions.started(), 1);
    let other = merge(deployment("checkout-1"), &json!({"timeoutSecs": 60}));
    call(&api, "POST", "/deployments", other).await.problem(409, "deployment-id-conflict");

    // Without an id each is another one.
    let nameless = merge(deployment(""), &json!({"deploymentId": null}));
    let location = call(&api, "POST", "/deployments", nameless).await.header(header::LOCATION).to_owned();
    assert_eq!(get(&api, &location).await.status, 200);
    assert_eq!(world.executions.started(), 2);
    assert!(world.executions.find("checkout-1").await.unwrap().is_some());
}

#[tokio::test]
async fn a_deployment_that_has_been_checked_is_shown_whole_and_listed() {
    let world = World::new();
    let api = serve(&world.api);
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    for (index, id) in ["one", "two", "three"].into_iter().enumerate() {
        call(&api, "POST", "/deployments", deployment(id)).await.ok(202);
        let item = item(id, now + SignedDuration::from_secs(i64::try_from(index).unwrap()));
        let stored = monitor::ports::Deployments::create(&*world.deployments, &item, now).await.unwrap();
        assert_eq!(stored, Stored::Yes);
    }
    let shown = get(&api, "/deployments/one").await.ok(200);
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("failed"), &json!("Timeout")));
    assert_eq!(shown["targets"][0]["observed"]["chartVersion"], "1.3.0");

    let listed = "/deployments?app=checkout&environment=production";
    let mut ids = Vec::new();
    let mut path = format!("{listed}&limit=2");
    for last in [false, true] {
        let page = get(&api, &path).await.ok(200);
        let found = page["deployments"].as_array().unwrap().iter();
        ids.extend(found.map(|it| it["deploymentId"].as_str().unwrap().to_owned()));
        assert_eq!(page["nextToken"].is_null(), last, "{page}");
        path = format!("{listed}&limit=2&nextToken={}", page["nextToken"].as_str().unwrap_or_default());
    }
    assert_eq!(ids, ["three", "two", "one"]);
    let none = get(&api, "/deployments?app=checkout&environment=staging").await.ok(200);
    assert_eq!(none, json!({"deployments": [], "nextToken": null}));
    for query in [
        "",
        "?app=checkout",
        "?environment=production",
        "?app=Checkout&environment=production",
        "?app=checkout&environment=production&nextToken=one",
        "?app=checkout&environment=production&nextToken=cHJvZC1ldQ",
        "?app=checkout&environment=production&limit=0",
        "?app=checkout&environment=production&status=failed",
    ] {
        get(&api, &format!("/deployments{query}")).await.problem(400, "malformed-request");
    }
}

/// As the check function leaves it after a deadline.
fn item(id: &str, started_at: Timestamp) -> monitor::deployment::Deployment {
    let request = merge(deployment(id), &json!({"namespace": null}));
    let mut request = request;
    request.as_object_mut().unwrap().remove("namespace");
    let (request, _) = monitor::request::parse(&request).unwrap();
    let deadline = started_at + SignedDuration::from_mins(5);
    let state = json!({
        "status": "failed", "reason": "Timeout", "lastReason": "Progressing", "message": "waited for 300 s",
        "observed": {"revision": 11, "chartVersion": "1.3.0", "appVersion": null, "condition": "Progressing"},
        "since": deadline,
    });
    let target = json!({
        "cluster": "Prod EU", "clusterId": "prod-eu", "namespace": "shop", "release": "checkout",
        "helmType": "flux", "apiUrl": URL,
    });
    serde_json::from_value(json!({
        "deploymentId": id, "schema": monitor::deployment::SCHEMA, "rev": 3, "digest": request.digest(),
        "request": request, "startedAt": started_at, "deadline": deadline, "checkedAt": deadline,
        "finishedAt": deadline, "status": "failed", "reason": "Timeout", "lastReason": "Progressing",
        "message": "prod-eu: waited for 300 s", "polls": 60, "targets": [merge(target, &state)],
        "expiresAt": deadline.as_second() + 86_400,
    }))
    .unwrap()
}

#[tokio::test]
async fn every_refused_field_of_a_deployment_is_named_and_nothing_starts() {
    let world = World::new();
    let api = serve(&world.api);
    assert_eq!(call(&api, "POST", "/clusters", cluster("Prod EU")).await.status, 201);
    let change = |change: Value| merge(deployment("checkout-1"), &change);
    for (body, pointers) in [
        (json!({}), &["/helmType"] as &[_]),
        (json!({"app": "checkout"}), &["/environment"]),
        (json!({"app": "checkout", "environment": "nowhere"}), &["/environment"]),
        (change(json!({"helmType": null})), &["/helmType"]),
        (change(json!({"deploymentId": "a/b"})), &["/deploymentId"]),
        (change(json!({"targets": [{"cluster": "nowhere", "release": "a"}]})), &["/targets/0/cluster"]),
        (change(json!({"timeoutSecs": "60", "failFast": 1})), &["/timeoutSecs", "/failFast"]),
        (change(json!({"pushedAt": "yesterday"})), &["/pushedAt"]),
        (change(json!({"expect": {"version": 1}})), &["/expect/version"]),
        (change(json!({"execution": {}, "cluster": 1})), &["/cluster", "/execution"]),
    ] {
        let answer = call(&api, "POST", "/deployments", body.clone()).await;
        assert_eq!(answer.refused(), pointers, "{body}");
    }
    assert_eq!(world.executions.started(), 0);
}

#[tokio::test]
async fn the_document_is_served() {
    let answer = get(&api(), "/openapi.json").await;
    let document = answer.ok(200);
    assert_eq!(document["openapi"], "3.0.3");
    assert!(document["paths"]["/clusters"]["post"].is_object());
}
