//! The token of a service account, as a cluster puts it into a Secret: asked for by a
//! person who registers the cluster, with the person's own rights.

use base64::{Engine, engine::general_purpose::STANDARD};
use monitor::ports::Credentials;
use secrecy::SecretString;
use serde::Deserialize;
use verdict::AskError;

use crate::{
    client::{KubernetesClient, bad_name, fit_to_show},
    parsing::{self, Answer},
    requests,
};

/// etcd takes 1.5 MiB.
const SECRET_BYTES: usize = 2 * 1024 * 1024;

/// What was found of a token.
#[derive(Debug)]
pub enum AccountToken {
    /// There is no such Secret.
    NoSecret,
    /// The Secret is there, and the cluster has not put a token into it (yet).
    NotYet,
    /// The token.
    There(SecretString),
}

impl KubernetesClient {
    /// The token in a Secret of the type `kubernetes.io/service-account-token`.
    ///
    /// # Errors
    /// What came instead of an answer, as of every question.
    pub async fn account_token(
        &self,
        credentials: &Credentials,
        namespace: &str,
        name: &str,
    ) -> Result<AccountToken, AskError> {
        let asking = async {
            let request = requests::secret(namespace, name).map_err(bad_name)?;
            let came = self.session(credentials)?.fetch(&request, SECRET_BYTES).await?;
            token(came.answer())
        };
        asking.await.map_err(|error: AskError| fit_to_show(error, credentials))
    }
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Default, Deserialize)]
struct Data {
    token: Option<String>,
}

fn token(answer: Answer<'_>) -> Result<AccountToken, AskError> {
    if parsing::says_absent(answer, "secrets") {
        return Ok(AccountToken::NoSecret);
    }
    let secret: Secret = parsing::read(answer, "a secret")?;
    let Some(base64) = secret.data.unwrap_or_default().token.filter(|it| !it.is_empty()) else {
        return Ok(AccountToken::NotYet);
    };
    let decoded = STANDARD.decode(base64).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let unlike = || parsing::not_kubernetes("the secret's token is no base64 of a text".to_owned());
    decoded.map(|token| AccountToken::There(token.into())).ok_or_else(unlike)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::{Value, json};
    use verdict::AskErrorKind;

    use super::*;

    fn told(status: u16, body: &Value) -> Result<String, AskErrorKind> {
        let body = body.to_string();
        let answer = Answer { status, content_type: Some("application/json"), body: body.as_bytes() };
        match token(answer) {
            Ok(AccountToken::There(token)) => Ok(token.expose_secret().to_owned()),
            Ok(other) => Ok(format!("{other:?}")),
            Err(error) => {
                assert!(!error.message.contains("dDBrM24"), "{}", error.message);
                Err(error.kind)
            }
        }
    }

    #[test]
    fn a_token_is_there_or_not_yet_or_its_secret_is_missing() {
        let secret = |data: Value| json!({"kind": "Secret", "data": data});
        let absent = |kind: &str| json!({"kind": "Status", "reason": "NotFound", "message": "not found", "details": {"kind": kind}});
        for (status, body, wanted) in [
            (200, secret(json!({"token": "dDBrM24=", "ca.crt": "x"})), Ok("t0k3n")),
            (200, secret(json!({"ca.crt": "x"})), Ok("NotYet")),
            (200, secret(json!({"token": ""})), Ok("NotYet")),
            (200, secret(Value::Null), Ok("NotYet")),
            (200, json!({}), Ok("NotYet")),
            (404, absent("secrets"), Ok("NoSecret")),
            (404, absent("pods"), Err(AskErrorKind::NotKubernetes)),
            (404, json!("nothing"), Err(AskErrorKind::NotKubernetes)),
            (403, json!({"kind": "Status"}), Err(AskErrorKind::Forbidden)),
            (401, json!({"kind": "Status"}), Err(AskErrorKind::Unauthorized)),
            (200, secret(json!({"token": "dDBrM24"})), Err(AskErrorKind::NotKubernetes)),
            (200, secret(json!({"token": ["dDBrM24="]})), Err(AskErrorKind::NotKubernetes)),
        ] {
            assert_eq!(told(status, &body), wanted.map(str::to_owned), "{status} {body}");
        }
    }

    #[test]
    fn a_token_is_in_no_debug_text() {
        let shown = format!("{:?}", AccountToken::There(SecretString::from("t0k3n")));
        assert!(!shown.contains("t0k3n"), "{shown}");
    }
}
