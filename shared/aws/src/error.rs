//! Errors of the SDK as errors of a store.

use std::error::Error;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_types::error::metadata::ErrorMetadata;
use monitor::ports::StoreError;

/// The SDK's error type for an operation.
pub(crate) type Sdk<E> = SdkError<E, aws_sdk_dynamodb::config::http::HttpResponse>;

/// Codes that may pass without a 429 or 5xx to show it: DynamoDB throttles with
/// 400. An expired token is Lambda's to replace, in the next process at the latest.
const PASSING: &[&str] = &[
    "ExpiredToken",
    "ExpiredTokenException",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceError",
    "InternalServiceException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionConflictException",
    "TransactionInProgressException",
];

/// Codes whose message repeats what was sent, which may be a token.
const QUOTING: &[&str] = &["InvalidParameterException", "SerializationException", "ValidationException"];

/// What became of a call. The SDK's own error is dropped here: it holds the whole
/// answer, and a `{:?}` of it would print a secret that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Call(String);

/// Whether a code may pass by itself.
pub(crate) fn may_pass(code: Option<&str>) -> bool {
    code.is_some_and(|code| PASSING.contains(&code))
}

/// The code of a refusal, where it has one.
pub(crate) fn code<E: ProvideErrorMetadata>(error: &Sdk<E>) -> Option<&str> {
    error.as_service_error().and_then(|refusal| refusal.meta().code())
}

/// A failed call of `operation` at `service`.
pub(crate) fn store_error<E>(service: &'static str, operation: &'static str, error: &Sdk<E>) -> StoreError
where
    E: ProvideErrorMetadata,
{
    let (passes, what) = match error {
        SdkError::TimeoutError(_) => (true, "no answer in time".to_owned()),
        SdkError::DispatchFailure(failure) => {
            (true, failure.as_connector_error().map_or_else(|| "not sent".to_owned(), |error| chain(error)))
        }
        SdkError::ResponseError(answer) => garbled(answer.raw().status().as_u16()),
        // Some of what can't be parsed comes as a refusal in an answer of success.
        SdkError::ServiceError(refusal) if refusal.raw().status().is_success() => {
            garbled(refusal.raw().status().as_u16())
        }
        SdkError::ServiceError(refusal) => {
            let status = refusal.raw().status().as_u16();
            let meta = refusal.err().meta();
            (status == 429 || status >= 500 || may_pass(meta.code()), words(meta, status))
        }
        // Nothing was sent, and nothing will be: the configuration is wrong.
        _ => (false, "the request could not be built".to_owned()),
    };
    let source = Box::new(Call(format!("{operation}: {what}")));
    if passes {
        StoreError::Transient(service, source)
    } else {
        StoreError::Broken { what: format!("{service} refused {operation}"), source: Some(source) }
    }
}

/// As a proxy or a cut connection leaves it.
fn garbled(status: u16) -> (bool, String) {
    (true, format!("an answer that can't be read, HTTP {status}"))
}

fn words(meta: &ErrorMetadata, status: u16) -> String {
    let code = meta.code().unwrap_or("no code");
    match meta.message().filter(|_| !QUOTING.contains(&code)) {
        Some(message) => format!("{code}, HTTP {status}: {message}"),
        None => format!("{code}, HTTP {status}"),
    }
}

pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

/// An item, a row or a secret that this version can't read.
pub(crate) fn unreadable(what: String, source: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError::Broken { what, source: Some(Box::new(source)) }
}
