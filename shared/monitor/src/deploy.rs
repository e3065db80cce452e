//! Starting deployments through the API, and showing them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;
use verdict::{Reason, Status};

use crate::{
    answer::Answer,
    check::{Settings, later},
    deployment::Deployment,
    ports::{Clock, Deployments, Environments, Executions, Found, History, Registry, Starting, StoreError},
    request::{self, Execution, Refusal, Request, is_deployment_id, sentence},
    resolve::{Unresolved, resolve},
};

/// How long after its deadline a deployment that still looks pending is shown as
/// failed: an execution outlasts its deadline by ten minutes at most, and closing
/// what it left takes some more.
const ABANDONED: SignedDuration = SignedDuration::from_mins(15);

/// The use cases of deployments beside checking them.
#[derive(Clone)]
pub struct Deployer {
    /// The clusters.
    pub registry: Arc<dyn Registry>,
    /// The environments.
    pub environments: Arc<dyn Environments>,
    /// The deployments.
    pub deployments: Arc<dyn Deployments>,
    /// The state machine's executions.
    pub executions: Arc<dyn Executions>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long to wait where nobody says.
    pub settings: Settings,
}

/// Why a deployment was not started or shown. `Display` is for the caller, the
/// sources are for the log.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// Fields were refused.
    #[error("{}", sentence(.0))]
    Invalid(Vec<Refusal>),
    /// There is no such deployment (any more).
    #[error("there is no deployment with this id")]
    Unknown,
    /// The id was used for another request.
    #[error(
        "the id {0:?} was used for another request; take another one, so that an old verdict is not taken for a new push's"
    )]
    Conflict(String),
    /// A service did not answer. The same request again is safe.
    #[error("a service behind the deployments did not answer; send the same request again")]
    Unavailable(#[source] StoreError),
    /// A service refused us, or holds what we can't read.
    #[error("deployments can't be served; their operator finds the cause in the log")]
    Broken(#[source] StoreError),
}

impl From<StoreError> for DeployError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Transient(..) => Self::Unavailable(error),
            StoreError::Broken { .. } | StoreError::Told(_) => Self::Broken(error),
        }
    }
}

impl Deployer {
    /// Starts a deployment. The same request with the same id again is answered as the
    /// first was, whether it still runs or has ended.
    ///
    /// # Errors
    /// [`DeployError::Invalid`] with every field that is wrong, and every cluster and
    /// environment that is not registered; `Conflict` where the id was used for another request.
    pub async fn start(&self, body: &Value) -> Result<Answer, DeployError> {
        let now = self.clock.now();
        let id = Uuid::new_v4().to_string();
        let request = request::parse_start(body, &id, now).map_err(DeployError::Invalid)?;
        let id = request.deployment_id.clone();
        // What was started once is answered before anything is looked up: an
        // environment may have been removed since.
        if let Some(item) = self.deployments.get(&id).await? {
            return self.repeated(&request, item).await;
        }
        let resolved = resolve(&*self.registry, &*self.environments, &request).await;
        let resolved = resolved.map_err(|unresolved| match unresolved {
            Unresolved::Refused(refusals) => DeployError::Invalid(refusals),
            Unresolved::Store(error) => error.into(),
        })?;
        let mut input = body.clone();
        if let Some(object) = input.as_object_mut() {
            object.insert("deploymentId".to_owned(), Value::from(id.as_str()));
        }
        match self.executions.start(&id, &input).await? {
            Starting::Begun(execution) => {
                tracing::info!(deployment_id = id, execution = execution.arn, "started");
                Ok(self.starting(&request, &execution, resolved.timeout_secs))
            }
            Starting::NameTaken => {
                let found = self.executions.find(&id).await?;
                match found.filter(|found| is_same(found, &request)) {
                    Some(found) => self.shown(&id, &found, &request).await,
                    None => Err(DeployError::Conflict(id)),
                }
            }
        }
    }

    /// An item is there already: it is this request's, or the id is taken.
    async fn repeated(&self, request: &Request, item: Deployment) -> Result<Answer, DeployError> {
        let same = if item.digest.is_empty() {
            // Marked by the state machine before any check: only the execution knows.
            let name = item.execution_arn.as_deref().and_then(|arn| arn.rsplit(':').next());
            let found = self.executions.find(name.unwrap_or(&request.deployment_id)).await?;
            found.is_some_and(|found| is_same(&found, request))
        } else {
            item.digest == request.digest()
        };
        if same { Ok(self.as_shown(item)) } else { Err(DeployError::Conflict(item.deployment_id)) }
    }

    /// One deployment.
    ///
    /// # Errors
    /// [`DeployError::Unknown`], or what became of a service.
    pub async fn get(&self, id: &str) -> Result<Answer, DeployError> {
        // What can't be an id isn't looked up: it might not even be allowed as a key.
        if !is_deployment_id(id) {
            return Err(DeployError::Unknown);
        }
        if let Some(item) = self.deployments.get(id).await? {
            return Ok(self.as_shown(item));
        }
        let found = self.executions.find(id).await?.ok_or(DeployError::Unknown)?;
        let request = read(&found).ok_or(DeployError::Unknown)?;
        self.shown(id, &found, &request).await
    }

    /// The deployments of an environment, newest first: at most `limit` (1-100), after
    /// the one that began at `after.0` and has the id `after.1`.
    ///
    /// # Errors
    /// What became of a store.
    pub async fn history(
        &self,
        app: &str,
        environment: &str,
        limit: usize,
        after: Option<(Timestamp, &str)>,
    ) -> Result<History, DeployError> {
        Ok(self.deployments.history(app, environment, limit, after).await?)
    }

    /// A deployment of which the execution is known: its item, else what the execution tells.
    async fn shown(&self, id: &str, found: &Found, request: &Request) -> Result<Answer, DeployError> {
        match self.deployments.get(id).await? {
            Some(item) => Ok(self.as_shown(item)),
            None if found.running => {
                let lent = match (request.helm_type, &request.app, &request.environment) {
                    (None, Some(app), Some(name)) => self.environments.environment(app, name).await?,
                    _ => None,
                };
                Ok(self.starting(request, &found.execution, lent.and_then(|it| it.timeout_secs)))
            }
            // Ended without an item: it has expired, or is about to be written.
            None => Err(DeployError::Unknown),
        }
    }

    fn as_shown(&self, mut item: Deployment) -> Answer {
        let now = self.clock.now();
        if item.status == Status::Pending && now.duration_since(item.deadline) > ABANDONED {
            item.message = verdict::clean(&format!(
                "nobody judged it by its deadline, {}, nor since; last seen: {}",
                item.deadline, item.message
            ));
            item.status = Status::Failed;
            item.last_reason = Some(item.reason);
            item.reason = Reason::MonitorError;
            item.finished_at = Some(item.deadline);
            verdict::stop_waiting(item.targets.iter_mut().map(|target| &mut target.state));
        }
        Answer::from(&item)
    }

    /// A deployment whose first check has not come yet; `lent` is its environment's timeout.
    fn starting(&self, request: &Request, execution: &Execution, lent: Option<u32>) -> Answer {
        let timeout_secs = request.timeout_secs.or(lent).unwrap_or(self.settings.default_timeout_secs);
        let started_at = execution.started_at;
        Answer {
            deployment_id: request.deployment_id.clone(),
            app: request.app.clone(),
            environment: request.environment.clone(),
            status: Status::Pending,
            reason: Reason::Starting,
            last_reason: None,
            evidence: None,
            message: "the execution has begun; its first check follows at once".to_owned(),
            started_at,
            deadline: later(started_at, SignedDuration::from_secs(timeout_secs.into())),
            checked_at: started_at,
            finished_at: None,
            polls: 0,
            targets: Vec::new(),
        }
    }
}

/// The request that an execution was started with.
fn read(found: &Found) -> Option<Request> {
    let mut input = found.input.clone()?;
    let object = input.as_object_mut()?;
    // Its own name, where the input has no id.
    if object.get("deploymentId").is_none_or(Value::is_null) {
        object.insert("deploymentId".to_owned(), Value::from(found.execution.name()));
    }
    request::parse(&input).ok().map(|(request, _)| request)
}

fn is_same(found: &Found, request: &Request) -> bool {
    read(found).is_some_and(|there| there.digest() == request.digest())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        contract,
        environment::Environment,
        memory::{MemoryDeployments, MemoryExecutions, MemoryRegistry},
        ports::{Expected, Stored, SystemClock},
    };

    struct World {
        deployer: Deployer,
        registry: Arc<MemoryRegistry>,
        deployments: Arc<MemoryDeployments>,
        executions: Arc<MemoryExecutions>,
    }

    async fn world() -> World {
        let registry = Arc::new(MemoryRegistry::default());
        let row =
            crate::cluster::ClusterRow { name: "Prod EU".to_owned(), ..contract::cluster("prod-eu", "n") };
        assert_eq!(Registry::put(&*registry, &row, Expected::Absent).await.unwrap(), Stored::Yes);
        let deployments = Arc::new(MemoryDeployments::default());
        let executions = Arc::new(MemoryExecutions::default());
        let deployer = Deployer {
            registry: registry.clone(),
            environments: registry.clone(),
            deployments: deployments.clone(),
            executions: executions.clone(),
            clock: Arc::new(SystemClock),
            settings: Settings::default(),
        };
        World { deployer, registry, deployments, executions }
    }

    fn body() -> Value {
        json!({
            "deploymentId": "checkout-1", "helmType": "flux",
            "targets": [{"cluster": "Prod EU", "namespace": "shop", "release": "checkout"}],
        })
    }

    async fn register(world: &World, timeout_secs: Option<u32>) {
        let spec = request::parse_environment(&json!({
            "helmType": "plain", "targets": [{"cluster": "prod-eu", "namespace": "shop", "release": "checkout"}],
        }))
        .unwrap();
        let now = Timestamp::now();
        let environment = Environment {
            app: "checkout".to_owned(),
            environment: "production".to_owned(),
            helm_type: spec.helm_type,
            targets: spec.targets,
            timeout_secs,
            created_at: now,
            updated_at: now,
        };
        let stored = world.registry.put_environment(&environment, &["prod-eu".to_owned()]).await.unwrap();
        assert_eq!(stored, Stored::Yes);
    }

    #[tokio::test]
    async fn the_same_request_again_is_answered_as_the_first_running_or_ended() {
        let world = world().await;
        let first = world.deployer.start(&body()).await.unwrap();
        assert_eq!((first.status, first.reason), (Status::Pending, Reason::Starting));
        assert_eq!(world.deployer.get("checkout-1").await.unwrap(), first);
        assert_eq!(world.deployer.start(&body()).await.unwrap(), first);

        let now = Timestamp::now();
        let (request, _) = request::parse(&body()).unwrap();
        let item = Deployment {
            digest: request.digest(),
            request: Some(request),
            ..contract::deployment("checkout-1", now)
        };
        assert_eq!(world.deployments.create(&item, now).await.unwrap(), Stored::Yes);
        world.executions.end("checkout-1");
        let again = world.deployer.start(&body()).await.unwrap();
        assert_eq!(again, Answer::from(&item));
        assert_eq!(world.executions.started(), 1, "nothing was started twice");
    }

    #[tokio::test]
    async fn another_request_with_the_same_id_is_refused_before_and_after_the_first_check() {
        let world = world().await;
        world.deployer.start(&body()).await.unwrap();
        let mut other = body();
        other["timeoutSecs"] = json!(60);
        assert!(matches!(world.deployer.start(&other).await, Err(DeployError::Conflict(_))));
        let now = Timestamp::now();
        let item = contract::deployment("checkout-1", now);
        assert_eq!(world.deployments.create(&item, now).await.unwrap(), Stored::Yes);
        assert!(matches!(world.deployer.start(&other).await, Err(DeployError::Conflict(_))));
    }

    #[tokio::test]
    async fn an_item_that_no_check_has_seen_is_known_by_its_execution() {
        let world = world().await;
        world.deployer.start(&body()).await.unwrap();
        let now = Timestamp::now();
        let marked = Deployment {
            digest: String::new(),
            request: None,
            execution_arn: Some(format!("arn:aws:states:x:1:execution:m:{}", "checkout-1")),
            status: Status::Failed,
            reason: Reason::MonitorError,
            ..contract::deployment("checkout-1", now)
        };
        assert_eq!(world.deployments.create(&marked, now).await.unwrap(), Stored::Yes);
        assert_eq!(world.deployer.start(&body()).await.unwrap().reason, Reason::MonitorError);
        let mut other = body();
        other["failFast"] = json!(true);
        assert!(matches!(world.deployer.start(&other).await, Err(DeployError::Conflict(_))));
    }

    #[tokio::test]
    async fn what_is_not_registered_is_refused_and_nothing_starts() {
        let world = world().await;
        for (change, pointer) in [
            (
                json!({"helmType": "flux", "targets": [{"cluster": "nowhere", "release": "a"}]}),
                "/targets/0/cluster",
            ),
            (
                json!({"helmType": "flux", "targets": [{"cluster": "--", "release": "a"}]}),
                "/targets/0/cluster",
            ),
            (json!({"app": "checkout", "environment": "production"}), "/environment"),
            (json!({"app": "checkout"}), "/environment"),
            (
                json!({"execution": {}, "helmType": "flux", "targets": [{"cluster": "prod-eu", "release": "a"}]}),
                "/execution",
            ),
        ] {
            match world.deployer.start(&change).await {
                Err(DeployError::Invalid(refusals)) => assert_eq!(refusals[0].pointer, pointer),
                other => panic!("{change}: {other:?}"),
            }
        }
        assert_eq!(world.executions.started(), 0);
    }

    #[tokio::test]
    async fn an_environment_is_looked_up_and_lends_its_patience() {
        let world = world().await;
        register(&world, Some(60)).await;
        let body = json!({"app": "checkout", "environment": "production"});
        let answer = world.deployer.start(&body).await.unwrap();
        assert_eq!(answer.deadline.duration_since(answer.started_at).as_secs(), 60);
        assert_eq!(answer.app.as_deref(), Some("checkout"));
        // Without an id each start is another deployment.
        let other = world.deployer.start(&body).await.unwrap();
        assert_ne!(answer.deployment_id, other.deployment_id);
    }

    #[tokio::test]
    async fn what_nobody_judged_is_shown_as_failed_a_quarter_of_an_hour_after_its_deadline() {
        let world = world().await;
        let now = Timestamp::now();
        for (id, ago, status) in [("late", 16, Status::Failed), ("soon", 14, Status::Pending)] {
            let item = Deployment {
                deadline: now - SignedDuration::from_mins(ago),
                ..contract::deployment(id, now)
            };
            assert_eq!(world.deployments.create(&item, now).await.unwrap(), Stored::Yes);
            let shown = world.deployer.get(id).await.unwrap();
            assert_eq!(shown.status, status, "{id}");
            assert_eq!(shown.reason == Reason::MonitorError, status == Status::Failed);
            assert_eq!(world.deployments.get(id).await.unwrap(), Some(item), "shown, not written");
        }
    }

    #[tokio::test]
    async fn what_is_no_id_or_unknown_is_not_found() {
        let world = world().await;
        for id in ["", "a/b", "ä", "unknown", &"x".repeat(81)] {
            assert!(matches!(world.deployer.get(id).await, Err(DeployError::Unknown)), "{id}");
        }
        world.deployer.start(&body()).await.unwrap();
        world.executions.end("checkout-1");
        // Its record has expired: nothing is left to show.
        assert!(matches!(world.deployer.get("checkout-1").await, Err(DeployError::Unknown)));
    }
}
