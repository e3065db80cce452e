//! What the fields of a registration may be.

use base64::{Engine, engine::general_purpose};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{Change, MAX_NAME_CHARS, NewCluster};
use crate::{
    cluster::ClusterRow,
    ports::{CaCert, Credentials, RegistrationRules},
    request::Refusal,
    slug::slug,
};

const NAME: &str = "/name";
const API_URL: &str = "/apiUrl";
const TOKEN: &str = "/serviceAccountToken";
const CA_CERT: &str = "/caCert";
const TLS_SERVER_NAME: &str = "/tlsServerName";

/// The longest token. Bound ones are about 1 KiB, and Go's HTTP server, which the
/// API server is, reads at most 1 MiB of headers; a secret holds 64 KiB in all.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How long before its end something is warned of.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What is wrong, field by field.
#[derive(Default)]
struct Refusals(Vec<Refusal>);

impl Refusals {
    fn refuse(&mut self, pointer: &str, detail: impl Into<String>) {
        self.0.push(Refusal { pointer: pointer.to_owned(), detail: detail.into() });
    }

    /// What was found good; what was not is noted.
    fn note<T>(&mut self, pointer: &str, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|detail| self.refuse(pointer, detail)).ok()
    }
}

/// A new cluster, every field checked.
pub(super) struct NewGiven {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) settled: Settled,
}

/// A change, every field checked.
pub(super) struct Given {
    api_url: Option<String>,
    token: Option<SecretString>,
    ca_cert: Option<Option<CaCert>>,
    tls_server_name: Option<Option<String>>,
}

/// What is written: the credentials whole, and what the row shows of them.
pub(super) struct Settled {
    pub(super) credentials: Credentials,
    ca_fingerprint: Option<String>,
    ca_not_after: Option<Timestamp>,
}

impl Settled {
    /// The row, showing these credentials.
    pub(super) fn describe(&self, row: ClusterRow) -> ClusterRow {
        ClusterRow {
            api_url: self.credentials.api_url.clone(),
            tls_server_name: self.credentials.tls_server_name.clone(),
            ca_fingerprint: self.ca_fingerprint.clone(),
            ca_not_after: self.ca_not_after,
            token_expires_at: expiry(&self.credentials.token),
            ..row
        }
    }
}

impl NewGiven {
    pub(super) fn check(
        new: NewCluster,
        rules: &dyn RegistrationRules,
        now: Timestamp,
    ) -> Result<Self, Vec<Refusal>> {
        let mut refusals = Refusals::default();
        let name =
            required(new.name, "1 to 100 characters").and_then(|name| check_name(&name).map(|()| name));
        let name = refusals.note(NAME, name);
        let api_url = required(new.api_url, "an https address").and_then(|url| rules.api_url(&url));
        let api_url = refusals.note(API_URL, api_url);
        let token = required(new.service_account_token, "the token of a service account")
            .and_then(|token| check_token(&token, now).map(|()| token));
        let token = refusals.note(TOKEN, token);
        let ca = new.ca_cert.and_then(|pem| refusals.note(CA_CERT, rules.ca_cert(&pem)));
        let tls_server_name = new
            .tls_server_name
            .and_then(|name| refusals.note(TLS_SERVER_NAME, rules.tls_server_name(&name).map(|()| name)));
        match (name, api_url, token) {
            (Some(name), Some(api_url), Some(token)) if refusals.0.is_empty() => {
                let (ca_cert, ca_fingerprint, ca_not_after) = parts(ca);
                let credentials = Credentials { api_url, token, ca_cert, tls_server_name };
                Ok(Self {
                    id: slug(&name),
                    name,
                    settled: Settled { credentials, ca_fingerprint, ca_not_after },
                })
            }
            _ => Err(refusals.0),
        }
    }
}

impl Given {
    pub(super) fn check(
        change: Change,
        rules: &dyn RegistrationRules,
        now: Timestamp,
    ) -> Result<Self, Vec<Refusal>> {
        let mut refusals = Refusals::default();
        let Change { api_url, service_account_token, ca_cert, tls_server_name } = change;
        if api_url.is_none()
            && service_account_token.is_none()
            && ca_cert.is_none()
            && tls_server_name.is_none()
        {
            refusals.refuse(
                "",
                "nothing came that could be changed; give apiUrl, serviceAccountToken, caCert or tlsServerName",
            );
        }
        let api_url = api_url.and_then(|url| refusals.note(API_URL, rules.api_url(&url)));
        let token = service_account_token
            .and_then(|token| refusals.note(TOKEN, check_token(&token, now).map(|()| token)));
        let ca_cert = ca_cert.map(|pem| pem.and_then(|pem| refusals.note(CA_CERT, rules.ca_cert(&pem))));
        let tls_server_name = tls_server_name.map(|name| {
            name.and_then(|name| refusals.note(TLS_SERVER_NAME, rules.tls_server_name(&name).map(|()| name)))
        });
        if refusals.0.is_empty() {
            Ok(Self { api_url, token, ca_cert, tls_server_name })
        } else {
            Err(refusals.0)
        }
    }

    /// Whether it replaces everything, so that nothing stored is needed.
    pub(super) fn is_complete(&self) -> bool {
        self.api_url.is_some()
            && self.token.is_some()
            && self.ca_cert.is_some()
            && self.tls_server_name.is_some()
    }

    /// The credentials after the change. What is stored and goes to a new
    /// destination is refused; so is filling in what the vault should hold, and does
    /// not, from the row, which is only for showing.
    pub(super) fn settle(
        self,
        stored: Option<Credentials>,
        row: &ClusterRow,
        rules: &dyn RegistrationRules,
    ) -> Result<Settled, Vec<Refusal>> {
        let mut refusals = Refusals::default();
        if let Some(stored) = &stored {
            let new = self.new_destination(stored);
            if !new.is_empty() && self.token.is_none() {
                refusals.refuse(
                    TOKEN,
                    format!(
                        "is missing; another {} needs it in the same request, because a stored token is never \
                         sent to a new destination",
                        new.join(" or ")
                    ),
                );
            }
        } else {
            for (missing, pointer) in [
                (self.api_url.is_none(), API_URL),
                (self.token.is_none(), TOKEN),
                (self.ca_cert.is_none() && row.ca_fingerprint.is_some(), CA_CERT),
                (self.tls_server_name.is_none() && row.tls_server_name.is_some(), TLS_SERVER_NAME),
            ] {
                if missing {
                    refusals.refuse(
                        pointer,
                        "is missing; the stored credentials are gone, so it is needed again",
                    );
                }
            }
        }
        if !refusals.0.is_empty() {
            return Err(refusals.0);
        }
        let (api_url, token, ca_pem, tls_server_name) = match stored {
            Some(it) => (Some(it.api_url), Some(it.token), it.ca_cert, it.tls_server_name),
            None => (None, None, None, None),
        };
        let (Some(api_url), Some(token)) = (self.api_url.or(api_url), self.token.or(token)) else {
            // Refused above, where nothing is stored.
            return Err(refusals.0);
        };
        let (ca_cert, ca_fingerprint, ca_not_after) = match self.ca_cert {
            Some(given) => parts(given),
            // Read once more rather than copied from the row, which a change that broke
            // off may have left behind what the vault holds.
            None => match ca_pem.as_deref().map(|pem| rules.ca_cert(pem)) {
                None => (None, None, None),
                Some(Ok(ca)) => (ca_pem, Some(ca.fingerprint), Some(ca.not_after)),
                // Accepted once, refused by today's rules: not what this change is about.
                Some(Err(_)) => (ca_pem, row.ca_fingerprint.clone(), row.ca_not_after),
            },
        };
        let tls_server_name = self.tls_server_name.unwrap_or(tls_server_name);
        let credentials = Credentials { api_url, token, ca_cert, tls_server_name };
        Ok(Settled { credentials, ca_fingerprint, ca_not_after })
    }

    /// What would lead the stored token elsewhere, or let somebody else answer it.
    fn new_destination(&self, stored: &Credentials) -> Vec<&'static str> {
        let pem = |ca: &Option<CaCert>| ca.as_ref().map(|ca| ca.pem.clone());
        let mut new = Vec::new();
        if self.api_url.as_ref().is_some_and(|url| *url != stored.api_url) {
            new.push("apiUrl");
        }
        if self.ca_cert.as_ref().is_some_and(|ca| pem(ca) != stored.ca_cert) {
            new.push("caCert");
        }
        if self.tls_server_name.as_ref().is_some_and(|name| *name != stored.tls_server_name) {
            new.push("tlsServerName");
        }
        new
    }
}

fn parts(ca: Option<CaCert>) -> (Option<String>, Option<String>, Option<Timestamp>) {
    ca.map_or((None, None, None), |ca| (Some(ca.pem), Some(ca.fingerprint), Some(ca.not_after)))
}

fn required<T>(field: Option<T>, awaited: &str) -> Result<T, String> {
    field.ok_or_else(|| format!("is missing; {awaited} is awaited"))
}

fn check_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if !(1..=MAX_NAME_CHARS).contains(&length) {
        return Err(format!("{length} characters came; 1 to {MAX_NAME_CHARS} are allowed"));
    }
    if name.chars().any(char::is_control) {
        return Err("a control character came; a name has none".to_owned());
    }
    if slug(name).is_empty() {
        return Err("it has neither an ASCII letter nor a digit, so no id can be made of it".to_owned());
    }
    Ok(())
}

/// No detail ever holds a part of the token.
fn check_token(token: &SecretString, now: Timestamp) -> Result<(), String> {
    let text = token.expose_secret();
    let refused = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_TOKEN_BYTES {
        return Err(format!("{} bytes came; at most {MAX_TOKEN_BYTES} are allowed", text.len()));
    } else if text.ends_with(['\n', '\r']) {
        "it ends with a newline, as files and commands often do; give the token alone (`tr -d '\\n'` removes it)"
    } else if text.contains(char::is_whitespace) {
        "it holds a space or a line break; give the token alone, on one line and without \"Bearer\""
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "it holds a control character or one that is not ASCII; no token has any"
    } else if is_encoded_jwt(text) {
        "it is a token encoded in base64 once more, as a Secret carries it; decode it (`base64 -d`)"
    } else {
        return match expiry(token) {
            Some(expiry) if expiry <= now => Err(format!("it expired at {expiry}; create another one")),
            _ => Ok(()),
        };
    };
    Err(refused.to_owned())
}

/// The `exp` of a token that is a JWT. Nothing is verified: the API server does
/// that; this is only to tell people in time.
fn expiry(token: &SecretString) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        // RFC 7519 allows a fraction.
        exp: f64,
    }
    let mut parts = token.expose_secret().split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let payload = general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    // Beyond what a timestamp can hold the token never ends; `as` saturates, and
    // `from_second` refuses that.
    #[allow(clippy::cast_possible_truncation, reason = "a fraction of a second is of no matter here")]
    Timestamp::from_second(claims.exp as i64).ok()
}

fn is_encoded_jwt(text: &str) -> bool {
    let Ok(decoded) = general_purpose::STANDARD.decode(text) else { return false };
    decoded.starts_with(b"eyJ") && decoded.iter().filter(|byte| **byte == b'.').count() == 2
}

/// What ends soon, or has ended since it was given.
pub(super) fn warnings(row: &ClusterRow, now: Timestamp) -> Vec<String> {
    [("serviceAccountToken", row.token_expires_at), ("caCert", row.ca_not_after)]
        .into_iter()
        .filter_map(|(field, end)| {
            let end = end?;
            let left = end.duration_since(now);
            if left > WARN_BEFORE {
                return None;
            }
            Some(match left.as_hours() {
                _ if end <= now => format!("{field} expired at {end}; replace it"),
                ..24 => format!("{field} expires at {end}, in less than a day; replace it before"),
                24..48 => format!("{field} expires at {end}, in a day; replace it before"),
                hours => format!("{field} expires at {end}, in {} days; replace it before", hours / 24),
            })
        })
        .collect()
}
