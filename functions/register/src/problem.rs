//! Errors as the caller sees them: RFC 9457.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use monitor::{check::chain, register::RegisterError, request::Refusal};
use serde::Serialize;

/// What kind of problem it is. The URNs are a contract: callers tell problems
/// apart by them, so one that was published stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Malformed,
    NoSuchRoute,
    UnknownCluster,
    MethodNotAllowed,
    AlreadyRegistered,
    ClusterBusy,
    Unfinished,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    Internal,
    Unavailable,
}

impl Kind {
    const fn row(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::Malformed => {
                ("urn:dag-monitor:problem:malformed-request", S::BAD_REQUEST, "The request can't be read")
            }
            Self::NoSuchRoute => {
                ("urn:dag-monitor:problem:no-such-route", S::NOT_FOUND, "There is no such route")
            }
            Self::UnknownCluster => {
                ("urn:dag-monitor:problem:unknown-cluster", S::NOT_FOUND, "There is no such cluster")
            }
            Self::MethodNotAllowed => (
                "urn:dag-monitor:problem:method-not-allowed",
                S::METHOD_NOT_ALLOWED,
                "The route doesn't know this method",
            ),
            Self::AlreadyRegistered => {
                ("urn:dag-monitor:problem:already-registered", S::CONFLICT, "The id is taken")
            }
            Self::ClusterBusy => {
                ("urn:dag-monitor:problem:cluster-busy", S::CONFLICT, "Somebody else is changing the cluster")
            }
            Self::Unfinished => {
                ("urn:dag-monitor:problem:unfinished", S::CONFLICT, "The cluster is only half registered")
            }
            Self::TooLarge => {
                ("urn:dag-monitor:problem:too-large", S::PAYLOAD_TOO_LARGE, "The body is too large")
            }
            Self::UnsupportedMediaType => (
                "urn:dag-monitor:problem:unsupported-media-type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "The body is of another type",
            ),
            Self::Invalid => {
                ("urn:dag-monitor:problem:invalid-request", S::UNPROCESSABLE_ENTITY, "Fields were refused")
            }
            Self::Internal => (
                "urn:dag-monitor:problem:internal",
                S::INTERNAL_SERVER_ERROR,
                "Something is wrong on our side",
            ),
            Self::Unavailable => ("urn:dag-monitor:problem:unavailable", S::SERVICE_UNAVAILABLE, "Try again"),
        }
    }
}

/// One problem, ready to answer.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<Refusal>,
    retry_after_secs: Option<u32>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after_secs: None }
    }

    /// Fields were refused; the detail says it all once more, for people.
    pub(crate) fn invalid(errors: Vec<Refusal>) -> Self {
        let sentences: Vec<String> = errors
            .iter()
            .map(|Refusal { pointer, detail }| match pointer.as_str() {
                "" => detail.clone(),
                pointer => format!("{pointer}: {detail}"),
            })
            .collect();
        Self { errors, ..Self::new(Kind::Invalid, sentences.join("; ")) }
    }
}

/// The boundary: here an error goes to the caller as a sentence, and once, with its
/// causes, into the log, where somebody on our side can act on it.
impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        let detail = error.to_string();
        let retry_after_secs = error.retry_after_secs();
        let problem = match error {
            RegisterError::Invalid(refusals) => Self::invalid(refusals),
            RegisterError::Unknown => Self::new(Kind::UnknownCluster, detail),
            RegisterError::Taken { id, .. } => Self::new(
                Kind::AlreadyRegistered,
                format!("{detail}; change that one with PUT /clusters/{id}, or choose another name"),
            ),
            RegisterError::Busy { .. } => Self::new(Kind::ClusterBusy, detail),
            RegisterError::Unfinished { .. } => Self::new(Kind::Unfinished, detail),
            RegisterError::Unavailable { .. } => {
                tracing::warn!(error = %chain(&error), "a store did not answer");
                Self::new(Kind::Unavailable, detail)
            }
            RegisterError::Broken(_) => {
                tracing::error!(error = %chain(&error), "a store refused us");
                Self::new(Kind::Internal, detail)
            }
        };
        Self { retry_after_secs, ..problem }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError<'a>>,
}

#[derive(Serialize)]
struct FieldError<'a> {
    pointer: &'a str,
    detail: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (r#type, status, title) = self.kind.row();
        let errors =
            self.errors.iter().map(|it| FieldError { pointer: &it.pointer, detail: &it.detail }).collect();
        let document = Document { r#type, title, status: status.as_u16(), detail: &self.detail, errors };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}
