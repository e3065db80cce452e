//! Many at once, through the real program: `dag-monitor serve` as a process, and
//! simulated clusters over TLS in another, which is this one.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::Served;
use testkit::{Config, Fault, Logged, Played, Scenario, SimulatedCluster};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

/// Each of these tests takes about half a minute where there is room; a machine that
/// compiles beside it takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// What has a verdict gets it long before.
const PATIENCE_SECS: u32 = 200;
/// Where the verdict is `Timeout`: three looks see that nothing else comes.
const SHORT_SECS: u32 = 30;
/// How often somebody who waits asks the API.
const ASK_AGAIN: Duration = Duration::from_secs(3);

const DEPLOYMENTS: usize = 500;
/// Recordings that go on for longer after the push are left out; each kind of verdict
/// has one that does not.
const LONGEST_MS: i64 = 20_000;
/// A process asks a cluster 40 questions at once and keeps as many connections; while one
/// is on its way back to those that are kept, another may be opened. A connection for each
/// deployment would be 500, and for each poll 1,600.
const CONNECTIONS: u64 = 4 * 40;
/// What a function on AWS has for a single deployment (`MemorySize` in the template):
/// the program does with it for all of them.
const MEMORY_MIB: u64 = 256;
/// A verdict reads the payload of the newest revision, and of a few before it where that
/// one is a rollback.
const PAYLOADS: u64 = 3;
/// The simulated cluster remembers no more requests.
const LOGGED_MAX: usize = 10_000;

/// The tests of this file share two cores: one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn alone(test: impl Future<Output = ()>) {
    let _turn = ONE_AT_A_TIME.lock().await;
    timeout(LIMIT, test).await.expect("within the time limit");
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// What is replayed, and the verdict that was written down for it.
struct Case {
    scenario: Scenario,
    ask: Value,
    verdict: Value,
}

/// The table of the README, as far as it is over in time.
fn cases() -> Vec<Case> {
    let table = fs::read(fixtures().join("verdicts.json")).unwrap();
    let table: Vec<Value> = serde_json::from_slice(&table).unwrap();
    let cases = table.into_iter().map(|case| Case {
        scenario: Scenario::load(&fixtures(), case["recording"].as_str().unwrap()).unwrap(),
        ask: case["ask"].clone(),
        verdict: case["verdict"].clone(),
    });
    cases.filter(|it| it.scenario.ends_after_push_ms() <= LONGEST_MS).collect()
}

/// What a pipeline would send after its push.
fn body(case: &Case, id: &str, played: &Played) -> Value {
    let short = case.verdict["reason"] == "Timeout";
    let mut body = json!({
        "deploymentId": id, "app": "scale", "environment": "test", "helmType": played.helm_type,
        "targets": [{"cluster": "Many", "namespace": played.namespace, "release": played.release}],
        "timeoutSecs": if short { SHORT_SECS } else { PATIENCE_SECS },
        "pushedAt": played.pushed_at.to_string(),
    });
    if let Some(ask) = case.ask.as_object() {
        body.as_object_mut().unwrap().extend(ask.clone());
    }
    body
}

/// A deployment's end.
struct Judged {
    answer: Value,
    /// Whether a poll found no answer in its time: this machine had no room for it.
    slow: bool,
}

/// Asks the API until there is a verdict. It always has an answer.
async fn judged(served: &Served, id: &str) -> Judged {
    let mut slow = false;
    loop {
        let answer = shown(served, id).await;
        slow |= answer["reason"] == "ClusterSlow" || answer["lastReason"] == "ClusterSlow";
        if answer["status"] != "pending" {
            return Judged { answer, slow };
        }
        sleep(ASK_AGAIN).await;
    }
}

async fn shown(served: &Served, id: &str) -> Value {
    let (status, answer) = served.get(&format!("/deployments/{id}")).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The history of the environment, all pages.
async fn history(served: &Served) -> Vec<Value> {
    let mut found = Vec::new();
    let mut path = "/deployments?app=scale&environment=test&limit=100".to_owned();
    loop {
        let (status, page) = served.get(&path).await;
        assert_eq!(status, 200, "{page}");
        found.extend(page["deployments"].as_array().unwrap().clone());
        let Some(next) = page["nextToken"].as_str() else { return found };
        path = format!("/deployments?app=scale&environment=test&limit=100&nextToken={next}");
    }
}

/// What the cluster was asked about one release.
#[derive(Default)]
struct Asked {
    /// Of HelmReleases, or lists of a release's secrets: one a poll.
    looks: u64,
    /// Payloads, each by its secret's name.
    payloads: Vec<String>,
}

/// By release.
fn asked(requests: &[Logged]) -> BTreeMap<String, Asked> {
    let mut asked: BTreeMap<String, Asked> = BTreeMap::new();
    for request in requests {
        let path = request.path_and_query.as_str();
        if let Some((_, name)) = path.rsplit_once("/helmreleases/") {
            asked.entry(name.to_owned()).or_default().looks += 1;
        } else if let Some((_, secret)) = path.split_once("fieldSelector=metadata.name%3D") {
            let secret = secret.split('&').next().unwrap_or_default();
            let release = secret.strip_prefix("sh.helm.release.v1.").and_then(|it| it.rsplit_once(".v"));
            asked.entry(release.unwrap().0.to_owned()).or_default().payloads.push(secret.to_owned());
        } else {
            let name = path.split_once("name%3D").unwrap_or_else(|| panic!("{path} is no look")).1;
            let name = name.split('&').next().unwrap_or_default();
            asked.entry(name.to_owned()).or_default().looks += 1;
        }
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_deployments_at_once_each_get_their_verdict() {
    alone(async {
        let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
        let served = Served::start(&["--allow-cidr", "127.0.0.1/32"]);
        served.register_simulated("Many", &cluster).await;
        let probed = cluster.traffic().accepted;

        let cases = cases();
        let outcomes: BTreeSet<&str> = cases.iter().filter_map(|it| it.verdict["reason"].as_str()).collect();
        for outcome in ["UpgradeSucceeded", "Deployed", "UpgradeFailed", "RolledBack", "Timeout"] {
            assert!(outcomes.contains(outcome), "{outcomes:?}");
        }
        let started = (0..DEPLOYMENTS).map(|number| {
            let case = &cases[number % cases.len()];
            let id = format!("d{number}");
            // The push is a moment after the first look, or has been: as it comes.
            let played = cluster.play(&case.scenario, Some("many"), Some(&id), Duration::from_secs(2));
            (case, body(case, &id, &played.unwrap()), id)
        });
        let all = started.map(|(case, body, id)| {
            let served = &served;
            async move {
                let (status, begun) = served.post_json("/deployments", &body).await;
                assert_eq!((status, &begun["status"]), (202, &json!("pending")), "{begun}");
                (case, judged(served, &id).await, id)
            }
        });
        let ended = join_all(all.collect::<Vec<_>>()).await;

        let requests = cluster.requests();
        assert!(requests.len() < LOGGED_MAX, "some are forgotten");
        let asked = asked(&requests);
        let (mut wrong, mut polls) = (Vec::new(), 0);
        for (case, Judged { answer, slow }, id) in &ended {
            let wanted = &case.verdict;
            let fits = |field: &str| wanted[field].is_null() || answer[field] == wanted[field];
            // Where a poll falls in its recording is left to chance: between two writes, too.
            let reason = fits("reason") || answer["reason"] == wanted["betweenWrites"];
            // What was last waited for is not the cluster's where the last poll had no answer.
            let right = fits("status") && reason && (fits("lastReason") || *slow);
            let none = Asked::default();
            let Asked { looks, payloads } = asked.get(id).unwrap_or(&none);
            let own = answer["polls"].as_u64().unwrap();
            polls += own;
            // One a poll, and none for a poll that had no time left; a payload that did not come
            // in time is read again.
            let frugal = *looks == own || (*slow && *looks < own);
            let most = PAYLOADS * if *slow { *looks } else { 1 };
            if !right || !frugal || payloads.len() as u64 > most {
                wrong.push(format!("{}: {looks} looks, {payloads:?}, {answer}", case.scenario.name()));
            }
        }
        assert!(wrong.is_empty(), "{} of {DEPLOYMENTS}:\n{}", wrong.len(), wrong.join("\n"));

        let listed = history(&served).await;
        let ids: BTreeSet<&str> = listed.iter().map(|it| it["deploymentId"].as_str().unwrap()).collect();
        assert_eq!((listed.len(), ids.len()), (DEPLOYMENTS, DEPLOYMENTS), "each is listed, once");
        assert!(listed.iter().all(|it| it["status"] != "pending"), "none is left");

        let connections = cluster.traffic().accepted - probed;
        let memory = served.peak_memory_mib();
        let slow = ended.iter().filter(|(_, it, _)| it.slow).count();
        let figures = format!(
            "{polls} polls, {} requests, {connections} connections, {memory} MiB; {slow} had a slow poll",
            requests.len()
        );
        println!("{figures}");
        // A connection on which nothing came in time is given up. Without that they are few.
        let most = if slow == 0 { CONNECTIONS } else { polls };
        assert!(connections <= most, "{figures}");
        assert!(memory <= MEMORY_MIB, "{figures}");
        let (code, log) = served.interrupt();
        assert_eq!(code, Some(0), "{log}");
        cluster.shutdown().await;
    })
    .await;
}

/// What is settled when the deployment begins, and the verdict. Each needs two polls: with
/// no `expect`, and for a failure, one look is not believed.
const SETTLED: [(&str, &str); 5] = [
    ("flux/chart-upgrade", "UpgradeSucceeded"),
    ("flux/values-only-upgrade", "UpgradeSucceeded"),
    ("flux/first-install", "InstallSucceeded"),
    ("flux/previous-release-failed", "UpgradeSucceeded"),
    ("flux/upgrade-rejected-by-api-server", "UpgradeFailed"),
];
/// What never is.
const WAITING: &str = "flux/waits-for-dependency";
const SILENT: usize = 3;
const A_CLUSTER: usize = 10;

fn cluster_name(number: usize) -> String {
    format!("cluster-{number}")
}

/// The looks that each release of a deployment needed, in their order.
fn looks(clusters: &[SimulatedCluster], deployment: &str) -> BTreeMap<String, u64> {
    let all = clusters.iter().flat_map(|it| asked(&it.requests()));
    all.filter(|(release, _)| release.starts_with(deployment))
        .map(|(release, it)| (release[deployment.len()..].to_owned(), it.looks))
        .collect()
}

/// Two deployments of forty targets, alike but for the fourth cluster. Nothing changes on
/// the other three any more, so that their verdicts come at the same poll, however long a
/// poll takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_forty_targets_those_on_a_silent_cluster_take_nothing_from_the_others() {
    alone(async {
        let served = Served::start(&["--allow-cidr", "127.0.0.1/32"]);
        let mut clusters = Vec::new();
        for number in 0..=SILENT {
            let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
            served.register_simulated(&cluster_name(number), &cluster).await;
            clusters.push(cluster);
        }
        let probed: Vec<u64> = clusters.iter().map(|it| it.traffic().accepted).collect();

        let load = |name: &str| Scenario::load(&fixtures(), name).unwrap();
        let settled = SETTLED.map(|(name, _)| load(name));
        let waiting = load(WAITING);
        let mut pushed_at = Vec::new();
        let mut targets = BTreeMap::from([("silent-", Vec::new()), ("whole-", Vec::new())]);
        for (deployment, targets) in &mut targets {
            for number in 0..=SILENT {
                for target in 0..A_CLUSTER {
                    // With the silent cluster all are settled; without, ten go on on the first cluster.
                    let goes_on = *deployment == "whole-" && number == SILENT;
                    let at = if goes_on { 0 } else { number };
                    let scenario = if goes_on { &waiting } else { &settled[target % SETTLED.len()] };
                    let release = format!("{deployment}{number}-{target}");
                    let played = clusters[at].play(scenario, Some("many"), Some(&release), Duration::ZERO);
                    pushed_at.push(played.unwrap().pushed_at);
                    targets
                        .push(json!({"cluster": cluster_name(at), "namespace": "many", "release": release}));
                }
            }
        }
        // The longest goes on for three seconds; each push is within the next one.
        sleep(Duration::from_secs(5)).await;
        clusters[SILENT].set_fault(Some(Fault::Silence)).await.unwrap();
        for (deployment, targets) in &targets {
            assert_eq!(targets.len(), 40);
            let (status, begun) = served
                .post_json(
                    "/deployments",
                    &json!({
                        "deploymentId": format!("{deployment}40"), "helmType": "flux", "targets": targets,
                        "timeoutSecs": if *deployment == "whole-" { 25 } else { PATIENCE_SECS },
                        "pushedAt": pushed_at.iter().min().unwrap().to_string(),
                    }),
                )
                .await;
            assert_eq!(status, 202, "{begun}");
        }

        // While one cluster is silent, all others have their verdicts, and it is said which is slow.
        let others = 0..A_CLUSTER * SILENT;
        let answer = loop {
            let answer = shown(&served, "silent-40").await;
            assert_eq!(answer["status"], "pending", "{answer}");
            let target = |at: usize| &answer["targets"][at];
            if others.clone().all(|at| matches!(target(at)["status"].as_str(), Some("succeeded" | "failed")))
            {
                break answer;
            }
            sleep(Duration::from_secs(1)).await;
        };
        for (at, target) in answer["targets"].as_array().unwrap().iter().enumerate() {
            let wanted =
                if others.contains(&at) { SETTLED[at % A_CLUSTER % SETTLED.len()].1 } else { "ClusterSlow" };
            assert_eq!(target["reason"], wanted, "{target}");
        }
        // It answers again, and nothing is lost.
        clusters[SILENT].set_fault(None).await.unwrap();
        let Judged { answer, .. } = judged(&served, "silent-40").await;
        let ended = |it: &Value| it["status"] != "pending" && it["reason"] != "Timeout";
        assert!(answer["targets"].as_array().unwrap().iter().all(ended), "{answer}");
        assert_eq!(answer["reason"], "UpgradeFailed", "{answer}");
        let Judged { answer, .. } = judged(&served, "whole-40").await;
        assert_eq!(answer["reason"], "UpgradeFailed", "{answer}");

        let others = |looks: BTreeMap<String, u64>| {
            looks.into_iter().filter(|(name, _)| !name.starts_with('3')).collect::<BTreeMap<_, _>>()
        };
        let (silent, whole) = (looks(&clusters, "silent-"), looks(&clusters, "whole-"));
        assert_eq!(others(silent), others(whole), "the polls that each needed");
        for (number, cluster) in clusters.iter().enumerate().take(SILENT) {
            let (connections, requests) =
                (cluster.traffic().accepted - probed[number], cluster.requests().len());
            println!("{requests} requests, {connections} connections");
            // As many as are asked at once; each deployment's own targets ask together.
            let targets = if number == 0 { 3 } else { 2 } * A_CLUSTER;
            assert!(connections <= targets as u64 && requests > targets, "{connections}, {requests}");
        }
        let (code, log) = served.interrupt();
        assert_eq!(code, Some(0), "{log}");
    })
    .await;
}
