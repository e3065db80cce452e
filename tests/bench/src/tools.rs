//! `kubectl` and `helm`, where they are, and what machine this is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{
    table::{Sample, Unit},
    world::{Cluster, NAMESPACE},
};

pub(crate) struct Tool {
    programs: &'static [&'static str],
    name: &'static str,
    arguments: Vec<String>,
}

impl Tool {
    /// Without discovery, which an ordinary `kubectl get` would do before it.
    pub(crate) fn kubectl(path: &str) -> Self {
        let arguments = ["get", "--raw", path].map(str::to_owned).into();
        Self { programs: &["kubectl"], name: "kubectl get --raw", arguments }
    }

    /// What `helm status` reads of the release; that asks for its objects besides, of
    /// which a simulated cluster has none.
    pub(crate) fn helm(release: &str) -> Self {
        let arguments = ["history", release, "--namespace", NAMESPACE].map(str::to_owned).into();
        Self { programs: &["helm", "helm4", "helm3"], name: "helm history", arguments }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// How long it takes, process and all; or why it can't be told.
    pub(crate) async fn measure(&self, cluster: &Cluster, times: usize) -> Result<Sample, String> {
        let program = self.programs.iter().find_map(|it| found(it)).ok_or("not installed")?;
        let home = std::env::temp_dir().join(format!("dag-monitor-bench-{}-home", std::process::id()));
        fs::create_dir_all(&home).map_err(|it| it.to_string())?;
        let config = home.join("kubeconfig");
        let credentials = cluster.credentials();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {
                "server": credentials.api_url,
                "certificate-authority-data": STANDARD.encode(credentials.ca_cert.unwrap_or_default()),
            }}],
            "users": [{"name": "bench", "user": {"token": credentials.token.expose_secret()}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        });
        fs::write(&config, text.to_string()).map_err(|it| it.to_string())?;
        let (arguments, of_task) = (self.arguments.clone(), home.clone());
        let measured = tokio::task::spawn_blocking(move || {
            let mut sample = Sample::new(Unit::Millis);
            for _ in 0..times {
                let began = Instant::now();
                let ended = Command::new(&program)
                    .args(&arguments)
                    .env("KUBECONFIG", &config)
                    .env("HOME", &of_task)
                    .stdin(Stdio::null())
                    .output()
                    .map_err(|it| it.to_string())?;
                sample.add_time(began.elapsed());
                if !ended.status.success() {
                    let words = String::from_utf8_lossy(&ended.stderr);
                    return Err(format!("failed: {}", words.lines().last().unwrap_or_default()));
                }
            }
            Ok(sample)
        });
        let measured = measured.await.map_err(|it| it.to_string())?;
        let _ = fs::remove_dir_all(home);
        measured
    }
}

/// A program on the path, or one that the tests of a real control plane have built.
pub(crate) fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let built = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/dag-monitor"));
    let built = built.and_then(|it| fs::read_dir(it).ok()).into_iter().flatten().flatten();
    std::env::split_paths(&path)
        .chain(built.map(|it| it.path()))
        .map(|it| it.join(name))
        .find(|it| it.is_file())
}

/// A line for under the table.
pub(crate) fn machine() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = information.lines().find(|it| it.starts_with(name));
        line.and_then(|it| it.split_once(": ")).map_or("unknown", |it| it.1).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
    format!("Measured on {date}, {cores} cores ({}), Linux {}.", field("model name"), std::env::consts::ARCH)
}
