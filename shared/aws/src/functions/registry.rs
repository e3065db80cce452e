//! [`Registry`] and [`Environments`](monitor::ports::Environments) in DynamoDB, in one table.

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client,
    operation::{delete_item::DeleteItemError, query::builders::QueryFluentBuilder},
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use monitor::{
    cluster::ClusterRow,
    ports::{Expected, Page, Registry, StoreError, Stored},
};
use serde::Serialize;

use super::{
    deployments::{Item, stored},
    pages::page,
    store::{store_error, unreadable},
};

mod environments;

const SERVICE: &str = "DynamoDB";

/// The hash key of all clusters: one partition, read in order.
const CLUSTER: &str = "cluster";

/// The clusters and environments of one table.
#[derive(Debug, Clone)]
pub struct DynamoRegistry {
    client: Client,
    table: String,
}

impl DynamoRegistry {
    /// Needs a table with the hash key `kind` and the range key `id`.
    #[must_use]
    pub fn new(client: Client, table: &str) -> Self {
        Self { client, table: table.to_owned() }
    }

    async fn item(&self, key: Item) -> Result<Option<Item>, StoreError> {
        let call = self.client.get_item().table_name(&self.table).set_key(Some(key)).consistent_read(true);
        let output = call.send().await.map_err(|error| store_error(SERVICE, "GetItem", &error))?;
        Ok(output.item)
    }

    /// All of one kind, `:kind`, strongly consistent.
    fn query(&self, kind: &str) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_values(":kind", AttributeValue::S(kind.to_owned()))
    }
}

#[async_trait]
impl Registry for DynamoRegistry {
    async fn get(&self, id: &str) -> Result<Option<ClusterRow>, StoreError> {
        self.item(key(CLUSTER, id)).await?.map(read).transpose()
    }

    async fn list(&self, limit: usize, after: Option<&str>) -> Result<Page, StoreError> {
        let query = self.query(CLUSTER).key_condition_expression("#kind = :kind");
        let (rows, more) = page(query, limit, after.map(|id| key(CLUSTER, id)), read).await?;
        Ok(Page { rows, more })
    }

    async fn put(&self, row: &ClusterRow, expected: Expected<'_>) -> Result<Stored, StoreError> {
        let written = write(row)?;
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(written.clone()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let put = match expected {
            Expected::Absent => put.condition_expression("attribute_not_exists(id)"),
            Expected::Nonce(nonce) => put
                .condition_expression("#nonce = :nonce")
                .expression_attribute_names("#nonce", "nonce")
                .expression_attribute_values(":nonce", AttributeValue::S(nonce.to_owned())),
        };
        stored(&written, put.send().await.map(drop))
    }

    async fn remove(&self, id: &str, nonce: &str) -> Result<Stored, StoreError> {
        // A row that is gone already counts as removed: the answer of an earlier
        // try may have been lost, and there is nobody whose row it could be.
        let answer = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key(CLUSTER, id)))
            .condition_expression("attribute_not_exists(id) OR #nonce = :nonce")
            .expression_attribute_names("#nonce", "nonce")
            .expression_attribute_values(":nonce", AttributeValue::S(nonce.to_owned()))
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Stored::Yes),
            Err(error) => match error.as_service_error() {
                Some(DeleteItemError::ConditionalCheckFailedException(_)) => Ok(Stored::Lost),
                _ => Err(store_error(SERVICE, "DeleteItem", &error)),
            },
        }
    }
}

fn key(kind: &str, id: &str) -> Item {
    Item::from([
        ("kind".to_owned(), AttributeValue::S(kind.to_owned())),
        ("id".to_owned(), AttributeValue::S(id.to_owned())),
    ])
}

fn write(row: &ClusterRow) -> Result<Item, StoreError> {
    #[derive(Serialize)]
    struct Record<'a> {
        kind: &'static str,
        #[serde(flatten)]
        row: &'a ClusterRow,
    }
    serde_dynamo::to_item(Record { kind: CLUSTER, row })
        .map_err(|error| unreadable(format!("the row of cluster {} could not be written", row.id), error))
}

fn read(item: Item) -> Result<ClusterRow, StoreError> {
    let id = item.get("id").and_then(|id| id.as_s().ok()).cloned().unwrap_or_default();
    serde_dynamo::from_item(item)
        .map_err(|error| unreadable(format!("the row of cluster {id} can't be read"), error))
}

#[cfg(test)]
mod tests;
