//! Probes over real sockets and TLS: what is found, each way of being wrong, and
//! servers that mean harm. Each test runs under a hard time limit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of a test fail it by panicking, as the tests do"
)]

use std::{
    collections::BTreeSet,
    future::Future,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kubernetes::{AddressPolicy, KubernetesClient, Timeouts};
use monitor::{
    namespaces::Namespaces,
    ports::{Credentials, Prober},
    probe::{Findings, LastProbe, Permission, ProbeFailure, ProbeReason},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use testkit::{CertificateKind, Config, Fault, Rule, SimulatedCluster};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJkYWctbW9uaXRvciJ9.dGhlLXNpZ25hdHVyZQ";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

/// A quick test of slowness, and a slow test of quickness.
const QUICK: Timeouts = Timeouts { connect: Duration::from_millis(300), request: Duration::from_millis(400) };
const PATIENT: Timeouts = Timeouts { connect: Duration::from_secs(10), request: Duration::from_secs(20) };

async fn limited<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(LIMIT, test).await.expect("within the time limit")
}

fn client(timeouts: Timeouts) -> KubernetesClient {
    let policy = AddressPolicy::parse("127.0.0.0/8,::1").unwrap();
    KubernetesClient::with_timeouts(policy, timeouts).unwrap()
}

fn credentials(cluster: &SimulatedCluster) -> Credentials {
    Credentials {
        api_url: cluster.api_url(),
        token: cluster.token(),
        ca_cert: Some(cluster.ca_pem().to_owned()),
        tls_server_name: None,
        personal: None,
    }
}

fn patterns(patterns: &[&str]) -> Namespaces {
    Namespaces::parse(patterns.iter().map(|it| (*it).to_owned()).collect()).unwrap()
}

async fn cluster(rules: Vec<Rule>) -> SimulatedCluster {
    SimulatedCluster::start(Config { rules, ..Config::default() }).await.unwrap()
}

async fn probed(cluster: &SimulatedCluster, namespaces: &Namespaces) -> Findings {
    client(PATIENT).probe(&credentials(cluster), namespaces).await.unwrap()
}

/// The probe as it is kept.
async fn kept(cluster: &SimulatedCluster) -> LastProbe {
    LastProbe::of(&probed(cluster, &Namespaces::default()).await, Timestamp::now())
}

async fn failed(credentials: &Credentials, timeouts: Timeouts) -> ProbeFailure {
    client(timeouts).probe(credentials, &Namespaces::default()).await.expect_err("a failure")
}

#[track_caller]
fn assert_told(failure: &ProbeFailure, reason: ProbeReason, detail: &str, help: &str) {
    assert_eq!(failure.reason, reason, "{failure:?}");
    assert!(failure.detail.contains(detail), "{detail}: {failure:?}");
    assert!(failure.help.contains(help), "{help}: {failure:?}");
}

#[tokio::test]
async fn the_guides_account_is_all_that_is_needed() {
    limited(async {
        let cluster = cluster(Rule::guide()).await;
        let findings = probed(&cluster, &Namespaces::default()).await;
        assert_eq!(findings.kubernetes_version, "v1.36.3");
        assert_eq!(findings.flux_installed, Some(true));
        let left = findings.server_certificate_not_after.unwrap().duration_since(Timestamp::now());
        assert!((364 * 24..=366 * 24).contains(&left.as_hours()), "{left}");
        let [scope] = &findings.scopes[..] else { panic!("{findings:?}") };
        assert_eq!(scope.namespace, None);
        assert_eq!((scope.get_helm_releases, scope.list_secrets), (Permission::Allowed, Permission::Allowed));
        assert_eq!(scope.beyond, Vec::<String>::new());
        assert_eq!(scope.rules.as_ref().unwrap().resources.len(), 4);
        let probe = LastProbe::of(&findings, Timestamp::now());
        assert_eq!((probe.reason, probe.warnings), (None, Vec::new()));

        // What is asked, and nothing else: no secret is read, nothing is written.
        let asked: BTreeSet<_> =
            cluster.requests().into_iter().map(|it| (it.method, it.path_and_query)).collect();
        let asked: Vec<_> = asked.iter().map(|(method, path)| (method.as_str(), path.as_str())).collect();
        assert_eq!(
            asked,
            [
                ("GET", "/apis/helm.toolkit.fluxcd.io/v2"),
                ("GET", "/version"),
                ("POST", REVIEWS),
                ("POST", RULES),
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn each_permission_beyond_the_need_is_warned_of() {
    limited(async {
        let core = |resource: &str, verb: &str| Rule::new(&[""], &[resource], &[verb]);
        for (rule, told) in [
            (core("secrets", "get"), "get secrets"),
            (core("secrets", "watch"), "watch secrets"),
            (core("secrets", "create"), "create secrets"),
            (core("secrets", "update"), "update secrets"),
            (core("secrets", "patch"), "patch secrets"),
            (core("secrets", "delete"), "delete secrets"),
            (core("pods", "create"), "create pods"),
            (core("pods/exec", "create"), "create pods/exec"),
            (core("serviceaccounts/token", "create"), "create serviceaccounts/token"),
            (core("users", "impersonate"), "impersonate users"),
            (
                Rule::new(&["helm.toolkit.fluxcd.io"], &["helmreleases"], &["patch"]),
                "patch helmreleases.helm.toolkit.fluxcd.io",
            ),
            // Known from the rules alone.
            (core("configmaps", "delete"), "delete configmaps"),
            (core("secrets", "get").named(&["one"]), "get secrets named one"),
            (Rule::new(&["apps"], &["*"], &["*"]), "do everything with all resources of apps"),
        ] {
            let cluster = cluster([Rule::guide(), vec![rule]].concat()).await;
            let warnings = kept(&cluster).await.warnings;
            let told = format!("the account may {told}, which dag-monitor does not need");
            assert_eq!(warnings, [told]);
            // The same where the rules aren't told, if it is one that is asked for.
            cluster
                .queue_fault(Fault::Status { code: 403, retry_after: None }, None, Some(RULES))
                .await
                .unwrap();
            let findings = probed(&cluster, &Namespaces::default()).await;
            assert_eq!(findings.scopes[0].rules, None);
            let blind = LastProbe::of(&findings, Timestamp::now()).warnings;
            assert_eq!(blind.len(), findings.scopes[0].beyond.len());
        }
    })
    .await;
}

#[tokio::test]
async fn cluster_admin_is_named() {
    limited(async {
        let cluster = cluster(vec![Rule::cluster_admin()]).await;
        let findings = probed(&cluster, &Namespaces::default()).await;
        assert_eq!(findings.scopes[0].beyond.len(), 12, "{findings:?}");
        let probe = LastProbe::of(&findings, Timestamp::now());
        assert!(
            matches!(&probe.warnings[..], [one] if one.contains("is cluster-admin")),
            "{:?}",
            probe.warnings
        );
    })
    .await;
}

#[tokio::test]
async fn an_account_of_single_namespaces_is_asked_about_each() {
    limited(async {
        let rules = Rule::guide().into_iter().map(|rule| rule.within(&["shop"])).collect();
        let cluster = cluster(rules).await;
        let findings = probed(&cluster, &patterns(&["web", "team-*", "shop"])).await;
        let told: Vec<_> = findings
            .scopes
            .iter()
            .map(|it| (it.namespace.as_deref().unwrap(), it.get_helm_releases, it.list_secrets))
            .collect();
        assert_eq!(
            told,
            [
                ("web", Permission::Denied, Permission::Denied),
                ("team-*", Permission::Unknown, Permission::Unknown),
                ("shop", Permission::Allowed, Permission::Allowed),
            ]
        );
        assert!(findings.scopes[1].rules.is_none() && findings.scopes[2].rules.is_some());
        let probe = LastProbe::of(&findings, Timestamp::now());
        assert!(
            matches!(&probe.warnings[..], [one] if one.starts_with("neither helmType can be judged in web;")),
            "{:?}",
            probe.warnings
        );

        // In all namespaces it has nothing, and a pattern that is all is all.
        let findings = probed(&cluster, &patterns(&["shop", "*"])).await;
        let [scope] = &findings.scopes[..] else { panic!("{findings:?}") };
        assert_eq!((scope.namespace.as_ref(), scope.list_secrets), (None, Permission::Denied));
        // Allowed in all namespaces is allowed in those of a pattern.
        cluster.set_rules(Rule::guide());
        let findings = probed(&cluster, &patterns(&["team-*"])).await;
        assert_eq!(findings.scopes[0].get_helm_releases, Permission::Allowed);
    })
    .await;
}

#[tokio::test]
async fn fifty_patterns_are_asked_side_by_side_on_few_connections() {
    limited(async {
        let cluster = cluster(Rule::guide()).await;
        let names: Vec<String> = (0..50).map(|n| format!("team-{n}")).collect();
        let namespaces = Namespaces::parse(names).unwrap();
        let findings = probed(&cluster, &namespaces).await;
        assert_eq!(findings.scopes.len(), 50);
        assert!(
            findings.scopes.iter().all(|it| it.list_secrets == Permission::Allowed && it.rules.is_some())
        );
        let traffic = cluster.traffic();
        assert!(traffic.accepted <= 20, "{traffic:?}");
    })
    .await;
}

#[tokio::test]
async fn a_refused_question_is_unknown_and_no_failure() {
    limited(async {
        for fault in [
            Fault::Status { code: 403, retry_after: None },
            Fault::Status { code: 500, retry_after: None },
            Fault::Html,
            Fault::Empty,
            Fault::BrokenJson,
            Fault::WrongKind,
            Fault::Nulls,
            Fault::Redirect { location: "https://login.example.com/".to_owned() },
            Fault::Huge { bytes: 10_000_000 },
            Fault::DeepNesting { depth: 1_000_000 },
            Fault::GzipBody { bytes: 100_000_000 },
            Fault::Truncated,
            Fault::Reset,
        ] {
            let cluster = cluster(Rule::guide()).await;
            cluster.queue_fault(fault.clone(), None, Some("/apis/*")).await.unwrap();
            let findings = probed(&cluster, &Namespaces::default()).await;
            let [scope] = &findings.scopes[..] else { panic!("{findings:?}") };
            assert_eq!(
                (scope.get_helm_releases, scope.list_secrets, scope.rules.as_ref(), findings.flux_installed),
                (Permission::Unknown, Permission::Unknown, None, None),
                "{fault:?}"
            );
            assert_eq!(scope.beyond, Vec::<String>::new(), "{fault:?}");
            let probe = LastProbe::of(&findings, Timestamp::now());
            assert!(probe.reason.is_none() && probe.warnings.is_empty(), "{probe:?}");
            assert!(probe.message.contains("is not known"), "{probe:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn slow_answers_end_the_probe_and_what_is_missing_is_unknown() {
    limited(async {
        for fault in [Fault::Silence, Fault::Endless, Fault::Trickle { every_ms: 100 }] {
            let cluster = cluster(Rule::guide()).await;
            cluster.queue_fault(fault.clone(), None, Some("/apis/*")).await.unwrap();
            let findings =
                client(QUICK).probe(&credentials(&cluster), &patterns(&["a", "b", "c"])).await.unwrap();
            assert!(findings.scopes.iter().all(|it| it.list_secrets == Permission::Unknown), "{fault:?}");
            assert_eq!(findings.kubernetes_version, "v1.36.3");
        }
    })
    .await;
}

#[tokio::test]
async fn a_cluster_without_flux() {
    limited(async {
        let cluster = cluster(Rule::guide()).await;
        cluster.set_flux_installed(false);
        let probe = kept(&cluster).await;
        assert_eq!(
            (probe.permissions[0].flux, probe.permissions[0].plain),
            (Permission::Denied, Permission::Allowed)
        );
        assert!(
            matches!(&probe.warnings[..], [one] if one.contains("not installed")),
            "{:?}",
            probe.warnings
        );
    })
    .await;
}

#[tokio::test]
async fn an_old_api_server() {
    limited(async {
        for (version, old) in [("v1.27.3+k3s1", true), ("v1.33.1-eks-1234567", false)] {
            let config = Config { git_version: version.to_owned(), ..Config::default() };
            let cluster = SimulatedCluster::start(config).await.unwrap();
            let probe = kept(&cluster).await;
            assert_eq!(probe.kubernetes_version.as_deref(), Some(version));
            assert_eq!(probe.warnings.iter().any(|it| it.contains("older than 1.28")), old, "{probe:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn answers_to_the_first_question_have_their_reasons() {
    limited(async {
        let status = |code| Fault::Status { code, retry_after: None };
        let to = "https://login.example.com:8443/start?code=hunter2#x".to_owned();
        for (fault, reason, detail, help) in [
            (status(401), ProbeReason::Unauthorized, "HTTP 401", "give a token"),
            (status(403), ProbeReason::Forbidden, "HTTP 403", "system:anonymous"),
            (status(404), ProbeReason::NotKubernetes, "HTTP 404", "kubectl cluster-info"),
            (status(429), ProbeReason::ServerError, "HTTP 429", "wait"),
            (status(500), ProbeReason::ServerError, "HTTP 500", "wait"),
            (status(503), ProbeReason::ServerError, "HTTP 503", "wait"),
            (Fault::Html, ProbeReason::HtmlAnswered, "a web page", "login page"),
            (
                Fault::Redirect { location: to },
                ProbeReason::Redirected,
                "redirects to login.example.com (HTTP 302)",
                "never followed",
            ),
            (
                Fault::Redirect { location: "/ui/".to_owned() },
                ProbeReason::Redirected,
                "redirects to 127.0.0.1",
                "never",
            ),
            (Fault::Empty, ProbeReason::NotKubernetes, "ends in the middle", "apiUrl"),
            (Fault::BrokenJson, ProbeReason::NotKubernetes, "ends in the middle", "apiUrl"),
            (Fault::WrongKind, ProbeReason::NotKubernetes, "no gitVersion", "apiUrl"),
            (Fault::Nulls, ProbeReason::NotKubernetes, "no gitVersion", "apiUrl"),
            (Fault::Huge { bytes: 100_000 }, ProbeReason::NotKubernetes, "more than 64 KiB", "apiUrl"),
            (
                Fault::GzipBody { bytes: 100_000_000 },
                ProbeReason::NotKubernetes,
                "more than 64 KiB",
                "apiUrl",
            ),
            (Fault::Endless, ProbeReason::NotKubernetes, "more than 64 KiB", "apiUrl"),
            (Fault::Reset, ProbeReason::Unreachable, "127.0.0.1", "firewalls"),
            (Fault::Truncated, ProbeReason::Unreachable, "broke off", "firewalls"),
            (Fault::NotTls, ProbeReason::NotKubernetes, "does not speak TLS", "plain HTTP"),
        ] {
            let cluster = cluster(Rule::guide()).await;
            cluster.queue_fault(fault.clone(), None, None).await.unwrap();
            let failure = failed(&credentials(&cluster), PATIENT).await;
            assert_told(&failure, reason, detail, help);
            assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
            let probe = LastProbe::failed(&failure, Timestamp::now());
            assert!(probe.reason == Some(reason) && probe.message.contains(detail), "{probe:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_does_not_answer_in_time() {
    limited(async {
        for fault in [Fault::NoHandshake, Fault::Silence, Fault::Trickle { every_ms: 200 }] {
            let cluster = cluster(Rule::guide()).await;
            cluster.queue_fault(fault, None, None).await.unwrap();
            let failure = failed(&credentials(&cluster), QUICK).await;
            assert_told(&failure, ProbeReason::TimedOut, "127.0.0.1", "firewalls");
        }
    })
    .await;
}

#[tokio::test]
async fn addresses_have_their_reasons() {
    limited(async {
        let cluster = cluster(Rule::guide()).await;
        let mut there = credentials(&cluster);
        cluster.set_fault(Some(Fault::Refuse)).await.unwrap();
        let failure = failed(&there, PATIENT).await;
        assert_told(&failure, ProbeReason::ConnectionRefused, "refused the connection", "6443");

        there.api_url = "https://no-such-cluster.invalid".to_owned();
        let failure = failed(&there, PATIENT).await;
        // A machine without DNS may say nothing instead of no.
        assert!(matches!(failure.reason, ProbeReason::DnsFailed | ProbeReason::TimedOut), "{failure:?}");
        assert!(failure.detail.contains("no-such-cluster.invalid"), "{failure:?}");

        // By what it is, and by what it resolves to.
        for (policy, api_url) in [
            ("", "https://127.0.0.1:6443"),
            ("", "https://2130706433"),
            ("", "https://[fd00:ec2::254]"),
            ("10.0.0.0/8", "https://192.168.0.1"),
            ("::1", "https://localhost:1"),
        ] {
            let mut credentials = credentials(&cluster);
            credentials.api_url = api_url.to_owned();
            let policy = AddressPolicy::parse(policy).unwrap();
            let client = KubernetesClient::with_timeouts(policy, PATIENT).unwrap();
            let failure = client.probe(&credentials, &Namespaces::default()).await.unwrap_err();
            // `localhost` may have ::1, where nobody listens.
            if failure.reason != ProbeReason::ConnectionRefused || api_url != "https://localhost:1" {
                assert_told(&failure, ProbeReason::AddressRefused, "", "AllowedApiServerCidrs");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_not_accepted() {
    limited(async {
        let cluster = cluster(Rule::guide()).await;
        let mut there = credentials(&cluster);
        there.token = TOKEN.into();
        let failure = failed(&there, PATIENT).await;
        assert_told(&failure, ProbeReason::Unauthorized, "HTTP 401", "give a token");
        // Whatever question it is that says so.
        let there = credentials(&cluster);
        let unauthorized = Fault::Status { code: 401, retry_after: None };
        for path in [REVIEWS, RULES, "/apis/helm.toolkit.fluxcd.io/v2"] {
            cluster.set_fault(None).await.unwrap();
            cluster.queue_fault(unauthorized.clone(), Some(1), Some(path)).await.unwrap();
            assert_eq!(failed(&there, PATIENT).await.reason, ProbeReason::Unauthorized, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn certificates_have_their_reasons() {
    limited(async {
        let cluster = cluster(Rule::guide()).await;
        let there = credentials(&cluster);
        cluster.set_certificate(CertificateKind::Expired);
        let failure = failed(&there, PATIENT).await;
        assert_told(&failure, ProbeReason::CertificateExpired, "has expired on", "renew");

        cluster.set_certificate(CertificateKind::WrongName);
        let failure = failed(&there, PATIENT).await;
        assert_told(
            &failure,
            ProbeReason::CertificateForAnotherName,
            "is not for 127.0.0.1; it is for elsewhere.invalid",
            "\"tlsServerName\": \"elsewhere.invalid\"",
        );
        let mut named = there.clone();
        named.tls_server_name = Some("elsewhere.invalid".to_owned());
        assert!(client(PATIENT).probe(&named, &Namespaces::default()).await.is_ok(), "as it was suggested");

        cluster.set_certificate(CertificateKind::OtherIssuer);
        let failure = failed(&there, PATIENT).await;
        let issuer = "it was issued by \"CN=another-cluster\", and its SHA-256 fingerprint is ";
        assert_told(&failure, ProbeReason::CertificateNotTrusted, issuer, "caCert");
        let fingerprint = failure.detail.split(' ').next_back().unwrap();
        let bytes: Vec<_> = fingerprint.split(':').collect();
        assert!(
            bytes.len() == 32 && bytes.iter().all(|it| u8::from_str_radix(it, 16).is_ok()),
            "{fingerprint}"
        );
        let mut public = there.clone();
        public.ca_cert = None;
        let failure = failed(&public, PATIENT).await;
        assert_told(&failure, ProbeReason::CertificateNotTrusted, "not a public one", "give the CA");

        // Nothing was asked of any of them but the one that was suggested and let in.
        let cluster = self::cluster(Rule::guide()).await;
        for kind in [CertificateKind::Expired, CertificateKind::WrongName, CertificateKind::OtherIssuer] {
            cluster.set_certificate(kind);
            failed(&credentials(&cluster), PATIENT).await;
        }
        assert_eq!(cluster.requests().len(), 0, "the token was sent to nobody");
    })
    .await;
}

/// What a raw server does with a request.
type Reply = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// A server of the test's own, for what the simulated cluster can't do.
struct Raw {
    credentials: Credentials,
    asked: Arc<Mutex<Vec<String>>>,
    accepts: Arc<AtomicUsize>,
    fingerprint: String,
    task: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a raw server's certificate is made.
struct Made<'a> {
    names: &'a [&'a str],
    first_year: i32,
    issuer: &'a str,
    /// Whether the server shows its CA's own.
    shows_ca: bool,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Self { names: &["127.0.0.1"], first_year: 2000, issuer: "ca", shows_ca: false }
    }
}

impl Raw {
    async fn start(made: Made<'_>, reply: Reply) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let names: Vec<String> = made.names.iter().map(|it| (*it).to_owned()).collect();
        let mut ca = CertificateParams::new(names.clone()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, made.issuer);
        let root = ca.self_signed(&ca_key).unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(made.first_year, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        let (certificate, key) = if made.shows_ca {
            (root.clone(), ca_key)
        } else {
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap(), key)
        };
        let der = certificate.der().clone();
        let digest = <sha2::Sha256 as sha2::Digest>::digest(&der);
        let fingerprint = digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, accepts) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let reply = Arc::new(reply);
        let task = tokio::spawn({
            let (asked, accepts) = (asked.clone(), accepts.clone());
            async move {
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    accepts.fetch_add(1, Ordering::SeqCst);
                    let (tls, asked, reply) = (tls.clone(), asked.clone(), reply.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = tls.accept(tcp).await else { return };
                        serve(stream, &asked, &reply).await;
                    });
                }
            }
        });
        let credentials = Credentials {
            api_url: format!("https://127.0.0.1:{port}"),
            token: TOKEN.into(),
            ca_cert: Some(root.pem()),
            tls_server_name: None,
            personal: None,
        };
        Self { credentials, asked, accepts, fingerprint, task }
    }
}

async fn serve(mut stream: TlsStream<TcpStream>, asked: &Mutex<Vec<String>>, reply: &Reply) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let lower = head.to_ascii_lowercase();
        let length =
            lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let whole = format!("{head}{}", String::from_utf8_lossy(&body));
        let answer = reply(&whole);
        asked.lock().unwrap().push(whole);
        if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

fn http(status: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

#[tokio::test]
async fn certificates_that_no_cluster_shows() {
    limited(async {
        let reply = || -> Reply { Box::new(|_| http("200 OK", &json!({"gitVersion": "v1.36.3"}))) };
        let coming = Raw::start(Made { first_year: 2090, ..Made::default() }, reply()).await;
        let failure = failed(&coming.credentials, PATIENT).await;
        assert_told(&failure, ProbeReason::CertificateExpired, "not valid before 2090-01-01", "clock");

        // No name that can be asked for in a handshake: nothing to suggest.
        for (names, told) in [
            (&["10.0.0.1", "*.example.com"][..], "is for 10.0.0.1, *.example.com"),
            (
                &[
                    "10.0.0.1",
                    "10.0.0.2",
                    "10.0.0.3",
                    "10.0.0.4",
                    "10.0.0.5",
                    "10.0.0.6",
                    "10.0.0.7",
                    "10.0.0.8",
                    "10.0.0.9",
                    "10.0.0.10",
                    "10.0.0.11",
                ][..],
                "10.0.0.10, …",
            ),
            (&[][..], "is for no name"),
        ] {
            let server = Raw::start(Made { names, ..Made::default() }, reply()).await;
            let failure = failed(&server.credentials, PATIENT).await;
            assert_told(&failure, ProbeReason::CertificateForAnotherName, told, "give an apiUrl by");
            assert!(!failure.help.contains("\"tlsServerName\""), "{failure:?}");
        }
        // The first that can be.
        let names = &["*.example.com", "10.0.0.1", "kubernetes.default.svc"];
        let server = Raw::start(Made { names, ..Made::default() }, reply()).await;
        let failure = failed(&server.credentials, PATIENT).await;
        assert!(failure.help.contains("\"tlsServerName\": \"kubernetes.default.svc\""), "{failure:?}");

        let itself = Raw::start(Made { shows_ca: true, ..Made::default() }, reply()).await;
        let failure = failed(&itself.credentials, PATIENT).await;
        assert_told(&failure, ProbeReason::CertificateNotTrusted, "a CA's own", "a certificate of its own");

        // The fingerprint is that of what was shown, and a name is only words.
        let issuer = "x\u{1b}[31m\n\"evil\" ".repeat(100);
        let named = Raw::start(Made { issuer: &issuer, ..Made::default() }, reply()).await;
        let stranger = Raw::start(Made::default(), reply()).await;
        let credentials =
            Credentials { ca_cert: stranger.credentials.ca_cert.clone(), ..named.credentials.clone() };
        let failure = failed(&credentials, PATIENT).await;
        assert_told(&failure, ProbeReason::CertificateNotTrusted, &named.fingerprint, "fingerprint");
        assert!(!failure.detail.contains(char::is_control) && failure.detail.len() < 800, "{failure:?}");
        for server in [&coming, &itself, &named, &stranger] {
            assert_eq!(server.asked.lock().unwrap().len(), 0, "nothing was sent");
        }
    })
    .await;
}

/// The token and its base64, whole and by piece, wherever it begins.
fn assert_no_token(text: &str) {
    for form in [
        TOKEN.to_owned(),
        STANDARD.encode(TOKEN),
        STANDARD.encode(format!("x{TOKEN}"))[4..].to_owned(),
        STANDARD.encode(format!("xy{TOKEN}"))[4..].to_owned(),
    ] {
        let leaked =
            form.as_bytes().windows(20).any(|it| text.as_bytes().windows(20).any(|shown| shown == it));
        assert!(!leaked, "{text}");
    }
}

#[tokio::test]
async fn the_token_is_in_no_text_even_if_the_server_says_it() {
    limited(async {
        let words = format!("{} you sent {TOKEN}, or {}", "x ".repeat(480), STANDARD.encode(TOKEN));
        for (code, reason) in [
            ("401 Unauthorized", ProbeReason::Unauthorized),
            ("403 Forbidden", ProbeReason::Forbidden),
            ("404 Not Found", ProbeReason::NotKubernetes),
            ("500 Internal Server Error", ProbeReason::ServerError),
            ("302 Found", ProbeReason::Redirected),
        ] {
            let body = json!({"kind": "Status", "message": &words});
            let reply: Reply = Box::new(move |_| {
                let location = format!("HTTP/1.1 {code}\r\nLocation: https://{TOKEN}.example.com/{TOKEN}\r\n");
                let answer = String::from_utf8(http(code, &body)).unwrap();
                answer.replacen(&format!("HTTP/1.1 {code}\r\n"), &location, 1).into_bytes()
            });
            let server = Raw::start(Made::default(), reply).await;
            let failure = failed(&server.credentials, PATIENT).await;
            assert_eq!(failure.reason, reason, "{failure:?}");
            assert_no_token(&format!("{failure:?}"));
            let probe = LastProbe::failed(&failure, Timestamp::now());
            assert_no_token(&serde_json::to_string(&probe).unwrap());
        }

        // In answers that are good.
        let reply: Reply = Box::new(|head| {
            let rule = json!({"verbs": [TOKEN], "apiGroups": [TOKEN], "resources": [TOKEN], "resourceNames": [TOKEN]});
            let body = if head.contains("/version ") {
                json!({"gitVersion": format!("v1.36.3+{TOKEN}")})
            } else if head.contains("rulesreviews") {
                json!({"kind": "SelfSubjectRulesReview", "status": {"resourceRules": [rule]}})
            } else {
                json!({"kind": "SelfSubjectAccessReview", "status": {"allowed": true, "reason": TOKEN}})
            };
            http("200 OK", &body)
        });
        let server = Raw::start(Made::default(), reply).await;
        let findings = client(PATIENT).probe(&server.credentials, &Namespaces::default()).await.unwrap();
        assert_no_token(&format!("{findings:?}"));
        assert!(findings.kubernetes_version.starts_with("v1.36.3+[redacted]"), "{findings:?}");
        let probe = LastProbe::of(&findings, Timestamp::now());
        assert_no_token(&serde_json::to_string(&probe).unwrap());

        // It is sent in one header, and nowhere else.
        for asked in server.asked.lock().unwrap().iter() {
            assert_eq!(asked.matches(TOKEN).count(), 1, "{asked}");
            assert!(asked.contains(&format!("authorization: Bearer {TOKEN}\r\n")), "{asked}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_hostile_cluster_is_bounded() {
    limited(async {
        // Rules without end, of absurd width.
        let reply: Reply = Box::new(|head| {
            let body = if head.contains("/version ") {
                json!({"gitVersion": "v".repeat(10_000)})
            } else if head.contains("rulesreviews") {
                let words: Vec<_> = (0..500).map(|n| format!("w{n}")).collect();
                let rule = json!({"verbs": words, "apiGroups": words, "resources": words});
                json!({"kind": "SelfSubjectRulesReview", "status": {"resourceRules": vec![rule; 20]}})
            } else {
                json!({"kind": "SelfSubjectAccessReview", "status": {"allowed": false}})
            };
            http("200 OK", &body)
        });
        let server = Raw::start(Made::default(), reply).await;
        let findings = client(PATIENT).probe(&server.credentials, &Namespaces::default()).await.unwrap();
        assert!(findings.kubernetes_version.len() <= 100);
        let rules = findings.scopes[0].rules.as_ref().unwrap();
        assert!(rules.incomplete && rules.resources.iter().all(|it| it.verbs.len() <= 100));
        let probe = LastProbe::of(&findings, Timestamp::now());
        assert_eq!(probe.warnings.len(), 20);
        assert!(serde_json::to_string(&probe).unwrap().len() < 24 * 1024);
        assert!(server.accepts.load(Ordering::SeqCst) <= 20);
    })
    .await;
}

const CHILD: &str = "DAG_MONITOR_TEST_PROXIED";

/// Runs only as the child of the test below, with proxies in its environment.
#[tokio::test]
async fn child_with_proxies_in_its_environment() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    limited(async {
        let cluster = cluster(Rule::guide()).await;
        assert_eq!(kept(&cluster).await.reason, None);
        // What the environment says does count for a client that was not told otherwise.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let usual = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        assert!(usual.get(cluster.api_url()).send().await.is_err());
    })
    .await;
}

#[tokio::test]
async fn proxies_of_the_environment_are_ignored() {
    limited(async {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", proxy.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counting = tokio::spawn({
            let connections = connections.clone();
            async move {
                loop {
                    let (mut tcp, _) = proxy.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::SeqCst);
                    let _ = tcp.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
                }
            }
        });
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child_with_proxies_in_its_environment", "--nocapture"]).env(CHILD, "1");
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            child.env(name, &address);
        }
        child.env_remove("NO_PROXY").env_remove("no_proxy");
        let done = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && told.contains("1 passed"), "{told}");
        assert_eq!(connections.load(Ordering::SeqCst), 1, "the usual client's, and none of ours");
        counting.abort();
    })
    .await;
}
