//! Calls that are signed here, to services whose SDK is not linked.
//!
//! Entering EKS takes one call of EKS and one of STS. Their SDKs would add 0.4 MiB to
//! each function, which is loaded at every cold start. So the SDK's parts are used
//! without its models: its signer, and its orchestrator with the same connections,
//! timeouts and retries as the other clients have.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_secretsmanager::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningInstructions, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime::client::{
    orchestrator::operation::Operation,
    retries::classifiers::{HttpStatusCodeClassifier, TransientErrorClassifier},
};
use aws_smithy_runtime_api::client::{
    behavior_version::BehaviorVersion,
    orchestrator::{HttpRequest, HttpResponse, OrchestratorError, SensitiveOutput},
    result::SdkError,
    runtime_plugin::StaticRuntimePlugin,
};
use aws_smithy_types::{body::SdkBody, config_bag::Layer, error::metadata::ErrorMetadata};
use aws_smithy_xml::decode::{Document, ScopedDecoder, try_data};
use aws_types::SdkConfig;
use http::Request;
use secrecy::SecretString;

use crate::error::Sdk;

/// One call.
pub(crate) struct Call<'a> {
    /// As the endpoint and the signature name it: `eks`, `sts`.
    pub(crate) service: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) region: &'a str,
    /// Without anything that must be encoded.
    pub(crate) path: String,
    /// A form that is posted; `None`: a `GET`.
    pub(crate) form: Option<String>,
    /// What the service says of a refusal.
    pub(crate) refusal: fn(&HttpResponse, &str) -> ErrorMetadata,
}

/// Makes the call by this identity: the answer's body. It may hold credentials, so it
/// is kept from every `Debug`, and wiped.
pub(crate) async fn call(
    shared: &SdkConfig,
    identity: &Credentials,
    call: Call<'_>,
    now: SystemTime,
) -> Result<SecretString, Sdk<ErrorMetadata>> {
    let endpoint = match shared.endpoint_url() {
        Some(url) => Some(url.trim_end_matches('/').to_owned()),
        None => endpoint(call.service, call.region).await,
    };
    let endpoint = endpoint.ok_or_else(unbuilt)?;
    let request = match &call.form {
        None => Request::get(&call.path).body(String::new()),
        Some(form) => Request::post(&call.path).header("content-type", FORM).body(form.clone()),
    };
    let signed = request.ok().and_then(|it| signed(&endpoint, identity, call.service, call.region, it, now));
    let request = signed.ok_or_else(unbuilt)?;
    send(shared, (call.service, call.operation), &endpoint, request, call.refusal).await
}

const FORM: &str = "application/x-www-form-urlencoded";

pub(crate) fn unbuilt() -> Sdk<ErrorMetadata> {
    SdkError::construction_failure("the call could not be signed")
}

/// Sends a request that is ready, as often as `shared` says: the answer's body, where its
/// status is one of success. `name` is that of service and operation.
pub(crate) async fn send(
    shared: &SdkConfig,
    (service, operation): (&'static str, &'static str),
    endpoint: &str,
    request: Request<String>,
    refusal: fn(&HttpResponse, &str) -> ErrorMetadata,
) -> Result<SecretString, Sdk<ErrorMetadata>> {
    let client = shared.http_client().ok_or_else(unbuilt)?;
    let mut sensitive = Layer::new("an answer that may hold credentials");
    sensitive.store_put(SensitiveOutput);
    let mut operation = Operation::builder()
        .service_name(service)
        .operation_name(operation)
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(client)
        .endpoint_url(endpoint)
        // It is signed already; a signature is good for five minutes, so for every try.
        .no_auth()
        .retry_classifier(TransientErrorClassifier::<ErrorMetadata>::new())
        .retry_classifier(HttpStatusCodeClassifier::default())
        .runtime_plugin(StaticRuntimePlugin::new().with_config(sensitive.freeze()));
    if let Some(timeouts) = shared.timeout_config() {
        operation = operation.timeout_config(timeouts.clone());
    }
    operation = match shared.retry_config() {
        Some(retries) => operation.standard_retry(retries),
        None => operation.no_retry(),
    };
    operation
        .serializer(move |()| {
            let body = SdkBody::from(request.body().as_str());
            let copy = request.clone().map(|_| body);
            Ok(HttpRequest::try_from(copy)?)
        })
        .deserializer(move |answer: &HttpResponse| {
            let bytes = answer.body().bytes().unwrap_or_default();
            let text = std::str::from_utf8(bytes).unwrap_or_default();
            if answer.status().is_success() {
                return Ok(SecretString::from(text));
            }
            Err(OrchestratorError::operation(refusal(answer, text)))
        })
        .build()
        .invoke(())
        .await
}

/// The request by its path, with the signature in its headers. Of the headers that it has
/// the content type is signed.
pub(crate) fn signed(
    endpoint: &str,
    identity: &Credentials,
    service: &str,
    region: &str,
    mut request: Request<String>,
    now: SystemTime,
) -> Option<Request<String>> {
    let content_type = request.headers().get("content-type").and_then(|it| it.to_str().ok());
    let headers: Vec<_> = content_type.into_iter().map(|it| ("content-type", it)).collect();
    let url = format!("{endpoint}{}", request.uri());
    let body = SignableBody::Bytes(request.body().as_bytes());
    let method = request.method().as_str();
    let signable = SignableRequest::new(method, &url, headers.into_iter(), body).ok()?;
    let settings = SigningSettings::default();
    instructions(signable, identity, (service, region), settings, now)?.apply_to_request_http1x(&mut request);
    Some(request)
}

/// How a request is to be changed so that it is signed for a service in a region.
pub(crate) fn instructions(
    request: SignableRequest<'_>,
    identity: &Credentials,
    (service, region): (&str, &str),
    settings: SigningSettings,
    now: SystemTime,
) -> Option<SigningInstructions> {
    let identity = identity.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(now)
        .settings(settings)
        .build()
        .ok()?
        .into();
    Some(sign(request, &params).ok()?.into_parts().0)
}

/// A service's own address in a region, which all partitions build alike:
/// `https://{service}.{region}.{DNS suffix}`. The suffix is taken from the table of
/// partitions that comes with the SDK of Secrets Manager.
pub(crate) async fn endpoint(service: &str, region: &str) -> Option<String> {
    let params = Params::builder().region(region).build().ok()?;
    let resolver = DefaultResolver::new();
    let known = ResolveEndpoint::resolve_endpoint(&resolver, &params).await.ok()?;
    let rest = known.url().trim_end_matches('/').strip_prefix("https://secretsmanager")?;
    rest.starts_with(&format!(".{region}.")).then(|| format!("https://{service}{rest}"))
}

/// The text at the end of a path of elements.
pub(crate) fn xml(text: &str, path: &[&str]) -> Option<String> {
    fn within(scope: &mut ScopedDecoder<'_, '_>, path: &[&str]) -> Option<String> {
        let Some((first, rest)) = path.split_first() else {
            return try_data(scope).ok().map(|text| text.into_owned());
        };
        while let Some(mut element) = scope.next_tag() {
            if element.start_el().matches(first) {
                return within(&mut element, rest);
            }
        }
        None
    }
    let (root, rest) = path.split_first()?;
    let mut document = Document::new(text);
    let mut element = document.root_element().ok()?;
    if !element.start_el().matches(root) {
        return None;
    }
    within(&mut element, rest)
}

/// A refusal in the query protocol.
pub(crate) fn query_refusal(_: &HttpResponse, text: &str) -> ErrorMetadata {
    let mut refusal = ErrorMetadata::builder();
    if let Some(code) = xml(text, &["ErrorResponse", "Error", "Code"]) {
        refusal = refusal.code(code);
    }
    if let Some(message) = xml(text, &["ErrorResponse", "Error", "Message"]) {
        refusal = refusal.message(message);
    }
    refusal.build()
}
