//! The API on this machine, until somebody ends it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kubernetes::{AddressPolicy, BadCidr, SetupError};
use monitor::check::chain;
use secrecy::ExposeSecret as _;
use serde_json::json;
use testkit::{Config, Scenario, ScenarioError, SimulatedCluster, StartError};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{cli::Serve, local, server::Server};

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
    #[error("port {port} on 127.0.0.1 can't be opened; --port 0 takes any that is free")]
    Port { port: u16, source: io::Error },
    #[error("the process can't be told to end")]
    Signal(#[source] io::Error),
    #[error("the output can't be written")]
    Output(#[source] io::Error),
}

/// Serves until Ctrl-C.
pub(crate) async fn run(arguments: &Serve) -> ExitCode {
    log();
    match serve(arguments).await {
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

async fn serve(arguments: &Serve) -> Result<(), ServeError> {
    // Before anything says that it is ready: who reads that may end us at once.
    let mut interrupted = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let router = local::router(policy(arguments)?, None)?;
    let port = arguments.port;
    let server = Server::start(router, port).await.map_err(|source| ServeError::Port { port, source })?;
    let api = format!("http://{}", server.address);
    let cluster = if arguments.simulated_cluster { Some(simulated().await?) } else { None };
    let mut text = format!(
        "The API is at {api}, described by {api}/openapi.json\n\
         It keeps everything in memory, and forgets it at the end. Ctrl-C ends it.\n"
    );
    if let Some(cluster) = &cluster {
        text.push_str(&instructions(&api, cluster));
    }
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ServeError::Output)?;

    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    server.stop().await;
    if let Some(cluster) = cluster {
        // Dropped, it stops at once, if it does not stop by itself.
        let _ = tokio::time::timeout(Duration::from_secs(2), cluster.shutdown()).await;
    }
    Ok(())
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
fn instructions(api: &str, cluster: &SimulatedCluster) -> String {
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
    format!(
        "\nA simulated cluster is at {}. Register it:\n\n\
         curl {api}/clusters --json '{registration}'\n\n\
         Ask what became of a release on it:\n\n\
         curl {api}/deployments --json '{deployment}'\n\n",
        cluster.api_url()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(allow_cidrs: &[&str], simulated_cluster: bool) -> Serve {
        let allow_cidrs = allow_cidrs.iter().map(|it| (*it).to_owned()).collect();
        Serve { port: 0, allow_cidrs, simulated_cluster }
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

    #[tokio::test]
    async fn the_commands_can_be_copied() {
        let cluster = simulated().await.unwrap();
        let text = instructions("http://127.0.0.1:8480", &cluster);
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
        assert_eq!(text.matches('\'').count(), 4);
        cluster.shutdown().await;
    }
}
