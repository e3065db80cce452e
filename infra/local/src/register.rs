//! Registering a cluster of a kubeconfig with the deployed API.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use axum::http::Method;
use kubernetes::{AccountToken, AddressPolicy, KubernetesClient, Rules};
use monitor::{ports::Credentials, slug::slug};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::{
    access::Access,
    api::Api,
    asking::{self, Failure},
    cli::Register,
    clusters,
    confirm::confirm,
    environment::Environment,
    guide,
    kubeconfig::Clusters,
    watch::ANYWHERE,
};

/// How often a Secret is looked at that the cluster has yet to fill in, and what is waited
/// between: a controller does it, within a second or two.
const LOOKS: u32 = 60;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Registers it, and shows what the API says of it.
pub(crate) async fn run(arguments: &Register, environment: &Environment) -> ExitCode {
    let interrupted = "Interrupted; `dag-monitor clusters list` shows what is registered.";
    asking::run(register(arguments, environment), interrupted).await
}

async fn register(arguments: &Register, environment: &Environment) -> Result<(), Failure> {
    let access = match &arguments.eks_cluster {
        Some(_) => None,
        None => {
            let found = Clusters::find(&arguments.cluster(), environment).map_err(Failure::of)?;
            Some(found.cluster(None).map_err(Failure::of)?)
        }
    };
    // Before anything is changed in the cluster.
    let manifests = guide::manifests(arguments.rights, &arguments.namespaces).map_err(Failure::Told)?;
    let api = Api::find(&arguments.aws, environment).await?;
    let (name, entry) = match (&access, &arguments.eks_cluster) {
        (Some(access), _) => (&access.name, by_token(arguments, access, &manifests).await?),
        (None, Some(cluster)) => (cluster, by_eks(arguments, cluster, &api)?),
        (None, None) => return Err(Failure::Told("no cluster is named".to_owned())),
    };
    let name = arguments.name.as_ref().unwrap_or(name);
    let cluster = send(arguments, &api, name, entry).await?;
    clusters::show(&api, &cluster, arguments.output)
}

/// The fields that name an EKS cluster.
fn by_eks(arguments: &Register, cluster: &str, api: &Api) -> Result<Map<String, Value>, Failure> {
    let region = arguments.eks_region.as_deref().or(api.region());
    let region = region.ok_or_else(|| Failure::Told("give the cluster's --eks-region".to_owned()))?;
    let mut eks = json!({"clusterName": cluster, "region": region});
    if let Some(role) = &arguments.eks_role_arn {
        eks["roleArn"] = json!(role);
    }
    Ok(Map::from_iter([("auth".to_owned(), json!({"eks": eks}))]))
}

/// The fields that say where the cluster is and how it is entered.
async fn by_token(
    arguments: &Register,
    access: &Access,
    manifests: &str,
) -> Result<Map<String, Value>, Failure> {
    if access.proxy.is_some() {
        let note = "the kubeconfig reaches this cluster by a proxy-url; AWS will ask its address without one";
        writeln!(io::stderr(), "dag-monitor: {note}")?;
    }
    let policy = AddressPolicy::parse(ANYWHERE).map_err(Failure::of)?;
    let rules = Rules::new(policy.clone());
    let credentials = access.credentials(&rules, true).await.map_err(Failure::Told)?;
    let client = KubernetesClient::new(policy).map_err(Failure::of)?;
    let token = token(arguments, access, &client, &credentials, manifests).await?;
    let fields = [
        ("apiUrl", json!(access.api_url)),
        ("serviceAccountToken", json!(token.expose_secret())),
        // Null where there is none: a replaced cluster must not keep the one before.
        ("caCert", json!(credentials.ca_cert)),
        ("tlsServerName", json!(credentials.tls_server_name)),
    ];
    Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The account's token; the account is made first, where there is none and the person agrees.
async fn token(
    arguments: &Register,
    access: &Access,
    client: &KubernetesClient,
    credentials: &Credentials,
    manifests: &str,
) -> Result<SecretString, Failure> {
    let (secret, namespace, context) = (guide::SECRET, guide::NAMESPACE, &access.name);
    let mut applied = false;
    for _ in 0..LOOKS {
        let found = client.account_token(credentials, namespace, secret).await.map_err(|error| {
            Failure::Told(format!(
                "the Secret {secret} in the namespace {namespace} of {context} can't be read: {}. It takes the right \
                 to `get` it; `kubectl -n {namespace} get secret {secret}` asks the same",
                error.message
            ))
        })?;
        match found {
            AccountToken::There(token) => return Ok(token),
            AccountToken::NoSecret if !applied => {
                offer(arguments, context, manifests).await?;
                applied = true;
            }
            AccountToken::NoSecret | AccountToken::NotYet => sleep(BETWEEN_LOOKS).await,
        }
    }
    Err(Failure::Told(format!(
        "the cluster has put no token into the Secret {secret}; `kubectl -n {namespace} describe secret {secret}` \
         should name an account that is there"
    )))
}

async fn offer(arguments: &Register, context: &str, manifests: &str) -> Result<(), Failure> {
    let (secret, namespace) = (guide::SECRET, guide::NAMESPACE);
    let missing = format!("There is no Secret {secret} in the namespace {namespace} of {context}");
    writeln!(io::stderr(), "{missing}. These manifests make it:\n\n{manifests}")?;
    let agreed = if arguments.apply {
        Some(true)
    } else {
        confirm(format!("Apply them to {context} by kubectl?")).await?
    };
    match agreed {
        Some(true) => guide::apply(arguments, context, manifests).await.map_err(Failure::Told),
        Some(false) => Err(Failure::Told("nothing was applied, and nothing registered".to_owned())),
        None => Err(Failure::Told(format!(
            "the manifests above were not applied; give --apply to have it done, or apply them yourself, as by \
             `kubectl --context {context} apply -k infra/kubernetes`"
        ))),
    }
}

/// Registers it, or replaces what is registered; what the API answers.
async fn send(
    arguments: &Register,
    api: &Api,
    name: &str,
    entry: Map<String, Value>,
) -> Result<Value, Failure> {
    let query = if arguments.no_probe { "?probe=false" } else { "" };
    let mut body = entry;
    if !arguments.namespaces.is_empty() {
        body.insert("namespaces".to_owned(), json!(arguments.namespaces));
    }
    let mut new = body.clone();
    // There null stands for nothing, too.
    new.insert("name".to_owned(), json!(name));
    match api.ask(Method::POST, &format!("/clusters{query}"), Some(&new.into())).await {
        Err(error) if error.is("already-registered") => {}
        other => return Ok(other?),
    }
    let id = slug(name);
    let replace = if arguments.replace {
        Some(true)
    } else {
        confirm(format!("The id {id} belongs to a registered cluster. Replace its address, CA and token?"))
            .await?
    };
    match replace {
        Some(true) => {
            let path = format!("/clusters/{id}{query}");
            Ok(api.ask(Method::PUT, &path, Some(&body.into())).await?)
        }
        Some(false) => Err(Failure::Told("nothing was changed".to_owned())),
        None => Err(Failure::Told(format!(
            "the id {id}, which is made of the name {name}, belongs to a registered cluster. To send its address, CA and \
             token anew, give --replace; for another cluster another NAME"
        ))),
    }
}
