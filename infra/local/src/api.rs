//! The deployed API, asked as whoever runs this may ask it.

use std::collections::HashMap;

use aws::operator::{ApiAddress, ApiClient, Operator, OperatorError, Question};
use axum::http::Method;
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{cli::AwsArguments, environment::Environment};

/// What the guide calls the stack.
const STACK: &str = "dag-monitor";
/// The outputs of the stack that say where the API is, and which state machine judges.
const API_URL: &str = "ApiUrl";
const STATE_MACHINE_ARN: &str = "StateMachineArn";

/// Why the API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Nobody was asked, and nobody will be. A sentence that says what to mend.
    #[error("{0}")]
    Unusable(String),
    /// It may be asked again.
    #[error("the API gave no answer: {0}")]
    Unanswered(String),
    /// The API refused.
    #[error("{}", .0.sentence)]
    Refused(Box<Refusal>),
    #[error("the API at {0} answers what can't be read; is it dag-monitor's, and this program as new as it?")]
    Unreadable(ApiAddress),
}

/// What the API says of a request that it refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The kind of the problem, as `already-registered`; empty where it is none of the API's own.
    pub(crate) kind: String,
    /// What is wrong, and what to do.
    pub(crate) sentence: String,
}

impl ApiError {
    /// Whether the same question may be answered later, without anybody mending anything.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unanswered(_) => true,
            Self::Refused(refusal) => refusal.status == 429 || refusal.status >= 500,
            Self::Unusable(_) | Self::Unreadable(_) => false,
        }
    }

    /// Whether the API's problem is of this kind.
    pub(crate) fn is(&self, kind: &str) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.kind == kind)
    }
}

/// The API of one stack.
pub(crate) struct Api {
    client: ApiClient,
    by_key: bool,
    region: Option<String>,
    state_machine_arn: Option<String>,
}

impl Api {
    /// Finds it, by the stack or by what was given.
    ///
    /// # Errors
    /// [`ApiError::Unusable`], where there are no credentials, region or stack;
    /// [`ApiError::Unanswered`].
    pub(crate) async fn find(arguments: &AwsArguments, environment: &Environment) -> Result<Self, ApiError> {
        let endpoint = match (&arguments.endpoint, &environment.endpoint) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(named)) => {
                let unusable = |why| ApiError::Unusable(format!("DAG_MONITOR_ENDPOINT: {why}"));
                Some(ApiAddress::parse(named).map_err(unusable)?)
            }
            (None, None) => None,
        };
        if let (Some(address), Some(key)) = (&endpoint, &environment.key)
            && let Some(client) = ApiClient::with_key(address.clone(), key)
        {
            return Ok(Self { client, by_key: true, region: None, state_machine_arn: None });
        }
        let stack = arguments.stack.as_deref().or(environment.stack.as_deref()).unwrap_or(STACK);
        let told = |error| told(error, arguments.profile.as_deref(), stack);
        let found = Operator::find(arguments.profile.as_deref(), arguments.region.as_deref()).await;
        let operator = found.map_err(told)?;
        let mut state_machine_arn = None;
        let address = match endpoint {
            Some(address) => address,
            None => {
                let mut outputs: HashMap<_, _> =
                    operator.outputs(stack).await.map_err(told)?.into_iter().collect();
                state_machine_arn = outputs.remove(STATE_MACHINE_ARN);
                let url = outputs.remove(API_URL).ok_or_else(|| {
                    told(OperatorError::NoOutput { stack: stack.to_owned(), output: API_URL.to_owned() })
                })?;
                ApiAddress::parse(&url).map_err(|why| {
                    ApiError::Unusable(format!("the stack's output {API_URL} is no address: {why}"))
                })?
            }
        };
        let region = Some(operator.region().to_owned());
        let client = ApiClient::signed(address, operator);
        Ok(Self { client, by_key: false, region, state_machine_arn })
    }

    /// The execution of a deployment, by which Step Functions knows it; `None` where the stack was not asked.
    pub(crate) fn execution_arn(&self, deployment_id: &str) -> Option<String> {
        let machine = self.state_machine_arn.as_deref()?;
        Some(format!("{}:{deployment_id}", machine.replacen(":stateMachine:", ":execution:", 1)))
    }

    /// Where requests are signed for; `None` where they are not signed.
    pub(crate) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    pub(crate) fn address(&self) -> &ApiAddress {
        self.client.address()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask(Method::GET, path, None).await
    }

    /// Asks once; null where nothing is answered.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let policy = policy(&method, path);
        let body = body.map(|body| SecretString::from(body.to_string()));
        let (status, text) =
            self.client.ask(Question { method, path, body }).await.map_err(|error| match error {
                OperatorError::Unanswered(why) => ApiError::Unanswered(why),
                other => ApiError::Unusable(format!("{other}. {LOG_IN}")),
            })?;
        if status == 200 {
            if text.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_str(&text).map_err(|_| self.unreadable());
        }
        Err(ApiError::Refused(Box::new(self.refusal(status, &text, policy))))
    }

    /// All items of a list, page by page, at most so many; and whether there are more.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn list(
        &self,
        path: &str,
        query: &str,
        items: &str,
        limit: Option<usize>,
    ) -> Result<(Vec<Value>, bool), ApiError> {
        // The most that a page may hold.
        const PAGE: usize = 100;
        let limit = limit.unwrap_or(usize::MAX);
        let mut all = Vec::new();
        let mut next = None::<String>;
        while all.len() < limit {
            let token = next.map(|it| format!("&nextToken={it}")).unwrap_or_default();
            let page = PAGE.min(limit - all.len());
            let mut answer = self.get(&format!("{path}?limit={page}{query}{token}")).await?;
            match answer.get_mut(items).map(Value::take) {
                Some(Value::Array(came)) => all.extend(came),
                _ => return Err(self.unreadable()),
            }
            next = answer.get("nextToken").and_then(Value::as_str).map(str::to_owned);
            if next.is_none() {
                return Ok((all, false));
            }
        }
        Ok((all, next.is_some()))
    }

    /// An answer as what it should be.
    ///
    /// # Errors
    /// [`ApiError::Unreadable`].
    pub(crate) fn read<T: DeserializeOwned>(&self, answer: &Value) -> Result<T, ApiError> {
        T::deserialize(answer).map_err(|_| self.unreadable())
    }

    fn unreadable(&self) -> ApiError {
        ApiError::Unreadable(self.address().clone())
    }

    fn refusal(&self, status: u16, text: &str, policy: &str) -> Refusal {
        let problem: Problem = serde_json::from_str(text).unwrap_or_default();
        // API Gateway answers 403. With 401 `serve` asks for its key, in words for who sends a header.
        if status == 401 || status == 403 && self.by_key {
            let words = problem.message.or(problem.detail).unwrap_or_default();
            let sentence = format!(
                "the API at {} does not take the key (HTTP {status}: {words}); set DAG_MONITOR_KEY to the one that \
                 `dag-monitor serve` printed at its first start",
                self.address()
            );
            return Refusal { status, kind: String::new(), sentence };
        }
        if let (Some(kind), Some(detail)) = (problem.r#type.as_deref().and_then(problem_kind), problem.detail)
        {
            let reason = problem.reason.map(|it| format!(" ({it})")).unwrap_or_default();
            let help = problem.help.map(|it| format!(". {it}")).unwrap_or_default();
            let title = problem.title.map(|it| format!("{it}{reason}: ")).unwrap_or_default();
            return Refusal { status, kind: kind.to_owned(), sentence: format!("{title}{detail}{help}") };
        }
        // API Gateway's own words, or those of whoever stands in between.
        let words = problem.message.unwrap_or_else(|| "no words".to_owned());
        let sentence = match status {
            403 if words.to_lowercase().contains("expired") => {
                format!(
                    "the credentials have ended (HTTP 403: {words}); log in again, by `aws login` or `aws sso login`"
                )
            }
            403 => format!(
                "the API does not let these credentials in (HTTP 403: {words}). Attach the managed policy that the \
                 stack's output {policy} names to your role, and look at --profile and --region; `aws sts \
                 get-caller-identity` says who you are"
            ),
            429 => format!("the API asks to slow down (HTTP 429: {words})"),
            status => format!("the API at {} answers HTTP {status}: {words}", self.address()),
        };
        Refusal { status, kind: String::new(), sentence }
    }
}

/// A problem (RFC 9457), or what API Gateway says itself.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    r#type: Option<String>,
    title: Option<String>,
    detail: Option<String>,
    reason: Option<String>,
    help: Option<String>,
    // IAM's denials begin with a capital.
    #[serde(alias = "Message")]
    message: Option<String>,
}

fn problem_kind(urn: &str) -> Option<&str> {
    urn.strip_prefix("urn:dag-monitor:problem:")
}

/// Which of the stack's policies lets do this.
fn policy(method: &Method, path: &str) -> &'static str {
    match (method, path) {
        (&Method::GET, _) => "ReaderPolicyArn",
        (&Method::POST, "/deployments") => "DeployerPolicyArn",
        _ => "RegistrarPolicyArn",
    }
}

const LOG_IN: &str = "Log in, by `aws login` or `aws sso login`, choose another --profile, or set AWS_ACCESS_KEY_ID \
                      and AWS_SECRET_ACCESS_KEY; for a `dag-monitor serve` give --endpoint and set DAG_MONITOR_KEY";

fn told(error: OperatorError, profile: Option<&str>, stack: &str) -> ApiError {
    let what_to_do = match &error {
        OperatorError::Unanswered(why) => {
            return ApiError::Unanswered(format!(
                "CloudFormation, which knows its address, can't be asked: {why}"
            ));
        }
        OperatorError::NoCredentials(_) => match profile {
            None => LOG_IN.to_owned(),
            Some(name) => {
                format!("Is there a profile {name:?}? `aws configure list-profiles` tells. {LOG_IN}")
            }
        },
        OperatorError::NoRegion => {
            "Give --region, set AWS_REGION, or choose a --profile that has one".to_owned()
        }
        OperatorError::NoStack { .. } => {
            "Give its name by --stack or DAG_MONITOR_STACK, another --region, or another --profile".to_owned()
        }
        OperatorError::NoOutput { .. } => {
            format!("Is {:?} the stack of dag-monitor? Give its name by --stack", stack)
        }
        OperatorError::NotAllowed { .. } => {
            "Attach one of the stack's policies to your role, or give the API's address by --endpoint"
                .to_owned()
        }
        _ => "Give the API's address by --endpoint".to_owned(),
    };
    ApiError::Unusable(format!("{error}. {what_to_do}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(key: bool) -> Api {
        let address = ApiAddress::parse("http://127.0.0.1:1/v1").unwrap();
        let client = ApiClient::with_key(address, &SecretString::from("k3y")).unwrap();
        Api { client, by_key: key, region: None, state_machine_arn: None }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let problem = r#"{"type": "urn:dag-monitor:problem:probe-failed", "title": "The cluster can't be asked",
            "detail": "nobody listens", "reason": "ConnectionRefused", "help": "Look at the port"}"#;
        for (status, text, by_key, words) in [
            (
                422,
                problem,
                false,
                &["The cluster can't be asked (ConnectionRefused): nobody listens. Look at the"][..],
            ),
            (403, r#"{"message": "Missing Authentication Token"}"#, false, &["Missing", "DeployerPolicyArn"]),
            (
                403,
                r#"{"Message": "User: x is not authorized"}"#,
                false,
                &["not authorized", "DeployerPolicyArn"],
            ),
            (403, r#"{"message": "Signature expired: x"}"#, false, &["aws sso login"]),
            (
                403,
                r#"{"message": "The security token included in the request is expired"}"#,
                false,
                &["ended"],
            ),
            (401, r#"{"message": "no key"}"#, true, &["no key", "DAG_MONITOR_KEY"]),
            (
                401,
                r#"{"type": "urn:dag-monitor:problem:unauthorized", "detail": "no key"}"#,
                false,
                &["no key", "DAG_MONITOR_KEY"],
            ),
            (403, "", true, &["DAG_MONITOR_KEY"]),
            (502, "<html>", false, &["HTTP 502"]),
            (429, r#"{"message": "Too Many Requests"}"#, false, &["slow down"]),
        ] {
            let refusal = api(by_key).refusal(status, text, "DeployerPolicyArn");
            for word in words {
                assert!(refusal.sentence.contains(word), "{word}: {}", refusal.sentence);
            }
            assert_eq!(refusal.kind, if status == 422 { "probe-failed" } else { "" });
            let passes = ApiError::Refused(Box::new(refusal)).may_pass();
            assert_eq!(passes, [502, 429].contains(&status), "{status}");
        }
    }

    #[test]
    fn every_way_not_to_find_the_api_says_what_to_do() {
        let stack = || "dag-monitor".to_owned();
        for (error, words) in [
            (OperatorError::NoCredentials("none".to_owned()), "aws sso login"),
            (OperatorError::NoRegion, "--region"),
            (OperatorError::NoStack { stack: stack(), region: "eu-west-1".to_owned() }, "--stack"),
            (OperatorError::NoOutput { stack: stack(), output: "ApiUrl".to_owned() }, "--stack"),
            (OperatorError::NotAllowed { stack: stack(), why: "no".to_owned() }, "--endpoint"),
            (OperatorError::Refused("no".to_owned()), "--endpoint"),
        ] {
            let told = told(error, None, "dag-monitor");
            assert!(told.to_string().contains(words) && !told.may_pass(), "{told}");
        }
        assert!(told(OperatorError::Unanswered("reset".to_owned()), None, "dag-monitor").may_pass());
    }

    #[test]
    fn the_policy_is_the_least_that_lets_do_it() {
        for (method, path, wanted) in [
            (Method::GET, "/deployments/a", "ReaderPolicyArn"),
            (Method::POST, "/deployments", "DeployerPolicyArn"),
            (Method::POST, "/clusters", "RegistrarPolicyArn"),
            (Method::POST, "/clusters/a/probe", "RegistrarPolicyArn"),
            (Method::PUT, "/apps/a/environments/b", "RegistrarPolicyArn"),
        ] {
            assert_eq!(policy(&method, path), wanted);
        }
    }
}
