//! The page at `/`: clusters, deployments and their targets, live. One file, in which
//! everything stands that it needs; and the route that only it asks.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderName, HeaderValue, header},
    response::{Html, IntoResponse},
    routing::get,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use monitor::{
    answer::Answer,
    deploy::{DeployError, Deployer},
    ports::{Clock as _, SystemClock},
};
use register::{Kind, Problem};
use serde::Serialize;

use crate::executions::Ledger;

const PAGE: &str = include_str!("page.html");

/// How many deployments are told where nobody says, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

#[derive(Clone)]
struct Desk {
    deployer: Deployer,
    ledger: Arc<dyn Ledger>,
}

/// `GET /`, and `GET /local/deployments?limit=`.
pub(crate) fn routes(deployer: Deployer, ledger: Arc<dyn Ledger>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/local/deployments", get(newest))
        .with_state(Desk { deployer, ledger })
}

/// The deployments that began last, of all apps.
#[derive(Serialize)]
struct Newest {
    /// By this server's clock, from which times are counted: the browser's may differ.
    now: Timestamp,
    deployments: Vec<Answer>,
}

async fn newest(
    State(desk): State<Desk>,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Newest>, Problem> {
    let pairs = query.map(|Query(pairs)| pairs).unwrap_or_default();
    let limit = match pairs.as_slice() {
        [] => Some(DEFAULT_LIMIT),
        [(name, value)] if name == "limit" => value.parse().ok().filter(|it| (1..=MAX_LIMIT).contains(it)),
        _ => None,
    };
    let limit = limit.ok_or_else(|| {
        Problem::new(Kind::Malformed, format!("limit, from 1 to {MAX_LIMIT}, is all that may be asked for"))
    })?;
    let names = desk.ledger.newest(limit).await.map_err(DeployError::from)?;
    let mut deployments = Vec::with_capacity(names.len());
    for name in names {
        match desk.deployer.get(&name).await {
            Ok(answer) => deployments.push(answer),
            // Expired, or never read.
            Err(DeployError::Unknown) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(Newest { now: SystemClock.now(), deployments }))
}

/// What the page may do: run its own script, and ask this server. Nothing is loaded,
/// nothing else runs, and no other page may show it in a frame.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag| BASE64_STANDARD.encode(digest(&SHA256, inside(PAGE, tag).as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
});

/// What stands in the only element of this name.
fn inside<'a>(page: &'a str, tag: &str) -> &'a str {
    let rest = page.split_once(&format!("<{tag}>")).map_or("", |it| it.1);
    rest.split_once(&format!("</{tag}>")).map_or("", |it| it.0)
}

async fn page() -> impl IntoResponse {
    let policy = HeaderValue::from_str(&POLICY).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let fixed = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        fixed(header::REFERRER_POLICY, "no-referrer"),
        fixed(header::CACHE_CONTROL, "no-store"),
        fixed(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        fixed(HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    (headers, Html(PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_what_stands_in_the_page() {
        for tag in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "{tag}");
            assert!(inside(PAGE, tag).len() > 100, "{tag}");
        }
        assert_eq!(POLICY.matches("'sha256-").count(), 2);
        assert!(!POLICY.contains("unsafe"));
        assert!(HeaderValue::from_str(&POLICY).is_ok());
    }

    /// What it is told is shown as text, never read as HTML, and nothing comes from elsewhere.
    #[test]
    fn the_page_reads_nothing_as_html_and_loads_nothing() {
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "srcdoc",
            "onerror=",
            "style=\"",
        ] {
            assert!(!PAGE.contains(word), "{word}");
        }
        for reference in PAGE.split("://").skip(1) {
            assert!(reference.starts_with("www.w3.org/2000/svg"), "{:.40}", reference);
        }
    }
}
