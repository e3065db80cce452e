//! AWS as the tests play it: canned answers, and what was asked.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    config::http::{HttpRequest, HttpResponse},
    types::AttributeValue,
};
use aws_smithy_http_client::test_util::{ReplayEvent, StaticReplayClient};
use aws_smithy_types::body::SdkBody;
use monitor::ports::StoreError;
use serde_json::Value;

use super::{Access, Aws};

/// How the tests reach AWS: nowhere.
pub(crate) fn access() -> Access {
    Access {
        region: "eu-central-1".to_owned(),
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: "secret-key".to_owned().into(),
        session_token: Some("session-token".to_owned().into()),
        endpoint_url: None,
    }
}

/// What was asked.
pub(crate) struct Wire(StaticReplayClient);

/// An AWS that answers so, in this order: status and JSON body.
pub(crate) fn answering(answers: Vec<(u16, Value)>) -> (Aws, Wire) {
    saying(answers.into_iter().map(|(status, body)| (status, body.to_string())).collect())
}

/// The same with bodies as they are, for what doesn't speak JSON.
pub(crate) fn saying(answers: Vec<(u16, String)>) -> (Aws, Wire) {
    let event = |(status, body): (u16, String)| {
        let answer = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        ReplayEvent::new(HttpRequest::new(SdkBody::empty()), answer)
    };
    let client = StaticReplayClient::new(answers.into_iter().map(event).collect());
    let http = aws_sdk_dynamodb::config::SharedHttpClient::new(client.clone());
    (Aws::with_http_client(&access(), http), Wire(client))
}

impl Wire {
    /// The operations and bodies, in order.
    pub(crate) fn requests(&self) -> Vec<(String, Value)> {
        let read = |request: &HttpRequest| {
            let target = request.headers().get("x-amz-target").unwrap_or_default();
            let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
            (operation, serde_json::from_slice(request.body().bytes().unwrap()).unwrap())
        };
        self.0.actual_requests().map(read).collect()
    }

    /// The body of the only request.
    pub(crate) fn request(&self, operation: &str) -> Value {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        let (asked, body) = requests.remove(0);
        assert_eq!(asked, operation);
        body
    }

    /// The operations, in order.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.requests().into_iter().map(|(operation, _)| operation).collect()
    }

    /// The header of the first request.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.0.actual_requests().next()?.headers().get(name).map(str::to_owned)
    }

    /// Method, address and body of each request, in order.
    pub(crate) fn texts(&self) -> Vec<(String, String, String)> {
        let read = |request: &HttpRequest| {
            let body = String::from_utf8(request.body().bytes().unwrap().to_vec()).unwrap();
            (request.method().to_owned(), request.uri().to_owned(), body)
        };
        self.0.actual_requests().map(read).collect()
    }

    /// Who signed each request, and for what: the credential's scope.
    pub(crate) fn credentials(&self) -> Vec<String> {
        let read = |request: &HttpRequest| {
            let header = request.headers().get("authorization").unwrap_or_default();
            let scope = header.split("Credential=").nth(1).and_then(|rest| rest.split(',').next());
            scope.unwrap_or_default().to_owned()
        };
        self.0.actual_requests().map(read).collect()
    }

    /// The address of the first request.
    pub(crate) fn uri(&self) -> String {
        self.0.actual_requests().next().unwrap().uri().to_owned()
    }
}

/// A refusal in the JSON protocols.
pub(crate) fn refusal(code: &str, message: &str) -> Value {
    serde_json::json!({"__type": format!("com.amazonaws#{code}"), "message": message})
}

/// The whole of an error, as the boundary logs it and as a careless `{:?}` would.
pub(crate) fn told(error: &StoreError) -> String {
    let mut text = format!("{error}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    format!("{text}\n{error:?}")
}

/// Whether the same call may succeed later.
pub(crate) fn is_transient<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    match result {
        Err(StoreError::Transient(..)) => true,
        Err(StoreError::Broken { .. } | StoreError::Told(_)) => false,
        Ok(value) => panic!("{value:?}"),
    }
}

/// Values that nobody writes into an item.
pub(crate) fn odd() -> Vec<AttributeValue> {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let number = |text: &str| AttributeValue::N(text.to_owned());
    let mut odd = vec![AttributeValue::Null(true), AttributeValue::Bool(true), AttributeValue::L(Vec::new())];
    odd.push(AttributeValue::M(HashMap::new()));
    odd.extend(["", "\0", "[]", "[null]", "{}", "9999-12-31T23:59:60Z"].map(text));
    odd.extend(["-1", "0.5", "18446744073709551616", "1e125", "NaN", ""].map(number));
    odd
}
