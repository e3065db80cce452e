//! Reading a body: JSON in, fields and everything wrong with them out.
//!
//! serde's derive would stop at the first wrong field, lets the last of two equal
//! keys win where it collects a map, and quotes what it finds. All fields are
//! strings, so reading them by hand is short, and each value is a `SecretString`
//! from the moment it leaves the parser: what is a token is known only later.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, rejection::BytesRejection, rejection::FailedToBufferBody},
    http::header,
};
use monitor::{
    register::{Change, NewCluster},
    request::Refusal,
};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::problem::{Kind, Problem};

/// The longest body: what Secrets Manager can keep, beside which everything else is little.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// How many fields are refused at once. A body of refusals alone must not come back longer.
const MAX_REFUSALS: usize = 20;

/// The longest part of an unknown field's name that is shown.
const MAX_SHOWN_CHARS: usize = 60;

const NAME: &str = "name";
const API_URL: &str = "apiUrl";
const TOKEN: &str = "serviceAccountToken";
const CA_CERT: &str = "caCert";
const TLS_SERVER_NAME: &str = "tlsServerName";

/// The fields of a body.
pub(crate) struct Body {
    fields: BTreeMap<String, Given>,
    refusals: Vec<Refusal>,
}

enum Given {
    Text(SecretString),
    Null,
    /// Something that no field may be.
    Other(&'static str),
}

impl Body {
    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.trim_ascii().is_empty() {
            return Err(Problem::new(Kind::Malformed, "the body is empty; a JSON object is awaited"));
        }
        let Top(top) = serde_json::from_slice(bytes).map_err(|error| {
            // The parser's own words may quote the body.
            let what = if error.is_eof() { "ends before it is complete" } else { "is not JSON" };
            let (line, column) = (error.line(), error.column());
            Problem::new(Kind::Malformed, format!("the body {what}: line {line}, column {column}"))
        })?;
        top.map_err(|kind| Problem::invalid(vec![refusal("", format!("{kind} came; an object is awaited"))]))
    }

    /// A registration, and what is wrong with the body's form.
    pub(crate) fn new_cluster(mut self) -> (NewCluster, Vec<Refusal>) {
        let new = NewCluster {
            name: self.text(NAME).as_ref().map(plain),
            api_url: self.text(API_URL).as_ref().map(plain),
            service_account_token: self.text(TOKEN),
            ca_cert: self.optional(CA_CERT).flatten().as_ref().map(plain),
            tls_server_name: self.optional(TLS_SERVER_NAME).flatten().as_ref().map(plain),
        };
        (new, self.rest(&[NAME, API_URL, TOKEN, CA_CERT, TLS_SERVER_NAME]))
    }

    /// A change, and what is wrong with the body's form.
    pub(crate) fn change(mut self) -> (Change, Vec<Refusal>) {
        if self.fields.remove(NAME).is_some() {
            self.refuse(NAME, "the name is fixed; register the cluster anew under another one");
        }
        let change = Change {
            api_url: self.text(API_URL).as_ref().map(plain),
            service_account_token: self.text(TOKEN),
            ca_cert: self.optional(CA_CERT).map(|it| it.as_ref().map(plain)),
            tls_server_name: self.optional(TLS_SERVER_NAME).map(|it| it.as_ref().map(plain)),
        };
        (change, self.rest(&[API_URL, TOKEN, CA_CERT, TLS_SERVER_NAME]))
    }

    fn text(&mut self, field: &str) -> Option<SecretString> {
        let kind = match self.fields.remove(field)? {
            Given::Text(text) => return Some(text),
            Given::Null => "null",
            Given::Other(kind) => kind,
        };
        self.refuse(field, format!("{kind} came; a string is awaited"));
        None
    }

    fn optional(&mut self, field: &str) -> Option<Option<SecretString>> {
        match self.fields.remove(field)? {
            Given::Text(text) => Some(Some(text)),
            Given::Null => Some(None),
            Given::Other(kind) => {
                self.refuse(field, format!("{kind} came; a string or null is awaited"));
                None
            }
        }
    }

    fn rest(mut self, known: &[&str]) -> Vec<Refusal> {
        for field in std::mem::take(&mut self.fields).into_keys() {
            self.refuse(&field, format!("this field is unknown; known are {}", known.join(", ")));
        }
        self.refusals
    }

    fn refuse(&mut self, field: &str, detail: impl Into<String>) {
        if self.refusals.len() < MAX_REFUSALS {
            let shown: String = field.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect();
            let pointer = format!("/{}", shown.replace('~', "~0").replace('/', "~1"));
            self.refusals.push(refusal(pointer, detail));
        }
    }
}

fn refusal(pointer: impl Into<String>, detail: impl Into<String>) -> Refusal {
    Refusal { pointer: pointer.into(), detail: detail.into() }
}

/// Of a field that is no secret.
fn plain(text: &SecretString) -> String {
    text.expose_secret().to_owned()
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let essence = content_type.and_then(|it| it.split(';').next()).map(str::trim);
        if !essence.is_some_and(|it| it.eq_ignore_ascii_case("application/json")) {
            return Err(Problem::new(
                Kind::UnsupportedMediaType,
                "the body must be application/json, and say so",
            ));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
                Problem::new(Kind::TooLarge, format!("the body is longer than {MAX_BODY_BYTES} bytes"))
            }
            _ => Problem::new(Kind::Malformed, "the body could not be read to its end"),
        })?;
        Self::parse(&bytes)
    }
}

/// The whole body: an object's fields, or what came in its place.
struct Top(Result<Body, &'static str>);

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Top;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top, A::Error> {
                let mut body = Body { fields: BTreeMap::new(), refusals: Vec::new() };
                while let Some((field, given)) = map.next_entry::<String, Given>()? {
                    match body.fields.entry(field) {
                        Entry::Vacant(vacant) => {
                            vacant.insert(given);
                        }
                        Entry::Occupied(first) => {
                            let field = first.key().clone();
                            body.refuse(&field, "it came more than once");
                        }
                    }
                }
                Ok(Top(Ok(body)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Top, A::Error> {
                drain(seq).map(|()| Top(Err("an array")))
            }

            fn visit_str<E>(self, _: &str) -> Result<Top, E> {
                Ok(Top(Err("a string")))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Top, E> {
                Ok(Top(Err("a boolean")))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Top, E> {
                Ok(Top(Err("a number")))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Top, E> {
                Ok(Top(Err("a number")))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Top, E> {
                Ok(Top(Err("a number")))
            }

            fn visit_unit<E>(self) -> Result<Top, E> {
                Ok(Top(Err("null")))
            }
        }

        deserializer.deserialize_any(Fields)
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl<'de> Visitor<'de> for Value {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Given, E> {
                Ok(Given::Text(text.into()))
            }

            fn visit_unit<E>(self) -> Result<Given, E> {
                Ok(Given::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Given, E> {
                Ok(Given::Other("a boolean"))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Given, E> {
                Ok(Given::Other("a number"))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Given, E> {
                Ok(Given::Other("a number"))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Given, E> {
                Ok(Given::Other("a number"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Given, A::Error> {
                drain(seq).map(|()| Given::Other("an array"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Given::Other("an object"))
            }
        }

        deserializer.deserialize_any(Value)
    }
}

fn drain<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}
