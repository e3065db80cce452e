//! The closed vocabulary of an answer: status, reason, evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How Helm is driven in an app environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HelmType {
    /// Flux's helm-controller: the HelmRelease's conditions are read.
    Flux,
    /// Helm itself, from a pipeline or by hand: its release secrets are listed.
    Plain,
}

/// Where a target or a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No verdict yet.
    Pending,
    /// What was pushed runs.
    Succeeded,
    /// What was pushed does not run, or the deadline has passed.
    Failed,
}

impl Status {
    /// Whether nothing will change it any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending)
    }

    /// The word used in answers and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// On what a verdict rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// What `expect` asked for runs.
    Expected,
    /// Something happened after the push.
    Changed,
    /// It was there before the push, and `allowUnchanged` accepted that.
    Unchanged,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why the status is what it is. A closed list: words of Flux and Helm
        /// are mapped to it, and the original stays in `observed.condition`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason there is, in the order of this documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word used in answers and in the store.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// The execution exists, its first check has not run yet.
    Starting,
    /// The cluster still shows what was there before the push.
    WaitingForChange,
    /// There is no such HelmRelease or Helm release (yet).
    NotFound,
    /// The controller or Helm is at work.
    Progressing,
    /// Something else runs, or failed, than what `expect` asks for.
    OtherVersion,
    /// The HelmRelease is suspended: Flux does nothing with it.
    Suspended,
    /// The HelmRelease was being deleted before the push already.
    BeingRemoved,
    /// Not Ready, for a reason that this list has no word for.
    NotReady,
    /// Flux waits for a HelmRelease named in `spec.dependsOn`.
    DependencyNotReady,
    /// The chart's source (HelmRepository, GitRepository, …) is not ready.
    SourceNotReady,
    /// The chart could not be fetched or loaded.
    ArtifactFailed,
    /// The values could not be composed (`spec.valuesFrom`).
    ValuesError,
    /// The cluster was changed beside Helm, and Flux could not mend it.
    DriftDetected,
    /// The controller was not allowed to do it.
    AccessDenied,
    /// The HelmRelease itself is not valid.
    InvalidSpec,
    /// A health check was cancelled because something newer came.
    HealthCheckCanceled,
    /// The release's payload could not be read, so its chart is not known.
    PayloadUnreadable,
    /// The cluster did not answer within the time of one check.
    ClusterSlow,
    /// No connection to the cluster.
    ClusterUnreachable,
    /// The cluster asked us to slow down (429).
    Throttled,
    /// The cluster answered with a server error (5xx).
    ServerError,
    /// What came is not what was asked for.
    BadAnswer,
    /// The cluster's credentials could not be read (yet).
    CredentialsUnavailable,
    /// With `failFast`: another target had failed before this one was judged.
    NotAwaited,

    /// Helm installed the release.
    InstallSucceeded,
    /// Helm upgraded the release.
    UpgradeSucceeded,
    /// The release is installed and its tests passed.
    TestSucceeded,
    /// The release is deployed and ready.
    Deployed,
    /// Succeeded: it ran, and something newer runs since. Failed: something newer came before it ran.
    Superseded,
    /// Every target is deployed.
    AllDeployed,

    /// Helm could not install the release.
    InstallFailed,
    /// Helm could not upgrade the release.
    UpgradeFailed,
    /// The release's tests failed.
    TestFailed,
    /// The upgrade failed or was undone: an older revision runs again.
    RolledBack,
    /// The release was uninstalled, by a remediation or by hand.
    Uninstalled,
    /// It fails again and again, and the controller will never give up.
    KeepsFailing,
    /// What was there is gone.
    Removed,
    /// An interrupted Helm left the release locked; Helm refuses to upgrade over it.
    Locked,
    /// `helmType` is `plain`, but the release belongs to Flux.
    UseFlux,
    /// The cluster did not accept the token (401).
    Unauthorized,
    /// The token may not read this (403).
    Forbidden,
    /// The cluster has no `helm.toolkit.fluxcd.io/v2` API.
    FluxNotInstalled,
    /// The cluster's certificate was not accepted.
    TlsError,
    /// What answers there is not a Kubernetes API.
    NotKubernetes,
    /// The cluster's registration points elsewhere than when the deployment began.
    ClusterChanged,
    /// The cluster's registration does not let deployments watch this namespace (any more).
    NamespaceNotAllowed,
    /// The cluster's registration was removed while the deployment ran.
    ClusterRemoved,
    /// The deadline passed without a verdict.
    Timeout,
    /// dag-monitor itself could not go on; nothing is known of the release.
    MonitorError,
    /// The request was refused.
    InvalidRequest,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
