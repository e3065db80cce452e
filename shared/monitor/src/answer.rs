//! What the check handler answers, `GET /deployments/{id}` shows and the event carries.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use verdict::{Evidence, HelmType, Observed, Reason, Status};

use crate::deployment::Deployment;

/// The answer on a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The deployment.
    pub deployment_id: String,
    /// The app, where the request named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The environment, where the request named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// What a timeout waited for.
    pub last_reason: Option<Reason>,
    /// On what the verdict rests.
    pub evidence: Option<Evidence>,
    /// One sentence for a person.
    pub message: String,
    /// When the execution began.
    pub started_at: Timestamp,
    /// When waiting ends.
    pub deadline: Timestamp,
    /// When the clusters were last asked.
    pub checked_at: Timestamp,
    /// When the verdict was reached.
    pub finished_at: Option<Timestamp>,
    /// How often the clusters were asked; at least, after a restart.
    pub polls: u32,
    /// The targets, in the request's order.
    pub targets: Vec<TargetAnswer>,
}

/// The answer on one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetAnswer {
    /// The cluster as the request named it.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// The release.
    pub release: String,
    /// How Helm is driven there.
    pub helm_type: HelmType,
    /// Where it stands.
    pub status: Status,
    /// Why.
    pub reason: Reason,
    /// What a timeout waited for.
    pub last_reason: Option<Reason>,
    /// On what the verdict rests.
    pub evidence: Option<Evidence>,
    /// One sentence for a person.
    pub message: String,
    /// What was last seen.
    pub observed: Observed,
    /// Since when it stands so.
    pub since: Timestamp,
}

impl From<&Deployment> for Answer {
    fn from(item: &Deployment) -> Self {
        let (app, environment) = item.app_environment();
        Self {
            deployment_id: item.deployment_id.clone(),
            app,
            environment,
            status: item.status,
            reason: item.reason,
            last_reason: item.last_reason,
            evidence: item.evidence,
            message: item.message.clone(),
            started_at: item.started_at,
            deadline: item.deadline,
            checked_at: item.checked_at,
            finished_at: item.finished_at,
            polls: item.polls,
            targets: item
                .targets
                .iter()
                .map(|t| TargetAnswer {
                    cluster: t.cluster.clone(),
                    namespace: t.namespace.clone(),
                    release: t.release.clone(),
                    helm_type: t.helm_type,
                    status: t.state.status,
                    reason: t.state.reason,
                    last_reason: t.state.last_reason,
                    evidence: t.state.evidence,
                    message: t.state.message.clone(),
                    observed: t.state.observed.clone(),
                    since: t.state.since,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

    use serde_json::{Value, json};
    use verdict::{
        Decision, HelmRelease, Look, MESSAGE_BYTES, Question, Seen, TargetState, bounded::WORD_BYTES, clean,
        decide,
    };

    use super::*;
    use crate::{
        contract::deployment,
        deployment::Target,
        request::{self, MAX_TARGETS, Request},
    };

    /// What Step Functions lets a state take, hand on or get from a task, and what EventBridge
    /// lets an event carry, in bytes (their developer guides, "Quotas").
    const PAYLOAD_BYTES: usize = 256 * 1024;
    /// For what Lambda, Step Functions and EventBridge put around it: headers, ids, names.
    const ENVELOPE_BYTES: usize = 4 * 1024;

    fn bytes(value: &impl Serialize) -> usize {
        serde_json::to_vec(value).unwrap().len()
    }

    fn now() -> Timestamp {
        "2026-11-23T19:15:45.123456789Z".parse().unwrap()
    }

    /// Of four bytes each, more than JSON makes of any one; no two the same.
    fn wide(characters: usize, number: usize) -> String {
        format!("{number:02}{}", "𝕏".repeat(characters - 2))
    }

    /// The event of a check with every field as long as it may be.
    fn largest_event() -> Value {
        let release = [63, 63, 63, 61].map(|length| "r".repeat(length)).join(".");
        let targets: Vec<Value> = (0..MAX_TARGETS)
            .map(|n| json!({"cluster": wide(100, n), "namespace": "n".repeat(63), "release": release}))
            .collect();
        let values: serde_json::Map<String, Value> =
            (0..50).map(|n| (format!("/{}{n:02}", "v".repeat(150)), json!("\"".repeat(83)))).collect();
        json!({
            "deploymentId": "d".repeat(80),
            "app": "a".repeat(63), "environment": "e".repeat(63),
            "helmType": "flux", "targets": targets, "timeoutSecs": 7200,
            "expect": {"chartVersion": wide(128, 0), "appVersion": wide(128, 0), "values": values},
            "pushedAt": now(), "failOn": "final", "failFast": false, "allowUnchanged": false,
            "execution": {"arn": format!("arn:{}", "x".repeat(508)), "startedAt": now()},
        })
    }

    /// A target of which everything was seen that can be, in texts that JSON doubles.
    fn largest_state(request: &Request) -> TargetState {
        let (word, long) = ("\"".repeat(WORD_BYTES), "\"".repeat(5000));
        let seen: HelmRelease = serde_json::from_value(json!({
            "metadata": {"generation": 2, "uid": "u"},
            "status": {
                "observedGeneration": 2,
                "conditions": [{"type": "Ready", "status": "False", "reason": long, "message": long}],
                "history": [{"name": "r", "version": i64::MAX, "status": "failed", "chartVersion": word, "appVersion": word}],
            },
        }))
        .unwrap();
        let target = &request.targets[0];
        let question = Question {
            helm_type: HelmType::Flux,
            cluster: &target.cluster,
            namespace: &target.namespace,
            release: &target.release,
            expect: &request.expect,
            pushed_at: request.pushed_at,
            started_at: now(),
            deadline: now(),
            timeout_secs: 7200,
            fail_on: request.fail_on,
            allow_unchanged: false,
        };
        let look =
            Look { at: now(), cluster_date: Some(now()), seen: Seen::HelmRelease(Some(Box::new(seen))) };
        let Decision::Known(state) = decide(&question, &TargetState::new(now()), &look) else {
            panic!("a HelmRelease needs no payload");
        };
        let observed = &state.observed;
        assert_eq!(observed.revision, Some(i64::MAX));
        for it in [&observed.chart_version, &observed.app_version, &observed.condition] {
            assert!(it.as_ref().is_some_and(|text| text.len() > 100), "{observed:?}");
        }
        let message = clean(&long);
        assert!(message.len() > MESSAGE_BYTES - 4);
        let longest = *Reason::ALL.iter().max_by_key(|reason| reason.as_str().len()).unwrap();
        TargetState {
            status: Status::Succeeded,
            reason: longest,
            last_reason: Some(longest),
            evidence: Some(Evidence::Unchanged),
            message,
            since: now(),
            ..*state
        }
    }

    #[test]
    fn no_field_of_the_largest_event_may_be_longer() {
        assert!(request::parse(&largest_event()).is_ok());
        let longer = [
            "/deploymentId",
            "/app",
            "/environment",
            "/targets/0/cluster",
            "/targets/0/namespace",
            "/targets/0/release",
            "/expect/chartVersion",
            "/expect/appVersion",
            "/execution/arn",
        ];
        for pointer in longer {
            let mut event = largest_event();
            let field = event.pointer_mut(pointer).unwrap();
            *field = json!(format!("{}x", field.as_str().unwrap()));
            assert!(request::parse(&event).is_err(), "{pointer}");
        }
        let mut event = largest_event();
        let targets = event["targets"].as_array_mut().unwrap();
        targets.push(json!({"cluster": "one more", "release": "r"}));
        assert!(request::parse(&event).is_err());
        let mut event = largest_event();
        event["expect"]["values"].as_object_mut().unwrap().insert("/more".to_owned(), json!("x".repeat(100)));
        assert!(request::parse(&event).is_err());
    }

    /// The check's result and the state's output, the input of the states after it, and the
    /// event that is told.
    #[test]
    fn the_answer_on_forty_targets_fits_a_state() {
        let (request, execution) = request::parse(&largest_event()).unwrap();
        let state = largest_state(&request);
        let targets = request.targets.iter().map(|target| Target {
            cluster: target.cluster.clone(),
            cluster_id: String::new(),
            namespace: target.namespace.clone(),
            release: target.release.clone(),
            helm_type: HelmType::Flux,
            api_url: None,
            state: state.clone(),
        });
        let item = crate::deployment::Deployment {
            execution_arn: execution.map(|it| it.arn),
            finished_at: Some(now()),
            status: state.status,
            reason: state.reason,
            last_reason: state.last_reason,
            evidence: state.evidence,
            message: state.message.clone(),
            polls: u32::MAX,
            targets: targets.collect(),
            request: Some(request.clone()),
            ..deployment(&request.deployment_id, now())
        };
        let answer = Answer::from(&item);
        assert_eq!(answer.targets.len(), MAX_TARGETS);
        assert!(answer.app.is_some() && answer.environment.is_some());
        assert!(bytes(&answer) + ENVELOPE_BYTES < PAYLOAD_BYTES, "{} bytes", bytes(&answer));
    }

    /// What the check gets; and the news of an execution's end, which carries the input as text.
    #[test]
    fn the_request_for_forty_targets_fits_a_state() {
        let event = largest_event();
        assert!(bytes(&event) + ENVELOPE_BYTES < PAYLOAD_BYTES, "{} bytes", bytes(&event));
        let told = bytes(&event.to_string());
        assert!(told + ENVELOPE_BYTES < PAYLOAD_BYTES, "{told} bytes");
    }
}
