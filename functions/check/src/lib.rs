#![doc = include_str!("../README.md")]

use std::fmt;

use jiff::Timestamp;
use lambda_runtime::Diagnostic;
use monitor::{
    answer::Answer,
    check::{CheckError, Checker, Ended, chain},
    request::{self, Execution, Refusal},
};
use serde::Deserialize;
use serde_json::Value;

/// The event's `detail-type` by which EventBridge tells of executions
/// (AWS Step Functions developer guide, "Automating Step Functions event delivery with EventBridge").
const EXECUTION_ENDED: &str = "Step Functions Execution Status Change";

/// The event by which the state machine hands over a verdict that the bus did not take.
const UNTOLD: &str = "Deployment Untold";

/// The names of this handler's errors, as the state machine's `Retry` and `Catch` match them.
pub const ERROR_NAMES: [&str; 3] = ["InvalidRequest", "Transient", "Internal"];

/// An error as the Lambda runtime reports it.
pub struct Failure(CheckError);

impl fmt::Debug for Failure {
    /// What the runtime writes into the log: the chain of causes, once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&self.0))
    }
}

impl From<Failure> for Diagnostic {
    fn from(Failure(error): Failure) -> Self {
        let [invalid, transient, internal] = ERROR_NAMES;
        let name = match error {
            CheckError::InvalidRequest(_) => invalid,
            CheckError::Transient(..) => transient,
            CheckError::Internal(_) => internal,
        };
        Self { error_type: name.to_owned(), error_message: error.to_string() }
    }
}

/// Serves one event: a check, the news that an execution has ended, or a verdict that is still to be told.
///
/// # Errors
/// [`Failure`], by one of [`ERROR_NAMES`].
pub async fn handle(checker: &Checker, event: Value) -> Result<Option<Answer>, Failure> {
    // What comes from the state machine's check names its execution, whatever its caller put beside that.
    let news = event.get("detail-type").and_then(Value::as_str).filter(|_| event.get("execution").is_none());
    let result = match news {
        Some(EXECUTION_ENDED) => close(checker, event).await,
        Some(UNTOLD) => tell(checker, event).await,
        _ => check(checker, &event).await.map(Some),
    };
    result.map_err(|error| {
        match &error {
            CheckError::InvalidRequest(sentence) => tracing::info!(sentence, "request refused"),
            CheckError::Transient(..) => tracing::warn!(error = chain(&error), "check not finished"),
            CheckError::Internal(_) => tracing::error!(error = chain(&error), "check not possible"),
        }
        Failure(error)
    })
}

async fn check(checker: &Checker, event: &Value) -> Result<Answer, CheckError> {
    let (request, execution) =
        request::parse(event).map_err(|refusals| CheckError::InvalidRequest(request::sentence(&refusals)))?;
    // What came of it stands in the log by the line of its figures.
    checker.check(&request, execution.as_ref()).await
}

/// What EventBridge tells of an execution, as far as it matters here.
#[derive(Deserialize)]
struct StatusChange {
    detail: Detail,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    execution_arn: String,
    status: String,
    /// Milliseconds since 1970.
    start_date: i64,
    /// The execution's input, as JSON text; left out where it is too large.
    #[serde(default)]
    input: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    cause: Option<String>,
}

async fn close(checker: &Checker, event: Value) -> Result<Option<Answer>, CheckError> {
    let change: StatusChange = serde_json::from_value(event).map_err(|error| refused("/detail", &error))?;
    let detail = change.detail;
    if !matches!(detail.status.as_str(), "ABORTED" | "TIMED_OUT" | "FAILED") {
        return Ok(None);
    }
    let deployment_id = detail
        .input
        .and_then(|input| serde_json::from_str::<Value>(&input).ok())
        .and_then(|input| Some(input.get("deploymentId")?.as_str()?.to_owned()));
    let started_at = Timestamp::from_millisecond(detail.start_date)
        .map_err(|error| refused("/detail/startDate", &error))?;
    let ended = Ended {
        execution: Execution { arn: detail.execution_arn, started_at },
        deployment_id,
        status: detail.status,
        error: detail.error,
        cause: detail.cause,
    };
    let closed = checker.close(&ended).await?;
    tracing::info!(
        execution = ended.execution.arn,
        status = ended.status,
        deployment_id = closed.as_ref().map(|answer| answer.deployment_id.as_str()),
        "execution ended"
    );
    Ok(closed)
}

/// A verdict that the state machine could not tell, as it hands it over.
#[derive(Deserialize)]
struct Untold {
    detail: UntoldDetail,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UntoldDetail {
    execution_arn: String,
    deployment_id: String,
}

async fn tell(checker: &Checker, event: Value) -> Result<Option<Answer>, CheckError> {
    let Untold { detail } = serde_json::from_value(event).map_err(|error| refused("/detail", &error))?;
    let told = checker.tell(&detail.deployment_id, &detail.execution_arn).await?;
    tracing::info!(deployment_id = detail.deployment_id, told = told.is_some(), "verdict to be told");
    Ok(told)
}

/// As one sentence: a parser quotes what it read, however long it is.
fn refused(pointer: &str, error: &dyn fmt::Display) -> CheckError {
    let refusal = Refusal { pointer: pointer.to_owned(), detail: error.to_string() };
    CheckError::InvalidRequest(request::sentence(&[refusal]))
}
