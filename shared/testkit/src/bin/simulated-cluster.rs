//! A simulated cluster in a process of its own, for tests that start one and
//! for people who want to look at one.

use std::{env, io::Write as _, net::Ipv4Addr, path::PathBuf, process::ExitCode, sync::Arc};

use secrecy::ExposeSecret;
use serde_json::json;
use testkit::{Config, SimulatedCluster, control};
use tokio::{
    io::{AsyncReadExt as _, stdin},
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

const USAGE: &str = "usage: simulated-cluster --fixtures DIR [--port N] [--control-port N]";

fn main() -> ExitCode {
    let ended = Arguments::parse(env::args().skip(1)).map_err(Into::into).and_then(|arguments| {
        let runtime = Runtime::new()?;
        let ended = runtime.block_on(run(arguments));
        // A thread may still be reading stdin; nothing else is left to wait for.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut sentence = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                sentence = format!("{sentence}: {error}");
                cause = error.source();
            }
            eprintln!("simulated-cluster: {sentence}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    fixtures: PathBuf,
    port: u16,
    control_port: u16,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut fixtures = None;
        let (mut port, mut control_port) = (0, 0);
        while let Some(flag) = given.next() {
            let value = given.next().ok_or_else(|| format!("{flag} needs a value; {USAGE}"))?;
            let number = || value.parse().map_err(|_| format!("{flag} {value} is not a port; {USAGE}"));
            match flag.as_str() {
                "--fixtures" => fixtures = Some(PathBuf::from(&value)),
                "--port" => port = number()?,
                "--control-port" => control_port = number()?,
                _ => return Err(format!("{flag} is unknown; {USAGE}")),
            }
        }
        let fixtures = fixtures.ok_or_else(|| format!("--fixtures is missing; {USAGE}"))?;
        if !fixtures.is_dir() {
            return Err(format!("--fixtures {} is not a folder", fixtures.display()));
        }
        Ok(Self { fixtures, port, control_port })
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let config = Config { port: arguments.port, ..Config::default() };
    let cluster = Arc::new(SimulatedCluster::start(config).await?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.control_port)).await?;
    let ready = json!({
        "apiUrl": cluster.api_url(),
        "caCert": cluster.ca_pem(),
        "otherCaCert": cluster.other_ca_pem(),
        "token": cluster.token().expose_secret(),
        "controlUrl": format!("http://{}", listener.local_addr()?),
    });
    // Before the line that says so: who reads it may end us at once.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    println!("{ready}");
    std::io::stdout().flush()?;

    let routes = control::routes(Arc::clone(&cluster), arguments.fixtures);
    tokio::select! {
        served = axum::serve(listener, routes).into_future() => served?,
        () = end_of_stdin() => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    cluster.shutdown().await;
    Ok(())
}

/// Whoever started this has gone, if it is a process with a pipe to us.
async fn end_of_stdin() {
    let mut stdin = stdin();
    let mut ignored = [0; 1024];
    while stdin.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}
