use std::collections::BTreeSet;

use monitor::ports::SystemClock;

use super::*;

/// The rules of the specification's schema for a document with one directive.
fn hold_to_the_specification(document: &Value) {
    let root = document.as_object().unwrap();
    let metadata = root["_aws"].as_object().unwrap();
    assert!(metadata["Timestamp"].is_i64(), "milliseconds since 1970");
    let directives = metadata["CloudWatchMetrics"].as_array().unwrap();
    assert_eq!((metadata.len(), directives.len()), (2, 1));
    let directive = directives[0].as_object().unwrap();
    let members: BTreeSet<&str> = directive.keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(["Dimensions", "Metrics", "Namespace"]));
    let namespace = directive["Namespace"].as_str().unwrap();
    assert!((1..=1024).contains(&namespace.len()) && !namespace.starts_with("AWS/"));
    let sets = directive["Dimensions"].as_array().unwrap();
    assert!(!sets.is_empty());
    let mut targets = BTreeSet::from(["_aws"]);
    for dimension in sets.iter().flat_map(|set| set.as_array().unwrap()) {
        let name = dimension.as_str().unwrap();
        assert!((1..=1024).contains(&root[name].as_str().unwrap().len()), "{name} is a text of its own");
        targets.insert(name);
    }
    let metrics = directive["Metrics"].as_array().unwrap();
    assert!((1..=100).contains(&metrics.len()));
    for metric in metrics {
        let name = metric["Name"].as_str().unwrap();
        assert!((1..=1024).contains(&name.len()) && root[name].is_number(), "{name} is a number");
        assert!(["Count", "Seconds"].contains(&metric["Unit"].as_str().unwrap()));
        assert!(targets.insert(name), "{name} once");
    }
    assert_eq!(root.keys().map(String::as_str).collect::<BTreeSet<_>>(), targets, "nothing else");
}

fn line(probed: &Probed<'_>) -> Value {
    let line = EmfMetrics::new("dag-monitor-prod", Arc::new(SystemClock)).line(probed);
    assert!(!line.contains('\n') && line.len() < 256 * 1024);
    let document = serde_json::from_str(&line).unwrap();
    hold_to_the_specification(&document);
    document
}

#[test]
fn a_probe_is_one_document() {
    let mut document = line(&Probed {
        cluster: "prod-eu",
        reached: true,
        token_secs_left: Some(-5),
        certificate_secs_left: Some(86_400),
    });
    assert!(document["_aws"]["Timestamp"].take().as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        document,
        json!({
            "_aws": {
                "Timestamp": null,
                "CloudWatchMetrics": [{
                    "Namespace": "dag-monitor",
                    "Dimensions": [["Stack"], ["Stack", "Cluster"]],
                    "Metrics": [
                        {"Name": "ClusterUnreachable", "Unit": "Count"},
                        {"Name": "TokenSecondsLeft", "Unit": "Seconds"},
                        {"Name": "CertificateSecondsLeft", "Unit": "Seconds"},
                    ],
                }],
            },
            "Stack": "dag-monitor-prod",
            "Cluster": "prod-eu",
            "ClusterUnreachable": 0,
            "TokenSecondsLeft": -5,
            "CertificateSecondsLeft": 86_400,
        })
    );
}

#[test]
fn what_is_not_known_is_left_out() {
    let document = line(&Probed {
        cluster: "prod-eu",
        reached: false,
        token_secs_left: None,
        certificate_secs_left: None,
    });
    assert_eq!(document["ClusterUnreachable"], 1);
    assert_eq!(document["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap().len(), 1);
}
