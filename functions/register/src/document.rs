//! Holds the API's document, `infra/openapi.yaml`, against the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{Request, header},
};
use kubernetes::{AddressPolicy, Rules};
use monitor::{
    check::Settings,
    cluster::RowState,
    memory::{
        MemoryDeployments, MemoryEvents, MemoryExecutions, MemoryRegistry, MemoryVault, NoEks, NoMetrics,
    },
    namespaces::Namespaces,
    ports::{Credentials, Prober, SystemClock},
    probe::{Findings, Permission, ProbeFailure, ProbeReason},
    register::Registrar,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use verdict::{Evidence, FailOn, HelmType, Reason, Status};

use crate::{
    Api,
    problem::Kind,
    router,
    routes::{DOCUMENT, table},
};

#[path = "../tests/document/mod.rs"]
mod schema;

struct NobodyIsAsked;

#[async_trait]
impl Prober for NobodyIsAsked {
    async fn probe(&self, _: &Credentials, _: &Namespaces) -> Result<Findings, ProbeFailure> {
        panic!("a cluster was asked")
    }
}

fn api() -> Api {
    let registry = Arc::new(MemoryRegistry::default());
    let registrar = Registrar {
        registry: registry.clone(),
        environments: registry,
        vault: Arc::new(MemoryVault::default()),
        eks: Arc::new(NoEks),
        prober: Arc::new(NobodyIsAsked),
        events: Arc::new(MemoryEvents::default()),
        metrics: Arc::new(NoMetrics),
        rules: Arc::new(Rules::new(AddressPolicy::default())),
        clock: Arc::new(SystemClock),
    };
    let (deployments, executions) =
        (Arc::new(MemoryDeployments::default()), Arc::new(MemoryExecutions::default()));
    Api::new(registrar, deployments, executions, Settings::default())
}

/// Every route, as method and path, with what the document says of it.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .iter()
                .map(move |(method, it)| (format!("{} {path}", method.to_uppercase()), it))
        })
        .collect()
}

/// Every value in it, with its place.
fn walk(at: &str, value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(at, value);
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, it)| walk(&format!("{at}/{name}"), it, visit));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, it)| walk(&format!("{at}/{index}"), it, visit));
        }
        _ => {}
    }
}

#[test]
fn a_rest_api_of_api_gateway_can_import_it() {
    let document = schema::read();
    assert_eq!(document["openapi"], "3.0.3", "REST APIs take no later one");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    walk("", &document, &mut |at, value| {
        assert!(!value.is_null(), "CloudFormation refuses a null: {at}");
        if at.ends_with("/$ref") {
            // Shared responses and parameters are not understood.
            let name = value.as_str().unwrap().strip_prefix("#/components/schemas/");
            assert!(name.is_some_and(|name| schemas.contains_key(name)), "{at}: {value}");
        }
    });
    // A model's name is alphanumeric (API Gateway API reference, CreateModel).
    assert!(schemas.keys().all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric())));
    let mut ids = BTreeSet::new();
    for (route, it) in operations(&document) {
        assert_eq!(it["security"], json!([{"sigv4": []}]), "{route}");
        assert_eq!(it["x-amazon-apigateway-integration"]["type"], "aws_proxy", "{route}");
        assert!(ids.insert(it["operationId"].as_str().unwrap().to_owned()), "{route}");
        assert!(!it["summary"].as_str().unwrap().is_empty(), "{route}");
    }
}

#[test]
fn what_is_served_is_the_document_without_what_is_for_api_gateway() {
    let served: Value = serde_json::from_str(DOCUMENT).unwrap();
    let mut awaited = schema::read();
    for item in awaited["paths"].as_object_mut().unwrap().values_mut() {
        for operation in item.as_object_mut().unwrap().values_mut() {
            operation.as_object_mut().unwrap().remove("x-amazon-apigateway-integration").unwrap();
        }
    }
    let sigv4 = awaited["components"]["securitySchemes"]["sigv4"].as_object_mut().unwrap();
    sigv4.remove("x-amazon-apigateway-authtype").unwrap();
    assert_eq!(served, awaited);
    assert!(!DOCUMENT.contains("x-amazon-apigateway") && !DOCUMENT.contains("Fn::"));
}

#[tokio::test]
async fn the_routes_of_the_document_are_those_of_the_router() {
    let document = schema::read();
    let documented: BTreeSet<String> = operations(&document).into_keys().collect();
    let router = router(Arc::new(api()));
    let mut routed = BTreeSet::new();
    for (path, _) in table() {
        // No route knows it, so each tells what it does know.
        let uri = path.replace(['{', '}'], "");
        let request = Request::patch(uri).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let allowed = response.headers()[header::ALLOW].to_str().unwrap().to_owned();
        // HEAD comes with GET.
        routed.extend(
            allowed.split(',').filter(|method| *method != "HEAD").map(|method| format!("{method} {path}")),
        );
    }
    assert_eq!(documented, routed);
}

/// What an operation can answer: of what a request may be, and of what it is for.
#[test]
fn every_status_that_can_be_answered_is_documented_and_no_other() {
    const QUERY: &[Kind] = &[Kind::Malformed];
    const BODY: &[Kind] = &[Kind::TooLarge, Kind::UnsupportedMediaType, Kind::Invalid];
    const STORE: &[Kind] = &[Kind::Internal, Kind::Unavailable];
    const WORK: &[Kind] = &[Kind::ClusterBusy, Kind::Unfinished];
    let document = schema::read();
    let mut documented = operations(&document);
    for (route, answered, problems) in [
        (
            "POST /clusters",
            &["201"] as &[_],
            &[QUERY, BODY, STORE, &[Kind::ClusterBusy, Kind::AlreadyRegistered, Kind::ProbeFailed]] as &[_],
        ),
        ("GET /clusters", &["200"], &[QUERY, STORE]),
        ("GET /clusters/{id}", &["200"], &[QUERY, STORE, &[Kind::UnknownCluster]]),
        (
            "PUT /clusters/{id}",
            &["200"],
            &[QUERY, BODY, STORE, WORK, &[Kind::UnknownCluster, Kind::ProbeFailed]],
        ),
        (
            "DELETE /clusters/{id}",
            &["204"],
            &[QUERY, STORE, &[Kind::UnknownCluster, Kind::ClusterBusy, Kind::ClusterInUse]],
        ),
        (
            "POST /clusters/{id}/probe",
            &["200"],
            &[QUERY, STORE, WORK, &[Kind::UnknownCluster, Kind::ProbeFailed, Kind::Invalid]],
        ),
        ("GET /apps/{app}/environments", &["200"], &[QUERY, STORE, &[Kind::UnknownEnvironment]]),
        (
            "PUT /apps/{app}/environments/{environment}",
            &["200", "201"],
            &[QUERY, BODY, STORE, &[Kind::ClusterBusy]],
        ),
        (
            "GET /apps/{app}/environments/{environment}",
            &["200"],
            &[QUERY, STORE, &[Kind::UnknownEnvironment]],
        ),
        (
            "DELETE /apps/{app}/environments/{environment}",
            &["204"],
            &[QUERY, STORE, &[Kind::UnknownEnvironment]],
        ),
        ("POST /deployments", &["202"], &[QUERY, BODY, STORE, &[Kind::DeploymentIdConflict]]),
        ("GET /deployments", &["200"], &[QUERY, STORE]),
        ("GET /deployments/{id}", &["200"], &[QUERY, STORE, &[Kind::UnknownDeployment]]),
        ("GET /openapi.json", &["200"], &[QUERY]),
    ] {
        let responses = documented.remove(route).unwrap()["responses"].as_object().unwrap();
        let mut statuses: BTreeSet<String> = answered.iter().map(|it| (*it).to_owned()).collect();
        statuses.extend(problems.iter().copied().flatten().map(|kind| kind.status().as_u16().to_string()));
        // By API Gateway.
        statuses.insert("403".to_owned());
        assert_eq!(responses.keys().cloned().collect::<BTreeSet<_>>(), statuses, "{route}");
        for (status, response) in responses {
            let problem = &response["content"]["application/problem+json"]["schema"]["$ref"];
            let is_problem = status.starts_with(['4', '5']) && status != "403";
            assert_eq!(problem == "#/components/schemas/Problem", is_problem, "{route} {status}");
        }
    }
    assert!(documented.is_empty(), "{documented:?}");
}

fn words<T: serde::Serialize>(all: impl IntoIterator<Item = T>) -> Vec<Value> {
    all.into_iter().map(|it| serde_json::to_value(it).unwrap()).collect()
}

/// Fails to compile where the list has grown.
fn probe_reasons() -> Vec<ProbeReason> {
    use ProbeReason as R;
    let all = vec![
        R::DnsFailed,
        R::AddressRefused,
        R::ConnectionRefused,
        R::Unreachable,
        R::TimedOut,
        R::CertificateNotTrusted,
        R::CertificateExpired,
        R::CertificateForAnotherName,
        R::TlsFailed,
        R::Unauthorized,
        R::Forbidden,
        R::NotKubernetes,
        R::HtmlAnswered,
        R::Redirected,
        R::ServerError,
        R::EksRefused,
        R::CredentialsGone,
    ];
    for reason in &all {
        match reason {
            R::DnsFailed
            | R::AddressRefused
            | R::ConnectionRefused
            | R::Unreachable
            | R::TimedOut
            | R::CertificateNotTrusted
            | R::CertificateExpired
            | R::CertificateForAnotherName
            | R::TlsFailed
            | R::Unauthorized
            | R::Forbidden
            | R::NotKubernetes
            | R::HtmlAnswered
            | R::Redirected
            | R::ServerError
            | R::EksRefused
            | R::CredentialsGone => {}
        }
    }
    all
}

#[test]
fn the_closed_lists_are_those_of_the_code() {
    let document = schema::read();
    let schemas = &document["components"]["schemas"];
    for (list, all) in [
        (&schemas["Reason"], words(Reason::ALL)),
        (&schemas["ProbeReason"], words(probe_reasons())),
        (&schemas["Problem"]["properties"]["type"], words(Kind::ALL.iter().map(|kind| kind.urn()))),
        (&schemas["Status"], words([Status::Pending, Status::Succeeded, Status::Failed])),
        (&schemas["Evidence"], words([Evidence::Expected, Evidence::Changed, Evidence::Unchanged])),
        (&schemas["HelmType"], words([HelmType::Flux, HelmType::Plain])),
        (&schemas["Permission"], words([Permission::Allowed, Permission::Denied, Permission::Unknown])),
        (
            &schemas["Cluster"]["properties"]["state"],
            words([RowState::Registering, RowState::Active, RowState::Updating, RowState::Deleting]),
        ),
    ] {
        assert_eq!(list["enum"], Value::Array(all));
    }
    // A pattern there, for an enum would refuse the null that is allowed.
    let fail_on: Vec<String> = words([FailOn::Final, FailOn::First])
        .iter()
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect();
    assert_eq!(schemas["FailOn"]["pattern"], format!("^({})$", fail_on.join("|")));
}

#[test]
fn the_examples_are_what_they_show() {
    let document = schema::read();
    let mut seen = 0;
    let mut check = |at: &str, schema: &Value, example: &Value| {
        let errors = schema::errors(&schema::validator(&document, schema), example);
        assert!(errors.is_empty(), "{at}: {errors:?}");
        seen += 1;
    };
    walk("", &document, &mut |at, value| {
        let Some(members) = value.as_object() else { return };
        // One of a schema stands in it, one of a body beside its schema.
        let schema = members.get("schema").unwrap_or(value);
        if let Some(example) = members.get("example").filter(|_| !at.ends_with("/properties")) {
            check(at, schema, example);
        }
        for example in
            members.get("examples").and_then(Value::as_object).into_iter().flat_map(|it| it.values())
        {
            check(at, schema, &example["value"]);
        }
    });
    assert!(seen > 10, "{seen} examples");
}
