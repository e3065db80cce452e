//! The whole in one process: the API, the page and the checks, before stores in memory
//! or on disk.

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state};
use kubernetes::{AddressPolicy, KubernetesClient, Rules, SetupError};
use monitor::{
    check::{CheckPorts, Checker, Settings},
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, MemoryVault, NoEks, NoMetrics},
    ports::{Deployments, Environments, Registry, StoreError, SystemClock, Vault},
    register::Registrar,
};
use register::Api;

use crate::{
    executions::{Ledger, Listener, LocalExecutions, MemoryLedger},
    key::{Digest, authorize},
    page,
    store::{Store, StoredDeployments},
};

/// Where everything is kept.
pub(crate) struct Stores {
    deployments: Arc<dyn Deployments>,
    registry: Arc<dyn Registry>,
    environments: Arc<dyn Environments>,
    vault: Arc<dyn Vault>,
    ledger: Arc<dyn Ledger>,
}

impl Stores {
    /// Empty, and forgotten with the process.
    pub(crate) fn in_memory() -> Self {
        let registry = Arc::new(MemoryRegistry::default());
        Self {
            deployments: Arc::new(MemoryDeployments::default()),
            registry: registry.clone(),
            environments: registry,
            vault: Arc::new(MemoryVault::default()),
            ledger: Arc::new(MemoryLedger::default()),
        }
    }

    pub(crate) fn on_disk(store: &Store) -> Self {
        let all = Arc::new(store.clone());
        let deployments = StoredDeployments { store: store.clone(), clock: Arc::new(SystemClock) };
        Self {
            deployments: Arc::new(deployments),
            registry: all.clone(),
            environments: all.clone(),
            vault: all.clone(),
            ledger: all,
        }
    }
}

/// The API before these stores, and the page, for whoever shows the key. Clusters are
/// real: they are asked where the policy allows their addresses. Dropped, all
/// deployments that it started stop.
pub(crate) fn router(
    policy: AddressPolicy,
    stores: Stores,
    key: Digest,
    listener: Option<Listener>,
) -> Result<Served, SetupError> {
    let ledger = stores.ledger.clone();
    let (api, executions) = api(policy, stores, listener)?;
    let page = page::routes(api.deployer.clone(), ledger);
    let router = register::router(Arc::new(api)).merge(page).layer(from_fn_with_state(key, authorize));
    Ok(Served { router, executions })
}

/// What is to be served, and what may be gone on with.
pub(crate) struct Served {
    pub(crate) router: Router,
    executions: Arc<LocalExecutions<Checker>>,
}

impl Served {
    /// Goes on with the deployments that ran when the stores were last used. How many.
    ///
    /// # Errors
    /// Where they can't be read.
    pub(crate) async fn resume(&self) -> Result<usize, StoreError> {
        self.executions.resume().await
    }
}

fn api(
    policy: AddressPolicy,
    stores: Stores,
    listener: Option<Listener>,
) -> Result<(Api, Arc<LocalExecutions<Checker>>), SetupError> {
    let Stores { deployments, registry, environments, vault, ledger } = stores;
    let clock = Arc::new(SystemClock);
    let client = Arc::new(KubernetesClient::new(policy.clone())?);
    let events = Arc::new(MemoryEvents::default());
    let eks = Arc::new(NoEks);
    let settings = Settings::default();
    let ports = CheckPorts {
        deployments: deployments.clone(),
        registry: registry.clone(),
        environments: environments.clone(),
        vault: vault.clone(),
        eks: eks.clone(),
        clusters: client.clone(),
        events: events.clone(),
        metrics: Arc::new(NoMetrics),
        clock: clock.clone(),
    };
    let checker = Arc::new(Checker::new(ports, settings));
    let registrar = Registrar {
        registry,
        environments,
        vault,
        eks,
        prober: client,
        events: events.clone(),
        metrics: Arc::new(NoMetrics),
        rules: Arc::new(Rules::new(policy)),
        clock,
    };
    let executions = Arc::new(LocalExecutions::new(checker, events, ledger, listener));
    Ok((Api::new(registrar, deployments, executions.clone(), settings), executions))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use monitor::{
        answer::Answer,
        contract,
        deployment::Deployment,
        ports::{Found, Starting, Stored},
        request::Execution,
    };
    use serde_json::json;
    use verdict::{Reason, Status};

    use super::*;
    use crate::{driver::Progress, store::tests::Folder};

    /// As a kill leaves it between the last check and the marking of its end.
    #[tokio::test]
    async fn a_verdict_that_stands_is_not_reached_a_second_time() {
        let folder = Folder::new();
        let stores = || Stores::on_disk(&folder.store());
        let now = Timestamp::now();
        let kept = stores();
        let first = contract::deployment("ended", now);
        let execution = Execution { arn: first.execution_arn.clone().unwrap(), started_at: now };
        let input = serde_json::to_value(&first.request).unwrap();
        let begun = Found { execution, input: Some(input), running: true };
        assert_eq!(kept.ledger.enter(&begun).await.unwrap(), None);
        let digest = first.request.as_ref().unwrap().digest();
        let first = Deployment { digest, ..first };
        let ended = Deployment {
            status: Status::Succeeded,
            reason: Reason::Deployed,
            finished_at: Some(now),
            ..contract::next(&first, "deployed")
        };
        assert_eq!(kept.deployments.create(&first, now).await.unwrap(), Stored::Yes);
        assert_eq!(kept.deployments.update(&ended).await.unwrap(), Stored::Yes);
        drop(kept);

        let kept = stores();
        let (deployments, ledger) = (kept.deployments.clone(), kept.ledger.clone());
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let listener: Listener = Box::new(move |_, progress| drop(told.send(progress)));
        let (_api, executions) = api(AddressPolicy::default(), kept, Some(listener)).unwrap();
        assert_eq!(executions.resume().await.unwrap(), 1);
        let first = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.unwrap();
        let answer = Answer::from(&ended);
        assert_eq!(first, Some(Progress::Answered(Box::new(answer))));
        let marking = async {
            while !ledger.running().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), marking).await.unwrap();
        assert_eq!(deployments.get("ended").await.unwrap(), Some(ended));
        assert_eq!(executions.resume().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_can_not_be_checked_is_shown_as_failed_and_why() {
        let (Api { deployer, .. }, _) = api(AddressPolicy::default(), Stores::in_memory(), None).unwrap();
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
