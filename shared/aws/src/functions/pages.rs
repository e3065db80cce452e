//! Reading a list a page at a time.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use monitor::ports::StoreError;

use super::{deployments::Item, store::store_error};

/// At most `limit` (brought into 1-100) of what a query finds after `start`, and
/// whether more follows.
///
/// One more than asked for is read: that DynamoDB could go on doesn't say that
/// anything follows. A round may bring less than asked for, since DynamoDB reads at
/// most 1 MB and counts before it filters.
pub(crate) async fn page<T>(
    query: QueryFluentBuilder,
    limit: usize,
    mut start: Option<Item>,
    read: impl Fn(Item) -> Result<T, StoreError>,
) -> Result<(Vec<T>, bool), StoreError> {
    let limit = limit.clamp(1, 100);
    let mut found = Vec::new();
    loop {
        let missing = i32::try_from(limit + 1 - found.len()).unwrap_or(1);
        let round = query.clone().limit(missing).set_exclusive_start_key(start).send();
        let output = round.await.map_err(|error| store_error("DynamoDB", "Query", &error))?;
        for item in output.items.unwrap_or_default() {
            found.push(read(item)?);
        }
        start = output.last_evaluated_key.filter(|key| !key.is_empty());
        if found.len() > limit {
            found.truncate(limit);
            return Ok((found, true));
        }
        if start.is_none() {
            return Ok((found, false));
        }
    }
}
