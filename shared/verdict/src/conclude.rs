//! The verdict on a deployment from those on its targets.

use crate::{
    Evidence, Reason, Status, TargetState,
    text::{clean, cut},
};

/// The verdict on a whole deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    /// Succeeded when every target is; failed when any target is, told when all are judged.
    pub status: Status,
    /// The first failed target's that isn't `Timeout`, else `Timeout`; on success
    /// the single target's, or `AllDeployed`.
    pub reason: Reason,
    /// What a `Timeout` waited for.
    pub last_reason: Option<Reason>,
    /// The weakest on which any target's verdict rests.
    pub evidence: Option<Evidence>,
    /// One sentence for a person.
    pub message: String,
}

/// With `failFast`: once a target has failed, the others are not awaited.
pub fn stop_waiting<'a>(targets: impl IntoIterator<Item = &'a mut TargetState>) {
    for target in targets {
        if target.status == Status::Pending {
            target.reason = Reason::NotAwaited;
        }
    }
}

/// Concludes from the targets, each with the name of its cluster, in the order
/// of the request. With `fail_fast` the first failure ends it.
#[must_use]
pub fn conclude(targets: &[(&str, &TargetState)], fail_fast: bool) -> Conclusion {
    let all = targets.len();
    let of = |status| targets.iter().filter(move |(_, t)| t.status == status);
    let (deployed, failed) = (of(Status::Succeeded).count(), of(Status::Failed).count());
    let waiting = of(Status::Pending).next();
    let told = |count: usize, what: &str, (cluster, target): &(&str, &TargetState)| {
        if all == 1 {
            target.message.clone()
        } else {
            clean(&format!(
                "{count} of {all} targets {what}; {cluster}: {}",
                cut(target.message.clone(), 900)
            ))
        }
    };

    if failed > 0 && (waiting.is_none() || fail_fast) {
        let first = of(Status::Failed)
            .find(|(_, t)| t.reason != Reason::Timeout)
            .or_else(|| of(Status::Failed).next());
        if let Some(first) = first {
            return Conclusion {
                status: Status::Failed,
                reason: first.1.reason,
                last_reason: first.1.last_reason,
                evidence: first.1.evidence,
                message: told(failed, "failed", first),
            };
        }
    }
    if let Some(waiting) = waiting {
        return Conclusion {
            status: Status::Pending,
            reason: waiting.1.reason,
            last_reason: None,
            evidence: None,
            message: told(deployed, "deployed", waiting),
        };
    }
    match targets {
        [] => Conclusion {
            status: Status::Pending,
            reason: Reason::Starting,
            last_reason: None,
            evidence: None,
            message: "no target yet".to_owned(),
        },
        [(_, only)] => Conclusion {
            status: only.status,
            reason: only.reason,
            last_reason: only.last_reason,
            evidence: only.evidence,
            message: only.message.clone(),
        },
        _ => Conclusion {
            status: Status::Succeeded,
            reason: Reason::AllDeployed,
            last_reason: None,
            evidence: [Evidence::Unchanged, Evidence::Changed, Evidence::Expected]
                .into_iter()
                .find(|e| targets.iter().any(|(_, t)| t.evidence == Some(*e))),
            message: format!("{deployed} of {all} targets deployed"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(status: Status, reason: Reason) -> TargetState {
        let mut target = TargetState::new(jiff::Timestamp::UNIX_EPOCH);
        target.status = status;
        target.reason = reason;
        target.message = format!("because {reason}");
        target
    }

    #[test]
    fn a_failure_is_told_when_all_are_judged_or_at_once_with_fail_fast() {
        let (ok, bad, open) = (
            target(Status::Succeeded, Reason::Deployed),
            target(Status::Failed, Reason::UpgradeFailed),
            target(Status::Pending, Reason::Progressing),
        );
        let targets = [("a", &ok), ("b", &bad), ("c", &open)];
        let slow = conclude(&targets, false);
        assert_eq!((slow.status, slow.reason), (Status::Pending, Reason::Progressing));
        assert_eq!(slow.message, "1 of 3 targets deployed; c: because Progressing");
        let fast = conclude(&targets, true);
        assert_eq!((fast.status, fast.reason), (Status::Failed, Reason::UpgradeFailed));
        assert_eq!(fast.message, "1 of 3 targets failed; b: because UpgradeFailed");
    }

    #[test]
    fn a_timeout_is_told_only_where_nothing_else_failed() {
        let (late, bad) =
            (target(Status::Failed, Reason::Timeout), target(Status::Failed, Reason::RolledBack));
        assert_eq!(conclude(&[("a", &late), ("b", &bad)], false).reason, Reason::RolledBack);
        assert_eq!(conclude(&[("a", &late), ("b", &late)], false).reason, Reason::Timeout);
    }

    #[test]
    fn success_is_the_single_targets_or_all_deployed() {
        let ok = target(Status::Succeeded, Reason::UpgradeSucceeded);
        assert_eq!(conclude(&[("a", &ok)], false).reason, Reason::UpgradeSucceeded);
        assert_eq!(conclude(&[("a", &ok), ("b", &ok)], false).reason, Reason::AllDeployed);
    }
}
