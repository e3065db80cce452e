#![doc = include_str!("../README.md")]

use std::process::ExitCode;

use clap::Parser as _;

mod cli;
mod demo;
mod display;
mod driver;
mod row;
mod stage;
mod table;
mod text;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::Cli::parse().command.unwrap_or_default() {
        cli::Command::Demo => demo::run().await,
    }
}
