//! The state machine's part, played here: check, wait, check again.

use std::time::Duration;

use lambda_runtime::Diagnostic;
use monitor::{
    answer::Answer,
    check::{CheckError, Checker, Ended},
};
use serde_json::Value;
use tokio::time::sleep;

/// Between two checks. As all numbers here it is the state machine's own, and a test
/// holds them together: what is seen here must not differ from what AWS does.
pub(crate) const WAIT: Duration = Duration::from_secs(5);
/// The error that another try may mend.
const TRANSIENT: &str = "Transient";
const FIRST_RETRY: Duration = Duration::from_secs(2);
const BACKOFF: f64 = 1.5;
const LONGEST_RETRY: Duration = Duration::from_secs(10);
const RETRIES: u32 = 1600;

/// Whoever does one check of a deployment.
pub(crate) trait Check: Send + Sync {
    /// One check, from the event that the state machine would send.
    fn check(&self, event: &Value) -> impl Future<Output = Result<Answer, Refused>> + Send;

    /// Closes what an execution leaves without a verdict.
    fn close(&self, ended: &Ended) -> impl Future<Output = Result<Option<Answer>, CheckError>> + Send;
}

/// A check without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The error's name, as the state machine matches it.
    pub(crate) name: String,
    /// One sentence.
    pub(crate) message: String,
}

impl Refused {
    pub(crate) fn said(&self) -> String {
        format!("{}: {}", self.name, self.message)
    }
}

impl Check for Checker {
    async fn check(&self, event: &Value) -> Result<Answer, Refused> {
        match check::handle(self, event.clone()).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Refused {
                name: "UnknownStatus".to_owned(),
                message: "the check gave no answer".to_owned(),
            }),
            Err(failure) => {
                let Diagnostic { error_type, error_message } = failure.into();
                Err(Refused { name: error_type, message: error_message })
            }
        }
    }

    fn close(&self, ended: &Ended) -> impl Future<Output = Result<Option<Answer>, CheckError>> + Send {
        Self::close(self, ended)
    }
}

/// What a deployment's driver tells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// A check's answer; one with a verdict is the last.
    Answered(Box<Answer>),
    /// A check failed, and will be tried again.
    Retrying(Refused),
    /// A check failed for good. Nothing comes after it.
    GaveUp(Refused),
}

/// Checks until there is a verdict, which is what comes back, or no hope of one.
/// What the machine tries a few times more, a function that hangs or a store that
/// refuses, does not occur with stores in memory: it ends at once.
pub(crate) async fn drive(
    checks: &impl Check,
    event: &Value,
    mut tell: impl FnMut(Progress),
) -> Result<Answer, Refused> {
    let mut retries = 0;
    let mut pause = FIRST_RETRY;
    loop {
        match checks.check(event).await {
            Ok(answer) => {
                tell(Progress::Answered(Box::new(answer.clone())));
                if answer.status.is_terminal() {
                    return Ok(answer);
                }
                (retries, pause) = (0, FIRST_RETRY);
                sleep(WAIT).await;
            }
            Err(refused) if refused.name == TRANSIENT && retries < RETRIES => {
                tell(Progress::Retrying(refused));
                sleep(pause).await;
                retries += 1;
                pause = pause.mul_f64(BACKOFF).min(LONGEST_RETRY);
            }
            Err(refused) => {
                tell(Progress::GaveUp(refused.clone()));
                return Err(refused);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use jiff::Timestamp;
    use serde_json::json;
    use tokio::time::Instant;
    use verdict::{Reason, Status};

    use super::*;

    /// Answers what it is told to, in order.
    pub(crate) struct Script(Mutex<VecDeque<Result<Answer, Refused>>>);

    impl Script {
        pub(crate) fn new(lines: impl IntoIterator<Item = Result<Answer, Refused>>) -> Self {
            Self(Mutex::new(lines.into_iter().collect()))
        }
    }

    impl Check for Script {
        async fn check(&self, _: &Value) -> Result<Answer, Refused> {
            self.0.lock().unwrap().pop_front().expect("a check after the end of the script")
        }

        async fn close(&self, _: &Ended) -> Result<Option<Answer>, CheckError> {
            Ok(None)
        }
    }

    pub(crate) fn answer(status: Status, reason: Reason, message: &str) -> Answer {
        let at: Timestamp = "2026-11-23T19:15:45Z".parse().unwrap();
        Answer {
            deployment_id: "checkout-4711".to_owned(),
            app: None,
            environment: None,
            status,
            reason,
            last_reason: None,
            evidence: None,
            message: message.to_owned(),
            started_at: at,
            deadline: at,
            checked_at: at,
            finished_at: status.is_terminal().then_some(at),
            polls: 3,
            targets: Vec::new(),
        }
    }

    pub(crate) fn pending() -> Result<Answer, Refused> {
        Ok(answer(Status::Pending, Reason::Progressing, "upgrade is running"))
    }

    pub(crate) fn succeeded() -> Result<Answer, Refused> {
        Ok(answer(Status::Succeeded, Reason::UpgradeSucceeded, "done"))
    }

    pub(crate) fn refused(name: &str) -> Refused {
        Refused { name: name.to_owned(), message: "no".to_owned() }
    }

    async fn driven(script: &Script) -> (Vec<Progress>, Duration) {
        let started = Instant::now();
        let mut told = Vec::new();
        let end = drive(script, &json!({}), |progress| told.push(progress)).await;
        match (told.last().unwrap(), end) {
            (Progress::Answered(last), Ok(verdict)) => assert_eq!(**last, verdict),
            (Progress::GaveUp(last), Err(refused)) => assert_eq!(*last, refused),
            (last, end) => panic!("it told {last:?} and ended with {end:?}"),
        }
        assert!(script.0.lock().unwrap().is_empty(), "the script was not played to its end");
        (told, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_between_checks_until_there_is_a_verdict() {
        let script = Script::new([pending(), pending(), succeeded()]);
        let (told, took) = driven(&script).await;
        assert_eq!(told.len(), 3);
        assert!(matches!(&told[2], Progress::Answered(a) if a.status == Status::Succeeded));
        assert_eq!(took.as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_deployment_is_a_verdict_too() {
        let script = Script::new([Ok(answer(Status::Failed, Reason::RolledBack, "undone"))]);
        assert_eq!(driven(&script).await.0.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_transient_is_tried_again_ever_later() {
        let transient = || Err(refused("Transient"));
        let lines = [transient(), transient(), pending(), transient(), succeeded()];
        let (told, took) = driven(&Script::new(lines)).await;
        assert_eq!(told.iter().filter(|it| matches!(it, Progress::Retrying(_))).count(), 3);
        assert_eq!(took.as_secs(), 2 + 3 + 5 + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_try_for_ever() {
        let script = Script::new((0..=RETRIES).map(|_| Err(refused("Transient"))));
        let (told, took) = driven(&script).await;
        assert!(matches!(told.last(), Some(Progress::GaveUp(_))));
        // Longer than the longest deadline: what can still be judged is.
        assert!(took > Duration::from_secs(7200), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final() {
        for name in ["InvalidRequest", "Internal"] {
            let (told, took) = driven(&Script::new([Err(refused(name))])).await;
            assert_eq!(told, [Progress::GaveUp(refused(name))]);
            assert_eq!(took, Duration::ZERO);
        }
    }

    #[test]
    fn the_numbers_are_the_state_machines() {
        let machine: Value = serde_json::from_str(include_str!("../../deployment-monitor.asl.json")).unwrap();
        // As it is without the parameter that makes long waits longer.
        let wait = format!("{{% ${{LongestWaitSecs}} <= {0} ? {0} : ", WAIT.as_secs());
        assert!(machine["States"]["Wait"]["Seconds"].as_str().unwrap().starts_with(&wait));
        let retries = machine["States"]["Check"]["Retry"].as_array().unwrap();
        let names = |retry: &Value| retry["ErrorEquals"].as_array().unwrap().contains(&json!(TRANSIENT));
        let retry = retries.iter().find(|it| names(it)).unwrap();
        assert_eq!(retry["IntervalSeconds"], FIRST_RETRY.as_secs());
        assert_eq!(retry["BackoffRate"], BACKOFF);
        assert_eq!(retry["MaxDelaySeconds"], LONGEST_RETRY.as_secs());
        assert_eq!(retry["MaxAttempts"], RETRIES);
        assert!(check::ERROR_NAMES.contains(&TRANSIENT));
    }
}
