//! From verdicts to the code that the program ends with.

use monitor::answer::{Answer, TargetAnswer};
use verdict::{Reason, Status};

use crate::cli::NOT_LOOKED;

/// As a shell tells of a process that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every release is deployed.
    Succeeded,
    /// One is not, and won't be.
    Failed,
    /// One was waited for in vain.
    TimedOut,
    /// Nobody who could be asked: nothing is known of the release.
    NotLooked,
    /// The command that was to push failed.
    CommandFailed,
    /// By Ctrl-C or SIGTERM.
    Interrupted,
}

impl Outcome {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::Failed => 1,
            Self::TimedOut => 2,
            Self::NotLooked => NOT_LOOKED,
            Self::CommandFailed => 4,
            Self::Interrupted => INTERRUPTED,
        }
    }

    /// Of an answer with a verdict. `seen` says of each target, in order, whether its
    /// cluster ever told what is there. A release that has failed counts more than one
    /// that could not be looked at, and that more than one that took too long.
    pub(crate) fn of(answer: &Answer, seen: &[bool]) -> Self {
        let targets = answer.targets.iter().enumerate();
        let of =
            targets.map(|(index, target)| Self::of_target(target, seen.get(index).is_some_and(|it| *it)));
        let all: Vec<Self> = of.flatten().collect();
        [Self::Failed, Self::NotLooked, Self::TimedOut]
            .into_iter()
            .find(|it| all.contains(it))
            .unwrap_or(if answer.status == Status::Succeeded { Self::Succeeded } else { Self::NotLooked })
    }

    fn of_target(target: &TargetAnswer, seen: bool) -> Option<Self> {
        match target.status {
            // With `--fail-fast` another one was judged first.
            Status::Pending => None,
            Status::Succeeded => Some(Self::Succeeded),
            Status::Failed if target.reason == Reason::Timeout => {
                Some(if seen { Self::TimedOut } else { Self::NotLooked })
            }
            Status::Failed => {
                Some(if tells_of_release(target.reason) { Self::Failed } else { Self::NotLooked })
            }
        }
    }
}

/// Whether a failure's reason tells of the release, rather than of the asking.
pub(crate) const fn tells_of_release(reason: Reason) -> bool {
    match reason {
        Reason::InstallFailed
        | Reason::UpgradeFailed
        | Reason::TestFailed
        | Reason::RolledBack
        | Reason::Uninstalled
        | Reason::KeepsFailing
        | Reason::Removed
        | Reason::Locked
        | Reason::Superseded
        | Reason::Suspended
        | Reason::NotReady
        | Reason::DependencyNotReady
        | Reason::SourceNotReady
        | Reason::ArtifactFailed
        | Reason::ValuesError
        | Reason::DriftDetected
        | Reason::AccessDenied
        | Reason::InvalidSpec
        | Reason::HealthCheckCanceled
        // Words of a verdict that is no failure, or of waiting, which a timeout is told by.
        | Reason::Starting
        | Reason::WaitingForChange
        | Reason::NotFound
        | Reason::Progressing
        | Reason::OtherVersion
        | Reason::BeingRemoved
        | Reason::NotAwaited
        | Reason::InstallSucceeded
        | Reason::UpgradeSucceeded
        | Reason::TestSucceeded
        | Reason::Deployed
        | Reason::AllDeployed
        | Reason::Timeout => true,
        Reason::PayloadUnreadable
        | Reason::ClusterSlow
        | Reason::ClusterUnreachable
        | Reason::Throttled
        | Reason::ServerError
        | Reason::BadAnswer
        | Reason::CredentialsUnavailable
        | Reason::UseFlux
        | Reason::Unauthorized
        | Reason::Forbidden
        | Reason::FluxNotInstalled
        | Reason::TlsError
        | Reason::NotKubernetes
        | Reason::ClusterChanged
        | Reason::NamespaceNotAllowed
        | Reason::ClusterRemoved
        | Reason::MonitorError
        | Reason::InvalidRequest => false,
    }
}

/// What to do about a reason, in the words of who has a kubeconfig and no registration.
pub(crate) const fn hint(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::Unauthorized => Some(
            "log in to the cluster again, or write its entry in the kubeconfig anew; `kubectl auth whoami` asks the same",
        ),
        Reason::Forbidden => Some(
            "the account needs `get helmreleases.helm.toolkit.fluxcd.io` (flux) or `list secrets` (plain) in the namespace; `kubectl auth can-i` asks the same",
        ),
        Reason::TlsError => Some(
            "in a kubeconfig the CA is certificate-authority-data, and the certificate's name tls-server-name; beside --api-url it is --ca-file",
        ),
        Reason::FluxNotInstalled => {
            Some("look at --context; where Helm itself deploys, give --helm-type plain")
        }
        Reason::UseFlux => Some("leave --helm-type plain out"),
        Reason::NotKubernetes => Some("look at the server in the kubeconfig, or at --api-url"),
        Reason::ClusterUnreachable | Reason::ClusterSlow => {
            Some("is the VPN up, and is it the right --context? `kubectl version` asks the same server")
        }
        Reason::NotFound => Some(
            "look at -n and at the name: `kubectl get helmreleases -A` (flux) or `helm list -A` (plain) shows what there is",
        ),
        Reason::WaitingForChange => Some(
            "a push that was quicker than the first look is seen with --pushed-at, or where it is run by this program: `-- git push`; what is there is judged with --allow-unchanged",
        ),
        _ => None,
    }
}

/// The same where it is known when the push was: then nothing is to be said of that.
pub(crate) fn hint_of_known_push(reason: Reason) -> Option<&'static str> {
    hint(reason).filter(|_| reason != Reason::WaitingForChange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{driver::tests::answer, run::tests::target};

    fn outcome(status: Status, targets: &[(Status, Reason)], seen: bool) -> Outcome {
        let targets: Vec<_> = targets.iter().map(|it| target("demo", it.0, it.1, "")).collect();
        let seen = vec![seen; targets.len()];
        Outcome::of(&Answer { targets, ..answer(status, Reason::Progressing, "") }, &seen)
    }

    #[test]
    fn every_reason_of_a_failure_has_its_code() {
        use Reason::*;
        let failed = [
            InstallFailed,
            UpgradeFailed,
            TestFailed,
            RolledBack,
            Uninstalled,
            KeepsFailing,
            Removed,
            Locked,
            Superseded,
            Suspended,
            NotReady,
            DependencyNotReady,
            SourceNotReady,
            ArtifactFailed,
            ValuesError,
            DriftDetected,
            AccessDenied,
            InvalidSpec,
        ];
        let not_looked = [
            PayloadUnreadable,
            UseFlux,
            Unauthorized,
            Forbidden,
            FluxNotInstalled,
            TlsError,
            NotKubernetes,
            ClusterChanged,
            NamespaceNotAllowed,
            ClusterRemoved,
            MonitorError,
            InvalidRequest,
        ];
        for (reasons, code) in [(&failed[..], 1), (&not_looked[..], 3)] {
            for reason in reasons {
                let outcome = outcome(Status::Failed, &[(Status::Failed, *reason)], true);
                assert_eq!(outcome.code(), code, "{reason}");
            }
        }
    }

    #[test]
    fn a_timeout_is_one_only_where_the_cluster_ever_told_something() {
        let timeout = [(Status::Failed, Reason::Timeout)];
        assert_eq!(outcome(Status::Failed, &timeout, true).code(), 2);
        assert_eq!(outcome(Status::Failed, &timeout, false).code(), 3);
    }

    #[test]
    fn of_several_the_worst_counts() {
        let [succeeded, failed, timeout, forbidden, pending] = [
            (Status::Succeeded, Reason::Deployed),
            (Status::Failed, Reason::RolledBack),
            (Status::Failed, Reason::Timeout),
            (Status::Failed, Reason::Forbidden),
            (Status::Pending, Reason::NotAwaited),
        ];
        assert_eq!(outcome(Status::Succeeded, &[succeeded, succeeded], true).code(), 0);
        for (targets, code) in [
            (&[succeeded, failed][..], 1),
            (&[timeout, failed], 1),
            (&[forbidden, failed], 1),
            (&[pending, failed], 1),
            (&[timeout, forbidden], 3),
            (&[succeeded, timeout], 2),
            (&[pending, forbidden], 3),
        ] {
            assert_eq!(outcome(Status::Failed, targets, true).code(), code, "{targets:?}");
        }
    }

    #[test]
    fn the_codes_are_those_of_the_help() {
        for (help, outcome) in crate::cli::exit_codes().into_iter().flat_map(|help| {
            [
                Outcome::Succeeded,
                Outcome::Failed,
                Outcome::TimedOut,
                Outcome::NotLooked,
                Outcome::CommandFailed,
                Outcome::Interrupted,
            ]
            .map(|it| (help, it))
        }) {
            assert!(help.contains(&format!("\n  {:<3}  ", outcome.code())), "{outcome:?}: {help}");
        }
    }
}
