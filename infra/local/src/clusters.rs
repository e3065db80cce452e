//! The registered clusters: listed, shown, probed, deleted.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use axum::http::Method;
use jiff::Timestamp;
use monitor::{
    probe::{Permission, ProbeReason, ScopePermissions},
    slug::slug,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    api::Api,
    asking::{ASKED, Failure, may_remove, print_json, print_list, run as asked},
    cli::{Clusters, ClustersCommand, Format},
    display::columns,
    environment::Environment,
    grid::grid,
    text::wrap,
};

pub(crate) async fn run(arguments: &Clusters, environment: &Environment) -> ExitCode {
    asked(answer(&arguments.command, environment), ASKED).await
}

async fn answer(command: &ClustersCommand, environment: &Environment) -> Result<(), Failure> {
    match command {
        ClustersCommand::List { limit, asking } => {
            let api = Api::find(&asking.aws, environment).await?;
            let found = api.list("/clusters", "", "clusters", *limit).await?;
            print_list(&api, found, "clusters", asking.output, table)?;
        }
        ClustersCommand::Show { name, asking } => {
            let path = path(name)?;
            let api = Api::find(&asking.aws, environment).await?;
            show(&api, &api.get(&path).await?, asking.output)?;
        }
        ClustersCommand::Probe { name, asking } => {
            let path = format!("{}/probe", path(name)?);
            let api = Api::find(&asking.aws, environment).await?;
            show(&api, &api.ask(Method::POST, &path, None).await?, asking.output)?;
        }
        ClustersCommand::Delete { name, yes, asking } => {
            let path = path(name)?;
            let api = Api::find(&asking.aws, environment).await?;
            may_remove(&format!("the cluster {name}"), *yes).await?;
            let answer = api.ask(Method::DELETE, &path, None).await?;
            match asking.output {
                Format::Json => print_json(&answer)?,
                Format::Text => writeln!(io::stdout(), "Deleted {name}.")?,
            }
        }
    }
    Ok(())
}

/// A cluster's path, by its name or id.
fn path(name: &str) -> Result<String, Failure> {
    match slug(name) {
        none if none.is_empty() => Err(Failure::Told(format!("{name:?} can't be a cluster's name"))),
        id => Ok(format!("/clusters/{id}")),
    }
}

/// Prints a cluster, as the API answers it.
pub(crate) fn show(api: &Api, answer: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(answer)?,
        Format::Text => {
            let cluster: Cluster = api.read(answer)?;
            write!(io::stdout(), "{}", cluster.described(columns().saturating_sub(1).max(40)))?;
        }
    }
    Ok(())
}

/// What is shown of a cluster.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    id: String,
    name: String,
    api_url: Option<String>,
    tls_server_name: Option<String>,
    ca_cert: Option<CaCert>,
    token: Option<Token>,
    auth: Option<Value>,
    namespaces: Option<Vec<String>>,
    last_probe: Option<LastProbe>,
    /// Of the request that is answered.
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CaCert {
    sha256_fingerprint: String,
    not_after: Timestamp,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    subject: Option<String>,
    expires_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LastProbe {
    at: Timestamp,
    reason: Option<ProbeReason>,
    message: String,
    permissions: Vec<ScopePermissions>,
    warnings: Vec<String>,
}

/// To the second.
pub(crate) fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Cluster {
    fn probed(&self) -> String {
        match &self.last_probe {
            None => "never".to_owned(),
            Some(probe) => match probe.reason {
                None => format!("ok, {}", instant(probe.at)),
                Some(reason) => format!("{reason:?}, {}", instant(probe.at)),
            },
        }
    }

    fn token_ends(&self) -> String {
        match (&self.token, &self.auth) {
            (Some(Token { expires_at: Some(end), .. }), _) => instant(*end),
            (_, Some(_)) => "none is stored".to_owned(),
            _ => "never".to_owned(),
        }
    }

    fn described(&self, columns: usize) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![format!("{name}:"), value]);
        row("Name", self.name.clone());
        row("Id", self.id.clone());
        row("API server", self.api_url.clone().unwrap_or_else(|| "as EKS tells it".to_owned()));
        if let Some(name) = &self.tls_server_name {
            row("TLS server name", name.clone());
        }
        if let Some(ca) = &self.ca_cert {
            row("CA", format!("ends {}, SHA-256 {}", instant(ca.not_after), ca.sha256_fingerprint));
        }
        if let Some(subject) = self.token.as_ref().and_then(|it| it.subject.clone()) {
            row("Account", subject);
        }
        if let Some(eks) = self.auth.as_ref().map(|it| &it["eks"]) {
            let text = |field: &str| eks[field].as_str().unwrap_or_default();
            row("EKS", format!("{} in {} {}", text("clusterName"), text("region"), text("roleArn")));
        }
        row("Token ends", self.token_ends());
        row("Namespaces", self.namespaces.as_ref().map_or_else(|| "all".to_owned(), |it| it.join(", ")));
        row("Last probe", self.probed());
        let mut text = grid(&rows);
        let Some(probe) = &self.last_probe else { return self.warned(text, &[], columns) };
        for line in wrap(&probe.message, columns) {
            text.push_str(&format!("{line}\n"));
        }
        if !probe.permissions.is_empty() {
            let mut served = vec![["\nNAMESPACE", "FLUX", "PLAIN"].map(|it| it.trim().to_owned()).to_vec()];
            served.extend(probe.permissions.iter().map(|it| {
                let namespace = it.namespace.clone().unwrap_or_else(|| "(all)".to_owned());
                vec![namespace, served_by(it.flux).to_owned(), served_by(it.plain).to_owned()]
            }));
            text.push_str(&format!("\n{}", grid(&served)));
        }
        self.warned(text, &probe.warnings, columns)
    }

    /// With the warnings of the probe and of the request, each once.
    fn warned(&self, mut text: String, of_probe: &[String], columns: usize) -> String {
        let mut told: Vec<&String> = Vec::new();
        for warning in self.warnings.iter().chain(of_probe) {
            if !told.contains(&warning) {
                told.push(warning);
                for line in wrap(&format!("Warning: {warning}"), columns) {
                    text.push_str(&format!("{line}\n"));
                }
            }
        }
        text
    }
}

fn served_by(permission: Permission) -> &'static str {
    match permission {
        Permission::Allowed => "yes",
        Permission::Denied => "no",
        Permission::Unknown => "unknown",
    }
}

fn table(clusters: &[Cluster]) -> Vec<Vec<String>> {
    let head = ["NAME", "ID", "API SERVER", "LAST PROBE", "TOKEN ENDS"].map(str::to_owned).to_vec();
    let rows = clusters.iter().map(|it| {
        let api_url = it.api_url.clone().unwrap_or_else(|| "(EKS)".to_owned());
        vec![it.name.clone(), it.id.clone(), api_url, it.probed(), it.token_ends()]
    });
    [head].into_iter().chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(changes: Value) -> Cluster {
        let mut cluster = json!({
            "id": "prod-eu", "name": "Prod EU", "apiUrl": "https://a.example.com", "tlsServerName": null,
            "caCert": {"sha256Fingerprint": "AB:CD", "notAfter": "2027-01-02T03:04:05Z"},
            "token": {"issuer": null, "subject": "system:serviceaccount:dag-monitor:dag-monitor", "expiresAt": null},
            "auth": null, "namespaces": null, "state": "active",
            "lastProbe": {
                "at": "2026-11-23T19:15:45.5Z", "ok": true, "reason": null, "message": "It answers.",
                "kubernetesVersion": "v1.36.0", "serverCertificateNotAfter": null, "warnings": ["It may too much."],
                "permissions": [
                    {"namespace": null, "flux": "allowed", "plain": "denied"},
                    {"namespace": "shop", "flux": "allowed", "plain": "unknown"},
                ],
            },
            "createdAt": "2026-11-23T19:15:45Z", "updatedAt": "2026-11-23T19:15:45Z",
        });
        for (name, value) in changes.as_object().unwrap() {
            cluster[name] = value.clone();
        }
        serde_json::from_value(cluster).unwrap()
    }

    #[test]
    fn a_cluster_is_described_with_what_its_token_serves() {
        let shown = cluster(json!({"warnings": ["It may too much.", "It ends soon."]})).described(80);
        assert_eq!(
            shown,
            "Name:        Prod EU\nId:          prod-eu\nAPI server:  https://a.example.com\n\
             CA:          ends 2027-01-02T03:04:05Z, SHA-256 AB:CD\n\
             Account:     system:serviceaccount:dag-monitor:dag-monitor\nToken ends:  never\nNamespaces:  all\n\
             Last probe:  ok, 2026-11-23T19:15:45Z\nIt answers.\n\nNAMESPACE  FLUX  PLAIN\n(all)      yes   no\n\
             shop       yes   unknown\nWarning: It may too much.\nWarning: It ends soon.\n"
        );
        let eks = cluster(json!({
            "apiUrl": null, "caCert": null, "token": null, "lastProbe": null, "namespaces": ["shop", "team-*"],
            "auth": {"eks": {"clusterName": "prod", "region": "eu-west-1", "roleArn": null}},
        }));
        let shown = eks.described(80);
        for words in ["as EKS tells it", "prod in eu-west-1\n", "none is stored", "shop, team-*", "never\n"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }

    #[test]
    fn a_list_says_who_can_not_be_asked_and_whose_token_ends() {
        let failed = cluster(json!({
            "token": {"issuer": null, "subject": null, "expiresAt": "2026-12-01T00:00:00Z"},
            "lastProbe": {
                "at": "2026-11-23T19:15:45Z", "ok": false, "reason": "DnsFailed", "message": "no", "permissions": [],
                "warnings": [],
            },
        }));
        let shown = grid(&table(&[failed, cluster(json!({"lastProbe": null}))]));
        assert_eq!(
            shown,
            "NAME     ID       API SERVER             LAST PROBE                       TOKEN ENDS\n\
             Prod EU  prod-eu  https://a.example.com  DnsFailed, 2026-11-23T19:15:45Z  2026-12-01T00:00:00Z\n\
             Prod EU  prod-eu  https://a.example.com  never                            never\n"
        );
    }

    #[test]
    fn a_name_stands_for_its_id() {
        assert_eq!(path("Prod EU").unwrap(), "/clusters/prod-eu");
        assert_eq!(path("../prod?x").unwrap(), "/clusters/prod-x");
        assert!(path("東京").is_err());
    }
}
