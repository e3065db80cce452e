//! Credential plugins of a kubeconfig: a command that prints an `ExecCredential`
//! (client.authentication.k8s.io, v1 and v1beta1), as those of EKS, GKE and AKS.

use std::{
    collections::HashMap,
    fmt,
    io::{self, IsTerminal as _},
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kube_client::config::{Cluster, ExecConfig, ExecInteractiveMode};
use monitor::ports::Identity;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

const GROUP: &str = "client.authentication.k8s.io";
/// A plugin that asks its cloud takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);
/// One that may ask a person waits for a browser, perhaps.
const PERSONS_PATIENCE: Duration = Duration::from_secs(300);
/// A token with a chain of certificates is some KiB.
const OUTPUT_BYTES: u64 = 1024 * 1024;

/// A plugin, ready to be run.
#[derive(Clone)]
pub(crate) struct Plugin {
    command: String,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    api_version: String,
    install_hint: Option<String>,
    mode: ExecInteractiveMode,
    /// What it is told of the cluster, where the kubeconfig wants that.
    cluster: Option<Value>,
}

/// What a plugin gave.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) token: Option<SecretString>,
    pub(crate) identity: Option<Identity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credential {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    status: Option<CredentialStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl fmt::Debug for Plugin {
    /// Its variables may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Plugin {
    /// The plugin that a kubeconfig names.
    ///
    /// # Errors
    /// A sentence on what is wrong with its entry.
    pub(crate) fn new(config: &ExecConfig, cluster: &Cluster) -> Result<Self, String> {
        let command = config.command.clone().filter(|it| !it.is_empty());
        let command = command.ok_or("its exec plugin has no command")?;
        let api_version = config.api_version.clone().unwrap_or_default();
        if api_version != format!("{GROUP}/v1") && api_version != format!("{GROUP}/v1beta1") {
            return Err(format!(
                "its exec plugin {command} has apiVersion {api_version:?}; {GROUP}/v1 and {GROUP}/v1beta1 are known \
                 (kubectl has dropped v1alpha1, too: write the kubeconfig anew, as by `aws eks update-kubeconfig`)"
            ));
        }
        let variable = |entry: &HashMap<String, String>| {
            Some((entry.get("name")?.clone(), entry.get("value").cloned().unwrap_or_default()))
        };
        let told = config.provide_cluster_info.then(|| {
            let config = cluster.extensions.iter().flatten();
            let config =
                config.filter(|it| it.name == format!("{GROUP}/exec")).map(|it| it.extension.clone());
            let mut told = json!({
                "server": cluster.server,
                "tls-server-name": cluster.tls_server_name,
                "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
                "certificate-authority-data": cluster.certificate_authority_data,
                "proxy-url": cluster.proxy_url,
                "config": config.into_iter().next(),
            });
            if let Some(told) = told.as_object_mut() {
                told.retain(|_, value| !value.is_null());
            }
            told
        });
        Ok(Self {
            command,
            arguments: config.args.clone().unwrap_or_default(),
            variables: config.env.iter().flatten().filter_map(variable).collect(),
            api_version,
            install_hint: config.install_hint.clone(),
            mode: config.interactive_mode.clone().unwrap_or(ExecInteractiveMode::IfAvailable),
            cluster: told,
        })
    }

    /// Runs it. At the start it may ask the person at the terminal (`may_ask`); later,
    /// while a live view is drawn, it may not.
    ///
    /// # Errors
    /// A sentence. What the plugin printed on its standard output is no part of it.
    pub(crate) async fn run(&self, may_ask: bool) -> Result<Given, String> {
        let terminal = may_ask && io::stdin().is_terminal();
        let interactive = match self.mode {
            ExecInteractiveMode::Never => false,
            ExecInteractiveMode::IfAvailable => terminal,
            ExecInteractiveMode::Always if terminal => true,
            ExecInteractiveMode::Always => {
                return Err(format!(
                    "the exec plugin {} wants to ask at a terminal, and there is none now: log in before, or \
                     take a context with a token",
                    self.command
                ));
            }
        };
        let mut spec = json!({"interactive": interactive});
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        let info = json!({"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec});
        let mut child = Command::new(&self.command)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(if interactive { Stdio::inherit() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(if may_ask { Stdio::inherit() } else { Stdio::null() })
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.not_started(&error))?;
        let mut output = Vec::new();
        let stdout = child.stdout.take();
        let running = async {
            if let Some(stdout) = stdout {
                stdout.take(OUTPUT_BYTES).read_to_end(&mut output).await?;
            }
            child.wait().await
        };
        let patience = if interactive { PERSONS_PATIENCE } else { PATIENCE };
        let status = match timeout(patience, running).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(format!("the exec plugin {} broke off: {error}", self.command)),
            Err(_) => {
                return Err(format!(
                    "the exec plugin {} took more than {} s",
                    self.command,
                    patience.as_secs()
                ));
            }
        };
        if !status.success() {
            let above = if may_ask { "; what it said stands above" } else { "" };
            return Err(format!(
                "the exec plugin {} failed ({status}){above}. Run it by hand: {}",
                self.command,
                self.by_hand()
            ));
        }
        self.read(&output)
    }

    fn read(&self, output: &[u8]) -> Result<Given, String> {
        let wrong = |what: &str| format!("the exec plugin {} gave {what}", self.command);
        // The error would quote what it could not read.
        let credential: Credential =
            serde_json::from_slice(output).map_err(|_| wrong("no ExecCredential on its standard output"))?;
        if credential.kind != "ExecCredential" {
            return Err(wrong("no ExecCredential on its standard output"));
        }
        if credential.api_version != self.api_version {
            return Err(wrong("another apiVersion than the kubeconfig names: write its entry anew"));
        }
        let status = credential.status.ok_or_else(|| wrong("an ExecCredential without a status"))?;
        let identity = match (status.client_certificate_data, status.client_key_data) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key: key.into() }),
            (None, None) => None,
            _ => return Err(wrong("a client certificate without its key, or a key without its certificate")),
        };
        let token = status.token.map(SecretString::from);
        if token.is_none() && identity.is_none() {
            return Err(wrong("neither a token nor a client certificate"));
        }
        Ok(Given { token, identity })
    }

    fn not_started(&self, error: &io::Error) -> String {
        let hint = match &self.install_hint {
            Some(hint) => format!("\n{}", hint.trim()),
            None if error.kind() == io::ErrorKind::NotFound => {
                " Install it, or see that it is in your PATH.".to_owned()
            }
            None => String::new(),
        };
        format!("the exec plugin {} can't be started: {error}.{hint}", self.command)
    }

    fn by_hand(&self) -> String {
        [&self.command].into_iter().chain(&self.arguments).map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

/// The inside of base64, as kubeconfigs carry certificates.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let packed: String = text.split_whitespace().collect();
    String::from_utf8(BASE64_STANDARD.decode(packed).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn plugin(script: &str, change: impl FnOnce(&mut ExecConfig)) -> Result<Plugin, String> {
        let mut config = ExecConfig {
            api_version: Some(format!("{GROUP}/v1")),
            command: Some("sh".to_owned()),
            args: Some(vec!["-c".to_owned(), script.to_owned()]),
            ..ExecConfig::default()
        };
        change(&mut config);
        let cluster = Cluster { server: Some("https://example.com".to_owned()), ..Cluster::default() };
        Plugin::new(&config, &cluster)
    }

    async fn given(script: &str) -> Result<Given, String> {
        plugin(script, |_| ()).unwrap().run(false).await
    }

    const FRAME: &str = r#"printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}' "$TOKEN$(printf %s "$KUBERNETES_EXEC_INFO" | tr -d '"')""#;

    #[tokio::test]
    async fn it_is_told_of_the_cluster_where_the_kubeconfig_wants_that() {
        for provide_cluster_info in [false, true] {
            let plugin = plugin(FRAME, |config| {
                let entry = [("name", "TOKEN"), ("value", "t0k3n")];
                config.env = Some(vec![entry.map(|(a, b)| (a.to_owned(), b.to_owned())).into()]);
                config.provide_cluster_info = provide_cluster_info;
            });
            let token = plugin.unwrap().run(false).await.unwrap().token.unwrap();
            let token = token.expose_secret();
            assert!(token.starts_with("t0k3n{") && token.contains("interactive:false"), "{token}");
            assert_eq!(token.contains("server:https://example.com"), provide_cluster_info, "{token}");
        }
    }

    #[tokio::test]
    async fn what_it_prints_is_never_quoted() {
        for (script, why) in [
            ("echo S3CR3T", "no ExecCredential"),
            (r#"echo '{"kind": "Pod", "token": "S3CR3T"}'"#, "no ExecCredential"),
            (
                r#"echo '{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{"token":"S3CR3T"}}'"#,
                "another apiVersion",
            ),
            (
                r#"echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential"}'"#,
                "without a status",
            ),
            (
                r#"echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{}}'"#,
                "neither",
            ),
            (
                r#"echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"clientKeyData":"S3CR3T"}}'"#,
                "without its",
            ),
            ("echo S3CR3T; exit 3", "exit status: 3"),
        ] {
            let told = given(script).await.unwrap_err();
            assert!(told.contains(why), "{script}: {told}");
            let told = told.replace(script, "");
            assert!(!told.contains("S3CR3T"), "{told}");
        }
    }

    #[tokio::test]
    async fn who_has_not_installed_it_is_told_how() {
        let missing = |hint: Option<&str>| {
            let hint = hint.map(str::to_owned);
            plugin("", |config| {
                config.command = Some("no-such-plugin".to_owned());
                config.install_hint = hint;
            })
        };
        let told = missing(None).unwrap().run(false).await.unwrap_err();
        assert!(told.contains("no-such-plugin") && told.contains("PATH"), "{told}");
        let told = missing(Some("brew install it")).unwrap().run(false).await.unwrap_err();
        assert!(told.contains("brew install it"), "{told}");
    }

    #[tokio::test]
    async fn what_it_can_not_be_is_said_before_it_runs() {
        let told = plugin("", |it| it.api_version = Some(format!("{GROUP}/v1alpha1"))).unwrap_err();
        assert!(told.contains("v1alpha1") && told.contains("v1beta1"), "{told}");
        let told = plugin("", |it| it.command = None).unwrap_err();
        assert!(told.contains("no command"), "{told}");
        let always = plugin("", |it| it.interactive_mode = Some(ExecInteractiveMode::Always)).unwrap();
        let told = always.run(false).await.unwrap_err();
        assert!(told.contains("terminal"), "{told}");
    }
}
