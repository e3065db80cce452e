//! [`Environments`] in the registry's table.

use std::collections::BTreeSet;

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    operation::transact_write_items::TransactWriteItemsError,
    types::{AttributeValue, ConditionCheck, Put, TransactWriteItem},
};
use monitor::{
    environment::{Environment, EnvironmentPage},
    ports::{Environments, StoreError, Stored},
};
use serde::Serialize;

use super::{CLUSTER, DynamoRegistry, SERVICE, key};
use crate::{
    error::Sdk,
    functions::{
        deployments::Item,
        pages::page,
        store::{store_error, unreadable},
    },
};

/// The hash key of all environments: one partition, read in order.
const ENVIRONMENT: &str = "environment";

/// Between app and environment in the range key. No name has it, so that no two
/// environments share a key; and it sorts before every character that a name has,
/// so that the keys are in the order of the names, app by app.
const SEPARATOR: char = '#';

/// So many of those that name a cluster are told.
const TOLD: usize = 10;

/// Why a transaction was cancelled, where waiting helps
/// (DynamoDB API reference, `TransactWriteItems`, errors).
const PASSING: &[&str] = &["ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict"];

#[async_trait]
impl Environments for DynamoRegistry {
    async fn environment(&self, app: &str, environment: &str) -> Result<Option<Environment>, StoreError> {
        let item = self.item(key(ENVIRONMENT, &id(app, environment))).await?;
        item.map(read).transpose()
    }

    async fn environments(
        &self,
        app: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<EnvironmentPage, StoreError> {
        let query = self
            .query(ENVIRONMENT)
            .key_condition_expression("#kind = :kind AND begins_with(id, :app)")
            .expression_attribute_values(":app", AttributeValue::S(id(app, "")));
        let start = after.map(|name| key(ENVIRONMENT, &id(app, name)));
        let (environments, more) = page(query, limit, start, read).await?;
        Ok(EnvironmentPage { environments, more })
    }

    async fn put_environment(
        &self,
        environment: &Environment,
        cluster_ids: &[String],
    ) -> Result<Stored, StoreError> {
        // A transaction may touch each item once only.
        let clusters: BTreeSet<&str> = cluster_ids.iter().map(String::as_str).collect();
        let wrong = |error| unreadable("the transaction of an environment could not be built".into(), error);
        let put = Put::builder().table_name(&self.table).set_item(Some(write(environment, &clusters)?));
        let put = put.build().map_err(wrong)?;
        let mut items = vec![TransactWriteItem::builder().put(put).build()];
        for cluster in clusters {
            // What has no row has no state, and so not one of these.
            let usable = ConditionCheck::builder()
                .table_name(&self.table)
                .set_key(Some(key(CLUSTER, cluster)))
                .condition_expression("#state IN (:active, :updating)")
                .expression_attribute_names("#state", "state")
                .expression_attribute_values(":active", AttributeValue::S("active".to_owned()))
                .expression_attribute_values(":updating", AttributeValue::S("updating".to_owned()));
            let usable = usable.build().map_err(wrong)?;
            items.push(TransactWriteItem::builder().condition_check(usable).build());
        }
        // The SDK adds a token, by which a second try of a transaction that was done
        // is told from another one.
        match self.client.transact_write_items().set_transact_items(Some(items)).send().await {
            Ok(_) => Ok(Stored::Yes),
            Err(error) => cancelled(&error),
        }
    }

    async fn remove_environment(&self, app: &str, environment: &str) -> Result<bool, StoreError> {
        let key = key(ENVIRONMENT, &id(app, environment));
        // Looked up before: the answer to a delete may get lost, and the second try
        // would find nothing and say that there never was anything.
        if self.item(key.clone()).await?.is_none() {
            return Ok(false);
        }
        let call = self.client.delete_item().table_name(&self.table).set_key(Some(key));
        call.send().await.map_err(|error| store_error(SERVICE, "DeleteItem", &error))?;
        Ok(true)
    }

    async fn naming_cluster(&self, cluster_id: &str) -> Result<Vec<(String, String)>, StoreError> {
        let (mut found, mut start) = (Vec::new(), None);
        // Every environment is read: clusters are removed rarely, and an index would
        // not be strongly consistent.
        loop {
            let output = self
                .query(ENVIRONMENT)
                .key_condition_expression("#kind = :kind")
                .filter_expression("contains(clusterIds, :cluster)")
                .projection_expression("id")
                .expression_attribute_values(":cluster", AttributeValue::S(cluster_id.to_owned()))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| store_error(SERVICE, "Query", &error))?;
            let ids = output.items.unwrap_or_default();
            found.extend(ids.iter().filter_map(names));
            start = output.last_evaluated_key.filter(|key| !key.is_empty());
            if found.len() >= TOLD || start.is_none() {
                found.truncate(TOLD);
                return Ok(found);
            }
        }
    }
}

fn id(app: &str, environment: &str) -> String {
    format!("{app}{SEPARATOR}{environment}")
}

fn names(item: &Item) -> Option<(String, String)> {
    let (app, environment) = item.get("id")?.as_s().ok()?.split_once(SEPARATOR)?;
    Some((app.to_owned(), environment.to_owned()))
}

/// A condition that did not hold is what the caller must know, even where something
/// else was wrong, too: tried again, it fails again.
fn cancelled(error: &Sdk<TransactWriteItemsError>) -> Result<Stored, StoreError> {
    let Some(TransactWriteItemsError::TransactionCanceledException(why)) = error.as_service_error() else {
        return Err(store_error(SERVICE, "TransactWriteItems", error));
    };
    let mut codes: Vec<&str> = why
        .cancellation_reasons()
        .iter()
        .filter_map(|reason| reason.code())
        .filter(|c| *c != "None")
        .collect();
    codes.sort_unstable();
    codes.dedup();
    if codes.contains(&"ConditionalCheckFailed") {
        return Ok(Stored::Lost);
    }
    let source = format!("TransactWriteItems: cancelled: {}", codes.join(", ")).into();
    if !codes.is_empty() && codes.iter().all(|code| PASSING.contains(code)) {
        return Err(StoreError::Transient(SERVICE, source));
    }
    Err(StoreError::Broken { what: format!("{SERVICE} refused TransactWriteItems"), source: Some(source) })
}

fn write(environment: &Environment, cluster_ids: &BTreeSet<&str>) -> Result<Item, StoreError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Record<'a> {
        kind: &'static str,
        id: String,
        /// For [`Environments::naming_cluster`]: the targets name clusters as they like.
        cluster_ids: &'a BTreeSet<&'a str>,
        #[serde(flatten)]
        environment: &'a Environment,
    }
    let id = id(&environment.app, &environment.environment);
    let what = format!("the row of environment {id} could not be written");
    serde_dynamo::to_item(Record { kind: ENVIRONMENT, id, cluster_ids, environment })
        .map_err(|error| unreadable(what, error))
}

fn read(item: Item) -> Result<Environment, StoreError> {
    let id = item.get("id").and_then(|id| id.as_s().ok()).cloned().unwrap_or_default();
    serde_dynamo::from_item(item)
        .map_err(|error| unreadable(format!("the row of environment {id} can't be read"), error))
}

#[cfg(test)]
mod tests;
