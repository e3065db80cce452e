//! The way of a person or a pipeline to the deployed API: credentials and region as the
//! AWS CLI finds them, the stack's outputs, and signed requests.

use std::{
    error::Error,
    fmt,
    time::{Duration, SystemTime},
};

use aws_config::Region;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError},
};
use aws_smithy_http_client::{Builder, ConnectorBuilder, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::{
    behavior_version::BehaviorVersion, http::SharedHttpClient, orchestrator::HttpResponse,
};
use aws_smithy_types::{error::metadata::ErrorMetadata, timeout::TimeoutConfig};
use aws_smithy_xml::decode::{Document, ScopedDecoder, try_data};
use aws_types::SdkConfig;
use http::{HeaderValue, Request, header};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use url::{Host, Url, form_urlencoded};

use crate::{
    error::{Sdk, chain, may_pass},
    signed::{Call, call, query_refusal, send, signed, unbuilt},
};

/// A home's connection is slower than a function's, and may have a proxy on the way.
const CONNECT: Duration = Duration::from_secs(5);
/// API Gateway answers after 29 s at the latest ("Amazon API Gateway quotas",
/// integration timeout): a registration probes the cluster, which may take most of that.
const ATTEMPT: Duration = Duration::from_secs(32);
/// Credentials are renewed so long before they end, so that none ends on its way.
const BEFORE_END: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("dag-monitor/", env!("CARGO_PKG_VERSION"));

/// Why AWS gave no answer. What to do about it is for whoever knows the options to say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// No credentials, or some that can't be renewed.
    #[error("there are no AWS credentials: {0}")]
    NoCredentials(String),
    /// No region is chosen.
    #[error("no AWS region is chosen")]
    NoRegion,
    /// CloudFormation knows no such stack there.
    #[error("there is no stack {stack} in {region}")]
    NoStack {
        /// Its name.
        stack: String,
        /// Where it was looked for.
        region: String,
    },
    /// The stack has no such output.
    #[error("the stack {stack} has no output {output}")]
    NoOutput {
        /// Its name.
        stack: String,
        /// The output's name.
        output: String,
    },
    /// The stack may not be described.
    #[error("the stack {stack} may not be described: {why}")]
    NotAllowed {
        /// Its name.
        stack: String,
        /// In the words of AWS.
        why: String,
    },
    /// CloudFormation refused in another way.
    #[error("CloudFormation refused DescribeStacks: {0}")]
    Refused(String),
    /// There was no answer. Another try may have one.
    #[error("there is no answer: {0}")]
    Unanswered(String),
}

/// Whose credentials sign, and where: what the AWS CLI would use.
pub struct Operator {
    shared: SdkConfig,
    provider: SharedCredentialsProvider,
    region: String,
    /// A provider may have to ask a service or a program each time.
    kept: Mutex<Option<Credentials>>,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Operator {
    /// From the environment, the AWS CLI's files and what they name (SSO, programs, roles);
    /// profile and region where they are given.
    ///
    /// # Errors
    /// [`OperatorError::NoCredentials`], [`OperatorError::NoRegion`].
    pub async fn find(profile: Option<&str>, region: Option<&str>) -> Result<Self, OperatorError> {
        let mut loader =
            aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http(ProxyConfig::from_env()));
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        let shared = loader.load().await;
        let none = || OperatorError::NoCredentials("no provider is configured".to_owned());
        let provider = shared.credentials_provider().ok_or_else(none)?;
        // First the credentials: a profile that is not there has no region either.
        let found = provider.provide_credentials().await.map_err(|error| refusal(&error))?;
        let region = shared.region().map(|it| it.as_ref().to_owned()).filter(|it| !it.is_empty());
        let region = region.ok_or(OperatorError::NoRegion)?;
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT);
        let shared = shared.into_builder().timeout_config(timeouts.build()).build();
        Ok(Self { shared, provider, region, kept: Mutex::new(Some(found)) })
    }

    /// Where requests are signed for.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The outputs of the stack, names and values.
    ///
    /// # Errors
    /// [`OperatorError`], in each of its ways but that of a missing output.
    pub async fn outputs(&self, stack: &str) -> Result<Vec<(String, String)>, OperatorError> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", "DescribeStacks")
            .append_pair("Version", "2010-05-15")
            .append_pair("StackName", stack)
            .finish();
        let asked = Call {
            service: "cloudformation",
            operation: "DescribeStacks",
            region: &self.region,
            path: "/".to_owned(),
            form: Some(form),
            refusal: query_refusal,
        };
        let identity = self.identity().await?;
        let answer = call(&self.shared, &identity, asked, SystemTime::now()).await;
        let text = answer.map_err(|error| self.not_described(stack, &error))?;
        Ok(outputs(text.expose_secret()))
    }

    async fn identity(&self) -> Result<Credentials, OperatorError> {
        let mut kept = self.kept.lock().await;
        let good = |it: &&Credentials| it.expiry().is_none_or(|end| SystemTime::now() + BEFORE_END < end);
        if let Some(credentials) = kept.as_ref().filter(good) {
            return Ok(credentials.clone());
        }
        let credentials = self.provider.provide_credentials().await.map_err(|error| refusal(&error))?;
        Ok(kept.insert(credentials).clone())
    }

    fn not_described(&self, stack: &str, error: &Sdk<ErrorMetadata>) -> OperatorError {
        let Some(refused) = error.as_service_error() else { return unanswered(error) };
        let status = error.raw_response().map_or(0, |it| it.status().as_u16());
        let code = refused.code();
        let why = format!("{}: {}", code.unwrap_or("no code"), refused.message().unwrap_or("no words"));
        match code {
            // CloudFormation has no error of its own for it (API reference, DescribeStacks).
            Some("ValidationError") if why.contains("does not exist") => {
                OperatorError::NoStack { stack: stack.to_owned(), region: self.region.clone() }
            }
            Some("AccessDenied" | "AccessDeniedException") => {
                OperatorError::NotAllowed { stack: stack.to_owned(), why }
            }
            code if status == 429 || status >= 500 || may_pass(code) => OperatorError::Unanswered(why),
            _ => OperatorError::Refused(why),
        }
    }
}

fn refusal(error: &CredentialsError) -> OperatorError {
    OperatorError::NoCredentials(match error {
        // Its words list each place that was looked at, on lines of their own.
        CredentialsError::CredentialsNotLoaded(_) => {
            "neither the environment nor the AWS CLI's files have any".to_owned()
        }
        other => chain(other).trim_end_matches('.').to_owned(),
    })
}

/// What is said of a call that no service has refused.
fn unanswered(error: &Sdk<ErrorMetadata>) -> OperatorError {
    let source = match error {
        // Its own words sort it, and say nothing.
        Sdk::DispatchFailure(failure) => failure.as_connector_error().and_then(Error::source),
        other => other.source(),
    };
    OperatorError::Unanswered(source.map_or_else(|| error.to_string(), chain))
}

/// Connections as the functions' clients have them, through this proxy.
fn http(proxy: ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
        let mut connector = ConnectorBuilder::default().tls_provider(provider);
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|it| it.sleep_impl()));
        connector.set_proxy_config(Some(proxy.clone()));
        connector.build()
    })
}

/// Names and values.
fn outputs(text: &str) -> Vec<(String, String)> {
    fn each(
        scope: &mut ScopedDecoder<'_, '_>,
        path: &[&str],
        visit: &mut dyn FnMut(&mut ScopedDecoder<'_, '_>),
    ) {
        let Some((first, rest)) = path.split_first() else { return visit(scope) };
        while let Some(mut element) = scope.next_tag() {
            if element.start_el().matches(first) {
                each(&mut element, rest, visit);
            }
        }
    }
    let mut found = Vec::new();
    let mut document = Document::new(text);
    if let Ok(mut root) = document.root_element() {
        let path = ["DescribeStacksResult", "Stacks", "member", "Outputs", "member"];
        each(&mut root, &path, &mut |output| {
            let (mut name, mut value) = (None, None);
            while let Some(mut element) = output.next_tag() {
                let part = match element.start_el().local() {
                    "OutputKey" => &mut name,
                    "OutputValue" => &mut value,
                    _ => continue,
                };
                *part = try_data(&mut element).ok().map(|text| text.into_owned());
            }
            found.extend(name.zip(value));
        });
    }
    found
}

/// Where the API is: `https://`, or `http://` on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddress {
    url: String,
    loopback: bool,
}

impl ApiAddress {
    /// # Errors
    /// A sentence that says what is awaited.
    pub fn parse(text: &str) -> Result<Self, String> {
        let awaited = "an address as https://abc123.execute-api.eu-central-1.amazonaws.com/v1 is awaited";
        let url = Url::parse(text).map_err(|error| format!("{awaited} ({error})"))?;
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("{awaited}, without a user"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{awaited}, without a query or fragment"));
        }
        match url.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => {
                return Err("http:// is for this machine only: a token could be read on the way".to_owned());
            }
            _ => return Err(awaited.to_owned()),
        }
        Ok(Self { url: url.as_str().trim_end_matches('/').to_owned(), loopback })
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// How the API lets in.
enum Door {
    /// By a signature.
    Signed(Box<Operator>),
    /// By the key of a `dag-monitor serve` on this machine.
    Key(HeaderValue),
}

/// Asks the API.
pub struct ApiClient {
    address: ApiAddress,
    shared: SdkConfig,
    door: Door,
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("address", &self.address).finish_non_exhaustive()
    }
}

/// One question. Its body is never shown.
pub struct Question<'a> {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: http::Method,
    /// Path and query behind the API's address, without anything that must be encoded.
    pub path: &'a str,
    /// JSON.
    pub body: Option<SecretString>,
}

impl ApiClient {
    /// Signs as the operator.
    #[must_use]
    pub fn signed(address: ApiAddress, operator: Operator) -> Self {
        Self { shared: api_config(&address), address, door: Door::Signed(Box::new(operator)) }
    }

    /// Shows a key. `None` where the address is not on this machine, or the key is none.
    #[must_use]
    pub fn with_key(address: ApiAddress, key: &SecretString) -> Option<Self> {
        let mut key = HeaderValue::try_from(format!("Bearer {}", key.expose_secret())).ok()?;
        key.set_sensitive(true);
        address.loopback.then(|| Self { shared: api_config(&address), address, door: Door::Key(key) })
    }

    /// Where it asks.
    #[must_use]
    pub fn address(&self) -> &ApiAddress {
        &self.address
    }

    /// Asks once: the answer's status and body; 200 stands for every status of success.
    ///
    /// # Errors
    /// [`OperatorError::NoCredentials`], [`OperatorError::Unanswered`].
    pub async fn ask(&self, question: Question<'_>) -> Result<(u16, String), OperatorError> {
        let body = question.body.as_ref().map_or("", |it| it.expose_secret()).to_owned();
        let mut request = Request::builder().method(question.method).uri(question.path);
        if question.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let unbuilt = || unanswered(&unbuilt());
        let mut request = request.body(body).map_err(|_| unbuilt())?;
        match &self.door {
            Door::Key(key) => {
                request.headers_mut().insert(header::AUTHORIZATION, key.clone());
            }
            Door::Signed(operator) => {
                let identity = operator.identity().await?;
                let (url, region) = (&self.address.url, &operator.region);
                let made = signed(url, &identity, "execute-api", region, request, SystemTime::now());
                request = made.ok_or_else(unbuilt)?;
            }
        }
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let name = ("dag-monitor", "Ask");
        match send(&self.shared, name, &self.address.url, request, no_words).await {
            Ok(body) => Ok((200, body.expose_secret().to_owned())),
            Err(error) if error.as_service_error().is_some() => {
                let raw = error.raw_response();
                let text = raw.and_then(|it| it.body().bytes()).map(String::from_utf8_lossy);
                Ok((raw.map_or(0, |it| it.status().as_u16()), text.unwrap_or_default().into_owned()))
            }
            Err(error) => Err(unanswered(&error)),
        }
    }
}

/// Without tries again: whoever asks knows what may be asked twice.
fn api_config(address: &ApiAddress) -> SdkConfig {
    let proxy = if address.loopback { ProxyConfig::disabled() } else { ProxyConfig::from_env() };
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT);
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http(proxy))
        .timeout_config(timeouts.build())
        .build()
}

/// The API's refusals are read by whoever asked.
fn no_words(_: &HttpResponse, _: &str) -> ErrorMetadata {
    ErrorMetadata::builder().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outputs_are_read_whatever_stands_between() {
        let member = |name: &str, value: &str| {
            format!(
                "<member><OutputKey>{name}</OutputKey><Description>a &amp; b</Description>\
                 <OutputValue>{value}</OutputValue></member>"
            )
        };
        let text = format!(
            "<DescribeStacksResponse xmlns=\"http://cloudformation.amazonaws.com/doc/2010-05-15/\">\
             <DescribeStacksResult><Stacks><member><StackName>dag-monitor</StackName><Parameters><member>\
             <ParameterKey>ApiUrl</ParameterKey></member></Parameters>\n<Outputs>{}<member><OutputKey>half</OutputKey>\
             </member>\n{}</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>",
            member("ApiUrl", "https://a.example.com/v1?a=1&amp;b=2"),
            member("StateMachineArn", "arn:aws:states:x"),
        );
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let wanted =
            [pair("ApiUrl", "https://a.example.com/v1?a=1&b=2"), pair("StateMachineArn", "arn:aws:states:x")];
        assert_eq!(outputs(&text), wanted);
        for text in ["", "<", "<a/>", "{}", "<DescribeStacksResponse/>"] {
            assert!(outputs(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_asked_without_tls() {
        for (text, url, loopback) in [
            ("https://a.example.com/v1/", "https://a.example.com/v1", false),
            ("https://a.example.com", "https://a.example.com", false),
            ("http://127.0.0.1:8480", "http://127.0.0.1:8480", true),
            (
                "http://localhost:4566/_aws/execute-api/x/v1",
                "http://localhost:4566/_aws/execute-api/x/v1",
                true,
            ),
            ("http://[::1]:8480", "http://[::1]:8480", true),
        ] {
            let address = ApiAddress::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_loopback()), (url, loopback));
        }
        for text in [
            "",
            "a.example.com/v1",
            "http://a.example.com",
            "http://127.0.0.1.example.com",
            "http://0.0.0.0",
            "http://localhost@a.example.com",
            "https://me:s3cr3t@a.example.com",
            "https://a.example.com?x=1",
            "https://a.example.com#x",
            "ftp://127.0.0.1",
        ] {
            let told = ApiAddress::parse(text).unwrap_err();
            assert!(!told.contains("s3cr3t"), "{told}");
        }
    }

    #[test]
    fn a_key_is_shown_to_this_machine_only_and_to_nobody_else() {
        let key = SecretString::from("k3y");
        let client = |text| ApiClient::with_key(ApiAddress::parse(text).unwrap(), &key);
        assert!(client("https://a.example.com").is_none());
        let shown = format!("{:?}", client("http://127.0.0.1:1").unwrap());
        assert!(shown.contains("127.0.0.1") && !shown.contains("k3y"), "{shown}");
    }
}
