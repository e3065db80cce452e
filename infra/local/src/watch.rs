//! Watching releases through a person's own kubeconfig: the handler's checks, before
//! stores in memory.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kubernetes::{AddressPolicy, BadCidr, KubernetesClient, Rules, SetupError};
use monitor::{
    answer::TargetAnswer,
    check::{CheckPorts, Checker, Settings, chain},
    cluster::{ClusterRow, RowState},
    memory::{MemoryDeployments, MemoryEvents, MemoryRegistry, NoEks, NoMetrics},
    ports::{Clock as _, Deployments as _, Expected, Registry as _, StoreError, Stored, SystemClock},
    request,
    slug::slug,
};
use serde_json::{Value, json};
use tokio::{sync::mpsc::UnboundedSender, time::sleep};
use verdict::{Reason, Status};

use crate::{
    access::{Access, Keyring},
    cli::Watch,
    driver::{Check, Progress, Refused, drive},
    environment::Environment,
    judging,
    kubeconfig::{Clusters, Unusable},
    outcome::{Outcome, hint, hint_of_known_push},
    push::push,
    report::Report,
    row::Row,
    signals::Signals,
};

/// A person's kubeconfig may name any address, this machine's too: kind and port
/// forwards are there. Whoever runs this chose both the address and the token.
pub(crate) const ANYWHERE: &str = "0.0.0.0/0,::/0";
/// The options that name a target's namespace and release.
const TARGET: [&str; 2] = ["-n, --target", "RELEASE, --target"];
/// How often the first look is tried before a command, and what is waited between.
const FIRST_LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("{0}")]
    Credentials(String),
    #[error("{0}")]
    Request(String),
    #[error("the allowed addresses can't be read")]
    Policy(#[from] BadCidr),
    #[error("the client of clusters can't be made")]
    Client(#[from] SetupError),
    #[error("what is in memory can't be used")]
    Store(#[from] StoreError),
    #[error("{}: {}", .0.name, .0.message)]
    Refused(Refused),
    #[error("the process can't be told to end")]
    Signal(#[source] io::Error),
    #[error("the output can't be written")]
    Output(#[from] io::Error),
}

/// Watches until each release has its verdict.
pub(crate) async fn run(arguments: &Watch, environment: &Environment) -> ExitCode {
    let outcome = match watch(arguments, environment).await {
        Ok(outcome) => outcome,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "dag-monitor: {}", chain(&error));
            Outcome::NotLooked
        }
    };
    if outcome == Outcome::Interrupted {
        let _ = writeln!(io::stderr(), "Interrupted: there is no verdict. The deployment itself goes on.");
    }
    ExitCode::from(outcome.code())
}

async fn watch(arguments: &Watch, environment: &Environment) -> Result<Outcome, WatchError> {
    let mut signals = Signals::new().map_err(WatchError::Signal)?;
    let plan = Plan::new(arguments, environment)?;
    let rules = Rules::new(AddressPolicy::parse(ANYWHERE)?);
    let entering = async {
        let mut entered = Vec::new();
        for access in plan.clusters.clone() {
            // One after the other: each may ask the person.
            let credentials = access.credentials(&rules, true).await.map_err(WatchError::Credentials)?;
            entered.push((slug(&access.name), access, credentials));
        }
        Ok::<_, WatchError>(entered)
    };
    let Some(entered) = signals.during(entering).await.transpose()? else {
        return Ok(Outcome::Interrupted);
    };
    let keyring = Keyring::new(rules, entered);
    let watching = Watching::new(keyring, &plan).await?;

    let push_known = arguments.judging.pushed_at.is_some() || !arguments.judging.command.is_empty();
    let hint = if push_known { hint_of_known_push } else { hint };
    let mut report = Report::new(arguments.judging.output, environment.step_summary.clone(), hint);
    report.say(&plan.sentence(arguments.timeout))?;
    let mut event = plan.event.clone();
    if let [program, words @ ..] = arguments.judging.command.as_slice() {
        match signals.during(watching.first_look(&plan, &report)).await.transpose()? {
            None => return Ok(Outcome::Interrupted),
            Some(Some(outcome)) => return Ok(outcome),
            Some(None) => {}
        }
        let pushed_at = SystemClock.now();
        if let Some(outcome) = push(program, words, arguments.judging.output, &report, &mut signals).await? {
            return Ok(outcome);
        }
        let begun = SystemClock.now();
        watching.begin_anew(begun, arguments.timeout).await?;
        event["pushedAt"] = json!(pushed_at);
        event["execution"]["startedAt"] = json!(begun);
    }
    let following = watching.follow(&event, &plan, &mut report, arguments.timeout);
    let outcome = signals.during(following).await.transpose()?;
    Ok(report.close(outcome)?)
}

/// What is to be watched, as far as nobody has to be asked for it.
struct Plan {
    clusters: Vec<Access>,
    /// The handler's event.
    event: Value,
    /// The targets' names for a person.
    names: Vec<String>,
    helm_type: verdict::HelmType,
}

impl Plan {
    fn new(arguments: &Watch, environment: &Environment) -> Result<Self, WatchError> {
        let found = Clusters::find(&arguments.cluster, environment)?;
        let of_release = arguments.release.iter().map(|release| crate::cli::Target {
            cluster: None,
            namespace: arguments.namespace.clone(),
            release: release.clone(),
        });
        let mut clusters: Vec<Access> = Vec::new();
        let mut targets = Vec::new();
        for target in of_release.chain(arguments.targets.iter().cloned()) {
            let access = found.cluster(target.cluster.as_deref())?;
            let namespace =
                target.namespace.or(access.namespace.clone()).unwrap_or_else(|| "default".to_owned());
            targets.push((access.name.clone(), namespace, target.release));
            if clusters.iter().all(|it| it.name != access.name) {
                clusters.push(access);
            }
        }
        names_fit(&clusters)?;
        let event = event(arguments, &targets);
        request::parse(&event)
            .map_err(|refusals| WatchError::Request(judging::in_options(&refusals, TARGET)))?;
        let names = targets.iter().map(|target| shown(target, &clusters)).collect();
        Ok(Self { clusters, event, names, helm_type: arguments.helm_type.into() })
    }

    fn rows(&self, begun: Timestamp, deadline: Timestamp) -> Vec<Row> {
        self.names.iter().map(|name| Row::new(name, self.helm_type, begun, deadline)).collect()
    }

    fn sentence(&self, timeout_secs: u32) -> String {
        let clusters: Vec<_> =
            self.clusters.iter().map(|it| format!("{} ({})", it.name, without_user(&it.api_url))).collect();
        format!(
            "Watching {} on {}, for {timeout_secs} s at most.",
            self.names.join(", "),
            clusters.join(", ")
        )
    }
}

/// An address without what may be a password.
fn without_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}{}", &url[..scheme + 3], &url[at + 1..]),
        _ => url.to_owned(),
    }
}

/// Clusters are known by what is left of their names without signs and case: it must be
/// something, and not the same of two.
fn names_fit(clusters: &[Access]) -> Result<(), WatchError> {
    let mut known: HashMap<String, &str> = HashMap::new();
    for cluster in clusters {
        let name = cluster.name.as_str();
        let rename = "rename it by `kubectl config rename-context`";
        let slug = slug(name);
        if slug.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
            let why = "1-100 characters, one of them a letter or digit, are awaited";
            return Err(WatchError::Request(format!("context {name:?} can't be named: {why}; {rename}")));
        }
        if let Some(other) = known.insert(slug, name) {
            return Err(WatchError::Request(format!(
                "contexts {other:?} and {name:?} differ in signs only, and can't be watched together; {rename}"
            )));
        }
    }
    Ok(())
}

/// A target for a line that has little room.
fn shown((cluster, namespace, release): &(String, String, String), clusters: &[Access]) -> String {
    if clusters.len() == 1 {
        return format!("{namespace}/{release}");
    }
    // All that tells EKS clusters apart is at the end of their ARNs.
    fn short(name: &str) -> &str {
        name.rsplit('/').next().filter(|it| !it.is_empty()).unwrap_or(name)
    }
    let alone = clusters.iter().filter(|it| short(&it.name) == short(cluster)).count() == 1;
    format!("{}/{namespace}/{release}", if alone { short(cluster) } else { cluster })
}

fn event(arguments: &Watch, targets: &[(String, String, String)]) -> Value {
    let started_at = SystemClock.now();
    let id = format!("watch-{}-{}", started_at.as_second(), process::id());
    let targets: Vec<Value> = targets
        .iter()
        .map(|(cluster, namespace, release)| json!({"cluster": cluster, "namespace": namespace, "release": release}))
        .collect();
    let mut event = json!({
        "deploymentId": id,
        "helmType": arguments.helm_type.as_str(),
        "targets": targets,
        "timeoutSecs": arguments.timeout,
        "execution": {"arn": format!("arn:dag-monitor:watch:{id}"), "startedAt": started_at},
    });
    if let Some(event) = event.as_object_mut() {
        event.extend(judging::fields(&arguments.judging));
    }
    event
}

/// What the first look has shown of a target.
fn there(target: &TargetAnswer) -> String {
    match (&target.observed.chart_version, target.observed.revision, target.reason) {
        (Some(chart), Some(revision), Reason::WaitingForChange) => {
            format!(" has chart {chart}, revision {revision}")
        }
        (.., Reason::NotFound) => " is not there yet".to_owned(),
        (.., reason) => format!(": {reason}: {}", target.message),
    }
}

/// The checks, and the stores that they need.
struct Watching {
    checker: Checker,
    deployments: Arc<MemoryDeployments>,
    id: String,
}

impl Watching {
    async fn new(keyring: Keyring, plan: &Plan) -> Result<Self, WatchError> {
        let registry = Arc::new(MemoryRegistry::default());
        for access in &plan.clusters {
            let now = SystemClock.now();
            let row = ClusterRow::new(slug(&access.name), access.name.clone(), "kubeconfig".to_owned(), now);
            let row = ClusterRow { api_url: access.api_url.clone(), state: RowState::Active, ..row };
            // invariant: the registry was empty, and the names are told apart (`names_fit`).
            let (Stored::Yes | Stored::Lost) = registry.put(&row, Expected::Absent).await?;
        }
        let deployments = Arc::new(MemoryDeployments::default());
        let ports = CheckPorts {
            deployments: deployments.clone(),
            registry: registry.clone(),
            environments: registry,
            vault: Arc::new(keyring),
            eks: Arc::new(NoEks),
            clusters: Arc::new(KubernetesClient::new(AddressPolicy::parse(ANYWHERE)?)?),
            events: Arc::new(MemoryEvents::default()),
            metrics: Arc::new(NoMetrics),
            clock: Arc::new(SystemClock),
        };
        let id = plan.event["deploymentId"].as_str().unwrap_or_default().to_owned();
        Ok(Self { checker: Checker::new(ports, Settings::default()), deployments, id })
    }

    /// Looks at what is there before a command, which becomes the baseline. An outcome
    /// where that fails, or shows that nothing can come of it: then nothing is pushed.
    async fn first_look(&self, plan: &Plan, report: &Report) -> Result<Option<Outcome>, WatchError> {
        let mut event = plan.event.clone();
        // What was there before is never what the command brings.
        event["allowUnchanged"] = json!(false);
        event["pushedAt"] = event["execution"]["startedAt"].clone();
        for look in 1.. {
            let answer = Check::check(&self.checker, &event).await.map_err(WatchError::Refused)?;
            let seen = self.seen().await?;
            let all_seen = seen.iter().all(|it| *it);
            if answer.status.is_terminal() || all_seen || look == FIRST_LOOKS {
                for (name, target) in plan.names.iter().zip(&answer.targets) {
                    report.say(&format!("Before the command: {name}{}", there(target)))?;
                }
            }
            let outcome = match answer.status {
                Status::Pending if all_seen => return Ok(None),
                Status::Pending if look < FIRST_LOOKS => {
                    sleep(BETWEEN_LOOKS).await;
                    continue;
                }
                Status::Pending => Outcome::NotLooked,
                _ => Outcome::of(&answer, &seen),
            };
            report.say("The command was not run.")?;
            return Ok(Some(outcome));
        }
        Ok(Some(Outcome::NotLooked))
    }

    /// Keeps the baseline, and lets the time begin.
    async fn begin_anew(&self, begun: Timestamp, timeout_secs: u32) -> Result<(), WatchError> {
        let Some(mut item) = self.deployments.get(&self.id).await? else {
            return Ok(());
        };
        item.started_at = begun;
        item.deadline = later(begun, timeout_secs);
        item.rev += 1;
        // invariant: nobody else writes.
        let (Stored::Yes | Stored::Lost) = self.deployments.update(&item).await?;
        Ok(())
    }

    /// Checks until there is a verdict.
    async fn follow(
        &self,
        event: &Value,
        plan: &Plan,
        report: &mut Report,
        timeout_secs: u32,
    ) -> Result<Outcome, WatchError> {
        let begun = event["execution"]["startedAt"].as_str().and_then(|it| it.parse().ok());
        let begun = begun.unwrap_or_else(Timestamp::now);
        let rows = plan.rows(begun, later(begun, timeout_secs));
        let driving = async |told: UnboundedSender<Progress>| {
            drive(&self.checker, event, |progress| {
                // invariant: the receiver lives as long as this.
                let _ = told.send(progress);
            })
            .await
        };
        let ended = report.during(rows, driving).await?;
        match ended {
            Ok(answer) => Ok(Outcome::of(&answer, &self.seen().await?)),
            // Told as the rows' trouble.
            Err(_) => Ok(Outcome::NotLooked),
        }
    }

    /// Of each target, whether its cluster ever told what is there.
    async fn seen(&self) -> Result<Vec<bool>, WatchError> {
        let item = self.deployments.get(&self.id).await?;
        Ok(item
            .map(|it| it.targets.iter().map(|it| it.state.baseline.is_some()).collect())
            .unwrap_or_default())
    }
}

fn later(from: Timestamp, secs: u32) -> Timestamp {
    from.checked_add(SignedDuration::from_secs(secs.into())).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn arguments(words: &[&str]) -> Watch {
        match Cli::try_parse_from(["dag-monitor", "watch"].iter().chain(words)).unwrap().command {
            Some(Command::Watch(watch)) => *watch,
            other => panic!("{other:?}"),
        }
    }

    fn of(name: &str) -> (String, String, String) {
        (name.to_owned(), "shop".to_owned(), "checkout".to_owned())
    }

    fn access(name: &str) -> Access {
        Access {
            name: name.to_owned(),
            namespace: None,
            api_url: "https://me:S3CR3T@example.com".to_owned(),
            ca: None,
            tls_server_name: None,
            proxy: None,
            user: crate::access::User::default(),
        }
    }

    #[test]
    fn every_option_is_a_field_of_the_request() {
        let words = "checkout --helm-type plain --timeout 10m --expect-chart 1.4.0 --expect-app 2 --expect-value \
                     /image/tag=3 --pushed-at 2026-11-23T19:15:45Z --fail-on first --fail-fast --allow-unchanged";
        let given = arguments(&words.split_whitespace().collect::<Vec<_>>());
        let (request, execution) = request::parse(&event(&given, &[of("prod")])).unwrap();
        let execution = execution.unwrap();
        assert_eq!(execution.name(), request.deployment_id);
        assert_eq!(
            serde_json::to_value(&request).unwrap(),
            json!({
                "deploymentId": request.deployment_id, "helmType": "plain", "timeoutSecs": 600,
                "targets": [{"cluster": "prod", "namespace": "shop", "release": "checkout"}],
                "expect": {"chartVersion": "1.4.0", "appVersion": "2", "values": {"/image/tag": "3"}},
                "pushedAt": "2026-11-23T19:15:45Z", "failOn": "first", "failFast": true, "allowUnchanged": true,
            })
        );
        let (request, _) = request::parse(&event(&arguments(&["checkout"]), &[of("prod")])).unwrap();
        let rest = (request.pushed_at, request.expect.is_empty(), request.fail_fast, request.allow_unchanged);
        assert_eq!(rest, (None, true, false, false));
    }

    #[test]
    fn a_refusal_names_the_option() {
        let mut wrong = arguments(&["checkout", "--expect-chart", "", "--pushed-at", "2999-01-01T00:00:00Z"]);
        wrong.timeout = 1;
        let target = ("prod".to_owned(), "Shop".to_owned(), "-".to_owned());
        let told = judging::in_options(&request::parse(&event(&wrong, &[target])).unwrap_err(), TARGET);
        for option in
            ["--expect-chart: ", "--pushed-at: ", "--timeout: ", "-n, --target: ", "RELEASE, --target: "]
        {
            assert!(told.contains(option), "{option}: {told}");
        }
    }

    #[test]
    fn clusters_are_told_apart_by_as_little_as_it_takes() {
        let arn = |region: &str, name: &str| format!("arn:aws:eks:{region}:1:cluster/{name}");
        let (first, second, third) = (arn("a", "prod"), arn("a", "test"), arn("b", "test"));
        let clusters: Vec<_> = [&first, &second, &third].into_iter().map(|it| access(it)).collect();
        assert_eq!(shown(&of(&first), &clusters[..1]), "shop/checkout");
        assert_eq!(shown(&of(&first), &clusters), "prod/shop/checkout");
        assert_eq!(shown(&of(&second), &clusters), format!("{second}/shop/checkout"));

        assert!(names_fit(&clusters).is_ok());
        for names in [&["prod/eu", "prod-eu"][..], &["東京"], &[&"x".repeat(101)]] {
            let clusters: Vec<_> = names.iter().map(|it| access(it)).collect();
            let told = names_fit(&clusters).unwrap_err().to_string();
            assert!(told.contains("kubectl config rename-context"), "{told}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        let plan = Plan {
            clusters: vec![access("prod")],
            event: json!({}),
            names: vec!["shop/checkout".to_owned()],
            helm_type: verdict::HelmType::Flux,
        };
        assert_eq!(
            plan.sentence(300),
            "Watching shop/checkout on prod (https://example.com), for 300 s at most."
        );
    }
}
