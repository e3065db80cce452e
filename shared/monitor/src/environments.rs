//! Registering the environments of apps.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    environment::{Environment, EnvironmentPage},
    ports::{Clock, Environments, Registry, StoreError, Stored},
    request::{EnvironmentSpec, Refusal, is_label, sentence},
    resolve::{Unresolved, clusters},
};

/// How often a write begins again because a cluster was removed in between; what it
/// finds then is a refusal.
const ROUNDS: usize = 2;

/// The use cases of environments.
#[derive(Clone)]
pub struct EnvironmentDesk {
    /// The clusters.
    pub registry: Arc<dyn Registry>,
    /// The environments.
    pub environments: Arc<dyn Environments>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Why an environment was not registered, shown or removed.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// Fields were refused.
    #[error("{}", sentence(.0))]
    Invalid(Vec<Refusal>),
    /// The app has no such environment.
    #[error("the app has no environment of this name")]
    Unknown,
    /// A cluster of it is being changed or removed right now.
    #[error("a cluster that it names is being changed right now; try again in a minute")]
    Busy,
    /// A service did not answer. The same request again is safe.
    #[error("a service behind the registry did not answer; send the same request again")]
    Unavailable(#[source] StoreError),
    /// A service refused us, or holds what we can't read.
    #[error("the registry does not work; its operator finds the cause in the log")]
    Broken(#[source] StoreError),
}

impl From<StoreError> for EnvironmentError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Transient(..) => Self::Unavailable(error),
            StoreError::Broken { .. } | StoreError::Told(_) => Self::Broken(error),
        }
    }
}

impl EnvironmentDesk {
    /// Registers an environment, or replaces it whole. Whether it is new.
    ///
    /// # Errors
    /// [`EnvironmentError::Invalid`] with every cluster that is not registered and
    /// every namespace that is not open.
    pub async fn put(
        &self,
        app: &str,
        environment: &str,
        spec: EnvironmentSpec,
    ) -> Result<(Environment, bool), EnvironmentError> {
        let mut refusals = Vec::new();
        for (field, text) in [("app", app), ("environment", environment)] {
            if !is_label(text) {
                let detail = format!("the {field} in the path is not 1-63 of a-z 0-9 -");
                refusals.push(Refusal { pointer: String::new(), detail });
            }
        }
        if !refusals.is_empty() {
            return Err(EnvironmentError::Invalid(refusals));
        }
        for _ in 0..ROUNDS {
            let mut ids =
                clusters(&*self.registry, &spec.targets).await.map_err(|unresolved| match unresolved {
                    Unresolved::Refused(refusals) => EnvironmentError::Invalid(refusals),
                    Unresolved::Store(error) => error.into(),
                })?;
            ids.sort_unstable();
            ids.dedup();
            let there = self.environments.environment(app, environment).await?;
            let now = self.now();
            let written = Environment {
                app: app.to_owned(),
                environment: environment.to_owned(),
                helm_type: spec.helm_type,
                targets: spec.targets.clone(),
                timeout_secs: spec.timeout_secs,
                created_at: there.as_ref().map_or(now, |it| it.created_at),
                updated_at: now,
            };
            if self.environments.put_environment(&written, &ids).await? == Stored::Yes {
                tracing::info!(app, environment, "environment registered");
                return Ok((written, there.is_none()));
            }
        }
        Err(EnvironmentError::Busy)
    }

    /// One environment.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`], or what became of the store.
    pub async fn get(&self, app: &str, environment: &str) -> Result<Environment, EnvironmentError> {
        if !is_label(app) || !is_label(environment) {
            return Err(EnvironmentError::Unknown);
        }
        self.environments.environment(app, environment).await?.ok_or(EnvironmentError::Unknown)
    }

    /// An app's environments in the order of their names: at most `limit` (1-100),
    /// after the one named `after`. An app that nobody has registered has none.
    ///
    /// # Errors
    /// What became of the store.
    pub async fn list(
        &self,
        app: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<EnvironmentPage, EnvironmentError> {
        if !is_label(app) {
            return Ok(EnvironmentPage { environments: Vec::new(), more: false });
        }
        Ok(self.environments.environments(app, limit, after).await?)
    }

    /// Removes an environment. Deployments that run go on: what they watch was
    /// resolved at their first check.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`], or what became of the store.
    pub async fn remove(&self, app: &str, environment: &str) -> Result<(), EnvironmentError> {
        if !is_label(app) || !is_label(environment) {
            return Err(EnvironmentError::Unknown);
        }
        if self.environments.remove_environment(app, environment).await? {
            tracing::info!(app, environment, "environment removed");
            return Ok(());
        }
        Err(EnvironmentError::Unknown)
    }

    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        cluster::{ClusterRow, RowState},
        contract,
        memory::MemoryRegistry,
        namespaces::Namespaces,
        ports::{Expected, SystemClock},
        request::parse_environment,
    };

    async fn desk() -> (EnvironmentDesk, Arc<MemoryRegistry>) {
        let registry = Arc::new(MemoryRegistry::default());
        let open = ClusterRow { name: "Prod EU".to_owned(), ..contract::cluster("prod-eu", "n") };
        let narrow = ClusterRow {
            namespaces: Namespaces::parse(vec!["team-*".to_owned()]).unwrap(),
            ..contract::cluster("narrow", "n")
        };
        let leaving = ClusterRow { state: RowState::Deleting, ..contract::cluster("leaving", "n") };
        for row in [open, narrow, leaving] {
            assert_eq!(Registry::put(&*registry, &row, Expected::Absent).await.unwrap(), Stored::Yes);
        }
        let desk = EnvironmentDesk {
            registry: registry.clone(),
            environments: registry.clone(),
            clock: Arc::new(SystemClock),
        };
        (desk, registry)
    }

    fn spec(cluster: &str, namespace: &str) -> EnvironmentSpec {
        let target = json!({"cluster": cluster, "namespace": namespace, "release": "checkout"});
        parse_environment(&json!({"helmType": "flux", "targets": [target], "timeoutSecs": 60})).unwrap()
    }

    #[tokio::test]
    async fn an_environment_is_registered_replaced_shown_and_removed() {
        let (desk, registry) = desk().await;
        let (first, new) = desk.put("checkout", "production", spec("Prod EU", "shop")).await.unwrap();
        assert!(new);
        let (second, new) = desk.put("checkout", "production", spec("narrow", "team-a")).await.unwrap();
        assert!(!new);
        assert_eq!(second.created_at, first.created_at);
        assert_eq!(desk.get("checkout", "production").await.unwrap(), second);
        assert_eq!(desk.list("checkout", 50, None).await.unwrap().environments, [second]);
        assert!(desk.list("check", 50, None).await.unwrap().environments.is_empty());
        assert_eq!(registry.naming_cluster("narrow").await.unwrap().len(), 1);
        assert!(registry.naming_cluster("prod-eu").await.unwrap().is_empty());
        desk.remove("checkout", "production").await.unwrap();
        assert!(matches!(desk.remove("checkout", "production").await, Err(EnvironmentError::Unknown)));
        assert!(matches!(desk.get("checkout", "production").await, Err(EnvironmentError::Unknown)));
    }

    #[tokio::test]
    async fn what_is_not_registered_or_not_open_is_refused_by_its_pointer() {
        let (desk, _) = desk().await;
        for (cluster, namespace, pointer) in [
            ("nowhere", "shop", "/targets/0/cluster"),
            ("leaving", "shop", "/targets/0/cluster"),
            ("prod eu", "shop", "/targets/0/cluster"),
            ("narrow", "shop", "/targets/0/namespace"),
        ] {
            match desk.put("checkout", "production", spec(cluster, namespace)).await {
                Err(EnvironmentError::Invalid(refusals)) => assert_eq!(refusals[0].pointer, pointer),
                other => panic!("{cluster}: {other:?}"),
            }
        }
        for (app, environment) in [("Check Out", "production"), ("checkout", ""), ("a#b", "c"), ("a", "b/c")]
        {
            let refused = desk.put(app, environment, spec("prod-eu", "shop")).await;
            assert!(matches!(refused, Err(EnvironmentError::Invalid(_))), "{app} {environment}");
            assert!(matches!(desk.get(app, environment).await, Err(EnvironmentError::Unknown)));
        }
    }
}
