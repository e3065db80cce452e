//! The questions, as requests: three of a verdict, four of a probe. Nothing is sent here.
//!
//! `resourceVersion` is never among the parameters: `0` may be answered from an
//! old cache, and an answer older than the push is worse than none.

use std::fmt;

use http::{
    HeaderValue, Method, Request, Uri,
    header::{ACCEPT, CONTENT_TYPE},
};
use k8s_openapi::api::core::v1::Secret;
use kube_core::{
    ApiResource, DynamicObject, GroupVersionKind, Resource,
    params::{GetParams, ListParams},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

/// The API group of a HelmRelease.
pub(crate) const FLUX_GROUP: &str = "helm.toolkit.fluxcd.io";

/// The answer is metadata only: a payload can be 1 MiB, and there are ten. What
/// follows the comma is for servers that know no such lists.
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// What somebody wants to do, as an access review has it. Empty: not applicable, or
/// for the namespace all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) verb: &'static str,
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) subresource: &'static str,
}

/// How many secrets a page may hold; kubectl asks for as many.
pub(crate) const PAGE: u32 = 500;

/// Kubernetes' longest label value.
const LABEL_VALUE: usize = 63;

/// What may stand in a path segment as it is (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A name that would make another request of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadName {
    what: &'static str,
    name: String,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} can't be the name of a {}", self.name, self.what)
    }
}

/// `get` of one HelmRelease.
pub(crate) fn helm_release(namespace: &str, name: &str) -> Result<Request<Vec<u8>>, BadName> {
    let kind = GroupVersionKind::gvk(FLUX_GROUP, "v2", "HelmRelease");
    let path =
        DynamicObject::url_path(&ApiResource::from_gvk(&kind), Some(&segment("namespace", namespace)?));
    let request = kube_core::Request::new(path).get(&segment("HelmRelease", name)?, &GetParams::default());
    accepting("application/json", request, "HelmRelease", name)
}

/// One page of the release's secrets, without their payloads.
pub(crate) fn revisions(
    namespace: &str,
    release: &str,
    continue_token: Option<&str>,
) -> Result<Request<Vec<u8>>, BadName> {
    // A label's value has no escape: what is none could only bend the selector.
    let fits = (1..=LABEL_VALUE).contains(&release.len())
        && release.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !fits {
        return Err(BadName { what: "Helm release", name: release.to_owned() });
    }
    let mut parameters = ListParams::default().labels(&format!("owner=helm,name={release}")).limit(PAGE);
    parameters.continue_token = continue_token.map(str::to_owned);
    accepting(METADATA_LIST, secrets(namespace)?.list(&parameters), "Helm release", release)
}

/// One release secret with its payload: a list of one, since the account may list
/// secrets and not get them. The label keeps any other secret out of the answer.
pub(crate) fn payload(namespace: &str, secret: &str) -> Result<Request<Vec<u8>>, BadName> {
    let mut escaped = String::with_capacity(secret.len());
    for c in secret.chars() {
        // As Kubernetes' `fields.EscapeValue` does.
        if matches!(c, '\\' | ',' | '=') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    let parameters = ListParams::default().labels("owner=helm").fields(&format!("metadata.name={escaped}"));
    accepting("application/json", secrets(namespace)?.list(&parameters), "secret", secret)
}

/// `get` of one secret.
#[cfg(feature = "operator")]
pub(crate) fn secret(namespace: &str, name: &str) -> Result<Request<Vec<u8>>, BadName> {
    let request = secrets(namespace)?.get(&segment("secret", name)?, &GetParams::default());
    accepting("application/json", request, "secret", name)
}

/// Which Kubernetes it is.
pub(crate) fn version() -> Request<Vec<u8>> {
    plain(Method::GET, "/version", Vec::new())
}

/// What is served of the version of Flux's group that is asked for here.
pub(crate) fn flux_resources() -> Request<Vec<u8>> {
    plain(Method::GET, "/apis/helm.toolkit.fluxcd.io/v2", Vec::new())
}

/// Whether the account may do this in a namespace; in all of them where it is empty.
pub(crate) fn access_review(access: Access, namespace: &str) -> Request<Vec<u8>> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "verb": access.verb,
            "group": access.group,
            "resource": access.resource,
            "subresource": access.subresource,
            "namespace": namespace,
        }},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    plain(Method::POST, path, review.to_string().into_bytes())
}

/// The rules that apply to the account in a namespace.
pub(crate) fn rules_review(namespace: &str) -> Request<Vec<u8>> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    plain(Method::POST, path, review.to_string().into_bytes())
}

fn plain(method: Method, path: &'static str, body: Vec<u8>) -> Request<Vec<u8>> {
    let has_body = !body.is_empty();
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_static(path);
    let json = HeaderValue::from_static("application/json");
    if has_body {
        request.headers_mut().insert(CONTENT_TYPE, json.clone());
    }
    request.headers_mut().insert(ACCEPT, json);
    request
}

fn secrets(namespace: &str) -> Result<kube_core::Request, BadName> {
    Ok(kube_core::Request::new(Secret::url_path(&(), Some(&segment("namespace", namespace)?))))
}

/// One segment of a path. Dots alone are refused, encoded or not: a URL parser
/// takes `%2e%2e` for a step up, too.
fn segment(what: &'static str, name: &str) -> Result<String, BadName> {
    if name.chars().all(|c| c == '.') {
        return Err(BadName { what, name: name.to_owned() });
    }
    Ok(utf8_percent_encode(name, SEGMENT).to_string())
}

fn accepting(
    accept: &'static str,
    request: Result<Request<Vec<u8>>, kube_core::request::Error>,
    what: &'static str,
    name: &str,
) -> Result<Request<Vec<u8>>, BadName> {
    // A URI has a length bound, which only a name can exceed.
    let mut request = request.map_err(|_| BadName { what, name: name.chars().take(100).collect() })?;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accept));
    Ok(request)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parsing::tests::fixture;

    /// Path and parameters. kube-core begins a query with `?&`, which every server
    /// takes for `?`.
    fn parsed(path_and_query: &str) -> (String, Vec<(String, String)>) {
        let url = url::Url::parse(&format!("https://h{path_and_query}")).unwrap();
        let mut pairs: Vec<_> = url.query_pairs().into_owned().filter(|(key, _)| !key.is_empty()).collect();
        pairs.sort_unstable();
        (url.path().to_owned(), pairs)
    }

    fn assert_recorded(request: &Request<Vec<u8>>, recorded: &serde_json::Value, more: &str) {
        let path = format!("{}{more}", recorded["path"].as_str().unwrap());
        assert_eq!(parsed(&request.uri().to_string()), parsed(&path));
        assert_eq!(request.headers()[ACCEPT].to_str().unwrap(), recorded["accept"].as_str().unwrap());
    }

    #[test]
    fn the_requests_are_the_recorded_ones() {
        let recorded = &fixture("flux/chart-upgrade.json")["request"];
        assert_recorded(&helm_release("apps", "chart-upgrade").unwrap(), recorded, "");

        let recorded = &fixture("helm/helm3-upgrade.json")["request"];
        assert_recorded(&revisions("plain", "helm3-upgrade", None).unwrap(), recorded, "&limit=500");

        let recorded = &fixture("api/answers.json")["one-secret-by-field-selector"]["request"];
        let request = payload("plain", "sh.helm.release.v1.helm3-upgrade-times-out.v2").unwrap();
        assert_recorded(&request, recorded, "");
    }

    #[test]
    fn the_reviews_are_the_recorded_ones() {
        let recorded = &fixture("api/answers.json");
        let access = Access { verb: "get", group: FLUX_GROUP, resource: "helmreleases", subresource: "" };
        for (request, name) in [
            (access_review(access, ""), "ssar-get-helmreleases-allowed"),
            (rules_review("apps"), "rules-review"),
            (version(), "version"),
        ] {
            let recorded = &recorded[name]["request"];
            assert_recorded(&request, recorded, "");
            assert_eq!(request.method().as_str(), recorded["method"].as_str().unwrap());
            let mut body: serde_json::Value = serde_json::from_slice(request.body()).unwrap_or_default();
            // Go leaves out what is empty; the server reads both alike.
            if let Some(attributes) = body.pointer_mut("/spec/resourceAttributes") {
                attributes.as_object_mut().unwrap().retain(|_, value| value != "");
            }
            assert_eq!(&body, &recorded["body"]);
        }
    }

    #[test]
    fn a_page_is_followed_by_its_token() {
        let request = revisions("plain", "app", Some("a+b/c=&limit=1")).unwrap();
        let query = "labelSelector=owner%3Dhelm%2Cname%3Dapp&limit=500&continue=a%2Bb%2Fc%3D%26limit%3D1";
        assert_eq!(request.uri().query().unwrap().trim_start_matches('&'), query);
    }

    #[test]
    fn names_that_would_bend_a_path_or_a_selector_are_encoded_or_refused() {
        let request = helm_release("a/b", "../x?y=#z%2f").unwrap();
        assert_eq!(
            request.uri().to_string(),
            "/apis/helm.toolkit.fluxcd.io/v2/namespaces/a%2Fb/helmreleases/..%2Fx%3Fy%3D%23z%252f"
        );
        for name in ["", ".", "..", "..."] {
            assert!(helm_release("ns", name).is_err() && helm_release(name, "x").is_err());
            assert!(revisions(name, "x", None).is_err() && payload(name, "x").is_err());
        }
        for name in ["", "a,owner!=helm", "a b", "a=b", &"x".repeat(64)] {
            assert!(revisions("ns", name, None).is_err(), "{name}");
        }
        let request = payload("ns", r"a,metadata.name=b\").unwrap();
        assert!(
            request.uri().query().unwrap().contains(r"metadata.name%3Da%5C%2Cmetadata.name%5C%3Db%5C%5C")
        );
    }

    proptest! {
        #[test]
        fn whatever_the_names_the_path_stays(namespace in "\\PC{0,80}", name in "\\PC{0,80}") {
            if let Ok(request) = helm_release(&namespace, &name) {
                let url = url::Url::parse(&format!("https://h/prefix{}", request.uri())).unwrap();
                let segments: Vec<_> = url.path_segments().unwrap().collect();
                prop_assert_eq!(segments.len(), 8);
                prop_assert_eq!((segments[0], segments[6]), ("prefix", "helmreleases"));
                prop_assert_eq!(url.query(), None);
            }
            for request in [revisions(&namespace, &name, Some(&name)), payload(&namespace, &name)].into_iter().flatten() {
                let url = url::Url::parse(&format!("https://h{}", request.uri())).unwrap();
                prop_assert_eq!(url.path_segments().unwrap().count(), 5);
                prop_assert!(url.query_pairs().all(|(k, _)| k != "resourceVersion"));
            }
        }
    }
}
