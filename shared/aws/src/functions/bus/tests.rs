use std::{fs, path::PathBuf};

use jiff::{SignedDuration, Timestamp};
use monitor::contract;
use serde_json::{Value, json};
use verdict::{Evidence, Reason, Status};

use super::*;
use crate::functions::replay::{answering, is_transient, refusal, told};

fn answer() -> Answer {
    Answer {
        status: Status::Failed,
        reason: Reason::RolledBack,
        evidence: Some(Evidence::Changed),
        finished_at: Some(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(42)),
        ..Answer::from(&contract::deployment("d-1", Timestamp::UNIX_EPOCH))
    }
}

/// Holds the only entry that was sent to what the tests of schema and rules read, too.
fn hold_to(request: &mut Value, name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/events").join(name);
    let kept: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let detail = request["Entries"][0]["Detail"].take();
    assert_eq!(
        *request,
        json!({"Entries": [{
            "EventBusName": "bus", "Source": kept["source"], "DetailType": kept["detail-type"], "Detail": null,
        }]})
    );
    assert_eq!(serde_json::from_str::<Value>(detail.as_str().unwrap()).unwrap(), kept["detail"]);
}

#[tokio::test]
async fn publishes_the_stored_answer() {
    let (aws, wire) = answering(vec![(200, json!({"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]}))]);
    aws.events("bus").deployment_finished(&answer()).await.unwrap();
    hold_to(&mut wire.request("PutEvents"), "deployment-finished.json");
}

#[tokio::test]
async fn publishes_that_a_cluster_needs_attention() {
    let (aws, wire) = answering(vec![(200, json!({"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]}))]);
    aws.events("bus").cluster_needs_attention(&contract::attention()).await.unwrap();
    hold_to(&mut wire.request("PutEvents"), "cluster-needs-attention.json");
}

#[tokio::test]
async fn an_entry_that_failed_is_a_failure() {
    for (code, passes) in
        [("ThrottlingException", true), ("InternalFailure", true), ("NotAuthorizedForSourceException", false)]
    {
        let entry = json!({"ErrorCode": code, "ErrorMessage": "its words"});
        let (aws, _wire) = answering(vec![(200, json!({"FailedEntryCount": 1, "Entries": [entry]}))]);
        let result = aws.events("bus").deployment_finished(&answer()).await;
        assert_eq!(is_transient(&result), passes, "{code}");
        let told = told(&result.unwrap_err());
        assert!(told.contains(&format!("PutEvents: {code}: its words")), "{told}");
    }
}

#[tokio::test]
async fn a_refused_call_is_a_failure() {
    let (aws, _wire) = answering(vec![(400, refusal("AccessDeniedException", "no events:PutEvents"))]);
    let result = aws.events("bus").deployment_finished(&answer()).await;
    assert!(!is_transient(&result));
}
