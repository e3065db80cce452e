//! Reading a body: JSON in, fields and everything wrong with them out.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, rejection::BytesRejection, rejection::FailedToBufferBody},
    http::header,
};
use monitor::{
    register::{Change, NewCluster, NewEks},
    request::Refusal,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::Zeroize as _;

use crate::{
    json::{self, Node, Refusals},
    problem::{Kind, Problem},
};

/// The longest body: what Secrets Manager can keep, beside which everything else is little.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

const NAME: &str = "name";
const API_URL: &str = "apiUrl";
const TOKEN: &str = "serviceAccountToken";
const CA_CERT: &str = "caCert";
const TLS_SERVER_NAME: &str = "tlsServerName";
const NAMESPACES: &str = "namespaces";
const AUTH: &str = "auth";
const EKS: &str = "eks";
const EKS_CLUSTER_NAME: &str = "clusterName";
const EKS_REGION: &str = "region";
const EKS_ROLE_ARN: &str = "roleArn";

/// A body that is JSON.
pub(crate) struct Body {
    top: Node,
    refusals: Refusals,
}

impl Body {
    /// A registration, and what is wrong with the body's form.
    ///
    /// # Errors
    /// The problem with what is no object.
    pub(crate) fn new_cluster(self) -> Result<(NewCluster, Vec<Refusal>), Problem> {
        let mut fields = Fields::of(self)?;
        let new = NewCluster {
            name: fields.text(NAME).as_ref().map(plain),
            api_url: fields.text(API_URL).as_ref().map(plain),
            service_account_token: fields.text(TOKEN),
            ca_cert: fields.optional(CA_CERT).flatten().as_ref().map(plain),
            tls_server_name: fields.optional(TLS_SERVER_NAME).flatten().as_ref().map(plain),
            namespaces: fields.list(NAMESPACES).flatten(),
            eks: fields.eks(true),
        };
        let known = [NAME, API_URL, TOKEN, CA_CERT, TLS_SERVER_NAME, NAMESPACES, AUTH];
        Ok((new, fields.end(&known)))
    }

    /// A change, and what is wrong with the body's form.
    ///
    /// # Errors
    /// The problem with what is no object.
    pub(crate) fn change(self) -> Result<(Change, Vec<Refusal>), Problem> {
        let mut fields = Fields::of(self)?;
        if fields.take(NAME).is_some() {
            fields.refuse(NAME, "the name is fixed; register the cluster anew under another one");
        }
        let change = Change {
            api_url: fields.text(API_URL).as_ref().map(plain),
            service_account_token: fields.text(TOKEN),
            ca_cert: fields.optional(CA_CERT).map(|it| it.as_ref().map(plain)),
            tls_server_name: fields.optional(TLS_SERVER_NAME).map(|it| it.as_ref().map(plain)),
            namespaces: fields.list(NAMESPACES),
            eks: fields.eks(false),
        };
        let known = [API_URL, TOKEN, CA_CERT, TLS_SERVER_NAME, NAMESPACES, AUTH];
        Ok((change, fields.end(&known)))
    }

    /// All of it, where it holds no secret, and which keys came more than once.
    pub(crate) fn value(self) -> (Value, Vec<Refusal>) {
        (self.top.into(), self.refusals.into_vec())
    }
}

/// The fields of an object that are not yet read.
struct Fields {
    at: &'static str,
    fields: BTreeMap<String, Node>,
    refusals: Refusals,
}

impl Fields {
    fn of(Body { top, refusals }: Body) -> Result<Self, Problem> {
        match top {
            Node::Object(fields) => Ok(Self { at: "", fields, refusals }),
            other => {
                let detail = format!("{} came; an object is awaited", other.kind());
                Err(Problem::invalid(vec![Refusal { pointer: String::new(), detail }]))
            }
        }
    }

    fn take(&mut self, field: &str) -> Option<Node> {
        self.fields.remove(field)
    }

    fn refuse(&mut self, field: &str, detail: impl Into<String>) {
        self.refusals.field(self.at, field, detail);
    }

    fn refuse_kind(&mut self, field: &str, came: &Node, awaited: &str) {
        self.refuse(field, format!("{} came; {awaited} is awaited", came.kind()));
    }

    fn text(&mut self, field: &str) -> Option<SecretString> {
        match self.take(field)? {
            Node::Text(text) => Some(text),
            other => {
                self.refuse_kind(field, &other, "a string");
                None
            }
        }
    }

    fn optional(&mut self, field: &str) -> Option<Option<SecretString>> {
        match self.take(field)? {
            Node::Text(text) => Some(Some(text)),
            Node::Null => Some(None),
            other => {
                self.refuse_kind(field, &other, "a string or null");
                None
            }
        }
    }

    /// A list of strings or `null`.
    fn list(&mut self, field: &str) -> Option<Option<Vec<String>>> {
        let items = match self.take(field)? {
            Node::List(items) => items,
            Node::Null => return Some(None),
            other => {
                self.refuse_kind(field, &other, "a list of strings or null");
                return None;
            }
        };
        let mut texts = Vec::with_capacity(items.len());
        let mut whole = true;
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Node::Text(text) => texts.push(plain(&text)),
                other => {
                    whole = false;
                    let detail = format!("{} came; a string is awaited", other.kind());
                    self.refusals.at(format!("{}/{field}/{index}", self.at), detail);
                }
            }
        }
        whole.then_some(Some(texts))
    }

    /// `{"eks": {…}}`. One of a wrong form is given nevertheless, with nothing in it:
    /// whoever tried it is not told that a token is missing.
    fn eks(&mut self, nullable: bool) -> Option<NewEks> {
        let auth = match self.take(AUTH)? {
            Node::Null if nullable => return None,
            Node::Object(fields) => fields,
            Node::Null => {
                self.refuse(
                    AUTH,
                    "null came; an object is awaited. To enter by a token give apiUrl and serviceAccountToken",
                );
                return Some(NewEks::default());
            }
            other => {
                self.refuse_kind(AUTH, &other, "an object");
                return Some(NewEks::default());
            }
        };
        let refusals = std::mem::take(&mut self.refusals);
        let mut auth = Self { at: "/auth", fields: auth, refusals };
        let eks = auth.take(EKS);
        auth.rest(&[EKS]);
        self.refusals = auth.refusals;
        let fields = match eks {
            Some(Node::Object(fields)) => fields,
            other => {
                let came = other.map_or("is missing".to_owned(), |it| format!("{} came", it.kind()));
                let detail = format!("{came}; an object with {EKS_CLUSTER_NAME} and {EKS_REGION} is awaited");
                self.refusals.at("/auth/eks", detail);
                return Some(NewEks::default());
            }
        };
        let refusals = std::mem::take(&mut self.refusals);
        let mut eks = Self { at: "/auth/eks", fields, refusals };
        let new = NewEks {
            cluster_name: eks.text(EKS_CLUSTER_NAME).as_ref().map(plain),
            region: eks.text(EKS_REGION).as_ref().map(plain),
            role_arn: eks.optional(EKS_ROLE_ARN).flatten().as_ref().map(plain),
        };
        eks.rest(&[EKS_CLUSTER_NAME, EKS_REGION, EKS_ROLE_ARN]);
        self.refusals = eks.refusals;
        Some(new)
    }

    /// Refuses what was not read.
    fn rest(&mut self, known: &[&str]) {
        for field in std::mem::take(&mut self.fields).into_keys() {
            self.refuse(&field, format!("this field is unknown; known are {}", known.join(", ")));
        }
    }

    fn end(mut self, known: &[&str]) -> Vec<Refusal> {
        self.rest(known);
        self.refusals.into_vec()
    }
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
        let read = json::read(&bytes);
        wipe(bytes);
        let (top, refusals) = read?;
        Ok(Self { top, refusals })
    }
}

/// Wipes what held a token. In the function the body is ours alone; a server's
/// buffer, which may already hold the next request, is its own to wipe.
fn wipe(bytes: Bytes) -> bool {
    match bytes.try_into_mut() {
        Ok(mut bytes) => {
            bytes.as_mut().zeroize();
            true
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_alone_is_wiped() {
        assert!(wipe(Bytes::from(b"a token".to_vec())));
        assert!(wipe(Bytes::from("a token".to_owned())));
        let shared = Bytes::from(b"a token and the next request".to_vec());
        assert!(!wipe(shared.slice(..7)));
        assert_eq!(shared, "a token and the next request");
    }

    #[tokio::test]
    async fn the_bodys_buffer_comes_out_of_the_extractor_as_ours_alone() {
        let request = Request::new(axum::body::Body::from("a token".to_owned()));
        assert!(wipe(Bytes::from_request(request, &()).await.unwrap()));
    }
}
