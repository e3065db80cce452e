#![doc = include_str!("../README.md")]

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use tokio::runtime::Runtime;

mod access;
mod api;
mod asking;
mod cli;
mod clusters;
mod confirm;
mod demo;
mod deployments;
mod display;
mod driver;
mod environment;
mod environments;
mod executions;
mod github;
mod grid;
mod guard;
mod guide;
mod judging;
mod key;
mod kubeconfig;
mod local;
mod outcome;
mod page;
mod plugin;
mod push;
mod register;
mod report;
mod row;
mod run;
mod serve;
mod server;
mod signals;
mod stage;
mod store;
mod table;
mod text;
mod watch;

/// Does what the arguments say; the code to end with is in the README.
#[must_use]
pub fn main() -> ExitCode {
    let command = match cli::Cli::read() {
        Ok(cli) => cli.command.unwrap_or_default(),
        Err(code) => return ExitCode::from(code),
    };
    let environment = environment::Environment::read();
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
            cli::Command::Watch(arguments) => watch::run(&arguments, &environment).await,
            cli::Command::Register(arguments) => register::run(&arguments, &environment).await,
            cli::Command::Run(arguments) => run::run(&arguments, &environment).await,
            cli::Command::Clusters(arguments) => clusters::run(&arguments, &environment).await,
            cli::Command::Environments(arguments) => environments::run(&arguments, &environment).await,
            cli::Command::Deployments(arguments) => deployments::run(&arguments, &environment).await,
            cli::Command::Serve(arguments) => serve::run(&arguments, &environment).await,
            cli::Command::Completions { shell } => print(Ok(cli::Cli::completions(shell))),
            cli::Command::Man { command } => print(cli::Cli::page(command.as_deref())),
        }
    });
    // A thread may still wait for a resolver; nothing else is left to wait for.
    runtime.shutdown_background();
    ended
}

fn print(text: Result<Vec<u8>, String>) -> ExitCode {
    let printed = text.and_then(|text| io::stdout().write_all(&text).map_err(|error| error.to_string()));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("dag-monitor: {why}");
            ExitCode::from(cli::NOT_LOOKED)
        }
    }
}
