//! The demo's servers and stores, all in this process: a simulated cluster, the
//! registration API in front of stores in memory, and the check handler's `Checker`.

use std::{
    error::Error, future::IntoFuture as _, io, net::Ipv4Addr, net::SocketAddr, sync::Arc, time::Duration,
};

use axum::Router;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use kubernetes::{AddressPolicy, KubernetesClient, Rules};
use monitor::{
    check::{CheckPorts, Checker, Settings},
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, MemoryVault},
    ports::SystemClock,
    register::Registrar,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use testkit::{Config, SimulatedCluster};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
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
    #[error("no port on 127.0.0.1 can be opened for the registration API")]
    Port(#[source] io::Error),
    #[error("the registration API can't be asked")]
    Asking(#[source] Box<dyn Error + Send + Sync>),
    #[error("the registration API did not answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("the cluster was not registered: {0} {1}")]
    Refused(StatusCode, String),
}

/// The registration as a person would do it, and what came of it.
pub(crate) struct Registration {
    /// The command; token and CA are left out.
    pub(crate) command: String,
    pub(crate) status: StatusCode,
    /// The answer's body. The API never shows a token.
    pub(crate) body: String,
}

pub(crate) struct Stage {
    pub(crate) cluster: SimulatedCluster,
    pub(crate) checker: Arc<Checker>,
    pub(crate) api: SocketAddr,
    /// Aborted when dropped.
    serving: JoinSet<io::Result<()>>,
}

impl Stage {
    pub(crate) async fn set() -> Result<Self, StageError> {
        let cluster = SimulatedCluster::start(Config::default()).await?;
        let policy = AddressPolicy::parse(CLUSTERS).map_err(|error| StageError::Client(error.into()))?;
        let client =
            KubernetesClient::new(policy.clone()).map_err(|error| StageError::Client(error.into()))?;
        let registry = Arc::new(MemoryRegistry::default());
        let vault = Arc::new(MemoryVault::default());
        let registrar = Registrar {
            registry: registry.clone(),
            vault: vault.clone(),
            rules: Arc::new(Rules::new(policy)),
            clock: Arc::new(SystemClock),
        };
        let ports = CheckPorts {
            deployments: Arc::new(MemoryDeployments::default()),
            registry,
            vault,
            clusters: Arc::new(client),
            events: Arc::new(MemoryEvents::default()),
            clock: Arc::new(SystemClock),
        };
        let (api, serving) = serve(register::router(Arc::new(registrar))).await.map_err(StageError::Port)?;
        let checker = Arc::new(Checker::new(ports, Settings::default()));
        Ok(Self { cluster, checker, api, serving })
    }

    /// Registers the simulated cluster through the API.
    pub(crate) async fn register(&self) -> Result<Registration, StageError> {
        let api_url = self.cluster.api_url();
        let body = json!({
            "name": CLUSTER,
            "apiUrl": api_url,
            "serviceAccountToken": self.cluster.token().expose_secret(),
            "caCert": self.cluster.ca_pem(),
        });
        let asking = timeout(PATIENCE, post(self.api, "/clusters", &body)).await;
        let (status, body) = asking.map_err(|_| StageError::Slow)?.map_err(StageError::Asking)?;
        if status != StatusCode::CREATED {
            return Err(StageError::Refused(status, body));
        }
        let command = format!(
            "curl http://{}/clusters --json '{{\n  \"name\": \"{CLUSTER}\", \"apiUrl\": \"{api_url}\",\n  \
             \"serviceAccountToken\": \"…\", \"caCert\": \"…\"}}'",
            self.api
        );
        Ok(Registration { command, status, body })
    }

    /// Stops the servers. Nobody is left who could be answered, so nothing is waited for long.
    pub(crate) async fn strike(mut self) {
        self.serving.shutdown().await;
        // Dropped, the cluster stops at once, if it does not stop by itself.
        let _ = timeout(PATIENCE, self.cluster.shutdown()).await;
    }
}

async fn serve(router: Router) -> io::Result<(SocketAddr, JoinSet<io::Result<()>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let mut serving = JoinSet::new();
    serving.spawn(axum::serve(listener, router).into_future());
    Ok((address, serving))
}

async fn post(
    server: SocketAddr,
    path: &str,
    body: &Value,
) -> Result<(StatusCode, String), Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let request = Request::post(path)
        .header(HOST, server.to_string())
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
        let stage = Stage::set().await.unwrap();
        let registration = stage.register().await.unwrap();
        let body: Value = serde_json::from_str(&registration.body).unwrap();
        assert_eq!(body["id"], CLUSTER);
        assert_eq!(body["apiUrl"], stage.cluster.api_url());
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
