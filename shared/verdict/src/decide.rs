//! The decision on one target, and what Flux and plain Helm share in it.

use jiff::{SignedDuration, Timestamp};

use crate::{
    AskError, AskErrorKind, Baseline, Evidence, HelmType, Look, Memory, Observed, Question, Reason, Seen,
    Status, Streak, TargetState, flux, plain,
    text::{clean, cut, said},
};

/// Two looks count as two polls only if they are at least this far apart: a
/// retry 100 ms later is no second look. One second below the state machine's wait.
pub const POLL_APART: SignedDuration = SignedDuration::from_secs(4);

/// A clock that differs by no more than this is right: `Date` has whole seconds,
/// and the answer was under way.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(2);

/// A clock that differs by more is no clock at all.
const NO_CLOCK: SignedDuration = SignedDuration::from_hours(24);

/// A cluster's clock that seems further behind is believed only where the push
/// lies in its future. Else it may be ours that is ahead, and what was released
/// before the push would count as new.
const BEHIND: SignedDuration = SignedDuration::from_mins(5);

/// How far in the future, at least: the caller's clock is a third one.
const FUTURE: SignedDuration = SignedDuration::from_mins(1);

/// After so many polls running an answer that can't pass by itself counts. Two
/// may still fall into one restart of an API server.
pub(crate) const REFUSALS: u32 = 3;

/// What a message says before its notes or its hint, in bytes at most.
const MAIN_BYTES: usize = 640;

/// What a decision came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// What is known now.
    Known(Box<TargetState>),
    /// The payloads of these secrets, by name, are needed first. Ask for them, add
    /// them to [`crate::Releases::payloads`] by their `uid`, and decide again.
    NeedsPayloads(Vec<String>),
}

/// Decides on one target. Pure and total; a target that has its verdict keeps it.
#[must_use]
pub fn decide(question: &Question<'_>, before: &TargetState, look: &Look) -> Decision {
    if before.status.is_terminal() {
        return Decision::Known(Box::new(before.clone()));
    }
    let clock = ClusterClock::new(look);
    let next = match (&look.seen, question.helm_type) {
        (Seen::Failed(error), _) => asking_failed(question, before, look.at, error),
        (Seen::HelmRelease(seen), HelmType::Flux) => {
            flux::rules::decide(question, before, look.at, clock, seen.as_deref())
        }
        (Seen::Releases(seen), HelmType::Plain) => {
            match plain::rules::decide(question, before, look.at, clock, seen) {
                Ok(next) => next,
                Err(names) => return Decision::NeedsPayloads(names),
            }
        }
        (Seen::HelmRelease(_) | Seen::Releases(_), _) => {
            let error = AskError {
                kind: AskErrorKind::NotKubernetes,
                message: "another kind of object came than was asked for".to_owned(),
            };
            asking_failed(question, before, look.at, &error)
        }
    };
    Decision::Known(Box::new(next.finish(question, before, look.at)))
}

/// The verdict of a tick that comes too late to ask anybody: the deadline has
/// passed, so what was last seen is all there is.
#[must_use]
pub fn expire(question: &Question<'_>, before: &TargetState, now: Timestamp) -> TargetState {
    if before.status.is_terminal() {
        return before.clone();
    }
    let next = Next {
        status: Status::Pending,
        reason: before.reason,
        evidence: None,
        message: before.message.clone(),
        observed: before.observed.clone(),
        baseline: before.baseline.clone(),
        memory: before.memory.clone(),
        notes: Vec::new(),
    };
    next.time_out(question, before, now)
}

/// The cluster's clock, as far as the answer told it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterClock {
    at: Timestamp,
    ahead: Option<SignedDuration>,
}

impl ClusterClock {
    fn new(look: &Look) -> Self {
        let ahead =
            look.cluster_date.map(|date| date.duration_since(look.at)).filter(|a| a.abs() <= NO_CLOCK);
        let ahead = ahead.map(|a| if a.abs() > CLOCKS_AGREE { a } else { SignedDuration::ZERO });
        Self { at: look.at, ahead }
    }

    /// Now, on the cluster's clock; `None` where it is not known.
    pub(crate) fn now(self) -> Option<Timestamp> {
        self.at.checked_add(self.ahead?).ok()
    }

    /// Whether something that the cluster dates happened not earlier than the
    /// push. The push is cut to the whole second, as the cluster's stamps are;
    /// where the cluster's clock is not known, time is no evidence.
    pub(crate) fn not_before_push(self, question: &Question<'_>, stamp: Option<Timestamp>) -> bool {
        let pushed = question.pushed_at.unwrap_or(question.started_at);
        let (Some(stamp), Some(ahead)) = (stamp, self.ahead) else {
            return false;
        };
        let is_proven = ahead >= -BEHIND || self.now().is_some_and(|now| pushed.duration_since(now) > FUTURE);
        let ahead = if is_proven { ahead } else { SignedDuration::ZERO };
        pushed.checked_add(ahead).is_ok_and(|pushed| stamp.as_second() >= floor_second(pushed))
    }
}

/// The whole second at or before an instant; [`Timestamp::as_second`] cuts
/// towards 1970 instead.
fn floor_second(at: Timestamp) -> i64 {
    at.as_second() - i64::from(at.subsec_nanosecond() < 0)
}

/// The next state in the making.
#[derive(Debug, Clone)]
pub(crate) struct Next {
    pub(crate) status: Status,
    pub(crate) reason: Reason,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) message: String,
    pub(crate) observed: Observed,
    pub(crate) baseline: Option<Baseline>,
    pub(crate) memory: Memory,
    /// Said once, in the first answer.
    pub(crate) notes: Vec<String>,
}

impl Next {
    fn finish(mut self, question: &Question<'_>, before: &TargetState, at: Timestamp) -> TargetState {
        if self.status == Status::Pending && at >= question.deadline {
            return self.time_out(question, before, at);
        }
        let notes = std::mem::take(&mut self.notes);
        if self.status == Status::Pending && !notes.is_empty() {
            self.message = format!("{}; note: {}", cut(clean(&self.message), MAIN_BYTES), notes.join("; "));
        }
        self.state(before, at, None)
    }

    fn time_out(mut self, question: &Question<'_>, before: &TargetState, at: Timestamp) -> TargetState {
        let waited_for = self.reason;
        let name = object(question);
        let message = clean(&self.message);
        // Most messages begin with the name, and it was just said.
        let message = message.strip_prefix(&format!("{name}: ")).unwrap_or(&message);
        let mut message = format!(
            "timed out after {} s waiting for {name}: {}",
            question.timeout_secs,
            cut(message.to_owned(), MAIN_BYTES),
        );
        // Where the cluster could not be asked, what was likely before is no cause.
        if let Some(hint) = self.memory.hint.as_ref().filter(|_| !is_asking(waited_for)) {
            message = format!("{message}; {hint}");
        }
        self.status = Status::Failed;
        self.reason = Reason::Timeout;
        self.evidence = None;
        self.message = message;
        self.state(before, at, Some(waited_for))
    }

    fn state(self, before: &TargetState, at: Timestamp, last_reason: Option<Reason>) -> TargetState {
        let as_before = before.status == self.status && before.reason == self.reason;
        let short = |text: String| cut(clean(&text), 128);
        TargetState {
            status: self.status,
            reason: self.reason,
            last_reason,
            evidence: self.evidence,
            message: clean(&self.message),
            observed: Observed {
                revision: self.observed.revision,
                chart_version: self.observed.chart_version.map(short),
                app_version: self.observed.app_version.map(short),
                condition: self.observed.condition.map(short),
            },
            since: if as_before { before.since } else { at },
            baseline: self.baseline,
            memory: self.memory,
        }
    }
}

/// Whether it tells of the asking, not of the release.
fn is_asking(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ClusterSlow
            | Reason::ClusterUnreachable
            | Reason::Throttled
            | Reason::ServerError
            | Reason::BadAnswer
            | Reason::CredentialsUnavailable
            | Reason::Unauthorized
            | Reason::Forbidden
            | Reason::FluxNotInstalled
            | Reason::TlsError
    )
}

/// The object waited for, as messages name it.
pub(crate) fn object(question: &Question<'_>) -> String {
    let kind = match question.helm_type {
        HelmType::Flux => "HelmRelease",
        HelmType::Plain => "Helm release",
    };
    format!("{kind} {}/{} on {}", question.namespace, question.release, question.cluster)
}

/// Counts how often a thing was seen on polls running, this look included.
pub(crate) fn count(streak: &mut Option<Streak>, what: &str, at: Timestamp) -> u32 {
    match streak {
        Some(s) if s.what == what => {
            if at.duration_since(s.at) >= POLL_APART {
                s.polls = s.polls.saturating_add(1);
                s.at = at;
            }
            s.polls
        }
        _ => {
            *streak = Some(Streak { what: what.to_owned(), polls: 1, at });
            1
        }
    }
}

fn asking_failed(question: &Question<'_>, before: &TargetState, at: Timestamp, error: &AskError) -> Next {
    use AskErrorKind as Kind;
    let cluster = question.cluster;
    let says = said(&error.message);
    let mut next = Next {
        status: Status::Pending,
        reason: Reason::BadAnswer,
        evidence: None,
        message: String::new(),
        observed: before.observed.clone(),
        baseline: before.baseline.clone(),
        memory: before.memory.clone(),
        notes: Vec::new(),
    };
    let (pending, failed, message) = match error.kind {
        Kind::Unreachable => {
            (Reason::ClusterUnreachable, None, format!("cluster {cluster} can't be reached: {says}"))
        }
        Kind::Slow => {
            (Reason::ClusterSlow, None, format!("cluster {cluster} did not answer in time: {says}"))
        }
        Kind::Throttled => (Reason::Throttled, None, format!("cluster {cluster} asks to slow down: {says}")),
        Kind::ServerError => {
            (Reason::ServerError, None, format!("cluster {cluster} answers with a server error: {says}"))
        }
        Kind::CredentialsUnavailable => (
            Reason::CredentialsUnavailable,
            None,
            format!("the credentials of cluster {cluster} can't be read: {says}"),
        ),
        Kind::Unauthorized => (
            Reason::Unauthorized,
            Some(Reason::Unauthorized),
            format!(
                "cluster {cluster} does not accept the token: {says}; register the cluster's current token"
            ),
        ),
        Kind::Forbidden => (
            Reason::Forbidden,
            Some(Reason::Forbidden),
            format!(
                "the token may not read this on cluster {cluster}: {says}; apply the guide's ClusterRole there"
            ),
        ),
        Kind::FluxNotInstalled => (
            Reason::FluxNotInstalled,
            Some(Reason::FluxNotInstalled),
            format!(
                "cluster {cluster} has no helm.toolkit.fluxcd.io/v2: {says}; install Flux 2.3 or newer, \
                 or use helmType plain"
            ),
        ),
        Kind::Tls => (
            Reason::TlsError,
            Some(Reason::TlsError),
            format!(
                "the certificate of cluster {cluster} is not accepted: {says}; register its caCert or tlsServerName"
            ),
        ),
        Kind::NotKubernetes => (
            Reason::BadAnswer,
            Some(Reason::NotKubernetes),
            format!("what came from cluster {cluster} is not what was asked for: {says}; look at its apiUrl"),
        ),
        Kind::ClusterRemoved => (
            Reason::CredentialsUnavailable,
            Some(Reason::ClusterRemoved),
            format!("cluster {cluster} is no longer registered: {says}"),
        ),
        Kind::ClusterChanged => {
            next.status = Status::Failed;
            next.reason = Reason::ClusterChanged;
            next.message = format!("cluster {cluster} was registered anew while this deployment ran: {says}");
            return next;
        }
        Kind::NamespaceNotAllowed => {
            next.status = Status::Failed;
            next.reason = Reason::NamespaceNotAllowed;
            next.message = format!("cluster {cluster} may not be watched there: {says}");
            return next;
        }
    };
    next.reason = pending;
    next.message = message;
    if let Some(reason) = failed
        && count(&mut next.memory.refusals, "refused", at) >= REFUSALS
    {
        next.status = Status::Failed;
        next.reason = reason;
    }
    next
}
