//! `dag-monitor serve` as it is kept open: its key, its store, and what becomes of both
//! when it is killed.
#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of these tests are tests themselves")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hyper::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use support::Served;
use testkit::{Config, Fault, Scenario, SimulatedCluster};
use tokio::time::{sleep, timeout};

/// The only address that there is to ask.
const ALLOWED: [&str; 2] = ["--allow-cidr", "127.0.0.1/32"];
/// Between two looks at an answer.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Until all deployments of a test have their verdicts: the longest waits for 15 s.
const LIMIT: Duration = Duration::from_secs(90);

/// A directory that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("dag-monitor-served-{}-{number}", std::process::id())))
    }

    fn serve(&self, key: Option<&str>) -> Served {
        Served::on(&self.0, &ALLOWED, key).unwrap_or_else(|told| panic!("{told}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

async fn status(served: &Served, path: &str, authorization: &[&str]) -> (u16, Value) {
    let host = served.address.to_string();
    let shown = authorization.iter().map(|it| ("authorization", *it));
    let headers: Vec<_> = [("host", &*host)].into_iter().chain(shown).collect();
    served.send(Method::GET, path, &headers, "").await
}

#[tokio::test]
async fn nobody_asks_without_the_key() {
    let served = Served::start(&[]);
    let right = served.bearer();
    let other = Served::start(&[]).bearer();
    assert_ne!(right, other);
    for path in
        ["/clusters", "/deployments/x", "/local/deployments", "/no-such-route", "//", "/openapi.json/"]
    {
        for wrong in [&[][..], &["Bearer"], &[&other], &[&right[..right.len() - 1]], &[&right, &right]] {
            let (came, problem) = status(&served, path, wrong).await;
            assert_eq!((came, &problem["status"]), (401, &json!(401)), "{path} {wrong:?}: {problem}");
            assert_eq!(problem["type"], "urn:dag-monitor:problem:unauthorized");
            assert!(problem["detail"].as_str().unwrap().contains("--new-key"), "{problem}");
        }
        assert_ne!(status(&served, path, &[&right]).await.0, 401, "{path}");
    }
    for path in ["/", "/openapi.json"] {
        assert_eq!(status(&served, path, &[]).await.0, 200, "{path}");
    }
    let (came, newest) = status(&served, "/local/deployments?limit=3", &[&right]).await;
    assert_eq!((came, &newest["deployments"]), (200, &json!([])), "{newest}");
    for query in ["limit=0", "limit=101", "limit=-1", "limit=", "limit=1&limit=1", "all=yes"] {
        let (came, problem) = status(&served, &format!("/local/deployments?{query}"), &[&right]).await;
        assert_eq!((came, &problem["status"]), (400, &json!(400)), "{query}: {problem}");
    }
    let (code, log) = served.interrupt();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(right.trim_start_matches("Bearer ")), "{log}");
}

#[tokio::test]
async fn the_key_is_told_once_and_another_one_voids_it() {
    let folder = Folder::new();
    let first = folder.serve(None);
    assert!(first.is_new_key);
    let key = first.key.clone();
    first.interrupt();

    let again = folder.serve(Some(&key));
    assert!(!again.is_new_key, "it is told once");
    assert_eq!(again.get("/clusters").await.0, 200);
    again.interrupt();

    let renewed = Served::on(&folder.0, &["--new-key"], None).ok().unwrap();
    assert!(renewed.is_new_key && renewed.key != key);
    assert_eq!(renewed.get("/clusters").await.0, 200);
    assert_eq!(status(&renewed, "/clusters", &[&format!("Bearer {key}")]).await.0, 401);
    let renewed_key = renewed.key.clone();
    renewed.interrupt();
    for name in ["store.redb", "key", "lock"] {
        let bytes = fs::read(folder.0.join(name)).unwrap();
        for key in [&key, &renewed_key] {
            assert!(!bytes.windows(key.len()).any(|it| it == key.as_bytes()), "{name}");
        }
    }
}

#[test]
fn whoever_can_not_serve_says_what_to_do() {
    let folder = Folder::new();
    let first = folder.serve(None);
    let told = Served::on(&folder.0, &[], None).err().unwrap();
    assert!(told.contains("another dag-monitor serves") && told.contains("--data-dir"), "{told}");
    let taken = Folder::new();
    let port = first.address.port().to_string();
    let told = Served::on(&taken.0, &["--port", &port], None).err().unwrap();
    assert!(told.contains("can't be opened") && told.contains("--port 0"), "{told}");
    // Nobody has read the key, so it is told at the start that succeeds.
    assert!(taken.serve(None).is_new_key);
    first.interrupt();

    fs::write(folder.0.join("store.redb"), "no store").unwrap();
    let told = Served::on(&folder.0, &[], None).err().unwrap();
    assert!(told.contains("damaged") && told.contains("backup") && !told.contains("panicked"), "{told}");
}

/// What happens to a release, and how long a deployment waits for it.
const CASES: [(&str, u32); 4] = [
    ("flux/chart-upgrade", 60),
    ("flux/upgrade-rejected-by-api-server", 60),
    ("helm/helm4-upgrade", 60),
    ("flux/waits-for-dependency", 15),
];

/// Plays a case's recording and gives the request of a pipeline that has just pushed.
fn pushed(cluster: &SimulatedCluster, series: &str, case: usize) -> Value {
    let (recording, timeout_secs) = CASES[case];
    let release = format!("{series}-{case}");
    let scenario = Scenario::load(&fixtures(), recording).unwrap();
    let played = cluster.play(&scenario, Some("shop"), Some(&release), Duration::from_secs(1)).unwrap();
    json!({
        "deploymentId": release, "app": "kept", "environment": series, "helmType": played.helm_type,
        "targets": [{"cluster": "Kept", "namespace": "shop", "release": release}],
        "timeoutSecs": timeout_secs, "pushedAt": played.pushed_at.to_string(),
    })
}

/// What must not differ, however often the server was killed.
fn verdict(answer: &Value) -> Value {
    let seconds = |field: &str| answer[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let waits = seconds("deadline").duration_since(seconds("startedAt")).as_millis();
    json!([answer["status"], answer["reason"], answer["lastReason"], waits, answer["targets"][0]["observed"]])
}

async fn judged(served: &Served, id: &str) -> Value {
    let waiting = async {
        loop {
            let (came, answer) = served.get(&format!("/deployments/{id}")).await;
            assert_eq!(came, 200, "{answer}");
            if answer["status"] != "pending" {
                return answer;
            }
            sleep(ASK_AGAIN).await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap()
}

/// As the moments of the kills are drawn: the same in each run (Numerical Recipes' LCG).
struct Moments(u64);

impl Moments {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Kills the server at drawn moments while four deployments run, from before their start
/// until each has its verdict, and twice more; gives their answers.
async fn killed_again_and_again(folder: &Folder, key: &str, seed: u64, bodies: &[Value]) -> Vec<Value> {
    let mut moments = Moments(seed);
    let mut begun: Vec<Option<Value>> = vec![None; bodies.len()];
    let mut ended: Vec<Option<Value>> = vec![None; bodies.len()];
    let mut lives = 0;
    let mut after_the_end = 2;
    while after_the_end > 0 {
        lives += 1;
        let served = folder.serve(Some(key));
        // Now while it starts or writes, now between two checks.
        let life = Duration::from_millis(match lives % 3 {
            0 => moments.below(40),
            1 => moments.below(400),
            _ => 400 + moments.below(5_000),
        });
        let living = async {
            for (body, begun) in bodies.iter().zip(&mut begun) {
                if begun.is_none() {
                    let (came, answer) = served.post_json("/deployments", body).await;
                    assert_eq!(came, 202, "{answer}");
                    *begun = Some(answer);
                }
            }
            loop {
                for ((body, begun), ended) in bodies.iter().zip(&begun).zip(&mut ended) {
                    let id = body["deploymentId"].as_str().unwrap();
                    let (came, answer) = served.get(&format!("/deployments/{id}")).await;
                    assert_eq!(came, 200, "{answer}");
                    let begun = begun.as_ref().unwrap();
                    for field in ["startedAt", "deadline"] {
                        assert_eq!(answer[field], begun[field], "life {lives} of seed {seed}: {answer}");
                    }
                    match ended {
                        // What was judged once stays as it is.
                        Some(ended) => assert_eq!(*ended, answer, "life {lives} of seed {seed}"),
                        None if answer["status"] != "pending" => *ended = Some(answer),
                        None => {}
                    }
                }
                sleep(ASK_AGAIN).await;
            }
        };
        let unended: Result<(), _> = timeout(life, living).await;
        assert!(unended.is_err());
        let log = served.kill();
        assert!(!log.contains("panicked") && !log.contains(" ERROR "), "{log}");
        if ended.iter().all(Option::is_some) {
            after_the_end -= 1;
        }
    }
    println!("seed {seed}: {lives} lives");
    ended.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_changes_no_verdict_and_no_deadline() {
    let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
    let undisturbed = async {
        let served = Served::start(&ALLOWED);
        served.register_simulated("Kept", &cluster).await;
        for case in 0..CASES.len() {
            let (came, begun) =
                served.post_json("/deployments", &pushed(&cluster, "undisturbed", case)).await;
            assert_eq!(came, 202, "{begun}");
        }
        let mut verdicts = Vec::new();
        for case in 0..CASES.len() {
            verdicts.push(verdict(&judged(&served, &format!("undisturbed-{case}")).await));
        }
        verdicts
    };
    let series = async |seed| {
        let folder = Folder::new();
        let served = folder.serve(None);
        served.register_simulated("Kept", &cluster).await;
        let key = served.key.clone();
        served.kill();
        let bodies: Vec<_> =
            (0..CASES.len()).map(|case| pushed(&cluster, &format!("killed-{seed}"), case)).collect();
        let killing = killed_again_and_again(&folder, &key, seed, &bodies);
        let answers = timeout(LIMIT, killing).await.unwrap();
        (folder, key, answers)
    };
    let (undisturbed, one, other) = tokio::join!(undisturbed, series(1), series(2));
    for (folder, key, answers) in [one, other] {
        for ((answer, wanted), (recording, _)) in answers.iter().zip(&undisturbed).zip(CASES) {
            assert_eq!(verdict(answer), *wanted, "{recording}: {answer}");
        }
        // All of it is there, listed once, newest first, and nothing goes on any more.
        let served = folder.serve(Some(&key));
        let (_, newest) = served.get("/local/deployments").await;
        let newest = newest["deployments"].as_array().unwrap();
        // As text, what ends in a zero would stand before what goes on.
        let start = |it: &Value| it["startedAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let starts: Vec<_> = newest.iter().map(start).collect();
        assert!(starts.is_sorted_by(|a, b| a >= b), "{starts:?}");
        let mut all: Vec<&Value> = newest.iter().collect();
        all.sort_by_key(|it| it["deploymentId"].as_str());
        assert_eq!(all, answers.iter().collect::<Vec<_>>());
        let app = answers[0]["environment"].as_str().unwrap();
        let (_, history) = served.get(&format!("/deployments?app=kept&environment={app}")).await;
        assert_eq!(history["deployments"].as_array().unwrap().len(), CASES.len(), "{history}");
        let log = served.kill();
        assert!(!log.contains(cluster.token().expose_secret()), "{log}");
    }
    cluster.shutdown().await;
}

/// The cluster keeps the first check waiting, so that the kill comes before anything but
/// the start was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_the_first_check_has_written_loses_nothing() {
    let cluster = SimulatedCluster::start(Config::default()).await.unwrap();
    let folder = Folder::new();
    let served = folder.serve(None);
    served.register_simulated("Kept", &cluster).await;
    let key = served.key.clone();
    cluster.set_fault(Some(Fault::Silence)).await.unwrap();
    let body = pushed(&cluster, "early", 0);
    let (came, begun) = served.post_json("/deployments", &body).await;
    assert_eq!((came, &begun["reason"]), (202, &json!("Starting")), "{begun}");
    for _ in 0..2 {
        let (_, shown) = served.get("/deployments/early-0").await;
        assert_eq!(shown["reason"], "Starting", "else it was killed too late: {shown}");
    }
    served.kill();

    let served = folder.serve(Some(&key));
    let (_, shown) = served.get("/deployments/early-0").await;
    assert_eq!(shown, begun, "as it was answered, before anybody has looked again");
    // The same request, as whoever heard no answer sends it: nothing is begun twice.
    let (came, again) = served.post_json("/deployments", &body).await;
    assert_eq!((came, again), (202, begun.clone()));
    cluster.set_fault(None).await.unwrap();
    let answer = judged(&served, "early-0").await;
    assert_eq!(answer["reason"], "UpgradeSucceeded", "{answer}");
    for field in ["startedAt", "deadline"] {
        assert_eq!(answer[field], begun[field], "{answer}");
    }
    served.kill();
    cluster.shutdown().await;
}

/// A file may not grow beyond what it is: as where the disk is full.
#[tokio::test]
async fn on_a_full_disk_it_ends_and_goes_on_where_there_is_room_again() {
    let folder = Folder::new();
    let served = folder.serve(None);
    let key = served.key.clone();
    served.interrupt();
    // In blocks of 512 bytes, as POSIX has `ulimit` count.
    let blocks = fs::metadata(folder.0.join("store.redb")).unwrap().len().div_ceil(512);

    let mut full = Command::new("sh");
    full.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""));
    full.arg(env!("CARGO_BIN_EXE_dag-monitor"));
    let served =
        Served::launch_by(full, &["--data-dir", folder.0.to_str().unwrap()], Some(&key)).ok().unwrap();
    let (host, bearer) = (served.address.to_string(), served.bearer());
    let headers = [("host", &*host), ("authorization", &*bearer), ("content-type", "application/json")];
    let mut kept = 0;
    let filling = async {
        loop {
            let body = json!({
                "name": format!("Cluster {kept}"), "apiUrl": "https://api.example.com",
                "serviceAccountToken": "t".repeat(10_000),
            });
            let answer =
                served.try_send(Method::POST, "/clusters?probe=false", &headers, &body.to_string()).await;
            match answer {
                Some((201, _)) => kept += 1,
                other => return other,
            }
        }
    };
    let refused = timeout(LIMIT, filling).await.unwrap();
    assert!(matches!(refused, None | Some((503, _))), "{refused:?}");
    let (code, log) = served.ended();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("can't be used any more") && log.contains("Nothing is lost"), "{log}");

    let served = folder.serve(Some(&key));
    let (_, clusters) = served.get("/clusters?limit=100").await;
    let there = clusters["clusters"].as_array().unwrap().iter().filter(|it| it["state"] == "active");
    assert_eq!(there.count(), kept, "what was answered is there");
    assert!(kept > 0);
}
