//! Errors as the caller sees them: RFC 9457.

use std::error::Error;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use monitor::{
    check::chain,
    deploy::DeployError,
    environments::EnvironmentError,
    probe::{ProbeFailure, ProbeReason},
    register::RegisterError,
    request::Refusal,
};
use serde::Serialize;

/// Declares the kinds, each with its URN's end, status and title.
macro_rules! kinds {
    ($($name:ident: $urn:literal, $status:ident, $title:literal;)+) => {
        /// What kind of problem it is. The URNs are a contract: callers tell problems
        /// apart by them, so one that was published stays.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = $title] $name,)+
        }

        impl Kind {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub(crate) const fn urn(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("urn:dag-monitor:problem:", $urn),)+
                }
            }

            pub(crate) const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)+
                }
            }

            const fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title,)+
                }
            }
        }
    };
}

kinds! {
    Malformed: "malformed-request", BAD_REQUEST, "The request can't be read";
    NoSuchRoute: "no-such-route", NOT_FOUND, "There is no such route";
    UnknownCluster: "unknown-cluster", NOT_FOUND, "There is no such cluster";
    UnknownEnvironment: "unknown-environment", NOT_FOUND, "There is no such environment";
    UnknownDeployment: "unknown-deployment", NOT_FOUND, "There is no such deployment";
    MethodNotAllowed: "method-not-allowed", METHOD_NOT_ALLOWED, "The route doesn't know this method";
    AlreadyRegistered: "already-registered", CONFLICT, "The id is taken";
    ClusterBusy: "cluster-busy", CONFLICT, "Somebody else is changing the cluster";
    Unfinished: "unfinished", CONFLICT, "The cluster is only half registered";
    ClusterInUse: "cluster-in-use", CONFLICT, "Environments name the cluster";
    DeploymentIdConflict: "deployment-id-conflict", CONFLICT, "The id was used for another request";
    TooLarge: "too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    UnsupportedMediaType: "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The body is of another type";
    Invalid: "invalid-request", UNPROCESSABLE_ENTITY, "Fields were refused";
    ProbeFailed: "probe-failed", UNPROCESSABLE_ENTITY, "The cluster can't be asked";
    Internal: "internal", INTERNAL_SERVER_ERROR, "Something is wrong on our side";
    Unavailable: "unavailable", SERVICE_UNAVAILABLE, "Try again";
}

/// When to try again where a service did not answer: the same call, soon.
const RETRY_SOON_SECS: u32 = 5;

/// When to try again where somebody else is at work on a cluster: whoever is, is done
/// by then, or may be taken over (`monitor::register`).
const RETRY_AFTER_WORK_SECS: u32 = 60;

/// One problem, ready to answer.
#[derive(Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<Refusal>,
    probe: Option<ProbeFailure>,
    retry_after_secs: Option<u32>,
}

impl Problem {
    /// A problem of this kind; the detail is a sentence for the caller.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), probe: None, retry_after_secs: None }
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
            RegisterError::InUse { .. } => Self::new(Kind::ClusterInUse, detail),
            // The registrar has logged it, with the cluster.
            RegisterError::ProbeFailed(failure) => {
                Self { probe: Some(failure), ..Self::new(Kind::ProbeFailed, detail) }
            }
            RegisterError::Unavailable { .. } => Self::unavailable(&error),
            RegisterError::Broken(_) => Self::internal(&error),
        };
        Self { retry_after_secs, ..problem }
    }
}

impl From<EnvironmentError> for Problem {
    fn from(error: EnvironmentError) -> Self {
        let detail = error.to_string();
        match error {
            EnvironmentError::Invalid(refusals) => Self::invalid(refusals),
            EnvironmentError::Unknown => Self::new(Kind::UnknownEnvironment, detail),
            EnvironmentError::Busy => {
                Self { retry_after_secs: Some(RETRY_AFTER_WORK_SECS), ..Self::new(Kind::ClusterBusy, detail) }
            }
            EnvironmentError::Unavailable(_) => Self::unavailable(&error),
            EnvironmentError::Broken(_) => Self::internal(&error),
        }
    }
}

impl From<DeployError> for Problem {
    fn from(error: DeployError) -> Self {
        let detail = error.to_string();
        match error {
            DeployError::Invalid(refusals) => Self::invalid(refusals),
            DeployError::Unknown => Self::new(Kind::UnknownDeployment, detail),
            DeployError::Conflict(_) => Self::new(Kind::DeploymentIdConflict, detail),
            DeployError::Unavailable(_) => Self::unavailable(&error),
            DeployError::Broken(_) => Self::internal(&error),
        }
    }
}

impl Problem {
    fn unavailable(error: &(dyn Error + 'static)) -> Self {
        tracing::warn!(error = %chain(error), "a service did not answer");
        Self { retry_after_secs: Some(RETRY_SOON_SECS), ..Self::new(Kind::Unavailable, error.to_string()) }
    }

    fn internal(error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "a service refused us");
        Self::new(Kind::Internal, error.to_string())
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
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ProbeReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

#[derive(Serialize)]
struct FieldError<'a> {
    pointer: &'a str,
    detail: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let errors =
            self.errors.iter().map(|it| FieldError { pointer: &it.pointer, detail: &it.detail }).collect();
        let document = Document {
            r#type: self.kind.urn(),
            title: self.kind.title(),
            status: status.as_u16(),
            detail: &self.detail,
            errors,
            reason: self.probe.as_ref().map(|it| it.reason),
            help: self.probe.as_ref().map(|it| it.help.as_str()),
        };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}
