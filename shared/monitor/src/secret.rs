//! What stands in a cluster's secret, whichever vault keeps it.

use std::io;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    cluster::EksCluster,
    namespaces::Namespaces,
    ports::{Auth, ClusterSecret, Credentials, StoreError},
};

/// What stands in a secret: how to enter by a stored token, or by `auth`. It repeats
/// the id, so that a secret copied to another cluster's name is noticed, and its
/// token not sent there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_cert: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth: Option<Identity>,
    /// Absent from secrets that are older than this: all were open.
    #[serde(default)]
    namespaces: Namespaces,
}

/// Entering without a stored token.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Identity {
    Eks(EksCluster),
}

/// How long a text gets.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The secret's text; `None` where it can't be written. Written twice: a buffer that
/// grows leaves pieces of the token behind, which nobody wipes.
#[must_use]
pub fn write(cluster_id: &str, secret: &ClusterSecret) -> Option<Zeroizing<String>> {
    let mut body = Body {
        id: cluster_id.to_owned(),
        api_url: None,
        token: None,
        ca_cert: None,
        tls_server_name: None,
        auth: None,
        namespaces: secret.namespaces.clone(),
    };
    match &secret.auth {
        Auth::Token(credentials) => {
            body.api_url = Some(credentials.api_url.clone());
            body.token = Some(Zeroizing::new(credentials.token.expose_secret().to_owned()));
            body.ca_cert.clone_from(&credentials.ca_cert);
            body.tls_server_name.clone_from(&credentials.tls_server_name);
        }
        Auth::Eks(cluster) => body.auth = Some(Identity::Eks(cluster.clone())),
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, &body).ok()?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *bytes, &body).ok()?;
    // The bytes move, they are not copied.
    String::from_utf8(std::mem::take(&mut *bytes)).ok().map(Zeroizing::new)
}

/// What is kept of the cluster `cluster_id`, by the text of its secret, which a refusal
/// calls `name`. The parser's own error is dropped: it quotes what it could not read.
///
/// # Errors
/// [`StoreError::Broken`] where the text holds something else, or is another cluster's.
pub fn read(name: &str, cluster_id: &str, text: &str) -> Result<ClusterSecret, StoreError> {
    let broken = |what: String| StoreError::Broken { what, source: None };
    let body: Body = serde_json::from_str(text).map_err(|error| {
        broken(format!("{name} does not hold credentials ({:?} error)", error.classify()))
    })?;
    if body.id != cluster_id {
        return Err(broken(format!("{name} holds the credentials of another cluster than {cluster_id}")));
    }
    let auth = match (body.api_url, body.token, body.auth) {
        (Some(api_url), Some(token), None) => Auth::Token(Credentials {
            api_url,
            token: SecretString::from(token.as_str()),
            ca_cert: body.ca_cert,
            tls_server_name: body.tls_server_name,
            personal: None,
        }),
        (None, None, Some(Identity::Eks(cluster))) => Auth::Eks(cluster),
        _ => return Err(broken(format!("{name} must hold either an address and a token or auth"))),
    };
    Ok(ClusterSecret { auth, namespaces: body.namespaces })
}
