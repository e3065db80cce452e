//! Failures of the transport, told in a sentence: a person must see from it
//! whether to look at DNS, a firewall, a certificate or the API server.

use std::{error::Error, io};

use jiff::Timestamp;
use rustls::CertificateError;
use rustls_pki_types::UnixTime;
use verdict::{AskError, AskErrorKind};

use crate::endpoint::{Endpoint, ResolveError};

/// How many of a certificate's names are told.
const NAMES: usize = 5;

/// Sending failed, or reading what came.
pub(crate) fn told(error: &reqwest::Error, endpoint: &Endpoint) -> AskError {
    let causes = causes(error);
    let server = &endpoint.server;
    if let Some(resolve) = find::<ResolveError>(&causes) {
        return unreachable(resolve.to_string());
    }
    if let Some(tls) = find::<rustls::Error>(&causes) {
        return AskError { kind: AskErrorKind::Tls, message: tls_words(tls, endpoint) };
    }
    if find::<hyper::Error>(&causes).is_some_and(hyper::Error::is_parse) {
        return not_http(server);
    }
    if error.is_timeout() {
        return slow(if error.is_connect() {
            format!("no connection to {server} in time")
        } else {
            format!("{server} stopped answering")
        });
    }
    let kind = causes.iter().rev().find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind);
    let innermost = causes.last().map(ToString::to_string).unwrap_or_default();
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => unreachable(format!("{server} refused the connection")),
        Some(
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted,
        ) => unreachable(format!("{server} reset the connection")),
        Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
            unreachable(format!("no route to {server}"))
        }
        _ if error.is_connect() => unreachable(format!("no connection to {server}: {innermost}")),
        // Neither HTTP nor the connection failed, so unpacking did.
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
            if find::<hyper::Error>(&causes).is_none() =>
        {
            AskError {
                kind: AskErrorKind::NotKubernetes,
                message: format!("the answer of {server} is broken gzip"),
            }
        }
        _ => unreachable(format!("the connection to {server} broke off: {innermost}")),
    }
}

/// Whether the request can be sent again at once: the connection died under it,
/// as one does that was kept while the machine slept. All requests are reads.
pub(crate) fn may_retry(error: &reqwest::Error) -> bool {
    let causes = causes(error);
    error.is_request()
        && !error.is_connect()
        && find::<rustls::Error>(&causes).is_none()
        && !find::<hyper::Error>(&causes).is_some_and(hyper::Error::is_parse)
}

pub(crate) fn unreachable(message: String) -> AskError {
    AskError { kind: AskErrorKind::Unreachable, message }
}

pub(crate) fn slow(message: String) -> AskError {
    AskError { kind: AskErrorKind::Slow, message }
}

fn not_http(server: &str) -> AskError {
    AskError { kind: AskErrorKind::NotKubernetes, message: format!("{server} does not speak HTTP/1.1") }
}

fn tls_words(error: &rustls::Error, endpoint: &Endpoint) -> String {
    let server = &endpoint.server;
    match error {
        rustls::Error::InvalidCertificate(certificate) => {
            format!("the certificate of {server} {}", certificate_words(certificate, endpoint))
        }
        rustls::Error::InvalidMessage(_) => format!("{server} does not speak TLS"),
        rustls::Error::AlertReceived(alert) => format!("{server} broke off the TLS handshake: {alert:?}"),
        other => format!("no TLS with {server}: {other}"),
    }
}

fn certificate_words(error: &CertificateError, endpoint: &Endpoint) -> String {
    match error {
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => format!("has expired on {}", day(not_after)),
        CertificateError::NotValidYet => "is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}", day(not_before))
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature if endpoint.own_ca => {
            "was not issued by the registered caCert".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "was issued by a CA that is not a public one: register its caCert".to_owned()
        }
        CertificateError::NotValidForName => "is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = presented.iter().take(NAMES).map(|name| name_alone(name)).collect::<Vec<_>>();
            let more = if presented.len() > NAMES { ", …" } else { "" };
            format!(
                "is not valid for {}, only for {}{more}: tlsServerName can name one",
                expected.to_str(),
                names.join(", ")
            )
        }
        CertificateError::Revoked => "was revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not one for servers".to_owned()
        }
        // webpki's word; rustls has none for it.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "is a CA's own, which no server may show".to_owned()
        }
        other => format!("is not accepted: {other}"),
    }
}

/// The names come as `DnsName("x")`, `IpAddress(x)`.
fn name_alone(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

fn day(time: &UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| "an unknown day".to_owned(), |t| t.strftime("%Y-%m-%d").to_string())
}

/// An error and what caused it. What an `io::Error` wraps is among it: its
/// `source` is the source of the wrapped one, which would pass over that itself.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> Vec<&'e (dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        causes.push(error);
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    causes
}

fn find<'e, E: Error + 'static>(causes: &[&'e (dyn Error + 'static)]) -> Option<&'e E> {
    causes.iter().find_map(|error| error.downcast_ref())
}
