//! The program, told when to check, before a simulated cluster.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{env, fs, path::PathBuf, process::Stdio, time::Duration};

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use testkit::{Config, SimulatedCluster};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// A file that is gone with the test.
struct Body(PathBuf);

impl Body {
    fn new(cluster: &SimulatedCluster, name: &str) -> Self {
        let body = Self(env::temp_dir().join(format!("dag-monitor-live-{name}-{}", std::process::id())));
        body.write(cluster, cluster.token().expose_secret());
        body
    }

    fn write(&self, cluster: &SimulatedCluster, token: &str) {
        let body = json!({
            "name": "Simulated", "apiUrl": cluster.api_url(), "caCert": cluster.ca_pem(),
            "serviceAccountToken": token,
        });
        fs::write(&self.0, body.to_string()).unwrap();
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Program {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(body: &Body) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_live"))
            .arg(&body.0)
            .args(["127.0.0.1/32", "by-hand"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, lines }
    }

    async fn next(&mut self, kind: &str) -> Value {
        let line = self.lines.next_line().await.unwrap().expect("the program ended");
        let mut line: Value = serde_json::from_str(&line).unwrap();
        assert!(line[kind].is_object(), "{line}");
        line[kind].take()
    }

    async fn ask(&mut self, deployment: &str) {
        let event = json!({
            "deploymentId": deployment, "helmType": "flux", "timeoutSecs": 20,
            "targets": [{"cluster": "simulated", "namespace": "shop", "release": "checkout"}],
        });
        self.input.write_all(format!("{event}\n").as_bytes()).await.unwrap();
    }

    /// Status and reason.
    async fn check(&mut self, deployment: &str) -> [Value; 2] {
        self.ask(deployment).await;
        self.answer().await
    }

    async fn answer(&mut self) -> [Value; 2] {
        let answer = self.next("answer").await;
        [answer["status"].clone(), answer["reason"].clone()]
    }
}

async fn limited(test: impl Future<Output = ()>) {
    timeout(Duration::from_secs(60), test).await.expect("it takes too long");
}

#[tokio::test]
async fn each_line_is_a_check_five_seconds_after_the_one_before() {
    limited(async {
        let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
        let body = Body::new(&cluster, "checks");
        let mut program = Program::start(&body);
        assert_eq!(program.next("registered").await["status"], 201);
        for _ in 0..3 {
            assert_eq!(program.check("one").await, ["pending", "NotFound"]);
        }
        assert_eq!(program.check("other").await, ["pending", "NotFound"]);
        assert_eq!(program.check("one").await, ["failed", "Timeout"]);
        assert_eq!(program.check("other").await, ["pending", "NotFound"]);

        drop(program.input);
        assert!(program.child.wait().await.unwrap().success());
    })
    .await;
}

#[tokio::test]
async fn a_token_is_changed_by_writing_the_body() {
    limited(async {
        let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
        let body = Body::new(&cluster, "token");
        let mut program = Program::start(&body);
        assert_eq!(program.next("registered").await["status"], 201);
        cluster.accept_tokens(vec!["another".into()]);
        assert_eq!(program.check("one").await, ["pending", "Unauthorized"]);

        body.write(&cluster, "another");
        program.ask("one").await;
        assert_eq!(program.next("changed").await["status"], 200);
        assert_eq!(program.answer().await, ["pending", "NotFound"]);
    })
    .await;
}

#[tokio::test]
async fn a_cluster_that_is_refused_ends_it() {
    limited(async {
        let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
        let body = Body::new(&cluster, "refused");
        body.write(&cluster, "another");
        let mut program = Program::start(&body);
        let refused = program.next("registered").await;
        assert_eq!([&refused["status"], &refused["body"]["reason"]], [&json!(422), &json!("Unauthorized")]);
        assert!(program.child.wait().await.unwrap().success());
    })
    .await;
}
