//! What can go wrong does, and stops when it is told to.

use std::{
    error::Error,
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use http::{Method, header};
use reqwest::Client;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use secrecy::ExposeSecret;
use serde_json::Value;
use testkit::{CertificateKind, Fault, FaultError, SimulatedCluster};
use tokio::time::{Instant, timeout};

use crate::{Got, METADATA, client, get, limited, scenario, start};

const SECRETS: &str = "/api/v1/namespaces/plain/secrets";

/// A cluster with a settled release, and a client that gives up soon.
async fn cluster() -> (SimulatedCluster, Client) {
    let cluster = start().await;
    cluster.play_at_speed(&scenario("helm/helm3-upgrade"), None, None, Duration::ZERO, 100.0).unwrap();
    let client = client(cluster.ca_pem());
    (cluster, client)
}

/// Asks with a fault that is used up by it, and then again without. `None`:
/// there was no whole answer in time.
async fn tried(fault: Fault) -> Option<Result<Got, reqwest::Error>> {
    let (cluster, client) = cluster().await;
    cluster.queue_fault(fault, Some(1), None).await.unwrap();
    let limit = Duration::from_millis(900);
    let spoiled = timeout(limit, get(&client, &cluster, SECRETS, "application/json")).await.ok();
    let healthy = get(&client, &cluster, SECRETS, "application/json").await.unwrap();
    assert_eq!((healthy.status.as_u16(), healthy.json()["kind"].as_str()), (200, Some("SecretList")));
    spoiled
}

async fn with(fault: Fault) -> Result<Got, reqwest::Error> {
    tried(fault).await.expect("no answer in time")
}

fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

#[tokio::test]
async fn nobody_listens() {
    limited(async {
        let (cluster, client) = cluster().await;
        get(&client, &cluster, "/version", "*/*").await.unwrap();
        cluster.set_fault(Some(Fault::Refuse)).await.unwrap();
        // The connection that was kept alive is closed too.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let error = get(&client, &cluster, "/version", "*/*").await.err().unwrap();
        assert!(
            error.is_connect() && kind(&error) == Some(io::ErrorKind::ConnectionRefused),
            "{}",
            causes(&error)
        );
        cluster.set_fault(None).await.unwrap();
        assert_eq!(get(&client, &cluster, "/version", "*/*").await.unwrap().status, 200);
        assert_eq!(cluster.traffic().accepted, 2);

        let counted = cluster.queue_fault(Fault::Refuse, Some(1), None).await;
        assert!(matches!(counted, Err(FaultError::RefuseIsForAll)));
        let bound = cluster.queue_fault(Fault::NotTls, None, Some("/version")).await;
        assert!(matches!(bound, Err(FaultError::NoPath(_))));
    })
    .await;
}

#[tokio::test]
async fn tls_does_not_begin() {
    limited(async {
        let (cluster, client) = cluster().await;
        cluster.queue_fault(Fault::NoHandshake, Some(1), None).await.unwrap();
        let waiting = get(&client, &cluster, "/version", "*/*");
        assert!(timeout(Duration::from_millis(300), waiting).await.is_err());
        assert_eq!(get(&client, &cluster, "/version", "*/*").await.unwrap().status, 200);
        assert_eq!((cluster.traffic().accepted, cluster.traffic().handshakes), (2, 1));

        cluster.drop_connections();
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.queue_fault(Fault::NotTls, Some(1), None).await.unwrap();
        let error = get(&client, &cluster, "/version", "*/*").await.err().unwrap();
        assert!(error.is_connect(), "{}", causes(&error));
    })
    .await;
}

#[tokio::test]
async fn connections_that_break_off() {
    limited(async {
        let error = with(Fault::Reset).await.err().unwrap();
        assert!(error.is_request() && !error.is_timeout(), "{}", causes(&error));
        let error = with(Fault::Truncated).await.err().unwrap();
        assert!(error.is_body() || error.is_decode(), "{}", causes(&error));
        for fault in [Fault::Silence, Fault::Trickle { every_ms: 1000 }, Fault::Endless] {
            assert!(tried(fault.clone()).await.is_none(), "{fault:?}");
        }
    })
    .await;
}

/// The HTTP client may tell a reset as an end too soon; the socket does not.
#[tokio::test]
async fn a_reset_is_a_reset() {
    limited(async {
        let cluster = start().await;
        cluster.set_fault(Some(Fault::Reset)).await.unwrap();
        let (address, ca_pem) = (cluster.address(), cluster.ca_pem().to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config =
                ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
            let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
            let mut stream = StreamOwned::new(tls, TcpStream::connect(address).unwrap());
            stream.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream.read(&mut [0; 16])
        });
        assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_late_or_slow_are_right() {
    limited(async {
        let started = Instant::now();
        let got = with(Fault::Delay { ms: 200 }).await.unwrap();
        assert_eq!((got.status.as_u16(), got.json()["kind"].as_str()), (200, Some("SecretList")));
        assert!(started.elapsed() >= Duration::from_millis(200));

        let (cluster, client) = cluster().await;
        cluster.set_fault(Some(Fault::Trickle { every_ms: 1 })).await.unwrap();
        let got = get(&client, &cluster, "/api/v1/namespaces/none/secrets", METADATA).await.unwrap();
        assert!(got.json()["items"].is_null());
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_something_else() {
    limited(async {
        let got = with(Fault::Status { code: 429, retry_after: Some("7".to_owned()) }).await.unwrap();
        assert_eq!((got.status.as_u16(), got.headers[header::RETRY_AFTER].to_str().unwrap()), (429, "7"));
        assert_eq!(got.json()["reason"], "TooManyRequests");
        let got = with(Fault::Status { code: 500, retry_after: None }).await.unwrap();
        assert_eq!((got.status.as_u16(), got.json()["reason"].as_str()), (500, Some("InternalError")));

        let got = with(Fault::Html).await.unwrap();
        assert_eq!(got.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(got.status == 200 && got.text.starts_with("<!DOCTYPE html>"));
        assert_eq!(with(Fault::Empty).await.unwrap().text, "");
        let got = with(Fault::BrokenJson).await.unwrap();
        assert!(got.status == 200 && serde_json::from_str::<Value>(&got.text).is_err());
        assert_eq!(with(Fault::WrongKind).await.unwrap().json()["kind"], "ConfigMap");
        let got = with(Fault::WrongContentType).await.unwrap();
        assert_eq!(got.headers[header::CONTENT_TYPE], "application/vnd.kubernetes.protobuf");
        let got = with(Fault::Nulls).await.unwrap().json();
        assert!(got["kind"] == "SecretList" && got["items"].is_null() && got["metadata"].is_null());
        assert!(got.as_object().unwrap().contains_key("items"));
        let got = with(Fault::Body { text: "[1]".to_owned() }).await.unwrap();
        assert_eq!((got.status.as_u16(), got.text.as_str()), (200, "[1]"));
        assert_eq!(got.headers[header::CONTENT_TYPE], "application/json");
        let got = with(Fault::Redirect { location: "https://169.254.169.254/".to_owned() }).await.unwrap();
        assert_eq!(
            (got.status.as_u16(), got.headers[header::LOCATION].to_str().unwrap()),
            (302, "https://169.254.169.254/")
        );
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_too_large() {
    limited(async {
        let got = with(Fault::Huge { bytes: 3 << 20 }).await.unwrap();
        assert_eq!(got.text.len(), 3 << 20);
        assert!(got.json()["padding"].is_string());
        let got = with(Fault::DeepNesting { depth: 100_000 }).await.unwrap();
        assert_eq!(got.text.matches('[').count(), 100_000);
        let got = with(Fault::GzipPayload { bytes: 32 << 20 }).await.unwrap().json();
        assert!(got["items"][0]["data"]["release"].as_str().unwrap().len() < 300_000);

        let (cluster, client) = cluster().await;
        cluster.queue_fault(Fault::GzipBody { bytes: 32 << 20 }, Some(1), None).await.unwrap();
        let token = cluster.token();
        let url = format!("{}/version", cluster.api_url());
        let got = client.get(url).bearer_auth(token.expose_secret()).send().await.unwrap();
        assert_eq!(got.headers()[header::CONTENT_ENCODING], "gzip");
        assert!(got.bytes().await.unwrap().len() < 300_000);
    })
    .await;
}

#[tokio::test]
async fn faults_wait_for_their_path() {
    limited(async {
        let (cluster, client) = cluster().await;
        cluster.queue_fault(Fault::Html, Some(1), Some("/api/v1/namespaces/*")).await.unwrap();
        cluster
            .queue_fault(Fault::Status { code: 503, retry_after: None }, None, Some("/version"))
            .await
            .unwrap();
        assert_eq!(get(&client, &cluster, "/version", "*/*").await.unwrap().status, 503);
        assert_eq!(
            get(&client, &cluster, SECRETS, "*/*").await.unwrap().headers[header::CONTENT_TYPE],
            "text/html; charset=utf-8"
        );
        assert_eq!(
            get(&client, &cluster, SECRETS, "*/*").await.unwrap().headers[header::CONTENT_TYPE],
            "application/json"
        );
        assert_eq!(get(&client, &cluster, "/version", "*/*").await.unwrap().status, 503);
        cluster.set_fault(None).await.unwrap();
        assert_eq!(get(&client, &cluster, "/version", "*/*").await.unwrap().status, 200);
        // A request that is never answered is logged, too.
        cluster.queue_fault(Fault::Reset, Some(1), None).await.unwrap();
        assert!(get(&client, &cluster, "/healthz", "*/*").await.is_err());
        let resets = cluster.requests().into_iter().filter(|it| it.status.is_none()).count();
        assert_eq!(resets, 1);
    })
    .await;
}

#[tokio::test]
async fn certificates_are_swapped_while_it_runs() {
    limited(async {
        let (cluster, client) = cluster().await;
        assert_eq!(get(&client, &cluster, "/version", "*/*").await.unwrap().status, 200);
        for (kind, says) in [
            (CertificateKind::Expired, "expired"),
            (CertificateKind::WrongName, "not valid for name"),
            (CertificateKind::OtherIssuer, "UnknownIssuer"),
        ] {
            cluster.set_certificate(kind);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let error = get(&client, &cluster, "/version", "*/*").await.err().unwrap();
            assert!(error.is_connect() && causes(&error).contains(says), "{kind:?}: {}", causes(&error));
        }
        let other = crate::client(cluster.other_ca_pem());
        assert_eq!(get(&other, &cluster, "/version", "*/*").await.unwrap().status, 200);
        cluster.set_certificate(CertificateKind::Good);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(get(&client, &cluster, "/version", "*/*").await.unwrap().status, 200);
    })
    .await;
}

#[tokio::test]
async fn shutdown_lets_a_request_finish_and_cuts_off_what_hangs() {
    limited(async {
        let (cluster, client) = cluster().await;
        cluster.queue_fault(Fault::Delay { ms: 150 }, Some(1), Some("/version")).await.unwrap();
        cluster.queue_fault(Fault::Silence, Some(1), Some("/healthz")).await.unwrap();
        let token = cluster.token();
        let ask = |path: &str| {
            let (url, token) = (format!("{}{path}", cluster.api_url()), token.expose_secret().to_owned());
            let request = client.request(Method::GET, url).bearer_auth(token);
            tokio::spawn(async move { request.send().await })
        };
        let (finishes, hangs) = (ask("/version"), ask("/healthz"));
        tokio::time::sleep(Duration::from_millis(80)).await;
        cluster.shutdown().await;
        assert_eq!(finishes.await.unwrap().unwrap().status(), 200);
        assert!(hangs.await.unwrap().is_err());
        assert!(get(&client, &cluster, "/version", "*/*").await.err().unwrap().is_connect());
        assert!(matches!(cluster.set_fault(None).await, Err(FaultError::Stopped)));
        // Twice does no harm.
        cluster.shutdown().await;
    })
    .await;
}
