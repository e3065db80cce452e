//! The arguments.

use clap::{Args, Parser, Subcommand};
use kubernetes::{AddressPolicy, BadCidr};

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
    /// Nothing is needed for it, and nothing is left of it: the cluster, the API and
    /// the stores live in this process. It ends with 0 where every verdict is the
    /// expected one, with 1 where one is not, and with 130 after Ctrl-C.
    #[default]
    Demo,
    /// Serve the API for programs on this machine, until Ctrl-C.
    ///
    /// Clusters, environments and deployments, as on AWS, but without credentials:
    /// whoever may use this machine may use the API. So it listens on 127.0.0.1 only,
    /// and refuses requests that name another host or come from another site's pages.
    ///
    /// Everything is kept in memory, tokens too, and forgotten at the end. It ends
    /// with 0 after Ctrl-C (or SIGTERM), and with 1 where it can't serve.
    Serve(Serve),
}

#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct Serve {
    /// The port on 127.0.0.1; 0: any that is free.
    #[arg(long, default_value_t = 8480)]
    pub(crate) port: u16,
    /// Where API servers may be: an address or a range, as 10.0.0.0/8; repeatable.
    ///
    /// Given, exactly these are asked, loopback addresses too. Without it: private and
    /// public addresses, and neither loopback nor link-local ones nor the metadata
    /// service of a cloud.
    #[arg(long = "allow-cidr", value_name = "CIDR", value_parser = cidr)]
    pub(crate) allow_cidrs: Vec<String>,
    /// Start a simulated cluster beside it, and say how to register it.
    ///
    /// Its address, 127.0.0.1, is added to those of --allow-cidr; without these it is
    /// the only one that is asked.
    #[arg(long)]
    pub(crate) simulated_cluster: bool,
}

/// One entry. Nothing at all would stand for no list, and open what is narrowed.
fn cidr(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains(',') {
        return Err("one address or range is awaited; repeat the option for more".to_owned());
    }
    AddressPolicy::parse(text).map_err(|error: BadCidr| error.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn command(arguments: &[&str]) -> Command {
        Cli::try_parse_from(arguments).unwrap().command.unwrap_or_default()
    }

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_is_the_demo() {
        assert_eq!(command(&["dag-monitor"]), Command::Demo);
        assert_eq!(command(&["dag-monitor", "demo"]), Command::Demo);
    }

    #[test]
    fn a_server_has_a_port_and_says_which_addresses_are_asked() {
        let plain = Serve { port: 8480, allow_cidrs: Vec::new(), simulated_cluster: false };
        assert_eq!(command(&["dag-monitor", "serve"]), Command::Serve(plain));
        let arguments =
            ["dag-monitor", "serve", "--port", "0", "--allow-cidr", "10.0.0.0/8", "--allow-cidr", "::1"];
        let allow_cidrs = vec!["10.0.0.0/8".to_owned(), "::1".to_owned()];
        let given = Serve { port: 0, allow_cidrs, simulated_cluster: false };
        assert_eq!(command(&arguments), Command::Serve(given));
        for wrong in ["", " ", ",", "10.0.0.0/8,::1", "10.0.0.0/33", "localhost"] {
            assert!(Cli::try_parse_from(["dag-monitor", "serve", "--allow-cidr", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_unknown_is_named() {
        for unknown in ["dmeo", "--fast"] {
            let refused = Cli::try_parse_from(["dag-monitor", unknown]).unwrap_err().to_string();
            assert!(refused.contains(unknown) && refused.contains("--help"), "{refused}");
        }
    }
}
