//! The whole in one process: the API and the checks, before stores in memory.

use std::sync::Arc;

use axum::Router;
use kubernetes::{AddressPolicy, KubernetesClient, Rules, SetupError};
use monitor::{
    check::{CheckPorts, Checker, Settings},
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, MemoryVault, NoEks, NoMetrics},
    ports::SystemClock,
    register::Registrar,
};
use register::Api;

use crate::executions::{Listener, LocalExecutions};

/// The API before empty stores. Clusters are real: they are asked where the policy
/// allows their addresses. Dropped, all deployments that it started stop.
pub(crate) fn router(policy: AddressPolicy, listener: Option<Listener>) -> Result<Router, SetupError> {
    Ok(register::router(Arc::new(api(policy, listener)?)))
}

fn api(policy: AddressPolicy, listener: Option<Listener>) -> Result<Api, SetupError> {
    let clock = Arc::new(SystemClock);
    let client = Arc::new(KubernetesClient::new(policy.clone())?);
    let registry = Arc::new(MemoryRegistry::default());
    let vault = Arc::new(MemoryVault::default());
    let deployments = Arc::new(MemoryDeployments::default());
    let events = Arc::new(MemoryEvents::default());
    let eks = Arc::new(NoEks);
    let settings = Settings::default();
    let ports = CheckPorts {
        deployments: deployments.clone(),
        registry: registry.clone(),
        environments: registry.clone(),
        vault: vault.clone(),
        eks: eks.clone(),
        clusters: client.clone(),
        events: events.clone(),
        metrics: Arc::new(NoMetrics),
        clock: clock.clone(),
    };
    let checker = Arc::new(Checker::new(ports, settings));
    let registrar = Registrar {
        registry: registry.clone(),
        environments: registry,
        vault,
        eks,
        prober: client,
        events: events.clone(),
        metrics: Arc::new(NoMetrics),
        rules: Arc::new(Rules::new(policy)),
        clock,
    };
    let executions = Arc::new(LocalExecutions::new(checker, events, listener));
    Ok(Api::new(registrar, deployments, executions, settings))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use monitor::ports::Starting;
    use serde_json::json;
    use verdict::{Reason, Status};

    use super::*;

    #[tokio::test]
    async fn what_can_not_be_checked_is_shown_as_failed_and_why() {
        let Api { deployer, .. } = api(AddressPolicy::default(), None).unwrap();
        // As when the cluster is removed between the start and the first check.
        let target = json!({"cluster": "gone", "namespace": "shop", "release": "checkout"});
        let input = json!({"deploymentId": "checkout-1", "helmType": "flux", "targets": [target]});
        let begun = deployer.executions.start("checkout-1", &input).await.unwrap();
        assert!(matches!(begun, Starting::Begun(_)));
        let waiting = async {
            loop {
                let shown = deployer.get("checkout-1").await.unwrap();
                if shown.status != Status::Pending {
                    return shown;
                }
                tokio::task::yield_now().await;
            }
        };
        let shown = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
        assert_eq!((shown.status, shown.reason), (Status::Failed, Reason::InvalidRequest));
        let why = "InvalidRequest: /targets/0/cluster: no cluster \"gone\" is registered";
        assert!(shown.message.contains(why), "{}", shown.message);
        assert_eq!(deployer.get("checkout-1").await.unwrap(), shown);
    }
}
