//! What the environment says, read once.

use std::{env, ffi::OsString, path::PathBuf};

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
    /// Where programs keep a person's data: `XDG_DATA_HOME`, else the usual place.
    pub(crate) data_home: Option<PathBuf>,
    /// Where GitHub Actions takes the job's summary from.
    pub(crate) step_summary: Option<PathBuf>,
    /// The stack's name.
    pub(crate) stack: Option<String>,
    /// The API's address.
    pub(crate) endpoint: Option<String>,
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
        let home = variable("HOME").map(PathBuf::from);
        let usual = home.as_ref().map(|home| home.join(".kube/config"));
        // A relative one is to be ignored (XDG Base Directory Specification).
        let named_home = variable("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let data_home = named_home.or_else(|| home.map(|home| home.join(".local/share")));
        let in_cluster = match (text("KUBERNETES_SERVICE_HOST"), text("KUBERNETES_SERVICE_PORT")) {
            (Some(host), Some(port)) => Some(InCluster { host, port, account: ACCOUNT.into() }),
            _ => None,
        };
        Self {
            kubeconfigs_named: !named.is_empty(),
            kubeconfigs: if named.is_empty() { usual.into_iter().collect() } else { named },
            in_cluster,
            data_home,
            step_summary: variable("GITHUB_STEP_SUMMARY").map(PathBuf::from),
            stack: text("DAG_MONITOR_STACK"),
            endpoint: text("DAG_MONITOR_ENDPOINT"),
            key: text("DAG_MONITOR_KEY").map(SecretString::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
    }

    #[test]
    fn the_api_is_named_and_its_key_is_in_no_debug_text() {
        let named = environment(&[("DAG_MONITOR_STACK", "other"), ("DAG_MONITOR_ENDPOINT", "https://a")]);
        assert_eq!((named.stack.as_deref(), named.endpoint.as_deref()), (Some("other"), Some("https://a")));
        let keyed = environment(&[("DAG_MONITOR_KEY", "k3y")]);
        assert!(keyed.key.is_some() && !format!("{keyed:?}").contains("k3y"));
    }

    #[test]
    fn data_is_kept_where_other_programs_keep_it() {
        let home = ("HOME", "/home/me");
        for (variables, kept) in [
            (&[home][..], Some("/home/me/.local/share")),
            (&[home, ("XDG_DATA_HOME", "/data")], Some("/data")),
            (&[home, ("XDG_DATA_HOME", "data")], Some("/home/me/.local/share")),
            (&[], None),
        ] {
            assert_eq!(environment(variables).data_home.as_deref(), kept.map(Path::new), "{variables:?}");
        }
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
