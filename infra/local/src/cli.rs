//! The arguments.

use clap::{Parser, Subcommand};

/// Says whether a deployment by Flux or Helm has succeeded. Without a command: the demo.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Default, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Follow eight recorded deployments on a simulated cluster, for at most a minute.
    ///
    /// Nothing is needed for it, and nothing is left of it: the cluster, the
    /// registration API and the stores live in this process. It ends with 0 where
    /// every verdict is the expected one, with 1 where one is not, and with 130
    /// after Ctrl-C.
    #[default]
    Demo,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_is_the_demo() {
        let command =
            |arguments: &[&str]| Cli::try_parse_from(arguments).unwrap().command.unwrap_or_default();
        assert_eq!(command(&["dag-monitor"]), Command::Demo);
        assert_eq!(command(&["dag-monitor", "demo"]), Command::Demo);
    }

    #[test]
    fn what_is_unknown_is_named() {
        for unknown in ["dmeo", "--fast"] {
            let refused = Cli::try_parse_from(["dag-monitor", unknown]).unwrap_err().to_string();
            assert!(refused.contains(unknown) && refused.contains("--help"), "{refused}");
        }
    }
}
