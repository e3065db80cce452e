//! Which clusters are meant: contexts of a kubeconfig, the pod's own account, or an address.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use console::strip_ansi_codes;
use kube_client::config::{AuthInfo, Cluster, Kubeconfig, KubeconfigError};

use crate::{
    access::{Access, Material, User, inline},
    cli::ClusterArguments,
    environment::{Environment, InCluster},
    plugin::Plugin,
};

/// How many contexts an error lists.
const LISTED: usize = 20;
/// How alike two names are where one is taken for a slip of the other.
const ALIKE: f64 = 0.7;

/// Why there is no cluster to ask. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("the kubeconfig {0} can't be read")]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{0} is no kubeconfig: {1}")]
    NoKubeconfig(PathBuf, String),
    #[error(
        "there is no kubeconfig: {0}. Name one by --kubeconfig or KUBECONFIG, or give --api-url, --token-file and \
         --ca-file"
    )]
    Nowhere(String),
    #[error("no context is current in {from}; choose one by --context: {}", listed(.contexts))]
    NoContext { from: String, contexts: Vec<String> },
    #[error("there is no context {name:?} in {from}.{} There are: {}", .nearest.as_ref().map(|it| format!(" Did you mean {it:?}?")).unwrap_or_default(), listed(.contexts))]
    UnknownContext { name: String, from: String, nearest: Option<String>, contexts: Vec<String> },
    #[error("there is no kubeconfig with contexts here, so no cluster can be named ({0:?})")]
    NoContexts(String),
    #[error(
        "context {context:?} names the {kind} {name:?}, which {from} does not have; mend it by `kubectl config`"
    )]
    Dangling { context: String, kind: &'static str, name: String, from: String },
    #[error("context {context:?}: {why}")]
    Context { context: String, why: String },
}

fn listed(contexts: &[String]) -> String {
    let shown = contexts.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match contexts.len() {
        0 => "none".to_owned(),
        n if n > LISTED => format!("{shown} and {} more", n - LISTED),
        _ => shown,
    }
}

/// Where clusters are found.
pub(crate) enum Clusters {
    Contexts {
        config: Box<Kubeconfig>,
        from: String,
        chosen: Option<String>,
    },
    /// The only one that there is.
    One(Box<Access>),
}

impl Clusters {
    /// What the arguments and the environment name.
    ///
    /// # Errors
    /// [`Unusable`]. No text of a kubeconfig is quoted, as it may be a secret.
    pub(crate) fn find(arguments: &ClusterArguments, environment: &Environment) -> Result<Self, Unusable> {
        if let (Some(api_url), Some(token)) = (&arguments.api_url, &arguments.token_file) {
            return Ok(Self::One(Box::new(by_address(api_url, token, arguments.ca_file.as_deref()))));
        }
        let (paths, named) = match &arguments.kubeconfig {
            Some(path) => (std::slice::from_ref(path), true),
            None => (environment.kubeconfigs.as_slice(), environment.kubeconfigs_named),
        };
        let mut config = Kubeconfig::default();
        let mut read = Vec::new();
        for path in paths {
            match one_file(path)? {
                Some(next) => {
                    config = config.merge(next).map_err(|error| {
                        // Of another kind or version: nothing of the file is in these words.
                        Unusable::NoKubeconfig(path.clone(), error.to_string())
                    })?;
                    read.push(path.display().to_string());
                }
                // As kubectl does; but one that was asked for must be there.
                None if arguments.kubeconfig.is_some() => {
                    return Err(Unusable::Unreadable(path.clone(), io::ErrorKind::NotFound.into()));
                }
                None => {}
            }
        }
        if read.is_empty() {
            return match &environment.in_cluster {
                Some(pod) if !named => Ok(Self::One(Box::new(by_account(pod)))),
                _ => {
                    let looked: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                    let looked =
                        if looked.is_empty() { "HOME is not set".to_owned() } else { looked.join(", ") };
                    let missing = if paths.is_empty() { looked } else { format!("{looked} is not there") };
                    Err(Unusable::Nowhere(missing))
                }
            };
        }
        let from = read.join(", ");
        Ok(Self::Contexts { config: Box::new(config), from, chosen: arguments.context.clone() })
    }

    /// The cluster of a context; without a name the one of `--context`, else the current one.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(crate) fn cluster(&self, name: Option<&str>) -> Result<Access, Unusable> {
        let (config, from, chosen) = match self {
            Self::One(only) => {
                return match name.filter(|name| *name != only.name) {
                    None => Ok((**only).clone()),
                    Some(other) => Err(Unusable::NoContexts(other.to_owned())),
                };
            }
            Self::Contexts { config, from, chosen } => (config, from, chosen),
        };
        let contexts = || config.contexts.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        let current = config.current_context.as_deref().filter(|it| !it.is_empty());
        let Some(name) = name.or(chosen.as_deref()).or(current) else {
            return Err(Unusable::NoContext { from: from.clone(), contexts: contexts() });
        };
        let context = config.contexts.iter().find(|it| it.name == name);
        let Some(context) = context.and_then(|it| it.context.as_ref()) else {
            let contexts = contexts();
            let nearest = nearest(name, &contexts);
            return Err(Unusable::UnknownContext {
                name: name.to_owned(),
                from: from.clone(),
                nearest,
                contexts,
            });
        };
        let dangling = |kind, missing: &str| Unusable::Dangling {
            context: name.to_owned(),
            kind,
            name: missing.to_owned(),
            from: from.clone(),
        };
        let cluster = config.clusters.iter().find(|it| it.name == context.cluster);
        let cluster = cluster
            .and_then(|it| it.cluster.as_ref())
            .ok_or_else(|| dangling("cluster", &context.cluster))?;
        let user = context.user.as_deref().unwrap_or_default();
        let user = match config.auth_infos.iter().find(|it| it.name == user) {
            Some(found) => found.auth_info.clone().unwrap_or_default(),
            None => return Err(dangling("user", user)),
        };
        let access = of_context(name, context.namespace.as_deref(), cluster, &user);
        access.map_err(|why| Unusable::Context { context: name.to_owned(), why })
    }
}

/// `None` where there is no such file.
fn one_file(path: &Path) -> Result<Option<Kubeconfig>, Unusable> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unusable::Unreadable(path.to_owned(), error)),
        Ok(_) => {}
    }
    Kubeconfig::read_from(path).map(Some).map_err(|error| match error {
        KubeconfigError::ReadConfig(error, _) => Unusable::Unreadable(path.to_owned(), error),
        // It would show the lines around the fault, and a token may stand there.
        KubeconfigError::Parse(error) => {
            let at = error.location().map(|it| format!(" in line {}", it.line()));
            Unusable::NoKubeconfig(
                path.to_owned(),
                format!("its YAML can't be read{}", at.unwrap_or_default()),
            )
        }
        other => Unusable::NoKubeconfig(path.to_owned(), other.to_string()),
    })
}

fn nearest(name: &str, contexts: &[String]) -> Option<String> {
    let alike = |it: &&String| strsim::jaro_winkler(name, it);
    // A part of a long name is often all that is remembered of it.
    let part = contexts.iter().filter(|it| it.contains(name)).min_by_key(|it| it.len());
    let best = contexts.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    part.or(best.filter(|it| alike(it) > ALIKE)).cloned()
}

fn by_address(api_url: &str, token: &Path, ca: Option<&Path>) -> Access {
    let host = api_url.split("://").last().unwrap_or(api_url).split('/').next().unwrap_or(api_url);
    Access {
        // No more than the host: what stands before it would be a password.
        name: host.rsplit('@').next().unwrap_or(host).to_owned(),
        namespace: None,
        api_url: api_url.to_owned(),
        ca: ca.map(|path| Material::File(path.to_owned())),
        tls_server_name: None,
        proxy: None,
        user: User { token: Some(Material::File(token.to_owned())), ..User::default() },
    }
}

fn by_account(pod: &InCluster) -> Access {
    let host = if pod.host.contains(':') { format!("[{}]", pod.host) } else { pod.host.clone() };
    let namespace = fs::read_to_string(pod.account.join("namespace")).ok();
    Access {
        name: "in-cluster".to_owned(),
        namespace: namespace.map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()),
        api_url: format!("https://{host}:{}", pod.port),
        ca: Some(Material::File(pod.account.join("ca.crt"))),
        tls_server_name: None,
        proxy: None,
        // Read at each use: the kubelet replaces it before it ends.
        user: User { token: Some(Material::File(pod.account.join("token"))), ..User::default() },
    }
}

fn of_context(
    name: &str,
    namespace: Option<&str>,
    cluster: &Cluster,
    user: &AuthInfo,
) -> Result<Access, String> {
    let given = |text: &Option<String>| text.clone().filter(|it| !it.is_empty());
    let api_url = given(&cluster.server).ok_or("its cluster has no server")?;
    if api_url.starts_with("http://") {
        return Err(
            "its server is http://, so its token could be read on the way; https:// is awaited".to_owned()
        );
    }
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Err(
            "it says insecure-skip-tls-verify: whoever stands in between could read the token and make up \
                    the verdict. Give its CA (certificate-authority-data), and tls-server-name where the \
                    certificate is for another name"
                .to_owned(),
        );
    }
    let ca = match (&cluster.certificate_authority_data, given(&cluster.certificate_authority)) {
        (Some(data), _) if !data.is_empty() => {
            Some(Material::Inline(inline("certificate-authority-data", data)?))
        }
        (_, Some(path)) => Some(Material::File(path.into())),
        _ => None,
    };
    let proxy = given(&cluster.proxy_url);
    if let Some(proxy) = &proxy
        && !(proxy.starts_with("http://") || proxy.starts_with("https://"))
    {
        return Err(
            "its proxy-url is neither http:// nor https://; other proxies are not spoken to".to_owned()
        );
    }
    let tls_server_name = given(&cluster.tls_server_name);
    if proxy.is_some() && tls_server_name.is_some() {
        return Err("it has both proxy-url and tls-server-name, which can't go together here".to_owned());
    }
    Ok(Access {
        name: name.to_owned(),
        namespace: namespace.map(str::to_owned).filter(|it| !it.is_empty()),
        api_url,
        ca,
        tls_server_name,
        proxy,
        user: of_user(user, cluster)?,
    })
}

fn of_user(user: &AuthInfo, cluster: &Cluster) -> Result<User, String> {
    use secrecy::{ExposeSecret as _, SecretString};

    let given = |text: &Option<String>| text.clone().filter(|it| !it.is_empty());
    let secret = |text: &Option<SecretString>| text.clone().filter(|it| !it.expose_secret().is_empty());
    if user.impersonate.is_some() {
        return Err("its user acts as another one (as), which is not done here; take a context of that one"
            .to_owned());
    }
    let token = match (given(&user.token_file), secret(&user.token)) {
        (Some(path), _) => Some(Material::File(path.into())),
        (None, Some(token)) => Some(Material::Inline(token)),
        (None, None) => None,
    };
    let certificate = match (given(&user.client_certificate_data), given(&user.client_certificate)) {
        (Some(data), _) => Some(Material::Inline(inline("client-certificate-data", &data)?)),
        (None, Some(path)) => Some(Material::File(path.into())),
        (None, None) => None,
    };
    let key = match (secret(&user.client_key_data), given(&user.client_key)) {
        (Some(data), _) => {
            Some(Material::Inline(SecretString::from(inline("client-key-data", data.expose_secret())?)))
        }
        (None, Some(path)) => Some(Material::File(path.into())),
        (None, None) => None,
    };
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err("its user has a client certificate without its key".to_owned()),
        (None, Some(_)) => return Err("its user has a client key without its certificate".to_owned()),
    };
    let plugin = user.exec.as_ref().map(|exec| Plugin::new(exec, cluster)).transpose()?;
    if token.is_none() && identity.is_none() && plugin.is_none() {
        return Err(match (&user.auth_provider, &user.username) {
            (Some(provider), _) => {
                // A name is all that is shown of it.
                let name = strip_ansi_codes(&provider.name);
                format!(
                    "its user has the auth-provider {name}, which kubectl has dropped, too: take the cloud's exec \
                     plugin, as gke-gcloud-auth-plugin or kubelogin"
                )
            }
            (None, Some(_)) => {
                "its user has a password, which Kubernetes does not take any more (since 1.19)".to_owned()
            }
            (None, None) => {
                "its user has neither a token nor a client certificate nor an exec plugin".to_owned()
            }
        });
    }
    Ok(User { token, identity, plugin })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
apiVersion: v1
kind: Config
current-context: arn:aws:eks:eu-central-1:123456789012:cluster/prod
clusters:
- {name: a, cluster: {server: 'https://a.example.com', certificate-authority-data: 'Q0E='}}
- {name: insecure, cluster: {server: 'https://a.example.com', insecure-skip-tls-verify: true}}
- {name: plain, cluster: {server: 'http://a.example.com'}}
- {name: socks, cluster: {server: 'https://a.example.com', proxy-url: 'socks5://proxy'}}
- {name: both, cluster: {server: 'https://a.example.com', proxy-url: 'http://proxy', tls-server-name: x}}
users:
- {name: token, user: {token: S3CR3T-token}}
- {name: half, user: {client-certificate-data: 'Q0E='}}
- {name: basic, user: {username: me, password: S3CR3T}}
- {name: provider, user: {auth-provider: {name: gcp, config: {access-token: S3CR3T}}}}
- {name: other, user: {token: S3CR3T-token, as: admin}}
- {name: nothing, user: {}}
- {name: badly, user: {client-certificate-data: 'Q0E=', client-key-data: '~S3CR3T'}}
contexts:
- {name: 'arn:aws:eks:eu-central-1:123456789012:cluster/prod', context: {cluster: a, user: token, namespace: shop}}
- {name: staging, context: {cluster: a, user: token}}
- {name: insecure, context: {cluster: insecure, user: token}}
- {name: plain, context: {cluster: plain, user: token}}
- {name: socks, context: {cluster: socks, user: token}}
- {name: both, context: {cluster: both, user: token}}
- {name: half, context: {cluster: a, user: half}}
- {name: basic, context: {cluster: a, user: basic}}
- {name: provider, context: {cluster: a, user: provider}}
- {name: other, context: {cluster: a, user: other}}
- {name: nothing, context: {cluster: a, user: nothing}}
- {name: badly, context: {cluster: a, user: badly}}
- {name: lost, context: {cluster: gone, user: token}}
- {name: nobody, context: {cluster: a, user: gone}}
";

    fn clusters(chosen: Option<&str>) -> Clusters {
        let config = Box::new(Kubeconfig::from_yaml(CONFIG).unwrap());
        Clusters::Contexts { config, from: "config".to_owned(), chosen: chosen.map(str::to_owned) }
    }

    #[test]
    fn a_context_is_named_chosen_or_current() {
        let name = |chosen, named| clusters(chosen).cluster(named).map_err(|e| e.to_string()).unwrap().name;
        assert!(name(None, None).ends_with("cluster/prod"));
        assert_eq!(name(Some("staging"), None), "staging");
        assert!(
            name(Some("staging"), Some("arn:aws:eks:eu-central-1:123456789012:cluster/prod"))
                .ends_with("prod")
        );
        assert_eq!(
            clusters(None).cluster(None).map_err(|e| e.to_string()).unwrap().namespace.as_deref(),
            Some("shop")
        );
    }

    #[test]
    fn what_can_not_be_used_says_what_to_do_and_no_secret() {
        for (context, words) in [
            ("stagin", &["Did you mean \"staging\"?", "There are: arn:"][..]),
            ("prod", &["Did you mean \"arn:aws:eks:eu-central-1:123456789012:cluster/prod\"?"]),
            ("zzz", &["no context \"zzz\" in config. There are"]),
            ("insecure", &["insecure-skip-tls-verify", "certificate-authority-data", "tls-server-name"]),
            ("plain", &["http://", "https://"]),
            ("socks", &["proxy-url"]),
            ("both", &["proxy-url and tls-server-name"]),
            ("half", &["without its key"]),
            ("basic", &["password", "1.19"]),
            ("provider", &["auth-provider gcp", "exec plugin"]),
            ("other", &["acts as another one"]),
            ("nothing", &["neither a token nor a client certificate"]),
            ("badly", &["client-key-data is no base64"]),
            ("lost", &["names the cluster \"gone\"", "kubectl config"]),
            ("nobody", &["names the user \"gone\"", "kubectl config"]),
        ] {
            let told = clusters(Some(context)).cluster(None).err().unwrap().to_string();
            for word in words {
                assert!(told.contains(word), "{context}: {told}");
            }
            assert!(!told.contains("S3CR3T"), "{told}");
        }
    }

    #[test]
    fn a_pod_is_its_own_cluster_where_there_is_no_kubeconfig() {
        let folder = std::env::temp_dir().join(format!("dag-monitor-account-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("namespace"), "shop\n").unwrap();
        let pod = InCluster { host: "fd00::1".to_owned(), port: "443".to_owned(), account: folder.clone() };
        let nowhere = folder.join("config");
        let environment = Environment {
            kubeconfigs: vec![nowhere.clone()],
            in_cluster: Some(pod.clone()),
            ..Environment::default()
        };
        let found =
            Clusters::find(&ClusterArguments::default(), &environment).map_err(|e| e.to_string()).unwrap();
        let access = found.cluster(None).map_err(|e| e.to_string()).unwrap();
        assert_eq!((access.name.as_str(), access.api_url.as_str()), ("in-cluster", "https://[fd00::1]:443"));
        assert_eq!(access.namespace.as_deref(), Some("shop"));
        assert!(matches!(access.user.token, Some(Material::File(path)) if path == folder.join("token")));
        let told = found.cluster(Some("prod")).err().unwrap().to_string();
        assert!(told.contains("\"prod\""), "{told}");

        // One that was named must be there.
        let named = Environment { kubeconfigs_named: true, ..environment.clone() };
        let asked = ClusterArguments { kubeconfig: Some(nowhere), ..ClusterArguments::default() };
        for told in [
            Clusters::find(&ClusterArguments::default(), &named),
            Clusters::find(&asked, &environment),
            Clusters::find(&ClusterArguments::default(), &Environment::default()),
        ] {
            let told = told.err().unwrap().to_string();
            assert!(told.contains("kubeconfig"), "{told}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn several_files_are_merged_and_none_is_quoted() {
        let folder = std::env::temp_dir().join(format!("dag-monitor-kubeconfigs-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let [first, second, broken] = ["first", "second", "broken"].map(|it| folder.join(it));
        fs::write(&first, CONFIG.split("contexts:").next().unwrap().replace("S3CR3T", "first")).unwrap();
        fs::write(&second, CONFIG.replace("server: 'https://a", "server: 'https://b")).unwrap();
        fs::write(&broken, "users:\n- name: x\n  user: {token: S3CR3T\n").unwrap();
        let environment = |files: &[&PathBuf]| Environment {
            kubeconfigs: files.iter().map(|it| (*it).clone()).collect(),
            kubeconfigs_named: true,
            ..Environment::default()
        };
        let find = |files: &[&PathBuf]| Clusters::find(&ClusterArguments::default(), &environment(files));
        let merged = find(&[&folder.join("missing"), &first, &second]).map_err(|e| e.to_string()).unwrap();
        let access = merged.cluster(Some("staging")).map_err(|e| e.to_string()).unwrap();
        assert_eq!(access.api_url, "https://a.example.com", "the first file wins");
        let told = find(&[&broken]).err().unwrap();
        let told = monitor::check::chain(&told);
        assert!(told.contains("broken is no kubeconfig") && told.contains("line"), "{told}");
        assert!(!told.contains("S3CR3T"), "{told}");
        fs::remove_dir_all(folder).unwrap();
    }
}
