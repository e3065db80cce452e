//! A deployment, look by look, in few words.
//!
//! Seconds count from the push. A look is taken every five seconds, the first at
//! the push; the cluster's clock is ours unless a case says otherwise.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use verdict::{
    AskError, AskErrorKind, Decision, Evidence, Expect, FailOn, HelmRelease, HelmType, Look, MESSAGE_BYTES,
    Payload, Question, Reason, ReleaseStatus, Releases, Revision, Seen, Status, TargetState, decide,
};

pub(crate) const DAY: i64 = 86_400;

pub(crate) fn at(secs: i64) -> Timestamp {
    at_ms(secs * 1000)
}

pub(crate) fn at_ms(ms: i64) -> Timestamp {
    "2026-11-23T19:15:45Z".parse::<Timestamp>().unwrap() + SignedDuration::from_millis(ms)
}

/// One deployment to one target, and what is known after the looks so far.
pub(crate) struct Case {
    pub(crate) helm_type: HelmType,
    pub(crate) expect: Expect,
    pub(crate) pushed_at: Option<Timestamp>,
    pub(crate) timeout_secs: u32,
    pub(crate) fail_on: FailOn,
    pub(crate) allow_unchanged: bool,
    /// The cluster's clock minus ours; `None`: the answer has no `Date`.
    pub(crate) ahead_ms: Option<i64>,
    pub(crate) next_ms: i64,
    /// The payloads that the last look had to fetch.
    pub(crate) asked: Vec<String>,
    pub(crate) state: TargetState,
}

fn case(helm_type: HelmType) -> Case {
    Case {
        helm_type,
        expect: Expect::default(),
        pushed_at: Some(at(0)),
        timeout_secs: 300,
        fail_on: FailOn::Final,
        allow_unchanged: false,
        ahead_ms: Some(0),
        next_ms: 0,
        asked: Vec::new(),
        state: TargetState::new(at(0)),
    }
}

pub(crate) fn flux() -> Case {
    case(HelmType::Flux)
}

pub(crate) fn plain() -> Case {
    case(HelmType::Plain)
}

/// What is asked.
impl Case {
    pub(crate) fn chart(mut self, version: &str) -> Self {
        self.expect.chart_version = Some(version.to_owned());
        self
    }
    pub(crate) fn app(mut self, version: &str) -> Self {
        self.expect.app_version = Some(version.to_owned());
        self
    }
    pub(crate) fn value(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        self.expect.values.insert(pointer.to_owned(), value.into());
        self
    }
    pub(crate) fn pushed_ms(mut self, ms: i64) -> Self {
        self.pushed_at = Some(at_ms(ms));
        self
    }
    pub(crate) fn pushed_unknown(mut self) -> Self {
        self.pushed_at = None;
        self
    }
    pub(crate) fn timeout(mut self, secs: u32) -> Self {
        self.timeout_secs = secs;
        self
    }
    pub(crate) fn fail_first(mut self) -> Self {
        self.fail_on = FailOn::First;
        self
    }
    pub(crate) fn unchanged_too(mut self) -> Self {
        self.allow_unchanged = true;
        self
    }
    pub(crate) fn clock_ms(mut self, ahead: Option<i64>) -> Self {
        self.ahead_ms = ahead;
        self
    }
    pub(crate) fn question(&self) -> Question<'_> {
        Question {
            helm_type: self.helm_type,
            cluster: "prod-eu",
            namespace: "shop",
            release: "checkout",
            expect: &self.expect,
            pushed_at: self.pushed_at,
            started_at: at(0),
            deadline: at(self.timeout_secs.into()),
            timeout_secs: self.timeout_secs,
            fail_on: self.fail_on,
            allow_unchanged: self.allow_unchanged,
        }
    }
}

/// What is seen.
impl Case {
    /// The next look comes so long after the last one.
    pub(crate) fn after_ms(mut self, ms: i64) -> Self {
        self.next_ms += ms - 5000;
        self
    }
    pub(crate) fn at_the_deadline(mut self) -> Self {
        self.next_ms = i64::from(self.timeout_secs) * 1000;
        self
    }
    #[track_caller]
    pub(crate) fn see(mut self, sight: impl Sight) -> Self {
        let now = at_ms(self.next_ms);
        let cluster_date = self.ahead_ms.map(|ms| now + SignedDuration::from_millis(ms));
        self.asked.clear();
        for _ in 0..4 {
            let look = Look { at: now, cluster_date, seen: sight.seen(&self.asked) };
            match decide(&self.question(), &self.state, &look) {
                Decision::NeedsPayloads(names) => self.asked.extend(names),
                Decision::Known(state) => {
                    // What is stored between two looks must carry everything.
                    self.state = serde_json::from_value(serde_json::to_value(*state).unwrap()).unwrap();
                    let message = &self.state.message;
                    assert!(
                        message.len() <= MESSAGE_BYTES && !message.contains(char::is_control),
                        "{message}"
                    );
                    self.next_ms += 5000;
                    return self;
                }
            }
        }
        panic!("asks for payloads without end: {:?}", self.asked);
    }
    /// What ran before the push, then this.
    #[track_caller]
    pub(crate) fn push(self, sight: impl Sight) -> Self {
        self.see(old()).see(sight)
    }
    /// Only these secrets.
    #[track_caller]
    pub(crate) fn list<const N: usize>(self, revisions: [Rev; N]) -> Self {
        self.see(&revisions[..])
    }
    /// The release that ran before the push, then these beside it.
    #[track_caller]
    pub(crate) fn then<const N: usize>(self, revisions: [Rev; N]) -> Self {
        let mut all = vec![eleven()];
        all.extend(revisions);
        self.list([eleven()]).see(&all[..])
    }
}

/// What is said.
impl Case {
    #[track_caller]
    fn is(self, status: Status, reason: Reason) -> Self {
        let said = (self.state.status, self.state.reason);
        assert_eq!(said, (status, reason), "{}", self.state.message);
        self
    }
    #[track_caller]
    pub(crate) fn ok(self, reason: Reason) -> Self {
        self.is(Status::Succeeded, reason)
    }
    #[track_caller]
    pub(crate) fn fails(self, reason: Reason) -> Self {
        self.is(Status::Failed, reason)
    }
    #[track_caller]
    pub(crate) fn waits(self, reason: Reason) -> Self {
        self.is(Status::Pending, reason)
    }
    /// Succeeded where it was news, else waiting for it.
    #[track_caller]
    pub(crate) fn ok_if(self, news: bool, reason: Reason) -> Self {
        if news { self.ok(reason) } else { self.waits(Reason::WaitingForChange) }
    }
    /// Pending; the rules leave open with which reason.
    #[track_caller]
    pub(crate) fn pends(self) -> Self {
        assert_eq!(self.state.status, Status::Pending, "{}: {}", self.state.reason, self.state.message);
        self
    }
    pub(crate) fn succeeded(&self) -> bool {
        self.state.status == Status::Succeeded
    }
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.state.message.contains(text), "{text:?} is not in: {}", self.state.message);
        self
    }
    #[track_caller]
    pub(crate) fn says_not(self, text: &str) -> Self {
        assert!(!self.state.message.contains(text), "{text:?} is in: {}", self.state.message);
        self
    }
    #[track_caller]
    pub(crate) fn rests_on(self, evidence: Evidence) -> Self {
        assert_eq!(self.state.evidence, Some(evidence), "{}", self.state.message);
        self
    }
    #[track_caller]
    pub(crate) fn waited_for(self, reason: Reason) -> Self {
        let said = (self.state.last_reason, self.state.evidence);
        assert_eq!(said, (Some(reason), None), "{}", self.state.message);
        self
    }
    #[track_caller]
    pub(crate) fn observes(self, revision: i64, chart: &str, condition: &str) -> Self {
        let seen = &self.state.observed;
        let seen = (seen.revision, seen.chart_version.as_deref(), seen.condition.as_deref());
        assert_eq!(seen, (Some(revision), Some(chart), Some(condition)));
        self
    }
}

/// What a look shows, given the payloads asked for.
pub(crate) trait Sight {
    fn seen(&self, asked: &[String]) -> Seen;
}

/// There is no such HelmRelease.
pub(crate) struct Nothing;

impl Sight for Nothing {
    fn seen(&self, _: &[String]) -> Seen {
        Seen::HelmRelease(None)
    }
}

impl Sight for AskErrorKind {
    fn seen(&self, _: &[String]) -> Seen {
        Seen::Failed(AskError { kind: *self, message: "words of the server".to_owned() })
    }
}

/// A HelmRelease that is edited until it is what a row speaks of.
#[derive(Clone)]
pub(crate) struct Hr(pub(crate) Value);

impl Sight for Hr {
    fn seen(&self, _: &[String]) -> Seen {
        let object: HelmRelease = serde_json::from_value(self.0.clone()).unwrap();
        Seen::HelmRelease(Some(Box::new(object)))
    }
}

/// Settled a day before the push: chart 1.3.0 as revision 11, generation 3.
pub(crate) fn old() -> Hr {
    Hr(json!({
        "metadata": {
            "name": "checkout", "namespace": "shop", "uid": "u1", "generation": 3,
            "labels": {"kustomize.toolkit.fluxcd.io/name": "apps-prod"},
            "managedFields": [spec_time("kustomize-controller", -DAY)],
        },
        "spec": {
            "timeout": "1m",
            "chart": {"spec": {"version": "1.x", "sourceRef": {"kind": "HelmRepository"}}},
            "values": {"image": {"tag": "2026.11.2"}},
        },
        "status": {
            "observedGeneration": 3, "lastAttemptedGeneration": 3,
            "lastAttemptedRevision": "1.3.0", "lastAttemptedConfigDigest": "sha256:a",
            "conditions": [], "history": [entry(11, "deployed", "1.3.0", "2026.11.2", -DAY)],
        },
    }))
    .ready("True", "UpgradeSucceeded", "Helm upgrade succeeded for release shop/checkout.v11")
    .released("True", "UpgradeSucceeded", "Helm upgrade succeeded for release shop/checkout.v11")
}

/// What a push of chart 1.4.0 makes of it in the end: revision 12, generation 4.
pub(crate) fn new() -> Hr {
    old()
        .tried(4, "1.4.0", "sha256:b")
        .observed(4)
        .set("/spec/values/image/tag", "2026.11.3")
        .history(&[entry(12, "deployed", "1.4.0", "2026.11.3", 3), eleven_was_superseded()])
        .ready("True", "UpgradeSucceeded", "Helm upgrade succeeded for release shop/checkout.v12")
        .released("True", "UpgradeSucceeded", "Helm upgrade succeeded for release shop/checkout.v12")
}

/// The push was tried and failed; nothing says whether it will be tried again.
pub(crate) fn failed() -> Hr {
    new()
        .history(&[entry(12, "failed", "1.4.0", "2026.11.3", 3), eleven_was_superseded()])
        .counters(1, 0, 1)
        .ready("False", "UpgradeFailed", "told by Ready")
        .released("False", "UpgradeFailed", "the probe is red")
}

/// It failed for good, and was rolled back.
pub(crate) fn rolled_back() -> Hr {
    failed()
        .history(&[
            entry(13, "deployed", "1.3.0", "2026.11.2", 9),
            entry(12, "failed", "1.4.0", "2026.11.3", 3),
        ])
        .ready("False", "RollbackSucceeded", "rolled back to v11")
        .stalled()
}

/// Another push came after it: 1.5.0 runs as revision 13; and what became of revision 12.
pub(crate) fn newer(twelve: &str) -> Hr {
    let history =
        [entry(13, "deployed", "1.5.0", "2026.12.0", 9), entry(12, twelve, "1.4.0", "2026.11.3", 3)];
    new().tried(5, "1.5.0", "sha256:c").observed(5).history(&history)
}

pub(crate) fn entry(version: i64, status: &str, chart: &str, app: &str, deployed: i64) -> Value {
    json!({
        "name": "checkout", "version": version, "status": status, "chartVersion": chart, "appVersion": app,
        "lastDeployed": at(deployed).to_string(),
    })
}

fn eleven_was_superseded() -> Value {
    entry(11, "superseded", "1.3.0", "2026.11.2", -DAY)
}

pub(crate) fn spec_time(manager: &str, secs: i64) -> Value {
    json!({"manager": manager, "time": at(secs).to_string(), "fieldsV1": {"f:spec": {"f:values": {}}}})
}

impl Hr {
    pub(crate) fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.0.pointer_mut(parent).unwrap()[key] = value.into();
        self
    }
    pub(crate) fn without(mut self, pointer: &str) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.0.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        self
    }
    pub(crate) fn cond(self, kind: &str, status: &str, reason: &str, message: &str) -> Self {
        let mut hr = self.no(kind);
        // Its own observedGeneration is worthless, so it is always wrong here.
        hr.0["status"]["conditions"].as_array_mut().unwrap().push(json!({
            "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 99,
        }));
        hr
    }
    pub(crate) fn no(mut self, kind: &str) -> Self {
        self.0["status"]["conditions"].as_array_mut().unwrap().retain(|c| c["type"] != kind);
        self
    }
    pub(crate) fn ready(self, status: &str, reason: &str, message: &str) -> Self {
        self.cond("Ready", status, reason, message)
    }
    pub(crate) fn released(self, status: &str, reason: &str, message: &str) -> Self {
        self.cond("Released", status, reason, message)
    }
    pub(crate) fn reconciling(self, message: &str) -> Self {
        self.cond("Reconciling", "True", "ProgressingWithRetry", message)
    }
    pub(crate) fn stalled(self) -> Self {
        self.cond("Stalled", "True", "RetriesExceeded", "no retry left")
    }
    pub(crate) fn suspended(self) -> Self {
        self.set("/spec/suspend", true)
    }
    pub(crate) fn history(self, entries: &[Value]) -> Self {
        self.set("/status/history", entries.to_vec())
    }
    pub(crate) fn generation(self, generation: i64) -> Self {
        self.set("/metadata/generation", generation)
    }
    pub(crate) fn observed(self, generation: i64) -> Self {
        self.set("/status/observedGeneration", generation)
    }
    pub(crate) fn last_tried(self, generation: i64) -> Self {
        self.set("/status/lastAttemptedGeneration", generation)
    }
    pub(crate) fn revision(self, chart: &str) -> Self {
        self.set("/status/lastAttemptedRevision", chart)
    }
    pub(crate) fn digest(self, config: &str) -> Self {
        self.set("/status/lastAttemptedConfigDigest", config)
    }
    /// The controller tried this generation, chart and values.
    pub(crate) fn tried(self, generation: i64, chart: &str, config: &str) -> Self {
        self.generation(generation).last_tried(generation).revision(chart).digest(config)
    }
    pub(crate) fn failures(self, failures: i64) -> Self {
        self.set("/status/failures", failures)
    }
    pub(crate) fn counters(self, failures: i64, installs: i64, upgrades: i64) -> Self {
        self.failures(failures)
            .set("/status/installFailures", installs)
            .set("/status/upgradeFailures", upgrades)
    }
}

/// One release secret with its payload; made a day before the push.
#[derive(Clone)]
pub(crate) struct Rev {
    pub(crate) revision: Revision,
    payload: Result<Value, String>,
}

/// A revision with chart 1.4.0.
pub(crate) fn rev(version: i64, status: &str) -> Rev {
    let description = match status {
        "failed" => "Upgrade \"checkout\" failed: the probe is red",
        _ => "Upgrade complete",
    };
    Rev {
        revision: Revision {
            name: format!("sh.helm.release.v1.checkout.v{version}"),
            uid: format!("uid-{version}"),
            version,
            status: ReleaseStatus::from_label(status),
            created: Some(at(-DAY)),
            by_flux: false,
        },
        payload: Ok(json!({
            "info": {"description": description},
            "chart": {"metadata": {"name": "checkout", "version": "1.4.0", "appVersion": "2026.11.3"}},
            "config": {"image": {"tag": "2026.11.3"}},
        })),
    }
}

/// What ran before the push: chart 1.3.0 as revision 11.
pub(crate) fn eleven() -> Rev {
    rev(11, "deployed").chart("1.3.0").app("2026.11.2")
}

impl Rev {
    pub(crate) fn edit(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.payload.as_mut().unwrap().pointer_mut(parent).unwrap()[key] = value.into();
        self
    }
    pub(crate) fn made(mut self, secs: i64) -> Self {
        self.revision.created = Some(at(secs));
        self
    }
    pub(crate) fn uid(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.revision.uid);
        self
    }
    pub(crate) fn chart(self, version: &str) -> Self {
        self.edit("/chart/metadata/version", version)
    }
    pub(crate) fn app(self, version: &str) -> Self {
        self.edit("/chart/metadata/appVersion", version)
    }
    pub(crate) fn config(self, values: Value) -> Self {
        self.edit("/config", values)
    }
    pub(crate) fn told(self, description: &str) -> Self {
        self.edit("/info/description", description)
    }
    pub(crate) fn unreadable(mut self) -> Self {
        self.payload = Err("not gzip".to_owned());
        self
    }
}

impl Sight for &[Rev] {
    fn seen(&self, asked: &[String]) -> Seen {
        for name in asked {
            assert!(self.iter().any(|r| r.revision.name == *name), "{name} is asked for and is not there");
        }
        let payload = |r: &Rev| match r.payload.clone() {
            Ok(release) => Payload::Read(Box::new(serde_json::from_value(release).unwrap())),
            Err(why) => Payload::Unreadable(why),
        };
        let fetched = self.iter().filter(|r| asked.contains(&r.revision.name));
        Seen::Releases(Releases {
            revisions: self.iter().map(|r| r.revision.clone()).collect(),
            payloads: fetched.map(|r| (r.revision.uid.clone(), payload(r))).collect(),
        })
    }
}
