//! The sockets: TLS, keep-alive connections, and what happens to them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, fmt::rfc2822::DateTimePrinter};
use rustls::ServerConfig;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    api::{Question, World},
    clock::Time,
    fault::{Abort, Body, Fault, Faults, spoiled},
    payload,
};

/// How many requests are remembered: enough for any test, and a demo can run for days.
const LOGGED_MAX: usize = 10_000;

/// How long an open connection may finish its request once it is to be closed.
const GRACE: Duration = Duration::from_millis(300);

/// Who connects and does not begin with TLS is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// No review is longer; a real server takes 3 MiB.
const REQUEST_BODY_MAX: usize = 1 << 20;

/// A request that was answered, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Logged {
    /// The method.
    pub method: String,
    /// Path and query as they came.
    pub path_and_query: String,
    /// The status that was answered; `None` where a fault left it without.
    pub status: Option<u16>,
    /// Which connection it came on; they are counted from 1.
    pub connection: u64,
}

/// What went over the wire since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// TCP connections that were accepted.
    pub accepted: u64,
    /// TLS handshakes that were done.
    pub handshakes: u64,
    /// Bytes of HTTP sent, headers included, before encryption.
    pub bytes_out: u64,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) world: Mutex<World>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) tls: Mutex<Arc<ServerConfig>>,
    pub(crate) date_header: bool,
    pub(crate) clock: Time,
    pub(crate) clock_offset: SignedDuration,
    pub(crate) gzip_above: Option<usize>,
    pub(crate) log: Mutex<VecDeque<Logged>>,
    /// Sent to close all connections that are open.
    pub(crate) close: watch::Sender<()>,
    accepted: AtomicU64,
    handshakes: AtomicU64,
    bytes_out: AtomicU64,
}

impl Shared {
    pub(crate) fn new(world: World, tls: Arc<ServerConfig>, config: &crate::Config) -> Self {
        Self {
            world: Mutex::new(world),
            faults: Mutex::default(),
            tls: Mutex::new(tls),
            date_header: config.date_header,
            clock: Time(config.clock.clone()),
            clock_offset: config.clock_offset,
            gzip_above: config.gzip_above,
            log: Mutex::default(),
            close: watch::Sender::new(()),
            accepted: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            accepted: self.accepted.load(Relaxed),
            handshakes: self.handshakes.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }

    fn note(&self, logged: Logged) {
        let mut log = lock(&self.log);
        if log.len() == LOGGED_MAX {
            log.pop_front();
        }
        log.push_back(logged);
    }
}

/// What is there even if somebody panicked while holding it: each change is a
/// single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the one who accepts can be told.
pub(crate) enum Command {
    /// Stop listening; answered when the port is closed.
    Refuse(oneshot::Sender<()>),
    /// Listen again; answered when it is open.
    Listen(oneshot::Sender<io::Result<()>>),
}

/// Accepts until the commands end, and then closes what is open.
pub(crate) async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    mut commands: mpsc::Receiver<Command>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => break,
                Some(Command::Refuse(done)) => {
                    listener = None;
                    shared.close.send_replace(());
                    // The one who asked may have gone.
                    let _ = done.send(());
                }
                Some(Command::Listen(done)) => {
                    let opened = match listener {
                        Some(_) => Ok(()),
                        None => TcpListener::bind(address).await.map(|it| listener = Some(it)),
                    };
                    let _ = done.send(opened);
                }
            },
            accepted = accept(listener.as_ref()) => match accepted {
                Ok(tcp) => {
                    let id = shared.accepted.fetch_add(1, Relaxed) + 1;
                    connections.spawn(connection(tcp, id, Arc::clone(&shared)));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: let some be closed.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            // Keeps the set from growing with connections that have ended.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    shared.close.send_replace(());
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE * 2, ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(tcp, _)| tcp),
        None => std::future::pending().await,
    }
}

async fn connection(mut tcp: TcpStream, id: u64, shared: Arc<Shared>) {
    let mut close = shared.close.subscribe();
    // Small answers must not wait for a full segment.
    let _ = tcp.set_nodelay(true);
    let fault = lock(&shared.faults).for_connection();
    match fault {
        Some(Fault::NoHandshake) => {
            let _ = close.changed().await;
            return;
        }
        Some(Fault::NotTls) => {
            let answer = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
            let _ = tcp.write_all(answer.as_bytes()).await;
            let _ = tcp.shutdown().await;
            return;
        }
        _ => {}
    }
    let tls = TlsAcceptor::from(Arc::clone(&lock(&shared.tls)));
    let tls = tokio::select! {
        done = timeout(HANDSHAKE, tls.accept(tcp)) => match done {
            Ok(Ok(tls)) => tls,
            // The client's affair: it did not trust us, or went away.
            Ok(Err(_)) | Err(_) => return,
        },
        _ = close.changed() => return,
    };
    shared.handshakes.fetch_add(1, Relaxed);
    let certified = tls.get_ref().1.peer_certificates().is_some();

    let reset = Arc::new(AtomicBool::new(false));
    let io = Wire { tls, reset: Arc::clone(&reset), shared: Arc::clone(&shared) };
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        let reset = Arc::clone(&reset);
        async move {
            let answered = respond(&shared, id, certified, request).await;
            if answered.is_err() {
                reset.store(true, Relaxed);
            }
            answered
        }
    });
    let mut builder = http1::Builder::new();
    // The Date header is ours; an idle connection stays open, as with a real server.
    builder
        .auto_date_header(false)
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(None);
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        // An error is the client's going away, or ours as told.
        _ = served.as_mut() => return,
        _ = close.changed() => served.as_mut().graceful_shutdown(),
    }
    let _ = timeout(GRACE, served).await;
}

async fn respond(
    shared: &Shared,
    connection: u64,
    certified: bool,
    request: Request<Incoming>,
) -> Result<Response<Body>, Abort> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let fault = lock(&shared.faults).for_request(path);
    let body =
        Limited::new(body, REQUEST_BODY_MAX).collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let text = |name| head.headers.get(name).and_then(|it| it.to_str().ok());
    let answer = lock(&shared.world).answer(&Question {
        method: &head.method,
        path,
        query: head.uri.query().unwrap_or_default(),
        accept: text(header::ACCEPT),
        authorization: text(header::AUTHORIZATION),
        certified,
        body: &body,
        now: shared.clock.now(),
    });

    let mut logged = Logged {
        method: head.method.to_string(),
        path_and_query: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        status: None,
        connection,
    };
    if matches!(fault, Some(Fault::Reset | Fault::Silence)) {
        shared.note(logged.clone());
        return spoiled(fault, answer).await;
    }
    let healthy = fault.is_none();
    let mut response = spoiled(fault, answer).await?;
    if healthy && wants_gzip(&head.headers) {
        response = packed(response, shared.gzip_above).await;
    }
    if shared.date_header {
        let now = shared.clock.now();
        let shown = now.checked_add(shared.clock_offset).unwrap_or(now);
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&shown).ok();
        if let Some(date) = date.and_then(|it| HeaderValue::try_from(it).ok()) {
            response.headers_mut().insert(header::DATE, date);
        }
    }
    logged.status = Some(response.status().as_u16());
    shared.note(logged);
    Ok(response)
}

fn wants_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|it| it.to_str().ok());
    accepted.flat_map(|it| it.split(',')).any(|it| it.trim().split(';').next() == Some("gzip"))
}

/// Long answers are packed, as a real server does above 128 KiB.
async fn packed(response: Response<Body>, above: Option<usize>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    let whole: Result<_, Infallible> = body.collect().await;
    let whole = whole.map(|it| it.to_bytes()).unwrap_or_default();
    let body = if above.is_some_and(|above| whole.len() > above) {
        head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        head.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        Bytes::from(payload::gzip(&whole))
    } else {
        whole
    };
    Response::from_parts(head, Full::new(body).boxed_unsync())
}

/// A TLS connection that counts what it sends, and can end with a reset.
struct Wire {
    tls: TlsStream<TcpStream>,
    reset: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Wire {
    fn counted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.shared.bytes_out.fetch_add(*bytes as u64, Relaxed);
        }
        written
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Relaxed) {
            // Without lingering, closing sends RST. Where that can't be set, it closes.
            let _ = self.tls.get_ref().0.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.counted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.counted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
