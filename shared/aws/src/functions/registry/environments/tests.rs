use monitor::contract;
use serde_json::{Value, json};

use super::*;
use crate::functions::replay::{answering, is_transient, refusal, told};

fn row() -> Value {
    let target =
        json!({"M": {"cluster": {"S": "Prod EU"}, "namespace": {"S": "shop"}, "release": {"S": "checkout"}}});
    json!({
        "kind": {"S": "environment"},
        "id": {"S": "check#prod"},
        "clusterIds": {"L": [{"S": "prod-eu"}]},
        "app": {"S": "check"},
        "environment": {"S": "prod"},
        "helmType": {"S": "flux"},
        "targets": {"L": [target]},
        "createdAt": {"S": "2026-09-21T14:13:20Z"},
        "updatedAt": {"S": "2026-09-21T14:13:25.123456789Z"},
    })
}

fn environment() -> Environment {
    contract::environment("check", "prod", &["Prod EU"])
}

fn cancelled_by(codes: &[&str]) -> (u16, Value) {
    let words = "Transaction cancelled, please refer cancellation reasons for specific reasons";
    let mut body = refusal("TransactionCanceledException", words);
    body["CancellationReasons"] = codes.iter().map(|code| json!({"Code": code})).collect();
    (400, body)
}

async fn put(answers: Vec<(u16, Value)>) -> Result<Stored, StoreError> {
    let (aws, _wire) = answering(answers);
    aws.registry("registry").put_environment(&environment(), &["prod-eu".to_owned()]).await
}

#[tokio::test]
async fn reads_one_strongly_consistent() {
    let (aws, wire) = answering(vec![(200, json!({"Item": row()}))]);
    let found = aws.registry("registry").environment("check", "prod").await.unwrap();
    assert_eq!(found, Some(environment()));
    assert_eq!(
        wire.request("GetItem"),
        json!({
            "TableName": "registry",
            "Key": {"kind": {"S": "environment"}, "id": {"S": "check#prod"}},
            "ConsistentRead": true,
        })
    );
}

#[tokio::test]
async fn puts_it_together_with_a_look_at_each_cluster() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    let ids = ["prod-eu", "a", "prod-eu"].map(str::to_owned);
    assert_eq!(aws.registry("registry").put_environment(&environment(), &ids).await.unwrap(), Stored::Yes);
    let mut request = wire.request("TransactWriteItems");
    assert!(request["ClientRequestToken"].take().is_string());
    let mut written = row();
    written["clusterIds"] = json!({"L": [{"S": "a"}, {"S": "prod-eu"}]});
    let usable = |id: &str| {
        json!({"ConditionCheck": {
            "TableName": "registry",
            "Key": {"kind": {"S": "cluster"}, "id": {"S": id}},
            "ConditionExpression": "#state IN (:active, :updating)",
            "ExpressionAttributeNames": {"#state": "state"},
            "ExpressionAttributeValues": {":active": {"S": "active"}, ":updating": {"S": "updating"}},
        }})
    };
    let put = json!({"Put": {"TableName": "registry", "Item": written}});
    assert_eq!(
        request,
        json!({"TransactItems": [put, usable("a"), usable("prod-eu")], "ClientRequestToken": null})
    );
}

#[tokio::test]
async fn a_condition_that_failed_is_lost_and_a_conflict_may_pass() {
    for codes in [&["None", "ConditionalCheckFailed"][..], &["TransactionConflict", "ConditionalCheckFailed"]]
    {
        assert_eq!(put(vec![cancelled_by(codes)]).await.unwrap(), Stored::Lost, "{codes:?}");
    }
    for (codes, passes) in [
        (&["None", "TransactionConflict"][..], true),
        (&["ThrottlingError", "TransactionConflict"], true),
        (&["ProvisionedThroughputExceeded", "None"], true),
        (&["ValidationError", "TransactionConflict"], false),
        (&["ItemCollectionSizeLimitExceeded"], false),
        (&["None"], false),
        (&[], false),
    ] {
        let result = put(vec![cancelled_by(codes)]).await;
        assert_eq!(is_transient(&result), passes, "{codes:?}");
        assert!(told(&result.unwrap_err()).contains("TransactWriteItems: cancelled"), "{codes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_refusals_are_sorted_as_everywhere() {
    let denied = refusal("AccessDeniedException", "not authorized to perform: dynamodb:ConditionCheckItem");
    let result = put(vec![(400, denied)]).await;
    assert!(!is_transient(&result));
    assert!(told(&result.unwrap_err()).contains("dynamodb:ConditionCheckItem"));
    assert!(is_transient(&put(vec![(500, refusal("InternalServerError", "sorry")); 3]).await));
    assert!(is_transient(&put(vec![(400, refusal("TransactionInProgressException", "wait")); 3]).await));
}

#[tokio::test]
async fn lists_one_app_and_one_more_than_asked_for() {
    let key = json!({"kind": {"S": "environment"}, "id": {"S": "check#prod"}});
    let (aws, wire) = answering(vec![
        (200, json!({"Items": [row()], "LastEvaluatedKey": key})),
        (200, json!({"Items": [row()], "LastEvaluatedKey": key})),
    ]);
    let page = aws.registry("registry").environments("check", 1, Some("a")).await.unwrap();
    assert_eq!(page, EnvironmentPage { environments: vec![environment()], more: true });
    let requests = wire.requests();
    assert_eq!(
        requests[0].1,
        json!({
            "TableName": "registry",
            "ConsistentRead": true,
            "KeyConditionExpression": "#kind = :kind AND begins_with(id, :app)",
            "ExpressionAttributeNames": {"#kind": "kind"},
            "ExpressionAttributeValues": {":kind": {"S": "environment"}, ":app": {"S": "check#"}},
            "Limit": 2,
            "ExclusiveStartKey": {"kind": {"S": "environment"}, "id": {"S": "check#a"}},
        })
    );
    assert_eq!((&requests[1].1["Limit"], &requests[1].1["ExclusiveStartKey"]), (&json!(1), &key));
}

/// Else `check-out`, which sorts beside `check`, would come between its environments.
#[test]
fn keys_are_in_the_order_of_the_names() {
    let names = ["-", "-a", "0", "a", "a-", "a-b", "a0", "ab", "b"];
    let keys: Vec<String> =
        names.iter().flat_map(|app| names.iter().map(move |environment| id(app, environment))).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let distinct: BTreeSet<&String> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

#[tokio::test]
async fn removes_only_what_is_there() {
    let (aws, wire) = answering(vec![(200, json!({"Item": row()})), (200, json!({}))]);
    assert!(aws.registry("registry").remove_environment("check", "prod").await.unwrap());
    assert_eq!(wire.operations(), ["GetItem", "DeleteItem"]);
    assert_eq!(
        wire.requests()[1].1,
        json!({"TableName": "registry", "Key": {"kind": {"S": "environment"}, "id": {"S": "check#prod"}}})
    );
    let (aws, wire) = answering(vec![(200, json!({}))]);
    assert!(!aws.registry("registry").remove_environment("check", "prod").await.unwrap());
    assert_eq!(wire.operations(), ["GetItem"]);
}

#[tokio::test]
async fn those_that_name_a_cluster_are_sought_page_by_page_until_there_are_ten() {
    let key = json!({"kind": {"S": "environment"}, "id": {"S": "z#z"}});
    let some = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"id": {"S": format!("app-{n}#prod")}})).collect()
    };
    let (aws, wire) = answering(vec![
        (200, json!({"Items": [], "LastEvaluatedKey": key})),
        (200, json!({"Items": some(4), "LastEvaluatedKey": key})),
        (200, json!({"Items": some(9), "LastEvaluatedKey": key})),
    ]);
    let found = aws.registry("registry").naming_cluster("prod-eu").await.unwrap();
    assert_eq!(found.len(), 10);
    assert_eq!(found[0], ("app-0".to_owned(), "prod".to_owned()));
    let requests = wire.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(
        requests[0].1,
        json!({
            "TableName": "registry",
            "ConsistentRead": true,
            "KeyConditionExpression": "#kind = :kind",
            "FilterExpression": "contains(clusterIds, :cluster)",
            "ProjectionExpression": "id",
            "ExpressionAttributeNames": {"#kind": "kind"},
            "ExpressionAttributeValues": {":kind": {"S": "environment"}, ":cluster": {"S": "prod-eu"}},
        })
    );
    assert_eq!(requests[2].1["ExclusiveStartKey"], key);
}

#[tokio::test]
async fn a_row_that_can_t_be_read_is_broken() {
    let mut broken = row();
    broken["helmType"] = json!({"S": "kustomize"});
    let (aws, _wire) = answering(vec![(200, json!({"Item": broken}))]);
    let result = aws.registry("registry").environment("check", "prod").await;
    assert!(!is_transient(&result));
    assert!(told(&result.unwrap_err()).starts_with("the row of environment check#prod can't be read"));
}
