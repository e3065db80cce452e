//! The program as a process, and what it is given: kubeconfigs, simulated clusters.
#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of tests are tests themselves")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use testkit::{Config, Scenario, SimulatedCluster};

/// A recording takes half a minute; nothing takes so long.
pub(crate) const HARD_LIMIT: Duration = Duration::from_secs(150);
pub(crate) const NAMESPACE: &str = "shop";

/// A folder of one test, removed at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("dag-monitor-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.write(name, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program, as a process.
pub(crate) struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
    stderr: thread::JoinHandle<String>,
    started: Instant,
}

/// What it left.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Program {
    pub(crate) fn start(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dag-monitor"));
        let ours = ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "GITHUB_STEP_SUMMARY"];
        let here =
            |name: &str| ours.contains(&name) || name.starts_with("AWS_") || name.starts_with("DAG_MONITOR_");
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(here)) {
            command.env_remove(variable);
        }
        command.env("HOME", "/nonexistent").args(arguments);
        change(&mut command);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut pipe = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        });
        Self { child, lines, stderr, started: Instant::now() }
    }

    /// Ends it by a signal as soon as it has written this.
    pub(crate) fn interrupt_after(self, wanted: &str, signal: &str) -> Ended {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            let left = HARD_LIMIT.saturating_sub(self.started.elapsed());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("{wanted:?} never came; what came:\n{seen}"));
            seen.push_str(&line);
            seen.push('\n');
        }
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let mut ended = self.end();
        ended.out.insert_str(0, &seen);
        ended
    }

    pub(crate) fn end(mut self) -> Ended {
        let mut out = String::new();
        loop {
            let left = HARD_LIMIT.saturating_sub(self.started.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => out.push_str(&format!("{line}\n")),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    panic!("it does not end; what came:\n{out}");
                }
            }
        }
        let code = self.child.wait().unwrap().code();
        Ended { code, out, err: self.stderr.join().unwrap() }
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn with(self, code: i32, out: &[&str], err: &[&str]) -> Self {
        let whole = format!("{:?}\n{}\n{}", self.code, self.out, self.err);
        assert_eq!(self.code, Some(code), "{whole}");
        for (text, words) in [(&self.out, out), (&self.err, err)] {
            for word in words {
                assert!(text.contains(word), "{word:?} is missing:\n{whole}");
            }
        }
        self
    }

    #[track_caller]
    pub(crate) fn without(self, secrets: &[&str]) -> Self {
        for secret in secrets {
            assert!(!secret.is_empty());
            let found = self.out.contains(secret) || self.err.contains(secret);
            assert!(!found, "a secret is shown:\n{}\n{}", self.out, self.err);
        }
        self
    }
}

pub(crate) async fn cluster() -> SimulatedCluster {
    SimulatedCluster::start(Config::default()).await.unwrap()
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// Replays a recording; when its push is, as `--pushed-at` takes it.
pub(crate) fn play(cluster: &SimulatedCluster, recording: &str, release: &str) -> String {
    let scenario = Scenario::load(&fixtures(), recording).unwrap();
    let played = cluster.play(&scenario, Some(NAMESPACE), Some(release), Duration::from_secs(1)).unwrap();
    played.pushed_at.to_string()
}

#[derive(Clone, Copy)]
pub(crate) enum Push {
    Before,
    After,
}

/// Shows the HelmRelease `checkout` as it was before its upgrade to chart 1.1.0, or after.
pub(crate) fn show(cluster: &SimulatedCluster, push: Push) {
    let recorded = fs::read_to_string(fixtures().join("flux/chart-upgrade.json")).unwrap();
    let recorded: Value = serde_json::from_str(&recorded).unwrap();
    let frames = recorded["frames"].as_array().unwrap();
    let frame = match push {
        Push::Before => frames.first(),
        Push::After => frames.last(),
    };
    let mut object = frame.unwrap()["body"].clone();
    object["metadata"]["name"] = json!("checkout");
    object["metadata"]["namespace"] = json!(NAMESPACE);
    cluster.put_helm_release(NAMESPACE, "checkout", object);
}

pub(crate) async fn appear(path: &Path) {
    until(|| path.exists()).await;
}

/// Waits for what somebody else does.
pub(crate) async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HARD_LIMIT, waiting).await.unwrap();
}

/// A kubeconfig with one context of this name.
pub(crate) fn kubeconfig(cluster: &SimulatedCluster, context: &str, user: &Value) -> Value {
    let ca = BASE64_STANDARD.encode(cluster.ca_pem());
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": cluster.api_url(), "certificate-authority-data": ca}}],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context, "namespace": NAMESPACE}}],
    })
}

pub(crate) fn token(cluster: &SimulatedCluster) -> Value {
    json!({"token": cluster.token().expose_secret()})
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
