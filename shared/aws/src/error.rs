//! What the SDK says of a failed call.

use std::error::Error;

use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};

/// The SDK's error type for an operation.
pub(crate) type Sdk<E> = SdkError<E, HttpResponse>;

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

/// Whether a code may pass by itself.
pub(crate) fn may_pass(code: Option<&str>) -> bool {
    code.is_some_and(|code| PASSING.contains(&code))
}

/// An error and what caused it, in one line.
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
