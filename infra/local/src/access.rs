//! How one cluster is reached and entered, and the vault that hands it out.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use kubernetes::Rules;
use monitor::ports::{
    Auth, ClusterSecret, Credentials, Identity, Personal, RegistrationRules as _, StoreError, Vault,
};
use secrecy::SecretString;
use tokio::task::JoinHandle;

use crate::plugin::{Plugin, decoded};

/// A text of a kubeconfig: written there, or in a file that may change.
#[derive(Clone)]
pub(crate) enum Material<T> {
    Inline(T),
    File(PathBuf),
}

/// How an account shows who it is. What stands in files is read at each use.
#[derive(Clone, Default)]
pub(crate) struct User {
    pub(crate) token: Option<Material<SecretString>>,
    /// The certificate and its key.
    pub(crate) identity: Option<(Material<String>, Material<SecretString>)>,
    pub(crate) plugin: Option<Plugin>,
}

/// One cluster.
#[derive(Clone)]
pub(crate) struct Access {
    /// As the targets name it: the context's name, where it is one.
    pub(crate) name: String,
    /// Where a release without a namespace is looked for.
    pub(crate) namespace: Option<String>,
    pub(crate) api_url: String,
    pub(crate) ca: Option<Material<String>>,
    pub(crate) tls_server_name: Option<String>,
    pub(crate) proxy: Option<String>,
    pub(crate) user: User,
}

impl Access {
    /// What it takes to ask the cluster now. `may_ask` as in [`Plugin::run`].
    ///
    /// # Errors
    /// A sentence that says what to mend; no secret is in it.
    pub(crate) async fn credentials(&self, rules: &Rules, may_ask: bool) -> Result<Credentials, String> {
        let of = |why: String| format!("cluster {}: {why}", self.name);
        let api_url = rules.api_url(&self.api_url).map_err(|why| of(format!("its server: {why}")))?;
        if let Some(name) = &self.tls_server_name {
            rules.tls_server_name(name).map_err(|why| of(format!("its tls-server-name: {why}")))?;
        }
        let ca_cert = match &self.ca {
            None => None,
            Some(ca) => {
                let pem = match ca {
                    Material::Inline(pem) => pem.clone(),
                    Material::File(path) => read(path).map_err(of)?,
                };
                let checked = rules.ca_cert(&pem, Timestamp::now());
                Some(checked.map_err(|why| of(format!("its certificate authority: {why}")))?.pem)
            }
        };
        let (token, identity) = self.user.shown(may_ask).await.map_err(of)?;
        let personal = (identity.is_some() || self.proxy.is_some())
            .then(|| Arc::new(Personal { identity, proxy: self.proxy.clone() }));
        let tls_server_name = self.tls_server_name.clone();
        Ok(Credentials { api_url, token, ca_cert, tls_server_name, personal })
    }
}

impl User {
    async fn shown(&self, may_ask: bool) -> Result<(SecretString, Option<Identity>), String> {
        let mut token = match &self.token {
            None => None,
            Some(Material::Inline(token)) => Some(token.clone()),
            Some(Material::File(path)) => Some(SecretString::from(read(path)?.trim().to_owned())),
        };
        let mut identity = match &self.identity {
            None => None,
            Some((certificate, key)) => Some(Identity {
                certificate: match certificate {
                    Material::Inline(pem) => pem.clone(),
                    Material::File(path) => read(path)?,
                },
                key: match key {
                    Material::Inline(pem) => pem.clone(),
                    Material::File(path) => read(path)?.into(),
                },
            }),
        };
        // As client-go has it: a plugin is asked for what is not given otherwise.
        if let Some(plugin) = self.plugin.as_ref().filter(|_| token.is_none()) {
            let given = plugin.run(may_ask).await?;
            token = given.token;
            identity = given.identity.or(identity);
        }
        Ok((token.unwrap_or_else(|| SecretString::from("")), identity))
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{} can't be read: {error}", path.display()))
}

/// What a kubeconfig carries as base64.
///
/// # Errors
/// A sentence that names the field.
pub(crate) fn inline(field: &str, base64: &str) -> Result<String, String> {
    decoded(base64).ok_or_else(|| format!("its {field} is no base64 of a text"))
}

/// [`Vault`] of the clusters that are watched. Nothing is kept: what a token's file or
/// a plugin says is asked for again whenever it is needed.
pub(crate) struct Keyring {
    rules: Arc<Rules>,
    slots: HashMap<String, Slot>,
}

struct Slot {
    access: Arc<Access>,
    /// Made before the first look, while a plugin could still ask a person.
    ready: Mutex<Option<Credentials>>,
    /// A plugin may take longer than one check waits: then the next one takes what came.
    making: tokio::sync::Mutex<Option<JoinHandle<Result<Credentials, String>>>>,
}

impl Keyring {
    /// Of clusters by their ids, each with the credentials for the first look.
    pub(crate) fn new(rules: Rules, clusters: Vec<(String, Access, Credentials)>) -> Self {
        let slots = clusters.into_iter().map(|(id, access, ready)| {
            let ready = Mutex::new(Some(ready));
            (id, Slot { access: Arc::new(access), ready, making: tokio::sync::Mutex::default() })
        });
        Self { rules: Arc::new(rules), slots: slots.collect() }
    }
}

#[async_trait]
impl Vault for Keyring {
    async fn get(&self, cluster_id: &str) -> Result<Option<ClusterSecret>, StoreError> {
        let Some(slot) = self.slots.get(cluster_id) else {
            return Ok(None);
        };
        let ready = slot.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        let secret =
            |credentials| ClusterSecret { auth: Auth::Token(credentials), namespaces: Default::default() };
        if let Some(credentials) = ready {
            return Ok(Some(secret(credentials)));
        }
        let mut making = slot.making.lock().await;
        let handle = making.get_or_insert_with(|| {
            let (access, rules) = (Arc::clone(&slot.access), Arc::clone(&self.rules));
            tokio::spawn(async move { access.credentials(&rules, false).await })
        });
        let made = handle.await;
        *making = None;
        match made {
            Ok(Ok(credentials)) => Ok(Some(secret(credentials))),
            Ok(Err(why)) => Err(StoreError::Told(why)),
            Err(_) => Err(StoreError::Told("the credentials can't be made".to_owned())),
        }
    }

    async fn put(&self, _: &str, _: &ClusterSecret) -> Result<(), StoreError> {
        Err(StoreError::Told("a kubeconfig is only read".to_owned()))
    }

    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        Err(StoreError::Told("a kubeconfig is only read".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube_client::config::{Cluster, ExecConfig};
    use kubernetes::AddressPolicy;
    use secrecy::ExposeSecret as _;
    use tokio::time::timeout;

    use super::*;

    fn rules() -> Rules {
        Rules::new(AddressPolicy::parse("0.0.0.0/0").unwrap())
    }

    fn access(user: User) -> Access {
        Access {
            name: "prod".to_owned(),
            namespace: None,
            api_url: "https://127.0.0.1:6443".to_owned(),
            ca: None,
            tls_server_name: None,
            proxy: None,
            user,
        }
    }

    async fn keyring(access: &Access) -> Keyring {
        let first = access.credentials(&rules(), true).await.unwrap();
        Keyring::new(rules(), vec![("prod".to_owned(), access.clone(), first)])
    }

    async fn token(keyring: &Keyring) -> Result<String, String> {
        match keyring.get("prod").await {
            Ok(Some(ClusterSecret { auth: Auth::Token(credentials), .. })) => {
                Ok(credentials.token.expose_secret().to_owned())
            }
            Ok(_) => Ok(String::new()),
            Err(StoreError::Told(why)) => Err(why),
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn a_tokens_file_is_read_again_and_told_of_when_it_is_gone() {
        let path = std::env::temp_dir().join(format!("dag-monitor-token-{}", std::process::id()));
        fs::write(&path, "first\n").unwrap();
        let user = User { token: Some(Material::File(path.clone())), ..User::default() };
        let keyring = keyring(&access(user)).await;
        fs::write(&path, "second\n").unwrap();
        assert_eq!(token(&keyring).await.as_deref(), Ok("first"), "what the start has made is used first");
        assert_eq!(token(&keyring).await.as_deref(), Ok("second"));
        fs::remove_file(&path).unwrap();
        let told = token(&keyring).await.unwrap_err();
        assert!(told.contains("cluster prod") && told.contains(path.to_str().unwrap()), "{told}");
        assert!(keyring.get("other").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_plugin_that_takes_longer_than_a_check_is_not_begun_anew() {
        let runs = std::env::temp_dir().join(format!("dag-monitor-runs-{}", std::process::id()));
        let script = format!(
            "echo run >> {0}; test $(wc -l < {0}) -gt 1 && sleep 1; printf '{{\"apiVersion\":\
             \"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{{\"token\":\"%s\"}}}}' \
             $(wc -l < {0})",
            runs.display()
        );
        let config = ExecConfig {
            api_version: Some("client.authentication.k8s.io/v1".to_owned()),
            command: Some("sh".to_owned()),
            args: Some(vec!["-c".to_owned(), script]),
            ..ExecConfig::default()
        };
        let plugin = Some(Plugin::new(&config, &Cluster::default()).unwrap());
        let keyring = keyring(&access(User { plugin, ..User::default() })).await;
        assert_eq!(token(&keyring).await.as_deref(), Ok("1"));
        assert!(
            timeout(Duration::from_millis(10), token(&keyring)).await.is_err(),
            "the check has no more time"
        );
        assert_eq!(timeout(Duration::from_secs(60), token(&keyring)).await.unwrap().as_deref(), Ok("2"));
        assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 2);
        fs::remove_file(&runs).unwrap();
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_cluster_is_told_by_its_field() {
        let user = || User { token: Some(Material::Inline("t0k3n".into())), ..User::default() };
        type Change = fn(&mut Access);
        let changes: [(Change, &str); 3] = [
            (|it| it.api_url = "example.com".to_owned(), "its server"),
            (|it| it.tls_server_name = Some("10.0.0.1".to_owned()), "its tls-server-name"),
            (|it| it.ca = Some(Material::Inline("hello".to_owned())), "its certificate authority"),
        ];
        for (change, field) in changes {
            let mut access = access(user());
            change(&mut access);
            let told = access.credentials(&rules(), false).await.unwrap_err();
            assert!(
                told.starts_with(&format!("cluster prod: {field}: ")) && !told.contains("t0k3n"),
                "{told}"
            );
        }
    }
}
