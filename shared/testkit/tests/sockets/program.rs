//! The simulated cluster in a process of its own, told what to do over its
//! control port.

use std::{process::Stdio, time::Duration};

use http::Method;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{METADATA, client, fixtures, limited};

struct Program {
    child: Child,
    client: Client,
    ready: Value,
}

impl Program {
    async fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_simulated-cluster"))
            .arg("--fixtures")
            .arg(fixtures())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        Self { child, client: client(ready["caCert"].as_str().unwrap()), ready }
    }

    async fn tell(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}{path}", self.ready["controlUrl"].as_str().unwrap());
        let response = self.client.request(method, url).body(body.to_string()).send().await.unwrap();
        (
            response.status().as_u16(),
            serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default(),
        )
    }

    async fn ask(&self, path: &str, token: &str) -> reqwest::Result<(u16, Value)> {
        let url = format!("{}{path}", self.ready["apiUrl"].as_str().unwrap());
        let response = self.client.get(url).bearer_auth(token).header("accept", METADATA).send().await?;
        Ok((response.status().as_u16(), serde_json::from_str(&response.text().await?).unwrap_or_default()))
    }

    fn token(&self) -> &str {
        self.ready["token"].as_str().unwrap()
    }
}

#[tokio::test]
async fn it_is_told_what_to_do() {
    limited(async {
        let program = Program::start().await;
        let ask = {
            json!({"scenario": "helm/helm4-upgrade", "namespace": "shop", "name": "checkout", "pushInMs": 50})
        };
        let (status, played) = program.tell(Method::POST, "/play", ask).await;
        assert_eq!(
            (status, &played["namespace"], &played["name"]),
            (200, &json!("shop"), &json!("checkout"))
        );
        assert_eq!(played["helmType"], "plain");
        played["pushedAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let (status, list) = program.ask(played["path"].as_str().unwrap(), program.token()).await.unwrap();
        assert_eq!((status, &list["items"][0]["metadata"]["labels"]["name"]), (200, &json!("checkout")));

        let object = json!({"kind": "HelmRelease", "metadata": {"name": "x", "namespace": "shop"}});
        assert_eq!(program.tell(Method::PUT, "/helmreleases/shop/x", object.clone()).await.0, 204);
        let path = "/apis/helm.toolkit.fluxcd.io/v2/namespaces/shop/helmreleases/x";
        assert_eq!(program.ask(path, program.token()).await.unwrap().1["metadata"], object["metadata"]);
        assert_eq!(program.tell(Method::PUT, "/secrets/shop/y", json!([])).await.0, 204);

        let fault =
            json!({"fault": {"status": {"code": 503, "retryAfter": "1"}}, "times": 1, "path": "/version"});
        assert_eq!(program.tell(Method::POST, "/faults", fault).await.0, 204);
        assert_eq!(program.ask("/version", program.token()).await.unwrap().0, 503);
        assert_eq!(program.ask("/version", program.token()).await.unwrap().0, 200);
        assert_eq!(program.tell(Method::POST, "/faults", json!({"fault": "refuse"})).await.0, 204);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(program.ask("/version", program.token()).await.is_err());
        assert_eq!(program.tell(Method::DELETE, "/faults", json!(null)).await.0, 204);
        assert_eq!(program.tell(Method::POST, "/tokens", json!({"accept": ["other"]})).await.0, 204);
        assert_eq!(program.ask("/version", program.token()).await.unwrap().0, 401);
        assert_eq!(program.ask("/version", "other").await.unwrap().0, 200);
        assert_eq!(program.tell(Method::POST, "/rules", json!({"rules": []})).await.0, 204);
        assert_eq!(program.ask(path, "other").await.unwrap().0, 403);

        let (_, requests) = program.tell(Method::GET, "/requests", json!(null)).await;
        let logged = requests["requests"].as_array().unwrap();
        assert!(logged.iter().any(|it| it["status"] == 503 && it["pathAndQuery"] == "/version"));
        assert!(requests["traffic"]["handshakes"].as_u64().unwrap() >= 1);
        assert_eq!(program.tell(Method::POST, "/certificate", json!({"kind": "expired"})).await.0, 204);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(program.ask("/version", "other").await.is_err());
        let (_, scenarios) = program.tell(Method::GET, "/scenarios", json!(null)).await;
        assert!(scenarios["scenarios"].as_array().unwrap().contains(&json!("flux/chart-upgrade")));
    })
    .await;
}

#[tokio::test]
async fn what_it_can_not_do_it_says() {
    limited(async {
        let program = Program::start().await;
        for (path, body, says) in [
            ("/play", json!({"scenario": "flux/none"}), "there is no scenario"),
            ("/play", json!({"scenario": "../secret"}), "does not name a scenario"),
            ("/play", json!({"scenario": "flux/chart-upgrade", "speed": 0}), "a speed of 0"),
            ("/play", json!({"scenery": "x"}), "unknown field `scenery`"),
            ("/play", json!([]), "the body can't be read"),
            ("/faults", json!({"fault": "fire"}), "unknown variant `fire`"),
            ("/faults", json!({"fault": "refuse", "times": 2}), "holds until it is cleared"),
            ("/certificate", json!({"kind": "forged"}), "unknown variant `forged`"),
            ("/tokens", json!({"accept": "one"}), "expected a sequence"),
        ] {
            let (status, answer) = program.tell(Method::POST, path, body).await;
            assert_eq!(status, 400, "{path}");
            assert!(answer["error"].as_str().unwrap().contains(says), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn it_ends_with_its_standard_input() {
    limited(async {
        let mut program = Program::start().await;
        drop(program.child.stdin.take());
        assert!(program.child.wait().await.unwrap().success());
    })
    .await;
}

#[tokio::test]
async fn it_ends_when_terminated() {
    limited(async {
        let mut program = Program::start().await;
        let id = program.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        assert!(program.child.wait().await.unwrap().success());
    })
    .await;
}

#[tokio::test]
async fn wrong_arguments_are_named() {
    limited(async {
        for (arguments, says) in [
            (vec![], "--fixtures is missing"),
            (vec!["--fixtures"], "--fixtures needs a value"),
            (vec!["--fixtures", "/nowhere"], "is not a folder"),
            (vec!["--fixtures", "/", "--port", "x"], "--port x is not a port"),
            (vec!["--help", "me"], "--help is unknown"),
        ] {
            let output =
                Command::new(env!("CARGO_BIN_EXE_simulated-cluster")).args(arguments).output().await.unwrap();
            assert!(!output.status.success() && output.stdout.is_empty());
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(says), "{said}");
        }
    })
    .await;
}
