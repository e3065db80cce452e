//! The routes.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, Path, State},
    http::{StatusCode, header, request::Parts},
    response::IntoResponse,
    routing::{MethodRouter, get, post},
};
use monitor::{
    answer::Answer,
    check::Settings,
    deploy::Deployer,
    environments::EnvironmentDesk,
    ports::{self, Executions},
    register::{Registered, Registrar},
    request::{Refusal, is_label, parse_environment, parse_start},
};
use serde::de::DeserializeOwned;

use crate::{
    body::{Body, MAX_BODY_BYTES},
    problem::{Kind, Problem},
    query::{ClusterQuery, EnvironmentQuery, HistoryQuery, NoQuery, ProbeQuery},
    view::{Cluster, Clusters, Deployments, Environment, Environments},
};

/// The API's document: `infra/openapi.yaml`, made JSON by the build script.
pub(crate) const DOCUMENT: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));

/// What the routes lead to.
#[derive(Clone)]
pub struct Api {
    /// Clusters.
    pub registrar: Registrar,
    /// The environments of apps.
    pub environments: EnvironmentDesk,
    /// Deployments.
    pub deployer: Deployer,
}

impl Api {
    /// All of it on the stores that clusters are registered in.
    #[must_use]
    pub fn new(
        registrar: Registrar,
        deployments: Arc<dyn ports::Deployments>,
        executions: Arc<dyn Executions>,
        settings: Settings,
    ) -> Self {
        let Registrar { registry, environments, clock, .. } = registrar.clone();
        Self {
            registrar,
            environments: EnvironmentDesk {
                registry: registry.clone(),
                environments: environments.clone(),
                clock: clock.clone(),
            },
            deployer: Deployer { registry, environments, deployments, executions, clock, settings },
        }
    }
}

/// The registration API. Whoever serves it says who may call it.
pub fn router(api: Arc<Api>) -> Router {
    let routes =
        table().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    routes
        .fallback(async || Problem::new(Kind::NoSuchRoute, "GET /openapi.json tells which routes there are"))
        .method_not_allowed_fallback(async || {
            Problem::new(Kind::MethodNotAllowed, "the header Allow says which methods there are")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api)
}

/// Every route. A test holds it against the API's document.
pub(crate) fn table() -> [(&'static str, MethodRouter<Arc<Api>>); 8] {
    [
        ("/clusters", get(list_clusters).post(register)),
        ("/clusters/{id}", get(show_cluster).put(change).delete(remove_cluster)),
        ("/clusters/{id}/probe", post(probe)),
        ("/apps/{app}/environments", get(list_environments)),
        (
            "/apps/{app}/environments/{environment}",
            get(show_environment).put(put_environment).delete(remove_environment),
        ),
        ("/deployments", get(history).post(start)),
        ("/deployments/{id}", get(show_deployment)),
        ("/openapi.json", get(document)),
    ]
}

async fn list_clusters(
    State(api): State<Arc<Api>>,
    ClusterQuery { limit, after }: ClusterQuery,
) -> Result<Json<Clusters>, Problem> {
    Ok(Json(api.registrar.list(limit, after.as_deref()).await?.into()))
}

async fn register(
    State(api): State<Arc<Api>>,
    ProbeQuery(probing): ProbeQuery,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let (new, refusals) = body.new_cluster()?;
    if !refusals.is_empty() {
        return Err(Problem::invalid(with(refusals, api.registrar.review(new))));
    }
    let Registered { row, warnings } = api.registrar.register(new, probing).await?;
    let location = format!("/clusters/{}", row.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Cluster::with(row, warnings))))
}

async fn show_cluster(
    State(api): State<Arc<Api>>,
    Named(id): Named<String>,
    _: NoQuery,
) -> Result<Json<Cluster>, Problem> {
    Ok(Json(Cluster::shown(api.registrar.get(&id).await?)))
}

async fn change(
    State(api): State<Arc<Api>>,
    Named(id): Named<String>,
    ProbeQuery(probing): ProbeQuery,
    body: Body,
) -> Result<Json<Cluster>, Problem> {
    let (change, refusals) = body.change()?;
    if !refusals.is_empty() {
        return Err(Problem::invalid(with(refusals, api.registrar.review_change(change))));
    }
    let Registered { row, warnings } = api.registrar.change(&id, change, probing).await?;
    Ok(Json(Cluster::with(row, warnings)))
}

async fn remove_cluster(
    State(api): State<Arc<Api>>,
    Named(id): Named<String>,
    _: NoQuery,
) -> Result<StatusCode, Problem> {
    api.registrar.remove(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn probe(
    State(api): State<Arc<Api>>,
    Named(id): Named<String>,
    _: NoQuery,
) -> Result<Json<Cluster>, Problem> {
    let Registered { row, warnings } = api.registrar.probe(&id).await?;
    Ok(Json(Cluster::with(row, warnings)))
}

async fn list_environments(
    State(api): State<Arc<Api>>,
    Named(app): Named<String>,
    EnvironmentQuery { limit, after }: EnvironmentQuery,
) -> Result<Json<Environments>, Problem> {
    if !is_label(&app) {
        let detail = "the app in the path is not 1-63 of a-z 0-9 -, so it has no environments";
        return Err(Problem::new(Kind::UnknownEnvironment, detail));
    }
    Ok(Json(api.environments.list(&app, limit, after.as_deref()).await?.into()))
}

async fn show_environment(
    State(api): State<Arc<Api>>,
    Named((app, environment)): Named<(String, String)>,
    _: NoQuery,
) -> Result<Json<Environment>, Problem> {
    Ok(Json(api.environments.get(&app, &environment).await?.into()))
}

async fn put_environment(
    State(api): State<Arc<Api>>,
    Named((app, environment)): Named<(String, String)>,
    _: NoQuery,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let (body, refusals) = body.value();
    let spec = match parse_environment(&body) {
        Ok(spec) if refusals.is_empty() => spec,
        read => return Err(Problem::invalid(with(refusals, read.err().unwrap_or_default()))),
    };
    let (environment, new) = api.environments.put(&app, &environment, spec).await?;
    let location = format!("/apps/{}/environments/{}", environment.app, environment.environment);
    let environment = Json(Environment::from(environment));
    Ok(if new {
        (StatusCode::CREATED, [(header::LOCATION, location)], environment).into_response()
    } else {
        environment.into_response()
    })
}

async fn remove_environment(
    State(api): State<Arc<Api>>,
    Named((app, environment)): Named<(String, String)>,
    _: NoQuery,
) -> Result<StatusCode, Problem> {
    api.environments.remove(&app, &environment).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn start(State(api): State<Arc<Api>>, _: NoQuery, body: Body) -> Result<impl IntoResponse, Problem> {
    let (body, refusals) = body.value();
    if !refusals.is_empty() {
        // Any id will do: nothing is started.
        let read = parse_start(&body, "none", api.deployer.clock.now());
        return Err(Problem::invalid(with(refusals, read.err().unwrap_or_default())));
    }
    let answer = api.deployer.start(&body).await?;
    let location = format!("/deployments/{}", answer.deployment_id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(answer)))
}

async fn show_deployment(
    State(api): State<Arc<Api>>,
    Named(id): Named<String>,
    _: NoQuery,
) -> Result<Json<Answer>, Problem> {
    Ok(Json(api.deployer.get(&id).await?))
}

async fn history(State(api): State<Arc<Api>>, query: HistoryQuery) -> Result<Json<Deployments>, Problem> {
    let HistoryQuery { app, environment, limit, after } = query;
    let after = after.as_ref().map(|(started_at, id)| (*started_at, id.as_str()));
    Ok(Json(api.deployer.history(&app, &environment, limit, after).await?.into()))
}

async fn document(_: NoQuery) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

/// What is wrong with the body's form, and with what it says: of a field whose form
/// is wrong, not that it is missing, too; nor that nothing came where something did.
fn with(mut form: Vec<Refusal>, content: Vec<Refusal>) -> Vec<Refusal> {
    let told: Vec<String> = form.iter().map(|refusal| refusal.pointer.clone()).collect();
    let is_told = |pointer: &str| {
        told.iter().any(|told| {
            pointer.strip_prefix(told).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    form.extend(
        content.into_iter().filter(|it| told.is_empty() || !it.pointer.is_empty() && !is_told(&it.pointer)),
    );
    form
}

/// The names in the path, not yet known to be any. What is not even text once it is
/// decoded is the empty name, which nothing has.
struct Named<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Default + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self(Path::from_request_parts(parts, state).await.map(|Path(names)| names).unwrap_or_default()))
    }
}
