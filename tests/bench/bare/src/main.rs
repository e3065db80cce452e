//! What a poll can't do without, and nothing else: one `GetItem`, one
//! `GetSecretValue` where the secret isn't known yet, one HTTPS `GET`. No rules,
//! no bounds, no policy of addresses. The bench holds the check function against it.
//!
//! An event is `{"table", "deploymentId", "secret", "path"}`.

#![allow(clippy::expect_used, clippy::unwrap_used)] // A part of a bench may fail by a panic.

use std::sync::{Arc, OnceLock};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_dynamodb::{config::BehaviorVersion, config::Region, types::AttributeValue};
use aws_smithy_http_client::{Builder, tls};
use aws_types::SdkConfig;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

/// A cluster, once its secret was read.
struct Cluster {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Cluster {
    fn new(secret: &Value) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let ca = secret["caCert"].as_str().unwrap().as_bytes();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .http1_only()
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .unwrap();
        let text = |name: &str| secret[name].as_str().unwrap().to_owned();
        Self { client, url: text("apiUrl"), token: text("token") }
    }

    async fn get(&self, path: &str) -> usize {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.token);
        request.send().await.unwrap().bytes().await.unwrap().len()
    }
}

fn variable(name: &str) -> String {
    std::env::var_os(name).unwrap().into_string().unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
    let credentials = Credentials::new(
        variable("AWS_ACCESS_KEY_ID"),
        variable("AWS_SECRET_ACCESS_KEY"),
        None,
        None,
        "environment",
    );
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(variable("AWS_REGION")))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(Builder::new().tls_provider(provider).build_https());
    config.set_endpoint_url(Some(variable("AWS_ENDPOINT_URL")));
    let config = config.build();
    let dynamo = aws_sdk_dynamodb::Client::new(&config);
    let secrets = aws_sdk_secretsmanager::Client::new(&config);
    let known = OnceLock::new();
    let serve = |event: LambdaEvent<Value>| {
        let (dynamo, secrets, known) = (&dynamo, &secrets, &known);
        async move {
            let event = event.payload;
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            let item = dynamo
                .get_item()
                .table_name(text("table"))
                .key("deploymentId", AttributeValue::S(text("deploymentId")))
                .consistent_read(true)
                .send();
            let path = text("path");
            let (attributes, bytes) = match known.get() {
                // Warm: side by side, as the check function does.
                Some(cluster) => {
                    let (item, bytes) = tokio::join!(item, Cluster::get(cluster, &path));
                    (item?.item, bytes)
                }
                None => {
                    let item = item.await?.item;
                    let secret = secrets.get_secret_value().secret_id(text("secret")).send().await?;
                    let secret = serde_json::from_str(secret.secret_string.as_deref().unwrap_or_default())?;
                    (item, known.get_or_init(|| Cluster::new(&secret)).get(&path).await)
                }
            };
            Ok::<Value, Error>(json!({"attributes": attributes.map(|it| it.len()), "bytes": bytes}))
        }
    };
    lambda_runtime::run(service_fn(serve)).await
}
