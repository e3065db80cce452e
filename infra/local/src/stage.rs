//! The demo's servers, in this process: a simulated cluster, and the API before stores
//! in memory.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use kubernetes::AddressPolicy;
use monitor::answer::Answer;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use testkit::{Config, SimulatedCluster};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    executions::Listener,
    key::AccessKey,
    local::{self, Stores},
    server::Server,
};

/// The only addresses that a demo has to ask. Loopback is refused unless it is named.
const CLUSTERS: &str = "127.0.0.1/32";
/// The cluster's name, and its id.
pub(crate) const CLUSTER: &str = "demo";
/// Both servers answer from memory: what takes longer is stuck, and the demo has a minute.
const PATIENCE: Duration = Duration::from_secs(5);
/// A cluster's description is far shorter.
const ANSWER_BYTES: usize = 64 * 1024;

/// Why the stage could not be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("the simulated cluster can't be started")]
    Cluster(#[from] testkit::StartError),
    #[error("the client of clusters can't be made")]
    Client(#[source] Box<dyn Error + Send + Sync>),
    #[error("there is no randomness to make a key of")]
    NoRandomness,
    #[error("no port on 127.0.0.1 can be opened for the API")]
    Port(#[source] io::Error),
    #[error("the API can't be asked")]
    Asking(#[source] Box<dyn Error + Send + Sync>),
    #[error("the API did not answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("the API refused POST {0}: {1} {2}")]
    Refused(&'static str, StatusCode, String),
    #[error("the API's answer can't be read")]
    Answer(#[source] serde_json::Error),
}

/// The registration as a person would do it, and what came of it.
pub(crate) struct Registration {
    /// The command; token and CA are left out.
    pub(crate) command: String,
    pub(crate) status: StatusCode,
    /// The answer's body. The API never shows a token.
    pub(crate) body: String,
    /// What the probe found, in a sentence.
    pub(crate) probe: String,
}

pub(crate) struct Stage {
    pub(crate) cluster: SimulatedCluster,
    pub(crate) api: SocketAddr,
    key: AccessKey,
    server: Server,
}

impl Stage {
    /// The listener hears how the deployments get on.
    pub(crate) async fn set(listener: Listener) -> Result<Self, StageError> {
        let cluster = SimulatedCluster::start(Config::default()).await?;
        let policy = AddressPolicy::parse(CLUSTERS).map_err(|error| StageError::Client(error.into()))?;
        let key = AccessKey::make().ok_or(StageError::NoRandomness)?;
        let served = local::router(policy, Stores::in_memory(), key.digest(), Some(listener));
        let router = served.map_err(|error| StageError::Client(error.into()))?.router;
        let port = Server::bind(0).await.map_err(StageError::Port)?;
        let server = Server::start(router, port).map_err(StageError::Port)?;
        Ok(Self { cluster, api: server.address, key, server })
    }

    /// Registers the simulated cluster through the API, which probes it first.
    pub(crate) async fn register(&self) -> Result<Registration, StageError> {
        let api_url = self.cluster.api_url();
        let body = json!({
            "name": CLUSTER,
            "apiUrl": api_url,
            "serviceAccountToken": self.cluster.token().expose_secret(),
            "caCert": self.cluster.ca_pem(),
        });
        let (status, body) = self.post("/clusters", &body, StatusCode::CREATED).await?;
        let answer: Value = serde_json::from_str(&body).map_err(StageError::Answer)?;
        let probe = probed(&answer["lastProbe"]);
        let command = format!(
            "curl http://{}/clusters -H \"Authorization: Bearer …\" --json '{{\n  \"name\": \"{CLUSTER}\", \"apiUrl\": \"{api_url}\",\n  \
             \"serviceAccountToken\": \"…\", \"caCert\": \"…\"}}'",
            self.api
        );
        Ok(Registration { command, status, body, probe })
    }

    /// Starts a deployment through the API.
    pub(crate) async fn deploy(&self, body: &Value) -> Result<Answer, StageError> {
        let (_, body) = self.post("/deployments", body, StatusCode::ACCEPTED).await?;
        serde_json::from_str(&body).map_err(StageError::Answer)
    }

    /// Stops the servers. Nobody is left who could be answered, so nothing is waited for long.
    pub(crate) async fn strike(self) {
        self.server.stop().await;
        // Dropped, the cluster stops at once, if it does not stop by itself.
        let _ = timeout(PATIENCE, self.cluster.shutdown()).await;
    }

    async fn post(
        &self,
        path: &'static str,
        body: &Value,
        awaited: StatusCode,
    ) -> Result<(StatusCode, String), StageError> {
        let asking = timeout(PATIENCE, post(self.api, &self.key, path, body)).await;
        let (status, body) = asking.map_err(|_| StageError::Slow)?.map_err(StageError::Asking)?;
        if status == awaited { Ok((status, body)) } else { Err(StageError::Refused(path, status, body)) }
    }
}

/// What the probe found: what it says itself, and which helmTypes can be judged.
fn probed(probe: &Value) -> String {
    let message = probe["message"].as_str().unwrap_or_default();
    let places = probe["permissions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let allowed = |helm_type: &str| places.iter().any(|place| place[helm_type] == "allowed");
    let judged: Vec<&str> = ["flux", "plain"].into_iter().filter(|it| allowed(it)).collect();
    format!("{message}; the account may read what {} need", judged.join(" and "))
}

async fn post(
    server: SocketAddr,
    key: &AccessKey,
    path: &str,
    body: &Value,
) -> Result<(StatusCode, String), Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let request = Request::post(path)
        .header(HOST, server.to_string())
        .header(AUTHORIZATION, key.bearer().expose_secret())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
    Ok((parts.status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_cluster_is_registered_by_http_and_its_token_stays_inside() {
        let stage = Stage::set(Box::new(|_, _| ())).await.unwrap();
        let registration = stage.register().await.unwrap();
        let body: Value = serde_json::from_str(&registration.body).unwrap();
        assert_eq!(body["id"], CLUSTER);
        assert_eq!(body["apiUrl"], stage.cluster.api_url());
        assert!(registration.probe.starts_with("Kubernetes v1.36.3"), "{}", registration.probe);
        let token = stage.cluster.token();
        for text in [&registration.body, &registration.command] {
            assert!(!text.contains(token.expose_secret()), "{text}");
        }
        assert!(registration.command.contains(&stage.cluster.api_url()), "{}", registration.command);

        let again = stage.register().await.err().unwrap().to_string();
        assert!(again.contains("409"), "{again}");
        timeout(PATIENCE * 2, stage.strike()).await.unwrap();
    }
}
