//! The simulated cluster over real sockets, as a client meets it.
// A test that can't go on should stop there.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, missing_docs)]

mod faults;
mod lists;
mod program;
mod recorded;
mod replay;

use std::{path::PathBuf, time::Duration};

use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Certificate, Client, redirect::Policy};
use secrecy::ExposeSecret;
use serde_json::Value;
use testkit::{Config, Scenario, SimulatedCluster};

const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Nothing here takes as long; a test that hangs fails.
async fn limited<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs")
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn scenario(name: &str) -> Scenario {
    Scenario::load(&fixtures(), name).unwrap()
}

async fn start() -> SimulatedCluster {
    SimulatedCluster::start(Config::default()).await.unwrap()
}

fn client(ca_pem: &str) -> Client {
    // Another test may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::builder()
        .tls_certs_only([Certificate::from_pem(ca_pem.as_bytes()).unwrap()])
        .no_proxy()
        .no_gzip()
        .redirect(Policy::none())
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

struct Got {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

/// Asks with the cluster's token.
async fn get(
    client: &Client,
    cluster: &SimulatedCluster,
    path: &str,
    accept: &str,
) -> Result<Got, reqwest::Error> {
    let token = cluster.token();
    send(client, cluster, Method::GET, path, accept, Some(token.expose_secret()), None).await
}

async fn send(
    client: &Client,
    cluster: &SimulatedCluster,
    method: Method,
    path: &str,
    accept: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<Got, reqwest::Error> {
    let mut request =
        client.request(method, format!("{}{path}", cluster.api_url())).header(header::ACCEPT, accept);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
    }
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    Ok(Got { status, headers, text: response.text().await? })
}
