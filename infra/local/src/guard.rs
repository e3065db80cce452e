//! Who may ask the server at all: programs on this machine, and no web page but its own;
//! the key comes after. A page of another site can send requests to 127.0.0.1 from this
//! machine's browser; it can't do so without an `Origin` where it changes something,
//! and where it has its own name resolve to 127.0.0.1 (DNS rebinding), `Host` tells.

use std::net::IpAddr;

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde_json::json;

/// Lets a request through, or refuses it with 403 and a sentence, in the form in
/// which API Gateway refuses.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    match refusal(request.uri().authority(), request.headers()) {
        None => next.run(request).await,
        Some(why) => (StatusCode::FORBIDDEN, Json(json!({"message": why}))).into_response(),
    }
}

fn refusal(named: Option<&Authority>, headers: &HeaderMap) -> Option<&'static str> {
    const NO_HOST: &str =
        "this server answers to 127.0.0.1 and localhost only; the header Host names none of them";
    const NO_ORIGIN: &str = "a page of another site may not ask this server; the header Origin names one";
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        // None of them, or more than one, is none that can be relied upon.
        values.next().filter(|_| values.next().is_none()).and_then(|it| it.to_str().ok())
    };
    let Some(host) = one(header::HOST).filter(|host| is_loopback(host)) else {
        return Some(NO_HOST);
    };
    if named.is_some_and(|it| !is_loopback(it.as_str())) {
        return Some(NO_HOST);
    }
    if !headers.contains_key(header::ORIGIN) {
        return None;
    }
    let same = one(header::ORIGIN).and_then(|it| it.strip_prefix("http://"));
    same.is_none_or(|origin| !origin.eq_ignore_ascii_case(host)).then_some(NO_ORIGIN)
}

/// Whether `host[:port]` is this machine without asking a resolver.
fn is_loopback(authority: &str) -> bool {
    // A user before the host is no part of a Host header, and a way to fool readers of one.
    let Some(authority) = authority.parse::<Authority>().ok().filter(|it| !it.as_str().contains('@')) else {
        return false;
    };
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn refused(headers: &[(header::HeaderName, &str)]) -> Option<&'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        refusal(None, &map)
    }

    #[test]
    fn only_this_machine_is_a_host() {
        for host in ["127.0.0.1:8480", "localhost:8480", "LOCALHOST", "[::1]:8480", "127.0.0.1"] {
            assert_eq!(refused(&[(header::HOST, host)]), None, "{host}");
        }
        for host in [
            "evil.example:8480",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "0.0.0.0:8480",
            "10.0.0.1",
            "2130706433",
            "",
        ] {
            assert!(refused(&[(header::HOST, host)]).is_some(), "{host}");
        }
        assert!(refused(&[]).is_some());
        let twice = [(header::HOST, "127.0.0.1"), (header::HOST, "127.0.0.1")];
        assert!(refused(&twice).is_some());
    }

    #[test]
    fn the_address_in_the_request_line_is_a_host_too() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8480"));
        let of = |authority: &'static str| refusal(Some(&Authority::from_static(authority)), &headers);
        assert_eq!(of("127.0.0.1:8480"), None);
        assert!(of("evil.example").is_some());
    }

    #[test]
    fn only_its_own_pages_are_an_origin() {
        let host = (header::HOST, "127.0.0.1:8480");
        assert_eq!(refused(&[host.clone(), (header::ORIGIN, "http://127.0.0.1:8480")]), None);
        for origin in [
            "http://evil.example",
            "https://127.0.0.1:8480",
            "http://127.0.0.1:3000",
            "http://localhost:8480",
            "null",
            "",
        ] {
            assert!(refused(&[host.clone(), (header::ORIGIN, origin)]).is_some(), "{origin}");
        }
        let own = (header::ORIGIN, "http://127.0.0.1:8480");
        assert!(refused(&[host, own.clone(), own]).is_some());
    }
}
