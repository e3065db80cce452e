//! Every recording, served over TLS by a simulated cluster in its own time, and
//! judged by this handler through the real client.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use monitor::{answer::Answer, check::Checker, ports::SystemClock};
use serde_json::{Value, json};
use testkit::{Config, Scenario, SimulatedCluster};

mod world;

/// As long as the longest recording needs, two looks after its end included.
const TIMEOUT_SECS: u32 = 60;
/// Where the verdict is `Timeout`, three looks are enough to see that nothing else comes.
const SHORT_TIMEOUT_SECS: u32 = 12;

async fn judged(checker: &Checker, event: Value) -> Answer {
    loop {
        let answer = check::handle(checker, event.clone()).await.unwrap().unwrap();
        if answer.status.is_terminal() {
            return answer;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn every_recording_over_tls_is_judged_as_written_down() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let cases: Vec<Value> =
        serde_json::from_slice(&fs::read(fixtures.join("verdicts.json")).unwrap()).unwrap();
    let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
    let registered = [("recorded".to_owned(), world::credentials(&cluster))];
    let checker = world::checker(registered, Arc::new(SystemClock)).await;
    let all = cases.iter().enumerate().map(|(number, case)| {
        let recording = case["recording"].as_str().unwrap();
        let scenario = Scenario::load(&fixtures, recording).unwrap();
        let name = format!("r{number}");
        let played = cluster.play(&scenario, Some("replay"), Some(&name), Duration::from_secs(2)).unwrap();
        let short = case["verdict"]["reason"] == "Timeout";
        let mut event = json!({
            "deploymentId": name,
            "helmType": if recording.starts_with("flux/") { "flux" } else { "plain" },
            "targets": [{"cluster": "recorded", "namespace": "replay", "release": name}],
            "timeoutSecs": if short { SHORT_TIMEOUT_SECS } else { TIMEOUT_SECS },
            "pushedAt": played.pushed_at.to_string(),
        });
        if let Some(ask) = case["ask"].as_object() {
            event.as_object_mut().unwrap().extend(ask.clone());
        }
        let checker = &checker;
        async move { (case, judged(checker, event).await) }
    });
    let answers =
        tokio::time::timeout(Duration::from_secs(120), futures_util::future::join_all(all)).await.unwrap();
    for (case, answer) in answers {
        let wanted = &case["verdict"];
        let came = json!({"status": answer.status, "reason": answer.reason});
        let said = format!("{}: {}", case["recording"], answer.message);
        assert_eq!(came["status"], wanted["status"], "{said}");
        // In real time a look may fall between two writes.
        assert!([&wanted["reason"], &wanted["betweenWrites"]].contains(&&came["reason"]), "{said}");
    }
    cluster.shutdown().await;
}
