//! [`Eks`]: address and CA as EKS tells them, and a token that we sign ourselves.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_credential_types::{Credentials as Identity, provider::ProvideCredentials};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::error::metadata::{ErrorMetadata, ProvideErrorMetadata};
use aws_types::{SdkConfig, region::Region};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::Request;
use monitor::{
    cluster::EksCluster,
    ports::{Clock, Credentials, Eks, EksError, StoreError},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::store::{code, store_error};
use crate::{
    error::Sdk,
    signed::{Call, call, endpoint, instructions, query_refusal, xml},
};

/// What the whole of it may take: at most two calls one after the other, each with a
/// second try. The clusters' share of a check is 4.5 s, and the cluster is asked yet.
const MINT: Duration = Duration::from_secs(3);

/// How long the credentials of a role that was taken are good, in seconds: the
/// shortest that STS gives, and as long as a token is good in any case.
const SESSION_SECS: &str = "900";

/// Under which name a role is taken, as CloudTrail shows it.
const SESSION: &str = "dag-monitor";

/// What the token's `X-Amz-Expires` must say: authenticators up to 0.3.0 refuse more,
/// and STS takes no notice. A token is good for 15 minutes from its `X-Amz-Date`
/// (kubernetes-sigs/aws-iam-authenticator, `pkg/token/token.go`).
const EXPIRES: Duration = Duration::from_secs(60);

/// The header that ties a token to one cluster: the authenticator of another refuses it.
const CLUSTER_HEADER: &str = "x-k8s-aws-id";

/// Before the token, so that the API server knows whom to ask about it.
const PREFIX: &str = "k8s-aws-v1.";

/// Enters EKS clusters by this process's AWS identity, or by a role on the way.
#[derive(Clone)]
pub struct EksMinter {
    shared: SdkConfig,
    roles: Vec<String>,
    external_id: Option<String>,
    clock: Arc<dyn Clock>,
}

impl EksMinter {
    /// Takes the roles by these ARNs only, and with this ExternalId; without one, none.
    #[must_use]
    pub fn new(
        shared: SdkConfig,
        roles: &[String],
        external_id: Option<&str>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { shared, roles: roles.to_vec(), external_id: external_id.map(str::to_owned), clock }
    }

    fn now(&self) -> SystemTime {
        // Neither fails: there is no clock before 1970 or after 9999.
        SystemTime::try_from(self.clock.now()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    async fn mint(&self, cluster: &EksCluster) -> Result<Credentials, EksError> {
        // Both become part of a host name or a header.
        if !is_cluster_name(&cluster.cluster_name) || !is_region(&cluster.region) {
            return Err(refused(cluster, "can't be asked for: its name or region is none"));
        }
        let identity = match &cluster.role_arn {
            None => self.own(cluster).await?,
            Some(role) => {
                self.role_allowed(role).map_err(EksError::Refused)?;
                self.assumed(cluster, role).await?
            }
        };
        let (api_url, ca_cert) = self.described(cluster, &identity).await?;
        let token = self.token(cluster, &identity).await;
        let token = token.ok_or_else(|| refused(cluster, "got no token: it could not be signed"))?;
        Ok(Credentials { api_url, token, ca_cert: Some(ca_cert), tls_server_name: None, personal: None })
    }

    async fn token(&self, cluster: &EksCluster, identity: &Identity) -> Option<SecretString> {
        // Not where our own calls may be sent to: it is the cluster's authenticator
        // that asks there, and it takes no other address.
        let sts = endpoint("sts", &cluster.region).await?;
        token(&sts, &cluster.region, &cluster.cluster_name, identity, self.now())
    }

    async fn own(&self, cluster: &EksCluster) -> Result<Identity, EksError> {
        let none = || refused(cluster, "can't be asked for: this process has no AWS identity");
        let provider = self.shared.credentials_provider().ok_or_else(none)?;
        provider.provide_credentials().await.map_err(|_| none())
    }

    async fn assumed(&self, cluster: &EksCluster, role: &str) -> Result<Identity, EksError> {
        let external_id = self.external_id.as_deref().unwrap_or_default();
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", "AssumeRole")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", role)
            .append_pair("RoleSessionName", SESSION)
            .append_pair("ExternalId", external_id)
            .append_pair("DurationSeconds", SESSION_SECS)
            .finish();
        let asked = Call {
            service: "sts",
            operation: "AssumeRole",
            // Where we are, not where the cluster is: a region may be closed to others.
            region: self.shared.region().map_or(&cluster.region, Region::as_ref),
            path: "/".to_owned(),
            form: Some(form),
            refusal: query_refusal,
        };
        let own = self.own(cluster).await?;
        let answer = call(&self.shared, &own, asked, self.now()).await;
        let output = answer.map_err(|error| {
            failed(cluster, "STS", "AssumeRole", &error, |code| match code {
                "AccessDenied" => format!(
                    "can't be entered: {role} may not be taken; its trust policy must allow sts:AssumeRole to the \
                     role of dag-monitor's function with the stack's ExternalId, and the function's role needs \
                     sts:AssumeRole on it"
                ),
                code => format!("can't be entered: STS refused to give {role} ({code})"),
            })
        })?;
        let text = output.expose_secret();
        let field = |name| xml(text, &["AssumeRoleResponse", "AssumeRoleResult", "Credentials", name]);
        match (field("AccessKeyId"), field("SecretAccessKey"), field("SessionToken")) {
            (Some(id), Some(secret), token @ Some(_)) => {
                Ok(Identity::new(id, secret, token, None, "AssumeRole"))
            }
            _ => Err(EksError::Transient("STS answered AssumeRole with what can't be read".into())),
        }
    }

    /// Address and CA.
    async fn described(
        &self,
        cluster: &EksCluster,
        identity: &Identity,
    ) -> Result<(String, String), EksError> {
        let asked = Call {
            service: "eks",
            operation: "DescribeCluster",
            region: &cluster.region,
            path: format!("/clusters/{}", cluster.cluster_name),
            form: None,
            refusal: eks_refusal,
        };
        let answer = call(&self.shared, identity, asked, self.now()).await;
        let output = answer.map_err(|error| {
            let who = cluster.role_arn.as_deref().unwrap_or("the role of dag-monitor's function");
            failed(cluster, "EKS", "DescribeCluster", &error, |code| match code {
                "AccessDeniedException" => {
                    format!("can't be described: {who} needs eks:DescribeCluster on it")
                }
                "ResourceNotFoundException" => {
                    format!("is not there: {who} sees no such cluster in its account")
                }
                code => format!("can't be described: EKS refused ({code})"),
            })
        })?;
        let Ok(Described { cluster: described }) = serde_json::from_str(output.expose_secret()) else {
            return Err(EksError::Transient("EKS answered DescribeCluster with what can't be read".into()));
        };
        let status = described.status.as_deref().unwrap_or("nothing of its status");
        if !matches!(status, "ACTIVE" | "UPDATING") {
            return Err(refused(
                cluster,
                &format!("can't be entered now: EKS says {}", verdict::clean(status)),
            ));
        }
        let api_url = described.endpoint.as_deref().map(|url| url.trim_end_matches('/'));
        let api_url = api_url.filter(|url| url.starts_with("https://"));
        let ca_cert = described.certificate_authority.and_then(|it| it.data).and_then(|data| pem(&data));
        match (api_url, ca_cert) {
            (Some(api_url), Some(ca_cert)) => Ok((api_url.to_owned(), ca_cert)),
            _ => Err(refused(cluster, "can't be entered: EKS tells no address or no CA of it")),
        }
    }
}

/// What EKS says of a cluster, as far as it matters here
/// (EKS API reference, `DescribeCluster`).
#[derive(Deserialize)]
struct Described {
    cluster: DescribedCluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribedCluster {
    status: Option<String>,
    endpoint: Option<String>,
    certificate_authority: Option<Certificate>,
}

#[derive(Deserialize)]
struct Certificate {
    data: Option<String>,
}

#[async_trait]
impl Eks for EksMinter {
    async fn credentials(&self, cluster: &EksCluster) -> Result<Credentials, EksError> {
        match tokio::time::timeout(MINT, self.mint(cluster)).await {
            Ok(result) => result,
            Err(late) => Err(EksError::Transient(Box::new(late))),
        }
    }

    fn role_allowed(&self, role_arn: &str) -> Result<(), String> {
        // Without an ExternalId any other customer of a shared account could name the role.
        if self.external_id.is_some() && self.roles.iter().any(|role| role == role_arn) {
            return Ok(());
        }
        Err(format!("{role_arn} is none of the roles that this stack may take (its parameter EksRoleArns)"))
    }
}

/// The token: the URL of a `GetCallerIdentity` that is signed for this cluster, which
/// its API server sends to STS in order to learn who we are.
fn token(
    sts: &str,
    region: &str,
    cluster_name: &str,
    identity: &Identity,
    now: SystemTime,
) -> Option<SecretString> {
    let url = format!("{sts}/?Action=GetCallerIdentity&Version=2011-06-15");
    let header = [(CLUSTER_HEADER, cluster_name)].into_iter();
    let asked = SignableRequest::new("GET", &url, header, SignableBody::Bytes(&[])).ok()?;
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(EXPIRES);
    let mut request = Request::get(&url).body(()).ok()?;
    instructions(asked, identity, ("sts", region), settings, now)?.apply_to_request_http1x(&mut request);
    let signed = Zeroizing::new(request.uri().to_string());
    // Exactly as long as it gets, so that nothing is moved and left behind.
    let mut token = String::with_capacity(PREFIX.len() + signed.len().div_ceil(3) * 4);
    token.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(signed.as_bytes(), &mut token);
    let token = Zeroizing::new(token);
    Some(SecretString::from(token.as_str()))
}

/// A refusal in the REST JSON protocol: its code is in a header, or in the body.
fn eks_refusal(answer: &HttpResponse, text: &str) -> ErrorMetadata {
    #[derive(Default, Deserialize)]
    struct Body {
        #[serde(rename = "__type")]
        code: Option<String>,
        message: Option<String>,
    }
    let body: Body = serde_json::from_str(text).unwrap_or_default();
    let mut refusal = ErrorMetadata::builder();
    if let Some(code) = answer.headers().get("x-amzn-errortype").or(body.code.as_deref()) {
        // As in `com.amazonaws.eks#AccessDeniedException:http://…`.
        let code = code.split(':').next().unwrap_or_default();
        refusal = refusal.code(code.rsplit('#').next().unwrap_or_default());
    }
    if let Some(message) = body.message {
        refusal = refusal.message(message);
    }
    refusal.build()
}

fn pem(base64: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(base64).ok()?).ok()?;
    text.contains("-----BEGIN CERTIFICATE-----").then_some(text)
}

/// As EKS allows it (`CreateCluster`, `name`).
fn is_cluster_name(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// One label of a host name.
fn is_region(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn refused(cluster: &EksCluster, why: &str) -> EksError {
    EksError::Refused(format!("the EKS cluster {} in {} {why}", cluster.cluster_name, cluster.region))
}

fn failed<E>(
    cluster: &EksCluster,
    service: &'static str,
    operation: &'static str,
    error: &Sdk<E>,
    why: impl FnOnce(&str) -> String,
) -> EksError
where
    E: ProvideErrorMetadata,
{
    match store_error(service, operation, error) {
        StoreError::Transient(_, source) => EksError::Transient(source),
        StoreError::Broken { source, .. } => {
            // AWS names accounts and ARNs: for the operator, not for every caller.
            if let Some(words) = source {
                let (name, region) = (&cluster.cluster_name, &cluster.region);
                tracing::warn!(name, region, error = %words, "an EKS cluster is closed to us");
            }
            refused(cluster, &why(code(error).unwrap_or("no code")))
        }
        StoreError::Told(why) => EksError::Refused(why),
    }
}

#[cfg(test)]
mod tests;
