//! Errors of the SDK as errors of a store.

use std::error::Error;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::{ErrorMetadata, ProvideErrorMetadata};
use monitor::ports::StoreError;

use crate::error::{Sdk, chain, may_pass};

/// Codes whose message repeats what was sent, which may be a token.
const QUOTING: &[&str] = &["InvalidParameterException", "SerializationException", "ValidationException"];

/// What became of a call. The SDK's own error is dropped here: it holds the whole
/// answer, and a `{:?}` of it would print a secret that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Call(String);

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

/// An item, a row or a secret that this version can't read.
pub(crate) fn unreadable(what: String, source: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError::Broken { what, source: Some(Box::new(source)) }
}
