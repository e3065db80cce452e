//! What every store is held to, the in-memory twins and the real adapters alike.
//! Each function panics where the contract is broken, and wants an empty store:
//! a second run over the same one fails.
#![allow(clippy::unwrap_used, reason = "a test of its own: it is compiled for tests only")]

use futures_util::future::join;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use verdict::{Baseline, HelmType, MESSAGE_BYTES, PlainBaseline, Reason, RevisionId, Status, TargetState};

use crate::{
    answer::Answer,
    cluster::{ClusterRow, RowState},
    deployment::{Deployment, SCHEMA, Target},
    ports::{Credentials, Deployments, Events, Expected, Page, Registry, StoreError, Stored, Vault},
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
            helm_type: HelmType::Plain,
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
        state: RowState::Active,
        nonce: nonce.to_owned(),
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
    }
}

/// The contract of [`Deployments`]. `now` must be near the store's own clock.
pub async fn deployments(store: &dyn Deployments, now: Timestamp) {
    nothing_is_there_at_first(store).await;
    created_once(store, now).await;
    updated_only_from_the_revision_before(store, now).await;
    a_write_that_was_done_unheard_is_done(store, now).await;
    never_rewritten_once_it_has_ended(store, now).await;
    of_two_writers_one_wins(store, now).await;
    an_expired_item_is_none(store, now).await;
    an_unknown_schema_is_refused(store, now).await;
    everything_comes_back(store, now).await;
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

/// The contract of [`Vault`].
pub async fn vault(vault: &dyn Vault) {
    assert!(vault.get("prod").await.unwrap().is_none());
    vault.delete("prod").await.unwrap();

    // Over nothing, over others, over others scheduled for deletion.
    vault.put("prod", &credentials("first")).await.unwrap();
    holds(vault, &credentials("first")).await;
    let plain = Credentials { ca_cert: None, tls_server_name: None, ..credentials("second") };
    vault.put("prod", &plain).await.unwrap();
    holds(vault, &plain).await;
    vault.put("prod", &plain).await.unwrap();
    holds(vault, &plain).await;

    vault.delete("prod").await.unwrap();
    assert!(vault.get("prod").await.unwrap().is_none());
    vault.delete("prod").await.unwrap();
    assert!(vault.get("prod").await.unwrap().is_none());

    vault.put("prod", &credentials("third")).await.unwrap();
    holds(vault, &credentials("third")).await;

    assert!(vault.get("prod-eu").await.unwrap().is_none(), "another cluster's");
}

async fn holds(vault: &dyn Vault, wanted: &Credentials) {
    let found = vault.get("prod").await.unwrap().unwrap();
    assert_eq!(found.api_url, wanted.api_url);
    assert_eq!(found.token.expose_secret(), wanted.token.expose_secret());
    assert_eq!(found.ca_cert, wanted.ca_cert);
    assert_eq!(found.tls_server_name, wanted.tls_server_name);
}

/// The contract of [`Events`]: the largest answer goes through, and the same one again.
pub async fn events(events: &dyn Events) {
    let answer = Answer::from(&large_deployment("finished", Timestamp::now()));
    events.deployment_finished(&answer).await.unwrap();
    events.deployment_finished(&answer).await.unwrap();
}
