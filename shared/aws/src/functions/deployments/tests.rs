use jiff::SignedDuration;
use monitor::{contract, ports::SystemClock};
use serde_json::{Value, json};

use super::*;
use crate::{
    Aws,
    functions::replay::{answering, is_transient, odd, refusal, told},
};

fn now() -> Timestamp {
    "2026-11-23T19:15:45Z".parse().unwrap()
}

fn deployment() -> Deployment {
    contract::deployment("d-1", now())
}

/// In the emulator's and the service's form, from what an adapter would write.
fn on_the_wire(item: Item) -> Value {
    let attribute = |value: AttributeValue| match value {
        AttributeValue::S(text) => json!({"S": text}),
        AttributeValue::N(number) => json!({"N": number}),
        other => panic!("{other:?}"),
    };
    item.into_iter().map(|(name, value)| (name, attribute(value))).collect()
}

fn lost(item: Option<Value>) -> (u16, Value) {
    let mut body = refusal("ConditionalCheckFailedException", "The conditional request failed");
    if let Some(item) = item {
        body["Item"] = item;
    }
    (400, body)
}

fn store(aws: &Aws) -> DynamoDeployments {
    aws.deployments("deployments")
}

#[tokio::test]
async fn reads_one_item_strongly_consistent() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    assert_eq!(store(&aws).get("d-1").await.unwrap(), None);
    assert_eq!(
        wire.request("GetItem"),
        json!({"TableName": "deployments", "Key": {"deploymentId": {"S": "d-1"}}, "ConsistentRead": true})
    );
}

#[tokio::test]
async fn creates_where_nothing_is_or_it_has_expired() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    let item = deployment();
    assert_eq!(store(&aws).create(&item, now()).await.unwrap(), Stored::Yes);
    let request = wire.request("PutItem");
    assert_eq!(request["TableName"], "deployments");
    assert_eq!(request["ConditionExpression"], "attribute_not_exists(deploymentId) OR expiresAt < :now");
    assert_eq!(request["ExpressionAttributeValues"], json!({":now": {"N": "1795461345"}}));
    assert_eq!(request["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
}

#[tokio::test]
async fn the_attributes_are_those_that_the_table_and_the_state_machine_know() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    let item = deployment();
    assert_eq!(store(&aws).create(&item, now()).await.unwrap(), Stored::Yes);
    let mut written = wire.request("PutItem")["Item"].take();
    for (name, parsed) in
        [("targets", serde_json::to_value(&item.targets)), ("request", serde_json::to_value(&item.request))]
    {
        let text = written[name]["S"].take();
        assert_eq!(serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap(), parsed.unwrap());
    }
    assert_eq!(
        written,
        json!({
            "deploymentId": {"S": "d-1"},
            "schema": {"N": "1"},
            "rev": {"N": "1"},
            "executionArn": {"S": "arn:aws:states:eu-central-1:123456789012:execution:monitor:d-1"},
            "digest": {"S": item.digest},
            "app": {"S": "checkout"},
            "environment": {"S": "production"},
            "appEnvironment": {"S": "checkout#production"},
            "startedAt": {"S": "2026-11-23T19:15:45.000Z"},
            "deadline": {"S": "2026-11-23T19:20:45.000Z"},
            "checkedAt": {"S": "2026-11-23T19:15:45.000Z"},
            "status": {"S": "pending"},
            "reason": {"S": "WaitingForChange"},
            "message": {"S": item.message},
            "polls": {"N": "1"},
            "targets": {"S": null},
            "request": {"S": null},
            "expiresAt": {"N": "1803237345"},
        })
    );
}

#[tokio::test]
async fn only_what_names_app_and_environment_is_in_the_index() {
    let mut item = deployment();
    item.request.as_mut().unwrap().environment = None;
    let written = write(&item).unwrap();
    assert!(written.contains_key("app") && !written.contains_key("appEnvironment"));
    item.request = None;
    let written = write(&item).unwrap();
    assert!(!written.contains_key("app") && !written.contains_key("request"));
}

#[tokio::test]
async fn updates_only_the_revision_that_was_read_and_is_pending() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    let item = Deployment {
        rev: 8,
        status: Status::Failed,
        reason: Reason::Timeout,
        last_reason: Some(Reason::Progressing),
        finished_at: Some(now() + SignedDuration::from_millis(1)),
        ..deployment()
    };
    assert_eq!(store(&aws).update(&item).await.unwrap(), Stored::Yes);
    let request = wire.request("PutItem");
    assert_eq!(request["ConditionExpression"], "rev = :read AND #status = :pending AND executionArn = :arn");
    assert_eq!(request["ExpressionAttributeNames"], json!({"#status": "status"}));
    assert_eq!(
        request["ExpressionAttributeValues"],
        json!({":read": {"N": "7"}, ":pending": {"S": "pending"}, ":arn": {"S": item.execution_arn}})
    );
    assert_eq!(request["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
    assert_eq!(request["Item"]["rev"], json!({"N": "8"}));
    assert_eq!(request["Item"]["status"], json!({"S": "failed"}));
    assert_eq!(request["Item"]["lastReason"], json!({"S": "Progressing"}));
    assert_eq!(request["Item"]["finishedAt"], json!({"S": "2026-11-23T19:15:45.001Z"}));
}

#[tokio::test]
async fn an_item_without_an_execution_is_updated_only_while_it_has_none() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    let item = Deployment { execution_arn: None, ..deployment() };
    assert_eq!(store(&aws).update(&item).await.unwrap(), Stored::Yes);
    let request = wire.request("PutItem");
    assert_eq!(
        request["ConditionExpression"],
        "rev = :read AND #status = :pending AND attribute_not_exists(executionArn)"
    );
    assert_eq!(
        request["ExpressionAttributeValues"],
        json!({":read": {"N": "0"}, ":pending": {"S": "pending"}})
    );
}

#[tokio::test]
async fn a_failed_condition_is_a_lost_race() {
    let theirs = Deployment { message: "theirs".to_owned(), ..deployment() };
    for item in [None, Some(on_the_wire(write(&theirs).unwrap()))] {
        let (aws, wire) = answering(vec![lost(item.clone()), lost(item)]);
        assert_eq!(store(&aws).create(&deployment(), now()).await.unwrap(), Stored::Lost);
        assert_eq!(store(&aws).update(&deployment()).await.unwrap(), Stored::Lost);
        assert_eq!(wire.operations(), ["PutItem", "PutItem"], "a failed condition is not tried again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_done_although_it_failed_is_done() {
    let item = Deployment { rev: 2, ..contract::large_deployment("d-1", now()) };
    let done = on_the_wire(write(&item).unwrap());
    let broken = (500, refusal("InternalServerError", "the answer got lost"));
    let (aws, wire) = answering(vec![broken.clone(), lost(Some(done.clone()))]);
    assert_eq!(store(&aws).update(&item).await.unwrap(), Stored::Yes);
    assert_eq!(wire.operations(), ["PutItem", "PutItem"]);

    let (aws, _wire) = answering(vec![broken, lost(Some(done))]);
    assert_eq!(store(&aws).create(&item, now()).await.unwrap(), Stored::Yes);
}

#[tokio::test(start_paused = true)]
async fn refusals_and_outages_are_told_apart() {
    for (answer, passes) in [
        ((400, refusal("ProvisionedThroughputExceededException", "too fast")), true),
        ((503, refusal("ServiceUnavailable", "sorry")), true),
        ((400, refusal("AccessDeniedException", "not authorized to perform: dynamodb:PutItem")), false),
        ((400, refusal("ValidationException", "Item size has exceeded the maximum allowed size")), false),
    ] {
        let (aws, _wire) = answering(vec![answer.clone(), answer.clone(), answer]);
        let result = store(&aws).update(&deployment()).await;
        assert_eq!(is_transient(&result), passes);
        let told = told(&result.unwrap_err());
        assert!(told.contains("PutItem"), "{told}");
    }
}

#[tokio::test]
async fn reads_what_the_state_machine_marked_before_any_check() {
    let expires_at = SystemClock.now().as_second() + 1;
    let (aws, _wire) = answering(vec![(
        200,
        json!({"Item": {
            "deploymentId": {"S": "d-1"},
            "schema": {"N": "1"},
            "rev": {"N": "1"},
            "executionArn": {"S": "arn:aws:states:eu-central-1:123456789012:execution:monitor:d-1"},
            "startedAt": {"S": "2026-11-23T19:15:45.678Z"},
            "deadline": {"S": "2026-11-23T19:20:45.678Z"},
            "checkedAt": {"S": "2026-11-23T19:15:50.1Z"},
            "finishedAt": {"S": "2026-11-23T19:15:50.1Z"},
            "status": {"S": "failed"},
            "reason": {"S": "MonitorError"},
            "lastReason": {"S": "Starting"},
            "message": {"S": "dag-monitor could not judge this deployment"},
            "polls": {"N": "0"},
            "targets": {"S": "[]"},
            "expiresAt": {"N": expires_at.to_string()},
            "whoKnows": {"L": [{"BOOL": true}]},
        }}),
    )]);
    let item = store(&aws).get("d-1").await.unwrap().unwrap();
    assert_eq!((item.rev, item.status, item.reason), (1, Status::Failed, Reason::MonitorError));
    assert_eq!(item.started_at, "2026-11-23T19:15:45.678Z".parse().unwrap());
    assert_eq!((item.digest.as_str(), item.request, item.targets.len()), ("", None, 0));
}

#[tokio::test]
async fn an_expired_item_is_none_even_if_it_is_there() {
    let item = Deployment { expires_at: SystemClock.now().as_second() - 2, ..deployment() };
    let (aws, _wire) = answering(vec![(200, json!({"Item": on_the_wire(write(&item).unwrap())}))]);
    assert_eq!(store(&aws).get("d-1").await.unwrap(), None);
}

#[tokio::test]
async fn what_this_version_does_not_understand_is_broken() {
    let good = on_the_wire(write(&Deployment { expires_at: i64::MAX, ..deployment() }).unwrap());
    for (name, value, words) in [
        ("schema", json!({"N": "2"}), "has schema 2; this version reads schema 1"),
        ("schema", json!({"S": "1"}), "has schema none; this version reads schema 1"),
        ("reason", json!({"S": "Unheard"}), "can't be read"),
        ("startedAt", json!({"S": "yesterday"}), "can't be read"),
        ("targets", json!({"S": "[{}]"}), "can't be read"),
        ("request", json!({"S": "{"}), "can't be read"),
    ] {
        let mut item = good.clone();
        item[name] = value;
        let (aws, _wire) = answering(vec![(200, json!({"Item": item}))]);
        let result = store(&aws).get("d-1").await;
        assert!(!is_transient(&result), "{name}");
        let told = told(&result.unwrap_err());
        assert!(told.starts_with("the item of deployment d-1 ") && told.contains(words), "{told}");
    }
}

#[test]
fn the_text_of_times_sorts_as_the_times_do() {
    let text = |time: &str| {
        let item = Deployment { started_at: time.parse().unwrap(), ..deployment() };
        write(&item).unwrap()["startedAt"].as_s().unwrap().clone()
    };
    assert_eq!(text("2026-11-23T19:15:45Z"), "2026-11-23T19:15:45.000Z");
    assert_eq!(text("2026-11-23T19:15:45.5Z"), "2026-11-23T19:15:45.500Z");
    assert_eq!(text("2026-11-23T19:15:45.123456Z"), "2026-11-23T19:15:45.123456000Z");
    assert!(text("2026-11-23T19:15:45Z") < text("2026-11-23T19:15:45.5Z"));
}

#[test]
fn the_largest_item_stays_far_under_the_limit() {
    let item = write(&contract::large_deployment("d-1", now())).unwrap();
    let size: usize = item
        .iter()
        .map(|(name, value)| name.len() + value.as_s().or_else(|_| value.as_n()).map_or(0, String::len))
        .sum();
    assert!(size < 300 * 1024, "{size}");
}

fn summarised(id: &str, started_at: &str) -> Value {
    json!({
        "deploymentId": {"S": id},
        "appEnvironment": {"S": "checkout#production"},
        "startedAt": {"S": started_at},
        "status": {"S": "failed"},
        "reason": {"S": "RolledBack"},
        "finishedAt": {"S": "2026-11-23T19:20:45.000Z"},
        "expiresAt": {"N": "1803237345"},
    })
}

#[tokio::test]
async fn a_history_is_read_from_the_index_newest_first() {
    let first = summarised("d-2", "2026-11-23T19:15:45.000Z");
    let (aws, wire) = answering(vec![
        (200, json!({"Items": [first], "LastEvaluatedKey": {"deploymentId": {"S": "d-2"}}})),
        // What has expired was left out of it.
        (200, json!({"Items": [], "LastEvaluatedKey": {"deploymentId": {"S": "d-expired"}}})),
        (200, json!({"Items": [summarised("d-1", "2026-11-23T19:15:44.999Z")]})),
    ]);
    let page = store(&aws).history("checkout", "production", 2, Some((now(), "d-3"))).await.unwrap();
    assert_eq!(page.deployments.len(), 2);
    assert!(!page.more);
    assert_eq!(
        page.deployments[0],
        Summary {
            deployment_id: "d-2".to_owned(),
            status: Status::Failed,
            reason: Reason::RolledBack,
            started_at: now(),
            finished_at: Some("2026-11-23T19:20:45Z".parse().unwrap()),
        }
    );
    let requests = wire.requests();
    let mut asked = requests[0].1.clone();
    assert!(asked["ExpressionAttributeValues"][":now"].take()["N"].is_string());
    assert_eq!(
        asked,
        json!({
            "TableName": "deployments",
            "IndexName": "byEnvironment",
            "KeyConditionExpression": "appEnvironment = :appEnvironment",
            "FilterExpression": "expiresAt >= :now",
            "ExpressionAttributeValues": {":appEnvironment": {"S": "checkout#production"}, ":now": null},
            "ScanIndexForward": false,
            "Limit": 3,
            "ExclusiveStartKey": {
                "appEnvironment": {"S": "checkout#production"},
                "startedAt": {"S": "2026-11-23T19:15:45.000Z"},
                "deploymentId": {"S": "d-3"},
            },
        })
    );
    assert_eq!((&requests[1].1["Limit"], &requests[2].1["Limit"]), (&json!(2), &json!(2)));
    assert_eq!(requests[1].1["ExclusiveStartKey"], json!({"deploymentId": {"S": "d-2"}}));
    assert_eq!(requests[2].1["ExclusiveStartKey"], json!({"deploymentId": {"S": "d-expired"}}));
}

#[tokio::test]
async fn one_more_than_asked_for_says_that_there_are_more() {
    let items =
        [summarised("d-2", "2026-11-23T19:15:45.000Z"), summarised("d-1", "2026-11-23T19:15:44.000Z")];
    let (aws, wire) = answering(vec![(200, json!({"Items": items}))]);
    let page = store(&aws).history("checkout", "production", 1, None).await.unwrap();
    assert_eq!((page.deployments.len(), page.more), (1, true));
    assert_eq!(wire.request("Query").get("ExclusiveStartKey"), None);
}

#[tokio::test]
async fn a_summary_that_can_t_be_read_is_broken() {
    let mut item = summarised("d-1", "2026-11-23T19:15:45.000Z");
    item["reason"] = json!({"S": "Unheard"});
    let (aws, _wire) = answering(vec![(200, json!({"Items": [item]}))]);
    let result = store(&aws).history("checkout", "production", 1, None).await;
    assert!(!is_transient(&result));
    assert!(told(&result.unwrap_err()).starts_with("the summary of deployment d-1 can't be read"));
}

#[test]
fn whatever_stands_in_an_item_it_is_read_or_refused() {
    let item = write(&deployment()).unwrap();
    let mut whole = 0;
    let mut check = |item: Item| {
        let _ = summary(item.clone());
        if let Ok(deployment) = read("d-1", item) {
            let again = read("d-1", write(&deployment).unwrap()).unwrap();
            assert_eq!(again, deployment);
            whole += 1;
        }
    };
    check(item.clone());
    for name in item.keys() {
        for value in odd() {
            let mut item = item.clone();
            item.insert(name.clone(), value);
            check(item);
        }
        let mut less = item.clone();
        less.remove(name);
        check(less);
    }
    // The JSON in it, a byte at a time.
    for name in ["targets", "request"] {
        let text = item[name].as_s().unwrap();
        for (at, char) in text.char_indices() {
            for other in ["", "\"", "0", "-", "{", "null", "\\", "\u{7f}"] {
                let mut item = item.clone();
                let changed = format!("{}{other}{}", &text[..at], &text[at + char.len_utf8()..]);
                item.insert(name.to_owned(), AttributeValue::S(changed));
                check(item);
            }
        }
    }
    assert!(whole > 100, "{whole}");
}
