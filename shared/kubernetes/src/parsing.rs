//! Answers, from bytes to what a verdict needs. Total: any bytes have an answer.
//!
//! Messages here may hold the server's own words; they are redacted and cleaned
//! where they leave this crate (`client`). Words of a JSON parser are never passed
//! on: it quotes what it has read.

use std::borrow::Cow;

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{error::Category, value::RawValue};
use verdict::{
    AskError, AskErrorKind, HelmRelease, Payload, ReleaseStatus, Revision,
    bounded::{each, time, word},
    flux::object::HELM_CONTROLLER,
};

use crate::{payload, requests::FLUX_GROUP};

/// A page's token longer than this is not followed: it becomes a part of the
/// next request's address.
const CONTINUE_BYTES: usize = 8 * 1024;

/// Kubernetes' longest name.
const NAME_BYTES: usize = 253;

/// Longer than any uid (36), Helm release's name (53), or SHA-512 with its name (135). Such words are kept, twenty of a
/// kind, in an item of at most 400 KB with up to 39 other targets: no server may make it one that can't be stored.
const WORD_BYTES: usize = 160;

/// How many revisions of a release are kept, the highest. A verdict looks at a
/// handful of new ones and at twenty old ones; forty targets may have 10,000 each.
const KEPT: usize = 100;

/// How much of a plain text is quoted.
const QUOTED_CHARS: usize = 300;

/// An answer as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The header, where it is text.
    pub(crate) content_type: Option<&'a str>,
    /// The bytes, decompressed.
    pub(crate) body: &'a [u8],
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    /// The revisions on it; of very many the highest.
    pub(crate) revisions: Vec<Revision>,
    /// Names the next page, where there is one.
    pub(crate) next: Option<String>,
}

/// The HelmRelease that was asked for; `None` where the API server says that
/// there is none.
pub(crate) fn helm_release(
    answer: Answer<'_>,
    namespace: &str,
    name: &str,
) -> Result<Option<Box<HelmRelease>>, AskError> {
    if answer.status == 404 {
        return match Status::of(answer) {
            Some(status) if status.says_absent("helmreleases") => Ok(None),
            None if is_plain_404(answer) => Err(AskError {
                kind: AskErrorKind::FluxNotInstalled,
                message: told(answer, "the cluster has no helm.toolkit.fluxcd.io/v2 API"),
            }),
            _ => Err(refusal(answer)),
        };
    }
    let mut object: HelmRelease = object(answer, "a HelmRelease", is_helm_release, |it: &HelmRelease| {
        Kind::of(&it.kind, &it.api_version)
    })?;
    let (is_name, is_namespace) = (object.metadata.name.as_deref(), object.metadata.namespace.as_deref());
    if is_name != Some(name) || is_namespace != Some(namespace) {
        return Err(not_kubernetes(format!(
            "the answer is HelmRelease {}/{}, not {namespace}/{name}",
            is_namespace.unwrap_or("?"),
            is_name.unwrap_or("?"),
        )));
    }
    shorten(&mut object);
    Ok(Some(Box::new(object)))
}

/// Cuts what is kept of the object. Each time alike, so that a cut word is still itself at the next look.
fn shorten(object: &mut HelmRelease) {
    let HelmRelease { metadata, status, .. } = object;
    let words = [
        &mut metadata.uid,
        &mut status.last_attempted_revision,
        &mut status.last_attempted_config_digest,
        &mut status.last_attempted_revision_digest,
    ];
    let entries = status.history.iter_mut().flat_map(|entry| {
        [Some(&mut entry.name), entry.chart_version.as_mut(), entry.app_version.as_mut()]
            .into_iter()
            .flatten()
    });
    for word in words.into_iter().flatten().chain(entries) {
        word.retain(|c| !c.is_control());
        word.truncate(word.floor_char_boundary(WORD_BYTES));
    }
}

/// One page of a release's secrets.
pub(crate) fn page(answer: Answer<'_>, namespace: &str, release: &str) -> Result<Page, AskError> {
    let list = list(answer)?;
    let (mut revisions, mut empty) = (Vec::new(), true);
    list.each_item(answer, |item: Item| {
        empty = false;
        revisions.extend(revision(item, namespace, release));
        if revisions.len() >= 2 * KEPT {
            keep_highest(&mut revisions);
        }
    })?;
    // "There is nothing" is said by an API server, not by whatever left everything out.
    if empty && list.metadata.is_none() {
        return Err(not_kubernetes(
            "asked for a list of secrets, but the answer is an empty shell".to_owned(),
        ));
    }
    keep_highest(&mut revisions);
    let next = list.metadata.unwrap_or_default().next.filter(|token| !token.is_empty());
    if next.as_ref().is_some_and(|token| token.len() > CONTINUE_BYTES) {
        return Err(not_kubernetes("the list's `continue` is too long".to_owned()));
    }
    Ok(Page { revisions, next })
}

/// The payload of one release secret.
pub(crate) fn payload(answer: Answer<'_>, secret: &str) -> Result<Payload, AskError> {
    let list = list(answer)?;
    let mut found = None;
    list.each_item(answer, |item: Secret<'_>| {
        let metadata = &item.metadata;
        if found.is_none()
            && metadata.name.as_deref() == Some(secret)
            && metadata.label("owner") == Some("helm")
        {
            found = Some(item);
        }
    })?;
    let Some(found) = found else {
        return Ok(Payload::Unreadable(format!("the secret {secret} is gone")));
    };
    Ok(match found.data.unwrap_or_default().release {
        Some(Text(packed)) => payload::unpack(packed.as_bytes()).map_or_else(
            |why| Payload::Unreadable(format!("the payload of {secret} {why}")),
            |release| Payload::Read(Box::new(release)),
        ),
        None => Payload::Unreadable(format!("the secret {secret} has no key `release`")),
    })
}

/// The answer's `Date`, the cluster's clock.
pub(crate) fn date(header: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(header).ok()
}

pub(crate) fn not_kubernetes(message: String) -> AskError {
    AskError { kind: AskErrorKind::NotKubernetes, message }
}

/// Of very many revisions those that the rules put first.
pub(crate) fn keep_highest(revisions: &mut Vec<Revision>) {
    if revisions.len() > KEPT {
        revisions.sort_by(|a, b| (b.version, b.created, &b.uid).cmp(&(a.version, a.created, &a.uid)));
        revisions.truncate(KEPT);
    }
}

fn is_helm_release(is: Kind<'_>) -> bool {
    let group = is.api_version.and_then(|version| version.split_once('/')).map(|(group, _)| group);
    is.kind == Some("HelmRelease") && group == Some(FLUX_GROUP)
}

fn list(answer: Answer<'_>) -> Result<List<'_>, AskError> {
    // An older server answers with the whole secrets; their metadata serve as well.
    let is_list = |is: Kind<'_>| matches!(is.kind, Some("PartialObjectMetadataList" | "SecretList"));
    object(answer, "a list of secrets", is_list, |it: &List<'_>| Kind::of(&it.kind, &it.api_version))
}

/// A secret counts where it is Helm's, of this release, and has a version. The
/// selector asked for that; this holds it against a proxy that drops queries.
fn revision(item: Item, namespace: &str, release: &str) -> Option<Revision> {
    let metadata = item.metadata;
    if metadata.label("owner") != Some("helm") || metadata.label("name") != Some(release) {
        return None;
    }
    if metadata.namespace.as_deref().is_some_and(|ns| ns != namespace) {
        return None;
    }
    // Digits only: `parse` would take a sign, too.
    let version = metadata
        .label("version")
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    let status = metadata.label("status").map_or(ReleaseStatus::Unknown, ReleaseStatus::from_label);
    let (by_flux, created) = (metadata.by_flux, metadata.creation_timestamp);
    let name = metadata.name.filter(|name| name.len() <= NAME_BYTES);
    let uid = metadata.uid.filter(|uid| uid.len() <= WORD_BYTES && !uid.contains(char::is_control));
    let (Some(version), Some(name), Some(uid)) = (version, name, uid) else {
        tracing::warn!(
            namespace,
            release,
            "skipped a release secret without a name, a uid, or a number for its version"
        );
        return None;
    };
    Some(Revision { name, uid, version, status, created, by_flux })
}

/// Reads the body of a 200; everything else is a refusal.
pub(crate) fn read<'a, T: Deserialize<'a>>(answer: Answer<'a>, wanted: &str) -> Result<T, AskError> {
    if answer.status != 200 {
        return Err(refusal(answer));
    }
    serde_json::from_slice(answer.body).map_err(|error| unreadable(answer, &error, wanted))
}

/// Reads an object that says what it is, once. What is of another kind is told so, also where its shape is another one.
fn object<'a, T: Deserialize<'a>>(
    answer: Answer<'a>,
    wanted: &str,
    is_wanted: impl Fn(Kind<'_>) -> bool,
    kind_of: impl Fn(&T) -> Kind<'_>,
) -> Result<T, AskError> {
    let error = match read(answer, wanted) {
        Ok(object) if is_wanted(kind_of(&object)) => return Ok(object),
        Ok(object) => return Err(other(kind_of(&object), wanted)),
        Err(error) => error,
    };
    match read::<Typed>(answer, wanted) {
        Ok(it) if !is_wanted(Kind::of(&it.kind, &it.api_version)) => {
            Err(other(Kind::of(&it.kind, &it.api_version), wanted))
        }
        _ => Err(error),
    }
}

fn unreadable(answer: Answer<'_>, error: &serde_json::Error, wanted: &str) -> AskError {
    not_kubernetes(format!("asked for {wanted}, but the answer {}", unlike(answer, error)))
}

/// What an answer is that can't be read. Never quotes it.
pub(crate) fn unlike(answer: Answer<'_>, error: &serde_json::Error) -> String {
    match error.classify() {
        _ if is_html(answer) => "is a web page".to_owned(),
        Category::Data => format!("has another shape (at line {}, column {})", error.line(), error.column()),
        Category::Eof => "ends in the middle".to_owned(),
        Category::Syntax | Category::Io => {
            format!("is broken JSON (at line {}, column {})", error.line(), error.column())
        }
    }
}

fn other(is: Kind<'_>, wanted: &str) -> AskError {
    not_kubernetes(format!(
        "asked for {wanted}, but the answer is of kind {:?} ({:?})",
        is.kind.unwrap_or_default(),
        is.api_version.unwrap_or_default(),
    ))
}

/// An answer that is not a 200.
fn refusal(answer: Answer<'_>) -> AskError {
    let (kind, why) = match answer.status {
        401 => (AskErrorKind::Unauthorized, "the token was not accepted"),
        403 => (AskErrorKind::Forbidden, "the token may not read this"),
        // A proxy that lost patience with us; by its definition it may pass.
        408 => (AskErrorKind::Slow, "the request timed out there"),
        // A list that changed under our hands: the next look starts again.
        410 => (AskErrorKind::ServerError, "the list is no longer there"),
        429 => (AskErrorKind::Throttled, "the API server asks to slow down"),
        500..=599 => (AskErrorKind::ServerError, "the API server is in trouble"),
        300..=399 => (AskErrorKind::NotKubernetes, "it points elsewhere, and redirects are not followed"),
        _ => (AskErrorKind::NotKubernetes, "no Kubernetes API answers so"),
    };
    AskError { kind, message: told(answer, why) }
}

/// One sentence: the status, and the server's own words or else ours.
pub(crate) fn told(answer: Answer<'_>, otherwise: &str) -> String {
    let code = StatusCode::from_u16(answer.status).ok();
    let reason = code.and_then(|code| code.canonical_reason()).unwrap_or_default();
    let words = Status::of(answer).and_then(|status| status.message).or_else(|| plain_text(answer));
    match words.as_deref().map(str::trim) {
        Some(words) if !words.is_empty() && words != reason => {
            format!("HTTP {} {reason}: {words}", answer.status)
        }
        _ => format!("HTTP {} {reason}: {otherwise}", answer.status),
    }
}

fn plain_text(answer: Answer<'_>) -> Option<String> {
    let plain = answer.content_type.is_some_and(|t| t.trim_start().starts_with("text/plain"));
    if !plain || is_html(answer) {
        return None;
    }
    let start = answer.body.get(..answer.body.len().min(4 * QUOTED_CHARS))?;
    Some(String::from_utf8_lossy(start).chars().take(QUOTED_CHARS).collect())
}

/// What an API server says of a path that it does not serve.
pub(crate) fn is_plain_404(answer: Answer<'_>) -> bool {
    answer.body.trim_ascii() == b"404 page not found" || plain_text(answer).is_some()
}

pub(crate) fn is_html(answer: Answer<'_>) -> bool {
    answer.content_type.is_some_and(|t| t.contains("html"))
        || answer.body.trim_ascii_start().starts_with(b"<")
}

/// What an object says of itself.
#[derive(Debug, Clone, Copy)]
struct Kind<'a> {
    kind: Option<&'a str>,
    api_version: Option<&'a str>,
}

impl<'a> Kind<'a> {
    fn of(kind: &'a Option<String>, api_version: &'a Option<String>) -> Self {
        Self { kind: kind.as_deref(), api_version: api_version.as_deref() }
    }
}

/// An object of which nothing is known but that it says what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    #[serde(default, deserialize_with = "word")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "word")]
    api_version: Option<String>,
}

/// Whether the API server says that there is no such object of this kind.
#[cfg(feature = "operator")]
pub(crate) fn says_absent(answer: Answer<'_>, kind: &str) -> bool {
    answer.status == 404 && Status::of(answer).is_some_and(|status| status.says_absent(kind))
}

/// Kubernetes' word for a failure.
#[derive(Deserialize)]
struct Status {
    kind: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    kind: Option<String>,
}

impl Status {
    fn of(answer: Answer<'_>) -> Option<Self> {
        let status: Self = serde_json::from_slice(answer.body).ok()?;
        (status.kind.as_deref() == Some("Status")).then_some(status)
    }

    fn says_absent(&self, kind: &str) -> bool {
        let about = self.details.as_ref().and_then(|d| d.kind.as_deref());
        self.reason.as_deref() == Some("NotFound") && about.is_none_or(|about| about == kind)
    }
}

/// A list, its items still as text: they are read one by one, since a page can hold
/// a million empty ones.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    #[serde(default, deserialize_with = "word")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "word")]
    api_version: Option<String>,
    metadata: Option<ListMetadata>,
    /// Go writes an empty one as `null`.
    #[serde(borrow)]
    items: Option<&'a RawValue>,
}

impl<'a> List<'a> {
    fn each_item<T: Deserialize<'a>>(&self, answer: Answer<'_>, take: impl FnMut(T)) -> Result<(), AskError> {
        let Some(items) = self.items else { return Ok(()) };
        each(&mut serde_json::Deserializer::from_str(items.get()), take)
            .map_err(|e| unreadable(answer, &e, "a list of secrets"))
    }
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    metadata: Metadata,
}

/// Of `metadata` only what is needed: there may be 10,000 of them.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default, deserialize_with = "word")]
    name: Option<String>,
    #[serde(default, deserialize_with = "word")]
    namespace: Option<String>,
    #[serde(default, deserialize_with = "word")]
    uid: Option<String>,
    #[serde(default, deserialize_with = "time")]
    creation_timestamp: Option<Timestamp>,
    labels: Option<Labels>,
    #[serde(default, rename = "managedFields", deserialize_with = "by_flux")]
    by_flux: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(deserialize_with = "word")]
    owner: Option<String>,
    #[serde(deserialize_with = "word")]
    name: Option<String>,
    #[serde(deserialize_with = "word")]
    status: Option<String>,
    #[serde(deserialize_with = "word")]
    version: Option<String>,
}

#[derive(Deserialize)]
struct ManagedFields {
    #[serde(default, deserialize_with = "word")]
    manager: Option<String>,
}

/// Whether one of a secret's managers is helm-controller.
fn by_flux<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let mut found = false;
    each(deserializer, |fields: ManagedFields| found |= fields.manager.as_deref() == Some(HELM_CONTROLLER))?;
    Ok(found)
}

impl Metadata {
    fn label(&self, key: &str) -> Option<&str> {
        let labels = self.labels.as_ref()?;
        match key {
            "owner" => labels.owner.as_deref(),
            "name" => labels.name.as_deref(),
            "status" => labels.status.as_deref(),
            "version" => labels.version.as_deref(),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Secret<'a> {
    #[serde(default)]
    metadata: Metadata,
    #[serde(borrow)]
    data: Option<Data<'a>>,
}

#[derive(Default, Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    release: Option<Text<'a>>,
}

/// Borrowed from the body, which it nearly fills. A type of its own, because
/// inside an `Option` a `Cow` would be owned.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn path(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
    }

    pub(crate) fn fixture(name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
    }

    fn recorded(name: &str) -> (u16, String, Vec<u8>) {
        let answer = fixture("api/answers.json")[name].clone();
        let body = match &answer["body"] {
            Value::String(text) => text.clone().into_bytes(),
            json => serde_json::to_vec(json).unwrap(),
        };
        let status = answer["status"].as_u64().unwrap().try_into().unwrap();
        (status, answer["headers"]["Content-Type"].as_str().unwrap().to_owned(), body)
    }

    fn flux(recording: &str, namespace: &str, name: &str) -> Result<Option<Box<HelmRelease>>, AskError> {
        let (status, content_type, body) = recorded(recording);
        helm_release(Answer { status, content_type: Some(&content_type), body: &body }, namespace, name)
    }

    fn ok(body: &[u8]) -> Answer<'_> {
        Answer { status: 200, content_type: Some("application/json"), body }
    }

    #[test]
    fn recorded_refusals_have_their_kind_and_the_servers_words() {
        for (name, kind, words) in [
            (
                "unauthorized-bad-token",
                AskErrorKind::Unauthorized,
                "HTTP 401 Unauthorized: the token was not accepted",
            ),
            (
                "anonymous",
                AskErrorKind::Forbidden,
                "HTTP 403 Forbidden: helmreleases.helm.toolkit.fluxcd.io \"x\" is forbidden: User \"system:anonymous\" cannot get",
            ),
            ("crd-not-installed", AskErrorKind::FluxNotInstalled, "HTTP 404 Not Found: 404 page not found"),
            ("bad-label-selector", AskErrorKind::NotKubernetes, "HTTP 400 Bad Request: found '=='"),
        ] {
            let error = flux(name, "apps", "x").unwrap_err();
            assert_eq!(error.kind, kind, "{name}");
            assert!(error.message.starts_with(words), "{}", error.message);
        }
        let (status, content_type, body) = recorded("crd-not-installed");
        let answer = Answer { status, content_type: Some(&content_type), body: &body };
        assert_eq!(page(answer, "apps", "x").unwrap_err().kind, AskErrorKind::NotKubernetes);
        assert_eq!(super::payload(answer, "x").unwrap_err().kind, AskErrorKind::NotKubernetes);
    }

    #[test]
    fn an_absent_object_is_none_and_an_absent_api_is_not() {
        assert!(flux("helmrelease-not-found", "apps", "nobody").unwrap().is_none());
        assert!(flux("namespace-not-found-flux", "nowhere", "nobody").unwrap().is_none());
        let absent = |body: Value| {
            let body = serde_json::to_vec(&body).unwrap();
            helm_release(Answer { status: 404, content_type: None, body: &body }, "ns", "x")
                .map(|o| o.is_none())
        };
        assert_eq!(absent(json!({"kind": "Status", "reason": "NotFound", "details": null})), Ok(true));
        for other in [
            json!({"kind": "Status", "reason": "NotFound", "details": {"kind": "pods"}}),
            json!({"kind": "Status", "reason": "Gone"}),
            json!({"reason": "NotFound"}),
            json!([]),
        ] {
            assert_eq!(absent(other).unwrap_err().kind, AskErrorKind::NotKubernetes);
        }
        let html =
            Answer { status: 404, content_type: Some("text/html"), body: b"<html>no such page</html>" };
        assert_eq!(helm_release(html, "ns", "x").unwrap_err().kind, AskErrorKind::NotKubernetes);
    }

    #[test]
    fn statuses_have_their_kinds() {
        for (status, kind) in [
            (204, AskErrorKind::NotKubernetes),
            (301, AskErrorKind::NotKubernetes),
            (307, AskErrorKind::NotKubernetes),
            (400, AskErrorKind::NotKubernetes),
            (401, AskErrorKind::Unauthorized),
            (403, AskErrorKind::Forbidden),
            (408, AskErrorKind::Slow),
            (410, AskErrorKind::ServerError),
            (418, AskErrorKind::NotKubernetes),
            (429, AskErrorKind::Throttled),
            (500, AskErrorKind::ServerError),
            (503, AskErrorKind::ServerError),
            (599, AskErrorKind::ServerError),
            (999, AskErrorKind::NotKubernetes),
        ] {
            let answer = Answer { status, content_type: None, body: b"<html>secret</html>" };
            for error in [
                helm_release(answer, "ns", "x").unwrap_err(),
                page(answer, "ns", "x").unwrap_err(),
                super::payload(answer, "x").unwrap_err(),
            ] {
                assert_eq!(error.kind, kind, "{status}");
                assert!(error.message.contains(&status.to_string()) && !error.message.contains("secret"));
            }
        }
    }

    #[test]
    fn every_recorded_helmrelease_is_read() {
        let mut read = 0;
        for entry in std::fs::read_dir(path("flux")).unwrap() {
            let recording = fixture(&format!("flux/{}", entry.unwrap().file_name().to_str().unwrap()));
            let asked = recording["request"]["path"].as_str().unwrap();
            let segments: Vec<_> = asked.split('/').collect();
            for frame in recording["frames"].as_array().unwrap() {
                let body = serde_json::to_vec(&frame["body"]).unwrap();
                let status = frame["status"].as_u64().unwrap().try_into().unwrap();
                let answer = Answer { status, content_type: Some("application/json"), body: &body };
                let object = helm_release(answer, segments[5], segments[7]).unwrap();
                assert_eq!(object.is_some(), status == 200);
                read += 1;
            }
        }
        assert!(read > 50, "{read}");
    }

    #[test]
    fn another_object_than_asked_for_is_refused() {
        let body = |api: &str, kind: &str, ns: &str, name: &str| {
            let object =
                json!({"apiVersion": api, "kind": kind, "metadata": {"namespace": ns, "name": name}});
            serde_json::to_vec(&object).unwrap()
        };
        let good = body("helm.toolkit.fluxcd.io/v2", "HelmRelease", "ns", "x");
        assert!(helm_release(ok(&good), "ns", "x").unwrap().is_some());
        for bad in [
            body("helm.toolkit.fluxcd.io/v2", "HelmRelease", "ns", "y"),
            body("helm.toolkit.fluxcd.io/v2", "HelmRelease", "other", "x"),
            body("helm.toolkit.fluxcd.io/v2", "HelmReleaseList", "ns", "x"),
            body("helm.toolkit.fluxcd.io", "HelmRelease", "ns", "x"),
            body("v1", "HelmRelease", "ns", "x"),
            body("v1", "Status", "ns", "x"),
            b"<!doctype html><title>Sign in</title>".to_vec(),
            b"null".to_vec(),
            b"".to_vec(),
            good[..good.len() - 1].to_vec(),
        ] {
            let error = helm_release(ok(&bad), "ns", "x").unwrap_err();
            assert_eq!(error.kind, AskErrorKind::NotKubernetes, "{}", String::from_utf8_lossy(&bad));
        }
        assert!(helm_release(ok(b" <html>"), "ns", "x").unwrap_err().message.contains("a web page"));
        // Its `status` is a word, where a HelmRelease has an object.
        let status = br#"{"apiVersion":"v1","kind":"Status","status":"Failure","code":500}"#;
        let told = helm_release(ok(status), "ns", "x").unwrap_err().message;
        assert!(told.contains(r#"is of kind "Status" ("v1")"#), "{told}");
        let told = page(ok(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":1}"#), "ns", "x");
        assert!(told.unwrap_err().message.contains(r#"is of kind "Table""#));
    }

    #[test]
    fn a_parsers_words_are_not_passed_on() {
        let body = br#"{"apiVersion":"helm.toolkit.fluxcd.io/v2","kind":"HelmRelease","metadata":"hunter2"}"#;
        let error = helm_release(ok(body), "ns", "x").unwrap_err();
        assert!(error.message.contains("another shape") && !error.message.contains("hunter2"), "{error:?}");
    }

    #[test]
    fn every_recorded_list_is_read() {
        for entry in std::fs::read_dir(path("helm")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let recording = fixture(&format!("helm/{name}"));
            let asked = recording["request"]["path"].as_str().unwrap();
            let release = asked.rsplit_once("%3D").unwrap().1;
            for frame in recording["frames"].as_array().unwrap() {
                let items = frame["body"]["items"].as_array().map_or(0, Vec::len);
                let body = serde_json::to_vec(&frame["body"]).unwrap();
                let page = page(ok(&body), "plain", release).unwrap();
                assert_eq!(page.revisions.len(), items, "{name}");
                for revision in page.revisions {
                    assert!(revision.created.is_some() && !revision.by_flux && revision.version > 0);
                    assert_ne!(revision.status, ReleaseStatus::Unknown);
                }
            }
        }
    }

    #[test]
    fn empty_and_chunked_lists() {
        let (_, _, body) = recorded("empty-namespace-secret-metadata");
        assert_eq!(page(ok(&body), "nowhere", "x").unwrap(), Page { revisions: vec![], next: None });
        let (_, _, body) = recorded("metadata-list-chunked");
        let page = page(ok(&body), "plain", "helm3-history-max").unwrap();
        assert!(page.next.unwrap().starts_with("eyJ2IjoibWV0YS5rOHMuaW8vdjEi"));
        assert_eq!(page.revisions.len(), 1, "another release's secret is not counted");
        assert_eq!(page.revisions[0].version, 4);
        assert_eq!(page.revisions[0].uid, "18dabb23-2909-4cfe-92db-4760bd5c80b9");
        assert_eq!(page.revisions[0].created, "2026-11-23T19:16:02Z".parse().ok());
    }

    #[test]
    fn that_there_is_nothing_is_believed_of_a_list_that_says_what_it_is() {
        let page = |rest: &str| page(ok(format!(r#"{{"kind":"SecretList"{rest}}}"#).as_bytes()), "ns", "x");
        for shell in ["", r#","items":null"#, r#","items":[]"#, r#","items":null,"metadata":null"#] {
            assert_eq!(page(shell).unwrap_err().kind, AskErrorKind::NotKubernetes, "{shell}");
        }
        let nothing = Page { revisions: vec![], next: None };
        assert_eq!(page(r#","items":null,"metadata":{"resourceVersion":"1"}"#), Ok(nothing));
    }

    #[test]
    fn of_very_many_revisions_the_highest_are_kept() {
        let item = |version: usize| {
            json!({"metadata": {
                "name": format!("n{version}"), "uid": format!("u{version}"),
                "labels": {"owner": "helm", "name": "x", "version": version.to_string()},
            }})
        };
        // 7 and 2,003 have no divisor in common, so each number comes once.
        let items: Vec<Value> = (0..2_003).map(|n| item(n * 7 % 2_003)).collect();
        let list = json!({"kind": "SecretList", "items": items});
        let page = page(ok(&serde_json::to_vec(&list).unwrap()), "ns", "x").unwrap();
        let versions: Vec<i64> = page.revisions.iter().map(|r| r.version).collect();
        assert_eq!(versions, (1_903..2_003).rev().collect::<Vec<_>>());
    }

    #[test]
    fn secrets_written_by_flux_are_told() {
        let mut seen = 0;
        for entry in std::fs::read_dir(path("timelines")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.ends_with(".secrets.jsonl") {
                continue;
            }
            for line in std::fs::read_to_string(path("timelines").join(&name)).unwrap().lines() {
                let secret = serde_json::from_str::<Value>(line).unwrap()["object"].take();
                let Some(release) = secret["metadata"]["labels"]["name"].as_str() else { continue };
                let namespace = secret["metadata"]["namespace"].as_str().unwrap();
                let list = json!({"kind": "SecretList", "apiVersion": "v1", "items": [&secret]});
                let page = page(ok(&serde_json::to_vec(&list).unwrap()), namespace, release).unwrap();
                let managers = secret["metadata"]["managedFields"].to_string();
                assert_eq!(page.revisions[0].by_flux, managers.contains("\"helm-controller\""), "{name}");
                seen += usize::from(page.revisions[0].by_flux);
            }
        }
        assert!(seen > 10, "{seen}");
    }

    #[test]
    fn no_server_makes_a_baseline_that_cannot_be_stored() {
        let word = |end: &str| format!("\u{1}\"{}{end}", "\\".repeat(WORD_BYTES));
        let read = |end: &str| {
            let entry =
                json!({"name": word(end), "version": 1, "chartVersion": word(end), "appVersion": word(end)});
            let object = json!({
                "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease",
                "metadata": {"name": "x", "namespace": "ns", "uid": word(end)},
                "status": {
                    "lastAttemptedRevision": word(end), "lastAttemptedConfigDigest": word(end),
                    "lastAttemptedRevisionDigest": word(end), "history": vec![entry; 100]
                }
            });
            helm_release(ok(&serde_json::to_vec(&object).unwrap()), "ns", "x").unwrap().unwrap().baseline()
        };
        let baseline = read("a");
        assert_eq!(baseline, read("a"));
        // An item of 400 KB holds some of them beside 40 usual ones.
        let stored = serde_json::to_string(&baseline).unwrap();
        assert!(stored.len() < 12_000 && !stored.contains("\\u0001"), "{}: {stored}", stored.len());
    }

    #[test]
    fn secrets_that_do_not_count_are_skipped() {
        let item = |change: fn(&mut Value)| {
            let mut item = json!({"metadata": {
                "name": "sh.helm.release.v1.x.v10", "namespace": "ns", "uid": "u",
                "labels": {"owner": "helm", "name": "x", "status": "deployed", "version": "10"},
            }});
            change(&mut item);
            let list = json!({"kind": "PartialObjectMetadataList", "items": [item]});
            page(ok(&serde_json::to_vec(&list).unwrap()), "ns", "x").unwrap().revisions.len()
        };
        assert_eq!(item(|_| ()), 1);
        assert_eq!(item(|i| i["metadata"]["creationTimestamp"] = json!("yesterday")), 1);
        assert_eq!(item(|i| i["metadata"]["labels"]["status"] = json!("levitating")), 1);
        for version in ["", "v10", "-1", "+1", "1.0", "99999999999999999999", "٣"] {
            let list = json!({"kind": "PartialObjectMetadataList", "items": [{"metadata": {
                "name": "n", "uid": "u", "labels": {"owner": "helm", "name": "x", "version": version},
            }}]});
            let page = page(ok(&serde_json::to_vec(&list).unwrap()), "ns", "x").unwrap();
            assert!(page.revisions.is_empty(), "{version}");
        }
        for change in [
            (|i| i["metadata"]["labels"]["owner"] = json!("someone")) as fn(&mut Value),
            |i| i["metadata"]["labels"]["name"] = json!("xx"),
            |i| i["metadata"]["labels"] = Value::Null,
            |i| i["metadata"]["namespace"] = json!("other"),
            |i| i["metadata"]["uid"] = Value::Null,
            |i| i["metadata"]["uid"] = json!("u".repeat(WORD_BYTES + 1)),
            |i| i["metadata"]["uid"] = json!("u\u{1}"),
            |i| i["metadata"]["name"] = json!("n".repeat(254)),
        ] {
            assert_eq!(item(change), 0);
        }
    }

    #[test]
    fn a_payload_is_taken_from_the_secret_of_that_name() {
        let (_, _, body) = recorded("one-secret-by-field-selector");
        let name = "sh.helm.release.v1.helm3-upgrade-times-out.v2";
        let Payload::Read(release) = super::payload(ok(&body), name).unwrap() else { panic!() };
        assert!(release.info.description.contains("context deadline exceeded"));
        let Payload::Unreadable(why) = super::payload(ok(&body), "another").unwrap() else { panic!() };
        assert_eq!(why, "the secret another is gone");
        let list = |items: Value| {
            let list = json!({"kind": "SecretList", "apiVersion": "v1", "items": items});
            match super::payload(ok(&serde_json::to_vec(&list).unwrap()), "s").unwrap() {
                Payload::Unreadable(why) => why,
                Payload::Read(_) => panic!("read"),
            }
        };
        let metadata = json!({"name": "s", "labels": {"owner": "helm"}});
        assert!(list(Value::Null).contains("gone"));
        assert!(list(json!([{"metadata": {"name": "s"}, "data": {"release": "x"}}])).contains("gone"));
        assert!(list(json!([{"metadata": metadata}])).contains("no key"));
        assert!(list(json!([{"metadata": metadata, "data": {"release": "%"}}])).contains("broken base64"));
    }

    #[test]
    fn the_date_is_read_or_absent() {
        assert_eq!(date("Mon, 23 Nov 2026 19:15:45 GMT"), "2026-11-23T19:15:45Z".parse().ok());
        for broken in ["", "yesterday", "2026-11-23T19:15:45Z", "Mon, 99 Nov 2026 19:15:45 GMT"] {
            assert_eq!(date(broken), None, "{broken}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let words = prop::sample::select(vec![
            "kind",
            "Status",
            "HelmRelease",
            "SecretList",
            "PartialObjectMetadataList",
            "apiVersion",
            "items",
            "helm.toolkit.fluxcd.io/v2",
            "metadata",
            "name",
            "namespace",
            "labels",
            "owner",
            "helm",
            "version",
            "1",
            "uid",
            "continue",
            "data",
            "release",
            "reason",
            "NotFound",
            "details",
            "message",
            "managedFields",
            "manager",
            "spec",
            "values",
            "status",
            "history",
            "conditions",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            words.clone().prop_map(Value::from),
            "\\PC*".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(words.clone().prop_map(str::to_owned), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn ask_all(status: u16, content_type: Option<&str>, body: &[u8]) {
        let answer = Answer { status, content_type, body };
        let _ = helm_release(answer, "name", "1");
        let _ = page(answer, "name", "1");
        let _ = super::payload(answer, "1");
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(
            status in any::<u16>(), content_type in prop::option::of("\\PC*"),
            body in prop::collection::vec(any::<u8>(), 0..500), header in "\\PC*",
        ) {
            ask_all(status, content_type.as_deref(), &body);
            ask_all(200, content_type.as_deref(), &body);
            ask_all(404, content_type.as_deref(), &body);
            let _ = date(&header);
        }

        #[test]
        fn any_json_has_an_answer(value in any_json(), status in prop::sample::select(vec![200, 404, 403])) {
            ask_all(status, None, &serde_json::to_vec(&value).unwrap());
        }
    }
}
