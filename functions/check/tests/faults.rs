//! Whole deployments, through a cluster that misbehaves: real sockets, real TLS,
//! the real client, and a clock that the test moves on between two polls.
//!
//! Each test runs under a hard time limit, and each check under the function's own.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{cell::Cell, collections::BTreeSet, future::Future, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use monitor::{answer::Answer, check::Checker, ports::Clock};
use serde_json::{Value, json};
use testkit::{CertificateKind, Config, Fault, FixedClock, Scenario, SimulatedCluster, release_secret};
use verdict::{HelmType, Reason, Status};

mod world;

/// Many deployments, some of which wait for an answer that never comes.
const LIMIT: Duration = Duration::from_secs(600);
/// The function's own limit: a check that takes longer is killed.
const FUNCTION: Duration = Duration::from_secs(10);
/// The state machine's wait between two checks, in seconds.
const WAIT: i64 = 5;
/// How many worlds are alive at once: each answer must find the thread free.
const AT_ONCE: usize = 4;

async fn limited<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(LIMIT, test).await.expect("within the time limit")
}

/// What goes wrong while a poll looks.
#[derive(Debug, Clone)]
enum Trouble {
    Fault(Fault),
    Certificate(CertificateKind),
    NoFlux,
}

impl Trouble {
    async fn begin(&self, cluster: &SimulatedCluster) {
        match self {
            Self::Fault(fault) => {
                cluster.set_fault(Some(fault.clone())).await.unwrap();
                if matches!(fault, Fault::NoHandshake | Fault::NotTls) {
                    // A kept connection would not meet it.
                    cluster.drop_connections();
                }
            }
            Self::Certificate(kind) => cluster.set_certificate(*kind),
            Self::NoFlux => cluster.set_flux_installed(false),
        }
        settled().await;
    }

    /// Whether an answer may come too late because of it.
    fn is_slow(&self) -> bool {
        use Fault::{Endless, NoHandshake, Silence, Trickle};
        matches!(self, Self::Fault(Silence | Trickle { .. } | NoHandshake | Endless))
    }

    async fn end(&self, cluster: &SimulatedCluster) {
        match self {
            Self::Fault(_) => cluster.set_fault(None).await.unwrap(),
            Self::Certificate(_) => cluster.set_certificate(CertificateKind::Good),
            Self::NoFlux => cluster.set_flux_installed(true),
        }
        settled().await;
    }
}

/// Until closed connections are seen to be closed.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// A trouble, and what is said of it.
struct Row {
    trouble: Trouble,
    /// The reason at a disturbed poll; one of these, where it depends on how
    /// quick the machine is.
    said: &'static [Reason],
    /// The verdict where it never passes.
    for_good: Reason,
}

fn row(trouble: Trouble, said: &'static [Reason], for_good: Reason) -> Row {
    Row { trouble, said, for_good }
}

fn status(code: u16) -> Fault {
    Fault::Status { code, retry_after: None }
}

/// The slow ones first: they wait, and the others go on meanwhile.
fn table() -> Vec<Row> {
    use Reason::{
        BadAnswer, ClusterSlow, ClusterUnreachable, Forbidden, NotKubernetes, ServerError, Throttled,
        Timeout, TlsError, Unauthorized,
    };
    let faults: [(Fault, &'static [Reason], Reason); 24] = [
        (Fault::Silence, &[ClusterSlow], Timeout),
        (Fault::Trickle { every_ms: 1000 }, &[ClusterSlow], Timeout),
        (Fault::NoHandshake, &[ClusterSlow], Timeout),
        (Fault::Endless, &[BadAnswer, ClusterSlow], NotKubernetes),
        (Fault::Refuse, &[ClusterUnreachable], Timeout),
        (Fault::Reset, &[ClusterUnreachable], Timeout),
        (Fault::Truncated, &[ClusterUnreachable], Timeout),
        (Fault::NotTls, &[TlsError], TlsError),
        (Fault::Huge { bytes: 100 << 20 }, &[BadAnswer], NotKubernetes),
        (Fault::GzipBody { bytes: 100 << 20 }, &[BadAnswer], NotKubernetes),
        (Fault::Html, &[BadAnswer], NotKubernetes),
        (Fault::Empty, &[BadAnswer], NotKubernetes),
        (Fault::BrokenJson, &[BadAnswer], NotKubernetes),
        (Fault::WrongKind, &[BadAnswer], NotKubernetes),
        (Fault::Nulls, &[BadAnswer], NotKubernetes),
        (Fault::DeepNesting { depth: 100_000 }, &[BadAnswer], NotKubernetes),
        (Fault::Redirect { location: "https://169.254.169.254/".to_owned() }, &[BadAnswer], NotKubernetes),
        (Fault::Status { code: 429, retry_after: Some("1".to_owned()) }, &[Throttled], Timeout),
        (status(500), &[ServerError], Timeout),
        (status(502), &[ServerError], Timeout),
        (status(503), &[ServerError], Timeout),
        (status(504), &[ServerError], Timeout),
        (status(401), &[Unauthorized], Unauthorized),
        (status(403), &[Forbidden], Forbidden),
    ];
    let certificates = [CertificateKind::Expired, CertificateKind::OtherIssuer, CertificateKind::WrongName]
        .map(|kind| row(Trouble::Certificate(kind), &[TlsError], TlsError));
    let faults = faults.into_iter().map(|(fault, said, end)| row(Trouble::Fault(fault), said, end));
    faults.chain(certificates).collect()
}

/// A clock beside another one.
struct Beside(FixedClock, SignedDuration);

impl Clock for Beside {
    fn now(&self) -> Timestamp {
        self.0.now() + self.1
    }
}

/// A cluster, a checker of its own, and the time that both go by.
struct Stand {
    helm_type: HelmType,
    scenario: Scenario,
    cluster: SimulatedCluster,
    checker: Checker,
    clock: FixedClock,
    deployments: Cell<usize>,
}

/// A deployment.
#[derive(Default)]
struct Plan<'a> {
    trouble: Option<&'a Trouble>,
    /// The polls that meet the trouble, from 1.
    disturbed: BTreeSet<i64>,
    /// When the push takes effect, in seconds after it; `None`: never.
    arrives: Option<i64>,
    /// When the first poll is, in seconds after the push.
    late: i64,
    timeout_secs: i64,
    expect_chart: Option<&'static str>,
    /// Started by an execution, at the right time.
    execution: bool,
}

impl Stand {
    async fn new(helm_type: HelmType) -> Self {
        Self::with_clocks(helm_type, SignedDuration::ZERO, SignedDuration::ZERO).await
    }

    /// With the cluster's clock and the checker's so far ahead of the caller's.
    async fn with_clocks(helm_type: HelmType, theirs: SignedDuration, ours: SignedDuration) -> Self {
        let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let recording = match helm_type {
            HelmType::Flux => "flux/chart-upgrade",
            HelmType::Plain => "helm/helm3-upgrade",
        };
        let clock = FixedClock::new(Timestamp::now());
        let config = Config { clock: Some(clock.clone()), clock_offset: theirs, ..Config::default() };
        let cluster = SimulatedCluster::start(config).await.unwrap();
        let registered = [("prod".to_owned(), world::credentials(&cluster))];
        let checker = world::checker(registered, Arc::new(Beside(clock.clone(), ours))).await;
        let scenario = Scenario::load(&fixtures, recording).unwrap();
        Self { helm_type, scenario, cluster, checker, clock, deployments: Cell::new(0) }
    }

    /// The answers, poll by poll, to the verdict. Where a poll was slow and nobody
    /// had told the cluster to be, it was this machine: then all is done again.
    async fn deploy(&self, plan: &Plan<'_>) -> Vec<Answer> {
        for _ in 0..5 {
            let answers = self.deploy_once(plan).await;
            let is_disturbed = |(poll, answer): (i64, &Answer)| {
                let told = plan.disturbed.contains(&poll) && plan.trouble.is_some_and(Trouble::is_slow);
                let slow = [Some(answer.reason), answer.last_reason].contains(&Some(Reason::ClusterSlow));
                slow && !told
            };
            if !(1..).zip(&answers).any(is_disturbed) {
                return answers;
            }
        }
        panic!("{:?}: slow each time", plan.trouble);
    }

    async fn deploy_once(&self, plan: &Plan<'_>) -> Vec<Answer> {
        let number = self.deployments.get() + 1;
        self.deployments.set(number);
        let name = format!("r{number}");
        // What was there before is older than the push by some seconds.
        let settled_for = 10;
        let push_in = plan.arrives.map_or(3_000, |at| settled_for + at).unsigned_abs();
        self.cluster.play(&self.scenario, Some("shop"), Some(&name), Duration::from_secs(push_in)).unwrap();
        let pushed_at = self.clock.advance(SignedDuration::from_secs(settled_for));
        let mut event = json!({
            "deploymentId": name,
            "helmType": self.helm_type,
            "targets": [{"cluster": "prod", "namespace": "shop", "release": name}],
            "timeoutSecs": plan.timeout_secs,
            "pushedAt": pushed_at.to_string(),
        });
        if let Some(chart) = plan.expect_chart {
            event["expect"] = json!({ "chartVersion": chart });
        }
        if plan.execution {
            let arn = format!("arn:aws:states:eu-central-1:123456789012:execution:monitor:{name}");
            event["execution"] = json!({"arn": arn, "startedAt": pushed_at.to_string()});
        }
        self.clock.advance(SignedDuration::from_secs(plan.late));
        let mut answers = Vec::new();
        for poll in 1.. {
            let trouble = plan.trouble.filter(|_| plan.disturbed.contains(&poll));
            if let Some(trouble) = trouble {
                trouble.begin(&self.cluster).await;
            }
            let answer = checked(&self.checker, &event).await;
            if let Some(trouble) = trouble {
                trouble.end(&self.cluster).await;
            }
            let ended = answer.status.is_terminal();
            answers.push(answer);
            if ended {
                break;
            }
            assert!(poll < 60, "it hangs: {:?}", answers.last());
            self.clock.advance(SignedDuration::from_secs(WAIT));
        }
        answers
    }

    fn deployed(&self) -> Reason {
        match self.helm_type {
            HelmType::Flux => Reason::UpgradeSucceeded,
            HelmType::Plain => Reason::Deployed,
        }
    }

    fn new_chart(&self) -> &'static str {
        "1.1.0"
    }
}

async fn checked(checker: &Checker, event: &Value) -> Answer {
    let check = check::handle(checker, event.clone());
    tokio::time::timeout(FUNCTION, check).await.expect("within the function's time").unwrap().unwrap()
}

/// A world for each row and kind of release, some of them at a time.
async fn each_row<F: Future<Output = ()>>(test: impl Fn(Stand, Row) -> F) {
    let worlds = table().into_iter().flat_map(|row| {
        let twin = Row { trouble: row.trouble.clone(), ..row };
        [(HelmType::Flux, row), (HelmType::Plain, twin)]
    });
    stream::iter(worlds)
        .for_each_concurrent(AT_ONCE, |(helm_type, row)| {
            let test = &test;
            async move { test(Stand::new(helm_type).await, row).await }
        })
        .await;
}

/// The last answer, and what it waited for where it is a timeout.
fn end(answers: &[Answer]) -> (Status, Reason, Option<Reason>) {
    let last = answers.last().unwrap();
    (last.status, last.reason, last.last_reason)
}

/// A deployment of 30 s has seven polls, the last of them at its deadline.
const SECS: i64 = 30;
const LAST: i64 = SECS / WAIT + 1;

#[tokio::test]
async fn trouble_at_the_first_look_midway_or_at_the_last_spoils_no_verdict() {
    limited(each_row(|stand, row| async move {
        let trouble = Some(&row.trouble);
        let plan = |arrives, disturbed: &[i64]| Plan {
            trouble,
            disturbed: disturbed.iter().copied().collect(),
            arrives,
            timeout_secs: SECS,
            ..Plan::default()
        };
        let about = format!("{:?} {:?}", row.trouble, stand.helm_type);
        let disturbed = |answers: &[Answer], poll: i64| {
            let answer = &answers[usize::try_from(poll).unwrap() - 1];
            assert_eq!(answer.status, Status::Pending, "{about}: {}", answer.message);
            assert!(row.said.contains(&answer.reason), "{about}: {} {}", answer.reason, answer.message);
        };

        // The push arrives: after a first look that saw nothing; while nobody can see it.
        for (arrives, poll) in [(2, 1), (7, 3)] {
            let answers = stand.deploy(&plan(Some(arrives), &[poll])).await;
            disturbed(&answers, poll);
            let last = answers.last().unwrap();
            assert_eq!(
                end(&answers),
                (Status::Succeeded, stand.deployed(), None),
                "{about}: {}",
                last.message
            );
        }
        // The push arrives when the deadline does, and the last poll sees nothing of it.
        let answers = stand.deploy(&plan(Some(27), &[LAST])).await;
        let (status, reason, waited_for) = end(&answers);
        assert_eq!((answers.len(), status, reason), (7, Status::Failed, Reason::Timeout), "{about}");
        assert!(row.said.contains(&waited_for.unwrap()), "{about}: {waited_for:?}");

        // Nothing arrives: the old release is never taken for the new one.
        for poll in [1, 3, LAST] {
            let answers = stand.deploy(&plan(None, &[poll])).await;
            let (status, reason, waited_for) = end(&answers);
            assert_eq!((answers.len(), status, reason), (7, Status::Failed, Reason::Timeout), "{about}");
            if poll == LAST {
                assert!(row.said.contains(&waited_for.unwrap()), "{about}: {waited_for:?}");
            } else {
                disturbed(&answers, poll);
                assert_eq!(waited_for, Some(Reason::WaitingForChange), "{about}");
            }
        }
        stand.cluster.shutdown().await;
    }))
    .await;
}

#[tokio::test]
async fn trouble_of_two_polls_passes_and_a_verdict_on_the_last_one_counts() {
    limited(each_row(|stand, row| async move {
        let plan = Plan {
            trouble: Some(&row.trouble),
            disturbed: [LAST - 2, LAST - 1].into(),
            arrives: Some(17),
            timeout_secs: SECS,
            expect_chart: Some(stand.new_chart()),
            ..Plan::default()
        };
        let answers = stand.deploy(&plan).await;
        let about = format!("{:?} {:?}: {}", row.trouble, stand.helm_type, answers.last().unwrap().message);
        assert!(row.said.contains(&answers[4].reason) && row.said.contains(&answers[5].reason), "{about}");
        assert_eq!(answers.len(), 7, "{about}");
        assert_eq!(end(&answers), (Status::Succeeded, stand.deployed(), None), "{about}");
        stand.cluster.shutdown().await;
    }))
    .await;
}

#[tokio::test]
async fn trouble_for_good_ends_on_the_third_poll_or_at_the_deadline() {
    limited(each_row(|stand, row| async move {
        // Three polls, the last of them at the deadline.
        let plan = Plan {
            trouble: Some(&row.trouble),
            disturbed: (1..=3).collect(),
            arrives: Some(2),
            timeout_secs: 10,
            ..Plan::default()
        };
        let answers = stand.deploy(&plan).await;
        let about = format!("{:?} {:?}: {}", row.trouble, stand.helm_type, answers.last().unwrap().message);
        assert_eq!(answers.len(), 3, "{about}");
        let (status, reason, waited_for) = end(&answers);
        assert_eq!(status, Status::Failed, "{about}");
        if reason == Reason::Timeout {
            assert!(row.said.contains(&waited_for.unwrap()), "{about}: {waited_for:?}");
        }
        // Where the machine was slow, an endless answer was not at its bound in time.
        assert!(
            reason == row.for_good || (row.said.len() > 1 && reason == Reason::Timeout),
            "{about}: {reason}"
        );
        stand.cluster.shutdown().await;
    }))
    .await;
}

#[tokio::test]
async fn a_cluster_without_flux_for_a_poll_or_for_good() {
    limited(async {
        let stand = Stand::new(HelmType::Flux).await;
        let trouble = Trouble::NoFlux;
        for (disturbed, last) in [
            (vec![1], (Status::Succeeded, Reason::UpgradeSucceeded, None)),
            (vec![3, 4], (Status::Succeeded, Reason::UpgradeSucceeded, None)),
            (vec![1, 2, 3], (Status::Failed, Reason::FluxNotInstalled, None)),
        ] {
            let plan = Plan {
                trouble: Some(&trouble),
                disturbed: disturbed.iter().copied().collect(),
                arrives: Some(7),
                timeout_secs: SECS,
                ..Plan::default()
            };
            let answers = stand.deploy(&plan).await;
            assert_eq!(end(&answers), last, "{disturbed:?}: {}", answers.last().unwrap().message);
            let said = &answers[usize::try_from(disturbed[0]).unwrap() - 1];
            assert_eq!((said.status, said.reason), (Status::Pending, Reason::FluxNotInstalled));
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_odd_and_can_be_read_is_no_trouble() {
    limited(async {
        for helm_type in [HelmType::Flux, HelmType::Plain] {
            let stand = Stand::new(helm_type).await;
            for fault in [Fault::WrongContentType, Fault::Delay { ms: 200 }] {
                let trouble = Trouble::Fault(fault);
                let plan = Plan {
                    trouble: Some(&trouble),
                    disturbed: (1..=LAST).collect(),
                    arrives: Some(7),
                    timeout_secs: SECS,
                    ..Plan::default()
                };
                let answers = stand.deploy(&plan).await;
                let about = format!("{trouble:?} {helm_type:?}: {}", answers.last().unwrap().message);
                assert_eq!(end(&answers), (Status::Succeeded, stand.deployed(), None), "{about}");
                assert_eq!(answers[0].reason, Reason::WaitingForChange, "{about}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_payload_that_is_a_bomb_is_waited_for_and_then_a_failure() {
    limited(async {
        let stand = Stand::new(HelmType::Plain).await;
        let trouble = Trouble::Fault(Fault::GzipPayload { bytes: 100 << 20 });
        for (disturbed, last) in [
            (vec![3], (Status::Succeeded, Reason::Deployed, None)),
            (vec![3, 4], (Status::Succeeded, Reason::Deployed, None)),
            (vec![3, 4, 5], (Status::Failed, Reason::PayloadUnreadable, None)),
            (vec![LAST], (Status::Succeeded, Reason::Deployed, None)),
        ] {
            let plan = Plan {
                trouble: Some(&trouble),
                disturbed: disturbed.iter().copied().collect(),
                arrives: Some(7),
                timeout_secs: SECS,
                ..Plan::default()
            };
            let answers = stand.deploy(&plan).await;
            assert_eq!(end(&answers), last, "{disturbed:?}: {}", answers.last().unwrap().message);
            if disturbed[0] == 3 {
                assert_eq!(answers[2].reason, Reason::PayloadUnreadable, "{}", answers[2].message);
                assert!(answers[2].message.contains("more than 16 MiB"), "{}", answers[2].message);
            }
        }
    })
    .await;
}

/// All on one page, so that a debug build has them in time.
#[tokio::test]
async fn ten_thousand_revisions_are_judged_as_few_are() {
    limited(async {
        let stand = Stand::new(HelmType::Plain).await;
        let long_ago = stand.clock.now() - SignedDuration::from_hours(24);
        let payload = json!({
            "info": {"description": "Upgrade complete"}, "chart": {"metadata": {"version": "1.1.0"}},
        });
        let mut secrets: Vec<Value> = (1..=10_000)
            .map(|revision| {
                let status = if revision == 10_000 { "deployed" } else { "superseded" };
                release_secret("shop", "long", revision, status, long_ago, None)
            })
            .collect();
        let event = json!({
            "deploymentId": "long", "helmType": "plain", "timeoutSecs": SECS,
            "pushedAt": stand.clock.now().to_string(),
            "targets": [{"cluster": "prod", "namespace": "shop", "release": "long"}],
        });
        let mut said = Vec::new();
        for poll in 1..=5 {
            if poll == 3 {
                secrets[9_999]["metadata"]["labels"]["status"] = json!("superseded");
                let made = stand.clock.now();
                secrets.push(release_secret("shop", "long", 10_001, "deployed", made, Some(&payload)));
                // For the payload, which is asked for by name.
                stand.cluster.put_secrets("shop", "long", secrets[10_000..].to_vec());
            }
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": "1"}, "items": secrets,
            });
            stand.cluster.set_fault(None).await.unwrap();
            stand.cluster.queue_fault(Fault::Body { text: list.to_string() }, Some(1), None).await.unwrap();
            let answer = checked(&stand.checker, &event).await;
            said.push((answer.status, answer.reason, answer.targets[0].observed.revision));
            if answer.status.is_terminal() {
                break;
            }
            stand.clock.advance(SignedDuration::from_secs(WAIT));
        }
        let waiting = (Status::Pending, Reason::WaitingForChange, Some(10_000));
        assert_eq!(said, [waiting, waiting, (Status::Succeeded, Reason::Deployed, Some(10_001))]);
    })
    .await;
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const RIGHT: SignedDuration = SignedDuration::ZERO;

#[tokio::test]
async fn a_clock_that_is_an_hour_wrong_makes_no_old_release_new_and_no_new_one_old() {
    limited(async {
        for (theirs, ours) in [(HOUR, RIGHT), (-HOUR, RIGHT), (RIGHT, HOUR), (RIGHT, -HOUR)] {
            for helm_type in [HelmType::Flux, HelmType::Plain] {
                let about = format!("{helm_type:?}, theirs {theirs:?} ahead, ours {ours:?}");
                let stand = Stand::with_clocks(helm_type, theirs, ours).await;
                let plan =
                    |arrives, execution| Plan { arrives, timeout_secs: SECS, execution, ..Plan::default() };

                // The release that was there is older than the push by seconds.
                let answers = stand.deploy(&plan(None, false)).await;
                let waited = Some(Reason::WaitingForChange);
                assert_eq!(end(&answers), (Status::Failed, Reason::Timeout, waited), "{about}");

                // Seen to change, no clock is needed.
                let answers = stand.deploy(&plan(Some(7), false)).await;
                assert_eq!(end(&answers), (Status::Succeeded, stand.deployed(), None), "{about}");

                // Quicker than the first look: the stamps alone tell. Where ours is
                // behind, nothing shows whose clock is wrong, and they tell nothing.
                let quick = Plan { late: 6, ..plan(Some(2), false) };
                let answers = stand.deploy(&quick).await;
                let expected = if ours.is_negative() {
                    (Status::Failed, Reason::Timeout, waited)
                } else {
                    (Status::Succeeded, stand.deployed(), None)
                };
                assert_eq!(end(&answers), expected, "{about}: {}", answers.last().unwrap().message);
            }
        }
    })
    .await;
}

/// An execution's start, and with it the deadline, is told by another clock than
/// ours. What comes of it is bounded: nobody is asked too late, and the state
/// machine's own limit stands above a deadline that never seems to come.
#[tokio::test]
async fn with_an_execution_an_hour_wrong_is_an_hour_late_or_early() {
    limited(async {
        for helm_type in [HelmType::Flux, HelmType::Plain] {
            let plan = Plan { arrives: Some(7), timeout_secs: SECS, execution: true, ..Plan::default() };
            let ahead = Stand::with_clocks(helm_type, RIGHT, HOUR).await;
            let answers = ahead.deploy(&plan).await;
            assert_eq!((answers.len(), end(&answers).1), (1, Reason::Timeout));
            assert!(ahead.cluster.requests().is_empty(), "nobody is asked");

            let behind = Stand::with_clocks(helm_type, RIGHT, -HOUR).await;
            let answers = behind.deploy(&plan).await;
            assert_eq!(end(&answers), (Status::Succeeded, behind.deployed(), None));
        }
    })
    .await;
}

/// Forty targets on four clusters, each of which goes by the same clock.
#[tokio::test]
async fn of_forty_targets_a_slow_cluster_delays_its_own_alone() {
    limited(async {
        let clock = FixedClock::new(Timestamp::now());
        let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let scenario = Scenario::load(&fixtures, "flux/chart-upgrade").unwrap();
        let mut clusters = Vec::new();
        for _ in 0..4 {
            let config = Config { clock: Some(clock.clone()), ..Config::default() };
            clusters.push(SimulatedCluster::start(config).await.unwrap());
        }
        let registered = clusters.iter().enumerate().map(|(n, it)| (format!("c{n}"), world::credentials(it)));
        let checker = world::checker(registered, Arc::new(clock.clone())).await;
        let mut targets = Vec::new();
        for (n, cluster) in clusters.iter().enumerate() {
            for release in (0..10).map(|r| format!("r{r}")) {
                cluster.play(&scenario, Some("shop"), Some(&release), Duration::from_secs(17)).unwrap();
                targets.push(json!({"cluster": format!("c{n}"), "namespace": "shop", "release": release}));
            }
        }
        let pushed_at = clock.advance(SignedDuration::from_secs(10));
        let event = json!({
            "deploymentId": "forty", "helmType": "flux", "targets": targets, "timeoutSecs": SECS,
            "pushedAt": pushed_at.to_string(),
        });
        let connections = || clusters.iter().map(|it| it.traffic().handshakes).collect::<Vec<_>>();
        let reasons = |answer: &Answer| {
            [0, 1].map(|half| {
                let half = if half == 0 { &answer.targets[..10] } else { &answer.targets[10..] };
                half.iter().map(|it| it.reason.as_str()).collect::<BTreeSet<_>>()
            })
        };

        // All wait, and the connections of the first poll serve the others.
        let first = checked(&checker, &event).await;
        assert_eq!(reasons(&first), [["WaitingForChange"].into(), ["WaitingForChange"].into()]);
        let opened = connections();
        assert!(opened.iter().all(|it| *it <= 10), "{opened:?}");
        clock.advance(SignedDuration::from_secs(WAIT));
        checked(&checker, &event).await;
        assert_eq!(connections(), opened);

        // The first cluster says nothing any more; the others have their verdict in time.
        clusters[0].set_fault(Some(Fault::Silence)).await.unwrap();
        clock.advance(SignedDuration::from_secs(WAIT));
        checked(&checker, &event).await;
        clock.advance(SignedDuration::from_secs(WAIT));
        let fourth = checked(&checker, &event).await;
        assert_eq!(reasons(&fourth), [["ClusterSlow"].into(), ["UpgradeSucceeded"].into()]);
        assert_eq!(connections()[1..], opened[1..]);

        // It speaks again: nothing was lost, and who has a verdict is not asked.
        clusters[0].set_fault(None).await.unwrap();
        clusters.iter().for_each(SimulatedCluster::forget_requests);
        let mut last = fourth;
        while last.status == Status::Pending {
            clock.advance(SignedDuration::from_secs(WAIT));
            last = checked(&checker, &event).await;
        }
        assert_eq!((last.status, last.reason, last.polls), (Status::Succeeded, Reason::AllDeployed, 6));
        let asked: Vec<usize> = clusters.iter().map(|it| it.requests().len()).collect();
        assert_eq!(asked, [20, 0, 0, 0]);
    })
    .await;
}
