//! The parsers without the transport before them, for the fuzzer (`tests/fuzz-parsers`) alone. Each function does
//! what the port of the same name does once the bytes are there.

use jiff::Timestamp;
use monitor::ports::Credentials;
use reqwest::header::HOST;
use url::Url;
use verdict::{AskError, HelmRelease, Payload, Release, Revision};

pub use crate::probe::fuzzing::{Said, Sent, probe};
use crate::{
    KubernetesClient, certificates,
    client::{fit_to_show, make_payload_fit, make_release_fit},
    parsing::{self, Answer},
    payload, redaction, requests,
};

impl<'a> Sent<'a> {
    fn answer(self) -> Answer<'a> {
        Answer { status: self.status, content_type: self.content_type, body: self.body }
    }
}

/// As `Clusters::helm_release`.
///
/// # Errors
/// As `Clusters::helm_release`.
pub fn helm_release(
    sent: Sent<'_>,
    credentials: &Credentials,
    namespace: &str,
    name: &str,
) -> Result<Option<Box<HelmRelease>>, AskError> {
    let mut object = parsing::helm_release(sent.answer(), namespace, name)
        .map_err(|error| fit_to_show(error, credentials))?;
    object.iter_mut().for_each(|object| make_release_fit(object, credentials));
    Ok(object)
}

/// As `Clusters::revisions`: one page, and what names the next one.
///
/// # Errors
/// As `Clusters::revisions`.
pub fn revisions(
    sent: Sent<'_>,
    credentials: &Credentials,
    namespace: &str,
    release: &str,
) -> Result<(Vec<Revision>, Option<String>), AskError> {
    let page =
        parsing::page(sent.answer(), namespace, release).map_err(|error| fit_to_show(error, credentials))?;
    Ok((page.revisions, page.next))
}

/// As `Clusters::payload`.
///
/// # Errors
/// As `Clusters::payload`.
pub fn payload(sent: Sent<'_>, credentials: &Credentials, secret: &str) -> Result<Payload, AskError> {
    let mut payload =
        parsing::payload(sent.answer(), secret).map_err(|error| fit_to_show(error, credentials))?;
    make_payload_fit(&mut payload, credentials);
    Ok(payload)
}

/// The release of a secret's `data.release`.
///
/// # Errors
/// Why it can't be read.
pub fn unpack(data: &[u8]) -> Result<Release, String> {
    payload::unpack(data).map_err(|why| why.to_string())
}

/// The answer's `Date`.
#[must_use]
pub fn date(header: &str) -> Option<Timestamp> {
    parsing::date(header)
}

/// A text as it may be shown, see `redaction`.
#[must_use]
pub fn fit(text: &str, secret: &str) -> String {
    redaction::fit(text, secret)
}

/// Whether a registered CA can be trusted when it is connected by.
///
/// # Errors
/// Why not.
pub fn trust(pem: &str) -> Result<(), String> {
    certificates::trust(pem).map(|_| ())
}

/// Where the questions about a release would be sent: each one's URL, and the `Host` header where the URL does not
/// name the host. A name that no question can carry has none.
///
/// # Errors
/// Where the credentials name no API server that can be connected to.
pub fn asked(
    client: &KubernetesClient,
    credentials: &Credentials,
    namespace: &str,
    name: &str,
    next: Option<&str>,
) -> Result<Vec<(Url, Option<String>)>, AskError> {
    let endpoint = client.endpoints.get(credentials)?;
    let questions = [
        requests::helm_release(namespace, name),
        requests::revisions(namespace, name, next),
        requests::payload(namespace, name),
    ];
    let mut asked = Vec::new();
    for question in questions.into_iter().flatten() {
        let request = endpoint.request(&question)?.build().map_err(|error| AskError {
            kind: verdict::AskErrorKind::Unreachable,
            message: format!("no request can be made: {}", error.without_url()),
        })?;
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
        asked.push((request.url().clone(), host));
    }
    Ok(asked)
}
