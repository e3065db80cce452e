use monitor::contract;
use serde_json::json;

use super::*;
use crate::functions::replay::{answering, is_transient, refusal, told};

const MACHINE: &str = "arn:aws:states:eu-central-1:123456789012:stateMachine:dag-monitor";
const EXECUTION: &str = "arn:aws:states:eu-central-1:123456789012:execution:dag-monitor:checkout-1";

fn begun() -> Execution {
    Execution { arn: EXECUTION.to_owned(), started_at: "2026-11-23T19:15:45.678Z".parse().unwrap() }
}

#[tokio::test]
async fn starts_by_name_with_the_input_as_text() {
    let (aws, wire) =
        answering(vec![(200, json!({"executionArn": EXECUTION, "startDate": 1_795_461_345.678}))]);
    let started =
        aws.executions(MACHINE).start("checkout-1", &json!({"b": [{"d": 1, "c": 2.5}], "a": null})).await;
    assert_eq!(started.unwrap(), Starting::Begun(begun()));
    assert_eq!(
        wire.request("StartExecution"),
        json!({"stateMachineArn": MACHINE, "name": "checkout-1", "input": r#"{"a":null,"b":[{"c":2.5,"d":1}]}"#})
    );
}

/// As AWS answers: an emulator that does so is not known.
#[tokio::test]
async fn the_same_start_again_is_the_same_request_and_the_same_execution() {
    let begun = (200, json!({"executionArn": EXECUTION, "startDate": 1_795_461_345.678}));
    let (aws, wire) = answering(vec![begun.clone(), begun]);
    contract::executions_begun_twice(&aws.executions(MACHINE)).await;
    let requests = wire.requests();
    assert_eq!(requests[0], requests[1]);
}

#[tokio::test]
async fn a_name_that_was_used_is_taken() {
    let taken = refusal("ExecutionAlreadyExists", "Execution Already Exists: 'arn'");
    let (aws, wire) = answering(vec![(400, taken)]);
    let started = aws.executions(MACHINE).start("checkout-1", &json!({})).await;
    assert_eq!(started.unwrap(), Starting::NameTaken);
    assert_eq!(wire.operations(), ["StartExecution"]);
}

#[tokio::test]
async fn finds_by_the_arn_that_follows_from_the_name() {
    for (status, running) in [
        ("RUNNING", true),
        ("PENDING_REDRIVE", true),
        ("SUCCEEDED", false),
        ("ABORTED", false),
        ("NEW", false),
    ] {
        let (aws, wire) = answering(vec![(
            200,
            json!({
                "executionArn": EXECUTION, "stateMachineArn": MACHINE, "name": "checkout-1", "status": status,
                "startDate": 1_795_461_345.678, "input": r#"{"deploymentId": "checkout-1"}"#,
            }),
        )]);
        let found = aws.executions(MACHINE).find("checkout-1").await.unwrap();
        let input = Some(json!({"deploymentId": "checkout-1"}));
        assert_eq!(found, Some(Found { execution: begun(), input, running }), "{status}");
        assert_eq!(wire.request("DescribeExecution"), json!({"executionArn": EXECUTION}));
    }
}

#[tokio::test]
async fn an_input_that_is_not_told_or_no_json_is_none() {
    for input in [json!(null), json!("{")] {
        let (aws, _wire) = answering(vec![(
            200,
            json!({
                "executionArn": EXECUTION, "stateMachineArn": MACHINE, "status": "FAILED",
                "startDate": 1_795_461_345, "input": input,
            }),
        )]);
        let found = aws.executions(MACHINE).find("checkout-1").await.unwrap().unwrap();
        assert_eq!((found.input, found.running), (None, false));
    }
}

#[tokio::test]
async fn what_is_not_there_is_none() {
    let (aws, _wire) = answering(vec![(400, refusal("ExecutionDoesNotExist", "Execution Does Not Exist"))]);
    assert_eq!(aws.executions(MACHINE).find("checkout-1").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn refusals_and_outages_are_told_apart() {
    for (answer, passes) in [
        ((400, refusal("ThrottlingException", "Rate exceeded")), true),
        ((500, refusal("InternalFailure", "sorry")), true),
        ((400, refusal("AccessDeniedException", "not authorized to perform: states:X")), false),
        ((400, refusal("StateMachineDoesNotExist", "no such machine")), false),
    ] {
        let (aws, _wire) = answering(vec![answer.clone(), answer.clone(), answer.clone()]);
        let started = aws.executions(MACHINE).start("checkout-1", &json!({})).await;
        assert_eq!(is_transient(&started), passes, "{answer:?}");
        assert!(told(&started.unwrap_err()).contains("StartExecution"));
        let (aws, _wire) = answering(vec![answer.clone(), answer.clone(), answer.clone()]);
        let found = aws.executions(MACHINE).find("checkout-1").await;
        assert_eq!(is_transient(&found), passes, "{answer:?}");
        assert!(told(&found.unwrap_err()).contains("DescribeExecution"));
    }
}
