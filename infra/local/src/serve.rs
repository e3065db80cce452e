//! The API on this machine, until somebody ends it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kubernetes::{AddressPolicy, BadCidr, SetupError};
use monitor::{check::chain, ports::StoreError};
use secrecy::ExposeSecret as _;
use serde_json::json;
use testkit::{Config, Scenario, ScenarioError, SimulatedCluster, StartError};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    cli::Serve,
    environment::Environment,
    key::AccessKey,
    local::{self, Stores},
    server::Server,
    store::{OpenError, Store},
};

/// The simulated cluster's own address.
const SIMULATED: &str = "127.0.0.1/32";
const CLUSTER: &str = "Simulated";
const NAMESPACE: &str = "shop";
/// What the simulated cluster shows: a recording, and the release that it is replayed
/// as. The push is at once, so both have been upgraded half a minute later.
const RELEASES: [(&str, &str); 2] = [("flux/chart-upgrade", "checkout"), ("helm/helm4-upgrade", "invoices")];

/// Why there is no server, or not any more.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the allowed addresses can't be read")]
    Policy(#[from] BadCidr),
    #[error("the client of clusters can't be made")]
    Client(#[from] SetupError),
    #[error("the simulated cluster can't be started")]
    Cluster(#[from] StartError),
    #[error("the recording {recording} can't be replayed")]
    Recording { recording: &'static str, source: ScenarioError },
    #[error(
        "neither XDG_DATA_HOME nor HOME says where to keep anything; --data-dir DIR does, and --in-memory keeps nothing"
    )]
    NoHome,
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("what was kept can't be read")]
    Kept(#[from] StoreError),
    #[error("the store can't be used any more: {0}. Nothing is lost: what runs goes on at the next start")]
    Broken(String),
    #[error("port {port} on 127.0.0.1 can't be opened; --port 0 takes any that is free")]
    Port { port: u16, source: io::Error },
    #[error("the process can't be told to end")]
    Signal(#[source] io::Error),
    #[error("the output can't be written")]
    Output(#[source] io::Error),
}

/// Serves until Ctrl-C.
pub(crate) async fn run(arguments: &Serve, environment: &Environment) -> ExitCode {
    log();
    match serve(arguments, environment).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "dag-monitor: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// What a person should know goes to the standard error. Without each single check:
/// a deployment of five minutes has sixty.
fn log() {
    let shown = Targets::new().with_default(tracing::Level::INFO).with_target("check", tracing::Level::WARN);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_filter(shown);
    // Only a second one in a process is refused.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

async fn serve(arguments: &Serve, environment: &Environment) -> Result<(), ServeError> {
    // Before anything says that it is ready: who reads that may end us at once.
    let mut interrupted = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let policy = policy(arguments)?;
    let directory = directory(arguments, environment)?;
    let store = directory.as_deref().map(Store::open).transpose()?;
    let port = arguments.port;
    let listener = Server::bind(port).await.map_err(|source| ServeError::Port { port, source })?;
    let cluster = if arguments.simulated_cluster { Some(simulated().await?) } else { None };
    // The last that can fail before it is printed: nobody reads it a second time.
    let (digest, key) = match &store {
        Some(store) => store.access(arguments.new_key)?,
        None => {
            let key = AccessKey::make().ok_or(OpenError::NoRandomness)?;
            (key.digest(), Some(key))
        }
    };
    let stores = store.as_ref().map_or_else(Stores::in_memory, Stores::on_disk);
    let served = local::router(policy, stores, digest, None)?;
    let resumed = served.resume().await?;
    let server =
        Server::start(served.router.clone(), listener).map_err(|source| ServeError::Port { port, source })?;

    let api = format!("http://{}", server.address);
    let mut text = format!("The API is at {api}, described by {api}/openapi.json\n");
    text.push_str(&match &directory {
        Some(directory) => format!("What it knows is kept in {}. ", directory.display()),
        None => "It keeps everything in memory, and forgets it at the end. ".to_owned(),
    });
    if resumed > 0 {
        let deployments = if resumed == 1 { "deployment goes" } else { "deployments go" };
        text.push_str(&format!("{resumed} {deployments} on. "));
    }
    text.push_str("Ctrl-C ends it.\n");
    text.push_str(&match &key {
        Some(key) => shown(&api, key, directory.is_some()),
        None => format!(
            "The page is at {api}/ and asks for the key, as every request must show it; --new-key makes another.\n"
        ),
    });
    if let (Some(cluster), Some(key)) = (&cluster, &key) {
        text.push_str(&instructions(&api, key, cluster));
    }
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ServeError::Output)?;

    let broken = async {
        match &store {
            Some(store) => store.broken().await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
        why = broken => Err(ServeError::Broken(why)),
    };
    server.stop().await;
    if let Some(cluster) = cluster {
        // Dropped, it stops at once, if it does not stop by itself.
        let _ = tokio::time::timeout(Duration::from_secs(2), cluster.shutdown()).await;
    }
    ended
}

/// Where to keep what it knows; `None`: nowhere.
fn directory(arguments: &Serve, environment: &Environment) -> Result<Option<PathBuf>, ServeError> {
    if arguments.in_memory || arguments.simulated_cluster {
        return Ok(None);
    }
    let usual = || environment.data_home.as_ref().map(|home| home.join("dag-monitor"));
    arguments.data_dir.clone().or_else(usual).map(Some).ok_or(ServeError::NoHome)
}

/// The key, where it can be used. In the link it stands behind the `#`: a browser sends
/// that nowhere.
fn shown(api: &str, key: &AccessKey, is_kept: bool) -> String {
    let once = if is_kept { "now and never again; --new-key makes another" } else { "another at each start" };
    let key = key.shown();
    format!(
        "\nThe page, opened with the key that every request must show (it is told {once}):\n\n\
         {api}/#key={key}\n\n\
         For programs:\n\nexport DAG_MONITOR_KEY={key}\n\n"
    )
}

fn policy(arguments: &Serve) -> Result<AddressPolicy, BadCidr> {
    let simulated = arguments.simulated_cluster.then_some(SIMULATED);
    let allowed: Vec<&str> = arguments.allow_cidrs.iter().map(String::as_str).chain(simulated).collect();
    AddressPolicy::parse(&allowed.join(","))
}

/// A cluster with two releases, where the recordings are at hand: they are part of a
/// clone of the repository, not of the program.
async fn simulated() -> Result<SimulatedCluster, ServeError> {
    let cluster = SimulatedCluster::start(Config::default()).await?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    let recordings = root.join("tests/fixtures");
    if recordings.is_dir() {
        for (recording, release) in RELEASES {
            let fail = |source| ServeError::Recording { recording, source };
            let scenario = Scenario::load(&recordings, recording).map_err(fail)?;
            cluster.play(&scenario, Some(NAMESPACE), Some(release), Duration::ZERO).map_err(fail)?;
        }
    }
    Ok(cluster)
}

/// How to register the simulated cluster, ready to be copied. Its token opens nothing
/// else, and no longer than this process lives.
fn instructions(api: &str, key: &AccessKey, cluster: &SimulatedCluster) -> String {
    let registration = json!({
        "name": CLUSTER,
        "apiUrl": cluster.api_url(),
        "serviceAccountToken": cluster.token().expose_secret(),
        // As a kubeconfig carries it: a line that needs no quoting.
        "caCert": BASE64_STANDARD.encode(cluster.ca_pem()),
    });
    let (_, release) = RELEASES[0];
    let deployment = json!({
        "helmType": "flux",
        "targets": [{"cluster": CLUSTER, "namespace": NAMESPACE, "release": release}],
        // There is nobody who pushes.
        "allowUnchanged": true,
    });
    let authorization = format!("-H 'Authorization: Bearer {}'", key.shown());
    format!(
        "A simulated cluster is at {}. Register it:\n\n\
         curl {api}/clusters {authorization} --json '{registration}'\n\n\
         Ask what became of a release on it:\n\n\
         curl {api}/deployments {authorization} --json '{deployment}'\n\n",
        cluster.api_url()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(allow_cidrs: &[&str], simulated_cluster: bool) -> Serve {
        let allow_cidrs = allow_cidrs.iter().map(|it| (*it).to_owned()).collect();
        Serve { allow_cidrs, simulated_cluster, ..Serve::default() }
    }

    #[test]
    fn loopback_is_asked_only_where_it_is_named() {
        for (cidrs, simulated, loopback, private) in [
            (&[][..], false, false, true),
            (&[], true, true, false),
            (&["10.0.0.0/8"], false, false, true),
            (&["10.0.0.0/8"], true, true, true),
            (&["127.0.0.0/8"], false, true, false),
        ] {
            let policy = policy(&arguments(cidrs, simulated)).unwrap();
            let asked = |address: &str| policy.check(address.parse().unwrap()).is_ok();
            assert_eq!((asked("127.0.0.1"), asked("10.1.2.3")), (loopback, private), "{cidrs:?} {simulated}");
            assert!(!asked("169.254.169.254"), "{cidrs:?} {simulated}");
        }
    }

    #[test]
    fn everything_is_kept_where_data_is_kept_unless_told_otherwise() {
        let home = Environment { data_home: Some("/home/me/.local/share".into()), ..Environment::default() };
        let kept = |arguments: Serve| directory(&arguments, &home).unwrap();
        let usual = Path::new("/home/me/.local/share/dag-monitor");
        assert_eq!(kept(Serve::default()).as_deref(), Some(usual));
        let named = Serve { data_dir: Some("there".into()), ..Serve::default() };
        assert_eq!(kept(named).as_deref(), Some(Path::new("there")));
        assert_eq!(kept(Serve { in_memory: true, ..Serve::default() }), None);
        assert_eq!(kept(Serve { simulated_cluster: true, ..Serve::default() }), None);
        let told = directory(&Serve::default(), &Environment::default()).unwrap_err().to_string();
        assert!(told.contains("--data-dir") && told.contains("--in-memory"), "{told}");
    }

    #[tokio::test]
    async fn the_commands_can_be_copied() {
        let cluster = simulated().await.unwrap();
        let key = AccessKey::make().unwrap();
        let text = instructions("http://127.0.0.1:8480", &key, &cluster);
        assert_eq!(text.matches(&format!(" -H 'Authorization: Bearer {}' ", key.shown())).count(), 2);
        let bodies: Vec<serde_json::Value> = text
            .lines()
            .filter_map(|line| line.strip_prefix("curl ")?.split_once(" --json '")?.1.strip_suffix('\''))
            .map(|body| serde_json::from_str(body).unwrap())
            .collect();
        assert_eq!(bodies.len(), 2);
        assert_eq!(bodies[0]["apiUrl"], cluster.api_url());
        assert_eq!(bodies[0]["serviceAccountToken"], cluster.token().expose_secret());
        monitor::request::parse_start(&bodies[1], "id", jiff::Timestamp::now()).unwrap();
        // Whatever quote came in between would end the argument.
        assert_eq!(text.matches('\'').count(), 8);
        cluster.shutdown().await;
    }
}
