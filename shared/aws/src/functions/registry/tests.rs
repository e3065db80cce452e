use monitor::contract;
use serde_json::{Value, json};

use super::*;
use crate::functions::replay::{answering, is_transient, odd, refusal, told};

fn lost(item: Option<Value>) -> (u16, Value) {
    let mut body = refusal("ConditionalCheckFailedException", "The conditional request failed");
    if let Some(item) = item {
        body["Item"] = item;
    }
    (400, body)
}

fn row(nonce: &str) -> Value {
    json!({
        "kind": {"S": "cluster"},
        "id": {"S": "prod"},
        "name": {"S": "Cluster „prod“"},
        "apiUrl": {"S": "https://api.example.com:6443"},
        "caFingerprint": {"S": "AB:CD:EF"},
        "caNotAfter": {"S": "2027-09-21T14:13:20Z"},
        "tokenIssuer": {"S": "https://kubernetes.default.svc"},
        "namespaces": {"L": []},
        "state": {"S": "active"},
        "nonce": {"S": nonce},
        "createdAt": {"S": "2026-09-21T14:13:20Z"},
        "updatedAt": {"S": "2026-09-21T14:13:25.123456789Z"},
    })
}

#[tokio::test]
async fn reads_one_row_strongly_consistent() {
    let (aws, wire) = answering(vec![(200, json!({"Item": row("n")}))]);
    assert_eq!(aws.registry("registry").get("prod").await.unwrap(), Some(contract::cluster("prod", "n")));
    assert_eq!(
        wire.request("GetItem"),
        json!({"TableName": "registry", "Key": {"kind": {"S": "cluster"}, "id": {"S": "prod"}}, "ConsistentRead": true})
    );
}

#[tokio::test]
async fn puts_on_the_condition_that_no_row_is_there() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    let put = aws.registry("registry").put(&contract::cluster("prod", "n"), Expected::Absent).await;
    assert_eq!(put.unwrap(), Stored::Yes);
    assert_eq!(
        wire.request("PutItem"),
        json!({
            "TableName": "registry",
            "Item": row("n"),
            "ConditionExpression": "attribute_not_exists(id)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        })
    );
}

#[tokio::test]
async fn puts_on_the_condition_of_the_nonce() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    let put = aws.registry("registry").put(&contract::cluster("prod", "new"), Expected::Nonce("old")).await;
    assert_eq!(put.unwrap(), Stored::Yes);
    let request = wire.request("PutItem");
    assert_eq!(request["ConditionExpression"], "#nonce = :nonce");
    assert_eq!(request["ExpressionAttributeNames"], json!({"#nonce": "nonce"}));
    assert_eq!(request["ExpressionAttributeValues"], json!({":nonce": {"S": "old"}}));
    assert_eq!(request["Item"]["nonce"], json!({"S": "new"}));
}

#[tokio::test]
async fn a_failed_condition_is_a_lost_race_unless_the_row_is_ours_already() {
    let ours = contract::cluster("prod", "ours");
    for (there, stored) in [(None, Stored::Lost), (Some("theirs"), Stored::Lost), (Some("ours"), Stored::Yes)]
    {
        let (aws, _wire) = answering(vec![lost(there.map(row)), lost(there.map(row))]);
        let registry = aws.registry("registry");
        assert_eq!(registry.put(&ours, Expected::Absent).await.unwrap(), stored);
        assert_eq!(registry.put(&ours, Expected::Nonce("old")).await.unwrap(), stored);
    }
}

#[tokio::test]
async fn removes_on_the_condition_of_the_nonce_or_of_nothing_there() {
    let (aws, wire) = answering(vec![(200, json!({}))]);
    assert_eq!(aws.registry("registry").remove("prod", "n").await.unwrap(), Stored::Yes);
    assert_eq!(
        wire.request("DeleteItem"),
        json!({
            "TableName": "registry",
            "Key": {"kind": {"S": "cluster"}, "id": {"S": "prod"}},
            "ConditionExpression": "attribute_not_exists(id) OR #nonce = :nonce",
            "ExpressionAttributeNames": {"#nonce": "nonce"},
            "ExpressionAttributeValues": {":nonce": {"S": "n"}},
        })
    );
    let (aws, _wire) = answering(vec![lost(None)]);
    assert_eq!(aws.registry("registry").remove("prod", "n").await.unwrap(), Stored::Lost);
}

#[tokio::test]
async fn lists_one_more_than_asked_for_to_know_whether_there_are_more() {
    let (aws, wire) = answering(vec![
        (
            200,
            json!({"Items": [row("1"), row("2")], "LastEvaluatedKey": {"kind": {"S": "cluster"}, "id": {"S": "prod"}}}),
        ),
        (
            200,
            json!({"Items": [row("3")], "LastEvaluatedKey": {"kind": {"S": "cluster"}, "id": {"S": "prod"}}}),
        ),
    ]);
    let page = aws.registry("registry").list(2, Some("a")).await.unwrap();
    assert_eq!((page.rows.len(), page.more), (2, true));
    let requests = wire.requests();
    assert_eq!(
        requests[0].1,
        json!({
            "TableName": "registry",
            "ConsistentRead": true,
            "KeyConditionExpression": "#kind = :kind",
            "ExpressionAttributeNames": {"#kind": "kind"},
            "ExpressionAttributeValues": {":kind": {"S": "cluster"}},
            "Limit": 3,
            "ExclusiveStartKey": {"kind": {"S": "cluster"}, "id": {"S": "a"}},
        })
    );
    assert_eq!(requests[1].1["Limit"], 1);
    assert_eq!(requests[1].1["ExclusiveStartKey"]["id"], json!({"S": "prod"}));

    let (aws, wire) = answering(vec![(200, json!({"Items": []}))]);
    let page = aws.registry("registry").list(100, None).await.unwrap();
    assert_eq!((page.rows.len(), page.more), (0, false));
    assert_eq!(wire.request("Query").get("ExclusiveStartKey"), None);
}

#[tokio::test]
async fn a_row_that_can_t_be_read_is_broken() {
    let mut broken = row("n");
    broken["state"] = json!({"S": "gone"});
    let (aws, _wire) = answering(vec![(200, json!({"Item": broken}))]);
    let result = aws.registry("registry").get("prod").await;
    assert!(!is_transient(&result));
    assert!(told(&result.unwrap_err()).starts_with("the row of cluster prod can't be read"));
}

#[test]
fn whatever_stands_in_a_row_it_is_read_or_refused() {
    let item = write(&contract::cluster("prod", "n")).unwrap();
    let mut whole = 0;
    for (name, value) in item.keys().flat_map(|name| odd().into_iter().map(move |value| (name, value))) {
        let mut item = item.clone();
        item.insert(name.clone(), value);
        if let Ok(row) = read(item) {
            assert_eq!(read(write(&row).unwrap()).unwrap(), row);
            whole += 1;
        }
    }
    assert!(whole > 10, "{whole}");
}
