//! What the API server answers. No IO: a question in, an answer out.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    rules::{self, Asked, FLUX, Rule, User},
    store::Store,
};

/// A request, as far as the answer depends on it.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) accept: Option<&'a str>,
    pub(crate) authorization: Option<&'a str>,
    /// Whether the connection showed a client certificate that the CA issued.
    pub(crate) certified: bool,
    pub(crate) body: &'a [u8],
    pub(crate) now: Timestamp,
}

/// An answer before any fault spoils it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        let mut body = body.to_string().into_bytes();
        body.push(b'\n');
        Self { status, content_type: "application/json", body }
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.as_bytes().to_vec() }
    }

    /// A `Status` that tells of a failure.
    pub(crate) fn status(code: u16, reason: &str, message: &str, details: Option<Value>) -> Self {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        });
        if let Some(details) = details {
            status["details"] = details;
        }
        Self::json(code, &status)
    }

    pub(crate) fn bad_request(message: &str) -> Self {
        Self::status(400, "BadRequest", message, None)
    }

    fn unauthorized() -> Self {
        Self::status(401, "Unauthorized", "Unauthorized", None)
    }

    /// No such API group or version: the router's own words, not a `Status`.
    fn no_such_path() -> Self {
        Self::text(404, "404 page not found\n")
    }
}

/// Everything that the answers depend on, except the question.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) tokens: Vec<SecretString>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) service_account: User,
    pub(crate) flux_installed: bool,
    pub(crate) anonymous: bool,
    pub(crate) git_version: String,
    /// Lists that were begun before this version can't be continued.
    pub(crate) oldest_version: u64,
}

impl World {
    pub(crate) fn answer(&self, question: &Question<'_>) -> Answer {
        let user = match self.user(question.authorization, question.certified) {
            Ok(user) => user,
            Err(refusal) => return refusal,
        };
        // As the real one does, the whole path is decoded before it is split: a
        // name with an encoded slash names something else.
        let path = percent_decode_str(question.path).decode_utf8_lossy();
        let query = Query::parse(question.query);
        let Some(resource) = ResourcePath::parse(&path) else {
            return self.plain_path(&user, question.method, &path);
        };
        let asked = resource.asked(question.method, &query);
        if rules::allowed(&self.rules, &user, &asked).is_none() {
            return rules::forbidden(&user, &asked);
        }
        let form = match Form::of(question.accept) {
            Ok(form) => form,
            Err(refusal) => return refusal,
        };
        match (asked.group.as_str(), resource.version, asked.resource.as_str(), asked.verb.as_str()) {
            ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "create") => {
                rules::access_review(&self.rules, &user, question.body)
            }
            ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "create") => {
                rules::rules_review(&self.rules, question.body)
            }
            (FLUX, "v2", "helmreleases", "get") if self.flux_installed => {
                let found = self.store.helm_release(&asked.namespace, &asked.name, question.now);
                found.map_or_else(|| rules::not_found(&asked), |it| form.one(&it))
            }
            (FLUX, "v2", "helmreleases", "list") if self.flux_installed => {
                self.helm_releases(&asked, form, question.now)
            }
            ("", "v1", "secrets", "get") => self.secret(&asked, form, question.now),
            ("", "v1", "secrets", "list") => self.secrets(&asked, &query, form, question.now),
            ("", "v1", "secrets", _) => method_not_allowed(),
            (FLUX, "v2", "helmreleases", _) if self.flux_installed => method_not_allowed(),
            (group, _, resource, "get") if self.store.serves(group, resource) => {
                let found = self.store.other(group, resource, &asked.namespace, &asked.name);
                found.map_or_else(|| rules::not_found(&asked), |it| form.one(&it))
            }
            _ => Answer::no_such_path(),
        }
    }

    fn user(&self, authorization: Option<&str>, certified: bool) -> Result<User, Answer> {
        // As the real one does: the certificate is looked at first.
        if certified {
            return Ok(self.service_account.clone());
        }
        let token =
            authorization.and_then(|it| it.strip_prefix("Bearer ")).map(str::trim).unwrap_or_default();
        if token.is_empty() {
            return if self.anonymous { Ok(User::Anonymous) } else { Err(Answer::unauthorized()) };
        }
        let known = self.tokens.iter().any(|it| it.expose_secret() == token);
        if known { Ok(self.service_account.clone()) } else { Err(Answer::unauthorized()) }
    }

    fn plain_path(&self, user: &User, method: &Method, path: &str) -> Answer {
        if !rules::is_public(path) {
            // An account may discover what is served, and of most this server has nothing to tell.
            let discovery = ["/api", "/apis", "/openapi"];
            if *user != User::Anonymous
                && self.flux_installed
                && path.trim_end_matches('/') == "/apis/helm.toolkit.fluxcd.io/v2"
            {
                return flux_resources();
            }
            if *user != User::Anonymous && discovery.iter().any(|it| path.starts_with(it)) {
                return Answer::no_such_path();
            }
            return rules::forbidden_path(user, &method.as_str().to_lowercase(), path);
        }
        if path.trim_end_matches('/') != "/version" {
            return Answer::text(200, "ok");
        }
        // Vendors write `33+` there.
        let minor = self.git_version.split('.').nth(1).unwrap_or("36");
        Answer::json(
            200,
            &json!({
                "major": "1",
                "minor": minor,
                "emulationMajor": "1",
                "emulationMinor": "36",
                "minCompatibilityMajor": "1",
                "minCompatibilityMinor": "35",
                "gitVersion": self.git_version,
                "gitCommit": "0000000000000000000000000000000000000000",
                "gitTreeState": "clean",
                "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "go1.26.8",
                "compiler": "gc",
                "platform": "linux/amd64",
            }),
        )
    }

    fn helm_releases(&self, asked: &Asked, form: Form, now: Timestamp) -> Answer {
        let found = self.store.helm_releases(&asked.namespace, now);
        let metadata = json!({ "resourceVersion": self.store.version().to_string() });
        form.list("helm.toolkit.fluxcd.io/v2", "HelmReleaseList", metadata, found.iter().map(Arc::as_ref))
    }

    fn secret(&self, asked: &Asked, form: Form, now: Timestamp) -> Answer {
        let releases = self.store.secrets(&asked.namespace, now);
        let mut items = releases.iter().flat_map(|(_, it)| &it.items);
        let found = items.find(|it| it["metadata"]["name"].as_str() == Some(&asked.name));
        let Some(found) = found else { return rules::not_found(asked) };
        let mut secret = found.clone();
        secret["kind"] = "Secret".into();
        secret["apiVersion"] = "v1".into();
        form.one(&secret)
    }

    fn secrets(&self, asked: &Asked, query: &Query, form: Form, now: Timestamp) -> Answer {
        let selectors = label_selector(query.get("labelSelector")).and_then(|labels| {
            let fields = field_selector(query.get("fieldSelector"))?;
            let limit = query.get("limit").unwrap_or("0").parse::<usize>();
            Ok((labels, fields, limit.map_err(|_| "strconv.ParseInt: limit is not a number".to_owned())?))
        });
        let (labels, fields, limit) = match selectors {
            Ok(selectors) => selectors,
            Err(message) => return Answer::bad_request(&message),
        };
        let (version, after) = match self.continued(query.get("continue")) {
            Ok(continued) => continued,
            Err(refusal) => return refusal,
        };

        let releases = self.store.secrets(&asked.namespace, now);
        let mut items: Vec<&Value> = releases
            .iter()
            .flat_map(|(_, it)| &it.items)
            .filter(|it| {
                labels.iter().all(|(key, value)| it["metadata"]["labels"][key].as_str() == Some(value))
            })
            .filter(|it| fields.iter().all(|(field, value)| field.of(it) == Some(value)))
            // What was pruned before its payload was recorded can be told of, but not shown.
            .filter(|it| form == Form::Metadata || it["data"].is_object())
            .collect();
        let key = |it: &Value| storage_key(it, &asked.namespace);
        items.sort_by_cached_key(|it| key(it));
        if let Some(after) = &after {
            items.retain(|it| key(it) >= *after);
        }

        // A list of one recorded release carries the version that was recorded with it.
        let release = labels.iter().find(|(key, _)| key == "name").map(|(_, value)| value.as_str());
        let recorded = releases.iter().find(|(name, _)| Some(name.as_str()) == release);
        let recorded = recorded.and_then(|(_, it)| it.resource_version);
        let shown = if after.is_some() { version } else { recorded.unwrap_or(version) };
        let mut metadata = json!({ "resourceVersion": shown.to_string() });
        if limit > 0 && items.len() > limit {
            items.truncate(limit);
            // The smallest key after the last that is shown.
            let start = format!("{}\0", items.last().map(|it| key(it)).unwrap_or_default());
            metadata["continue"] =
                Continue { v: "meta.k8s.io/v1".to_owned(), rv: version, start }.encode().into();
        }
        form.list("v1", "SecretList", metadata, items.into_iter())
    }

    /// The version of the list, and the key that it goes on with.
    fn continued(&self, token: Option<&str>) -> Result<(u64, Option<String>), Answer> {
        let Some(token) = token.filter(|it| !it.is_empty()) else { return Ok((self.store.version(), None)) };
        let Some(token) = Continue::decode(token) else {
            return Err(Answer::bad_request("continue key is not valid: it was not issued by this server"));
        };
        if token.rv < self.oldest_version {
            let message = "The provided continue parameter is too old to display a consistent list result. You can \
                           start a new list without the continue parameter, or use the continue token in this \
                           response to retrieve the remainder of the results. Continuing with the provided token \
                           results in an inconsistent list - objects that were created, modified, or deleted between \
                           the time the first chunk was returned and now may show up in the list.";
            return Err(Answer::status(410, "Expired", message, None));
        }
        Ok((token.rv, Some(token.start)))
    }
}

/// What is served of Flux's group.
fn flux_resources() -> Answer {
    let verbs = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    let resource = |name: &str, singular: &str, verbs: &[&str]| {
        json!({
            "name": name,
            "singularName": singular,
            "namespaced": true,
            "kind": "HelmRelease",
            "verbs": verbs,
        })
    };
    let mut releases = resource("helmreleases", "helmrelease", &verbs);
    releases["shortNames"] = json!(["hr"]);
    releases["storageVersionHash"] = "sMuarBVoW+A=".into();
    let status = resource("helmreleases/status", "", &["get", "patch", "update"]);
    Answer::json(
        200,
        &json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": "helm.toolkit.fluxcd.io/v2",
            "resources": [releases, status],
        }),
    )
}

fn method_not_allowed() -> Answer {
    let message = "the server does not allow this method on the requested resource";
    Answer::status(405, "MethodNotAllowed", message, Some(json!({})))
}

/// A place in a list, sealed for the client.
#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: u64,
    start: String,
}

impl Continue {
    fn encode(&self) -> String {
        // Three plain fields: this can't fail.
        URL_SAFE_NO_PAD.encode(serde_json::to_string(self).unwrap_or_default())
    }

    fn decode(token: &str) -> Option<Self> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()
    }
}

/// Lists come in the order of the keys in the store, so v10 before v2. The
/// key begins where what was listed ends.
fn storage_key(item: &Value, listed: &str) -> String {
    let part = |key: &str| item["metadata"][key].as_str().unwrap_or_default();
    let namespace = if listed.is_empty() { part("namespace") } else { "" };
    format!("{namespace}/{}", part("name"))
}

/// A path that names a resource.
struct ResourcePath<'a> {
    group: &'a str,
    version: &'a str,
    namespace: &'a str,
    resource: &'a str,
    name: &'a str,
    subresource: &'a str,
}

impl<'a> ResourcePath<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let part = |index: usize| rest.get(index).copied().unwrap_or_default();
        let resource = rest.first().copied()?;
        Some(Self { group, version, namespace, resource, name: part(1), subresource: part(2) })
    }

    fn asked(&self, method: &Method, query: &Query) -> Asked {
        let watch = matches!(query.get("watch"), Some("1" | "true"));
        let mut name = self.name.to_owned();
        let verb = match *method {
            Method::GET | Method::HEAD if !name.is_empty() => "get",
            Method::GET | Method::HEAD => {
                // A list of one name is a question about that name.
                let fields = field_selector(query.get("fieldSelector")).unwrap_or_default();
                let one = fields.into_iter().find(|(field, _)| *field == Field::Name);
                name = one.map(|(_, value)| value).unwrap_or_default();
                if watch { "watch" } else { "list" }
            }
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        };
        Asked {
            verb: verb.to_owned(),
            group: self.group.to_owned(),
            resource: self.resource.to_owned(),
            subresource: self.subresource.to_owned(),
            namespace: self.namespace.to_owned(),
            name,
        }
    }
}

/// The parameters of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        let decoded = |it: &str| percent_decode_str(&it.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').filter(|it| !it.is_empty());
        Self(
            pairs
                .map(|it| it.split_once('=').unwrap_or((it, "")))
                .map(|(k, v)| (decoded(k), decoded(v)))
                .collect(),
        )
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == key).map(|(_, value)| value.as_str())
    }
}

/// Equalities only: what dag-monitor asks for. The real server knows sets and
/// negations too; here they are refused, so that nobody relies on them unseen.
fn label_selector(selector: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let equalities = equalities(selector)?;
    for (key, value) in &equalities {
        let fits = |it: &str, extra: &str| {
            it.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || extra.contains(c))
        };
        if !fits(key, "/") || key.is_empty() {
            return Err(format!(
                "unable to parse requirement: <nil>: Invalid value: \"{key}\": name part must be valid"
            ));
        }
        if value.len() > 63 || !fits(value, "") {
            return Err(format!(
                "unable to parse requirement: values[0][{key}]: Invalid value: \"{value}\": must be no more than 63 characters and a valid label value"
            ));
        }
    }
    Ok(equalities)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    Type,
}

impl Field {
    fn of(self, item: &Value) -> Option<&str> {
        match self {
            Self::Name => item["metadata"]["name"].as_str(),
            Self::Namespace => item["metadata"]["namespace"].as_str(),
            Self::Type => item["type"].as_str(),
        }
    }
}

fn field_selector(selector: Option<&str>) -> Result<Vec<(Field, String)>, String> {
    let mut fields = Vec::new();
    for (key, value) in equalities(selector)? {
        let field = match key.as_str() {
            "metadata.name" => Field::Name,
            "metadata.namespace" => Field::Namespace,
            "type" => Field::Type,
            _ => return Err(format!("field label not supported: {key}")),
        };
        fields.push((field, value));
    }
    Ok(fields)
}

fn equalities(selector: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let selector = selector.unwrap_or_default();
    if selector.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for part in selector.split(',') {
        for operator in ["==", "="] {
            if part.starts_with(operator) {
                return Err(format!("found '{operator}', expected: !, identifier, or 'end of string'"));
            }
        }
        let (key, value) = part.split_once("==").or_else(|| part.split_once('=')).unwrap_or((part, "!"));
        if [key, value].iter().any(|it| it.contains(['!', '(', ')', '=', '<', '>', ' '])) {
            return Err(format!("the simulated cluster understands equalities only, not {part:?}"));
        }
        found.push((key.to_owned(), value.to_owned()));
    }
    Ok(found)
}

/// What of an object is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Metadata,
}

impl Form {
    /// The first form in the Accept header that is served here.
    fn of(accept: Option<&str>) -> Result<Self, Answer> {
        let accept = accept.filter(|it| !it.trim().is_empty()).unwrap_or("*/*");
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<&str> = parts.collect();
            let transformed = parameters.iter().find_map(|it| it.strip_prefix("as="));
            match (media, transformed) {
                ("application/json", Some("PartialObjectMetadataList" | "PartialObjectMetadata"))
                    if parameters.contains(&"g=meta.k8s.io") && parameters.contains(&"v=v1") =>
                {
                    return Ok(Self::Metadata);
                }
                ("application/json" | "application/*" | "*/*", None) => return Ok(Self::Whole),
                _ => {}
            }
        }
        let message = "only the following media types are accepted: application/json, \
                       application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        Err(Answer::status(406, "NotAcceptable", message, None))
    }

    fn one(self, object: &Value) -> Answer {
        match self {
            Self::Whole => Answer::json(200, object),
            Self::Metadata => Answer::json(200, &partial(object)),
        }
    }

    fn list<'a>(
        self,
        version: &str,
        kind: &str,
        metadata: Value,
        items: impl ExactSizeIterator<Item = &'a Value>,
    ) -> Answer {
        let list = match self {
            Self::Whole => {
                json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items.collect::<Vec<_>>()})
            }
            Self::Metadata => {
                // The real server builds this list from nothing, and none is null.
                let none = items.len() == 0;
                let items: Vec<Value> = items.map(partial).collect();
                json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": if none { Value::Null } else { items.into() },
                })
            }
        };
        Answer::json(200, &list)
    }
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
