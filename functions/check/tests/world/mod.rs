//! The handler's checker with its stores in memory, over clusters of any kind.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{sync::Arc, time::Duration};

use kubernetes::{AddressPolicy, KubernetesClient, Timeouts};
use monitor::{
    check::{CheckPorts, Checker, Settings},
    cluster::ClusterRow,
    contract,
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, MemoryVault, NoEks, NoMetrics},
    ports::{Clock, Clusters, Credentials, Expected, Registry as _, Stored, Vault as _},
};
use secrecy::ExposeSecret as _;
use testkit::SimulatedCluster;

/// What a checker needs, with these clusters registered.
pub(crate) async fn ports(
    registered: impl IntoIterator<Item = (String, Credentials)>,
    clusters: Arc<dyn Clusters>,
    clock: Arc<dyn Clock>,
) -> CheckPorts {
    let (registry, vault) = (Arc::new(MemoryRegistry::default()), MemoryVault::default());
    for (id, credentials) in registered {
        let row = ClusterRow { name: id.clone(), ..contract::cluster(&id, "n") };
        assert_eq!(registry.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
        vault.put(&id, &credentials.into()).await.unwrap();
    }
    CheckPorts {
        deployments: Arc::new(MemoryDeployments::new(clock.clone())),
        registry: registry.clone(),
        environments: registry,
        vault: Arc::new(vault),
        eks: Arc::new(NoEks),
        clusters,
        events: Arc::new(MemoryEvents::default()),
        metrics: Arc::new(NoMetrics),
        clock,
    }
}

/// A checker that asks simulated clusters over TLS, as the function's process does.
pub(crate) async fn checker(
    registered: impl IntoIterator<Item = (String, Credentials)>,
    clock: Arc<dyn Clock>,
) -> Checker {
    let client = KubernetesClient::new(AddressPolicy::parse("127.0.0.1/32").unwrap()).unwrap();
    Checker::new(ports(registered, Arc::new(client), clock).await, Settings::default())
}

/// The same, with so much time for a check as for each question in it: for tests
/// that must not depend on how quick the machine is.
pub(crate) async fn patient_checker(
    registered: impl IntoIterator<Item = (String, Credentials)>,
    clock: Arc<dyn Clock>,
    patience: Duration,
) -> Checker {
    let timeouts = Timeouts { connect: patience, request: patience };
    let policy = AddressPolicy::parse("127.0.0.1/32").unwrap();
    let client = KubernetesClient::with_timeouts(policy, timeouts).unwrap();
    let settings = Settings { budget: patience, ..Settings::default() };
    Checker::new(ports(registered, Arc::new(client), clock).await, settings)
}

/// What a registration of a simulated cluster holds.
pub(crate) fn credentials(cluster: &SimulatedCluster) -> Credentials {
    Credentials {
        api_url: cluster.api_url(),
        token: cluster.token().expose_secret().into(),
        ca_cert: Some(cluster.ca_pem().to_owned()),
        tls_server_name: None,
        personal: None,
    }
}
