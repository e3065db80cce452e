//! What the environment says, read once.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

/// Where a pod finds its own account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// The kubeconfig's files, in order: `KUBECONFIG`, else the usual place.
    pub(crate) kubeconfigs: Vec<PathBuf>,
    /// Whether they were named, rather than the usual place.
    pub(crate) kubeconfigs_named: bool,
    /// The API server of the cluster that we run in.
    pub(crate) in_cluster: Option<InCluster>,
    /// Where GitHub Actions takes the job's summary from.
    pub(crate) step_summary: Option<PathBuf>,
    /// The key of a `dag-monitor serve` on this machine.
    pub(crate) key: Option<SecretString>,
}

/// The pod's own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InCluster {
    pub(crate) host: String,
    pub(crate) port: String,
    /// Holds `token`, `ca.crt` and `namespace`.
    pub(crate) account: PathBuf,
}

impl Environment {
    pub(crate) fn read() -> Self {
        // `var_os`: a path need not be Unicode.
        Self::from(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name| variable(name).and_then(|value| value.into_string().ok());
        let named: Vec<PathBuf> = variable("KUBECONFIG")
            .map(|paths| env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect())
            .unwrap_or_default();
        let usual = variable("HOME").map(|home| Path::new(&home).join(".kube/config"));
        let in_cluster = match (text("KUBERNETES_SERVICE_HOST"), text("KUBERNETES_SERVICE_PORT")) {
            (Some(host), Some(port)) => Some(InCluster { host, port, account: ACCOUNT.into() }),
            _ => None,
        };
        Self {
            kubeconfigs_named: !named.is_empty(),
            kubeconfigs: if named.is_empty() { usual.into_iter().collect() } else { named },
            in_cluster,
            step_summary: variable("GITHUB_STEP_SUMMARY").map(PathBuf::from),
            key: text("DAG_MONITOR_KEY").map(SecretString::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from(|name| variables.iter().find(|it| it.0 == name).map(|it| OsString::from(it.1)))
    }

    #[test]
    fn the_kubeconfig_is_several_files_or_the_usual_one() {
        let several = environment(&[("KUBECONFIG", "/a::/b"), ("HOME", "/home/me")]);
        assert_eq!(several.kubeconfigs, [Path::new("/a"), Path::new("/b")]);
        assert!(several.kubeconfigs_named);
        let usual = environment(&[("HOME", "/home/me")]);
        assert_eq!(usual.kubeconfigs, [Path::new("/home/me/.kube/config")]);
        assert!(!usual.kubeconfigs_named);
        assert!(environment(&[]).kubeconfigs.is_empty());
        let keyed = environment(&[("DAG_MONITOR_KEY", "k3y")]);
        assert!(keyed.key.is_some() && !format!("{keyed:?}").contains("k3y"));
    }

    #[test]
    fn a_pod_knows_its_api_server() {
        let pod = environment(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "443")]);
        assert_eq!(pod.in_cluster.map(|it| (it.host, it.port)), Some(("10.0.0.1".into(), "443".into())));
        assert_eq!(environment(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]).in_cluster, None);
        let summary = environment(&[("GITHUB_STEP_SUMMARY", "/tmp/s")]).step_summary;
        assert_eq!(summary.as_deref(), Some(Path::new("/tmp/s")));
    }
}
