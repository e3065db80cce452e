//! What every store is held to, the in-memory twins and the real adapters alike.
//! Each function panics where the contract is broken, and wants an empty store:
//! a second run over the same one fails.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test of its own: it is compiled for tests only")]

use std::collections::BTreeSet;

use futures_util::future::join;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use verdict::{Baseline, HelmType, MESSAGE_BYTES, PlainBaseline, Reason, RevisionId, Status, TargetState};

use crate::{
    answer::Answer,
    cluster::{ClusterRow, EksCluster, RowState},
    deployment::{Deployment, SCHEMA, Summary, Target},
    environment::{Environment, EnvironmentPage},
    namespaces::Namespaces,
    ports::{
        Auth, ClusterSecret, Credentials, Deployments, Environments, Events, Executions, Expected, Found,
        History, Page, Registry, Starting, StoreError, Stored, Vault,
    },
    probe::{Attention, ProbeReason},
    request::{Request, TargetRequest},
};

/// A pending deployment with one target, as its first check writes it.
#[must_use]
pub fn deployment(id: &str, now: Timestamp) -> Deployment {
    Deployment {
        deployment_id: id.to_owned(),
        schema: SCHEMA,
        rev: 1,
        execution_arn: Some(format!("arn:aws:states:eu-central-1:123456789012:execution:monitor:{id}")),
        digest: "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".to_owned(),
        request: Some(Request {
            deployment_id: id.to_owned(),
            app: Some("checkout".to_owned()),
            environment: Some("production".to_owned()),
            helm_type: Some(HelmType::Plain),
            targets: vec![TargetRequest {
                cluster: "Prod EU".to_owned(),
                namespace: "shop".to_owned(),
                release: "checkout".to_owned(),
            }],
            timeout_secs: Some(300),
            expect: verdict::Expect::default(),
            pushed_at: Some(now),
            fail_on: verdict::FailOn::Final,
            fail_fast: false,
            allow_unchanged: false,
        }),
        labels: None,
        started_at: now,
        deadline: now + SignedDuration::from_secs(300),
        checked_at: now,
        finished_at: None,
        status: Status::Pending,
        reason: Reason::WaitingForChange,
        last_reason: None,
        evidence: None,
        message: "checkout in shop on Prod EU: revision 12 was there before the push".to_owned(),
        polls: 1,
        targets: vec![target(1, now)],
        expires_at: now.as_second() + 90 * 86_400,
    }
}

fn target(number: usize, now: Timestamp) -> Target {
    Target {
        cluster: format!("Prod EU {number}"),
        cluster_id: format!("prod-eu-{number}"),
        namespace: "shop".to_owned(),
        release: "checkout".to_owned(),
        helm_type: HelmType::Plain,
        api_url: Some(format!("https://prod-eu-{number}.example.com/k8s/clusters/c-x1")),
        state: TargetState {
            message: "\"quoted\", Ünïcødé and a \\ back\\slash".to_owned(),
            ..TargetState::new(now)
        },
    }
}

/// The largest deployment that there can be: 40 targets, each with the longest
/// message and a full baseline.
#[must_use]
pub fn large_deployment(id: &str, now: Timestamp) -> Deployment {
    let revisions = (0..verdict::KEPT_REVISIONS)
        .map(|n| RevisionId {
            uid: format!("4f1c8a52-0d6e-4b4b-9a55-{n:012}"),
            version: 10_000,
            created: Some(now - SignedDuration::from_secs(60)),
        })
        .collect();
    let baseline = Baseline::Releases(PlainBaseline { revisions, truncated: true });
    let targets = (1..=40)
        .map(|number| {
            let mut target = target(number, now);
            target.state.message = "ß\"".repeat(MESSAGE_BYTES / 3);
            target.state.baseline = Some(baseline.clone());
            target.state.memory.hint = Some("h".repeat(MESSAGE_BYTES));
            target.state.memory.last_words = Some("w".repeat(MESSAGE_BYTES));
            target
        })
        .collect();
    Deployment { message: "m".repeat(MESSAGE_BYTES), targets, ..deployment(id, now) }
}

/// `item` as the next check writes it.
#[must_use]
pub fn next(item: &Deployment, message: &str) -> Deployment {
    Deployment { rev: item.rev + 1, polls: item.polls + 1, message: message.to_owned(), ..item.clone() }
}

/// A cluster's row.
#[must_use]
pub fn cluster(id: &str, nonce: &str) -> ClusterRow {
    // A whole second and a part of one: both must come back as they were.
    let created_at = Timestamp::from_second(1_790_000_000).unwrap_or_default();
    ClusterRow {
        id: id.to_owned(),
        name: format!("Cluster „{id}“"),
        api_url: "https://api.example.com:6443".to_owned(),
        tls_server_name: None,
        ca_fingerprint: Some("AB:CD:EF".to_owned()),
        ca_not_after: Some(created_at + SignedDuration::from_hours(24 * 365)),
        token_expires_at: None,
        token_issuer: Some("https://kubernetes.default.svc".to_owned()),
        token_subject: None,
        eks: None,
        namespaces: Namespaces::default(),
        last_probe: None,
        state: RowState::Active,
        nonce: nonce.to_owned(),
        created_at,
        updated_at: created_at + SignedDuration::new(5, 123_456_789),
    }
}

/// An environment with a target on each of these clusters.
#[must_use]
pub fn environment(app: &str, name: &str, clusters: &[&str]) -> Environment {
    let created_at = Timestamp::from_second(1_790_000_000).unwrap_or_default();
    Environment {
        app: app.to_owned(),
        environment: name.to_owned(),
        helm_type: HelmType::Flux,
        targets: clusters
            .iter()
            .map(|cluster| TargetRequest {
                cluster: (*cluster).to_owned(),
                namespace: "shop".to_owned(),
                release: "checkout".to_owned(),
            })
            .collect(),
        timeout_secs: None,
        created_at,
        updated_at: created_at + SignedDuration::new(5, 123_456_789),
    }
}

/// Credentials with every field.
#[must_use]
pub fn credentials(token: &str) -> Credentials {
    Credentials {
        api_url: "https://api.example.com:6443/k8s/clusters/c-x1".to_owned(),
        token: SecretString::from(token),
        ca_cert: Some("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_owned()),
        tls_server_name: Some("kubernetes.default".to_owned()),
        personal: None,
    }
}

/// The contract of [`Deployments`]. `now` must be near the store's own clock.
pub async fn deployments(store: &dyn Deployments, now: Timestamp) {
    nothing_is_there_at_first(store).await;
    created_once(store, now).await;
    updated_only_from_the_revision_before(store, now).await;
    a_write_that_was_done_unheard_is_done(store, now).await;
    never_rewritten_once_it_has_ended(store, now).await;
    never_rewritten_by_another_execution(store, now).await;
    of_two_writers_one_wins(store, now).await;
    an_expired_item_is_none(store, now).await;
    an_unknown_schema_is_refused(store, now).await;
    everything_comes_back(store, now).await;
    an_environment_has_its_own_history(store, now).await;
    a_history_comes_page_by_page(store, now).await;
}

async fn nothing_is_there_at_first(store: &dyn Deployments) {
    assert_eq!(store.get("nothing").await.unwrap(), None);
}

async fn created_once(store: &dyn Deployments, now: Timestamp) {
    let first = deployment("once", now);
    assert_eq!(store.create(&first, now).await.unwrap(), Stored::Yes);
    assert_eq!(store.get("once").await.unwrap().as_ref(), Some(&first));

    let rival = Deployment { execution_arn: Some("arn:another".to_owned()), ..first.clone() };
    assert_eq!(store.create(&rival, now).await.unwrap(), Stored::Lost);
    assert_eq!(store.get("once").await.unwrap(), Some(first));
}

async fn updated_only_from_the_revision_before(store: &dyn Deployments, now: Timestamp) {
    let first = deployment("revisions", now);
    assert_eq!(store.update(&next(&first, "an update creates nothing")).await.unwrap(), Stored::Lost);
    assert_eq!(store.get("revisions").await.unwrap(), None);
    assert_eq!(store.create(&first, now).await.unwrap(), Stored::Yes);

    let second = next(&first, "second");
    assert_eq!(store.update(&second).await.unwrap(), Stored::Yes);
    assert_eq!(store.get("revisions").await.unwrap().as_ref(), Some(&second));

    let late = next(&first, "a late check of the first revision");
    assert_eq!(store.update(&late).await.unwrap(), Stored::Lost);
    let leap = next(&next(&second, "third"), "fourth, of a third that nobody wrote");
    assert_eq!(store.update(&leap).await.unwrap(), Stored::Lost);
    let rewound = Deployment { rev: 0, ..first };
    assert_eq!(store.update(&rewound).await.unwrap(), Stored::Lost);
    assert_eq!(store.get("revisions").await.unwrap(), Some(second));
}

async fn a_write_that_was_done_unheard_is_done(store: &dyn Deployments, now: Timestamp) {
    let first = deployment("unheard", now);
    assert_eq!(store.create(&first, now).await.unwrap(), Stored::Yes);
    assert_eq!(store.create(&first, now).await.unwrap(), Stored::Yes);
    let second = next(&first, "second");
    assert_eq!(store.update(&second).await.unwrap(), Stored::Yes);
    assert_eq!(store.update(&second).await.unwrap(), Stored::Yes);
    assert_eq!(store.create(&first, now).await.unwrap(), Stored::Lost);
}

async fn never_rewritten_once_it_has_ended(store: &dyn Deployments, now: Timestamp) {
    for (id, status) in [("succeeded", Status::Succeeded), ("failed", Status::Failed)] {
        let first = deployment(id, now);
        assert_eq!(store.create(&first, now).await.unwrap(), Stored::Yes);
        let ended = Deployment {
            status,
            reason: Reason::Superseded,
            last_reason: Some(Reason::Progressing),
            evidence: Some(verdict::Evidence::Changed),
            finished_at: Some(now),
            ..next(&first, "ended")
        };
        assert_eq!(store.update(&ended).await.unwrap(), Stored::Yes);
        let reopened = Deployment {
            status: Status::Pending,
            evidence: None,
            finished_at: None,
            ..next(&ended, "reopened")
        };
        assert_eq!(store.update(&reopened).await.unwrap(), Stored::Lost);
        let other = Deployment { reason: Reason::Timeout, ..next(&ended, "ended otherwise") };
        assert_eq!(store.update(&other).await.unwrap(), Stored::Lost);
        assert_eq!(store.create(&first, now).await.unwrap(), Stored::Lost);
        assert_eq!(store.get(id).await.unwrap(), Some(ended));
    }
}

async fn never_rewritten_by_another_execution(store: &dyn Deployments, now: Timestamp) {
    let with = |id: &str, arn: Option<&str>| Deployment {
        execution_arn: arn.map(str::to_owned),
        ..deployment(id, now)
    };
    for (id, theirs, mine) in [
        ("of-another", Some("arn:theirs"), Some("arn:mine")),
        ("of-an-execution", Some("arn:theirs"), None),
        ("of-none", None, Some("arn:mine")),
    ] {
        let theirs = with(id, theirs);
        assert_eq!(store.create(&theirs, now).await.unwrap(), Stored::Yes);
        assert_eq!(store.update(&next(&with(id, mine), "mine")).await.unwrap(), Stored::Lost);
        assert_eq!(store.get(id).await.unwrap().as_ref(), Some(&theirs));
        let second = next(&theirs, "theirs");
        assert_eq!(store.update(&second).await.unwrap(), Stored::Yes);
        assert_eq!(store.get(id).await.unwrap(), Some(second));
    }
}

async fn of_two_writers_one_wins(store: &dyn Deployments, now: Timestamp) {
    let mine = deployment("race", now);
    let theirs = Deployment { message: "theirs".to_owned(), ..mine.clone() };
    let (a, b) = join(store.create(&mine, now), store.create(&theirs, now)).await;
    let first = winner(a, mine, b, theirs);
    assert_eq!(store.get("race").await.unwrap().as_ref(), Some(&first));

    let (mine, theirs) = (next(&first, "mine"), next(&first, "theirs"));
    let (a, b) = join(store.update(&mine), store.update(&theirs)).await;
    let second = winner(a, mine, b, theirs);
    assert_eq!(store.get("race").await.unwrap(), Some(second));
}

fn winner<T>(a: Result<Stored, StoreError>, mine: T, b: Result<Stored, StoreError>, theirs: T) -> T {
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_ne!(a, b, "one of two writers must win");
    if a == Stored::Yes { mine } else { theirs }
}

async fn an_expired_item_is_none(store: &dyn Deployments, now: Timestamp) {
    let old = Deployment { expires_at: now.as_second() - 60, ..deployment("expired", now) };
    assert_eq!(store.create(&old, now).await.unwrap(), Stored::Yes);
    assert_eq!(store.get("expired").await.unwrap(), None);
    let new = Deployment { digest: "sha256:another".to_owned(), ..deployment("expired", now) };
    assert_eq!(store.create(&new, now).await.unwrap(), Stored::Yes);
    assert_eq!(store.get("expired").await.unwrap(), Some(new));
}

async fn an_unknown_schema_is_refused(store: &dyn Deployments, now: Timestamp) {
    let newer = Deployment { schema: SCHEMA + 1, ..deployment("newer", now) };
    assert_eq!(store.create(&newer, now).await.unwrap(), Stored::Yes);
    let refused = store.get("newer").await;
    assert!(matches!(refused, Err(StoreError::Broken { .. })), "{refused:?}");
}

async fn everything_comes_back(store: &dyn Deployments, now: Timestamp) {
    let large = large_deployment("large", now);
    assert_eq!(store.create(&large, now).await.unwrap(), Stored::Yes);
    assert_eq!(store.get("large").await.unwrap(), Some(large));

    let mut expecting = deployment("expecting", now);
    if let Some(request) = expecting.request.as_mut() {
        request.expect.chart_version = Some("1.4.0".to_owned());
        request.expect.values.insert("/replicas".to_owned(), serde_json::json!([1, 2.5, null, {"a": "b"}]));
        request.fail_fast = true;
    }
    assert_eq!(store.create(&expecting, now).await.unwrap(), Stored::Yes);
    assert_eq!(store.get("expecting").await.unwrap(), Some(expecting));

    // What was closed before any check ran: no request, no digest, no targets.
    let bare = Deployment {
        execution_arn: None,
        digest: String::new(),
        request: None,
        targets: Vec::new(),
        status: Status::Failed,
        reason: Reason::MonitorError,
        last_reason: Some(Reason::Starting),
        // A whole second, which must not come back with a part of one.
        started_at: Timestamp::from_second(now.as_second()).unwrap(),
        finished_at: Some(now),
        polls: 0,
        ..deployment("bare", now)
    };
    assert_eq!(store.create(&bare, now).await.unwrap(), Stored::Yes);
    assert_eq!(store.get("bare").await.unwrap(), Some(bare));
}

/// The index may lag behind the table on AWS; it does so neither in memory nor in an
/// emulator, which are what this is run against.
async fn an_environment_has_its_own_history(store: &dyn Deployments, now: Timestamp) {
    let none = History { deployments: Vec::new(), more: false };
    assert_eq!(store.history("shop", "production", 100, None).await.unwrap(), none);
    let begun = |id: &str, app: Option<&str>, environment: Option<&str>, secs_ago: i64| {
        let started_at = now - SignedDuration::from_secs(secs_ago);
        let mut item = Deployment { started_at, ..deployment(id, now) };
        if let Some(request) = item.request.as_mut() {
            request.app = app.map(str::to_owned);
            request.environment = environment.map(str::to_owned);
        }
        item
    };
    let pending = begun("shop-pending", Some("shop"), Some("production"), 10);
    let ended = begun("shop-ended", Some("shop"), Some("production"), 30);
    let expired = Deployment {
        expires_at: now.as_second() - 60,
        ..begun("shop-expired", Some("shop"), Some("production"), 20)
    };
    for item in [
        &ended,
        &expired,
        &pending,
        &begun("shop-elsewhere", Some("shop"), Some("staging"), 15),
        &begun("shop-longer", Some("shop-2"), Some("production"), 15),
        &begun("shop-longer-too", Some("shop"), Some("production-2"), 15),
        &begun("shop-app-only", Some("shop"), None, 15),
        &begun("shop-environment-only", None, Some("production"), 15),
        &begun("shop-unlabelled", None, None, 15),
    ] {
        assert_eq!(store.create(item, now).await.unwrap(), Stored::Yes);
    }
    let ended = Deployment {
        status: Status::Failed,
        reason: Reason::RolledBack,
        finished_at: Some(now),
        ..next(&ended, "ended")
    };
    assert_eq!(store.update(&ended).await.unwrap(), Stored::Yes);
    let told = |item: &Deployment| Summary {
        deployment_id: item.deployment_id.clone(),
        status: item.status,
        reason: item.reason,
        started_at: item.started_at,
        finished_at: item.finished_at,
    };
    let all = History { deployments: vec![told(&pending), told(&ended)], more: false };
    assert_eq!(store.history("shop", "production", 100, None).await.unwrap(), all);
    // The one that has expired takes no place on a page.
    assert_eq!(store.history("shop", "production", 2, None).await.unwrap(), all);
    let page = store.history("shop", "production", 1, None).await.unwrap();
    assert_eq!(page, History { deployments: vec![told(&pending)], more: true });
}

/// Of those that began at the same instant the order is the store's own. A page
/// after one of them begins with the next.
async fn a_history_comes_page_by_page(store: &dyn Deployments, now: Timestamp) {
    // A whole second among parts of one: they must sort as instants, not as they are written.
    let second = Timestamp::from_second(now.as_second() - 100).unwrap();
    let starts = [
        ("page-1", second + SignedDuration::from_millis(500)),
        ("page-2a", second),
        ("page-2b", second),
        ("page-2c", second),
        ("page-2d", second),
        ("page-3", second - SignedDuration::from_millis(1)),
        ("page-4", second - SignedDuration::from_secs(1)),
    ];
    for (id, started_at) in starts {
        let mut item = Deployment { started_at, ..deployment(id, now) };
        if let Some(request) = item.request.as_mut() {
            request.app = Some("pages".to_owned());
        }
        assert_eq!(store.create(&item, now).await.unwrap(), Stored::Yes);
    }
    let all: BTreeSet<(String, Timestamp)> =
        starts.iter().map(|(id, started_at)| ((*id).to_owned(), *started_at)).collect();
    for limit in 1..=starts.len() + 1 {
        let mut seen: Vec<(String, Timestamp)> = Vec::new();
        let mut after: Option<(Timestamp, String)> = None;
        loop {
            let from = after.as_ref().map(|(started_at, id)| (*started_at, id.as_str()));
            let page = store.history("pages", "production", limit, from).await.unwrap();
            let left = starts.len() - seen.len();
            assert_eq!((page.deployments.len(), page.more), (limit.min(left), left > limit), "{limit}");
            seen.extend(page.deployments.iter().map(|it| (it.deployment_id.clone(), it.started_at)));
            after = page.deployments.last().map(|it| (it.started_at, it.deployment_id.clone()));
            if !page.more {
                break;
            }
        }
        assert!(seen.is_sorted_by(|a, b| a.1 >= b.1), "newest first, {limit} a page: {seen:?}");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), all, "each once, {limit} a page");
    }
    // After the last there is nothing, and what is gone is still a place to go on from.
    let last = (second - SignedDuration::from_secs(1), "page-4");
    let none = History { deployments: Vec::new(), more: false };
    assert_eq!(store.history("pages", "production", 3, Some(last)).await.unwrap(), none);
    let gone = (second - SignedDuration::from_millis(500), "gone");
    let page = store.history("pages", "production", 3, Some(gone)).await.unwrap();
    let ids: Vec<_> = page.deployments.iter().map(|it| it.deployment_id.as_str()).collect();
    assert_eq!((ids, page.more), (vec!["page-4"], false));
    // Limits out of bounds are brought back into them.
    let one = store.history("pages", "production", 0, None).await.unwrap();
    assert_eq!((one.deployments.len(), one.more), (1, true));
    assert_eq!(store.history("pages", "production", usize::MAX, None).await.unwrap().deployments.len(), 7);
}

/// The contract of [`Registry`].
pub async fn registry(store: &dyn Registry) {
    rows_are_guarded_by_their_nonce(store).await;
    of_two_registrations_one_wins(store).await;
    rows_are_removed_by_their_nonce(store).await;
    rows_come_in_order_page_by_page(store).await;
}

async fn rows_are_guarded_by_their_nonce(store: &dyn Registry) {
    assert_eq!(store.get("prod").await.unwrap(), None);
    let row = ClusterRow { state: RowState::Registering, ..cluster("prod", "one") };
    assert_eq!(store.put(&row, Expected::Nonce("one")).await.unwrap(), Stored::Lost);
    assert_eq!(store.get("prod").await.unwrap(), None);
    assert_eq!(store.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
    assert_eq!(store.get("prod").await.unwrap().as_ref(), Some(&row));
    // The same write again: its answer was lost.
    assert_eq!(store.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);

    let rival = ClusterRow { api_url: "https://rival.example.com".to_owned(), ..cluster("prod", "rival") };
    assert_eq!(store.put(&rival, Expected::Absent).await.unwrap(), Stored::Lost);
    assert_eq!(store.put(&rival, Expected::Nonce("rival")).await.unwrap(), Stored::Lost);

    let active = ClusterRow {
        nonce: "two".to_owned(),
        state: RowState::Active,
        tls_server_name: Some("kubernetes.default".to_owned()),
        ca_fingerprint: None,
        ca_not_after: None,
        token_expires_at: Some(row.created_at),
        ..row.clone()
    };
    assert_eq!(store.put(&active, Expected::Nonce("one")).await.unwrap(), Stored::Yes);
    assert_eq!(store.put(&active, Expected::Nonce("one")).await.unwrap(), Stored::Yes);
    assert_eq!(store.put(&row, Expected::Nonce("one")).await.unwrap(), Stored::Lost);
    assert_eq!(store.get("prod").await.unwrap(), Some(active));
}

async fn of_two_registrations_one_wins(store: &dyn Registry) {
    let (mine, theirs) = (cluster("race", "mine"), cluster("race", "theirs"));
    let (a, b) = join(store.put(&mine, Expected::Absent), store.put(&theirs, Expected::Absent)).await;
    let won = winner(a, mine, b, theirs);
    assert_eq!(store.get("race").await.unwrap(), Some(won));
}

async fn rows_are_removed_by_their_nonce(store: &dyn Registry) {
    let row = cluster("removed", "one");
    assert_eq!(store.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
    assert_eq!(store.remove("removed", "another").await.unwrap(), Stored::Lost);
    assert_eq!(store.get("removed").await.unwrap(), Some(row));
    assert_eq!(store.remove("removed", "one").await.unwrap(), Stored::Yes);
    assert_eq!(store.get("removed").await.unwrap(), None);
    // Gone already is what was asked for: the answer of the first try may have been lost.
    assert_eq!(store.remove("removed", "one").await.unwrap(), Stored::Yes);
}

async fn rows_come_in_order_page_by_page(store: &dyn Registry) {
    for id in ["prod", "race"] {
        if let Some(row) = store.get(id).await.unwrap() {
            assert_eq!(store.remove(id, &row.nonce).await.unwrap(), Stored::Yes);
        }
    }
    assert_eq!(store.list(100, None).await.unwrap(), Page { rows: Vec::new(), more: false });
    for id in ["c", "a", "e", "b-2", "b"] {
        assert_eq!(store.put(&cluster(id, "n"), Expected::Absent).await.unwrap(), Stored::Yes);
    }
    let ids = |page: &Page| page.rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();

    let page = store.list(2, None).await.unwrap();
    assert_eq!((ids(&page), page.more), (vec!["a".to_owned(), "b".to_owned()], true));
    assert_eq!(page.rows[0], cluster("a", "n"));
    let page = store.list(2, Some("b")).await.unwrap();
    assert_eq!((ids(&page), page.more), (vec!["b-2".to_owned(), "c".to_owned()], true));
    // A full last page has nothing after it.
    let page = store.list(1, Some("c")).await.unwrap();
    assert_eq!((ids(&page), page.more), (vec!["e".to_owned()], false));
    // The row after which the caller goes on may be gone by now.
    let page = store.list(100, Some("b-9")).await.unwrap();
    assert_eq!((ids(&page), page.more), (vec!["c".to_owned(), "e".to_owned()], false));
    assert_eq!(store.list(2, Some("e")).await.unwrap(), Page { rows: Vec::new(), more: false });
    assert_eq!(store.list(5, None).await.unwrap().rows.len(), 5);
    // Limits out of bounds are brought back into them.
    assert_eq!(store.list(0, None).await.unwrap().rows.len(), 1);
    assert_eq!(store.list(usize::MAX, None).await.unwrap().rows.len(), 5);
}

/// The contract of [`Environments`].
pub async fn environments<S: Registry + Environments>(store: &S) {
    an_environment_needs_clusters_that_may_be_used(store).await;
    an_environment_is_replaced_whole_and_removed(store).await;
    environments_come_in_order_page_by_page(store).await;
    those_that_name_a_cluster_are_found(store).await;
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

async fn an_environment_needs_clusters_that_may_be_used<S: Registry + Environments>(store: &S) {
    assert_eq!(store.environment("guarded", "production").await.unwrap(), None);
    for (id, state) in [
        ("registering", RowState::Registering),
        ("active", RowState::Active),
        ("updating", RowState::Updating),
        ("deleting", RowState::Deleting),
    ] {
        let row = ClusterRow { state, ..cluster(id, "n") };
        assert_eq!(store.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
    }
    for clusters in
        [&["absent"][..], &["registering"], &["deleting"], &["active", "deleting"], &["absent", "updating"]]
    {
        let refused = environment("guarded", "production", clusters);
        assert_eq!(store.put_environment(&refused, &owned(clusters)).await.unwrap(), Stored::Lost);
        assert_eq!(store.environment("guarded", "production").await.unwrap(), None);
    }
    let first = environment("guarded", "production", &["active", "updating"]);
    let ids = owned(&["active", "updating"]);
    assert_eq!(store.put_environment(&first, &ids).await.unwrap(), Stored::Yes);
    assert_eq!(store.environment("guarded", "production").await.unwrap().as_ref(), Some(&first));
    // What is refused leaves what was there.
    let refused = environment("guarded", "production", &["deleting"]);
    assert_eq!(store.put_environment(&refused, &owned(&["deleting"])).await.unwrap(), Stored::Lost);
    assert_eq!(store.environment("guarded", "production").await.unwrap(), Some(first));
    assert!(store.remove_environment("guarded", "production").await.unwrap());
    for id in ["registering", "active", "updating", "deleting"] {
        assert_eq!(store.remove(id, "n").await.unwrap(), Stored::Yes);
    }
}

async fn an_environment_is_replaced_whole_and_removed<S: Registry + Environments>(store: &S) {
    for id in ["a", "b"] {
        assert_eq!(store.put(&cluster(id, "n"), Expected::Absent).await.unwrap(), Stored::Yes);
    }
    let first = Environment { timeout_secs: Some(600), ..environment("shop", "production", &["a"]) };
    assert_eq!(store.put_environment(&first, &owned(&["a"])).await.unwrap(), Stored::Yes);
    // The same again, and an id twice, as where two targets are on one cluster.
    assert_eq!(store.put_environment(&first, &owned(&["a", "a"])).await.unwrap(), Stored::Yes);
    assert_eq!(store.environment("shop", "production").await.unwrap(), Some(first));

    let second = Environment { helm_type: HelmType::Plain, ..environment("shop", "production", &["b", "b"]) };
    assert_eq!(store.put_environment(&second, &owned(&["b"])).await.unwrap(), Stored::Yes);
    assert_eq!(store.environment("shop", "production").await.unwrap(), Some(second));
    assert_eq!(store.environment("shop", "staging").await.unwrap(), None);
    assert_eq!(store.environment("production", "shop").await.unwrap(), None);
    // They are no clusters.
    assert_eq!(store.list(100, None).await.unwrap().rows.len(), 2);

    assert!(!store.remove_environment("shop", "staging").await.unwrap());
    assert!(store.remove_environment("shop", "production").await.unwrap());
    assert_eq!(store.environment("shop", "production").await.unwrap(), None);
    assert!(!store.remove_environment("shop", "production").await.unwrap());
    for id in ["a", "b"] {
        assert_eq!(store.remove(id, "n").await.unwrap(), Stored::Yes);
    }
}

async fn environments_come_in_order_page_by_page<S: Registry + Environments>(store: &S) {
    assert_eq!(store.put(&cluster("a", "n"), Expected::Absent).await.unwrap(), Stored::Yes);
    // `-` sorts before digits and letters, and before most characters that could divide two names.
    let names = ["0", "prod", "prod-", "prod-eu", "prod0", "produ"];
    let apps = ["check", "check-", "check-out", "check0", "checkout"];
    for name in ["prod0", "0", "prod-eu", "produ", "prod", "prod-"] {
        for app in apps {
            let it = environment(app, name, &["a"]);
            assert_eq!(store.put_environment(&it, &owned(&["a"])).await.unwrap(), Stored::Yes);
        }
    }
    let told = |page: &EnvironmentPage| -> Vec<String> {
        page.environments.iter().map(|it| it.environment.clone()).collect()
    };
    for app in apps {
        for limit in 1..=names.len() + 1 {
            let (mut seen, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
            loop {
                let page = store.environments(app, limit, after.as_deref()).await.unwrap();
                assert!(page.environments.iter().all(|it| it.app == app), "{app}: {page:?}");
                let left = names.len() - seen.len();
                assert_eq!((page.environments.len(), page.more), (limit.min(left), left > limit), "{app}");
                seen.extend(told(&page));
                after = seen.last().cloned();
                if !page.more {
                    break;
                }
            }
            assert_eq!(seen, names, "{app}, {limit} a page");
        }
    }
    let none = EnvironmentPage { environments: Vec::new(), more: false };
    assert_eq!(store.environments("checks", 100, None).await.unwrap(), none);
    assert_eq!(store.environments("chec", 100, None).await.unwrap(), none);
    assert_eq!(store.environments("check", 100, Some("produ")).await.unwrap(), none);
    // The one after which the caller goes on may be gone by now.
    let page = store.environments("check", 2, Some("prod-f")).await.unwrap();
    assert_eq!((told(&page), page.more), (owned(&["prod0", "produ"]), false));
    // Limits out of bounds are brought back into them.
    assert_eq!(store.environments("check", 0, None).await.unwrap().environments.len(), 1);
    assert_eq!(store.environments("check", usize::MAX, None).await.unwrap().environments.len(), 6);

    for app in apps {
        for name in names {
            assert!(store.remove_environment(app, name).await.unwrap());
        }
    }
    assert_eq!(store.remove("a", "n").await.unwrap(), Stored::Yes);
}

async fn those_that_name_a_cluster_are_found<S: Registry + Environments>(store: &S) {
    let many: Vec<String> = (1..=40).map(|n| format!("cluster-{n}")).collect();
    let rows = many.iter().map(String::as_str).chain(["prod", "prod-eu", "prod-eu-2"]);
    for id in rows {
        assert_eq!(store.put(&cluster(id, "n"), Expected::Absent).await.unwrap(), Stored::Yes);
    }
    assert!(store.naming_cluster("prod-eu").await.unwrap().is_empty());
    // Named as people name it, and with all the targets there may be.
    let named = environment("shop", "production", &["prod", "Prod EU"]);
    assert_eq!(store.put_environment(&named, &owned(&["prod", "prod-eu"])).await.unwrap(), Stored::Yes);
    let all: Vec<&str> = many.iter().map(String::as_str).collect();
    let large = environment("shop", "everywhere", &all);
    assert_eq!(store.put_environment(&large, &many).await.unwrap(), Stored::Yes);

    let pair = |app: &str, name: &str| (app.to_owned(), name.to_owned());
    assert_eq!(store.naming_cluster("prod-eu").await.unwrap(), [pair("shop", "production")]);
    assert_eq!(store.naming_cluster("cluster-40").await.unwrap(), [pair("shop", "everywhere")]);
    for none in ["prod-eu-2", "prod-e", "cluster-", "shop", "production"] {
        assert!(store.naming_cluster(none).await.unwrap().is_empty(), "{none}");
    }
    // Not any more once it is replaced.
    let moved = environment("shop", "production", &["prod-eu-2"]);
    assert_eq!(store.put_environment(&moved, &owned(&["prod-eu-2"])).await.unwrap(), Stored::Yes);
    assert!(store.naming_cluster("prod-eu").await.unwrap().is_empty());

    for n in 0..12 {
        let it = environment("many", &format!("e-{n}"), &["prod"]);
        assert_eq!(store.put_environment(&it, &owned(&["prod"])).await.unwrap(), Stored::Yes);
    }
    let told = store.naming_cluster("prod").await.unwrap();
    assert_eq!(told.len(), 10, "enough for a sentence");
    assert!(told.iter().all(|(app, name)| app == "many" && name.starts_with("e-")), "{told:?}");
}

/// The contract of [`Vault`].
pub async fn vault(vault: &dyn Vault) {
    assert!(vault.get("prod").await.unwrap().is_none());
    vault.delete("prod").await.unwrap();

    // Over nothing, over others, over others scheduled for deletion.
    vault.put("prod", &credentials("first").into()).await.unwrap();
    holds(vault, &credentials("first")).await;
    let plain = Credentials { ca_cert: None, tls_server_name: None, ..credentials("second") };
    vault.put("prod", &plain.clone().into()).await.unwrap();
    holds(vault, &plain).await;
    vault.put("prod", &plain.clone().into()).await.unwrap();
    holds(vault, &plain).await;

    vault.delete("prod").await.unwrap();
    assert!(vault.get("prod").await.unwrap().is_none());
    vault.delete("prod").await.unwrap();
    assert!(vault.get("prod").await.unwrap().is_none());

    vault.put("prod", &credentials("third").into()).await.unwrap();
    holds(vault, &credentials("third")).await;

    assert!(vault.get("prod-eu").await.unwrap().is_none(), "another cluster's");

    // From a token to an identity, and back.
    let ours = EksCluster {
        cluster_name: "prod".to_owned(),
        region: "eu-central-1".to_owned(),
        role_arn: Some("arn:aws:iam::123456789012:role/dag-monitor".to_owned()),
    };
    let namespaces = Namespaces::parse(vec!["shop".to_owned(), "team-*".to_owned()]).unwrap();
    for cluster in [ours.clone(), EksCluster { role_arn: None, ..ours }] {
        let secret = ClusterSecret { auth: Auth::Eks(cluster.clone()), namespaces: namespaces.clone() };
        vault.put("prod", &secret).await.unwrap();
        let found = vault.get("prod").await.unwrap().unwrap();
        assert!(matches!(&found.auth, Auth::Eks(there) if *there == cluster), "{found:?}");
        assert_eq!(found.namespaces, namespaces);
    }
    let narrow = ClusterSecret { auth: Auth::Token(credentials("fourth")), namespaces: namespaces.clone() };
    vault.put("prod", &narrow).await.unwrap();
    holds(vault, &credentials("fourth")).await;
    assert_eq!(vault.get("prod").await.unwrap().unwrap().namespaces, namespaces);
    vault.put("prod", &credentials("fifth").into()).await.unwrap();
    assert_eq!(vault.get("prod").await.unwrap().unwrap().namespaces, Namespaces::default());
}

async fn holds(vault: &dyn Vault, wanted: &Credentials) {
    let Auth::Token(found) = vault.get("prod").await.unwrap().unwrap().auth else {
        panic!("a stored token came back as something else");
    };
    assert_eq!(found.api_url, wanted.api_url);
    assert_eq!(found.token.expose_secret(), wanted.token.expose_secret());
    assert_eq!(found.ca_cert, wanted.ca_cert);
    assert_eq!(found.tls_server_name, wanted.tls_server_name);
}

/// The contract of [`Events`]: the largest answer goes through, and the same one
/// again; and what is said of clusters.
pub async fn events(events: &dyn Events) {
    let answer = Answer::from(&large_deployment("finished", Timestamp::now()));
    events.deployment_finished(&answer).await.unwrap();
    events.deployment_finished(&answer).await.unwrap();
    let well = attention();
    events.cluster_needs_attention(&well).await.unwrap();
    let failed = Attention {
        reason: Some(ProbeReason::CertificateNotTrusted),
        message: "ß\"".repeat(MESSAGE_BYTES / 3),
        token_expires_at: None,
        certificate_not_after: None,
        ..well
    };
    events.cluster_needs_attention(&failed).await.unwrap();
}

/// A cluster that was reached, and whose token ends soon.
#[must_use]
pub fn attention() -> Attention {
    let probed_at = Timestamp::from_second(1_790_000_000).unwrap_or_default();
    Attention {
        cluster: "prod-eu".to_owned(),
        name: "Prod EU".to_owned(),
        probed_at,
        reason: None,
        message: "the token ends on 2026-09-28".to_owned(),
        token_expires_at: Some(probed_at + SignedDuration::from_hours(24 * 7)),
        certificate_not_after: Some(probed_at + SignedDuration::from_hours(24 * 365)),
    }
}

/// The contract of [`Executions`]. `end` ends the execution of a name; none of those
/// that are started here ends by itself.
pub async fn executions(store: &dyn Executions, end: impl AsyncFn(&str)) {
    let input = serde_json::json!({
        "helmType": "flux", "deploymentId": "checkout-1", "expect": {"values": {"/b": [1, 2.5, null], "/a": "ü"}},
    });
    let other = serde_json::json!({"deploymentId": "checkout-1", "helmType": "plain"});
    assert_eq!(store.find("checkout-1").await.unwrap(), None);

    let Starting::Begun(execution) = store.start("checkout-1", &input).await.unwrap() else {
        panic!("a name that nobody has used was taken");
    };
    assert_eq!(execution.name(), "checkout-1");
    assert!(execution.arn.starts_with("arn:"), "{execution:?}");
    let found = Found { execution: execution.clone(), input: Some(input.clone()), running: true };
    assert_eq!(store.find("checkout-1").await.unwrap().as_ref(), Some(&found));
    assert_eq!(store.start("checkout-1", &other).await.unwrap(), Starting::NameTaken);
    assert_eq!(store.find("checkout-1").await.unwrap().as_ref(), Some(&found));

    assert_eq!(store.find("checkout").await.unwrap(), None, "another name");
    let beside = store.start("checkout-2", &other).await.unwrap();
    assert!(matches!(&beside, Starting::Begun(it) if it.name() == "checkout-2"), "{beside:?}");

    end("checkout-1").await;
    assert_eq!(store.find("checkout-1").await.unwrap(), Some(Found { running: false, ..found }));
    assert_eq!(store.start("checkout-1", &input).await.unwrap(), Starting::NameTaken);
    assert_eq!(store.start("checkout-1", &other).await.unwrap(), Starting::NameTaken);
    assert_eq!(store.find("checkout-2").await.unwrap().map(|it| it.running), Some(true));
}

/// The part of the contract of [`Executions`] that emulators of Step Functions break,
/// which refuse every name that was used: the same start again, as after a lost
/// answer, comes to the same execution while that runs.
pub async fn executions_begun_twice(store: &dyn Executions) {
    let input = serde_json::json!({"helmType": "flux", "deploymentId": "twice"});
    let begun = store.start("twice", &input).await.unwrap();
    assert!(matches!(begun, Starting::Begun(_)), "{begun:?}");
    assert_eq!(store.start("twice", &input).await.unwrap(), begun);
}
