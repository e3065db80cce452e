//! [`Events`] on EventBridge.

use async_trait::async_trait;
use aws_sdk_eventbridge::{Client, types::PutEventsRequestEntry};
use monitor::{
    answer::Answer,
    ports::{Events, StoreError},
    probe::Attention,
};
use serde::Serialize;

use super::store::{store_error, unreadable};
use crate::error::may_pass;

const SERVICE: &str = "EventBridge";

/// What rules match on; the state machine writes the same.
const SOURCE: &str = "dag-monitor";
const FINISHED: &str = "Deployment Finished";
const ATTENTION: &str = "Cluster Needs Attention";

/// The events on one bus.
#[derive(Debug, Clone)]
pub struct BusEvents {
    client: Client,
    bus: String,
}

impl BusEvents {
    /// The bus by its name or ARN.
    #[must_use]
    pub fn new(client: Client, bus: &str) -> Self {
        Self { client, bus: bus.to_owned() }
    }

    async fn publish<T>(&self, detail_type: &str, detail: &T, what: &str) -> Result<(), StoreError>
    where
        T: Serialize + Sync,
    {
        let detail = serde_json::to_string(detail)
            .map_err(|error| unreadable(format!("{what} could not be written"), error))?;
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(&self.bus)
            .source(SOURCE)
            .detail_type(detail_type)
            .detail(detail)
            .build();
        let output = self
            .client
            .put_events()
            .entries(entry)
            .send()
            .await
            .map_err(|error| store_error(SERVICE, "PutEvents", &error))?;
        // The call succeeds even where its only entry did not.
        if output.failed_entry_count == 0 {
            return Ok(());
        }
        let entry = output.entries().first();
        let code = entry.and_then(|entry| entry.error_code());
        let message = entry.and_then(|entry| entry.error_message()).unwrap_or("no message");
        let source = format!("PutEvents: {}: {message}", code.unwrap_or("no code")).into();
        if may_pass(code) {
            return Err(StoreError::Transient(SERVICE, source));
        }
        Err(StoreError::Broken { what: format!("{SERVICE} refused {what}"), source: Some(source) })
    }
}

#[async_trait]
impl Events for BusEvents {
    async fn deployment_finished(&self, answer: &Answer) -> Result<(), StoreError> {
        self.publish(FINISHED, answer, &format!("the event of deployment {}", answer.deployment_id)).await
    }

    async fn cluster_needs_attention(&self, attention: &Attention) -> Result<(), StoreError> {
        self.publish(ATTENTION, attention, &format!("the event of cluster {}", attention.cluster)).await
    }
}

#[cfg(test)]
mod tests;
