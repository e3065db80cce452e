//! The beginning and the end of a command that asks the deployed API.

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

use monitor::check::chain;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    api::{Api, ApiError},
    cli::{Format, NOT_LOOKED},
    confirm::confirm,
    grid::grid,
    outcome::INTERRUPTED,
    signals::Signals,
};

/// Why a command came to nothing. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Told(String),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the terminal can't be used")]
    Terminal(#[from] io::Error),
}

impl Failure {
    /// Of an error with its causes.
    pub(crate) fn of(error: impl Error + 'static) -> Self {
        Self::Told(chain(&error))
    }
}

/// Does a command's work, until it is done or interrupted; `interrupted` says then what is
/// to be known.
pub(crate) async fn run(work: impl Future<Output = Result<(), Failure>>, interrupted: &str) -> ExitCode {
    let done = async { Signals::new()?.during(work).await.transpose() };
    // Nobody may be left to read what is written.
    match done.await {
        Ok(Some(())) => ExitCode::SUCCESS,
        Ok(None) => {
            let _ = writeln!(io::stderr(), "{interrupted}");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "dag-monitor: {}", chain(&error));
            ExitCode::from(NOT_LOOKED)
        }
    }
}

/// What is said where a question was broken off.
pub(crate) const ASKED: &str = "Interrupted.";

/// Whether something may be removed.
///
/// # Errors
/// [`Failure::Told`] where it may not.
pub(crate) async fn may_remove(what: &str, yes: bool) -> Result<(), Failure> {
    let agreed = if yes { Some(true) } else { confirm(format!("Delete {what}?")).await? };
    match agreed {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::Told("nothing was deleted".to_owned())),
        None => Err(Failure::Told(format!("{what} is deleted where you give --yes"))),
    }
}

/// Prints what the API answers, for a program.
pub(crate) fn print_json(answer: &Value) -> io::Result<()> {
    writeln!(io::stdout(), "{answer:#}")
}

/// Prints a list: for a program as the API's pages have it, for a person in columns, of which
/// `table` makes the cells.
pub(crate) fn print_list<T: DeserializeOwned>(
    api: &Api,
    (all, more): (Vec<Value>, bool),
    name: &str,
    format: Format,
    table: impl FnOnce(&[T]) -> Vec<Vec<String>>,
) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(&json!({ name: all }))?,
        Format::Text if all.is_empty() => writeln!(io::stderr(), "There are no {name}.")?,
        Format::Text => {
            let items: Result<Vec<T>, _> = all.iter().map(|it| api.read(it)).collect();
            write!(io::stdout(), "{}", grid(&table(&items?)))?;
        }
    }
    if more {
        writeln!(io::stderr(), "There are more; --limit shows them.")?;
    }
    Ok(())
}
