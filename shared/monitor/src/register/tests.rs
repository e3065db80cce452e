use std::{
    future::pending,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose};
use futures_util::FutureExt;
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    cluster::EksCluster,
    environment::{Environment, EnvironmentPage},
    memory::{MemoryEvents, MemoryRegistry, MemoryVault},
    namespaces::Namespaces,
    ports::{Auth, CaCert, ClusterSecret, EksError, Probed},
    probe::{Findings, Permission, ProbeReason, Rule, Rules as Allowed, Scope},
};

mod eks;
mod environments;
mod probing;

const START: &str = "2026-11-23T12:00:00Z";
const URL: &str = "https://eu.example.com:6443";
const OTHER_URL: &str = "https://us.example.com:6443";

struct Hand(Mutex<Timestamp>);

impl Hand {
    fn advance(&self, secs: i64) {
        let mut now = self.0.lock().unwrap();
        *now += SignedDuration::from_secs(secs);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

impl Registrar {
    async fn enrol(&self, new: NewCluster) -> Result<Registered, RegisterError> {
        self.register(new, Probing::First).await
    }

    async fn alter(&self, id: &str, change: Change) -> Result<Registered, RegisterError> {
        self.change(id, change, Probing::First).await
    }
}

/// A cluster's answers, and who asked with what.
struct Script {
    answer: Mutex<Result<Findings, ProbeFailure>>,
    asked: Mutex<Vec<(Credentials, Namespaces)>>,
}

impl Script {
    fn fails(&self) {
        *self.answer.lock().unwrap() = Err(failure());
    }

    fn goes_well(&self) {
        *self.answer.lock().unwrap() = Ok(findings());
    }

    fn asked(&self) -> Vec<(Credentials, Namespaces)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Prober for Script {
    async fn probe(
        &self,
        credentials: &Credentials,
        namespaces: &Namespaces,
    ) -> Result<Findings, ProbeFailure> {
        self.asked.lock().unwrap().push((credentials.clone(), namespaces.clone()));
        self.answer.lock().unwrap().clone()
    }
}

fn failure() -> ProbeFailure {
    ProbeFailure {
        reason: ProbeReason::Unauthorized,
        detail: "the API server answered 401".to_owned(),
        help: "create another token".to_owned(),
    }
}

/// Exactly what is needed.
fn findings() -> Findings {
    let rule = |verb: &str, group: &str, resource: &str| Rule {
        verbs: vec![verb.to_owned()],
        api_groups: vec![group.to_owned()],
        resources: vec![resource.to_owned()],
        resource_names: Vec::new(),
    };
    Findings {
        kubernetes_version: "v1.36.3".to_owned(),
        flux_installed: Some(true),
        server_certificate_not_after: Some("2028-01-01T00:00:00Z".parse().unwrap()),
        scopes: vec![Scope {
            namespace: None,
            get_helm_releases: Permission::Allowed,
            list_secrets: Permission::Allowed,
            beyond: Vec::new(),
            rules: Some(Allowed {
                resources: vec![
                    rule("get", "helm.toolkit.fluxcd.io", "helmreleases"),
                    rule("list", "", "secrets"),
                ],
                incomplete: false,
            }),
        }],
    }
}

const EKS_URL: &str = "https://ABC.gr7.eu-central-1.eks.amazonaws.com";
const EKS_CA: &str = "PEM until 2035-01-01T00:00:00Z";
const ROLE: &str = "arn:aws:iam::123456789012:role/dag-monitor/reader";

/// What EKS says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    Credentials,
    Refused,
    Nothing,
}

struct EksScript {
    says: Mutex<Says>,
    asked: AtomicUsize,
}

impl EksScript {
    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

#[async_trait]
impl Eks for EksScript {
    async fn credentials(&self, cluster: &EksCluster) -> Result<Credentials, EksError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match *self.says.lock().unwrap() {
            Says::Credentials => Ok(Credentials {
                api_url: EKS_URL.to_owned(),
                token: "k8s-aws-v1.sEcReT".into(),
                ca_cert: Some(EKS_CA.to_owned()),
                tls_server_name: None,
                personal: None,
            }),
            Says::Refused => Err(EksError::Refused(format!("no cluster {}", cluster.cluster_name))),
            Says::Nothing => Err(EksError::Transient("no answer".into())),
        }
    }

    fn role_allowed(&self, role_arn: &str) -> Result<(), String> {
        if role_arn == ROLE { Ok(()) } else { Err("it is not one of EksRoleArns".to_owned()) }
    }
}

/// What the daily probe counts, in words.
#[derive(Default)]
struct Figures(Mutex<Vec<String>>);

impl Metrics for Figures {
    fn cluster_probed(&self, probed: &Probed<'_>) {
        let Probed { cluster, reached, token_secs_left, certificate_secs_left } = probed;
        let line = format!("{cluster} {reached} {token_secs_left:?} {certificate_secs_left:?}");
        self.0.lock().unwrap().push(line);
    }
}

/// Small rules with every way to refuse.
struct Rules;

impl RegistrationRules for Rules {
    fn api_url(&self, text: &str) -> Result<String, String> {
        let url = text.trim_end_matches('/');
        if url.starts_with("https://") { Ok(url.to_owned()) } else { Err("https is awaited".to_owned()) }
    }

    fn ca_cert(&self, text: &str, _: Timestamp) -> Result<CaCert, String> {
        let Some((_, end)) = text.split_once("PEM until ") else {
            return Err("no certificate came".to_owned());
        };
        let not_after = end.trim().parse().map_err(|_| "no date".to_owned())?;
        let fingerprint = format!("sum of {}", text.trim());
        let warnings = if text.starts_with("weak") { vec!["the CA is weak".to_owned()] } else { Vec::new() };
        Ok(CaCert { pem: text.trim().to_owned(), fingerprint, not_after, warnings })
    }

    fn tls_server_name(&self, text: &str) -> Result<(), String> {
        if text.contains(' ') { Err("no server has this name".to_owned()) } else { Ok(()) }
    }
}

struct World {
    registry: Arc<MemoryRegistry>,
    vault: Arc<MemoryVault>,
    eks: Arc<EksScript>,
    prober: Arc<Script>,
    events: Arc<MemoryEvents>,
    figures: Arc<Figures>,
    clock: Arc<Hand>,
}

impl World {
    fn new() -> Self {
        Self {
            registry: Arc::default(),
            vault: Arc::default(),
            eks: Arc::new(EksScript { says: Mutex::new(Says::Credentials), asked: AtomicUsize::new(0) }),
            prober: Arc::new(Script { answer: Mutex::new(Ok(findings())), asked: Mutex::default() }),
            events: Arc::default(),
            figures: Arc::default(),
            clock: Arc::new(Hand(Mutex::new(START.parse().unwrap()))),
        }
    }

    fn registrar(&self) -> Registrar {
        self.through(self.registry.clone(), self.vault.clone())
    }

    fn through<R>(&self, registry: Arc<R>, vault: Arc<dyn Vault>) -> Registrar
    where
        R: Registry + Environments + 'static,
    {
        Registrar {
            registry: registry.clone(),
            environments: registry,
            vault,
            eks: self.eks.clone(),
            prober: self.prober.clone(),
            events: self.events.clone(),
            metrics: self.figures.clone(),
            rules: Arc::new(Rules),
            clock: self.clock.clone(),
        }
    }

    /// Every call outward goes wrong at one of them.
    fn faulty(&self, calls: &Arc<AtomicUsize>, at: usize, fault: Fault) -> Registrar {
        Registrar {
            eks: Faulty::new(&self.eks, calls, at, fault),
            prober: Faulty::new(&self.prober, calls, at, fault),
            ..self.through(
                Faulty::new(&self.registry, calls, at, fault),
                Faulty::new(&self.vault, calls, at, fault),
            )
        }
    }

    /// Every call outward waits until it is let through.
    fn stepped(&self, gate: &Arc<Semaphore>) -> Registrar {
        Registrar {
            eks: Stepped::new(&self.eks, gate),
            prober: Stepped::new(&self.prober, gate),
            ..self.through(Stepped::new(&self.registry, gate), Stepped::new(&self.vault, gate))
        }
    }

    /// Everything that is stored of the cluster, the token, too.
    async fn snapshot(&self) -> (Option<ClusterRow>, String) {
        let token = self.token().await;
        (self.row().await, format!("{:?} {token:?}", self.secret().await))
    }

    async fn secret(&self) -> Option<ClusterSecret> {
        self.vault.get("prod-eu").await.unwrap()
    }

    async fn row(&self) -> Option<ClusterRow> {
        Registry::get(&*self.registry, "prod-eu").await.unwrap()
    }

    async fn credentials(&self) -> Option<Credentials> {
        match self.secret().await?.auth {
            Auth::Token(credentials) => Some(credentials),
            Auth::Eks(_) => None,
        }
    }

    async fn token(&self) -> Option<String> {
        self.credentials().await.map(|it| it.token.expose_secret().to_owned())
    }

    /// The row as it is left when somebody breaks off at this state.
    async fn leave(&self, state: RowState) {
        let now = self.clock.now();
        let there = self.row().await;
        let row = ClusterRow {
            state,
            nonce: "left".to_owned(),
            updated_at: now,
            ..there
                .clone()
                .unwrap_or_else(|| ClusterRow { created_at: now, ..crate::contract::cluster("prod-eu", "") })
        };
        let expected = there.as_ref().map_or(Expected::Absent, |row| Expected::Nonce(&row.nonce));
        assert_eq!(self.registry.put(&row, expected).await.unwrap(), Stored::Yes);
    }

    /// What must hold whatever breaks off: no credentials that no row names.
    async fn no_stray_credentials(&self, what: &str) {
        if self.row().await.is_none() {
            assert!(self.secret().await.is_none(), "{what}: credentials without a row");
        }
    }

    /// What must hold once everybody has come to an end.
    async fn is_settled(&self, what: &str) {
        self.no_stray_credentials(what).await;
        let Some(row) = self.row().await else { return };
        assert_eq!(row.state, RowState::Active, "{what}");
        let secret = self.secret().await.unwrap_or_else(|| panic!("{what}: active without credentials"));
        assert_eq!(row.namespaces, secret.namespaces, "{what}");
        let credentials = match secret.auth {
            Auth::Token(credentials) => {
                assert_eq!(row.eks, None, "{what}");
                credentials
            }
            Auth::Eks(cluster) => {
                assert_eq!(row.eks.as_ref(), Some(&cluster), "{what}");
                self.eks.credentials(&cluster).await.unwrap()
            }
        };
        assert_eq!(row.api_url, credentials.api_url, "{what}");
        assert_eq!(row.tls_server_name, credentials.tls_server_name, "{what}");
        let fingerprint = credentials.ca_cert.map(|pem| format!("sum of {pem}"));
        assert_eq!(row.ca_fingerprint, fingerprint, "{what}");
    }
}

fn new(name: &str, token: &str) -> NewCluster {
    NewCluster {
        name: Some(name.to_owned()),
        api_url: Some(URL.to_owned()),
        service_account_token: Some(token.into()),
        ..NewCluster::default()
    }
}

fn jwt(claims: &str) -> String {
    let part = |text: &str| general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.c2ln", part(r#"{"alg":"RS256"}"#), part(claims))
}

fn expiring(at: &str) -> String {
    jwt(&format!(r#"{{"iss":"kubernetes","exp":{}}}"#, at.parse::<Timestamp>().unwrap().as_second()))
}

fn refused(result: Result<Registered, RegisterError>) -> Vec<(String, String)> {
    match result {
        Err(RegisterError::Invalid(refusals)) => {
            refusals.into_iter().map(|r| (r.pointer, r.detail)).collect()
        }
        other => panic!("not refused: {other:?}"),
    }
}

fn pointers(result: Result<Registered, RegisterError>) -> Vec<String> {
    refused(result).into_iter().map(|(pointer, _)| pointer).collect()
}

#[tokio::test]
async fn a_cluster_is_registered_shown_changed_and_removed() {
    let world = World::new();
    let registrar = world.registrar();
    let ca = "PEM until 2036-01-01T00:00:00Z";
    let registered = registrar
        .enrol(NewCluster {
            api_url: Some(format!("{URL}/")),
            ca_cert: Some(format!("{ca}\n")),
            tls_server_name: Some("kubernetes".to_owned()),
            ..new("Prod EU", &expiring("2027-11-23T12:00:00Z"))
        })
        .await
        .unwrap();
    assert_eq!(registered.warnings, Vec::<String>::new());
    let row = registered.row;
    assert_eq!((row.id.as_str(), row.name.as_str(), row.api_url.as_str()), ("prod-eu", "Prod EU", URL));
    assert_eq!(row.token_expires_at, Some("2027-11-23T12:00:00Z".parse().unwrap()));
    assert_eq!(row.ca_not_after, Some("2036-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(registrar.get("prod-eu").await.unwrap(), row);
    assert_eq!(registrar.list(1, None).await.unwrap(), Page { rows: vec![row.clone()], more: false });
    world.is_settled("registered").await;
    let stored = world.credentials().await.unwrap();
    assert_eq!(stored.ca_cert.as_deref(), Some(ca), "as the rules returned it");

    world.clock.advance(5);
    let change = Change { service_account_token: Some("rotated".into()), ..Change::default() };
    let changed = registrar.alter("prod-eu", change).await.unwrap().row;
    assert_eq!(changed.token_expires_at, None);
    assert_eq!(changed.created_at, row.created_at);
    assert_eq!(changed.updated_at, world.clock.now());
    assert_eq!((changed.name, changed.ca_fingerprint), (row.name, row.ca_fingerprint));
    assert_eq!(world.token().await.as_deref(), Some("rotated"));
    world.is_settled("rotated").await;

    registrar.remove("prod-eu").await.unwrap();
    world.is_settled("removed").await;
    assert!(matches!(registrar.get("prod-eu").await, Err(RegisterError::Unknown)));
    assert!(matches!(registrar.remove("prod-eu").await, Err(RegisterError::Unknown)));
    assert!(matches!(registrar.alter("prod-eu", rotation("x")).await, Err(RegisterError::Unknown)));

    // The vault still holds the old ones, in their recovery window.
    registrar.enrol(new("prod_eu", "again")).await.unwrap();
    world.is_settled("registered again").await;
    assert_eq!(world.token().await.as_deref(), Some("again"));
}

fn eks() -> NewEks {
    NewEks {
        cluster_name: Some("Prod_EU-1".to_owned()),
        region: Some("eu-central-1".to_owned()),
        role_arn: Some(ROLE.to_owned()),
    }
}

fn new_by_eks(name: &str) -> NewCluster {
    NewCluster { name: Some(name.to_owned()), eks: Some(eks()), ..NewCluster::default() }
}

fn by_eks() -> Change {
    Change { eks: Some(eks()), ..Change::default() }
}

fn rotation(token: &str) -> Change {
    Change { service_account_token: Some(token.into()), ..Change::default() }
}

#[tokio::test]
async fn every_wrong_field_is_told_at_once() {
    let world = World::new();
    let registrar = world.registrar();
    let all = registrar.enrol(NewCluster::default()).await;
    assert_eq!(pointers(all), ["/name", "/apiUrl", "/serviceAccountToken"]);
    let wrong = NewCluster {
        name: Some("–".to_owned()),
        api_url: Some("http://x".to_owned()),
        service_account_token: Some("".into()),
        ca_cert: Some("no".to_owned()),
        tls_server_name: Some("a b".to_owned()),
        namespaces: Some(vec!["shop".to_owned(), "Shop".to_owned()]),
        eks: None,
    };
    assert_eq!(
        pointers(registrar.enrol(wrong).await),
        ["/name", "/apiUrl", "/serviceAccountToken", "/caCert", "/tlsServerName", "/namespaces/1"]
    );
    for name in [String::new(), "x".repeat(101), "a\nb".to_owned(), "a\u{7f}b".to_owned(), "東京".to_owned()]
    {
        assert_eq!(pointers(registrar.enrol(new(&name, "t")).await), ["/name"], "{name:?}");
    }
    // Characters are counted, not bytes.
    registrar.enrol(new(&format!("{}x", "ü".repeat(99)), "t")).await.unwrap();
    assert!(world.row().await.is_none());
}

#[tokio::test]
async fn a_token_that_can_not_work_is_refused_and_never_told() {
    let world = World::new();
    let registrar = world.registrar();
    let valid = expiring("2027-11-23T12:00:00Z");
    for (token, words) in [
        (String::new(), "it is empty"),
        ("sEcReT".repeat(3_000), "18000 bytes came; at most 16384 are allowed"),
        ("sEcReT\n".to_owned(), "it ends with a newline"),
        ("sEcReT\r\n".to_owned(), "it ends with a newline"),
        ("Bearer sEcReT".to_owned(), "without \"Bearer\""),
        ("sEcReT\nsEcReT".to_owned(), "a line break"),
        ("sEcReT\u{0}".to_owned(), "a control character"),
        ("sEcReTü".to_owned(), "not ASCII"),
        (general_purpose::STANDARD.encode(&valid), "encoded in base64 once more"),
        (expiring("2026-11-23T11:59:59Z"), "it expired at 2026-11-23T11:59:59Z; create another one"),
        (expiring(START), "it expired at 2026-11-23T12:00:00Z"),
    ] {
        for result in [
            registrar.enrol(new("Prod EU", &token)).await,
            registrar.alter("prod-eu", rotation(&token)).await,
        ] {
            let text = format!("{result:?} {}", result.as_ref().unwrap_err());
            let refused = refused(result);
            assert_eq!(refused.len(), 1);
            assert_eq!(refused[0].0, "/serviceAccountToken");
            assert!(refused[0].1.contains(words), "{}", refused[0].1);
            assert!(!text.contains("sEcReT") && !text.contains("eyJ"), "{text}");
        }
    }
    assert_eq!(world.registry.list(100, None).await.unwrap().rows, []);
    assert!(world.credentials().await.is_none());
}

#[tokio::test]
async fn what_ends_soon_is_warned_of() {
    let world = World::new();
    let registrar = world.registrar();
    let soon = NewCluster {
        ca_cert: Some("PEM until 2026-11-25T11:00:00Z".to_owned()),
        ..new("Prod EU", &expiring("2026-12-23T12:00:00Z"))
    };
    let warnings = registrar.enrol(soon).await.unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "serviceAccountToken expires at 2026-12-23T12:00:00Z, in 30 days; replace it before",
            "caCert expires at 2026-11-25T11:00:00Z, in a day; replace it before",
        ]
    );
    world.clock.advance(86_400);
    let change = rotation(&expiring("2027-12-23T12:00:00Z"));
    let warnings = registrar.alter("prod-eu", change).await.unwrap().warnings;
    assert_eq!(warnings, ["caCert expires at 2026-11-25T11:00:00Z, in less than a day; replace it before"]);
    world.clock.advance(86_400);
    let warnings = registrar.alter("prod-eu", rotation("t")).await.unwrap().warnings;
    assert_eq!(warnings, ["caCert expired at 2026-11-25T11:00:00Z; replace it"]);
    // One second more than 30 days.
    let late = new("Other", &expiring("2026-12-25T12:00:01Z"));
    assert_eq!(registrar.enrol(late).await.unwrap().warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_token_without_a_readable_end_is_taken_as_it_is() {
    let world = World::new();
    let registrar = world.registrar();
    let padded = general_purpose::URL_SAFE.encode(r#"{"exp": 1}"#);
    for (n, token) in [
        "opaque".to_owned(),
        "a.b".to_owned(),
        "a.b.c.d".to_owned(),
        "a.!.c".to_owned(),
        format!("a.{padded}.c"),
        jwt("[]"),
        jwt("{}"),
        jwt(r#"{"exp":"tomorrow"}"#),
        jwt(r#"{"exp":1e300}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let row = registrar.enrol(new(&format!("c{n}"), &token)).await.unwrap().row;
        assert_eq!(row.token_expires_at, None, "{n}");
    }
    let fraction = jwt(r#"{"exp":1900000000.75}"#);
    let row = registrar.enrol(new("fraction", &fraction)).await.unwrap().row;
    assert_eq!(row.token_expires_at, Some(Timestamp::from_second(1_900_000_000).unwrap()));
}

#[tokio::test]
async fn two_names_with_one_id_conflict() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new("Prod EU", "first")).await.unwrap();
    for name in ["Prod EU", "prod-eu", "PROD: EU!"] {
        let taken = registrar.enrol(new(name, "second")).await.unwrap_err();
        assert!(
            matches!(&taken, RegisterError::Taken { id, existing } if id == "prod-eu" && existing == "Prod EU"),
            "{taken:?}"
        );
    }
    assert_eq!(world.token().await.as_deref(), Some("first"));
    // Nor while it is being changed, however long.
    world.leave(RowState::Updating).await;
    world.clock.advance(3_600);
    assert!(matches!(registrar.enrol(new("Prod EU", "x")).await, Err(RegisterError::Taken { .. })));
}

#[tokio::test]
async fn ids_alone_find_a_cluster() {
    let world = World::new();
    let registrar = world.registrar();
    registrar.enrol(new("Prod EU", "t")).await.unwrap();
    for id in ["", "Prod EU", "prod_eu", "-prod-eu", "prod-eu-", "../prod-eu", "ü", &"x".repeat(101), "prod"]
    {
        assert!(matches!(registrar.get(id).await, Err(RegisterError::Unknown)), "{id}");
    }
}

#[tokio::test]
async fn nothing_stored_goes_to_a_new_destination() {
    let world = World::new();
    let registrar = world.registrar();
    let ca = "PEM until 2036-01-01T00:00:00Z".to_owned();
    let other_ca = "PEM until 2037-01-01T00:00:00Z".to_owned();
    let first = NewCluster {
        ca_cert: Some(ca.clone()),
        tls_server_name: Some("kubernetes".to_owned()),
        ..new("Prod EU", "first")
    };
    registrar.enrol(first).await.unwrap();
    let url = |url: &str| Change { api_url: Some(url.to_owned()), ..Change::default() };
    let cert = |ca: Option<&String>| Change { ca_cert: Some(ca.cloned()), ..Change::default() };
    let tls =
        |name: Option<&str>| Change { tls_server_name: Some(name.map(str::to_owned)), ..Change::default() };

    for (change, field) in [
        (url(OTHER_URL), "apiUrl"),
        (url(&format!("{URL}/k8s")), "apiUrl"),
        (cert(Some(&other_ca)), "caCert"),
        (cert(None), "caCert"),
        (tls(Some("other")), "tlsServerName"),
        (tls(None), "tlsServerName"),
    ] {
        let before = world.row().await;
        let refused = refused(registrar.alter("prod-eu", change).await);
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(refused[0].0, "/serviceAccountToken");
        assert!(refused[0].1.contains(&format!("another {field} needs it")), "{}", refused[0].1);
        assert_eq!(world.row().await, before);
    }
    // What stays the same is no new destination, however it is written.
    for change in [url(&format!("{URL}/")), cert(Some(&format!("{ca}\n"))), tls(Some("kubernetes"))] {
        registrar.alter("prod-eu", change).await.unwrap();
    }
    assert_eq!(world.token().await.as_deref(), Some("first"));
    // With the token it goes, and what was not given stays.
    for (change, n) in [(url(OTHER_URL), 0), (cert(None), 1), (tls(None), 2)] {
        let token = format!("token-{n}");
        let change = Change { service_account_token: Some(token.as_str().into()), ..change };
        let row = registrar.alter("prod-eu", change).await.unwrap().row;
        assert_eq!(row.api_url, OTHER_URL);
        assert_eq!(row.ca_fingerprint.is_some(), n == 0);
        assert_eq!(row.tls_server_name.is_some(), n <= 1);
        assert_eq!(world.token().await.as_deref(), Some(token.as_str()));
        world.is_settled("changed").await;
    }
    // Removing what isn't there changes nothing.
    registrar.alter("prod-eu", cert(None)).await.unwrap();
    let empty = registrar.alter("prod-eu", Change::default()).await;
    assert_eq!(pointers(empty), [""]);
    let all_wrong = Change {
        api_url: Some("x".to_owned()),
        service_account_token: Some("".into()),
        ca_cert: Some(Some("x".to_owned())),
        tls_server_name: Some(Some(" ".to_owned())),
        namespaces: Some(Some(Vec::new())),
        eks: None,
    };
    assert_eq!(
        pointers(registrar.alter("prod-eu", all_wrong).await),
        ["/apiUrl", "/serviceAccountToken", "/caCert", "/tlsServerName", "/namespaces"]
    );
}

#[tokio::test]
async fn lost_credentials_are_given_anew() {
    let world = World::new();
    let registrar = world.registrar();
    let first = NewCluster {
        ca_cert: Some("PEM until 2036-01-01T00:00:00Z".to_owned()),
        tls_server_name: Some("kubernetes".to_owned()),
        ..new("Prod EU", "first")
    };
    registrar.enrol(first).await.unwrap();
    world.vault.delete("prod-eu").await.unwrap();
    let refused = pointers(registrar.alter("prod-eu", rotation("second")).await);
    assert_eq!(refused, ["/apiUrl", "/caCert", "/tlsServerName"]);
    let nearly = Change { api_url: Some(URL.to_owned()), ca_cert: Some(None), ..rotation("second") };
    assert_eq!(pointers(registrar.alter("prod-eu", nearly).await), ["/tlsServerName"]);
    let whole = Change {
        api_url: Some(URL.to_owned()),
        ca_cert: Some(None),
        tls_server_name: Some(None),
        ..rotation("second")
    };
    let row = registrar.alter("prod-eu", whole).await.unwrap().row;
    assert_eq!((row.ca_fingerprint, row.tls_server_name), (None, None));
    world.is_settled("given anew").await;

    // What the row never had isn't needed.
    world.vault.delete("prod-eu").await.unwrap();
    let change = Change { api_url: Some(URL.to_owned()), ..rotation("third") };
    registrar.alter("prod-eu", change).await.unwrap();
    world.is_settled("given anew").await;
}

#[tokio::test]
async fn who_is_at_work_is_left_alone_for_a_minute() {
    for state in [RowState::Registering, RowState::Updating, RowState::Deleting] {
        let world = World::new();
        let registrar = world.registrar();
        registrar.enrol(new("Prod EU", "first")).await.unwrap();
        world.leave(state).await;
        let doing = match state {
            RowState::Registering => "registered",
            RowState::Deleting => "removed",
            _ => "changed",
        };
        for secs in [0, 59] {
            world.clock.advance(secs);
            let left = world.row().await;
            let busy = |error: RegisterError| {
                assert_eq!(error.retry_after_secs(), Some(60));
                assert_eq!(
                    error.to_string(),
                    format!("prod-eu is being {doing} right now; try again in a minute")
                );
            };
            busy(registrar.alter("prod-eu", rotation("second")).await.unwrap_err());
            busy(registrar.remove("prod-eu").await.unwrap_err());
            if state != RowState::Updating {
                busy(registrar.enrol(new("Prod EU", "second")).await.unwrap_err());
            }
            assert_eq!(world.row().await, left);
            assert_eq!(world.token().await.as_deref(), Some("first"));
        }
        world.clock.advance(1);
        if state == RowState::Updating {
            registrar.alter("prod-eu", rotation("second")).await.unwrap();
        } else {
            let unfinished = registrar.alter("prod-eu", rotation("second")).await.unwrap_err();
            assert!(matches!(unfinished, RegisterError::Unfinished { .. }), "{unfinished:?}");
            registrar.enrol(new("prod eu", "second")).await.unwrap();
            assert_eq!(world.row().await.unwrap().name, "prod eu", "the new one's, not the broken one's");
        }
        assert_eq!(world.token().await.as_deref(), Some("second"));
        world.is_settled("taken over").await;

        world.leave(state).await;
        world.clock.advance(60);
        registrar.remove("prod-eu").await.unwrap();
        world.is_settled("removed").await;
    }
}

/// How the n-th call to a store goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It fails, and nothing was done.
    Before,
    /// It fails, and was done unheard.
    After,
    /// The process ends before it is done.
    CrashBefore,
    /// The process ends once it is done.
    CrashAfter,
    /// It and all that follow fail.
    Outage,
}

/// Goes wrong at one call, counted over everything that is called.
#[derive(Clone)]
struct Faulty<T> {
    inner: Arc<T>,
    calls: Arc<AtomicUsize>,
    at: usize,
    fault: Fault,
}

impl<T> Faulty<T> {
    fn new(inner: &Arc<T>, calls: &Arc<AtomicUsize>, at: usize, fault: Fault) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), calls: calls.clone(), at, fault })
    }

    async fn call<R>(&self, work: impl Future<Output = Result<R, StoreError>>) -> Result<R, StoreError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let down = || StoreError::Transient("the store", "it is down".into());
        if call < self.at || (call > self.at && self.fault != Fault::Outage) {
            return work.await;
        }
        match self.fault {
            Fault::Before | Fault::Outage => Err(down()),
            Fault::After => {
                work.await?;
                Err(down())
            }
            Fault::CrashBefore => pending().await,
            Fault::CrashAfter => {
                work.await?;
                pending().await
            }
        }
    }
}

/// Waits before each call until it is let through.
struct Stepped<T> {
    inner: Arc<T>,
    gate: Arc<Semaphore>,
}

impl<T> Stepped<T> {
    fn new(inner: &Arc<T>, gate: &Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), gate: gate.clone() })
    }

    async fn call<R>(&self, work: impl Future<Output = Result<R, StoreError>>) -> Result<R, StoreError> {
        self.gate.acquire().await.unwrap().forget();
        work.await
    }
}

macro_rules! stores_through {
    ($wrapper:ident) => {
        #[async_trait]
        impl<T: Registry> Registry for $wrapper<T> {
            async fn get(&self, id: &str) -> Result<Option<ClusterRow>, StoreError> {
                self.call(self.inner.get(id)).await
            }
            async fn list(&self, limit: usize, after: Option<&str>) -> Result<Page, StoreError> {
                self.call(self.inner.list(limit, after)).await
            }
            async fn put(&self, row: &ClusterRow, expected: Expected<'_>) -> Result<Stored, StoreError> {
                self.call(self.inner.put(row, expected)).await
            }
            async fn remove(&self, id: &str, nonce: &str) -> Result<Stored, StoreError> {
                self.call(self.inner.remove(id, nonce)).await
            }
        }

        #[async_trait]
        impl<T: Environments> Environments for $wrapper<T> {
            async fn environment(&self, app: &str, name: &str) -> Result<Option<Environment>, StoreError> {
                self.call(self.inner.environment(app, name)).await
            }
            async fn environments(
                &self,
                app: &str,
                limit: usize,
                after: Option<&str>,
            ) -> Result<EnvironmentPage, StoreError> {
                self.call(self.inner.environments(app, limit, after)).await
            }
            async fn put_environment(
                &self,
                environment: &Environment,
                cluster_ids: &[String],
            ) -> Result<Stored, StoreError> {
                self.call(self.inner.put_environment(environment, cluster_ids)).await
            }
            async fn remove_environment(&self, app: &str, name: &str) -> Result<bool, StoreError> {
                self.call(self.inner.remove_environment(app, name)).await
            }
            async fn naming_cluster(&self, id: &str) -> Result<Vec<(String, String)>, StoreError> {
                self.call(self.inner.naming_cluster(id)).await
            }
        }

        #[async_trait]
        impl<T: Vault> Vault for $wrapper<T> {
            async fn get(&self, cluster_id: &str) -> Result<Option<ClusterSecret>, StoreError> {
                self.call(self.inner.get(cluster_id)).await
            }
            async fn put(&self, cluster_id: &str, secret: &ClusterSecret) -> Result<(), StoreError> {
                self.call(self.inner.put(cluster_id, secret)).await
            }
            async fn delete(&self, cluster_id: &str) -> Result<(), StoreError> {
                self.call(self.inner.delete(cluster_id)).await
            }
        }

        #[async_trait]
        impl<T: Prober> Prober for $wrapper<T> {
            async fn probe(
                &self,
                credentials: &Credentials,
                namespaces: &Namespaces,
            ) -> Result<Findings, ProbeFailure> {
                let probe = async { Ok(self.inner.probe(credentials, namespaces).await) };
                self.call(probe).await.unwrap_or_else(|_| Err(failure()))
            }
        }

        #[async_trait]
        impl<T: Eks> Eks for $wrapper<T> {
            async fn credentials(&self, cluster: &EksCluster) -> Result<Credentials, EksError> {
                let told = async { Ok(self.inner.credentials(cluster).await) };
                self.call(told).await.unwrap_or_else(|error| Err(EksError::Transient(Box::new(error))))
            }
            fn role_allowed(&self, role_arn: &str) -> Result<(), String> {
                self.inner.role_allowed(role_arn)
            }
        }
    };
}

stores_through!(Faulty);
stores_through!(Stepped);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Job {
    Register(&'static str),
    /// To another address, with another token.
    Change(&'static str),
    /// From a token to EKS.
    Enter,
    Remove,
}

impl Job {
    async fn run(self, registrar: &Registrar) -> Result<(), RegisterError> {
        match self {
            Self::Register(token) => registrar.enrol(new("Prod EU", token)).await.map(drop),
            Self::Change(token) => {
                let change = Change { api_url: Some(OTHER_URL.to_owned()), ..rotation(token) };
                registrar.alter("prod-eu", change).await.map(drop)
            }
            Self::Enter => registrar.alter("prod-eu", by_eks()).await.map(drop),
            Self::Remove => registrar.remove("prod-eu").await,
        }
    }

    /// A refusal that says that it was done before.
    fn is_done(self, error: &RegisterError) -> bool {
        match self {
            Self::Register(_) => matches!(error, RegisterError::Taken { .. }),
            Self::Change(_) | Self::Enter => false,
            Self::Remove => matches!(error, RegisterError::Unknown),
        }
    }

    fn leaves(self) -> Option<&'static str> {
        match self {
            Self::Register(token) | Self::Change(token) => Some(token),
            Self::Enter | Self::Remove => None,
        }
    }
}

#[tokio::test]
async fn wherever_it_breaks_off_a_second_try_mends() {
    use Fault::{After, Before, CrashAfter, CrashBefore, Outage};
    let register = Job::Register("second");
    let change = Job::Change("second");
    let mut cases = 0;
    for (job, left, with_credentials) in [
        (register, None, false),
        (register, Some(RowState::Registering), false),
        (register, Some(RowState::Registering), true),
        (register, Some(RowState::Deleting), true),
        (register, Some(RowState::Deleting), false),
        (change, Some(RowState::Active), true),
        (change, Some(RowState::Updating), true),
        (Job::Enter, Some(RowState::Active), true),
        (Job::Enter, Some(RowState::Updating), true),
        (Job::Remove, Some(RowState::Active), true),
        (Job::Remove, Some(RowState::Active), false),
        (Job::Remove, Some(RowState::Registering), true),
        (Job::Remove, Some(RowState::Updating), true),
        (Job::Remove, Some(RowState::Deleting), true),
        (Job::Remove, Some(RowState::Deleting), false),
    ] {
        for fault in [Before, After, CrashBefore, CrashAfter, Outage] {
            for at in 1.. {
                let world = World::new();
                if let Some(state) = left {
                    world.registrar().enrol(new("Prod EU", "first")).await.unwrap();
                    world.leave(state).await;
                    if !with_credentials {
                        world.vault.delete("prod-eu").await.unwrap();
                    }
                    world.clock.advance(60);
                }
                let what = format!("{job:?} of {left:?} ({with_credentials}), {fault:?} at call {at}");
                let calls = Arc::new(AtomicUsize::new(0));
                let faulty = world.faulty(&calls, at, fault);
                let before = world.snapshot().await;
                // Nothing in memory has to wait, so what isn't ready now never will be.
                let first = job.run(&faulty).now_or_never();
                if calls.load(Ordering::SeqCst) < at {
                    assert!(first.unwrap().is_ok(), "{what}: it didn't get that far");
                    break;
                }
                cases += 1;
                world.no_stray_credentials(&what).await;
                if matches!(fault, CrashBefore | CrashAfter) {
                    assert!(first.is_none(), "{what}");
                } else {
                    let error = first.unwrap().expect_err(&what);
                    if matches!(error, RegisterError::ProbeFailed(_)) {
                        assert_eq!(world.snapshot().await, before, "{what}");
                    } else {
                        assert!(matches!(error, RegisterError::Unavailable { .. }), "{what}: {error:?}");
                    }
                    // When it says that there is no need to wait for a minute, there is none.
                    if error.retry_after_secs() == Some(RETRY_SOON_SECS) {
                        world.clock.advance(5);
                        job.run(&world.registrar()).await.expect(&what);
                        world.is_settled(&what).await;
                        continue;
                    }
                }

                let second = job.run(&world.registrar()).await;
                if let Err(error) = second {
                    let waits = matches!(error, RegisterError::Busy { .. });
                    assert!(waits || job.is_done(&error), "{what}: {error:?}");
                    world.no_stray_credentials(&what).await;
                    world.clock.advance(60);
                    if let Err(error) = job.run(&world.registrar()).await {
                        assert!(job.is_done(&error), "{what}: {error:?}");
                    }
                }
                world.is_settled(&what).await;
                assert_eq!(world.token().await.as_deref(), job.leaves(), "{what}");
            }
        }
    }
    assert!(cases > 350, "{cases}");
}

#[tokio::test]
async fn a_failed_write_of_credentials_is_taken_back_at_once() {
    let world = World::new();
    let failing = |at| {
        let calls = Arc::new(AtomicUsize::new(0));
        world.faulty(&calls, at, Fault::Before)
    };
    let error = failing(4).enrol(new("Prod EU", "t")).await.unwrap_err();
    assert_eq!(error.retry_after_secs(), Some(5));
    assert_eq!(world.row().await, None);

    world.registrar().enrol(new("Prod EU", "first")).await.unwrap();
    let before = world.row().await.unwrap();
    let error = failing(5).alter("prod-eu", rotation("second")).await.unwrap_err();
    assert_eq!(error.retry_after_secs(), Some(5));
    let after = world.row().await.unwrap();
    assert_ne!(before.nonce, after.nonce);
    assert_eq!(ClusterRow { nonce: before.nonce.clone(), ..after }, before);
}

/// Each order in which `a` and `b` steps of two can follow each other.
fn orders(a: usize, b: usize) -> Vec<Vec<usize>> {
    if a == 0 && b == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (who, (a, b)) in [(0, (a.checked_sub(1), Some(b))), (1, (Some(a), b.checked_sub(1)))] {
        if let (Some(a), Some(b)) = (a, b) {
            all.extend(orders(a, b).into_iter().map(|rest| [vec![who], rest].concat()));
        }
    }
    all
}

#[tokio::test]
async fn of_two_at_once_each_ends_whole_in_whatever_order_they_step() {
    let (register, change) = (Job::Register, Job::Change);
    for (registered, jobs) in [
        (false, [register("a"), register("b")]),
        (true, [register("a"), Job::Remove]),
        (true, [register("a"), change("b")]),
        (true, [change("a"), change("b")]),
        (true, [change("a"), Job::Remove]),
        (true, [change("a"), Job::Enter]),
        (true, [Job::Remove, Job::Remove]),
    ] {
        let steps = |job| match job {
            Job::Register(_) => 5,
            Job::Change(_) | Job::Remove => 6,
            Job::Enter => 7,
        };
        for order in orders(steps(jobs[0]), steps(jobs[1])) {
            let what = format!("{jobs:?} in the order {order:?}");
            let world = World::new();
            if registered {
                world.registrar().enrol(new("Prod EU", "first")).await.unwrap();
            }
            let gates = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
            let [one, other] = [0, 1].map(|who| {
                let registrar = world.stepped(&gates[who]);
                tokio::spawn(async move { jobs[who].run(&registrar).await })
            });
            for who in order {
                gates[who].add_permits(1);
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            }
            // Who took another way than expected goes to its end.
            gates.iter().for_each(|gate| gate.add_permits(10));
            let results = [one.await.unwrap(), other.await.unwrap()];
            world.is_settled(&what).await;

            let won: Vec<Job> = jobs
                .into_iter()
                .zip(&results)
                .filter(|(_, result)| result.is_ok())
                .map(|(job, _)| job)
                .collect();
            assert!(!won.is_empty(), "{what}: {results:?}");
            if jobs[0] == register("a") && jobs[1] == register("b") || jobs == [Job::Remove, Job::Remove] {
                assert_eq!(won.len(), 1, "{what}: {results:?}");
            }
            if let [winner] = won.as_slice() {
                assert_eq!(world.token().await.as_deref(), winner.leaves(), "{what}");
            }
            for result in results {
                use RegisterError::{Busy, Taken, Unknown};
                assert!(
                    matches!(result, Ok(()) | Err(Busy { .. } | Taken { .. } | Unknown)),
                    "{what}: {result:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_ends_in_an_answer() {
    let world = World::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let hanging = Faulty::new(&world.vault, &calls, 1, Fault::CrashBefore);
    let registrar = world.through(world.registry.clone(), hanging);
    let error = registrar.enrol(new("Prod EU", "t")).await.unwrap_err();
    assert!(matches!(error, RegisterError::Unavailable { retry_after_secs: 60, .. }), "{error:?}");
    assert_eq!(chain(&error).matches("could not be reached").count(), 1, "{}", chain(&error));
}

#[tokio::test]
async fn a_store_that_refuses_is_no_matter_of_trying_again() {
    struct Denied;
    #[async_trait]
    impl Vault for Denied {
        async fn get(&self, _: &str) -> Result<Option<ClusterSecret>, StoreError> {
            Err(StoreError::Broken { what: "denied".to_owned(), source: None })
        }
        async fn put(&self, _: &str, _: &ClusterSecret) -> Result<(), StoreError> {
            Err(StoreError::Broken { what: "denied".to_owned(), source: None })
        }
        async fn delete(&self, _: &str) -> Result<(), StoreError> {
            Ok(())
        }
    }
    let world = World::new();
    let registrar = world.through(world.registry.clone(), Arc::new(Denied));
    let error = registrar.enrol(new("Prod EU", "t")).await.unwrap_err();
    assert!(matches!(error, RegisterError::Broken(_)), "{error:?}");
    assert_eq!(error.retry_after_secs(), None);
    assert!(!error.to_string().contains("denied"), "the caller can't do anything about it");
    assert_eq!(world.row().await, None);
}

/// A sole subscriber is asked on its own thread alone whether a call site matters, and another thread that comes to the
/// call site first turns it off for all (tracing-core's `callsite`, `has_just_one`). Beside a second one all are asked.
static SECOND: LazyLock<tracing::Dispatch> =
    LazyLock::new(|| tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()));

/// Every log line of this thread, as long as it lives.
struct Logged {
    lines: Arc<Mutex<String>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Logged {
    fn from_now_on() -> Self {
        struct Subscriber(Arc<Mutex<String>>);
        impl tracing::Subscriber for Subscriber {
            fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
                true
            }
            fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
                tracing::span::Id::from_u64(1)
            }
            fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
            fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
            fn event(&self, event: &tracing::Event<'_>) {
                let mut line = format!("{event:?} ");
                let mut fields = |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                    line += &format!("{field}={value:?} ");
                };
                event.record(&mut fields);
                *self.0.lock().unwrap() += &format!("{line}\n");
            }
            fn enter(&self, _: &tracing::span::Id) {}
            fn exit(&self, _: &tracing::span::Id) {}
        }
        LazyLock::force(&SECOND);
        let lines = Arc::<Mutex<String>>::default();
        Self { lines: lines.clone(), _guard: tracing::subscriber::set_default(Subscriber(lines)) }
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn what_is_printed_holds_no_token() {
    let logged = Logged::from_now_on();
    let world = World::new();
    let registrar = world.registrar();
    let token = "sEcReT-token";
    let signed = jwt(r#"{"iss":"kubernetes","sub":"system:serviceaccount:a:b"}"#);
    let mut text = format!("{:?} {:?}", new("Prod EU", token), rotation(token));
    text += &format!("{:?}", registrar.enrol(new("Prod EU", token)).await);
    text += &format!("{:?}", registrar.enrol(new("Prod EU", token)).await);
    text += &format!("{:?}", registrar.alter("prod-eu", rotation(token)).await);
    text += &format!("{:?}", registrar.alter("prod-eu", rotation(&signed)).await);
    for (at, fault) in (1..9).flat_map(|at| [(at, Fault::Before), (at, Fault::Outage)]) {
        let faulty = world.faulty(&Arc::default(), at, fault);
        text += &format!("{:?}", faulty.alter("prod-eu", rotation(token)).await);
        text += &format!("{:?}", faulty.alter("prod-eu", by_eks()).await);
        text += &format!("{:?}", faulty.probe("prod-eu").await);
        text += &format!("{:?}", faulty.probe_all().await);
        world.clock.advance(60);
    }
    world.prober.fails();
    for result in [
        registrar.alter("prod-eu", rotation(token)).await,
        registrar.alter("prod-eu", by_eks()).await,
        registrar.probe("prod-eu").await,
    ] {
        text += &format!("{result:?} {}", result.as_ref().unwrap_err());
    }
    text += &format!("{:?} {:?}", world.row().await, world.secret().await);
    text += &format!("{:?} {:?}", world.events.attention(), world.prober.asked());
    text += &logged.text();
    assert!(!text.contains("sEcReT") && !text.contains("c2ln") && !text.contains("eyJ"), "{text}");
    assert!(text.contains("REDACTED") && text.contains("system:serviceaccount:a:b"));
    assert!(logged.text().contains("the probe failed") && logged.text().contains("prod-eu"));
}
