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

/// What went wrong between us and a server.
#[derive(Debug)]
pub(crate) enum Cause<'e> {
    /// The name has no address, or none that may be connected to.
    Resolve(&'e ResolveError),
    /// The certificate was not accepted.
    Certificate(&'e CertificateError),
    /// What came is no TLS.
    NotTls,
    /// No TLS for another reason.
    Tls(&'e rustls::Error),
    /// What came is no HTTP/1.1.
    NotHttp,
    /// No connection in time.
    NoConnectionInTime,
    /// The answer stopped.
    StoppedAnswering,
    /// Nobody listens.
    Refused,
    /// The server closed the connection.
    Reset,
    /// The network has no way there.
    NoRoute,
    /// The body can't be unpacked.
    BrokenGzip,
    /// No connection, in the words of the system.
    NoConnection(String),
    /// The connection ended, in the words of whoever noticed.
    BrokeOff(String),
}

/// Sending failed, or reading what came.
pub(crate) fn told(error: &reqwest::Error, endpoint: &Endpoint) -> AskError {
    let cause = diagnose(error);
    let kind = match &cause {
        Cause::Certificate(_) | Cause::NotTls | Cause::Tls(_) => AskErrorKind::Tls,
        Cause::NotHttp | Cause::BrokenGzip => AskErrorKind::NotKubernetes,
        Cause::NoConnectionInTime | Cause::StoppedAnswering => AskErrorKind::Slow,
        Cause::Resolve(_)
        | Cause::Refused
        | Cause::Reset
        | Cause::NoRoute
        | Cause::NoConnection(_)
        | Cause::BrokeOff(_) => AskErrorKind::Unreachable,
    };
    AskError { kind, message: cause.words(endpoint) }
}

/// What it was, from what the libraries say.
pub(crate) fn diagnose(error: &reqwest::Error) -> Cause<'_> {
    let causes = causes(error);
    if let Some(resolve) = find::<ResolveError>(&causes) {
        return Cause::Resolve(resolve);
    }
    match find::<rustls::Error>(&causes) {
        Some(rustls::Error::InvalidCertificate(certificate)) => return Cause::Certificate(certificate),
        Some(rustls::Error::InvalidMessage(_)) => return Cause::NotTls,
        Some(other) => return Cause::Tls(other),
        None => {}
    }
    if find::<hyper::Error>(&causes).is_some_and(hyper::Error::is_parse) {
        return Cause::NotHttp;
    }
    if error.is_timeout() {
        return if error.is_connect() { Cause::NoConnectionInTime } else { Cause::StoppedAnswering };
    }
    let kind = causes.iter().rev().find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind);
    let innermost = || causes.last().map(ToString::to_string).unwrap_or_default();
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => Cause::Refused,
        Some(
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted,
        ) => Cause::Reset,
        Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => Cause::NoRoute,
        _ if error.is_connect() => Cause::NoConnection(innermost()),
        // Neither HTTP nor the connection failed, so unpacking did.
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
            if find::<hyper::Error>(&causes).is_none() =>
        {
            Cause::BrokenGzip
        }
        _ => Cause::BrokeOff(innermost()),
    }
}

impl Cause<'_> {
    /// One sentence.
    pub(crate) fn words(&self, endpoint: &Endpoint) -> String {
        let server = &endpoint.server;
        match self {
            Self::Resolve(error) => error.to_string(),
            Self::Certificate(error) => {
                format!("the certificate of {server} {}", certificate_words(error, endpoint))
            }
            Self::NotTls => format!("{server} does not speak TLS"),
            Self::Tls(rustls::Error::AlertReceived(alert)) => {
                format!("{server} broke off the TLS handshake: {alert:?}")
            }
            Self::Tls(other) => format!("no TLS with {server}: {other}"),
            Self::NotHttp => format!("{server} does not speak HTTP/1.1"),
            Self::NoConnectionInTime => format!("no connection to {server} in time"),
            Self::StoppedAnswering => format!("{server} stopped answering"),
            Self::Refused => format!("{server} refused the connection"),
            Self::Reset => format!("{server} reset the connection"),
            Self::NoRoute => format!("no route to {server}"),
            Self::BrokenGzip => format!("the answer of {server} is broken gzip"),
            Self::NoConnection(why) => format!("no connection to {server}: {why}"),
            Self::BrokeOff(why) => format!("the connection to {server} broke off: {why}"),
        }
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
        other if is_ca_itself(other) => "is a CA's own, which no server may show".to_owned(),
        other => format!("is not accepted: {other}"),
    }
}

/// Whether the server showed a CA's own certificate. The word is webpki's; rustls
/// has none for it.
pub(crate) fn is_ca_itself(error: &CertificateError) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

/// rustls names them as `DnsName("x")`, `IpAddress(x)`.
pub(crate) fn name_alone(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

pub(crate) fn day(time: &UnixTime) -> String {
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
