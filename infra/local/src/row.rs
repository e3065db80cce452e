//! What is known of one deployment while it is followed.

use jiff::Timestamp;
use monitor::answer::Answer;
use verdict::{HelmType, Reason, Status};

use crate::driver::{Progress, Refused};

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) helm_type: HelmType,
    pub(crate) started_at: Timestamp,
    pub(crate) deadline: Timestamp,
    /// The last answer.
    pub(crate) answer: Option<Box<Answer>>,
    /// Why the last check had no answer.
    trouble: Option<Refused>,
    ended_at: Option<Timestamp>,
}

impl Row {
    pub(crate) fn new(name: &str, helm_type: HelmType, started_at: Timestamp, deadline: Timestamp) -> Self {
        let name = name.to_owned();
        Self { name, helm_type, started_at, deadline, answer: None, trouble: None, ended_at: None }
    }

    /// Takes in what the driver tells; whether a reader would see a difference.
    pub(crate) fn take(&mut self, progress: Progress, now: Timestamp) -> bool {
        let before = (self.status(), self.said());
        match progress {
            Progress::Answered(answer) => {
                if answer.status.is_terminal() {
                    self.ended_at = Some(answer.finished_at.unwrap_or(now));
                }
                self.answer = Some(answer);
                self.trouble = None;
            }
            // What has its verdict keeps it, whoever else is asked for again.
            Progress::Retrying(_) if self.ended_at.is_some() => {}
            Progress::Retrying(refused) => self.trouble = Some(refused),
            Progress::GaveUp(refused) => {
                self.trouble = Some(refused);
                self.ended_at = Some(now);
            }
        }
        before != (self.status(), self.said())
    }

    /// Where it stands. One whose checks failed for good is as failed as the
    /// execution would be.
    pub(crate) fn status(&self) -> Status {
        match (&self.answer, self.ended_at) {
            (_, None) => Status::Pending,
            (Some(answer), Some(_)) if self.trouble.is_none() => answer.status,
            _ => Status::Failed,
        }
    }

    /// The reason's word, or the error's name.
    pub(crate) fn reason(&self) -> &str {
        match (&self.trouble, &self.answer) {
            (Some(trouble), _) => &trouble.name,
            (None, Some(answer)) => answer.reason.as_str(),
            (None, None) => "Starting",
        }
    }

    /// The answer's reason, where nothing came in between.
    pub(crate) fn verdict_reason(&self) -> Option<Reason> {
        self.answer.as_ref().filter(|_| self.trouble.is_none()).map(|answer| answer.reason)
    }

    pub(crate) fn message(&self) -> &str {
        match (&self.trouble, &self.answer) {
            (Some(trouble), _) => &trouble.message,
            (None, Some(answer)) => &answer.message,
            (None, None) => "the first check is running",
        }
    }

    /// Reason and message.
    pub(crate) fn said(&self) -> String {
        format!("{}: {}", self.reason(), self.message())
    }

    /// The same for a line that names the deployment already, and has little room:
    /// without the object's name where the message begins with it.
    pub(crate) fn said_shortly(&self) -> String {
        let target = self.answer.as_ref().and_then(|answer| answer.targets.first());
        let short = target.and_then(|it| {
            let object = format!("{}/{} on {}", it.namespace, it.release, it.cluster);
            let rest =
                self.message().strip_prefix("HelmRelease ").or(self.message().strip_prefix("Helm release "));
            rest?.strip_prefix(&object)
        });
        let short = short.map(|it| it.trim_start_matches([':', ' '])).filter(|it| !it.is_empty());
        short.map_or_else(|| self.said(), |short| format!("{}: {short}", self.reason()))
    }

    pub(crate) fn polls(&self) -> u32 {
        self.answer.as_ref().map_or(0, |answer| answer.polls)
    }

    /// For how long it has run, in seconds.
    pub(crate) fn elapsed_secs(&self, now: Timestamp) -> i64 {
        self.ended_at.unwrap_or(now).duration_since(self.started_at).as_secs().max(0)
    }

    /// How long until its deadline, in seconds, while it runs.
    pub(crate) fn left_secs(&self, now: Timestamp) -> Option<i64> {
        self.ended_at.is_none().then(|| self.deadline.duration_since(now).as_secs().max(0))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::SignedDuration;
    use monitor::answer::TargetAnswer;
    use verdict::Observed;

    use super::*;
    use crate::driver::tests::{answer, refused};

    pub(crate) fn row(name: &str) -> Row {
        let at: Timestamp = "2026-11-23T19:15:33Z".parse().unwrap();
        Row::new(name, HelmType::Flux, at, after(at, 55))
    }

    fn after(at: Timestamp, secs: i64) -> Timestamp {
        at.checked_add(SignedDuration::from_secs(secs)).unwrap()
    }

    fn answered(status: Status, reason: Reason, message: &str) -> Progress {
        Progress::Answered(Box::new(answer(status, reason, message)))
    }

    #[test]
    fn the_same_answer_again_is_no_news() {
        let mut row = row("cart");
        let now = after(row.started_at, 3);
        assert!(row.take(answered(Status::Pending, Reason::Progressing, "running"), now));
        assert!(!row.take(answered(Status::Pending, Reason::Progressing, "running"), now));
        assert!(row.take(answered(Status::Pending, Reason::Progressing, "failing"), now));
        assert_eq!((row.elapsed_secs(now), row.left_secs(now)), (3, Some(52)));
    }

    #[test]
    fn a_line_does_not_name_its_object_twice() {
        let targets = vec![TargetAnswer {
            cluster: "demo".to_owned(),
            namespace: "shop".to_owned(),
            release: "cart".to_owned(),
            helm_type: HelmType::Flux,
            status: Status::Pending,
            reason: Reason::Progressing,
            last_reason: None,
            evidence: None,
            message: String::new(),
            observed: Observed::default(),
            since: row("cart").started_at,
        }];
        for (message, short) in [
            ("HelmRelease shop/cart on demo: the push is missing", "the push is missing"),
            ("HelmRelease shop/cart on demo still asks for 1.0.0", "still asks for 1.0.0"),
            ("Helm release shop/cart on demo: no new revision", "no new revision"),
            (
                "there is no HelmRelease shop/cart on demo yet",
                "there is no HelmRelease shop/cart on demo yet",
            ),
            ("HelmRelease shop/other on demo: x", "HelmRelease shop/other on demo: x"),
        ] {
            let mut row = row("cart");
            let answer =
                Answer { targets: targets.clone(), ..answer(Status::Pending, Reason::Progressing, message) };
            let now = row.started_at;
            row.take(Progress::Answered(Box::new(answer)), now);
            assert_eq!(row.said_shortly(), format!("Progressing: {short}"));
            assert_eq!(row.message(), message);
        }
    }

    #[test]
    fn a_verdict_stops_its_clock() {
        let mut row = row("cart");
        let later = after(row.started_at, 40);
        row.take(answered(Status::Succeeded, Reason::UpgradeSucceeded, "done"), later);
        assert_eq!(row.status(), Status::Succeeded);
        assert_eq!((row.elapsed_secs(later), row.left_secs(later)), (12, None));
    }

    #[test]
    fn trouble_is_shown_until_the_next_answer() {
        let mut row = row("cart");
        let now = row.started_at;
        assert!(row.take(Progress::Retrying(refused("Transient")), now));
        assert_eq!((row.status(), row.said().as_str()), (Status::Pending, "Transient: no"));
        assert!(row.take(answered(Status::Pending, Reason::Progressing, "running"), now));
        assert_eq!(row.said(), "Progressing: running");
        row.take(Progress::GaveUp(refused("Internal")), now);
        assert_eq!((row.status(), row.reason()), (Status::Failed, "Internal"));

        let mut judged = self::row("cart");
        judged.take(answered(Status::Succeeded, Reason::UpgradeSucceeded, "done"), now);
        assert!(!judged.take(Progress::Retrying(refused("Transient")), now));
        assert_eq!(judged.status(), Status::Succeeded);
    }
}
