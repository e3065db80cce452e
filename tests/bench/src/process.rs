//! A real bootstrap, driven through Lambda's Runtime API.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path as Segment, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Mutex as Turn, mpsc, oneshot},
    time::timeout,
};

/// Longer than any invocation that is measured.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the answer, or the function's error, is waited for.
type Done = oneshot::Sender<Result<Answered, String>>;

struct Invocation {
    event: String,
    done: Done,
}

/// What came of one event.
#[derive(Debug)]
pub(crate) struct Answered {
    /// When the event was handed over.
    pub(crate) began: Instant,
    /// When the answer was there.
    pub(crate) ended: Instant,
    pub(crate) answer: Value,
}

impl Answered {
    pub(crate) fn took(&self) -> Duration {
        self.ended - self.began
    }
}

struct Api {
    waiting: Turn<mpsc::Receiver<Invocation>>,
    open: Mutex<Option<(Instant, Done)>>,
    /// When the process first asked for work: its initialization is over then.
    first_next: Mutex<Option<Instant>>,
    invocations: AtomicU64,
}

/// A process and the Runtime API that it asks for work. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    events: mpsc::Sender<Invocation>,
    api: Arc<Api>,
    log: PathBuf,
    pub(crate) spawned: Instant,
}

impl Process {
    /// Starts the binary with these variables and Lambda's own, and no others.
    pub(crate) async fn start(binary: &Path, variables: &[(String, String)]) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let (events, waiting) = mpsc::channel(1);
        let api = Arc::new(Api {
            waiting: Turn::new(waiting),
            open: Mutex::default(),
            first_next: Mutex::default(),
            invocations: AtomicU64::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/2018-06-01/runtime/init/error", post(error_at_start))
            .with_state(Arc::clone(&api));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let number = STARTED.fetch_add(1, Relaxed);
        let log = std::env::temp_dir().join(format!("dag-monitor-bench-{}-{number}.log", std::process::id()));
        let mut command = Command::new(binary);
        command
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "bench")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "bench")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "bench")
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(Stdio::null());
        let spawned = Instant::now();
        let child = command.spawn().unwrap_or_else(|it| panic!("{}: {it}", binary.display()));
        Self { child, events, api, log, spawned }
    }

    /// Hands an event over and waits for the answer.
    pub(crate) async fn invoke(&self, event: &Value) -> Answered {
        let (done, answered) = oneshot::channel();
        self.events.send(Invocation { event: event.to_string(), done }).await.unwrap();
        let answered = timeout(PATIENCE, answered).await.expect("no answer in time").unwrap();
        answered.unwrap_or_else(|error| panic!("the function failed: {error}"))
    }

    /// When it first asked for work.
    pub(crate) fn ready(&self) -> Option<Instant> {
        *self.api.first_next.lock().unwrap()
    }

    /// The most memory it has had resident, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The processor time of all its threads.
    pub(crate) fn processor(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten();
        let nanos = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// How much it has written to its log, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).unwrap().len()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
    }
}

async fn next(State(api): State<Arc<Api>>) -> impl IntoResponse {
    api.first_next.lock().unwrap().get_or_insert_with(Instant::now);
    let Some(Invocation { event, done }) = api.waiting.lock().await.recv().await else {
        return (StatusCode::GONE, HeaderMap::new(), String::new());
    };
    let number = api.invocations.fetch_add(1, Relaxed);
    let mut headers = HeaderMap::new();
    let deadline = jiff::Timestamp::now().as_millisecond() + 10_000;
    for (name, value) in [
        ("lambda-runtime-aws-request-id", format!("00000000-0000-4000-8000-{number:012}")),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:x:1:function:bench".to_owned()),
        ("lambda-runtime-trace-id", "Root=1-0-0;Sampled=0".to_owned()),
        ("content-type", "application/json".to_owned()),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    *api.open.lock().unwrap() = Some((Instant::now(), done));
    (StatusCode::OK, headers, event)
}

fn end(api: &Api, result: impl FnOnce(Instant) -> Result<Answered, String>) -> StatusCode {
    if let Some((began, done)) = api.open.lock().unwrap().take() {
        // Whoever asked may have lost patience.
        let _ = done.send(result(began));
    }
    StatusCode::ACCEPTED
}

async fn response(State(api): State<Arc<Api>>, Segment(_): Segment<String>, body: Bytes) -> StatusCode {
    let ended = Instant::now();
    let answer = serde_json::from_slice(&body).unwrap_or_default();
    end(&api, |began| Ok(Answered { began, ended, answer }))
}

async fn error(State(api): State<Arc<Api>>, Segment(_): Segment<String>, body: String) -> StatusCode {
    end(&api, |_| Err(body))
}

async fn error_at_start(State(api): State<Arc<Api>>, body: String) -> StatusCode {
    end(&api, |_| Err(body))
}
