//! The fake of AWS that the tests use, on a socket, over TLS, with every request noted.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{HandshakeKind, ServerConfig};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use testkit::aws::{FakeAws, Reset};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// Something that a process did, and when.
#[derive(Debug, Clone)]
pub(crate) struct Noted {
    pub(crate) what: String,
    pub(crate) at: Instant,
}

#[derive(Default)]
struct Shared {
    aws: FakeAws,
    log: Mutex<Vec<Noted>>,
    handshakes: AtomicU64,
    resumed: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// The fake, and where it listens.
pub(crate) struct AwsServer {
    shared: Arc<Shared>,
    /// Over TLS, for what is measured.
    pub(crate) tls: SocketAddr,
    /// The same without TLS, for setting the scene.
    pub(crate) plain: SocketAddr,
    /// The certificate to trust, in PEM.
    pub(crate) ca_pem: String,
}

impl AwsServer {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let (config, ca_pem) = certificates();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (encrypted, open) = (listen().await.unwrap(), listen().await.unwrap());
        let (tls, plain) = (encrypted.local_addr().unwrap(), open.local_addr().unwrap());
        let of_tls = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = encrypted.accept().await {
                let (shared, acceptor) = (Arc::clone(&of_tls), acceptor.clone());
                tokio::spawn(async move {
                    let _ = tcp.set_nodelay(true);
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                    shared.handshakes.fetch_add(1, Relaxed);
                    shared.resumed.fetch_add(is_resumed.into(), Relaxed);
                    shared.note("handshake");
                    serve(stream, shared).await;
                });
            }
        });
        let of_plain = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = open.accept().await {
                tokio::spawn(serve(tcp, Arc::clone(&of_plain)));
            }
        });
        Self { shared, tls, plain, ca_pem }
    }

    /// All that was noted since the last time, in order.
    pub(crate) fn take_log(&self) -> Vec<Noted> {
        std::mem::take(&mut *lock(&self.shared.log))
    }

    /// TLS handshakes so far, and how many of them were resumed.
    pub(crate) fn handshakes(&self) -> (u64, u64) {
        (self.shared.handshakes.load(Relaxed), self.shared.resumed.load(Relaxed))
    }

    /// The size of a stored item as DynamoDB counts it, nearly: names and texts.
    pub(crate) fn item_bytes(&self, id: &str) -> usize {
        let items = self.shared.aws.items();
        let item = items.iter().find(|(key, _)| key.contains(id)).map(|(_, item)| item);
        let attributes = item.and_then(Value::as_object).into_iter().flatten();
        attributes.map(|(name, value)| name.len() + text_bytes(value)).sum()
    }
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Object(typed) => typed.values().map(text_bytes).sum(),
        Value::Array(all) => all.iter().map(text_bytes).sum(),
        _ => 1,
    }
}

fn certificates() -> (ServerConfig, String) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    (config, ca_pem)
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { shared.answer(request).await }
    });
    // An error is the client's going away.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    fn note(&self, what: &str) {
        lock(&self.log).push(Noted { what: what.to_owned(), at: Instant::now() });
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Reset> {
        let (head, body) = request.into_parts();
        let target = head.headers.get("x-amz-target").and_then(|it| it.to_str().ok());
        let operation = target.and_then(|it| it.rsplit('.').next()).unwrap_or_default().to_owned();
        let body = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
        let answer = self.aws.respond(Request::from_parts(head, body)).await?;
        self.note(&operation);
        Ok(answer.map(Full::from))
    }
}
