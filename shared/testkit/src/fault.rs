//! What can go wrong between a cluster and who asks it.

use std::{convert::Infallible, iter, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{api::Answer, payload};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// No fault makes more than this, packed or not: a test is no attack.
const MOST_BYTES: u64 = 1 << 30;

/// Deeper than any parser follows, and still quick to make.
const MOST_DEPTH: usize = 1_000_000;

/// What goes wrong.
///
/// As JSON: `"reset"`, `{"status": {"code": 503, "retryAfter": "7"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// Nobody listens: connections are refused, open ones are closed. Holds
    /// until it is cleared; it can't be counted or bound to a path.
    Refuse,
    /// Connections are accepted, and then nothing: TLS never begins. Counted in
    /// connections; not bound to a path.
    NoHandshake,
    /// The port speaks plain HTTP. Counted in connections; not bound to a path.
    NotTls,
    /// The connection is reset instead of an answer.
    Reset,
    /// The request is read and never answered.
    Silence,
    /// The right answer, so much later.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The right answer, a byte at a time.
    Trickle {
        /// Milliseconds between two bytes.
        #[serde(default = "a_second")]
        every_ms: u64,
    },
    /// A 200 whose body begins like JSON and never ends.
    Endless,
    /// A 200 with so large a body, of valid JSON, its length announced.
    Huge {
        /// Bytes.
        bytes: u64,
    },
    /// The right answer, cut off in the middle by the end of the connection.
    Truncated,
    /// A `Status` with this code.
    Status {
        /// The HTTP status.
        code: u16,
        /// `Retry-After`, as it is sent.
        #[serde(default)]
        retry_after: Option<String>,
    },
    /// A 200 with a web page, as a login proxy answers.
    Html,
    /// A 200 with no body at all.
    Empty,
    /// The right answer, half of it: well-formed HTTP, broken JSON.
    BrokenJson,
    /// A 200 with another kind of object.
    WrongKind,
    /// The right answer, said to be something else than JSON.
    WrongContentType,
    /// The right kind, everything in it null.
    Nulls,
    /// A body that unpacks to so many bytes, whether packing was asked for or not.
    GzipBody {
        /// Bytes.
        bytes: u64,
    },
    /// The right answer, its release payloads unpacking to so many bytes.
    GzipPayload {
        /// Bytes.
        bytes: u64,
    },
    /// A 200 with so deeply nested a body.
    DeepNesting {
        /// How many brackets.
        depth: usize,
    },
    /// A 200 of JSON with exactly this body.
    Body {
        /// The body.
        text: String,
    },
    /// A 302 to there.
    Redirect {
        /// The `Location`.
        location: String,
    },
}

const fn a_second() -> u64 {
    1000
}

impl Fault {
    /// Whether it spoils connections, not requests.
    pub(crate) fn is_of_connections(&self) -> bool {
        matches!(self, Self::Refuse | Self::NoHandshake | Self::NotTls)
    }
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Abort {
    #[error("reset as told")]
    Reset,
}

/// A fault that waits for its requests.
#[derive(Debug)]
struct Armed {
    fault: Fault,
    /// How many more; `None`: all.
    left: Option<u32>,
    /// A path, or the beginning of one before a star; `None`: all.
    path: Option<String>,
}

/// The faults that were armed, in order. The first that fits is used.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Armed>);

impl Faults {
    pub(crate) fn arm(&mut self, fault: Fault, times: Option<u32>, path: Option<String>) {
        self.0.push(Armed { fault, left: times, path });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn for_connection(&mut self) -> Option<Fault> {
        self.take(|it| it.fault.is_of_connections())
    }

    pub(crate) fn for_request(&mut self, path: &str) -> Option<Fault> {
        self.take(|it| {
            let fits = it.path.as_deref().is_none_or(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => path.starts_with(beginning),
                None => path == pattern,
            });
            fits && !it.fault.is_of_connections()
        })
    }

    fn take(&mut self, fits: impl Fn(&Armed) -> bool) -> Option<Fault> {
        let index = self.0.iter().position(|it| it.left != Some(0) && fits(it))?;
        let armed = self.0.get_mut(index)?;
        armed.left = armed.left.map(|it| it - 1);
        let fault = armed.fault.clone();
        self.0.retain(|it| it.left != Some(0));
        Some(fault)
    }
}

/// The answer as it leaves the server.
pub(crate) async fn spoiled(fault: Option<Fault>, answer: Answer) -> Result<Response<Body>, Abort> {
    let Some(fault) = fault else { return Ok(sent(answer)) };
    Ok(match fault {
        // Those of connections never come this far.
        Fault::Refuse | Fault::NoHandshake | Fault::NotTls | Fault::Reset => return Err(Abort::Reset),
        Fault::Silence => std::future::pending().await,
        Fault::Delay { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            sent(answer)
        }
        Fault::Trickle { every_ms } => trickle(answer, Duration::from_millis(every_ms)),
        Fault::Endless => endless(),
        Fault::Huge { bytes } => huge(bytes.min(MOST_BYTES)),
        Fault::Truncated => truncated(answer),
        Fault::Status { code, retry_after } => {
            let mut response = sent(Answer::status(code, reason(code), "told to fail", None));
            if let Some(value) = retry_after.and_then(|it| HeaderValue::try_from(it).ok()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
            response
        }
        Fault::Html => sent(Answer {
            content_type: "text/html; charset=utf-8",
            body:
                b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><form></form></body></html>"
                    .to_vec(),
            ..ok()
        }),
        Fault::Empty => sent(ok()),
        Fault::BrokenJson => {
            let half = answer.body.len() / 2;
            sent(Answer { body: answer.body.into_iter().take(half).collect(), ..ok() })
        }
        Fault::WrongKind => sent(Answer::json(
            200,
            &json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "x"}, "data": {"a": "b"}}),
        )),
        Fault::WrongContentType => {
            sent(Answer { content_type: "application/vnd.kubernetes.protobuf", ..answer })
        }
        Fault::Nulls => sent(Answer::json(200, &nulls(&answer.body))),
        Fault::GzipBody { bytes } => {
            let body = payload::gzip_of(br#"{"padding":""#, bytes.min(MOST_BYTES));
            let mut response = sent(Answer { body, ..ok() });
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
        Fault::GzipPayload { bytes } => sent(bombed(answer, bytes.min(MOST_BYTES))),
        Fault::DeepNesting { depth } => {
            let depth = depth.min(MOST_DEPTH);
            let body =
                format!("{{\"kind\":\"HelmRelease\",\"spec\":{}{}}}\n", "[".repeat(depth), "]".repeat(depth));
            sent(Answer { body: body.into_bytes(), ..ok() })
        }
        Fault::Body { text } => sent(Answer { body: text.into_bytes(), ..ok() }),
        Fault::Redirect { location } => {
            let mut response = sent(Answer { status: 302, ..ok() });
            if let Ok(location) = HeaderValue::try_from(location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
    })
}

/// The headers of a real answer around a body.
fn sent(answer: Answer) -> Response<Body> {
    with_body(&answer, Full::new(Bytes::from(answer.body.clone())).boxed_unsync())
}

fn with_body(answer: &Answer, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    if answer.status == 403 || answer.content_type.starts_with("text/plain") {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

fn ok() -> Answer {
    Answer { status: 200, content_type: "application/json", body: Vec::new() }
}

fn trickle(answer: Answer, every: Duration) -> Response<Body> {
    let length = answer.body.len();
    let headers = Answer { body: Vec::new(), ..answer };
    let bytes = stream::unfold(answer.body.into_iter(), move |mut left| async move {
        let byte = left.next()?;
        tokio::time::sleep(every).await;
        Some((Ok(Frame::data(Bytes::copy_from_slice(&[byte]))), left))
    });
    let mut response = with_body(&headers, StreamBody::new(bytes).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

fn huge(bytes: u64) -> Response<Body> {
    const PIECE: &[u8] = &[b'a'; 64 * 1024];
    const START: &[u8] = br#"{"padding":""#;
    const END: &[u8] = b"\"}";
    let padding = usize::try_from(bytes).unwrap_or_default().saturating_sub(START.len() + END.len());
    let pieces = iter::repeat_n(PIECE, padding / PIECE.len()).chain(PIECE.get(..padding % PIECE.len()));
    let all = iter::once(START).chain(pieces).chain(iter::once(END));
    let frames = all.map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
    let mut response = with_body(&ok(), StreamBody::new(stream::iter(frames)).boxed_unsync());
    let length = START.len() + padding + END.len();
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

fn endless() -> Response<Body> {
    let chunks = stream::unfold(true, |first| async move {
        // Leaves the thread to others even where the reader is as quick.
        tokio::task::yield_now().await;
        let chunk = if first {
            Bytes::from_static(
                br#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","items":["#,
            )
        } else {
            Bytes::from_static(&[b' '; 16 * 1024])
        };
        Some((Ok(Frame::data(chunk)), false))
    });
    with_body(&ok(), StreamBody::new(chunks).boxed_unsync())
}

fn truncated(answer: Answer) -> Response<Body> {
    let length = answer.body.len();
    let half: Vec<u8> = answer.body.iter().copied().take(length / 2).collect();
    let headers = Answer { body: Vec::new(), ..answer };
    // The announced length is never reached: the server gives up the connection,
    // a moment after the half has left it.
    let body = stream::unfold(Some(half), |half| async move {
        let Some(half) = half else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return None;
        };
        Some((Ok(Frame::data(Bytes::from(half))), None))
    });
    let mut response = with_body(&headers, StreamBody::new(body).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

fn nulls(body: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(body).unwrap_or_default();
    match value.as_object_mut() {
        Some(fields) => {
            let rest = fields.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion"));
            rest.for_each(|(_, field)| *field = Value::Null);
            value
        }
        None => Value::Null,
    }
}

fn bombed(answer: Answer, bytes: u64) -> Answer {
    let Ok(mut list) = serde_json::from_slice::<Value>(&answer.body) else { return answer };
    let items = list.get_mut("items").and_then(Value::as_array_mut);
    let payloads = items.into_iter().flatten().filter_map(|it| it.pointer_mut("/data/release"));
    let bomb = Value::String(payload::bomb(bytes));
    payloads.for_each(|it| *it = bomb.clone());
    Answer::json(answer.status, &list)
}

fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_used_up_by_the_requests_that_it_fits() {
        let mut faults = Faults::default();
        faults.arm(Fault::Reset, Some(2), Some("/version".to_owned()));
        faults.arm(Fault::Html, None, Some("/apis/*".to_owned()));
        assert_eq!(faults.for_request("/version/"), None);
        assert_eq!(faults.for_request("/version"), Some(Fault::Reset));
        assert_eq!(faults.for_request("/version"), Some(Fault::Reset));
        assert_eq!(faults.for_request("/version"), None);
        assert_eq!(faults.for_request("/apis/x"), Some(Fault::Html));
        assert_eq!(faults.for_connection(), None);
        faults.clear();
        assert_eq!(faults.for_request("/apis/x"), None);
    }

    #[test]
    fn faults_are_written_as_in_the_readme() {
        let read = |text: &str| serde_json::from_str::<Fault>(text).map_err(|error| error.to_string());
        assert_eq!(read(r#""reset""#), Ok(Fault::Reset));
        assert_eq!(
            read(r#"{"status":{"code":503,"retryAfter":"7"}}"#),
            Ok(Fault::Status { code: 503, retry_after: Some("7".to_owned()) })
        );
        assert_eq!(read(r#"{"trickle":{}}"#), Ok(Fault::Trickle { every_ms: 1000 }));
        assert!(read(r#""fire""#).unwrap_err().contains("unknown variant"));
    }
}
