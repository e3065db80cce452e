//! The client against real TLS sockets: what is on the wire, and every way an
//! answer can go wrong. Each test runs under a hard time limit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of a test fail it by panicking, as the tests do"
)]

use std::{
    future::Future,
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use kubernetes::{AddressPolicy, KubernetesClient, Timeouts};
use monitor::ports::{Clusters, Credentials};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use verdict::{AskError, AskErrorKind, Payload, ReleaseStatus};

const LIMIT: Duration = Duration::from_secs(30);
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJkYWctbW9uaXRvciJ9.dGhlLXNpZ25hdHVyZQ";

/// A quick test of slowness, and a slow test of quickness.
const QUICK: Timeouts = Timeouts { connect: Duration::from_millis(300), request: Duration::from_millis(400) };
const PATIENT: Timeouts = Timeouts { connect: Duration::from_secs(10), request: Duration::from_secs(20) };

async fn limited<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(LIMIT, test).await.expect("within the time limit")
}

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn server(&self, names: &[&str], last_year: i32) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
                .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What the server does with a request.
#[derive(Clone)]
enum Reply {
    /// Sends these bytes, and waits for the next request.
    Bytes(Vec<u8>),
    /// Sends these bytes, and closes.
    Last(Vec<u8>),
    /// Sends the first, then the second again and again.
    Endless(Vec<u8>, Vec<u8>),
    /// Sends these bytes, and then nothing.
    Silence(Vec<u8>),
    /// Resets the connection.
    Reset,
}

/// A server that replies as the test says.
struct Server {
    port: u16,
    accepts: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<String>>>,
    names: Arc<Mutex<Vec<Option<String>>>>,
    task: JoinHandle<()>,
    ca: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        let authority = Authority::new();
        let tls = authority.server(&["localhost", "127.0.0.1"], 2100);
        Self::start_with(&authority, tls, reply).await
    }

    async fn start_with(
        authority: &Authority,
        tls: TlsAcceptor,
        reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepts = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let names = Arc::new(Mutex::new(Vec::new()));
        let reply = Arc::new(reply);
        let task = tokio::spawn({
            let (accepts, asked, names) = (accepts.clone(), asked.clone(), names.clone());
            async move {
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    accepts.fetch_add(1, Ordering::SeqCst);
                    let (tls, reply, asked, names) =
                        (tls.clone(), reply.clone(), asked.clone(), names.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = tls.accept(tcp).await else { return };
                        names.lock().unwrap().push(stream.get_ref().1.server_name().map(str::to_owned));
                        serve(stream, &asked, &*reply).await;
                    });
                }
            }
        });
        Self { port, accepts, asked, names, task, ca: authority.pem.clone() }
    }

    fn credentials(&self) -> Credentials {
        Credentials {
            api_url: format!("https://127.0.0.1:{}", self.port),
            token: TOKEN.into(),
            ca_cert: Some(self.ca.clone()),
            tls_server_name: None,
            personal: None,
        }
    }

    fn accepts(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TlsStream<TcpStream>,
    asked: &Mutex<Vec<String>>,
    reply: &(dyn Fn(usize, &str) -> Reply + Send + Sync),
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let number = {
            let mut asked = asked.lock().unwrap();
            asked.push(head.clone());
            asked.len() - 1
        };
        match reply(number, &head) {
            Reply::Bytes(bytes) => {
                if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Reply::Last(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Reply::Endless(start, more) => {
                let _ = stream.write_all(&start).await;
                while stream.write_all(&more).await.is_ok() {}
                return;
            }
            Reply::Silence(start) => {
                let _ = stream.write_all(&start).await;
                let _ = stream.flush().await;
                std::future::pending::<()>().await;
            }
            Reply::Reset => {
                stream.get_ref().0.set_zero_linger().unwrap();
                return;
            }
        }
    }
}

fn http(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn json_answer(body: &Value) -> Vec<u8> {
    let headers = "Content-Type: application/json\r\nDate: Mon, 23 Nov 2026 19:15:45 GMT\r\n";
    http("200 OK", headers, &serde_json::to_vec(body).unwrap())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn helm_release() -> Value {
    json!({
        "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease",
        "metadata": {"namespace": "shop", "name": "checkout", "generation": 3},
    })
}

fn status(code: u16, reason: &str, message: &str) -> Vec<u8> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    let headers = "Content-Type: application/json\r\n";
    http(&format!("{code} {reason}"), headers, &serde_json::to_vec(&body).unwrap())
}

fn client(timeouts: Timeouts) -> KubernetesClient {
    let policy = AddressPolicy::parse("127.0.0.0/8,::1").unwrap();
    KubernetesClient::with_timeouts(policy, timeouts).unwrap()
}

/// Asks for the HelmRelease `shop/checkout`; the object's generation, if there is one.
async fn ask(client: &KubernetesClient, credentials: &Credentials) -> Result<Option<i64>, AskError> {
    let answer = client.helm_release(credentials, "shop", "checkout").await?;
    Ok(answer.value.and_then(|object| object.metadata.generation))
}

/// Starts a server that always replies so, and asks it once.
async fn refused(reply: Reply) -> AskError {
    let server = Server::start(move |_, _| reply.clone()).await;
    ask(&client(PATIENT), &server.credentials()).await.expect_err("a refusal")
}

#[tokio::test]
async fn the_request_on_the_wire() {
    limited(async {
        let server = Server::start(|_, _| Reply::Bytes(json_answer(&helm_release()))).await;
        let mut credentials = server.credentials();
        credentials.api_url.push_str("/k8s/clusters/c-1/");
        credentials.token = format!("{TOKEN}\n").into();
        let answer = client(PATIENT).helm_release(&credentials, "shop", "checkout").await.unwrap();
        assert_eq!(answer.value.unwrap().metadata.generation, Some(3));
        assert_eq!(answer.date, "2026-11-23T19:15:45Z".parse().ok());
        let asked = server.asked()[0].to_ascii_lowercase();
        let path = "/k8s/clusters/c-1/apis/helm.toolkit.fluxcd.io/v2/namespaces/shop/helmreleases/checkout";
        assert!(asked.starts_with(&format!("get {path} http/1.1\r\n")), "{asked}");
        for header in [
            format!("authorization: bearer {}\r\n", TOKEN.to_ascii_lowercase()),
            "accept: application/json\r\n".to_owned(),
            "accept-encoding: gzip\r\n".to_owned(),
            format!("host: 127.0.0.1:{}\r\n", server.port),
            "user-agent: dag-monitor/".to_owned(),
        ] {
            assert!(asked.contains(&header), "{header} in {asked}");
        }
        assert!(
            !asked.contains("resourceversion") && !asked.contains("cookie") && !asked.contains("referer")
        );
    })
    .await;
}

#[tokio::test]
async fn an_answer_without_a_date_or_with_a_broken_one() {
    limited(async {
        for date in ["", "Date: yesterday\r\n", "Date: \u{80}\r\n"] {
            let bytes = http("200 OK", date, &serde_json::to_vec(&helm_release()).unwrap());
            let server = Server::start(move |_, _| Reply::Bytes(bytes.clone())).await;
            let answer =
                client(PATIENT).helm_release(&server.credentials(), "shop", "checkout").await.unwrap();
            assert!(answer.value.is_some() && answer.date.is_none(), "{date:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_kept_even_when_the_token_rotates() {
    limited(async {
        let server = Server::start(|n, _| {
            Reply::Bytes(if n % 2 == 0 {
                json_answer(&helm_release())
            } else {
                status(403, "Forbidden", "no")
            })
        })
        .await;
        let client = client(PATIENT);
        let mut credentials = server.credentials();
        for n in 0..10 {
            credentials.token = format!("{TOKEN}-{n}").into();
            let _ = ask(&client, &credentials).await;
        }
        assert_eq!((server.accepts(), server.asked().len()), (1, 10));
    })
    .await;
}

#[tokio::test]
async fn forty_targets_on_one_cluster_need_no_new_connection_at_the_next_poll() {
    limited(async {
        let server = Server::start(|_, _| Reply::Bytes(json_answer(&helm_release()))).await;
        let (client, credentials) = (Arc::new(client(PATIENT)), server.credentials());
        let poll = || async {
            let asked: Vec<_> = (0..40)
                .map(|_| {
                    let (client, credentials) = (client.clone(), credentials.clone());
                    tokio::spawn(async move { ask(&client, &credentials).await })
                })
                .collect();
            for task in asked {
                assert_eq!(task.await.unwrap(), Ok(Some(3)));
            }
        };
        poll().await;
        let first = server.accepts();
        poll().await;
        assert_eq!(server.accepts(), first);
    })
    .await;
}

#[tokio::test]
async fn a_cluster_is_asked_forty_questions_at_once_at_most() {
    limited(async {
        let server = Server::start(|_, _| Reply::Silence(Vec::new())).await;
        let (client, credentials) = (Arc::new(client(PATIENT)), server.credentials());
        let mut asking = JoinSet::new();
        for _ in 0..100 {
            let (client, credentials) = (client.clone(), credentials.clone());
            asking.spawn(async move { ask(&client, &credentials).await });
        }
        while server.asked().len() < 40 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Whoever is let through beyond these is on the way already.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(server.asked().len(), 40);
    })
    .await;
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced_at_once() {
    limited(async {
        let server = Server::start(|n, _| match n {
            1 => Reply::Reset,
            _ => Reply::Bytes(json_answer(&helm_release())),
        })
        .await;
        let (client, credentials) = (client(PATIENT), server.credentials());
        for _ in 0..2 {
            assert_eq!(ask(&client, &credentials).await, Ok(Some(3)));
        }
        assert_eq!((server.accepts(), server.asked().len()), (2, 3));
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_unreachable_after_one_more_try() {
    limited(async {
        let server = Server::start(|_, _| Reply::Reset).await;
        let error = ask(&client(PATIENT), &server.credentials()).await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::Unreachable);
        assert!(error.message.contains("reset") || error.message.contains("broke off"), "{error:?}");
        assert_eq!(server.accepts(), 2);
    })
    .await;
}

#[tokio::test]
async fn refused_by_nobody_listening() {
    limited(async {
        let server = Server::start(|_, _| Reply::Reset).await;
        let mut credentials = server.credentials();
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = unused.local_addr().unwrap().port();
        drop(unused);
        credentials.api_url = format!("https://127.0.0.1:{port}");
        let error = ask(&client(PATIENT), &credentials).await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::Unreachable);
        assert_eq!(error.message, format!("127.0.0.1:{port} refused the connection"));
    })
    .await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    limited(async {
        let server = Server::start(|_, _| Reply::Reset).await;
        let mut credentials = server.credentials();
        credentials.api_url = "https://no-such-cluster.invalid".to_owned();
        let error = ask(&client(PATIENT), &credentials).await.unwrap_err();
        // A machine without DNS may say nothing instead of no.
        assert!(matches!(error.kind, AskErrorKind::Unreachable | AskErrorKind::Slow), "{error:?}");
        assert!(error.message.contains("no-such-cluster.invalid"), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn silence_is_slow_wherever_it_begins() {
    limited(async {
        for start in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"kind\":",
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\n{",
        ] {
            let server = Server::start(move |_, _| Reply::Silence(start.to_vec())).await;
            let error = ask(&client(QUICK), &server.credentials()).await.unwrap_err();
            assert_eq!(error.kind, AskErrorKind::Slow, "{error:?}");
            assert!(error.message.contains("within 0.4 s"), "{error:?}");
        }
        // Silence in the handshake.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(|_, _| Reply::Reset).await;
        let mut credentials = server.credentials();
        credentials.api_url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let error = ask(&client(QUICK), &credentials).await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::Slow);
        assert!(error.message.starts_with("no connection to 127.0.0.1:"), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn bodies_end_at_their_bound() {
    limited(async {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let mut chunk = b"10000\r\n".to_vec();
        chunk.extend_from_slice(&[b' '; 0x10000]);
        chunk.extend_from_slice(b"\r\n");
        let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n".to_vec();
        let bomb = http("200 OK", "Content-Encoding: gzip\r\n", &gzip(&vec![b' '; 32 << 20]));
        assert!(bomb.len() < 64_000);
        for reply in [
            Reply::Endless(chunked, chunk),
            Reply::Endless(announced, vec![b' '; 0x10000]),
            Reply::Bytes(bomb),
        ] {
            let server = Server::start(move |_, _| reply.clone()).await;
            let (client, credentials) = (client(PATIENT), server.credentials());
            let error = ask(&client, &credentials).await.unwrap_err();
            assert_eq!(error.kind, AskErrorKind::NotKubernetes);
            assert_eq!(error.message, "the answer is larger than 2 MiB");
            let error = client.revisions(&credentials, "shop", "checkout").await.unwrap_err();
            assert_eq!(error.message, "the answer is larger than 8 MiB");
            let answer = client.payload(&credentials, "shop", "s").await.unwrap().value;
            assert_eq!(answer, Payload::Unreadable("the payload of s is larger than 4 MiB".to_owned()));
        }
    })
    .await;
}

#[tokio::test]
async fn an_endless_refusal_keeps_its_status() {
    limited(async {
        let start = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 104857600\r\n\r\n".to_vec();
        let error = refused(Reply::Endless(start, vec![b'x'; 0x10000])).await;
        assert_eq!(error.kind, AskErrorKind::ServerError);
        assert!(error.message.starts_with("HTTP 503 Service Unavailable: "), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn forty_large_answers_all_arrive() {
    limited(async {
        // Far more than may be in memory at once. No JSON, so that reading it ends
        // at the first byte and only the transport takes time.
        let large = http("200 OK", "", &vec![b'!'; 1 << 20]);
        let server = Server::start(move |_, _| Reply::Bytes(large.clone())).await;
        let (client, credentials) = (Arc::new(client(PATIENT)), server.credentials());
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let (client, credentials) = (client.clone(), credentials.clone());
                tokio::spawn(async move { ask(&client, &credentials).await })
            })
            .collect();
        for task in tasks {
            let error = task.await.unwrap().unwrap_err();
            assert!(error.message.contains("broken JSON"), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn gzip_is_accepted_and_broken_gzip_is_not() {
    limited(async {
        let packed = gzip(&serde_json::to_vec(&helm_release()).unwrap());
        let good = http("200 OK", "Content-Encoding: gzip\r\n", &packed);
        let server = Server::start(move |_, _| Reply::Bytes(good.clone())).await;
        assert_eq!(ask(&client(PATIENT), &server.credentials()).await, Ok(Some(3)));

        let garbled = http("200 OK", "Content-Encoding: gzip\r\n", b"this is no gzip at all, is it?");
        let error = refused(Reply::Bytes(garbled)).await;
        assert_eq!(error.kind, AskErrorKind::NotKubernetes, "{error:?}");
        assert!(error.message.contains("broken gzip"), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_breaks_off() {
    limited(async {
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"kind\":".to_vec();
        let error = refused(Reply::Last(cut)).await;
        assert_eq!(error.kind, AskErrorKind::Unreachable, "{error:?}");
        assert!(error.message.contains("broke off"), "{error:?}");
        let error = refused(Reply::Last(Vec::new())).await;
        assert_eq!(error.kind, AskErrorKind::Unreachable, "{error:?}");
        let error = refused(Reply::Last(b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec())).await;
        assert_eq!(error.kind, AskErrorKind::NotKubernetes, "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn answers_of_something_else() {
    limited(async {
        let html = http("200 OK", "Content-Type: text/html\r\n", b"<html>Sign in</html>");
        let broken = http(
            "200 OK",
            "",
            br#"{"kind":"HelmRelease","apiVersion":"helm.toolkit.fluxcd.io/v2","metadata":{"#,
        );
        let other =
            json_answer(&json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "checkout"}}));
        let teapot = http("418 I'm a teapot", "Content-Type: text/plain\r\n", b"short and stout");
        for (bytes, words) in [
            (html, "a web page"),
            (broken, "ends in the middle"),
            (other, "of kind \"Pod\""),
            (teapot, "HTTP 418 I'm a teapot: short and stout"),
        ] {
            let error = refused(Reply::Bytes(bytes)).await;
            assert_eq!(error.kind, AskErrorKind::NotKubernetes, "{error:?}");
            assert!(error.message.contains(words), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    limited(async {
        let elsewhere = Server::start(|_, _| Reply::Bytes(json_answer(&helm_release()))).await;
        for code in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
        {
            let location = format!("Location: https://127.0.0.1:{}/?token=x\r\n", elsewhere.port);
            let error = refused(Reply::Bytes(http(code, &location, b""))).await;
            assert_eq!(error.kind, AskErrorKind::NotKubernetes);
            assert!(error.message.contains("redirects are not followed"), "{error:?}");
            assert!(!error.message.contains("token=x"), "{error:?}");
        }
        assert_eq!(elsewhere.accepts(), 0);
    })
    .await;
}

#[tokio::test]
async fn refusals_have_their_kind() {
    limited(async {
        for (bytes, kind, words) in [
            (status(401, "Unauthorized", "Unauthorized"), AskErrorKind::Unauthorized, "HTTP 401"),
            (status(403, "Forbidden", "cannot get"), AskErrorKind::Forbidden, "cannot get"),
            (status(429, "TooManyRequests", "slowly"), AskErrorKind::Throttled, "slowly"),
            (status(500, "InternalError", "etcd is away"), AskErrorKind::ServerError, "etcd is away"),
            (http("503 Service Unavailable", "", b"<html/>"), AskErrorKind::ServerError, "HTTP 503"),
            (
                http("404 Not Found", "Content-Type: text/plain; charset=utf-8\r\n", b"404 page not found\n"),
                AskErrorKind::FluxNotInstalled,
                "404 page not found",
            ),
            (
                http("404 Not Found", "Content-Type: text/html\r\n", b"<h1>?</h1>"),
                AskErrorKind::NotKubernetes,
                "404",
            ),
        ] {
            let error = refused(Reply::Bytes(bytes)).await;
            assert_eq!(error.kind, kind, "{error:?}");
            assert!(error.message.contains(words), "{error:?}");
        }
        let absent = status(404, "NotFound", "helmreleases \"checkout\" not found");
        let server = Server::start(move |_, _| Reply::Bytes(absent.clone())).await;
        assert_eq!(ask(&client(PATIENT), &server.credentials()).await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn a_message_never_holds_the_token() {
    limited(async {
        let echoes = [
            TOKEN.to_owned(),
            TOKEN[..40].to_owned(),
            STANDARD.encode(TOKEN),
            // Without the part that is the same for everybody.
            STANDARD.encode(format!("Authorization: Bearer {TOKEN}"))[32..].to_owned(),
        ];
        for echo in echoes {
            // Where the cut falls must not matter.
            for before in [0, 950, 1000] {
                let words = format!("{}bad token {echo} was sent", "x ".repeat(before / 2));
                let error = refused(Reply::Bytes(status(401, "Unauthorized", &words))).await;
                assert_eq!(error.kind, AskErrorKind::Unauthorized);
                assert!(error.message.len() <= verdict::MESSAGE_BYTES);
                let leaked = echo
                    .as_bytes()
                    .windows(20)
                    .any(|piece| error.message.as_bytes().windows(20).any(|shown| shown == piece));
                assert!(!leaked, "{}", error.message);
            }
        }
        let error = refused(Reply::Bytes(status(403, "Forbidden", "a\u{1b}[31mb\nc"))).await;
        assert_eq!(error.message, "HTTP 403 Forbidden: a [31mb c");
    })
    .await;
}

/// A decoder's words as an API server sends them and as Flux and Helm pass them on,
/// with the quotation before, across and behind the cut of a message.
#[tokio::test]
async fn neighbouring_data_that_a_decoder_quotes_is_in_no_message() {
    limited(async {
        for before in [0, 300, 900, 960, 1000, 1100] {
            let words = format!(
                "{}Helm upgrade failed for release shop/checkout with chart checkout@1.4.0: Secret in version \
                 \"v1\" cannot be handled as a Secret: v1.Secret.Data: base64Codec: invalid input, error found in \
                 #10 byte of ...|tes\":{{\"p\":\"hunter2\"}}|..., bigger context \
                 ...|{{\"apiVersion\":\"v1\",\"data\":{{\"hunter2\":\"hunter2\"}}|..., and hunter2",
                "x ".repeat(before / 2),
            );
            let shown = |text: &str| {
                let text = verdict::clean(text);
                assert!(text.len() <= verdict::MESSAGE_BYTES && !text.contains("hunter2"), "{text}");
                if before == 0 {
                    assert!(text.contains("chart checkout@1.4.0") && text.contains("invalid input, "), "{text}");
                }
            };
            shown(&refused(Reply::Bytes(status(500, "InternalError", &words))).await.message);
            let plain = http("400 Bad Request", "Content-Type: text/plain\r\n", words.as_bytes());
            shown(&refused(Reply::Bytes(plain)).await.message);

            let mut object = helm_release();
            object["status"] = json!({"conditions": [
                {"type": "Ready", "status": "False", "reason": "UpgradeFailed", "message": words}
            ]});
            let server = Server::start(move |_, _| Reply::Bytes(json_answer(&object))).await;
            let client = client(PATIENT);
            let answer = client.helm_release(&server.credentials(), "shop", "checkout").await.unwrap();
            let object = answer.value.unwrap();
            assert!(!object.status.conditions[0].message.contains("hunter2"));
            shown(&object.status.conditions[0].message);

            let packed = STANDARD.encode(STANDARD.encode(gzip(
                json!({"info": {"description": words}}).to_string().as_bytes(),
            )));
            let secret = json!({"kind": "SecretList", "apiVersion": "v1", "items": [{
                "metadata": {"name": "s", "labels": {"owner": "helm"}}, "data": {"release": packed},
            }]});
            let server = Server::start(move |_, _| Reply::Bytes(json_answer(&secret))).await;
            let answer = client.payload(&server.credentials(), "shop", "s").await.unwrap();
            let Payload::Read(release) = answer.value else { panic!("{answer:?}") };
            assert!(!release.info.description.contains("hunter2"));
            shown(&release.info.description);
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_not_sent() {
    limited(async {
        let server = Server::start(|_, _| Reply::Reset).await;
        for token in ["", "  \n", "to\nken", "to\0ken"] {
            let mut credentials = server.credentials();
            credentials.token = token.into();
            let error = ask(&client(PATIENT), &credentials).await.unwrap_err();
            assert_eq!(error.kind, AskErrorKind::Unauthorized);
            assert!(error.message.starts_with("the registered token"), "{error:?}");
        }
        assert_eq!(server.accepts(), 0);
    })
    .await;
}

#[tokio::test]
async fn certificates_that_are_not_accepted_are_told_apart() {
    limited(async {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let reply = |_: usize, _: &str| Reply::Bytes(json_answer(&helm_release()));
        for (issuer, names, year, words) in [
            (&authority, &["127.0.0.1"][..], 2020, "has expired on 2020-01-01"),
            (
                &authority,
                &["api.example.com", "10.0.0.1"],
                2100,
                "is not valid for 127.0.0.1, only for api.example.com, 10.0.0.1: tlsServerName",
            ),
            (&stranger, &["127.0.0.1"], 2100, "was not issued by the registered caCert"),
        ] {
            let server = Server::start_with(&authority, issuer.server(names, year), reply).await;
            let error = ask(&client(PATIENT), &server.credentials()).await.unwrap_err();
            assert_eq!(error.kind, AskErrorKind::Tls, "{error:?}");
            assert!(error.message.contains(words), "{error:?}");
            assert_eq!(server.asked().len(), 0, "nothing was sent");
        }
        let server = Server::start_with(&authority, authority.server(&["127.0.0.1"], 2100), reply).await;
        let mut credentials = server.credentials();
        credentials.ca_cert = None;
        let error = ask(&client(PATIENT), &credentials).await.unwrap_err();
        assert!(
            error.kind == AskErrorKind::Tls && error.message.contains("register its caCert"),
            "{error:?}"
        );
        // Several certificates: each is trusted.
        credentials.ca_cert = Some(format!("{}{}", stranger.pem, authority.pem));
        assert_eq!(ask(&client(PATIENT), &credentials).await, Ok(Some(3)));
    })
    .await;
}

#[tokio::test]
async fn a_server_without_tls() {
    limited(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
                let mut rest = Vec::new();
                let _ = tcp.read_to_end(&mut rest).await;
                assert!(!String::from_utf8_lossy(&rest).contains(TOKEN));
            }
        });
        let server = Server::start(|_, _| Reply::Reset).await;
        let mut credentials = server.credentials();
        credentials.api_url = format!("https://127.0.0.1:{port}");
        let error = ask(&client(PATIENT), &credentials).await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::Tls);
        assert_eq!(error.message, format!("127.0.0.1:{port} does not speak TLS"));
        task.abort();
    })
    .await;
}

#[tokio::test]
async fn the_tls_server_name_is_asked_for_and_verified() {
    limited(async {
        let authority = Authority::new();
        let tls = authority.server(&["kubernetes.default.svc"], 2100);
        let server =
            Server::start_with(&authority, tls, |_, _| Reply::Bytes(json_answer(&helm_release()))).await;
        for host in ["127.0.0.1", "localhost"] {
            let mut credentials = server.credentials();
            credentials.api_url = format!("https://{host}:{}", server.port);
            assert_eq!(ask(&client(PATIENT), &credentials).await.unwrap_err().kind, AskErrorKind::Tls);
            credentials.tls_server_name = Some("kubernetes.default.svc".to_owned());
            assert_eq!(ask(&client(PATIENT), &credentials).await, Ok(Some(3)));
            let asked = server.asked().pop().unwrap().to_ascii_lowercase();
            assert!(asked.contains(&format!("host: {host}:{}\r\n", server.port)), "{asked}");
            assert_eq!(
                server.names.lock().unwrap().pop().unwrap().as_deref(),
                Some("kubernetes.default.svc")
            );
            credentials.tls_server_name = Some("another.default.svc".to_owned());
            let error = ask(&client(PATIENT), &credentials).await.unwrap_err();
            assert!(
                error.kind == AskErrorKind::Tls && error.message.contains("another.default.svc"),
                "{error:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn loopback_is_refused_by_default_however_it_is_named() {
    limited(async {
        let server = Server::start(|_, _| Reply::Bytes(json_answer(&helm_release()))).await;
        let client = KubernetesClient::with_timeouts(AddressPolicy::default(), PATIENT).unwrap();
        for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "127.0.0.2"] {
            for name in [None, Some("example.com".to_owned())] {
                let mut credentials = server.credentials();
                credentials.api_url = format!("https://{host}:{}", server.port);
                credentials.tls_server_name = name;
                let error = ask(&client, &credentials).await.unwrap_err();
                assert_eq!(error.kind, AskErrorKind::Unreachable, "{error:?}");
                assert!(error.message.contains("loopback"), "{error:?}");
            }
        }
        assert_eq!(server.accepts(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_name_may_only_resolve_to_what_is_allowed() {
    limited(async {
        let server = Server::start(|_, _| Reply::Bytes(json_answer(&helm_release()))).await;
        let mut credentials = server.credentials();
        credentials.api_url = format!("https://localhost:{}", server.port);
        for (allowed, connected) in [("::1", 0), ("127.0.0.1", 1)] {
            let policy = AddressPolicy::parse(allowed).unwrap();
            let client = KubernetesClient::with_timeouts(policy, PATIENT).unwrap();
            let answer = ask(&client, &credentials).await;
            assert_eq!(answer.is_ok(), connected == 1, "{answer:?}");
            assert_eq!(server.accepts(), connected);
        }
    })
    .await;
}

fn item(release: &str, version: usize) -> Value {
    json!({"metadata": {
        "name": format!("sh.helm.release.v1.{release}.v{version}"), "namespace": "shop",
        "uid": format!("uid-{version}"), "creationTimestamp": "2026-11-23T19:15:45Z",
        "labels": {"owner": "helm", "name": release, "status": "superseded", "version": version.to_string()},
        "managedFields": [{"manager": "helm", "fieldsV1": {"f:data": {"f:release": {}}}}],
    }})
}

fn parameter(head: &str, name: &str) -> Option<String> {
    let target = head.split(' ').nth(1)?;
    let url = url::Url::parse(&format!("https://h{target}")).unwrap();
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[tokio::test]
async fn ten_thousand_revisions_come_page_by_page() {
    limited(async {
        let server = Server::start(|_, head| {
            let from: usize = parameter(head, "continue").map_or(0, |token| token.parse().unwrap());
            let limit: usize = parameter(head, "limit").unwrap().parse().unwrap();
            let items: Vec<_> = (from..from + limit).map(|n| item("checkout", n + 1)).collect();
            let end = from + limit;
            let next = if end < 10_000 { end.to_string() } else { String::new() };
            Reply::Bytes(json_answer(&json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"continue": next}, "items": items,
            })))
        })
        .await;
        let answer = client(PATIENT).revisions(&server.credentials(), "shop", "checkout").await.unwrap();
        let versions: Vec<i64> = answer.value.iter().map(|r| r.version).collect();
        assert_eq!(versions, (9_901..=10_000).rev().collect::<Vec<_>>(), "the highest are kept");
        assert!(answer.value.iter().all(|r| r.status == ReleaseStatus::Superseded));
        assert_eq!((server.asked().len(), server.accepts()), (20, 1));
        assert_eq!(answer.date, "2026-11-23T19:15:45Z".parse().ok());
        let first = &server.asked()[0];
        assert_eq!(parameter(first, "labelSelector").as_deref(), Some("owner=helm,name=checkout"));
        assert!(first.to_ascii_lowercase().contains(
            "accept: application/json;as=partialobjectmetadatalist;g=meta.k8s.io;v=v1,application/json\r\n"
        ));
    })
    .await;
}

#[tokio::test]
async fn a_list_without_an_end_has_one() {
    limited(async {
        let server = Server::start(|_, _| {
            Reply::Bytes(json_answer(&json!({
                "kind": "PartialObjectMetadataList", "metadata": {"continue": "again"}, "items": null,
            })))
        })
        .await;
        let error = client(PATIENT).revisions(&server.credentials(), "shop", "checkout").await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::NotKubernetes);
        assert_eq!(error.message, "there are more than 12500 revisions");
        assert_eq!(server.asked().len(), 25);
    })
    .await;
}

#[tokio::test]
async fn a_page_that_fails_fails_the_list() {
    limited(async {
        let server = Server::start(|n, _| {
            Reply::Bytes(if n == 0 {
                json_answer(&json!({
                    "kind": "PartialObjectMetadataList", "metadata": {"continue": "2"}, "items": [item("checkout", 1)],
                }))
            } else {
                status(410, "Expired", "The provided continue parameter is too old")
            })
        })
        .await;
        let error = client(PATIENT).revisions(&server.credentials(), "shop", "checkout").await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::ServerError);
        assert!(error.message.contains("too old"), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_payload_is_asked_for_by_name() {
    limited(async {
        let recorded: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/api/answers.json")).unwrap();
        let list = json_answer(&recorded["one-secret-by-field-selector"]["body"]);
        let server = Server::start(move |_, _| Reply::Bytes(list.clone())).await;
        let (client, credentials) = (client(PATIENT), server.credentials());
        let name = "sh.helm.release.v1.helm3-upgrade-times-out.v2";
        let answer = client.payload(&credentials, "plain", name).await.unwrap();
        let Payload::Read(release) = answer.value else { panic!("{answer:?}") };
        assert!(release.info.description.contains("deadline exceeded") && answer.date.is_some());
        let asked = server.asked().pop().unwrap();
        assert_eq!(parameter(&asked, "fieldSelector").unwrap(), format!("metadata.name={name}"));
        assert_eq!(parameter(&asked, "labelSelector").as_deref(), Some("owner=helm"));

        let answer = client.payload(&credentials, "plain", "gone").await.unwrap();
        assert_eq!(answer.value, Payload::Unreadable("the secret gone is gone".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn names_that_cannot_be_asked_for_are_not() {
    limited(async {
        let server = Server::start(|_, _| Reply::Reset).await;
        let (client, credentials) = (client(PATIENT), server.credentials());
        for name in ["", "..", "."] {
            assert!(client.helm_release(&credentials, "shop", name).await.is_err());
            assert!(client.helm_release(&credentials, name, "x").await.is_err());
            assert!(client.revisions(&credentials, name, "x").await.is_err());
            assert!(client.payload(&credentials, name, "x").await.is_err());
        }
        let error = client.revisions(&credentials, "shop", "a,owner!=helm").await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::NotKubernetes);
        assert_eq!(server.accepts(), 0);
    })
    .await;
}

#[test]
fn nothing_secret_is_in_a_debug_text() {
    let client = client(PATIENT);
    assert!(format!("{client:?}").starts_with("KubernetesClient"));
}
