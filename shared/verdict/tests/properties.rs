//! What must hold for every input, not only for recorded ones.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use jiff::{SignedDuration, Timestamp};
use proptest::{collection, option, prelude::*, sample};
use serde::Deserialize as _;
use serde_json::{Value, json};
use verdict::{
    AskError, AskErrorKind, Decision, Evidence, Expect, FailOn, HelmRelease, HelmType, Look, Payload,
    Question, Release, ReleaseStatus, Releases, Revision, Seen, Status, TargetState, decide,
};

const START: i64 = 1_795_000_000;

const SECRET: &str = "s3cr3t-value";

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(START + secs).unwrap()
}

#[derive(Debug, Clone)]
struct Asked {
    expect: Expect,
    pushed_at: Option<Timestamp>,
    fail_on: FailOn,
    allow_unchanged: bool,
}

impl Asked {
    fn decide(&self, helm_type: HelmType, before: &TargetState, look: &Look) -> Decision {
        let question = Question {
            helm_type,
            cluster: "prod",
            namespace: "ns",
            release: "app",
            expect: &self.expect,
            pushed_at: self.pushed_at,
            started_at: at(0),
            deadline: at(300),
            timeout_secs: 300,
            fail_on: self.fail_on,
            allow_unchanged: self.allow_unchanged,
        };
        decide(&question, before, look)
    }

    /// Decides with every payload at hand.
    fn known(&self, helm_type: HelmType, before: &TargetState, look: &Look) -> TargetState {
        match self.decide(helm_type, before, look) {
            Decision::Known(state) => *state,
            Decision::NeedsPayloads(names) => panic!("{names:?} are there"),
        }
    }
}

fn version() -> impl Strategy<Value = String> {
    sample::select(vec!["1.0.0", "1.1.0", "v1.1.0", "1.1.0+abc", "2.0.0", "2.x", "latest", ""])
        .prop_map(str::to_owned)
}

fn expect() -> impl Strategy<Value = Expect> {
    (option::of(version()), option::of(version()), any::<bool>()).prop_map(
        |(chart_version, app_version, value)| {
            let values = if value { [("/tag".to_owned(), json!("1"))].into() } else { Default::default() };
            Expect { chart_version, app_version, values }
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    (expect(), option::of(-100_i64..400), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(expect, pushed_at, first, allow_unchanged)| Asked {
            expect,
            pushed_at: pushed_at.map(at),
            fail_on: if first { FailOn::First } else { FailOn::Final },
            allow_unchanged,
        },
    )
}

fn condition() -> impl Strategy<Value = Value> {
    (
        sample::select(vec!["Ready", "Released", "Reconciling", "Stalled", "TestSuccess", "Remediated", "Odd"]),
        sample::select(vec!["True", "False", "Unknown", ""]),
        sample::select(vec![
            "UpgradeSucceeded", "InstallSucceeded", "UpgradeFailed", "RollbackSucceeded", "RollbackFailed",
            "UninstallFailed", "HealthCheckCanceled", "DependencyNotReady", "Progressing", "Whatever",
        ]),
        sample::select(vec!["", "retrying after 5s", "Fulfilling prerequisites"]),
    )
        .prop_map(|(kind, status, reason, message)| json!({"type": kind, "status": status, "reason": reason, "message": message}))
}

fn entry() -> impl Strategy<Value = Value> {
    (1_i64..6, sample::select(vec!["deployed", "failed", "superseded"]), version(), version(), -200_i64..400)
        .prop_map(|(version, status, chart, app, deployed)| {
            json!({
                "name": "app", "version": version, "status": status, "chartVersion": chart, "appVersion": app,
                "lastDeployed": at(deployed).to_string()
            })
        })
}

/// HelmReleases that look like real ones, any field of which may be absent.
fn helm_release() -> impl Strategy<Value = Value> {
    let number = || option::weighted(0.9, 1_i64..4);
    (
        (number(), number(), number(), option::of(version()), option::of("[ab]"), option::of("[uv]")),
        (option::of(0_i64..10), option::of(0_i64..10), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
        (option::of(version()), option::of(-200_i64..400), any::<bool>()),
        collection::vec(condition(), 0..5),
        collection::vec(entry(), 0..4),
    )
        .prop_map(|((generation, obs, lag, lar, lcd, uid), (failures, upgrades, suspend, deleting), (asks, written, values), conditions, history)| {
            json!({
                "metadata": {
                    "uid": uid, "generation": generation,
                    "deletionTimestamp": deleting.then_some("2026-11-23T00:00:00Z"),
                    "managedFields": [{"manager": "kustomize-controller", "time": written.map(|w| at(w).to_string()), "fieldsV1": {"f:spec": {}}}]
                },
                "spec": {
                    "suspend": suspend, "values": {"tag": if values { json!(1) } else { json!("x") }},
                    "chart": {"spec": {"version": asks, "sourceRef": {"kind": "HelmRepository"}}}
                },
                "status": {
                    "observedGeneration": obs, "lastAttemptedGeneration": lag, "lastAttemptedRevision": lar,
                    "lastAttemptedConfigDigest": lcd, "failures": failures, "upgradeFailures": upgrades,
                    "conditions": conditions, "history": history
                }
            })
        })
}

fn seen(object: &Value) -> Seen {
    Seen::HelmRelease(Some(Box::new(HelmRelease::deserialize(object).unwrap())))
}

fn failure() -> impl Strategy<Value = Seen> {
    use AskErrorKind as Kind;
    sample::select(vec![
        Kind::Unreachable,
        Kind::Slow,
        Kind::Throttled,
        Kind::ServerError,
        Kind::CredentialsUnavailable,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::FluxNotInstalled,
        Kind::Tls,
        Kind::NotKubernetes,
        Kind::ClusterRemoved,
    ])
    .prop_map(|kind| Seen::Failed(AskError { kind, message: "x".to_owned() }))
}

fn flux_seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        8 => helm_release().prop_map(|o| seen(&o)),
        1 => Just(Seen::HelmRelease(None)),
        1 => failure(),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    let release = (version(), version(), 0_i64..3, sample::select(vec!["Upgrade complete", "Install complete", "Rollback to 1", "Upgrade \"a\" failed: x", ""]))
        .prop_map(|(chart, app, rollback, description)| {
            let release = json!({
                "info": {"description": description, "rollback_revision": rollback},
                "chart": {"metadata": {"name": "demo", "version": chart, "appVersion": app}}, "config": {"tag": 1}
            });
            Payload::Read(Box::new(Release::deserialize(release).unwrap()))
        });
    prop_oneof![9 => release, 1 => Just(Payload::Unreadable("broken".to_owned()))]
}

fn revisions() -> impl Strategy<Value = Vec<(Revision, Payload)>> {
    let one = (
        1_i64..8,
        sample::select(vec![
            "deployed",
            "failed",
            "superseded",
            "pending-upgrade",
            "pending-rollback",
            "uninstalled",
            "odd",
        ]),
        -2000_i64..400,
        payload(),
    )
        .prop_map(|(version, status, created, payload)| {
            let revision = Revision {
                name: format!("sh.helm.release.v1.app.v{version}"),
                uid: format!("{version}-{}", created % 3),
                version,
                status: ReleaseStatus::from_label(status),
                created: Some(at(created)),
                by_flux: false,
            };
            (revision, payload)
        });
    collection::vec(one, 0..6)
}

fn listed(revisions: &[(Revision, Payload)]) -> Seen {
    Seen::Releases(Releases {
        revisions: revisions.iter().map(|(r, _)| r.clone()).collect(),
        payloads: revisions.iter().map(|(r, p)| (r.uid.clone(), p.clone())).collect(),
    })
}

fn look(poll: i64, seen: Seen) -> Look {
    Look { at: at(poll * 5), cluster_date: Some(at(poll * 5)), seen }
}

/// Any JSON.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    let names = sample::select(vec![
        "metadata",
        "spec",
        "status",
        "conditions",
        "history",
        "generation",
        "uid",
        "managedFields",
        "fieldsV1",
        "f:spec",
        "time",
        "chart",
        "values",
        "suspend",
        "version",
        "type",
        "labels",
        "x",
    ]);
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever stood there before the push, and stands there still, has not succeeded.
    #[test]
    fn nothing_that_stays_as_it_was_succeeds(object in helm_release(), asked in asked(), polls in 1_i64..8) {
        let asked = Asked { allow_unchanged: false, pushed_at: Some(at(100_000)), ..asked };
        let mut state = TargetState::new(at(0));
        for poll in 0..polls {
            state = asked.known(HelmType::Flux, &state, &look(poll, seen(&object)));
            if asked.expect.is_empty() {
                prop_assert_ne!(state.status, Status::Succeeded);
            } else if state.status == Status::Succeeded {
                // What was expected runs, and the last release of before was another.
                prop_assert_eq!(state.evidence, Some(Evidence::Expected));
            }
        }
    }

    #[test]
    fn no_secrets_that_stay_as_they_were_succeed(revisions in revisions(), asked in asked(), polls in 1_i64..8) {
        let asked = Asked { allow_unchanged: false, pushed_at: Some(at(100_000)), ..asked };
        let mut state = TargetState::new(at(0));
        for poll in 0..polls {
            state = asked.known(HelmType::Plain, &state, &look(poll, listed(&revisions)));
            prop_assert_ne!(state.status, Status::Succeeded);
        }
    }

    /// Where the cluster's clock is not known, a first look proves nothing.
    #[test]
    fn without_the_clusters_clock_time_is_no_evidence(object in helm_release(), asked in asked()) {
        let asked = Asked { allow_unchanged: false, expect: Expect::default(), ..asked };
        let blind = |poll| Look { cluster_date: None, ..look(poll, seen(&object)) };
        let mut state = TargetState::new(at(0));
        for poll in 0..4 {
            state = asked.known(HelmType::Flux, &state, &blind(poll));
            prop_assert_ne!(state.status, Status::Succeeded);
        }
    }

    /// Same input, same output; a verdict stands; what is stored carries everything.
    #[test]
    fn a_history_of_looks_is_judged_the_same_twice(looks in collection::vec(flux_seen(), 1..8), asked in asked()) {
        let mut state = TargetState::new(at(0));
        for (poll, seen) in (0..).zip(looks) {
            let look = look(poll, seen);
            let next = asked.known(HelmType::Flux, &state, &look);
            prop_assert_eq!(&next, &asked.known(HelmType::Flux, &state, &look));
            let stored: TargetState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
            prop_assert_eq!(&next, &asked.known(HelmType::Flux, &stored, &look));
            if state.status.is_terminal() {
                prop_assert_eq!(&next, &state);
            }
            prop_assert!(next.message.len() <= verdict::MESSAGE_BYTES && !next.message.contains(char::is_control));
            state = next;
        }
    }

    #[test]
    fn a_retried_look_counts_once(looks in collection::vec(flux_seen(), 1..6), asked in asked()) {
        let mut state = TargetState::new(at(0));
        for (poll, seen) in (0..).zip(looks) {
            let look = look(poll, seen);
            let once = asked.known(HelmType::Flux, &state, &look);
            let soon = Look { at: look.at + SignedDuration::from_millis(100), ..look.clone() };
            if once.status == Status::Pending {
                let twice = asked.known(HelmType::Flux, &once, &soon);
                prop_assert_eq!(twice.status, Status::Pending, "{}", twice.message);
            }
            state = once;
        }
    }

    #[test]
    fn the_order_of_conditions_and_history_does_not_matter(
        (object, conditions, history) in helm_release().prop_flat_map(|o| {
            let list = |f: &str| o["status"][f].as_array().unwrap().clone();
            (Just(o.clone()), Just(list("conditions")).prop_shuffle(), Just(list("history")).prop_shuffle())
        }),
        before in helm_release(),
        asked in asked(),
    ) {
        let mut other = object.clone();
        other["status"]["conditions"] = Value::from(conditions);
        other["status"]["history"] = Value::from(history);
        let state = asked.known(HelmType::Flux, &TargetState::new(at(0)), &look(0, seen(&before)));
        prop_assert_eq!(
            asked.known(HelmType::Flux, &state, &look(1, seen(&object))),
            asked.known(HelmType::Flux, &state, &look(1, seen(&other)))
        );
    }

    #[test]
    fn the_order_of_secrets_does_not_matter(
        (revisions, shuffled) in revisions().prop_flat_map(|r| (Just(r.clone()), Just(r).prop_shuffle())),
        before in revisions(),
        asked in asked(),
    ) {
        // One uid names one secret.
        let unique = revisions.iter().map(|(r, _)| &r.uid).collect::<std::collections::HashSet<_>>().len();
        prop_assume!(unique == revisions.len());
        let state = asked.known(HelmType::Plain, &TargetState::new(at(0)), &look(0, listed(&before)));
        prop_assert_eq!(
            asked.known(HelmType::Plain, &state, &look(1, listed(&revisions))),
            asked.known(HelmType::Plain, &state, &look(1, listed(&shuffled)))
        );
    }

    /// A failure of asking that can pass by itself is never a verdict before the deadline.
    #[test]
    fn a_hiccup_is_no_failure(polls in 1_i64..20, asked in asked()) {
        let mut state = TargetState::new(at(0));
        for poll in 0..polls {
            let kind = if poll % 2 == 0 { AskErrorKind::Slow } else { AskErrorKind::ServerError };
            let seen = Seen::Failed(AskError { kind, message: String::new() });
            state = asked.known(HelmType::Flux, &state, &look(poll, seen));
            prop_assert_eq!(state.status, Status::Pending);
            prop_assert!(state.baseline.is_none());
        }
    }

    /// Whatever JSON comes: it is refused as no HelmRelease, or judged.
    #[test]
    fn any_json_has_an_answer(objects in collection::vec(any_json(), 1..4), asked in asked()) {
        let mut state = TargetState::new(at(0));
        for (poll, object) in (0..).zip(objects) {
            if let Ok(object) = HelmRelease::deserialize(&object) {
                state = asked.known(HelmType::Flux, &state, &look(poll, Seen::HelmRelease(Some(Box::new(object)))));
            }
        }
    }

    /// By its deadline every target has a verdict.
    #[test]
    fn the_deadline_ends_everything(seen in flux_seen(), asked in asked()) {
        let state = asked.known(HelmType::Flux, &TargetState::new(at(0)), &look(0, seen.clone()));
        let last = asked.known(HelmType::Flux, &state, &look(60, seen));
        prop_assert!(last.status.is_terminal());
    }

    /// Values may be secrets: what is found where one was expected stays out of
    /// answers, events and the store, whatever happens.
    #[test]
    fn a_value_that_was_found_is_never_kept_or_told(
        looks in collection::vec(helm_release(), 1..6),
        revisions in collection::vec(revisions(), 1..6),
        asked in asked(),
    ) {
        let mut asked = asked;
        asked.expect.values = [("/tag".to_owned(), json!("1")), ("/deep/0/er".to_owned(), json!(true))].into();
        let found = json!({"tag": SECRET, "deep": [{"er": format!("x{SECRET}x")}], SECRET: 1});
        let mut state = TargetState::new(at(0));
        for (poll, mut object) in (0..).zip(looks) {
            object["spec"]["values"] = found.clone();
            state = asked.known(HelmType::Flux, &state, &look(poll, seen(&object)));
            prop_assert!(!serde_json::to_string(&state).unwrap().contains(SECRET), "{state:?}");
        }
        let mut state = TargetState::new(at(0));
        for (poll, mut revisions) in (0..).zip(revisions) {
            for (_, payload) in &mut revisions {
                if let Payload::Read(release) = payload {
                    release.config = serde_json::from_value(found.clone()).unwrap();
                }
            }
            state = asked.known(HelmType::Plain, &state, &look(poll, listed(&revisions)));
            prop_assert!(!serde_json::to_string(&state).unwrap().contains(SECRET), "{state:?}");
        }
    }
}
