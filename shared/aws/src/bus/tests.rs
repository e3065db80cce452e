use jiff::Timestamp;
use monitor::contract;
use serde_json::{Value, json};

use super::*;
use crate::replay::{answering, is_transient, refusal, told};

fn answer() -> Answer {
    Answer::from(&contract::deployment("d-1", Timestamp::UNIX_EPOCH))
}

#[tokio::test]
async fn publishes_the_stored_answer() {
    let (aws, wire) = answering(vec![(200, json!({"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]}))]);
    aws.events("bus").deployment_finished(&answer()).await.unwrap();
    let mut request = wire.request("PutEvents");
    let detail = request["Entries"][0]["Detail"].take();
    assert_eq!(
        request,
        json!({"Entries": [
            {"EventBusName": "bus", "Source": "dag-monitor", "DetailType": "Deployment Finished", "Detail": null}
        ]})
    );
    let detail: Value = serde_json::from_str(detail.as_str().unwrap()).unwrap();
    assert_eq!(detail, serde_json::to_value(answer()).unwrap());
}

#[tokio::test]
async fn publishes_that_a_cluster_needs_attention() {
    let (aws, wire) = answering(vec![(200, json!({"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]}))]);
    aws.events("bus").cluster_needs_attention(&contract::attention()).await.unwrap();
    let mut request = wire.request("PutEvents");
    let detail = request["Entries"][0]["Detail"].take();
    assert_eq!(
        request,
        json!({"Entries": [
            {"EventBusName": "bus", "Source": "dag-monitor", "DetailType": "Cluster Needs Attention", "Detail": null}
        ]})
    );
    assert_eq!(
        serde_json::from_str::<Value>(detail.as_str().unwrap()).unwrap(),
        json!({
            "cluster": "prod-eu",
            "name": "Prod EU",
            "probedAt": "2026-09-21T14:13:20Z",
            "reason": null,
            "message": "the token ends on 2026-09-28",
            "tokenExpiresAt": "2026-09-28T14:13:20Z",
            "certificateNotAfter": "2027-09-21T14:13:20Z",
        })
    );
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
