use std::time::Duration;

use aws_sdk_dynamodb::config::SharedHttpClient;
use aws_smithy_http_client::test_util::NeverClient;
use monitor::ports::Deployments;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::functions::replay::{access, answering, is_transient, refusal, told};

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_asked_twice_and_given_up_in_time() {
    let client = NeverClient::new();
    let aws = Aws::with_http_client(&access(), SharedHttpClient::new(client.clone()));
    let began = Instant::now();
    let result = aws.deployments("deployments").get("d-1").await;
    assert!(is_transient(&result));
    assert_eq!(
        told(&result.unwrap_err()).lines().next(),
        Some("DynamoDB could not be reached: GetItem: no answer in time")
    );
    assert!(began.elapsed() <= OPERATION + Duration::from_millis(100), "{:?}", began.elapsed());
    // Two whole tries, and a third only where the pauses were short.
    assert!((2..=3).contains(&client.num_calls()), "{}", client.num_calls());
}

#[tokio::test(start_paused = true)]
async fn what_fails_at_once_is_tried_three_times_with_short_pauses() {
    let throttled = (400, refusal("ThrottlingException", "slow down"));
    let broken = (500, refusal("InternalServerError", "sorry"));
    let (aws, wire) = answering(vec![throttled.clone(), broken, (200, json!({}))]);
    let began = Instant::now();
    assert_eq!(aws.deployments("deployments").get("d-1").await.unwrap(), None);
    assert_eq!(wire.requests().len(), 3);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());

    let (aws, wire) = answering(vec![throttled; 4]);
    let result = aws.deployments("deployments").get("d-1").await;
    assert!(is_transient(&result));
    assert_eq!(wire.requests().len(), 3);
}

#[tokio::test]
async fn region_and_credentials_are_those_of_the_environment() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    assert_eq!(aws.deployments("deployments").get("d-1").await.unwrap(), None);
    assert!(wire.uri().starts_with("https://dynamodb.eu-central-1.amazonaws.com"), "{}", wire.uri());
    assert_eq!(wire.header("x-amz-security-token").as_deref(), Some("session-token"));
    let authorization = wire.header("authorization").unwrap();
    assert!(authorization.contains("Credential=AKIDEXAMPLE/"), "{authorization}");
}

#[tokio::test]
async fn refusals_are_sorted_by_whether_waiting_helps() {
    for (status, code, passes) in [
        (400, "ProvisionedThroughputExceededException", true),
        (400, "RequestLimitExceeded", true),
        (400, "ThrottlingException", true),
        (400, "ExpiredTokenException", true),
        (429, "SomethingNew", true),
        (503, "SomethingNew", true),
        (500, "InternalServerError", true),
        (400, "AccessDeniedException", false),
        (400, "ResourceNotFoundException", false),
        (400, "UnrecognizedClientException", false),
        (400, "ValidationException", false),
    ] {
        let (aws, _wire) = answering(vec![(status, refusal(code, "its words")); 3]);
        let result = aws.deployments("deployments").get("d-1").await;
        assert_eq!(is_transient(&result), passes, "{code}");
        let told = told(&result.unwrap_err());
        assert!(told.contains(code), "{told}");
        // Validation errors repeat the value that they complain of.
        assert_eq!(told.contains("its words"), code != "ValidationException", "{told}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_json_may_pass() {
    let (aws, _wire) = answering(vec![(200, json!("not an object")); 3]);
    let result = aws.deployments("deployments").get("d-1").await;
    assert!(is_transient(&result));
    assert!(!told(&result.unwrap_err()).contains("not an object"));
}
