//! The contracts against an emulator of AWS, where `AWS_ENDPOINT_URL_TEST` names one.
//! Every run makes tables, a bus and a prefix of its own, so that runs don't meet.
#![allow(clippy::unwrap_used, reason = "a test, helpers included")]

use std::{
    io::{Write, stderr},
    time::{SystemTime, UNIX_EPOCH},
};

use aws::{Access, Aws};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use jiff::Timestamp;
use monitor::{
    contract,
    ports::{Executions, Vault},
};

struct Emulator {
    aws: Aws,
    dynamo: aws_sdk_dynamodb::Client,
    bridge: aws_sdk_eventbridge::Client,
    steps: aws_sdk_sfn::Client,
    unique: String,
}

/// `None`, and said so, where there is no emulator.
fn emulator(test: &str) -> Option<Emulator> {
    #[allow(clippy::disallowed_methods, reason = "a test's switch, not the program's configuration")]
    let Ok(endpoint_url) = std::env::var("AWS_ENDPOINT_URL_TEST") else {
        // Not `println!`, which is shown of failed tests only.
        let _shown = writeln!(stderr(), "{test}: not run, AWS_ENDPOINT_URL_TEST names no emulator");
        return None;
    };
    let access = Access {
        region: "us-east-1".to_owned(),
        access_key_id: "test".to_owned(),
        secret_access_key: "test".to_owned().into(),
        session_token: None,
        endpoint_url: Some(endpoint_url),
    };
    let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let aws = Aws::new(&access);
    Some(Emulator {
        dynamo: aws_sdk_dynamodb::Client::new(aws.sdk_config()),
        bridge: aws_sdk_eventbridge::Client::new(aws.sdk_config()),
        steps: aws_sdk_sfn::Client::new(aws.sdk_config()),
        aws,
        unique: format!("{test}-{unique}"),
    })
}

fn attribute(name: &str) -> AttributeDefinition {
    AttributeDefinition::builder()
        .attribute_name(name)
        .attribute_type(ScalarAttributeType::S)
        .build()
        .unwrap()
}

fn keys(hash: &str, range: Option<&str>) -> Vec<KeySchemaElement> {
    let key =
        |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    [(Some(hash), KeyType::Hash), (range, KeyType::Range)]
        .into_iter()
        .filter_map(|(name, kind)| name.map(|name| key(name, kind)))
        .collect()
}

#[tokio::test]
async fn deployments() {
    let Some(emulator) = emulator("deployments") else { return };
    let index = GlobalSecondaryIndex::builder()
        .index_name("byEnvironment")
        .set_key_schema(Some(keys("appEnvironment", Some("startedAt"))))
        .projection(
            Projection::builder()
                .projection_type(ProjectionType::Include)
                .set_non_key_attributes(Some(
                    ["status", "reason", "finishedAt", "expiresAt"].map(str::to_owned).into(),
                ))
                .build(),
        )
        .build()
        .unwrap();
    let table =
        emulator.dynamo.create_table().table_name(&emulator.unique).billing_mode(BillingMode::PayPerRequest);
    table
        .set_attribute_definitions(Some(
            ["deploymentId", "appEnvironment", "startedAt"].map(attribute).into(),
        ))
        .set_key_schema(Some(keys("deploymentId", None)))
        .global_secondary_indexes(index)
        .send()
        .await
        .unwrap();
    contract::deployments(&emulator.aws.deployments(&emulator.unique), Timestamp::now()).await;
}

async fn registry_table(emulator: &Emulator) {
    let table =
        emulator.dynamo.create_table().table_name(&emulator.unique).billing_mode(BillingMode::PayPerRequest);
    table
        .set_attribute_definitions(Some(["kind", "id"].map(attribute).into()))
        .set_key_schema(Some(keys("kind", Some("id"))))
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn registry() {
    let Some(emulator) = emulator("registry") else { return };
    registry_table(&emulator).await;
    contract::registry(&emulator.aws.registry(&emulator.unique)).await;
}

#[tokio::test]
async fn environments() {
    let Some(emulator) = emulator("environments") else { return };
    registry_table(&emulator).await;
    contract::environments(&emulator.aws.registry(&emulator.unique)).await;
}

#[tokio::test]
async fn vault() {
    let Some(emulator) = emulator("vault") else { return };
    contract::vault(&emulator.aws.vault(&format!("{}/clusters/", emulator.unique), None)).await;
}

/// With the key that every account has, so that none need be made.
#[tokio::test]
async fn vault_with_a_key() {
    let Some(emulator) = emulator("key") else { return };
    let (prefix, key) = (format!("{}/clusters/", emulator.unique), "alias/aws/secretsmanager");
    contract::vault(&emulator.aws.vault(&prefix, Some(key))).await;
    // What was written before there was a key is replaced with it.
    emulator.aws.vault(&prefix, None).put("older", &contract::credentials("first").into()).await.unwrap();
    let vault = emulator.aws.vault(&prefix, Some(key));
    vault.put("older", &contract::credentials("second").into()).await.unwrap();
    assert!(vault.get("older").await.unwrap().is_some());
}

#[tokio::test]
async fn events() {
    let Some(emulator) = emulator("events") else { return };
    emulator.bridge.create_event_bus().name(&emulator.unique).send().await.unwrap();
    contract::events(&emulator.aws.events(&emulator.unique)).await;
}

/// A machine that waits: what is started runs until it is stopped.
#[tokio::test]
async fn executions() {
    let Some(emulator) = emulator("executions") else { return };
    let waiting =
        r#"{"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 3600, "End": true}}}"#;
    let machine = emulator
        .steps
        .create_state_machine()
        .name(&emulator.unique)
        .definition(waiting)
        .role_arn("arn:aws:iam::000000000000:role/waiting")
        .send()
        .await
        .unwrap();
    let executions = emulator.aws.executions(machine.state_machine_arn());
    contract::executions(&executions, async |name: &str| {
        let found = executions.find(name).await.unwrap().unwrap();
        emulator.steps.stop_execution().execution_arn(found.execution.arn).send().await.unwrap();
    })
    .await;
}
