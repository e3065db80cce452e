//! A deployment on AWS: started, and followed until it has its verdict.

use std::{
    cell::RefCell,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use axum::http::Method;
use jiff::{SignedDuration, Timestamp};
use monitor::{
    answer::{Answer, TargetAnswer},
    check::chain,
    request::parse_start,
};
use serde_json::{Value, json};
use tokio::{sync::mpsc::UnboundedSender, time::sleep};
use uuid::Uuid;
use verdict::{HelmType, Observed, Reason};

use crate::{
    api::{Api, ApiError},
    asking::{Failure, print_json},
    cli::{Output, Run},
    driver::{Progress, Refused, WAIT},
    environment::Environment,
    environments,
    judging::{self, in_options},
    outcome::{Outcome, tells_of_release},
    push::push,
    report::{Report, of_target},
    row::Row,
    signals::Signals,
};

/// For how long a start is tried whose answer does not come.
const STARTING: SignedDuration = SignedDuration::from_mins(2);
/// How much later than the deadline an answer is still waited for: a connection that is
/// away at the deadline may come back, and the verdict is kept on AWS.
const MARGIN: SignedDuration = SignedDuration::from_mins(2);
/// Between two looks while there was no check yet: the first one follows at once.
const AT_FIRST: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// Starts a deployment, or follows one.
pub(crate) async fn run(arguments: &Run, environment: &Environment) -> ExitCode {
    let going = RefCell::new(arguments.follow.clone());
    let outcome = match go(arguments, environment, &going).await {
        Ok(outcome) => outcome,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "dag-monitor: {}", chain(&error));
            Outcome::NotLooked
        }
    };
    if outcome == Outcome::Interrupted {
        let _ = match &*going.borrow() {
            None => writeln!(io::stderr(), "Interrupted: nothing was started."),
            Some(id) => writeln!(
                io::stderr(),
                "Interrupted: the deployment goes on on AWS. To follow it again: dag-monitor run --follow {id}"
            ),
        };
    }
    ExitCode::from(outcome.code())
}

async fn go(
    arguments: &Run,
    environment: &Environment,
    going: &RefCell<Option<String>>,
) -> Result<Outcome, Failure> {
    let mut signals = Signals::new()?;
    // The standard output is for the id alone.
    let output = if arguments.detach { Output::Json } else { arguments.judging.output };
    let push_known = arguments.judging.pushed_at.is_some() || !arguments.judging.command.is_empty();
    let hint = if push_known { hint_of_known_push } else { hint };
    let mut report = Report::new(output, environment.step_summary.clone(), hint);
    let request = match arguments.follow {
        Some(_) => None,
        None => Some(Request::new(arguments)?),
    };
    let Some(api) = signals.during(Api::find(&arguments.aws, environment)).await.transpose()? else {
        return Ok(Outcome::Interrupted);
    };
    let (id, started) = match request {
        None => (arguments.follow.clone().unwrap_or_default(), None),
        Some(mut request) => {
            if let [program, words @ ..] = arguments.judging.command.as_slice() {
                if signals.during(request.could_start(&api)).await.transpose()?.is_none() {
                    return Ok(Outcome::Interrupted);
                }
                let pushed_at = Timestamp::now();
                if let Some(outcome) = push(program, words, output, &report, &mut signals).await? {
                    return Ok(outcome);
                }
                request.body["pushedAt"] = json!(pushed_at);
            }
            *going.borrow_mut() = Some(request.id.clone());
            match signals.during(request.start(&api)).await.transpose()? {
                None => return Ok(Outcome::Interrupted),
                Some(answer) => (request.id, Some(answer)),
            }
        }
    };
    if arguments.detach {
        match (arguments.judging.output, &started) {
            (Output::Json, Some(answer)) => print_json(&json!(answer))?,
            _ => writeln!(io::stdout(), "{id}")?,
        }
        return Ok(Outcome::Succeeded);
    }
    let said = if started.is_some() { "Started" } else { "Following" };
    report.say(&format!("{said} the deployment {id} at {}.", api.address()))?;
    if let Some(arn) = api.execution_arn(&id) {
        report.say(&format!("Its execution: {arn}"))?;
    }
    let following = Following { api: &api, path: format!("/deployments/{id}"), id };
    let outcome = signals.during(following.follow(started, &mut report)).await.transpose()?;
    Ok(report.close(outcome)?)
}

/// What is to be started.
struct Request {
    id: String,
    body: Value,
    /// The path of the environment that says what is judged.
    environment: Option<String>,
}

impl Request {
    /// # Errors
    /// Every option that the API would refuse, as far as it can be known here: before
    /// anything is pushed.
    fn new(arguments: &Run) -> Result<Self, Failure> {
        let named = arguments.app.as_ref().zip(arguments.environment.as_ref());
        let release = arguments.targets.first().map(|it| it.release.as_str());
        let about = named.map(|(app, _)| app.as_str()).or(release).unwrap_or("run");
        let id = arguments.deployment_id.clone().unwrap_or_else(|| made_up(about));
        let mut body = judging::fields(&arguments.judging);
        body.insert("deploymentId".to_owned(), json!(id));
        if let Some((app, environment)) = named {
            body.extend([("app".to_owned(), json!(app)), ("environment".to_owned(), json!(environment))]);
        }
        if !arguments.targets.is_empty() {
            let helm_type = arguments.helm_type.unwrap_or_default().as_str();
            body.insert("helmType".to_owned(), json!(helm_type));
            body.insert("targets".to_owned(), environments::fields(&arguments.targets).into());
        }
        body.extend(arguments.timeout.map(|secs| ("timeoutSecs".to_owned(), json!(secs))));
        let body = Value::Object(body);
        parse_start(&body, &id, Timestamp::now())
            .map_err(|refusals| Failure::Told(in_options(&refusals, ["--target", "--target"])))?;
        let looked_up = named.filter(|_| arguments.targets.is_empty());
        let environment = looked_up.map(|(app, name)| format!("/apps/{app}/environments/{name}"));
        Ok(Self { id, body, environment })
    }

    /// Whether the API is there and would know what is meant: else nothing is pushed.
    async fn could_start(&self, api: &Api) -> Result<(), Failure> {
        let path = format!("/deployments/{}", self.id);
        match patiently(|| api.get(&path)).await {
            Err(error) if error.is("unknown-deployment") => {}
            Err(error) => return Err(not_run(&error)),
            Ok(_) => {
                return Err(Failure::Told(format!(
                    "there is a deployment {} already, and an id is used once; the command was not run",
                    self.id
                )));
            }
        }
        if let Some(path) = &self.environment {
            patiently(|| api.get(path)).await.map_err(|error| not_run(&error))?;
        }
        Ok(())
    }

    /// Starts it once, however often it is asked for: the API knows it by its id.
    async fn start(&self, api: &Api) -> Result<Answer, Failure> {
        let answer = patiently(|| api.ask(Method::POST, "/deployments", Some(&self.body))).await?;
        Ok(api.read(&answer)?)
    }
}

fn not_run(error: &ApiError) -> Failure {
    Failure::Told(format!("{error}; the command was not run"))
}

/// An id that nobody else makes up, and that says what it is about.
fn made_up(about: &str) -> String {
    let letters = about.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let number = Uuid::new_v4().simple().to_string();
    format!("{}-{}", letters.take(60).collect::<String>(), &number[..12])
}

/// Asks until there is an answer, or no sense in asking again.
async fn patiently<F>(ask: impl Fn() -> F) -> Result<Value, ApiError>
where
    F: Future<Output = Result<Value, ApiError>>,
{
    let mut patience = Patience::until(Timestamp::now(), STARTING);
    let mut told = None;
    loop {
        let error = match ask().await {
            Err(error) if error.may_pass() => error,
            done => return done,
        };
        match patience.next(Timestamp::now()) {
            None => return Err(error),
            Some(pause) => {
                tell_once(&mut told, &error);
                sleep(pause).await;
            }
        }
    }
}

/// The same trouble twice is no news.
fn tell_once(told: &mut Option<String>, error: &ApiError) {
    let now = error.to_string();
    if told.as_ref() != Some(&now) {
        // Nobody may be left to read it.
        let _ = writeln!(io::stderr(), "dag-monitor: {now}; trying again");
        *told = Some(now);
    }
}

/// When to ask again, ever later, and when no more.
#[derive(Debug)]
struct Patience {
    until: Timestamp,
    pause: Duration,
}

impl Patience {
    /// Some time beyond the deadline, and beyond now where that is later.
    fn beyond(deadline: Timestamp) -> Self {
        Self::until(deadline.max(Timestamp::now()), MARGIN)
    }

    fn until(from: Timestamp, later: SignedDuration) -> Self {
        let until = from.checked_add(later).unwrap_or(Timestamp::MAX);
        Self { until, pause: FIRST_RETRY }
    }

    fn next(&mut self, now: Timestamp) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_RETRY);
        (now < self.until).then_some(pause)
    }
}

/// A deployment that runs, or has run.
struct Following<'a> {
    api: &'a Api,
    id: String,
    path: String,
}

impl Following<'_> {
    async fn follow(&self, started: Option<Answer>, report: &mut Report) -> Result<Outcome, Failure> {
        let known = self.until_known(started).await?;
        let of_row = rows(&known);
        let ended = report.during(of_row, async |told| self.until_verdict(known, &told).await).await?;
        Ok(match ended {
            Some(answer) => outcome(&answer),
            // Told as the rows' trouble.
            None => Outcome::NotLooked,
        })
    }

    async fn look(&self) -> Result<Answer, ApiError> {
        self.api.read(&self.api.get(&self.path).await?)
    }

    /// Looks until it is known what is judged: the first check finds it out.
    async fn until_known(&self, started: Option<Answer>) -> Result<Answer, Failure> {
        let mut known = started;
        let mut patience = Patience::until(Timestamp::now(), STARTING);
        let mut told = None;
        loop {
            if let Some(answer) = known.take_if(|it| it.status.is_terminal() || !it.targets.is_empty()) {
                return Ok(answer);
            }
            if known.is_some() {
                sleep(AT_FIRST).await;
            }
            match self.look().await {
                Ok(answer) => {
                    patience = Patience::beyond(answer.deadline);
                    known = Some(answer);
                }
                // It was there a moment ago: whatever is wrong is wrong in between.
                Err(error) if known.is_some() || error.may_pass() => match patience.next(Timestamp::now()) {
                    None => return Err(Failure::Told(self.given_up(&error))),
                    Some(pause) => {
                        tell_once(&mut told, &error);
                        sleep(pause).await;
                    }
                },
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks until there is a verdict; `None` where none was heard of in time.
    async fn until_verdict(&self, mut answer: Answer, told: &UnboundedSender<Progress>) -> Option<Answer> {
        // invariant: the receiver lives as long as this.
        let tell = |progress| drop(told.send(progress));
        loop {
            tell(Progress::Answered(Box::new(answer.clone())));
            if answer.status.is_terminal() {
                return Some(answer);
            }
            sleep(WAIT).await;
            let mut patience = Patience::beyond(answer.deadline);
            answer = loop {
                let error = match self.look().await {
                    Ok(answer) => break answer,
                    Err(error) => error,
                };
                let refused = |message| Refused { name: "NoAnswer".to_owned(), message };
                match patience.next(Timestamp::now()) {
                    None => {
                        tell(Progress::GaveUp(refused(self.given_up(&error))));
                        return None;
                    }
                    Some(pause) => {
                        tell(Progress::Retrying(refused(error.to_string())));
                        sleep(pause).await;
                    }
                }
            };
        }
    }

    fn given_up(&self, error: &ApiError) -> String {
        format!(
            "{error}. The verdict is kept on AWS; once the API can be asked: dag-monitor run --follow {}",
            self.id
        )
    }
}

/// A row for each release, before it was told anything; one for the whole, where no check
/// has told which there are.
fn rows(answer: &Answer) -> Vec<Row> {
    let row = |name: &str, helm_type| Row::new(name, helm_type, answer.started_at, answer.deadline);
    if answer.targets.is_empty() {
        return vec![row(&answer.deployment_id, HelmType::Flux)];
    }
    let of =
        |it: &TargetAnswer| row(&format!("{}/{}/{}", it.cluster, it.namespace, it.release), it.helm_type);
    answer.targets.iter().map(of).collect()
}

/// The rows with what the answer tells.
pub(crate) fn told_rows(answer: &Answer) -> Vec<Row> {
    let mut rows = rows(answer);
    let told = Progress::Answered(Box::new(answer.clone()));
    for (index, row) in rows.iter_mut().enumerate() {
        row.take(of_target(&told, index), Timestamp::now());
    }
    rows
}

fn outcome(answer: &Answer) -> Outcome {
    let seen: Vec<bool> = answer.targets.iter().map(seen).collect();
    Outcome::of(answer, &seen)
}

/// Whether the cluster ever told what is there.
fn seen(target: &TargetAnswer) -> bool {
    target.observed != Observed::default() || target.last_reason.is_none_or(tells_of_release)
}

/// What to do about a reason, in the words of who has a registration and no kubeconfig.
fn hint(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::Unauthorized => Some(
            "the registered token is no longer accepted; `dag-monitor register NAME --context CONTEXT --replace` sends the one that the cluster has now",
        ),
        Reason::Forbidden => Some(
            "the registered account needs `get helmreleases.helm.toolkit.fluxcd.io` (flux) or `list secrets` (plain) in the namespace; `dag-monitor clusters probe NAME` shows what it may",
        ),
        Reason::TlsError
        | Reason::NotKubernetes
        | Reason::ClusterUnreachable
        | Reason::ClusterSlow
        | Reason::CredentialsUnavailable => Some(
            "`dag-monitor clusters probe NAME` asks the cluster from AWS, and says what is wrong; a new address or CA is sent by `dag-monitor register NAME --context CONTEXT --replace`",
        ),
        Reason::FluxNotInstalled => Some("where Helm itself deploys, the helm type is plain"),
        Reason::UseFlux => Some("the helm type is flux"),
        Reason::NotFound => Some("look at the target's namespace and release, and at its cluster"),
        Reason::WaitingForChange => Some(
            "a push that was quicker than the first look is seen with --pushed-at, or where it is run by this program: `-- git push`; what is there is judged with --allow-unchanged",
        ),
        _ => None,
    }
}

/// The same where it is known when the push was: then nothing is to be said of that.
fn hint_of_known_push(reason: Reason) -> Option<&'static str> {
    hint(reason).filter(|_| reason != Reason::WaitingForChange)
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser as _;
    use verdict::Status;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        driver::tests::answer,
    };

    pub(crate) fn target(cluster: &str, status: Status, reason: Reason, message: &str) -> TargetAnswer {
        TargetAnswer {
            cluster: cluster.to_owned(),
            namespace: "shop".to_owned(),
            release: "cart".to_owned(),
            helm_type: HelmType::Flux,
            status,
            reason,
            last_reason: None,
            evidence: None,
            message: message.to_owned(),
            observed: Observed::default(),
            since: "2026-11-23T19:15:45Z".parse().unwrap(),
        }
    }

    fn request(words: &str) -> Result<Request, String> {
        let words = ["dag-monitor", "run"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Some(Command::Run(run)) => Request::new(&run).map_err(|error| error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option_is_a_field_of_the_request() {
        let all = "--app checkout --environment production --target prod-eu/shop/checkout --target a/b/c --helm-type \
                   plain --timeout 10m --deployment-id a-1 --expect-chart 1.4.0 --expect-app 2 --expect-value \
                   /image/tag=3 --pushed-at 2026-11-23T19:15:45Z --fail-on first --fail-fast --allow-unchanged";
        let made = request(all).unwrap();
        let body = json!({
            "deploymentId": "a-1", "app": "checkout", "environment": "production", "helmType": "plain",
            "targets": [
                {"cluster": "prod-eu", "namespace": "shop", "release": "checkout"},
                {"cluster": "a", "namespace": "b", "release": "c"},
            ],
            "timeoutSecs": 600, "expect": {"chartVersion": "1.4.0", "appVersion": "2", "values": {"/image/tag": "3"}},
            "pushedAt": "2026-11-23T19:15:45Z", "failOn": "first", "failFast": true, "allowUnchanged": true,
        });
        assert_eq!((made.body, made.id.as_str(), made.environment), (body, "a-1", None));

        let made = request("--app checkout --environment production").unwrap();
        assert_eq!(made.environment.as_deref(), Some("/apps/checkout/environments/production"));
        assert!(made.id.starts_with("checkout-") && made.body.get("targets").is_none());
        let made = request("--target prod-eu/shop/check.out").unwrap();
        assert_eq!((made.body["helmType"].as_str(), made.id.starts_with("check-out-")), (Some("flux"), true));
    }

    #[test]
    fn what_the_api_would_refuse_is_told_by_its_option() {
        for (words, option) in [
            ("--target a/Shop/b", "--target: "),
            ("--target a/b/c --target a/b/c", "--target: "),
            ("--app a --environment b --pushed-at 2999-01-01T00:00:00Z", "--pushed-at: "),
            ("--app a --environment b --expect-chart=", "--expect-chart: "),
        ] {
            let told = request(words).err().unwrap_or_default();
            assert!(told.contains(option), "{words}: {told}");
        }
    }

    #[test]
    fn made_up_ids_are_ids_and_no_two_the_same() {
        for about in ["checkout", "a.b.c", &"x".repeat(200), "東京", ""] {
            let (one, two) = (made_up(about), made_up(about));
            assert!(monitor::request::is_deployment_id(&one), "{one}");
            assert_ne!(one, two);
        }
    }

    #[test]
    fn patience_grows_and_ends() {
        let now: Timestamp = "2026-11-23T19:15:45Z".parse().unwrap();
        let after = |secs| now.checked_add(SignedDuration::from_secs(secs)).unwrap();
        let mut patience = Patience::until(now, SignedDuration::from_secs(100));
        let pauses: Vec<_> = (0..6).map(|_| patience.next(after(99)).unwrap().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 15, 15]);
        assert_eq!(patience.next(after(100)), None);
    }

    #[test]
    fn a_cluster_that_never_told_anything_was_not_looked_at() {
        let late = |last_reason, observed| {
            let timeout = target("prod-eu", Status::Failed, Reason::Timeout, "");
            let targets = vec![TargetAnswer { last_reason, observed, ..timeout }];
            outcome(&Answer { targets, ..answer(Status::Failed, Reason::Timeout, "") }).code()
        };
        let nothing = Observed::default;
        let seen = || Observed { revision: Some(3), ..Observed::default() };
        assert_eq!(late(Some(Reason::WaitingForChange), nothing()), 2);
        assert_eq!(late(Some(Reason::NotFound), nothing()), 2);
        assert_eq!(late(Some(Reason::ClusterUnreachable), nothing()), 3);
        assert_eq!(late(Some(Reason::ClusterUnreachable), seen()), 2);
        for reason in [Reason::MonitorError, Reason::InvalidRequest] {
            assert_eq!(outcome(&answer(Status::Failed, reason, "")).code(), 3);
            let targets = vec![target("prod-eu", Status::Failed, reason, "")];
            assert_eq!(outcome(&Answer { targets, ..answer(Status::Failed, reason, "") }).code(), 3);
        }
    }

    #[test]
    fn a_deployment_without_targets_is_a_row_of_its_own() {
        let whole = told_rows(&answer(Status::Failed, Reason::InvalidRequest, "there is no such cluster"));
        assert_eq!(whole.len(), 1);
        assert_eq!((whole[0].name.as_str(), whole[0].status()), ("checkout-4711", Status::Failed));
        let targets = vec![
            target("prod-eu", Status::Succeeded, Reason::Deployed, ""),
            target("prod-us", Status::Pending, Reason::Progressing, ""),
        ];
        let two = told_rows(&Answer { targets, ..answer(Status::Pending, Reason::Progressing, "") });
        let told: Vec<_> = two.iter().map(|it| (it.name.as_str(), it.status())).collect();
        assert_eq!(told, [("prod-eu/shop/cart", Status::Succeeded), ("prod-us/shop/cart", Status::Pending)]);
    }
}
