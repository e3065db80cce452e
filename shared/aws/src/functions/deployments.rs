//! [`Deployments`] in DynamoDB.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client,
    operation::put_item::{PutItemError, builders::PutItemFluentBuilder},
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use jiff::Timestamp;
use monitor::{
    deployment::{Deployment, SCHEMA, Summary},
    ports::{Clock, Deployments, History, StoreError, Stored},
};
use serde::{Deserialize, Serialize};
use verdict::{Evidence, Reason, Status};

use super::{
    pages::page,
    store::{store_error, unreadable},
};
use crate::error::Sdk;

const SERVICE: &str = "DynamoDB";

/// The index of an environment's deployments by their start. It must project what
/// [`Summary`] has, and `expiresAt`.
const BY_ENVIRONMENT: &str = "byEnvironment";

/// An item, by attribute.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// The deployments of one table.
#[derive(Clone)]
pub struct DynamoDeployments {
    client: Client,
    table: String,
    clock: Arc<dyn Clock>,
}

impl DynamoDeployments {
    /// The clock tells what has expired: DynamoDB deletes it hours later.
    #[must_use]
    pub fn new(client: Client, table: &str, clock: Arc<dyn Clock>) -> Self {
        Self { client, table: table.to_owned(), clock }
    }

    /// The whole item is put, not updated attribute by attribute: what became
    /// `None` is gone without a list of what to remove, the request is the item
    /// that is stored, and both cost the same. Nobody else's attribute is lost by
    /// that, since the schema owns them all: what adds one raises it.
    fn put(&self, item: Item) -> PutItemFluentBuilder {
        self.client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }
}

#[async_trait]
impl Deployments for DynamoDeployments {
    async fn get(&self, deployment_id: &str) -> Result<Option<Deployment>, StoreError> {
        let output = self
            .client
            .get_item()
            .table_name(&self.table)
            .key("deploymentId", AttributeValue::S(deployment_id.to_owned()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| store_error(SERVICE, "GetItem", &error))?;
        let now = self.clock.now().as_second();
        let expired = |item: &Item| number(item, "expiresAt").is_some_and(|end| end < now);
        match output.item {
            Some(item) if !expired(&item) => read(deployment_id, item).map(Some),
            _ => Ok(None),
        }
    }

    async fn create(&self, item: &Deployment, now: Timestamp) -> Result<Stored, StoreError> {
        let written = write(item)?;
        let answer = self
            .put(written.clone())
            .condition_expression("attribute_not_exists(deploymentId) OR expiresAt < :now")
            .expression_attribute_values(":now", AttributeValue::N(now.as_second().to_string()))
            .send()
            .await;
        stored(&written, answer.map(drop))
    }

    async fn update(&self, item: &Deployment) -> Result<Stored, StoreError> {
        let written = write(item)?;
        // Below zero for a first revision, which then finds nothing to replace.
        let read = i128::from(item.rev) - 1;
        let put = self
            .put(written.clone())
            // A word that DynamoDB keeps for itself.
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":read", AttributeValue::N(read.to_string()))
            .expression_attribute_values(":pending", AttributeValue::S(Status::Pending.as_str().to_owned()));
        let put = match &item.execution_arn {
            Some(arn) => put
                .condition_expression("rev = :read AND #status = :pending AND executionArn = :arn")
                .expression_attribute_values(":arn", AttributeValue::S(arn.clone())),
            None => put.condition_expression(
                "rev = :read AND #status = :pending AND attribute_not_exists(executionArn)",
            ),
        };
        stored(&written, put.send().await.map(drop))
    }

    /// Of deployments that began at the same instant the index keeps an order of its
    /// own, which is always the same: a page ends and the next begins between two.
    async fn history(
        &self,
        app: &str,
        environment: &str,
        limit: usize,
        after: Option<(Timestamp, &str)>,
    ) -> Result<History, StoreError> {
        let app_environment = app_environment(app, environment);
        let now = self.clock.now().as_second();
        let start = after.map(|(started_at, id)| {
            Item::from([
                ("appEnvironment".to_owned(), AttributeValue::S(app_environment.clone())),
                ("startedAt".to_owned(), AttributeValue::S(sortable_text(started_at))),
                ("deploymentId".to_owned(), AttributeValue::S(id.to_owned())),
            ])
        });
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(BY_ENVIRONMENT)
            .key_condition_expression("appEnvironment = :appEnvironment")
            .filter_expression("expiresAt >= :now")
            .expression_attribute_values(":appEnvironment", AttributeValue::S(app_environment))
            .expression_attribute_values(":now", AttributeValue::N(now.to_string()))
            .scan_index_forward(false);
        let (deployments, more) = page(query, limit, start, summary).await?;
        Ok(History { deployments, more })
    }
}

/// What a conditional put came to. Where the condition failed because the item is
/// already exactly ours, an earlier try of the same write was done and its answer
/// lost; taking that for a lost race would drop a verdict that stands.
pub(crate) fn stored(written: &Item, answer: Result<(), Sdk<PutItemError>>) -> Result<Stored, StoreError> {
    match answer {
        Ok(()) => Ok(Stored::Yes),
        Err(error) => match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                Ok(if failed.item.as_ref() == Some(written) { Stored::Yes } else { Stored::Lost })
            }
            _ => Err(store_error(SERVICE, "PutItem", &error)),
        },
    }
}

/// Neither name has the character between.
fn app_environment(app: &str, environment: &str) -> String {
    format!("{app}#{environment}")
}

fn summary(item: Item) -> Result<Summary, StoreError> {
    let id = item.get("deploymentId").and_then(|id| id.as_s().ok()).cloned().unwrap_or_default();
    serde_dynamo::from_item(item)
        .map_err(|error| unreadable(format!("the summary of deployment {id} can't be read"), error))
}

fn number(item: &Item, name: &str) -> Option<i64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// The item's attributes. Those with a default may be missing where the state
/// machine has marked a deployment that no check had seen.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    deployment_id: String,
    schema: u32,
    rev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    execution_arn: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    /// The hash key of the index `byEnvironment`; absent, and so not in it, where
    /// a deployment doesn't name both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app_environment: Option<String>,
    #[serde(serialize_with = "sortable")]
    started_at: Timestamp,
    #[serde(serialize_with = "sortable")]
    deadline: Timestamp,
    #[serde(serialize_with = "sortable")]
    checked_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "sortable_option")]
    finished_at: Option<Timestamp>,
    status: Status,
    reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence>,
    message: String,
    #[serde(default)]
    polls: u32,
    /// As JSON text: nobody queries in it, and as attributes it would be a third larger.
    #[serde(default)]
    targets: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    expires_at: i64,
}

/// Always with three decimals, as the state machine writes it, or with nine: the
/// index sorts by text, and `45.5Z` would come before `45Z`.
fn sortable_text(time: Timestamp) -> String {
    let exact = time.subsec_nanosecond() % 1_000_000 == 0;
    if exact { format!("{time:.3}") } else { format!("{time:.9}") }
}

fn sortable<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&sortable_text(*time))
}

fn sortable_option<S: serde::Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => sortable(time, to),
        None => to.serialize_none(),
    }
}

fn write(item: &Deployment) -> Result<Item, StoreError> {
    let what = || format!("the item of deployment {} could not be written", item.deployment_id);
    let json = |error: serde_json::Error| unreadable(what(), error);
    let (app, environment) = item.app_environment();
    let record = Record {
        deployment_id: item.deployment_id.clone(),
        schema: item.schema,
        rev: item.rev,
        execution_arn: item.execution_arn.clone(),
        digest: item.digest.clone(),
        app_environment: app.as_ref().zip(environment.as_ref()).map(|(app, of)| app_environment(app, of)),
        app,
        environment,
        started_at: item.started_at,
        deadline: item.deadline,
        checked_at: item.checked_at,
        finished_at: item.finished_at,
        status: item.status,
        reason: item.reason,
        last_reason: item.last_reason,
        evidence: item.evidence,
        message: item.message.clone(),
        polls: item.polls,
        targets: serde_json::to_string(&item.targets).map_err(json)?,
        request: item.request.as_ref().map(serde_json::to_string).transpose().map_err(json)?,
        expires_at: item.expires_at,
    };
    serde_dynamo::to_item(record).map_err(|error| unreadable(what(), error))
}

fn read(id: &str, item: Item) -> Result<Deployment, StoreError> {
    // Looked at first: what another schema calls `status` may mean something else.
    match number(&item, "schema") {
        Some(schema) if schema == i64::from(SCHEMA) => {}
        schema => {
            let schema = schema.map_or_else(|| "none".to_owned(), |schema| schema.to_string());
            let what = format!(
                "the item of deployment {id} has schema {schema}; this version reads schema {SCHEMA}"
            );
            return Err(StoreError::Broken { what, source: None });
        }
    }
    let what = || format!("the item of deployment {id} can't be read");
    let record: Record = serde_dynamo::from_item(item).map_err(|error| unreadable(what(), error))?;
    let targets = match record.targets.as_str() {
        "" => Vec::new(),
        text => serde_json::from_str(text).map_err(|error| unreadable(what(), error))?,
    };
    let request = record.request.as_deref().map(serde_json::from_str).transpose();
    Ok(Deployment {
        deployment_id: record.deployment_id,
        schema: record.schema,
        rev: record.rev,
        execution_arn: record.execution_arn,
        digest: record.digest,
        labels: if record.request.is_none() { record.app.zip(record.environment) } else { None },
        request: request.map_err(|error| unreadable(what(), error))?,
        started_at: record.started_at,
        deadline: record.deadline,
        checked_at: record.checked_at,
        finished_at: record.finished_at,
        status: record.status,
        reason: record.reason,
        last_reason: record.last_reason,
        evidence: record.evidence,
        message: record.message,
        polls: record.polls,
        targets,
        expires_at: record.expires_at,
    })
}

#[cfg(test)]
mod tests;
