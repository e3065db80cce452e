//! The key that callers of the local server show: 256 random bits, which are printed
//! once and kept only as their digest.

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, rand};
use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
/// What everybody may read: the page, which asks for the key, and the API's document.
/// Both are the same everywhere.
const OPEN: [&str; 2] = ["/", "/openapi.json"];

/// A key.
#[derive(Debug)]
pub(crate) struct AccessKey(SecretString);

/// Its SHA-256. Of 256 random bits nobody guesses any, so nothing slower is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest([u8; digest::SHA256_OUTPUT_LEN]);

impl AccessKey {
    /// Another one; `None` where there is no randomness.
    pub(crate) fn make() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *bytes).ok()?;
        Some(Self(SecretString::from(BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice()))))
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.shown())
    }

    /// As it is printed and sent: it needs no quoting anywhere.
    pub(crate) fn shown(&self) -> &str {
        self.0.expose_secret()
    }

    /// What stands in the header `Authorization`.
    pub(crate) fn bearer(&self) -> SecretString {
        SecretString::from(format!("Bearer {}", self.shown()))
    }
}

impl Digest {
    fn of(text: &str) -> Self {
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        Self(bytes)
    }

    /// One that was kept; `None` where it is none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the headers show the key, in a time that does not depend on how near they come.
    fn is_shown(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let one = values.next().filter(|_| values.next().is_none()).and_then(|it| it.to_str().ok());
        one.and_then(|it| it.split_once(' ')).is_some_and(|(scheme, key)| {
            scheme.eq_ignore_ascii_case("bearer")
                && verify_slices_are_equal(&Self::of(key.trim()).0, &self.0).is_ok()
        })
    }
}

/// Lets a request through that shows the key, or refuses it with 401 and what to do, in
/// the form in which the API tells of problems.
pub(crate) async fn authorize(State(digest): State<Digest>, request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) || digest.is_shown(request.headers()) {
        return next.run(request).await;
    }
    let came = if request.headers().contains_key(header::AUTHORIZATION) {
        "the key in the header Authorization is not this server's"
    } else {
        "the request shows no key"
    };
    let problem = json!({
        "type": "urn:dag-monitor:problem:unauthorized",
        "title": "The key is missing or wrong",
        "status": StatusCode::UNAUTHORIZED.as_u16(),
        "detail": format!(
            "{came}; send `Authorization: Bearer KEY` with the key that `dag-monitor serve` printed at its \
             first start, or start it with --new-key for another"
        ),
    });
    let mut response = (StatusCode::UNAUTHORIZED, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"dag-monitor\""));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_the_key_is_let_in_and_only_once() {
        let key = AccessKey::make().unwrap();
        let other = AccessKey::make().unwrap();
        let shown = key.shown();
        assert_eq!(shown.len(), 43, "256 bits");
        let digest = key.digest();
        for right in [format!("Bearer {shown}"), format!("bearer {shown}"), format!("Bearer  {shown} ")] {
            assert!(digest.is_shown(&headers(&[&right])), "{right}");
        }
        let right = format!("Bearer {shown}");
        for wrong in [
            shown.to_owned(),
            format!("Basic {shown}"),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer {}", &shown[1..]),
            format!("Bearer {shown}A"),
            format!("Bearer {shown} {shown}"),
            format!("Bearer {}", other.shown()),
            format!("Bearer {}", BASE64_URL_SAFE_NO_PAD.encode(digest.bytes())),
        ] {
            assert!(!digest.is_shown(&headers(&[&wrong])), "{wrong}");
        }
        assert!(!digest.is_shown(&headers(&[])));
        assert!(!digest.is_shown(&headers(&[&right, &right])));
    }

    #[test]
    fn nothing_prints_it() {
        let key = AccessKey::make().unwrap();
        assert!(!format!("{key:?}{:?}", key.digest()).contains(key.shown()));
    }

    #[test]
    fn what_was_kept_is_read() {
        let digest = AccessKey::make().unwrap().digest();
        assert_eq!(Digest::read(digest.bytes()), Some(digest));
        assert_eq!(Digest::read(b"short"), None);
    }
}
