//! The routes.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, Path, State},
    http::{StatusCode, header, request::Parts},
    response::IntoResponse,
    routing::get,
};
use monitor::{
    register::{Registered, Registrar},
    request::Refusal,
};

use crate::{
    body::{Body, MAX_BODY_BYTES},
    page::PageQuery,
    problem::{Kind, Problem},
    view::{Cluster, Clusters},
};

/// The registration API. Whoever serves it says who may call it.
pub fn router(registrar: Arc<Registrar>) -> Router {
    Router::new()
        .route("/clusters", get(list).post(register))
        .route("/clusters/{id}", get(show).put(change).delete(remove))
        .fallback(async || Problem::new(Kind::NoSuchRoute, "the routes are /clusters and /clusters/{id}"))
        .method_not_allowed_fallback(async || {
            Problem::new(Kind::MethodNotAllowed, "the header Allow says which methods there are")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(registrar)
}

async fn list(State(registrar): State<Arc<Registrar>>, query: PageQuery) -> Result<Json<Clusters>, Problem> {
    let page = registrar.list(query.limit, query.after.as_deref()).await?;
    Ok(Json(page.into()))
}

async fn register(State(registrar): State<Arc<Registrar>>, body: Body) -> Result<impl IntoResponse, Problem> {
    let (new, refusals) = body.new_cluster();
    if !refusals.is_empty() {
        return Err(Problem::invalid(with(refusals, registrar.review(new))));
    }
    let Registered { row, warnings } = registrar.register(new).await?;
    let location = format!("/clusters/{}", row.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Cluster::new(row, warnings))))
}

async fn show(State(registrar): State<Arc<Registrar>>, Id(id): Id) -> Result<Json<Cluster>, Problem> {
    Ok(Json(Cluster::new(registrar.get(&id).await?, Vec::new())))
}

async fn change(
    State(registrar): State<Arc<Registrar>>,
    Id(id): Id,
    body: Body,
) -> Result<Json<Cluster>, Problem> {
    let (change, refusals) = body.change();
    if !refusals.is_empty() {
        return Err(Problem::invalid(with(refusals, registrar.review_change(change))));
    }
    let Registered { row, warnings } = registrar.change(&id, change).await?;
    Ok(Json(Cluster::new(row, warnings)))
}

async fn remove(State(registrar): State<Arc<Registrar>>, Id(id): Id) -> Result<StatusCode, Problem> {
    registrar.remove(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is wrong with the body's form, and with what it says: of a field whose form
/// is wrong, not that it is missing, too; nor that nothing came where something did.
fn with(mut form: Vec<Refusal>, content: Vec<Refusal>) -> Vec<Refusal> {
    let told: Vec<String> = form.iter().map(|refusal| refusal.pointer.clone()).collect();
    form.extend(content.into_iter().filter(|it| !it.pointer.is_empty() && !told.contains(&it.pointer)));
    form
}

/// The id in the path, not yet known to be one.
struct Id(String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            // Not even text once decoded.
            Err(_) => Err(monitor::register::RegisterError::Unknown.into()),
        }
    }
}
