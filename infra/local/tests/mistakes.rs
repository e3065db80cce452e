//! A person registers a cluster, mistypes each field once, and is told each time what to
//! mend: `dag-monitor serve` as it is started by hand, and a simulated cluster over TLS.
#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of these tests are tests themselves")]

mod support;

use std::net::TcpListener;

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use hyper::Method;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use support::{HARD_LIMIT, Served};
use testkit::{Config, SimulatedCluster};

/// Which field a refusal is about: by its pointer, or by the probe's reason.
#[derive(Debug, Clone, Copy)]
enum Told {
    Field(&'static str),
    Probe(&'static str),
}
use Told::{Field, Probe};

/// One mistake: the field, what was typed (null: it was left out), how it is told which field it is, and words
/// of the sentence that says what to mend.
struct Mistake(&'static str, Value, Told, &'static [&'static str]);

fn jwt(claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({"alg": "RS256"})), part(claims), BASE64_URL_SAFE_NO_PAD.encode("signed"))
}

/// A CA that ended long ago, and its key.
fn expired_ca() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn mistakes(cluster: &SimulatedCluster) -> Vec<Mistake> {
    let address = cluster.address();
    let token = cluster.token().expose_secret().to_owned();
    let (expired_ca, key) = expired_ca();
    let nobody = closed_port();
    let expired = jwt(&json!({"exp": 1_600_000_000, "sub": "system:serviceaccount:dag-monitor:dag-monitor"}));
    let fresh = jwt(&json!({"exp": 4_000_000_000_u64}));
    vec![
        Mistake("name", Value::Null, Field("/name"), &["is missing"]),
        Mistake("name", json!(""), Field("/name"), &["1 to 100"]),
        Mistake("name", json!("x".repeat(101)), Field("/name"), &["101", "1 to 100"]),
        Mistake("name", json!("東京"), Field("/name"), &["letter"]),
        Mistake("name", json!("a\u{7}b"), Field("/name"), &["control character"]),
        Mistake("name", json!(7), Field("/name"), &["a number came", "a string is awaited"]),
        //
        Mistake("apiUrl", Value::Null, Field("/apiUrl"), &["is missing", "https"]),
        Mistake("apiUrl", json!(format!("http://{address}")), Field("/apiUrl"), &["https://"]),
        Mistake("apiUrl", json!(address.to_string()), Field("/apiUrl"), &["URL"]),
        Mistake(
            "apiUrl",
            json!("https://no-such-host.invalid:6443"),
            Probe("DnsFailed"),
            &["no-such-host.invalid"],
        ),
        Mistake(
            "apiUrl",
            json!("https://10.0.0.1:6443"),
            Field("/apiUrl"),
            &["10.0.0.1", "AllowedApiServerCidrs"],
        ),
        Mistake("apiUrl", json!("https://169.254.169.254"), Field("/apiUrl"), &["169.254.169.254"]),
        Mistake(
            "apiUrl",
            json!(format!("https://127.0.0.1:{nobody}")),
            Probe("ConnectionRefused"),
            &["port"],
        ),
        Mistake("apiUrl", json!("https://127.0.0.1:99999"), Field("/apiUrl"), &["port"]),
        Mistake(
            "apiUrl",
            json!(format!("https://{address}/dashboard")),
            Probe("Forbidden"),
            &["/dashboard/version", "apiUrl"],
        ),
        Mistake("apiUrl", json!(format!("https://me@{address}")), Field("/apiUrl"), &["user"]),
        Mistake("apiUrl", json!(format!("https://{address}?x=1")), Field("/apiUrl"), &["query"]),
        Mistake("apiUrl", json!(format!("https://{address}#x")), Field("/apiUrl"), &["fragment"]),
        //
        Mistake("serviceAccountToken", Value::Null, Field("/serviceAccountToken"), &["is missing"]),
        Mistake("serviceAccountToken", json!(""), Field("/serviceAccountToken"), &["empty"]),
        Mistake(
            "serviceAccountToken",
            json!(format!("{token}\n")),
            Field("/serviceAccountToken"),
            &["newline", "tr -d"],
        ),
        Mistake(
            "serviceAccountToken",
            json!(format!("Bearer {token}")),
            Field("/serviceAccountToken"),
            &["without \"Bearer\""],
        ),
        Mistake(
            "serviceAccountToken",
            json!(expired),
            Field("/serviceAccountToken"),
            &["expired at 2020-09-13", "create another"],
        ),
        Mistake(
            "serviceAccountToken",
            json!(BASE64_STANDARD.encode(&fresh)),
            Field("/serviceAccountToken"),
            &["base64 -d"],
        ),
        Mistake(
            "serviceAccountToken",
            json!(fresh),
            Probe("Unauthorized"),
            &["the token was not accepted", "that this very cluster issued"],
        ),
        //
        Mistake("caCert", json!("hello"), Field("/caCert"), &["PEM", "-----BEGIN CERTIFICATE-----"]),
        Mistake("caCert", json!(key), Field("/caCert"), &["private key", "replace"]),
        Mistake("caCert", json!(expired_ca), Field("/caCert"), &["expired at 2020-01-01"]),
        Mistake("caCert", json!(cluster.other_ca_pem()), Probe("CertificateNotTrusted"), &["caCert"]),
        Mistake("caCert", Value::Null, Probe("CertificateNotTrusted"), &["caCert"]),
        Mistake("caCert", json!(cluster.ca_pem().replace('\n', "\\n")), Field("/caCert"), &["line ends"]),
        //
        Mistake(
            "tlsServerName",
            json!("elsewhere.example"),
            Probe("CertificateForAnotherName"),
            &["tlsServerName"],
        ),
        Mistake("tlsServerName", json!("https://kubernetes"), Field("/tlsServerName"), &["DNS name"]),
        Mistake("tlsServerName", json!("127.0.0.1"), Field("/tlsServerName"), &["DNS name", "an address"]),
        //
        Mistake("namespaces", json!("shop"), Field("/namespaces"), &["a list of strings"]),
        Mistake("namespaces", json!([]), Field("/namespaces"), &["null for all"]),
        Mistake("namespaces", json!(["shop", "Team A"]), Field("/namespaces/1"), &["a-z 0-9 - and *"]),
        Mistake("namespaces", json!(["shop", "shop"]), Field("/namespaces/1"), &["already"]),
        //
        Mistake("token", json!(token), Field("/token"), &["unknown", "serviceAccountToken"]),
        Mistake(
            "auth",
            json!({"eks": {"clusterName": "a", "region": "eu-west-1"}}),
            Field("/apiUrl"),
            &["auth.eks"],
        ),
    ]
}

/// Nothing that a caller is told may hold it.
fn without(secret: &str, answer: &Value) {
    let text = answer.to_string();
    assert!(!text.contains(secret), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_mistypes_a_field_is_told_what_to_mend() {
    let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
    let served = Served::start(&["--allow-cidr", "127.0.0.1/32"]);
    let token = cluster.token().expose_secret().to_owned();
    let right = json!({
        "name": "Prod EU", "apiUrl": cluster.api_url(), "serviceAccountToken": token,
        "caCert": cluster.ca_pem(), "tlsServerName": "kubernetes", "namespaces": ["shop", "team-*"],
    });

    let mut wrong = Vec::new();
    for Mistake(field, typed, told, words) in mistakes(&cluster) {
        let mut body = right.clone();
        match typed {
            Value::Null => drop(body.as_object_mut().unwrap().remove(field)),
            _ => body[field] = typed.clone(),
        }
        let (status, problem) = served.register(&body).await;
        without(&token, &problem);
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let (is_told, sentence) = match told {
            Field(pointer) => {
                let error = errors.iter().find(|it| it["pointer"] == pointer);
                (error.is_some(), error.map(|it| it["detail"].to_string()).unwrap_or_default())
            }
            Probe(reason) => {
                let sentence = format!("{} {}", problem["detail"], problem["help"]);
                (problem["reason"] == reason && errors.is_empty() && problem["help"].is_string(), sentence)
            }
        };
        let sentence = sentence.replace("\\\"", "\"");
        let mended = words.iter().all(|word| sentence.contains(word));
        if status != 422 || !is_told || !mended {
            wrong.push(format!(
                "{field}: {typed}\n  awaited: 422 {told:?} {words:?}\n  came: {status} {problem}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{} mistakes are not told well:\n{}", wrong.len(), wrong.join("\n"));

    let (host, bearer) = (served.address.to_string(), served.bearer());
    for (content_type, body, status, word) in [
        ("text/plain", right.to_string(), 415, "application/json"),
        ("application/json", "{\"name\": \"Prod EU\",}".to_owned(), 400, "JSON"),
        ("application/json", right.to_string().replacen('{', "{\"name\": \"Prod US\", ", 1), 422, "name"),
    ] {
        let headers = [("host", &*host), ("authorization", &*bearer), ("content-type", content_type)];
        let (came, problem) = served.post("/clusters", &headers, &body).await;
        without(&token, &problem);
        assert_eq!(came, status, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem}");
    }

    let (status, registered) = served.register(&right).await;
    assert_eq!(status, 201, "nothing wrong was stored, so the name is free: {registered}");
    assert_eq!(registered["lastProbe"]["ok"], true, "{registered}");
    without(&token, &registered);
    let (status, taken) = served.register(&right).await;
    assert_eq!(status, 409);
    assert!(taken["detail"].as_str().unwrap().contains("PUT /clusters/prod-eu"), "{taken}");

    let (code, log) = served.interrupt();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(&token), "{log}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_copies_the_commands_and_sees_a_verdict() {
    let served = Served::start(&["--simulated-cluster"]);
    let host = served.address.to_string();
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let line = served.lines.recv_timeout(HARD_LIMIT).unwrap();
        let Some((url, rest)) = line.strip_prefix("curl ").and_then(|it| it.split_once(" -H '")) else {
            continue;
        };
        let (authorization, body) = rest.split_once("' --json ").unwrap();
        let (name, bearer) = authorization.split_once(": ").unwrap();
        let path = url.strip_prefix(&format!("http://{host}")).unwrap();
        let headers = [("host", &*host), (name, bearer), ("content-type", "application/json")];
        let (status, answer) = served.post(path, &headers, body.trim_matches('\'')).await;
        assert_eq!(status, [201, 202][answers.len()], "{answer}");
        answers.push(answer);
    }
    assert_eq!(answers[0]["id"], "simulated");
    assert_eq!(answers[1]["status"], "pending");
    let (code, log) = served.interrupt();
    assert_eq!(code, Some(0), "a deployment that runs keeps nothing alive: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_of_another_site_is_answered() {
    let served = Served::start(&[]);
    let host = served.address.to_string();
    let bearer = served.bearer();
    let (json, key) = (("content-type", "application/json"), ("authorization", &*bearer));
    for headers in [
        vec![("host", "evil.example:8480"), key, json],
        vec![("host", host.as_str()), ("origin", "http://evil.example"), key, json],
        vec![("host", host.as_str()), ("origin", "null"), key, json],
    ] {
        let (status, answer) = served.post("/clusters", &headers, "{}").await;
        assert_eq!(status, 403, "{answer}");
        let (status, _) = served.send(Method::GET, "/", &headers, "").await;
        assert_eq!(status, 403, "nor is the page shown");
    }
    let (status, _) = served.post("/clusters", &[("host", &host), key, json], "{}").await;
    assert_eq!(status, 422, "whoever is let through is told what is wrong");
}
