//! `dag-monitor serve` as a process, and whoever asks it.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod front;
pub(crate) mod program;
pub(crate) mod signature;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use testkit::SimulatedCluster;
use tokio::{net::TcpStream, time::timeout};

/// Asking a cluster that does not answer takes a few seconds; nothing takes so long.
pub(crate) const HARD_LIMIT: Duration = Duration::from_secs(60);

/// The server, as a process.
pub(crate) struct Served {
    child: Child,
    pub(crate) address: SocketAddr,
    /// What each request must show.
    pub(crate) key: String,
    /// Whether it was printed at this start.
    pub(crate) is_new_key: bool,
    /// What it printed up to its last line, so far.
    pub(crate) lines: mpsc::Receiver<String>,
    /// Read as it comes: a pipe that nobody reads stops who writes a line for each of
    /// hundreds of deployments.
    log: Option<JoinHandle<String>>,
}

impl Served {
    /// With everything in memory.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::launch(&[arguments, &["--in-memory"]].concat(), None).unwrap_or_else(|told| panic!("{told}"))
    }

    /// Before the store of a directory, which has this key, if it is not made now.
    ///
    /// # Errors
    /// What it said instead of serving.
    pub(crate) fn on(directory: &Path, arguments: &[&str], key: Option<&str>) -> Result<Self, String> {
        Self::launch(&[&["--data-dir", directory.to_str().unwrap()], arguments].concat(), key)
    }

    fn launch(arguments: &[&str], key: Option<&str>) -> Result<Self, String> {
        Self::launch_by(Command::new(env!("CARGO_BIN_EXE_dag-monitor")), arguments, key)
    }

    /// The same by a command that puts something around the program.
    pub(crate) fn launch_by(mut by: Command, arguments: &[&str], key: Option<&str>) -> Result<Self, String> {
        let mut child = by
            .arg("serve")
            // Any port that is free, where none is asked for.
            .args(if arguments.contains(&"--port") { &[][..] } else { &["--port", "0"] })
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut stderr = child.stderr.take().unwrap();
        let log = thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).unwrap();
            log
        });
        let Ok(first) = lines.recv_timeout(HARD_LIMIT) else {
            // It has ended, or does not begin.
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(log.join().unwrap());
        };
        let address = first.split("http://").nth(1).and_then(|it| it.split(',').next());
        let address = address.and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{first}"));
        // Its last word: the key, or that it tells none.
        let new_key = loop {
            let line = lines.recv_timeout(HARD_LIMIT).unwrap();
            if let Some(key) = line.strip_prefix("export DAG_MONITOR_KEY=") {
                break Some(key.to_owned());
            }
            if line.contains("--new-key makes another.") {
                break None;
            }
        };
        let is_new_key = new_key.is_some();
        let key = new_key.or_else(|| key.map(str::to_owned)).unwrap_or_default();
        Ok(Self { child, address, key, is_new_key, lines, log: Some(log) })
    }

    /// What the header `Authorization` must hold.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.key)
    }

    /// As a power cut does; what it had logged.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log.take().unwrap().join().unwrap()
    }

    /// As Ctrl-C does; the code that it ended with, and what it had logged.
    pub(crate) fn interrupt(mut self) -> (Option<i32>, String) {
        let killed = Command::new("sh").arg("-c").arg(format!("kill -INT {}", self.child.id())).status();
        assert!(killed.unwrap().success());
        let log = self.log.take().unwrap().join().unwrap();
        (self.child.wait().unwrap().code(), log)
    }

    /// The code that it ended with by itself, and what it had logged.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let log = self.log.take().unwrap();
        while !log.is_finished() {
            assert!(began.elapsed() < HARD_LIMIT, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
        (self.child.wait().unwrap().code(), log.join().unwrap())
    }

    /// The most memory that it has had so far, in MiB.
    pub(crate) fn peak_memory_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|it| it.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.unwrap().parse::<u64>().unwrap() / 1024
    }

    /// A request on a connection of its own.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, Value) {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    /// The same; `None` where no answer came, as where the server ends meanwhile.
    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<(u16, Value)> {
        let asking = async {
            let stream = TcpStream::connect(self.address).await.ok()?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            let mut request = Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
            let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some((parts.status.as_u16(), serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        timeout(HARD_LIMIT, asking).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        self.send(Method::POST, path, headers, body).await
    }

    /// The same with the headers that the server asks for.
    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> (u16, Value) {
        let (host, bearer) = (self.address.to_string(), self.bearer());
        let headers = [("host", &*host), ("authorization", &*bearer), ("content-type", "application/json")];
        self.post(path, &headers, &body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let (host, bearer) = (self.address.to_string(), self.bearer());
        self.send(Method::GET, path, &[("host", &*host), ("authorization", &*bearer)], "").await
    }

    pub(crate) async fn register(&self, body: &Value) -> (u16, Value) {
        self.post_json("/clusters", body).await
    }

    /// Registers a simulated cluster, and has it forget the probe.
    pub(crate) async fn register_simulated(&self, name: &str, cluster: &SimulatedCluster) {
        let body = json!({
            "name": name, "apiUrl": cluster.api_url(), "caCert": cluster.ca_pem(),
            "serviceAccountToken": cluster.token().expose_secret(),
        });
        let (status, answer) = self.register(&body).await;
        assert_eq!(status, 201, "{answer}");
        cluster.forget_requests();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended; and a failed test leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
