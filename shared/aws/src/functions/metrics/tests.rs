use std::{collections::BTreeSet, fs, path::PathBuf, sync::Mutex};

use jiff::{SignedDuration, Timestamp};
use monitor::contract::deployment;
use verdict::{AskErrorKind, Reason, Status};

use super::*;

/// What is in a line beside metrics and dimensions, for those who read the log.
const FIELDS: [&str; 11] = [
    "timestamp",
    "level",
    "message",
    "deployment_id",
    "clusters",
    "status",
    "reason",
    "polls",
    "sentence",
    "kind",
    "targets",
];
/// The most a line may be ("Specification: Embedded metric format", CloudWatch user guide).
const LINE_BYTES: usize = 1024 * 1024;

/// The rules of the specification's schema for a document.
fn hold_to_the_specification(document: &Value) {
    let root = document.as_object().unwrap();
    let metadata = root["_aws"].as_object().unwrap();
    assert!(metadata["Timestamp"].is_i64(), "milliseconds since 1970");
    let directives = metadata["CloudWatchMetrics"].as_array().unwrap();
    assert!(metadata.len() == 2 && !directives.is_empty());
    let (mut targets, mut dimensions) = (BTreeSet::from(["_aws"]), BTreeSet::new());
    for directive in directives {
        let directive = directive.as_object().unwrap();
        let members: BTreeSet<&str> = directive.keys().map(String::as_str).collect();
        assert_eq!(members, BTreeSet::from(["Dimensions", "Metrics", "Namespace"]));
        let namespace = directive["Namespace"].as_str().unwrap();
        assert!((1..=1024).contains(&namespace.len()) && !namespace.starts_with("AWS/"));
        let sets = directive["Dimensions"].as_array().unwrap();
        assert!(!sets.is_empty());
        for dimension in sets.iter().flat_map(|set| set.as_array().unwrap()) {
            let name = dimension.as_str().unwrap();
            assert!((1..=1024).contains(&root[name].as_str().unwrap().len()), "{name} is a text of its own");
            dimensions.insert(name);
        }
        let metrics = directive["Metrics"].as_array().unwrap();
        assert!((1..=100).contains(&metrics.len()));
        for metric in metrics {
            let name = metric["Name"].as_str().unwrap();
            assert!((1..=1024).contains(&name.len()) && root[name].is_number(), "{name} is a number");
            assert!(["Count", "Seconds", "Milliseconds"].contains(&metric["Unit"].as_str().unwrap()));
            assert!(targets.insert(name), "{name} once");
        }
    }
    // Of each there are few: ids of deployments, releases and namespaces have no bound.
    assert!(
        dimensions.is_subset(&BTreeSet::from(["Stack", "Cluster", "Status", "Reason"])),
        "{dimensions:?}"
    );
    assert!(targets.is_disjoint(&dimensions));
    targets.extend(dimensions);
    let rest: Vec<&str> = root.keys().map(String::as_str).filter(|it| !targets.contains(it)).collect();
    assert!(rest.iter().all(|it| FIELDS.contains(it)), "{rest:?}");
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }
}

/// The only line that is written.
fn line(act: impl FnOnce(&EmfMetrics)) -> Value {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    let metrics = EmfMetrics::writing_to("dag-monitor-prod", Arc::new(Noon), move |line| {
        kept.lock().unwrap().push(line.to_owned());
    });
    act(&metrics);
    let lines = lines.lock().unwrap();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let text = line.strip_suffix('\n').unwrap();
    assert!(!text.contains('\n') && text.len() < LINE_BYTES);
    let document = serde_json::from_str(text).unwrap();
    hold_to_the_specification(&document);
    document
}

/// What the tests of alarms and dashboard read, too.
fn kept(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/metrics").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn judged() -> Deployment {
    let started_at = Noon.now() - SignedDuration::from_secs(42);
    Deployment {
        status: Status::Failed,
        reason: Reason::MonitorError,
        message: "the execution was\nstopped".to_owned(),
        finished_at: Some(Noon.now()),
        ..deployment("checkout-4711", started_at)
    }
}

#[test]
fn a_probe_is_one_document() {
    let probed = Probed {
        cluster: "prod-eu",
        reached: true,
        token_secs_left: Some(-5),
        certificate_secs_left: Some(86_400),
    };
    assert_eq!(line(|it| it.cluster_probed(&probed)), kept("probed.json"));
}

#[test]
fn what_is_not_known_is_left_out() {
    let probed =
        Probed { cluster: "prod-eu", reached: false, token_secs_left: None, certificate_secs_left: None };
    let document = line(|it| it.cluster_probed(&probed));
    assert_eq!(document["ClusterUnreachable"], 1);
    assert_eq!(document["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap().len(), 1);
}

#[test]
fn a_verdict_is_in_the_line_of_the_check_that_stored_it() {
    let (item, took) = (judged(), SignedDuration::from_millis(1_234));
    let document = line(|it| it.checked(&Checked { item: &item, took, verdict: true }));
    assert_eq!((&document["PollDuration"], &document["Verdicts"]), (&json!(1_234), &json!(1)));
    assert_eq!((&document["TimeToVerdict"], &document["Reason"]), (&json!(42), &json!("MonitorError")));
    let late = line(|it| it.checked(&Checked { item: &item, took, verdict: false }));
    assert!(["Verdicts", "TimeToVerdict", "Reason", "Status"].iter().all(|it| late.get(it).is_none()));
    assert_eq!((&late["PollDuration"], &late["reason"]), (&json!(1_234), &json!("MonitorError")));
}

#[test]
fn a_closing_is_a_verdict_without_a_check() {
    let document = line(|it| it.closed(&judged()));
    assert_eq!((&document["Verdicts"], document.get("PollDuration")), (&json!(1), None));
    assert_eq!(
        (&document["deployment_id"], &document["message"]),
        (&json!("checkout-4711"), &json!("closed"))
    );
}

#[test]
fn a_cluster_that_can_not_be_asked_is_counted_by_its_id() {
    let failed = ClusterFailed {
        deployment_id: "checkout-4711",
        cluster: "prod-eu",
        kind: AskErrorKind::Unreachable,
        targets: 3,
    };
    let document = line(|it| it.cluster_failed(&failed));
    assert_eq!((&document["ClusterErrors"], &document["Cluster"]), (&json!(1), &json!("prod-eu")));
    assert_eq!((&document["kind"], &document["targets"]), (&json!("Unreachable"), &json!(3)));
}
