#![doc = include_str!("../README.md")]

use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::Runtime;

mod cli;
mod demo;
mod display;
mod driver;
mod executions;
mod guard;
mod local;
mod row;
mod serve;
mod server;
mod stage;
mod table;
mod text;

fn main() -> ExitCode {
    let command = cli::Cli::parse().command.unwrap_or_default();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dag-monitor: there is no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match command {
            cli::Command::Demo => demo::run().await,
            cli::Command::Serve(arguments) => serve::run(&arguments).await,
        }
    });
    // A thread may still wait for a resolver; nothing else is left to wait for.
    runtime.shutdown_background();
    ended
}
