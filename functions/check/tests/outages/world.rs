//! A deployment, the process that checks it, and everything that must hold whatever happens.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use aws::{Access, Aws, DynamoDeployments};
use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
            SharedHttpConnector,
        },
        orchestrator::HttpRequest,
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::Response,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::Diagnostic;
use monitor::{
    answer::Answer,
    check::{CheckPorts, Checker, Settings},
    cluster::{ClusterRow, RowState},
    memory::{NoEks, NoMetrics},
    ports::{Clock, Clusters, Credentials, Dated, Deployments as _, Expected, Stored},
};
use serde::Deserialize as _;
use serde_json::{Value, json};
use testkit::aws::FakeAws;
use tokio::{task::yield_now, time::Instant};
use verdict::{AskError, HelmRelease, Payload, Reason, Revision, Status};

pub(crate) const START: &str = "2026-11-23T19:00:00Z";
pub(crate) const TIMEOUT_SECS: u64 = 60;
pub(crate) const ARN: &str = "arn:aws:states:eu-central-1:123456789012:execution:dag-monitor:d";
/// The deployment's key in the table.
pub(crate) const ITEM: &str = "deployments/d";
pub(crate) const GET: &str = "GetItem deployments";
pub(crate) const PUT: &str = "PutItem deployments";
pub(crate) const ROW: &str = "GetItem registry";
pub(crate) const SECRET: &str = "GetSecretValue dag/clusters/prod/credentials";
pub(crate) const EVENT: &str = "PutEvents bus";
/// The function's own limit (infra/template.yaml): who is not done by then is killed.
const FUNCTION: Duration = Duration::from_secs(10);

/// The transport below the SDK.
#[derive(Debug)]
struct Transport(Arc<FakeAws>);

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let aws = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().unwrap();
            let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
            match aws.respond(request).await {
                Ok(response) => Ok(Response::try_from(response.map(SdkBody::from)).unwrap()),
                Err(reset) => Err(ConnectorError::io(reset.into())),
            }
        })
    }
}

impl HttpClient for Transport {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Self(self.0.clone()))
    }
}

/// What the cluster shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The release that was there before the push.
    Old,
    /// The new one, on its way.
    Rolling,
    /// The new one.
    New,
    /// The new one, failed for good.
    Broken,
}

/// The time since the test began, on tokio's clock.
#[derive(Clone)]
struct Time(Instant);

impl Clock for Time {
    fn now(&self) -> Timestamp {
        start() + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

pub(crate) fn start() -> Timestamp {
    START.parse().unwrap()
}

/// A cluster, and what it was asked for.
pub(crate) struct Cluster {
    time: Time,
    stage: Mutex<Stage>,
    asked: Mutex<Vec<String>>,
}

fn release(stage: Stage) -> Value {
    let (generation, observed, chart, deployed) = match stage {
        Stage::Old => (1, 1, "1.1.0", "2026-11-23T18:00:00Z"),
        Stage::Rolling => (2, 1, "1.1.0", "2026-11-23T18:00:00Z"),
        Stage::New | Stage::Broken => (2, 2, "1.2.0", "2026-11-23T19:00:06Z"),
    };
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message});
    let conditions = match stage {
        Stage::Old | Stage::New => vec![condition("Ready", "True", "UpgradeSucceeded", "upgraded")],
        Stage::Rolling => vec![
            condition("Reconciling", "True", "Progressing", "running"),
            condition("Ready", "Unknown", "Progressing", "running"),
        ],
        Stage::Broken => vec![
            condition("Stalled", "True", "RetriesExceeded", "no retries left"),
            condition("Ready", "False", "UpgradeFailed", "it crashed"),
            condition("Released", "False", "UpgradeFailed", "it crashed"),
        ],
    };
    json!({
        "metadata": {"uid": "u", "generation": generation},
        "spec": {},
        "status": {
            "observedGeneration": observed, "lastAttemptedGeneration": observed,
            "lastAttemptedRevision": chart, "lastAttemptedConfigDigest": "c",
            "conditions": conditions,
            "history": [{
                "name": "checkout", "version": observed, "chartVersion": chart, "lastDeployed": deployed,
                "status": if stage == Stage::Broken { "failed" } else { "deployed" },
            }],
        }
    })
}

#[async_trait]
impl Clusters for Cluster {
    async fn helm_release(
        &self,
        _: &Credentials,
        _: &str,
        name: &str,
    ) -> Result<Dated<Option<Box<HelmRelease>>>, AskError> {
        self.asked.lock().unwrap().push(name.to_owned());
        yield_now().await;
        let object = release(*self.stage.lock().unwrap());
        let date = Some(self.time.now());
        yield_now().await;
        Ok(Dated { value: Some(Box::new(HelmRelease::deserialize(object).unwrap())), date })
    }

    async fn revisions(&self, _: &Credentials, _: &str, _: &str) -> Result<Dated<Vec<Revision>>, AskError> {
        Ok(Dated { value: Vec::new(), date: None })
    }

    async fn payload(&self, _: &Credentials, _: &str, _: &str) -> Result<Dated<Payload>, AskError> {
        Ok(Dated { value: Payload::Unreadable(String::new()), date: None })
    }
}

/// What the handler answered: the deployment, or the error's name.
pub(crate) type Said = Result<Answer, String>;

pub(crate) struct World {
    pub(crate) aws: Arc<FakeAws>,
    pub(crate) cluster: Arc<Cluster>,
    time: Time,
    /// A verdict of the monitor's own is right: the execution has ended.
    pub(crate) closed: Mutex<bool>,
    audited: AtomicUsize,
    ports: CheckPorts,
    /// Reads the items apart, through the adapter's eyes.
    reader: (Arc<FakeAws>, DynamoDeployments),
}

fn clients(aws: &Arc<FakeAws>, region: String) -> Aws {
    let access = Access {
        region,
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: "secret-key".to_owned().into(),
        session_token: None,
        endpoint_url: None,
    };
    Aws::with_http_client(&access, SharedHttpClient::new(Transport(aws.clone())))
}

impl World {
    /// One registered cluster, and nothing deployed.
    pub(crate) async fn new() -> Self {
        /// The SDK bounds its second tries over all clients of a service in a region.
        static REGION: AtomicUsize = AtomicUsize::new(0);
        let time = Time(Instant::now());
        let cluster =
            Arc::new(Cluster { time: time.clone(), stage: Mutex::new(Stage::Old), asked: Mutex::default() });
        let (fake, apart) = (Arc::<FakeAws>::default(), Arc::<FakeAws>::default());
        let aws = clients(&fake, format!("eu-test-{}", REGION.fetch_add(1, Ordering::SeqCst)));
        let reader = clients(&apart, "eu-central-1".to_owned()).deployments("deployments");
        let registry = Arc::new(aws.registry("registry"));
        // As `main.rs` wires it.
        let ports = CheckPorts {
            deployments: Arc::new(aws.deployments("deployments")),
            registry: registry.clone(),
            environments: registry,
            vault: Arc::new(aws.vault("dag/clusters/", None)),
            eks: Arc::new(NoEks),
            clusters: cluster.clone(),
            events: Arc::new(aws.events("bus")),
            metrics: Arc::new(NoMetrics),
            clock: Arc::new(time.clone()),
        };
        let world = Self {
            aws: fake,
            cluster,
            time,
            closed: Mutex::new(false),
            audited: AtomicUsize::new(0),
            ports,
            reader: (apart, reader),
        };
        world.register("prod").await;
        world
    }

    /// One more cluster.
    pub(crate) async fn register(&self, id: &str) {
        let new = ClusterRow::new(id.to_owned(), id.to_owned(), "n".to_owned(), start());
        let row =
            ClusterRow { api_url: "https://one.example.com".to_owned(), state: RowState::Active, ..new };
        assert_eq!(self.ports.registry.put(&row, Expected::Absent).await.unwrap(), Stored::Yes);
        let credentials = Credentials {
            api_url: row.api_url,
            token: "t".into(),
            ca_cert: None,
            tls_server_name: None,
            personal: None,
        };
        self.ports.vault.put(id, &credentials.into()).await.unwrap();
    }

    /// A process that was started just now: it remembers nothing. The clients have no memory.
    pub(crate) fn process(&self) -> Checker {
        // The store's clock is the real one, by which none of this may expire.
        let settings = Settings { record_ttl_days: 36_500, ..Settings::default() };
        Checker::new(self.ports.clone(), settings)
    }

    pub(crate) fn show(&self, stage: Stage) {
        *self.cluster.stage.lock().unwrap() = stage;
    }

    pub(crate) fn shown(&self) -> Stage {
        *self.cluster.stage.lock().unwrap()
    }

    /// For which releases the cluster was asked.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.cluster.asked.lock().unwrap().clone()
    }

    /// The check handler's event.
    pub(crate) fn event() -> Value {
        json!({
            "deploymentId": "d", "helmType": "flux", "timeoutSecs": TIMEOUT_SECS, "pushedAt": START,
            "expect": {"chartVersion": "1.2.0"},
            "targets": [{"cluster": "prod", "namespace": "shop", "release": "checkout"}],
            "execution": {"arn": ARN, "startedAt": START},
        })
    }

    /// One check, as Lambda runs it: whole, and in time.
    pub(crate) async fn tick(&self, process: &Checker) -> Said {
        self.asks(process, Self::event()).await
    }

    /// The same for any event that is answered with a deployment.
    pub(crate) async fn asks(&self, process: &Checker, event: Value) -> Said {
        let began = Instant::now();
        let result = check::handle(process, event).await;
        assert!(began.elapsed() < FUNCTION, "Lambda would have killed it: {:?}", began.elapsed());
        self.audit();
        match result {
            Ok(answer) => {
                let answer = answer.expect("a check has an answer");
                if answer.status.is_terminal() {
                    assert_eq!(Some(&answer), self.stored().await.as_ref(), "an end that is told is stored");
                }
                Ok(answer)
            }
            Err(failure) => Err(Diagnostic::from(failure).error_type),
        }
    }

    /// Polls a check so often, then kills its process; `None`: it was done before.
    pub(crate) async fn killed_after<T>(polls: usize, check: impl Future<Output = T>) -> (Option<T>, usize) {
        let mut check = pin!(check);
        let mut polled = 0;
        let done = poll_fn(|context| {
            if polled == polls {
                return Poll::Ready(None);
            }
            polled += 1;
            check.as_mut().poll(context).map(Some)
        });
        (done.await, polled)
    }

    /// Goes on as the state machine does, until there is a verdict.
    pub(crate) async fn until_verdict(&self, process: &Checker) -> Answer {
        let mut failed = 0;
        for _ in 0..60 {
            let wait = match self.tick(process).await {
                Ok(answer) if answer.status.is_terminal() => return answer,
                Ok(_) => 5,
                Err(name) if name == "Transient" => 2,
                Err(name) => {
                    failed += 1;
                    assert!(failed <= 5, "the state machine gives up: {name}");
                    2
                }
            };
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
        panic!("pending for ever: {:?}", self.stored().await);
    }

    /// As `GET /deployments/{id}` shows it.
    pub(crate) async fn stored(&self) -> Option<Answer> {
        let item = self.item()?;
        let (apart, reader) = &self.reader;
        apart.change(|items| drop(items.insert(ITEM.to_owned(), item)));
        reader.get("d").await.unwrap().as_ref().map(Answer::from)
    }

    /// The item's attributes.
    pub(crate) fn item(&self) -> Option<Value> {
        self.aws.items().remove(ITEM)
    }

    /// What must hold of everything that was written since the last look, and is looked at
    /// after each event: while the cluster still shows what it showed then.
    pub(crate) fn audit(&self) {
        let versions = self.aws.versions();
        let versions: Vec<_> = versions.iter().filter(|it| it.key == ITEM).collect();
        let seen = self.audited.swap(versions.len(), Ordering::SeqCst);
        for (index, version) in versions.iter().enumerate().skip(seen) {
            let before = index.checked_sub(1).and_then(|at| versions[at].item.as_ref());
            let Some(item) = version.item.as_ref().filter(|_| version.by_request) else { continue };
            let attribute =
                |item: &Value, name: &str| item[name]["S"].as_str().unwrap_or_default().to_owned();
            let number = |item: &Value, name: &str| item[name]["N"].as_str().unwrap().parse::<u64>().unwrap();
            let own = |name: &str| attribute(item, name);
            assert_eq!(own("startedAt").parse::<Timestamp>().unwrap(), start());
            let deadline: Timestamp = own("deadline").parse().unwrap();
            let timeout = if item["request"].is_null() { 300 } else { i64::try_from(TIMEOUT_SECS).unwrap() };
            if before.is_none_or(|it| it["request"].is_null()) {
                assert_eq!(deadline, start() + SignedDuration::from_secs(timeout));
            }
            if let Some(before) = before {
                assert_eq!(number(item, "rev"), number(before, "rev") + 1);
                assert_eq!(attribute(before, "status"), "pending", "a verdict is written once");
                assert_eq!(attribute(before, "deadline"), own("deadline"), "no second deadline");
                assert_eq!(attribute(before, "executionArn"), own("executionArn"));
                assert_eq!(before["schema"], item["schema"]);
                if let Some(baseline) = baseline(before) {
                    assert_eq!(Some(baseline), self::baseline(item), "the baseline is taken once");
                }
            }
            if own("status") == "pending" {
                continue;
            }
            let finished: Timestamp = own("finishedAt").parse().unwrap();
            match (own("reason").as_str(), self.shown()) {
                ("UpgradeSucceeded" | "AllDeployed", Stage::New) => assert_eq!(own("status"), "succeeded"),
                ("UpgradeFailed", Stage::Broken) => assert_eq!(own("status"), "failed"),
                ("Timeout", _) => assert!(finished >= deadline && own("status") == "failed"),
                ("MonitorError" | "InvalidRequest", _) => assert!(*self.closed.lock().unwrap()),
                (reason, stage) => panic!("{reason} while the cluster shows {stage:?}"),
            }
        }
    }

    /// The events, each the stored answer.
    pub(crate) async fn told(&self) -> usize {
        let published = self.aws.published();
        let stored = serde_json::to_value(self.stored().await).unwrap();
        for entry in &published {
            assert_eq!(entry["DetailType"], "Deployment Finished");
            let detail: Value = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
            assert_eq!(detail, stored, "what is told is what is stored");
            assert_ne!(detail["status"], "pending");
        }
        published.len()
    }
}

fn baseline(item: &Value) -> Option<Value> {
    let targets: Value = serde_json::from_str(item["targets"]["S"].as_str()?).unwrap();
    Some(targets[0]["baseline"].clone()).filter(|it| !it.is_null())
}

/// Where a deployment stands when something happens to its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    First,
    Midway,
    Verdict,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    Succeeds,
    Fails,
    /// Nothing comes until the deadline.
    TimesOut,
}

impl Ending {
    pub(crate) const ALL: [Self; 3] = [Self::Succeeds, Self::Fails, Self::TimesOut];

    fn stage(self, phase: Phase) -> Stage {
        match (phase, self) {
            (Phase::First, _) | (_, Self::TimesOut) => Stage::Old,
            (Phase::Midway, _) => Stage::Rolling,
            (Phase::Verdict, Self::Succeeds) => Stage::New,
            (Phase::Verdict, Self::Fails) => Stage::Broken,
        }
    }

    pub(crate) fn verdict(self) -> (Status, Reason) {
        match self {
            Self::Succeeds => (Status::Succeeded, Reason::UpgradeSucceeded),
            Self::Fails => (Status::Failed, Reason::UpgradeFailed),
            Self::TimesOut => (Status::Failed, Reason::Timeout),
        }
    }
}

/// All places at which something can happen: phase, ending, and whether the process remembers.
pub(crate) fn places() -> Vec<(Phase, Ending, bool)> {
    let endings = Ending::ALL.map(|ending| (Phase::Verdict, ending));
    let places = [(Phase::First, Ending::Succeeds), (Phase::Midway, Ending::Succeeds)];
    let places = places.into_iter().chain(endings);
    places.flat_map(|(phase, ending)| [(phase, ending, true), (phase, ending, false)]).collect()
}

impl World {
    /// A world in which the next check is that of this phase.
    pub(crate) async fn at(phase: Phase, ending: Ending, warm: bool) -> (Self, Checker) {
        let world = Self::new().await;
        let process = world.process();
        for before in [Phase::First, Phase::Midway].into_iter().filter(|it| *it < phase) {
            world.reach(before, ending).await;
            world.tick(&process).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        world.reach(phase, ending).await;
        let process = if warm { process } else { world.process() };
        (world, process)
    }

    async fn reach(&self, phase: Phase, ending: Ending) {
        self.show(ending.stage(phase));
        if (phase, ending) == (Phase::Verdict, Ending::TimesOut) {
            let left = Duration::from_secs(TIMEOUT_SECS).saturating_sub(self.time.0.elapsed());
            tokio::time::sleep(left).await;
        }
    }

    /// After a phase's check went well: the rest, without a fault. The verdict comes with the
    /// first check that could reach it.
    pub(crate) async fn goes_on(&self, process: &Checker, after: Phase, ending: Ending) {
        for next in [Phase::Midway, Phase::Verdict].into_iter().filter(|it| *it > after) {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.reach(next, ending).await;
            let answer = self.tick(process).await.unwrap();
            assert_eq!(answer.status.is_terminal(), next == Phase::Verdict, "{}", answer.message);
        }
        self.ended(ending).await;
        // The same check once more, by a process that knows nothing.
        let late = self.tick(&self.process()).await.unwrap();
        assert_eq!((late.status, late.reason), ending.verdict());
        assert_eq!(self.told().await, 0, "verdicts are told by the state machine");
    }

    /// The stored verdict is the right one.
    pub(crate) async fn ended(&self, ending: Ending) {
        let stored = self.stored().await.unwrap();
        assert_eq!((stored.status, stored.reason), ending.verdict(), "{}", stored.message);
    }
}

/// What goes well at each place: the requests, and the item that is stored then.
pub(crate) async fn reference(phase: Phase, ending: Ending, warm: bool) -> (Vec<String>, Value) {
    let (world, process) = World::at(phase, ending, warm).await;
    let before = world.aws.requests().len();
    let answer = world.tick(&process).await.unwrap();
    assert_eq!(answer.status.is_terminal(), phase == Phase::Verdict, "{}", answer.message);
    (world.aws.requests().split_off(before), world.item().unwrap())
}

/// The same for all places.
pub(crate) async fn references() -> BTreeMap<(Phase, Ending, bool), (Vec<String>, Value)> {
    let mut references = BTreeMap::new();
    for (phase, ending, warm) in places() {
        references.insert((phase, ending, warm), reference(phase, ending, warm).await);
    }
    references
}
