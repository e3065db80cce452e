//! The request for a deployment: the execution's input.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use verdict::{Expect, FailOn, HelmType};

/// How many targets one deployment may have: one check asks all of them within
/// its time, and the item stays small.
pub const MAX_TARGETS: usize = 40;
/// How long a deployment may be waited for, in seconds. The upper end keeps an
/// execution's history under the 25,000 events that Step Functions allows
/// (AWS Step Functions developer guide, "Quotas").
pub const TIMEOUT_SECS: std::ops::RangeInclusive<u32> = 10..=7200;
/// How far `pushedAt` may lie ahead of the start: the clock of a CI runner may
/// differ, but an instant that is still to come would let nothing ever count.
const PUSHED_AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// How many values may be expected, and how long their JSON may be, in bytes:
/// the request is stored with the deployment.
const MAX_VALUES: usize = 50;
const MAX_VALUES_BYTES: usize = 16 * 1024;
const MAX_VERSION_CHARS: usize = 128;

/// A valid request. It never changes while the deployment runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// 1-80 of `A-Za-z0-9-_`.
    pub deployment_id: String,
    /// With `environment` and without targets: what is looked up. Else a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// See `app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// How Helm is driven; `None`: as the registered environment says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helm_type: Option<HelmType>,
    /// What is watched: 1-40, unique; none: what the registered environment says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetRequest>,
    /// How long to wait, 10-7,200 s; `None`: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u32>,
    /// What the push should bring.
    #[serde(default, skip_serializing_if = "Expect::is_empty")]
    pub expect: Expect,
    /// An instant not later than the push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed_at: Option<Timestamp>,
    /// When a failure counts.
    #[serde(default)]
    pub fail_on: FailOn,
    /// End at the first failed target.
    #[serde(default)]
    pub fail_fast: bool,
    /// Judge what is there even if nothing happened since the push.
    #[serde(default)]
    pub allow_unchanged: bool,
}

/// One target of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRequest {
    /// A cluster's name or id.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// The HelmRelease's name (flux) or the Helm release's (plain).
    pub release: String,
}

/// The Step Functions execution that a check belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// Its ARN.
    pub arn: String,
    /// When it began.
    pub started_at: Timestamp,
}

impl Execution {
    /// The execution's name: the last part of its ARN.
    #[must_use]
    pub fn name(&self) -> &str {
        self.arn.rsplit(':').next().unwrap_or_default()
    }
}

/// A field that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What came and what is allowed.
    pub detail: String,
}

/// The refusals as one sentence.
#[must_use]
pub fn sentence(refusals: &[Refusal]) -> String {
    let all: Vec<String> = refusals
        .iter()
        .map(|r| if r.pointer.is_empty() { r.detail.clone() } else { format!("{}: {}", r.pointer, r.detail) })
        .collect();
    verdict::clean(&all.join("; "))
}

/// Reads a check's event: the execution's input, to which the state machine adds `execution`.
///
/// # Errors
/// Every field that is refused, each with its JSON pointer.
pub fn parse(event: &Value) -> Result<(Request, Option<Execution>), Vec<Refusal>> {
    let mut reader = Reader::default();
    let object = reader.object(event)?;
    for key in object.keys().filter(|k| !FIELDS.contains(&k.as_str()) && !ADDED.contains(&k.as_str())) {
        reader.refuse(pointer("", key), unknown(&FIELDS));
    }
    let execution = reader.execution(object.get("execution"));
    let request = reader.request(object, execution.as_ref().map(Execution::name), execution.as_ref());
    reader.end(request.map(|request| (request, execution)))
}

/// Reads what a caller wants started: the same without what the state machine adds.
/// `id` is the deployment's where the caller gives none; `now` stands for the start.
///
/// # Errors
/// Every field that is refused, each with its JSON pointer.
pub fn parse_start(body: &Value, id: &str, now: Timestamp) -> Result<Request, Vec<Refusal>> {
    let mut reader = Reader::default();
    let object = reader.object(body)?;
    for key in object.keys().filter(|k| !FIELDS.contains(&k.as_str())) {
        reader.refuse(pointer("", key), unknown(&FIELDS));
    }
    let begun = Execution { arn: String::new(), started_at: now };
    let request = reader.request(object, Some(id), Some(&begun));
    reader.end(request)
}

/// What an environment is registered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentSpec {
    /// How Helm is driven.
    pub helm_type: HelmType,
    /// What a deployment watches: 1-40, unique.
    pub targets: Vec<TargetRequest>,
    /// How long a deployment is waited for, 10-7,200 s.
    pub timeout_secs: Option<u32>,
}

/// Reads the registration of an environment: `{helmType, targets, timeoutSecs?}`.
///
/// # Errors
/// Every field that is refused, each with its JSON pointer.
pub fn parse_environment(body: &Value) -> Result<EnvironmentSpec, Vec<Refusal>> {
    const KNOWN: [&str; 3] = ["helmType", "targets", "timeoutSecs"];
    let mut reader = Reader::default();
    let object = reader.object(body)?;
    for key in object.keys().filter(|k| !KNOWN.contains(&k.as_str())) {
        reader.refuse(pointer("", key), unknown(&KNOWN));
    }
    let helm_type = reader.helm_type(present(object, "helmType"));
    if present(object, "helmType").is_none() {
        reader.refuse("/helmType", "is missing; it is \"flux\" or \"plain\"");
    }
    let targets = reader.targets(present(object, "targets"), helm_type);
    let timeout_secs = reader.timeout(present(object, "timeoutSecs"));
    reader.end(helm_type.map(|helm_type| EnvironmentSpec { helm_type, targets, timeout_secs }))
}

/// Whether it can be the name of an app or of an environment: 1-63 of `a-z0-9-`.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Whether it can be a deployment's id: 1-80 of `A-Za-z0-9-_`.
#[must_use]
pub fn is_deployment_id(text: &str) -> bool {
    (1..=80).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl Request {
    /// Tells whether two requests are the same: SHA-256, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        // invariant: strings, numbers and maps with string keys always serialize.
        let canonical = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(&canonical).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

const FIELDS: [&str; 11] = [
    "deploymentId",
    "app",
    "environment",
    "helmType",
    "targets",
    "timeoutSecs",
    "expect",
    "pushedAt",
    "failOn",
    "failFast",
    "allowUnchanged",
];

/// What is added to the input on its way.
const ADDED: [&str; 2] = [
    // By our state machine.
    "execution",
    // By a nested start (AWS Step Functions developer guide, "Start workflow
    // executions from a task state").
    "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID",
];

fn unknown(known: &[&str]) -> String {
    format!("this field is unknown; known are {}", known.join(", "))
}

#[derive(Default)]
struct Reader {
    refusals: Vec<Refusal>,
}

impl Reader {
    fn refuse(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        // An event of refusals alone must not grow without end.
        if self.refusals.len() < 20 {
            self.refusals.push(Refusal { pointer: pointer.into(), detail: detail.into() });
        }
    }

    fn object<'a>(&mut self, value: &'a Value) -> Result<&'a Map<String, Value>, Vec<Refusal>> {
        value.as_object().ok_or_else(|| {
            self.refuse("", format!("{} is no request; an object is awaited", shown(value)));
            std::mem::take(&mut self.refusals)
        })
    }

    fn end<T>(self, read: Option<T>) -> Result<T, Vec<Refusal>> {
        read.filter(|_| self.refusals.is_empty()).ok_or(self.refusals)
    }

    /// `name` is the deployment's where it has no id.
    fn request(
        &mut self,
        object: &Map<String, Value>,
        name: Option<&str>,
        begun: Option<&Execution>,
    ) -> Option<Request> {
        let deployment_id = match present(object, "deploymentId") {
            Some(_) => self.word(object, "", "deploymentId", "1-80 of A-Z a-z 0-9 - _", is_deployment_id),
            None => {
                if name.is_none_or(|n| !is_deployment_id(n)) {
                    self.refuse("/deploymentId", "is missing; 1-80 of A-Z a-z 0-9 - _ are awaited");
                }
                name.map(str::to_owned)
            }
        };
        let label = "1-63 of a-z 0-9 -";
        let app = self.optional_word(object, "app", label, is_label);
        let environment = self.optional_word(object, "environment", label, is_label);
        let (helm_type, targets) = self.what(object);
        let timeout_secs = self.timeout(present(object, "timeoutSecs"));
        let expect = self.expect(present(object, "expect"));
        let pushed_at = self.pushed_at(present(object, "pushedAt"), begun);
        let fail_on = match present(object, "failOn") {
            None => FailOn::Final,
            Some(Value::String(s)) if s == "final" => FailOn::Final,
            Some(Value::String(s)) if s == "first" => FailOn::First,
            Some(other) => {
                self.refuse(
                    "/failOn",
                    format!("{} is not known; it is \"final\" or \"first\"", shown(other)),
                );
                FailOn::Final
            }
        };
        let fail_fast = self.flag(object, "failFast");
        let allow_unchanged = self.flag(object, "allowUnchanged");
        Some(Request {
            deployment_id: deployment_id?,
            app,
            environment,
            helm_type,
            targets,
            timeout_secs,
            expect,
            pushed_at,
            fail_on,
            fail_fast,
            allow_unchanged,
        })
    }

    /// The two forms: helmType and targets, or app and environment of a registered one.
    fn what(&mut self, object: &Map<String, Value>) -> (Option<HelmType>, Vec<TargetRequest>) {
        let [helm_type, targets, app, environment] =
            ["helmType", "targets", "app", "environment"].map(|field| present(object, field));
        if helm_type.is_some() || targets.is_some() {
            if helm_type.is_none() {
                self.refuse(
                    "/helmType",
                    "is missing; with targets it is \"flux\" or \"plain\". A registered environment's targets can't \
                     be replaced: give both, or neither",
                );
            }
            let helm_type = self.helm_type(helm_type);
            return (helm_type, self.targets(targets, helm_type));
        }
        match (app, environment) {
            (Some(_), Some(_)) => {}
            (None, None) => {
                self.refuse("/helmType", "is missing; give helmType and targets, or app and environment");
            }
            (Some(_), None) => self.refuse("/environment", "is missing; app and environment go together"),
            (None, Some(_)) => self.refuse("/app", "is missing; app and environment go together"),
        }
        (None, Vec::new())
    }

    fn helm_type(&mut self, value: Option<&Value>) -> Option<HelmType> {
        match value? {
            Value::String(s) if s == "flux" => Some(HelmType::Flux),
            Value::String(s) if s == "plain" => Some(HelmType::Plain),
            other => {
                self.refuse(
                    "/helmType",
                    format!("{} is no helmType; it is \"flux\" or \"plain\"", shown(other)),
                );
                None
            }
        }
    }

    fn execution(&mut self, value: Option<&Value>) -> Option<Execution> {
        let value = value.filter(|v| !v.is_null())?;
        let arn =
            value.get("arn").and_then(Value::as_str).filter(|a| a.starts_with("arn:") && a.len() <= 512);
        let started_at = value.get("startedAt").and_then(Value::as_str).and_then(|s| s.parse().ok());
        match (arn, started_at) {
            (Some(arn), Some(started_at)) => Some(Execution { arn: arn.to_owned(), started_at }),
            _ => {
                self.refuse(
                    "/execution",
                    "the state machine adds it, with the execution's arn and startedAt; leave it out elsewhere",
                );
                None
            }
        }
    }

    fn targets(&mut self, value: Option<&Value>, helm_type: Option<HelmType>) -> Vec<TargetRequest> {
        let Some(value) = value else {
            self.refuse(
                "/targets",
                "is missing; a list of 1-40 objects {\"cluster\", \"namespace\", \"release\"} is awaited",
            );
            return Vec::new();
        };
        let Some(list) = value.as_array().filter(|l| (1..=MAX_TARGETS).contains(&l.len())) else {
            self.refuse(
                "/targets",
                format!("{} came; a list of 1-{MAX_TARGETS} targets is awaited", shown(value)),
            );
            return Vec::new();
        };
        let mut unique = HashSet::new();
        let mut targets = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let at = format!("/targets/{index}");
            let Some(object) = value.as_object() else {
                self.refuse(at, format!("{} came; an object is awaited", shown(value)));
                continue;
            };
            for key in object.keys().filter(|k| !["cluster", "namespace", "release"].contains(&k.as_str())) {
                self.refuse(
                    pointer(&at, key),
                    "this field is unknown; known are cluster, namespace, release",
                );
            }
            let cluster =
                self.word(object, &at, "cluster", "a cluster's name or id, 1-100 characters", |c| {
                    (1..=100).contains(&c.chars().count()) && !c.chars().any(char::is_control)
                });
            let namespace = match present(object, "namespace") {
                None => Some("default".to_owned()),
                Some(_) => {
                    self.word(object, &at, "namespace", "a namespace: 1-63 of a-z 0-9 -", is_namespace)
                }
            };
            // Helm's own limit leaves room for the suffixes that it appends
            // (Helm `pkg/chartutil/validate_name.go`).
            let (max, allowed) = match helm_type {
                Some(HelmType::Plain) => (53, "a Helm release's name: 1-53 of a-z 0-9 - ."),
                _ => (253, "a HelmRelease's name: 1-253 of a-z 0-9 - ."),
            };
            let release = self.word(object, &at, "release", allowed, |r| is_subdomain(r, max));
            if let (Some(cluster), Some(namespace), Some(release)) = (cluster, namespace, release) {
                let target = TargetRequest { cluster, namespace, release };
                // A cluster's name and its id are the same cluster.
                let key =
                    (crate::slug::slug(&target.cluster), target.namespace.clone(), target.release.clone());
                if unique.insert(key) {
                    targets.push(target);
                } else {
                    self.refuse(at, "this target is in the list already");
                }
            }
        }
        targets
    }

    fn timeout(&mut self, value: Option<&Value>) -> Option<u32> {
        let value = value?;
        let secs = value.as_u64().and_then(|s| u32::try_from(s).ok()).filter(|s| TIMEOUT_SECS.contains(s));
        if secs.is_none() {
            let (from, to) = TIMEOUT_SECS.into_inner();
            self.refuse(
                "/timeoutSecs",
                format!("{} came; a whole number of {from}-{to} seconds is awaited", shown(value)),
            );
        }
        secs
    }

    fn pushed_at(&mut self, value: Option<&Value>, execution: Option<&Execution>) -> Option<Timestamp> {
        let value = value?;
        let Some(pushed_at) = value.as_str().and_then(|s| s.parse::<Timestamp>().ok()) else {
            self.refuse(
                "/pushedAt",
                format!(
                    "{} came; an instant as in \"2026-11-23T19:15:45Z\" (RFC 3339) is awaited",
                    shown(value)
                ),
            );
            return None;
        };
        if let Some(execution) = execution
            && pushed_at.duration_since(execution.started_at) > PUSHED_AHEAD
        {
            self.refuse(
                "/pushedAt",
                format!(
                    "{pushed_at} lies after the start ({}); take the time before `git push`, in UTC",
                    execution.started_at
                ),
            );
        }
        Some(pushed_at)
    }

    fn expect(&mut self, value: Option<&Value>) -> Expect {
        let mut expect = Expect::default();
        let Some(value) = value else {
            return expect;
        };
        let Some(object) = value.as_object() else {
            self.refuse(
                "/expect",
                format!(
                    "{} came; an object with chartVersion, appVersion or values is awaited",
                    shown(value)
                ),
            );
            return expect;
        };
        for key in object.keys().filter(|k| !["chartVersion", "appVersion", "values"].contains(&k.as_str())) {
            self.refuse(
                pointer("/expect", key),
                "this field is unknown; known are chartVersion, appVersion, values",
            );
        }
        for (field, into) in
            [("chartVersion", &mut expect.chart_version), ("appVersion", &mut expect.app_version)]
        {
            if present(object, field).is_some() {
                *into = self.word(object, "/expect", field, "a version, 1-128 characters", |v| {
                    let v = v.trim();
                    !v.is_empty()
                        && v.chars().count() <= MAX_VERSION_CHARS
                        && !v.chars().any(char::is_control)
                });
            }
        }
        match present(object, "values") {
            None => {}
            Some(Value::Object(values)) => {
                for key in values.keys().filter(|k| !is_json_pointer(k)) {
                    self.refuse(
                        pointer("/expect/values", key),
                        "this is no JSON pointer; one as in \"/image/tag\" is awaited",
                    );
                }
                let bytes = serde_json::to_string(values).map_or(0, |t| t.len());
                if values.len() > MAX_VALUES || bytes > MAX_VALUES_BYTES {
                    self.refuse(
                        "/expect/values",
                        format!(
                            "{} values of {bytes} bytes came; at most {MAX_VALUES} of {MAX_VALUES_BYTES} bytes are allowed",
                            values.len()
                        ),
                    );
                }
                expect.values = values.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            }
            Some(_) => self.refuse(
                "/expect/values",
                "an object of JSON pointers is awaited, as in {\"/image/tag\": \"2026.11.3\"}",
            ),
        }
        expect
    }

    fn flag(&mut self, object: &Map<String, Value>, field: &str) -> bool {
        match present(object, field) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.refuse(format!("/{field}"), format!("{} came; true or false is awaited", shown(other)));
                false
            }
        }
    }

    fn optional_word(
        &mut self,
        object: &Map<String, Value>,
        field: &str,
        allowed: &str,
        is_allowed: impl Fn(&str) -> bool,
    ) -> Option<String> {
        present(object, field).and_then(|_| self.word(object, "", field, allowed, is_allowed))
    }

    fn word(
        &mut self,
        object: &Map<String, Value>,
        at: &str,
        field: &str,
        allowed: &str,
        is_allowed: impl Fn(&str) -> bool,
    ) -> Option<String> {
        match present(object, field) {
            Some(Value::String(text)) if is_allowed(text) => return Some(text.clone()),
            Some(other) => {
                self.refuse(format!("{at}/{field}"), format!("{} came; {allowed} is awaited", shown(other)));
            }
            None => self.refuse(format!("{at}/{field}"), format!("is missing; {allowed} is awaited")),
        }
        None
    }
}

/// A field that is `null` counts as absent, as in JSON written by other programs.
fn present<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|v| !v.is_null())
}

fn pointer(at: &str, key: &str) -> String {
    let key: String = key.chars().take(60).collect();
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// What came, short enough for a sentence.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => {
            let short: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
            format!("\"{short}\"")
        }
        other => other.to_string(),
    }
}

/// An RFC 1123 label (Kubernetes `apimachinery/pkg/util/validation`).
fn is_namespace(text: &str) -> bool {
    is_label(text) && !text.starts_with('-') && !text.ends_with('-')
}

/// An RFC 1123 subdomain: labels with dots between them.
fn is_subdomain(text: &str, max: usize) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('-')
            && !p.ends_with('-')
            && p.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    (1..=max).contains(&text.len()) && text.split('.').all(part)
}

/// RFC 6901: `~` only as `~0` or `~1`.
fn is_json_pointer(text: &str) -> bool {
    (text.is_empty() || text.starts_with('/'))
        && text.len() <= 512
        && text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn valid() -> Value {
        json!({
            "deploymentId": "checkout-4711", "app": "checkout", "environment": "production", "helmType": "flux",
            "targets": [{"cluster": "prod-eu", "namespace": "shop", "release": "checkout"}],
            "timeoutSecs": 300,
            "expect": {"chartVersion": "1.4.0", "appVersion": "2026.11.3", "values": {"/image/tag": "2026.11.3"}},
            "pushedAt": "2026-11-23T19:15:45Z", "failOn": "final", "failFast": false, "allowUnchanged": false,
            "execution": {"arn": "arn:aws:states:eu-west-1:1:execution:m:run-1", "startedAt": "2026-11-23T19:15:50Z"},
            "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID": "arn:aws:states:eu-west-1:1:execution:o:1"
        })
    }

    fn refused(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut event = valid();
        change(&mut event);
        parse(&event).map_or_else(|r| r.into_iter().map(|r| r.pointer).collect(), |_| Vec::new())
    }

    #[test]
    fn the_documented_request_is_valid() {
        let (request, execution) = parse(&valid()).unwrap();
        assert_eq!(request.targets.len(), 1);
        assert_eq!(execution.unwrap().name(), "run-1");
    }

    #[test]
    fn the_execution_names_a_deployment_without_an_id_and_a_namespace_has_a_default() {
        let mut event = valid();
        event["deploymentId"] = Value::Null;
        event["targets"][0].as_object_mut().unwrap().remove("namespace");
        let (request, _) = parse(&event).unwrap();
        assert_eq!(request.deployment_id, "run-1");
        assert_eq!(request.targets[0].namespace, "default");
    }

    #[test]
    fn each_wrong_field_is_named_by_its_pointer() {
        let cases: Vec<(&str, Value, &str)> = vec![
            ("/deploymentId", json!("a/b"), "/deploymentId"),
            ("/deploymentId", json!("x".repeat(81)), "/deploymentId"),
            ("/app", json!("Check Out"), "/app"),
            ("/helmType", json!("argo"), "/helmType"),
            ("/helmType", json!(1), "/helmType"),
            ("/targets", json!([]), "/targets"),
            ("/targets", json!({}), "/targets"),
            ("/targets", json!(vec![json!({}); 41]), "/targets"),
            ("/targets/0", json!("prod"), "/targets/0"),
            ("/targets/0/cluster", json!(""), "/targets/0/cluster"),
            ("/targets/0/namespace", json!("Shop"), "/targets/0/namespace"),
            ("/targets/0/namespace", json!("../kube-system"), "/targets/0/namespace"),
            ("/targets/0/release", json!("a,owner!=helm"), "/targets/0/release"),
            ("/targets/0/release", json!("-a"), "/targets/0/release"),
            ("/timeoutSecs", json!(9), "/timeoutSecs"),
            ("/timeoutSecs", json!(7201), "/timeoutSecs"),
            ("/timeoutSecs", json!("300"), "/timeoutSecs"),
            ("/timeoutSecs", json!(30.5), "/timeoutSecs"),
            ("/expect", json!("1.4.0"), "/expect"),
            ("/expect/chartVersion", json!(1.4), "/expect/chartVersion"),
            ("/expect/values", json!({"image.tag": 1}), "/expect/values/image.tag"),
            ("/expect/values", json!([]), "/expect/values"),
            ("/pushedAt", json!("yesterday"), "/pushedAt"),
            ("/pushedAt", json!(1795461345), "/pushedAt"),
            ("/pushedAt", json!("2026-11-23T20:15:45Z"), "/pushedAt"),
            ("/failOn", json!("never"), "/failOn"),
            ("/failFast", json!("yes"), "/failFast"),
            ("/allowUnchanged", json!(1), "/allowUnchanged"),
            ("/execution", json!({"arn": "x"}), "/execution"),
        ];
        for (at, value, pointer) in cases {
            assert_eq!(refused(|e| *e.pointer_mut(at).unwrap() = value.clone()), [pointer], "{at} {value}");
        }
        assert_eq!(refused(|e| e["clusters"] = json!([])), ["/clusters"]);
        assert_eq!(refused(|e| e["targets"][0]["a/b"] = json!(1)), ["/targets/0/a~1b"]);
        assert_eq!(refused(|e| e["expect"]["version"] = json!(1)), ["/expect/version"]);
        assert_eq!(refused(|e| *e = json!("x")), [""]);
        let twice = json!([{"cluster": "Prod EU", "release": "a"}, {"cluster": "prod-eu", "release": "a"}]);
        assert_eq!(refused(|e| e["targets"] = twice.clone()), ["/targets/1"]);
        let missing = parse(&json!({})).unwrap_err();
        assert_eq!(
            missing.iter().map(|r| r.pointer.as_str()).collect::<Vec<_>>(),
            ["/deploymentId", "/helmType"]
        );
    }

    #[test]
    fn what_is_watched_is_named_or_looked_up_and_never_half() {
        let without = |fields: &[&str]| {
            refused(|e| {
                for field in fields {
                    e.as_object_mut().unwrap().remove(*field);
                }
            })
        };
        assert_eq!(without(&["helmType", "targets"]), Vec::<String>::new());
        assert_eq!(without(&["app", "environment"]), Vec::<String>::new());
        assert_eq!(without(&["helmType"]), ["/helmType"]);
        assert_eq!(without(&["targets"]), ["/targets"]);
        assert_eq!(without(&["helmType", "targets", "app"]), ["/app"]);
        assert_eq!(without(&["helmType", "targets", "environment"]), ["/environment"]);
        assert_eq!(without(&["helmType", "targets", "app", "environment"]), ["/helmType"]);
    }

    #[test]
    fn a_start_names_no_execution() {
        let now = "2026-11-23T19:16:00Z".parse().unwrap();
        let mut body = valid();
        for added in ADDED {
            let refused = parse_start(&body, "generated", now).unwrap_err();
            let pointer = format!("/{added}");
            assert!(refused.iter().any(|it| it.pointer == pointer), "{pointer}");
            body.as_object_mut().unwrap().remove(added);
        }
        let request = parse_start(&body, "generated", now).unwrap();
        assert_eq!(request, parse(&valid()).unwrap().0, "the state machine reads the same");
        body.as_object_mut().unwrap().remove("deploymentId");
        assert_eq!(parse_start(&body, "generated", now).unwrap().deployment_id, "generated");
        body["pushedAt"] = json!("2026-11-23T19:30:00Z");
        assert_eq!(parse_start(&body, "generated", now).unwrap_err()[0].pointer, "/pushedAt");
    }

    #[test]
    fn an_environment_is_read_like_a_request() {
        let body = json!({"helmType": "plain", "targets": [{"cluster": "prod-eu", "release": "a"}], "timeoutSecs": 60});
        let spec = parse_environment(&body).unwrap();
        assert_eq!((spec.helm_type, spec.targets[0].namespace.as_str()), (HelmType::Plain, "default"));
        let pointers = |body: &Value| -> Vec<String> {
            parse_environment(body).unwrap_err().into_iter().map(|r| r.pointer).collect()
        };
        assert_eq!(pointers(&json!({})), ["/helmType", "/targets"]);
        assert_eq!(pointers(&json!([])), [""]);
        assert_eq!(
            pointers(&json!({"helmType": "x", "targets": [], "timeoutSecs": 1, "failOn": "first"})),
            ["/failOn", "/helmType", "/targets", "/timeoutSecs"]
        );
    }

    #[test]
    fn plain_helms_names_are_shorter() {
        let long = "x".repeat(54);
        assert_eq!(refused(|e| e["targets"][0]["release"] = json!(long)), Vec::<String>::new());
        assert_eq!(
            refused(|e| {
                e["helmType"] = json!("plain");
                e["targets"][0]["release"] = json!(long);
            }),
            ["/targets/0/release"]
        );
    }

    #[test]
    fn the_digest_tells_requests_apart_but_not_executions() {
        let digest = |change: &dyn Fn(&mut Value)| {
            let mut event = valid();
            change(&mut event);
            parse(&event).unwrap().0.digest()
        };
        let same = digest(&|_| {});
        assert_eq!(
            same,
            digest(&|e| e["execution"]["arn"] = json!("arn:aws:states:eu-west-1:1:execution:m:run-2"))
        );
        assert_ne!(same, digest(&|e| e["timeoutSecs"] = json!(301)));
        assert_ne!(same, digest(&|e| e["expect"]["values"]["/image/tag"] = json!("other")));
    }

    #[test]
    fn a_sentence_is_short_and_quotes_little() {
        let mut event = valid();
        event["helmType"] = json!("a".repeat(10_000));
        let sentence = sentence(&parse(&event).unwrap_err());
        assert!(sentence.starts_with("/helmType: \"aaa") && sentence.len() < 200, "{sentence}");
    }
}
