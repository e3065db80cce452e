//! [`Executions`] of a Step Functions state machine.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_sfn::{
    Client,
    operation::{describe_execution::DescribeExecutionError, start_execution::StartExecutionError},
    types::ExecutionStatus,
};
use aws_smithy_types::DateTime;
use jiff::Timestamp;
use monitor::{
    ports::{Executions, Found, Starting, StoreError},
    request::Execution,
};
use serde_json::Value;

use super::store::store_error;

const SERVICE: &str = "Step Functions";

/// The executions of one state machine.
#[derive(Debug, Clone)]
pub struct StepFunctions {
    client: Client,
    state_machine_arn: String,
    /// An execution's ARN up to its name.
    executions: String,
}

impl StepFunctions {
    /// The state machine by its ARN: `arn:…:stateMachine:NAME`, without version or alias.
    #[must_use]
    pub fn new(client: Client, state_machine_arn: &str) -> Self {
        let executions = format!("{}:", state_machine_arn.replacen(":stateMachine:", ":execution:", 1));
        Self { client, state_machine_arn: state_machine_arn.to_owned(), executions }
    }
}

#[async_trait]
impl Executions for StepFunctions {
    async fn start(&self, name: &str, input: &Value) -> Result<Starting, StoreError> {
        let answer = self
            .client
            .start_execution()
            .state_machine_arn(&self.state_machine_arn)
            .name(name)
            .input(sorted(input).to_string())
            .send()
            .await;
        match answer {
            Ok(output) => {
                let started_at = instant(name, output.start_date())?;
                Ok(Starting::Begun(Execution { arn: output.execution_arn, started_at }))
            }
            Err(error) => match error.as_service_error() {
                Some(StartExecutionError::ExecutionAlreadyExists(_)) => Ok(Starting::NameTaken),
                _ => Err(store_error(SERVICE, "StartExecution", &error)),
            },
        }
    }

    async fn find(&self, name: &str) -> Result<Option<Found>, StoreError> {
        let arn = format!("{}{name}", self.executions);
        let output = match self.client.describe_execution().execution_arn(arn).send().await {
            Ok(output) => output,
            Err(error) => {
                return match error.as_service_error() {
                    Some(DescribeExecutionError::ExecutionDoesNotExist(_)) => Ok(None),
                    _ => Err(store_error(SERVICE, "DescribeExecution", &error)),
                };
            }
        };
        let started_at = instant(name, output.start_date())?;
        // Failed, but about to run again.
        let running = matches!(output.status(), ExecutionStatus::Running | ExecutionStatus::PendingRedrive);
        let input = output.input().and_then(|text| serde_json::from_str(text).ok());
        let execution = Execution { arn: output.execution_arn, started_at };
        Ok(Some(Found { execution, input, running }))
    }
}

/// Step Functions compares inputs as texts, so the same value must be the same text,
/// in whichever order its keys came and are kept.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<&String, &Value> = members.iter().collect();
            members.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// In whole milliseconds, as the state machine itself tells it: in the answer it is
/// a number with a fraction, which can't be kept exactly.
fn instant(name: &str, time: &DateTime) -> Result<Timestamp, StoreError> {
    // Half a millisecond more, since what was to be .123 may come as .122999999.
    let millis = time.as_nanos().saturating_add(500_000).div_euclid(1_000_000);
    i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok()).ok_or_else(|| {
        StoreError::Broken { what: format!("the start of execution {name} can't be read"), source: None }
    })
}

#[cfg(test)]
mod tests;
