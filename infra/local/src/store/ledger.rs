//! The [`Ledger`] of executions in the store.

use async_trait::async_trait;
use jiff::Timestamp;
use monitor::{
    ports::{Found, StoreError},
    request::Execution,
};
use redb::{ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Outcome, Store, Trouble, json, parsed, row};
use crate::executions::Ledger;

/// By name.
const EXECUTIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("executions");
/// The start in milliseconds since 1970, and the name.
const BEGUN: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("executions-begun");
/// Names, in the order in which they ended.
const ENDED: TableDefinition<'_, u64, &str> = TableDefinition::new("executions-ended");

/// What an error calls a row.
const EXECUTION: &str = "the execution";

pub(super) fn begin(transaction: &WriteTransaction) -> Result<(), Trouble> {
    transaction.open_table(EXECUTIONS)?;
    transaction.open_table(BEGUN)?;
    transaction.open_table(ENDED)?;
    Ok(())
}

/// An execution as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    arn: String,
    started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<Value>,
    running: bool,
}

impl From<&Found> for Row {
    fn from(it: &Found) -> Self {
        let Execution { arn, started_at } = it.execution.clone();
        Self { arn, started_at, input: it.input.clone(), running: it.running }
    }
}

impl From<Row> for Found {
    fn from(it: Row) -> Self {
        let execution = Execution { arn: it.arn, started_at: it.started_at };
        Self { execution, input: it.input, running: it.running }
    }
}

#[async_trait]
impl Ledger for Store {
    async fn enter(&self, begun: &Found) -> Result<Option<Found>, StoreError> {
        let begun = begun.clone();
        self.change(move |store| {
            let mut table = store.open_table(EXECUTIONS)?;
            let name = begun.execution.name();
            if let Some(there) = row::<Row>(&table, EXECUTION, name)? {
                return Ok(Outcome::Leave(Some(there.into())));
            }
            table.insert(name, json(EXECUTION, &Row::from(&begun))?.as_slice())?;
            let at = begun.execution.started_at.as_millisecond();
            store.open_table(BEGUN)?.insert((at, name), ())?;
            Ok(Outcome::Keep(None))
        })
        .await
    }

    async fn find(&self, name: &str) -> Result<Option<Found>, StoreError> {
        let name = name.to_owned();
        self.look(move |store| {
            let found: Option<Row> = row(&store.open_table(EXECUTIONS)?, EXECUTION, &name)?;
            Ok(found.map(Found::from))
        })
        .await
    }

    async fn end(&self, name: &str, kept: usize) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.change(move |store| {
            let mut table = store.open_table(EXECUTIONS)?;
            let found = row::<Row>(&table, EXECUTION, &name)?.filter(|it| it.running);
            let Some(found) = found else { return Ok(Outcome::Leave(())) };
            let ended = Row { running: false, ..found };
            table.insert(name.as_str(), json(EXECUTION, &ended)?.as_slice())?;
            let mut order = store.open_table(ENDED)?;
            let first = order.first()?.map(|(number, _)| number.value());
            let next = order.last()?.map_or(0, |(number, _)| number.value() + 1);
            order.insert(next, name.as_str())?;
            if first.is_some_and(|first| next - first >= kept as u64) {
                let oldest = order.pop_first()?.map(|(_, name)| name.value().to_owned());
                let oldest = oldest.unwrap_or_default();
                if let Some(forgotten) = row::<Row>(&table, EXECUTION, &oldest)? {
                    table.remove(oldest.as_str())?;
                    let at = forgotten.started_at.as_millisecond();
                    store.open_table(BEGUN)?.remove((at, oldest.as_str()))?;
                }
            }
            Ok(Outcome::Keep(()))
        })
        .await
    }

    async fn newest(&self, limit: usize) -> Result<Vec<String>, StoreError> {
        self.look(move |store| {
            let mut names = Vec::new();
            for entry in store.open_table(BEGUN)?.iter()?.rev().take(limit) {
                let (key, _) = entry?;
                names.push(key.value().1.to_owned());
            }
            Ok(names)
        })
        .await
    }

    async fn running(&self) -> Result<Vec<Found>, StoreError> {
        self.look(|store| {
            let mut running = Vec::new();
            for entry in store.open_table(EXECUTIONS)?.iter()? {
                let (name, found) = entry?;
                let row: Row = parsed(&format!("{EXECUTION} {}", name.value()), found.value())?;
                if row.running {
                    running.push(row.into());
                }
            }
            Ok(running)
        })
        .await
    }
}
