//! Everything around a measured process: AWS, clusters, and the wires to them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use aws::{Access, Aws};
use jiff::{SignedDuration, Timestamp};
use monitor::{
    cluster::{ClusterRow, RowState},
    contract,
    ports::{Credentials, Expected, Registry as _, Stored, Vault as _},
};
use serde_json::{Value, json};
use testkit::{Config, Scenario, SimulatedCluster};

use crate::{
    aws_server::{AwsServer, Noted},
    process::{Answered, Process},
    relay::{Passed, Relay},
};

/// The delay that DESIGN's numbers are with.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(20);
/// Further ahead than any measurement takes, and what the cluster shows until then stays.
const NO_PUSH_YET: Duration = Duration::from_secs(3_600);
const DEPLOYMENTS: &str = "deployments";
const REGISTRY: &str = "registry";
const PREFIX: &str = "bench/clusters/";
/// The namespace of every release.
pub(crate) const NAMESPACE: &str = "shop";

/// Where the recordings are.
pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// A recorded scenario.
pub(crate) fn scenario(name: &str) -> Scenario {
    Scenario::load(&fixtures(), name).unwrap()
}

pub(crate) struct World {
    pub(crate) aws: AwsServer,
    aws_wire: Relay,
    pub(crate) clusters: Vec<Cluster>,
    /// The public roots of this machine, and the fake's own: so many certificates
    /// are read at a start in Lambda, too.
    roots: PathBuf,
}

pub(crate) struct Cluster {
    pub(crate) simulated: SimulatedCluster,
    wire: Relay,
}

impl Cluster {
    pub(crate) fn api_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.wire.port())
    }

    pub(crate) fn passed(&self) -> Passed {
        self.wire.passed()
    }
}

/// What one invocation has cost.
#[derive(Debug, Clone)]
pub(crate) struct Cost {
    pub(crate) aws: Vec<Noted>,
    pub(crate) kubernetes: usize,
    pub(crate) handshakes: u64,
    pub(crate) resumed: u64,
    pub(crate) aws_wire: Passed,
    pub(crate) cluster_wire: Passed,
}

impl Cost {
    pub(crate) fn requests(&self, operation: &str) -> f64 {
        self.aws.iter().filter(|it| it.what == operation).count() as f64
    }
}

impl World {
    /// With so many clusters, named `c0` and so on, each registered.
    pub(crate) async fn start(clusters: usize, config: &Config) -> Self {
        let aws = AwsServer::start().await;
        let aws_wire = Relay::to(aws.tls);
        let access = access(aws.plain);
        let adapters = Aws::new(&access);
        let (registry, vault) = (adapters.registry(REGISTRY), adapters.vault(PREFIX, None));
        let mut all = Vec::new();
        for number in 0..clusters {
            let simulated = SimulatedCluster::start(config.clone()).await.unwrap();
            let cluster = Cluster { wire: Relay::to(simulated.address()), simulated };
            let id = format!("c{number}");
            let row = ClusterRow {
                name: id.clone(),
                api_url: cluster.api_url(),
                state: RowState::Active,
                ..contract::cluster(&id, "nonce")
            };
            assert_eq!(registry.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
            vault.put(&id, &cluster.credentials().into()).await.unwrap();
            all.push(cluster);
        }
        let roots = std::env::temp_dir().join(format!("dag-monitor-bench-{}.pem", std::process::id()));
        let public = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
        fs::write(&roots, public + &aws.ca_pem).unwrap();
        aws.take_log();
        Self { aws, aws_wire, clusters: all, roots }
    }

    /// What every round trip to AWS and to the clusters takes from now on.
    pub(crate) fn set_round_trip(&self, time: Duration) {
        self.aws_wire.set_round_trip(time);
        self.clusters.iter().for_each(|it| it.wire.set_round_trip(time));
    }

    /// What the functions find in their environment.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        [
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIABENCH"),
            ("AWS_SECRET_ACCESS_KEY", "bench"),
            ("AWS_ENDPOINT_URL", &format!("https://127.0.0.1:{}", self.aws_wire.port())),
            ("SSL_CERT_FILE", self.roots.to_str().unwrap()),
            ("ALLOWED_API_SERVER_CIDRS", "127.0.0.1/32"),
            ("DEPLOYMENTS_TABLE", DEPLOYMENTS),
            ("STACK_NAME", "bench"),
            ("REGISTRY_TABLE", REGISTRY),
            ("SECRET_PREFIX", PREFIX),
            ("EVENT_BUS_NAME", "bench"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    pub(crate) async fn start_process(&self, binary: &Path) -> Process {
        Process::start(binary, &self.variables()).await
    }

    /// A cluster's release that was there before, and of which nothing new is seen.
    pub(crate) fn settle(&self, cluster: usize, recording: &str, release: &str) {
        let cluster = &self.clusters[cluster].simulated;
        cluster.play(&scenario(recording), Some(NAMESPACE), Some(release), NO_PUSH_YET).unwrap();
    }

    /// One event of the bare handler, which makes the same round trips.
    pub(crate) fn bare_event(&self, deployment_id: &str, path: &str) -> Value {
        json!({
            "table": DEPLOYMENTS, "deploymentId": deployment_id,
            "secret": format!("{PREFIX}c0/credentials"), "path": path,
        })
    }

    /// Invokes, and says what went over the wires meanwhile.
    pub(crate) async fn invoke(&self, process: &Process, event: &Value) -> (Answered, Cost) {
        let passed = || {
            self.clusters.iter().map(|it| it.wire.passed()).fold(
                Passed { connections: 0, up: 0, down: 0 },
                |sum, it| Passed {
                    connections: sum.connections + it.connections,
                    up: sum.up + it.up,
                    down: sum.down + it.down,
                },
            )
        };
        let handshakes = || self.clusters.iter().map(|it| it.simulated.traffic().handshakes).sum::<u64>();
        self.aws.take_log();
        self.clusters.iter().for_each(|it| it.simulated.forget_requests());
        let before = (self.aws_wire.passed(), passed(), handshakes(), self.aws.handshakes());
        let answered = process.invoke(event).await;
        let (full, resumed) = self.aws.handshakes();
        let cost = Cost {
            aws: self.aws.take_log(),
            kubernetes: self.clusters.iter().map(|it| it.simulated.requests().len()).sum(),
            handshakes: handshakes() - before.2 + full - before.3.0,
            resumed: resumed - before.3.1,
            aws_wire: self.aws_wire.passed() - before.0,
            cluster_wire: passed() - before.1,
        };
        (answered, cost)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.roots);
    }
}

impl Cluster {
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials {
            api_url: self.api_url(),
            token: self.simulated.token(),
            ca_cert: Some(self.simulated.ca_pem().to_owned()),
            tls_server_name: None,
            personal: None,
        }
    }
}

fn access(endpoint: SocketAddr) -> Access {
    Access {
        region: "us-east-1".to_owned(),
        access_key_id: "AKIABENCH".to_owned(),
        secret_access_key: "bench".into(),
        session_token: None,
        endpoint_url: Some(format!("http://{endpoint}")),
    }
}

/// A deployment as the state machine sends it; the targets are a cluster's number
/// and a release each.
pub(crate) fn event(deployment_id: &str, helm_type: &str, targets: &[(usize, String)]) -> Value {
    let now = Timestamp::now();
    // What was there before the push is stamped with the moment when it was put there.
    let pushed_at = now + SignedDuration::from_mins(2);
    let targets: Vec<Value> = targets
        .iter()
        .map(|(cluster, release)| {
            json!({ "cluster": format!("c{cluster}"), "namespace": NAMESPACE, "release": release })
        })
        .collect();
    json!({
        "deploymentId": deployment_id,
        "helmType": helm_type,
        "targets": targets,
        "timeoutSecs": 7200,
        "pushedAt": pushed_at.to_string(),
        "execution": {
            "arn": format!("arn:aws:states:us-east-1:123456789012:execution:bench:{deployment_id}"),
            "startedAt": now.to_string(),
        },
    })
}

/// One target on the first cluster.
pub(crate) fn one(release: &str) -> Vec<(usize, String)> {
    vec![(0, release.to_owned())]
}
