//! Recorded timelines, seen as a check would see them.

use std::{fs, io::Read, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use http::header;
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimeParser};
use serde_json::{Value, json};
use testkit::{Config, FixedClock, Scenario, ScenarioError, SimulatedCluster};
use tokio::time::sleep;

use crate::{METADATA, client, fixtures, get, limited, scenario, start};

fn file(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixtures().join(format!("{name}.json"))).unwrap()).unwrap()
}

/// The same, its stamps moved by so many seconds.
fn moved(value: &Value, seconds: i64) -> Value {
    match value {
        Value::String(text) => match text.parse::<Timestamp>() {
            Ok(stamp) => (stamp + SignedDuration::from_secs(seconds)).to_string().into(),
            Err(_) => value.clone(),
        },
        Value::Array(items) => items.iter().map(|it| moved(it, seconds)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| {
                let label =
                    value.as_str().and_then(|it| it.parse::<i64>().ok()).filter(|_| key == "modifiedAt");
                (
                    key.clone(),
                    label.map_or_else(|| moved(value, seconds), |it| (it + seconds).to_string().into()),
                )
            })
            .collect(),
        other => other.clone(),
    }
}

/// By how many seconds it was moved.
fn shift(recorded: &str, pushed_at: Timestamp) -> i64 {
    let by = pushed_at.as_millisecond() - recorded.parse::<Timestamp>().unwrap().as_millisecond();
    assert_eq!(by % 1000, 0, "not by whole seconds");
    by / 1000
}

#[tokio::test]
async fn frames_follow_the_push_and_are_those_that_were_recorded() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        let recorded = file("flux/chart-upgrade");
        let before = Timestamp::now();
        let played =
            cluster.play(&scenario("flux/chart-upgrade"), None, None, Duration::from_millis(300)).unwrap();
        let wait = played.pushed_at.duration_since(before);
        assert!(
            wait >= SignedDuration::from_millis(299) && wait < SignedDuration::from_millis(1400),
            "{wait}"
        );
        assert_eq!(played.path, recorded["request"]["path"].as_str().unwrap());
        let by = shift("2026-11-23T19:46:13.230Z", played.pushed_at);
        let frames: Vec<Value> =
            recorded["frames"].as_array().unwrap().iter().map(|it| moved(&it["body"], by)).collect();

        let mut seen = Vec::new();
        loop {
            let asked = Timestamp::now();
            let got = get(&client, &cluster, &played.path, "application/json").await.unwrap().json();
            let index = frames.iter().position(|it| *it == got).expect("an answer that was not recorded");
            // After the push only: the first answer is of before.
            assert!(index == 0 || Timestamp::now() >= played.pushed_at);
            assert!(asked >= played.pushed_at || index == 0);
            seen.push(index);
            if index + 1 == frames.len() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert!(seen.is_sorted() && seen[0] == 0, "{seen:?}");
        // It takes 602 ms from the push to the last answer.
        assert!(Timestamp::now().duration_since(played.pushed_at) >= SignedDuration::from_millis(600));
    })
    .await;
}

#[tokio::test]
async fn an_object_that_is_created_was_not_found_before() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        let scenario = scenario("flux/first-install");
        let played = cluster.play(&scenario, Some("shop"), Some("checkout"), Duration::ZERO).unwrap();
        let got = get(&client, &cluster, &played.path, "application/json").await.unwrap();
        assert_eq!(got.status, 404);
        assert_eq!(got.json()["message"], "helmreleases.helm.toolkit.fluxcd.io \"checkout\" not found");
        loop {
            let got = get(&client, &cluster, &played.path, "application/json").await.unwrap();
            if got.status == 200 {
                let (body, now) = (got.json(), Timestamp::now());
                let created: Timestamp =
                    body["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
                assert!(created <= now && now.duration_since(created) < SignedDuration::from_secs(3));
                assert_eq!(
                    (&body["metadata"]["name"], &body["metadata"]["namespace"]),
                    (&json!("checkout"), &json!("shop"))
                );
                assert!(!got.text.contains("first-install"), "{}", got.text);
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn secrets_are_renamed_and_keep_their_payloads() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        let scenario = scenario("helm/helm3-history-max");
        let played = cluster.play(&scenario, Some("shop"), Some("checkout"), Duration::from_secs(1)).unwrap();
        let name = |revision: u32| format!("sh.helm.release.v1.checkout.v{revision}");
        let names = |list: &Value| {
            let items = list["items"].as_array().cloned().unwrap_or_default();
            items.iter().map(|it| it["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let payload = async |revision: u32| {
            let path = format!("{}&fieldSelector=metadata.name%3D{}", played.path, name(revision));
            get(&client, &cluster, &path, "application/json").await.unwrap().json()
        };

        let before = get(&client, &cluster, &played.path, METADATA).await.unwrap();
        assert_eq!(names(&before.json()), [name(3), name(4), name(5)]);
        assert!(
            !before.text.contains("helm3-history-max") && !before.text.contains("\"plain\""),
            "{}",
            before.text
        );
        // The third was pruned before its payload was recorded; the sixth is not there yet.
        assert_eq!(payload(3).await["items"], json!([]));
        assert_eq!(payload(6).await["items"], json!([]));

        sleep(Duration::try_from(played.pushed_at.duration_since(Timestamp::now())).unwrap_or_default())
            .await;
        sleep(Duration::from_millis(300)).await;
        let after = get(&client, &cluster, &played.path, METADATA).await.unwrap().json();
        assert_eq!(names(&after), [name(4), name(5), name(6)]);
        let newest = &after["items"][2]["metadata"];
        assert_eq!(newest["labels"]["status"], "deployed");
        let created: Timestamp = newest["creationTimestamp"].as_str().unwrap().parse().unwrap();
        assert_eq!(created, Timestamp::from_second(played.pushed_at.as_second()).unwrap());

        let found = payload(6).await;
        let data = found["items"][0]["data"]["release"].as_str().unwrap();
        let packed = STANDARD.decode(STANDARD.decode(data).unwrap()).unwrap();
        let mut text = String::new();
        GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
        let release: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&release["name"], &release["namespace"], &release["version"]),
            (&json!("checkout"), &json!("shop"), &json!(6))
        );
        let deployed: Timestamp = release["info"]["last_deployed"].as_str().unwrap().parse().unwrap();
        assert!(
            deployed.duration_since(created).abs() < SignedDuration::from_secs(2),
            "{deployed} {created}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_watched_timeline_is_replayed_from_the_note_that_is_named() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        let upgrade = scenario("timelines/03");
        assert_eq!(upgrade.name(), "timelines/03-upgrade-fails-retries1-rollback-then-revert");
        assert_eq!(upgrade.description(), "published chart 2.0.0");
        let played = cluster.play(&upgrade, Some("shop"), Some("checkout"), Duration::ZERO).unwrap();
        let got = get(&client, &cluster, &played.path, "application/json").await.unwrap().json();
        assert_eq!(got["status"]["history"][0]["chartVersion"], "1.0.0");
        assert_eq!(got["spec"]["releaseName"], "checkout");
        // What Flux's Helm stored is there too.
        let secrets = "/api/v1/namespaces/shop/secrets?labelSelector=owner%3Dhelm%2Cname%3Dcheckout";
        let got = get(&client, &cluster, secrets, METADATA).await.unwrap().json();
        assert_eq!(got["items"][0]["metadata"]["name"], "sh.helm.release.v1.checkout.v1");
        let got = get(&client, &cluster, secrets, "application/json").await.unwrap().json();
        assert!(got["items"][0]["data"]["release"].is_string());

        let created = scenario("timelines/03#1");
        assert_eq!(created.description(), "create HelmRelease");
        let played = cluster.play(&created, Some("shop"), Some("new"), Duration::from_secs(1)).unwrap();
        let got = get(&client, &cluster, &played.path, "application/json").await.unwrap();
        assert_eq!(got.status, 404);
    })
    .await;
}

#[tokio::test]
async fn a_cluster_whose_clock_is_ahead_says_so_everywhere() {
    limited(async {
        let config = Config { clock_offset: SignedDuration::from_mins(10), ..Config::default() };
        let cluster = SimulatedCluster::start(config).await.unwrap();
        let client = client(cluster.ca_pem());
        let played = cluster.play(&scenario("flux/chart-upgrade"), None, None, Duration::ZERO).unwrap();
        assert!(played.pushed_at.duration_since(Timestamp::now()) < SignedDuration::from_secs(2));
        sleep(Duration::from_secs(2)).await;
        let got = get(&client, &cluster, &played.path, "application/json").await.unwrap();
        let date = got.headers[header::DATE].to_str().unwrap();
        let date = DateTimeParser::new().parse_zoned_datetime(date).unwrap().timestamp();
        let deployed: Timestamp =
            got.json()["status"]["history"][0]["lastDeployed"].as_str().unwrap().parse().unwrap();
        let ahead = deployed.duration_since(played.pushed_at).as_secs_f64();
        assert!((598.0..602.0).contains(&ahead), "{ahead}");
        assert!(date >= deployed && date <= cluster.now());

        let config = Config { date_header: false, ..Config::default() };
        let silent = SimulatedCluster::start(config).await.unwrap();
        let client = crate::client(silent.ca_pem());
        assert!(get(&client, &silent, "/version", "*/*").await.unwrap().headers.get(header::DATE).is_none());
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_moved_takes_the_replay_along() {
    limited(async {
        let start: Timestamp = "2026-11-23T20:00:00Z".parse().unwrap();
        let clock = FixedClock::new(start);
        let offset = SignedDuration::from_hours(-1);
        let config = Config { clock: Some(clock.clone()), clock_offset: offset, ..Config::default() };
        let cluster = SimulatedCluster::start(config).await.unwrap();
        let client = client(cluster.ca_pem());
        let played =
            cluster.play(&scenario("flux/chart-upgrade"), None, None, Duration::from_secs(60)).unwrap();
        let pushed_in = played.pushed_at.duration_since(start).as_secs();
        assert!((60..=61).contains(&pushed_in), "{pushed_in}");
        for (secs, chart) in [(0, "1.0.0"), (59, "1.0.0"), (6, "1.1.0")] {
            let now = clock.advance(SignedDuration::from_secs(secs));
            let got = get(&client, &cluster, &played.path, "application/json").await.unwrap();
            assert_eq!(got.json()["status"]["history"][0]["chartVersion"], chart, "{now}");
            let date = got.headers[header::DATE].to_str().unwrap();
            let date = DateTimeParser::new().parse_zoned_datetime(date).unwrap().timestamp();
            assert_eq!((date, cluster.now()), (now + offset, now + offset));
        }
    })
    .await;
}

#[tokio::test]
async fn a_replay_can_be_quicker() {
    limited(async {
        let cluster = start().await;
        let client = client(cluster.ca_pem());
        let scenario = scenario("flux/upgrade-fails-no-retry");
        assert!(scenario.ends_after_push_ms() > 15_000);
        let played = cluster.play_at_speed(&scenario, None, None, Duration::ZERO, 20.0).unwrap();
        sleep(Duration::from_millis(2_200)).await;
        let got = get(&client, &cluster, &played.path, "application/json").await.unwrap().json();
        assert_eq!(got["status"]["conditions"][0]["reason"], "RetriesExceeded", "{got}");
    })
    .await;
}

#[tokio::test]
async fn what_can_not_be_played_is_refused_with_a_sentence() {
    let cluster = start().await;
    for name in ["chart-upgrade", "flux/../flux/chart-upgrade", "../flux/x", "flux/", "timelines/03#x"] {
        assert!(matches!(Scenario::load(&fixtures(), name), Err(ScenarioError::Name(_))), "{name}");
    }
    for name in ["flux/none", "timelines/0", "none/x"] {
        assert!(matches!(Scenario::load(&fixtures(), name), Err(ScenarioError::Unknown { .. })), "{name}");
    }
    assert!(matches!(Scenario::load(&fixtures(), "timelines/03#99"), Err(ScenarioError::Shape { .. })));
    let scenario = scenario("flux/chart-upgrade");
    let play = |namespace, name, speed| {
        cluster.play_at_speed(&scenario, namespace, name, Duration::ZERO, speed).unwrap_err().to_string()
    };
    assert_eq!(play(Some("a/b"), None, 1.0), "\"a/b\" can't be the name of an object");
    assert_eq!(play(None, Some("A"), 1.0), "\"A\" can't be the name of an object");
    assert_eq!(play(None, None, 0.0), "a speed of 0 is not between 0.01 and 100");
    assert!(play(None, None, f64::NAN).contains("NaN"));
    let far = cluster.play(&scenario, None, None, Duration::from_secs(7200));
    assert!(matches!(far, Err(ScenarioError::TooFarAhead)));
}
