//! The arguments.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;
use kubernetes::{AddressPolicy, BadCidr};

mod deployed;
mod judging;
mod parsers;
mod watch;

pub(crate) use deployed::{
    AwsArguments, Clusters, ClustersCommand, Deployments, DeploymentsCommand, Environments,
    EnvironmentsCommand, Format, Named, Register, Rights, Run,
};
pub(crate) use judging::{FailOn, Judging, Output};
pub(crate) use parsers::Target;
pub(crate) use watch::{ClusterArguments, Watch};

/// What can't be used, arguments included: nobody was asked, nothing was judged. clap's
/// own code for a usage error, 2, would say that a deployment timed out.
pub(crate) const NOT_LOOKED: u8 = 3;

/// Says whether a deployment by Flux or Helm has succeeded. Without a command: the demo.
#[derive(Debug, Parser)]
#[command(name = "dag-monitor", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  dag-monitor                                        See eight deployments being judged
  dag-monitor watch -n shop checkout -- git push     Push, and say what became of it
  dag-monitor register --context prod                Register a cluster with the stack on AWS
  dag-monitor run --app checkout --environment production -- git push
                                                     The same, judged on AWS
  dag-monitor watch --help                           More of these
  source <(dag-monitor completions bash)             Complete commands and options";

#[derive(Debug, Default, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Follow eight recorded deployments on a simulated cluster, for at most a minute.
    ///
    /// Nothing is needed for it, and nothing is left of it: the cluster, the API and
    /// the stores live in this process. It ends with 0 where every verdict is the
    /// expected one, with 1 where one is not, and with 130 after Ctrl-C.
    #[default]
    Demo,
    // Without words of their own, which would take the place of what stands at the arguments.
    Watch(Box<Watch>),
    Register(Box<Register>),
    Run(Box<Run>),
    Clusters(Clusters),
    Environments(Environments),
    Deployments(Deployments),
    /// Serve the API and a live page on this machine, until Ctrl-C.
    ///
    /// Clusters, environments and deployments, as on AWS; the page at / shows how they get
    /// on. It listens on 127.0.0.1 only, refuses requests that name another host or come
    /// from another site's pages, and asks each for a key, which it prints at its first
    /// start and never again.
    ///
    /// Everything is kept on disk, in --data-dir, tokens sealed. Ended at any moment, by
    /// Ctrl-C or by a power cut, it goes on at the next start: deployments keep their
    /// deadline. It ends with 0 after Ctrl-C (or SIGTERM), and with 1 where it can't serve.
    Serve(Serve),
    /// Print what a shell needs to complete commands and options.
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print a manual page: the program's, or a command's.
    #[command(after_help = PAGES)]
    Man {
        /// The command, as watch.
        command: Option<String>,
    },
}

const COMPLETIONS: &str = "\
Examples:
  source <(dag-monitor completions bash)
  dag-monitor completions zsh > \"${fpath[1]}/_dag-monitor\"
  dag-monitor completions fish > ~/.config/fish/completions/dag-monitor.fish";

const PAGES: &str = "\
Examples:
  dag-monitor man watch | man -l -
  dag-monitor man > /usr/local/share/man/man1/dag-monitor.1";

const SERVING: &str = "\
Examples:
  Serve what is kept in ~/.local/share/dag-monitor, and open the page that it prints:
    dag-monitor serve

  The key was lost, or somebody saw it:
    dag-monitor serve --new-key

  Ask it from a script:
    curl -H \"Authorization: Bearer $DAG_MONITOR_KEY\" http://127.0.0.1:8480/clusters

  Only clusters in these networks, kept elsewhere:
    dag-monitor serve --allow-cidr 10.0.0.0/8 --allow-cidr 192.168.0.0/16 --data-dir ./monitor

  Try it without a cluster; nothing is left of it:
    dag-monitor serve --simulated-cluster";

#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(after_long_help = SERVING, after_help = "See --help for examples.")]
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
    /// Where everything is kept; the default is dag-monitor in XDG_DATA_HOME, or in
    /// ~/.local/share.
    ///
    /// It is made where it is missing, for nobody else on this machine (mode 0700, files
    /// 0600); one that is open to others is refused. One server at a time uses it.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Keep everything in memory, and forget it at the end. The key is another each time.
    #[arg(long, conflicts_with = "data_dir")]
    pub(crate) in_memory: bool,
    /// Make another key, and print it; the old one opens nothing any more.
    #[arg(long, conflicts_with_all = ["in_memory", "simulated_cluster"])]
    pub(crate) new_key: bool,
    /// Start a simulated cluster beside it, and say how to register it.
    ///
    /// The cluster ends with the server, so everything is kept in memory. Its address, 127.0.0.1, is added to those of --allow-cidr; without these it is
    /// the only one that is asked.
    #[arg(long, conflicts_with = "data_dir")]
    pub(crate) simulated_cluster: bool,
}

/// The parts of the helps that tell the codes.
#[cfg(test)]
pub(crate) fn exit_codes() -> [&'static str; 2] {
    [watch::exit_codes(), deployed::exit_codes()]
}

impl Cli {
    /// Reads the arguments; or prints why they can't be used, or what was asked for,
    /// and gives the code to end with.
    pub(crate) fn read() -> Result<Self, u8> {
        Self::try_parse().map_err(|error| {
            // Nobody may be left to read it.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => NOT_LOOKED,
            }
        })
    }

    /// What completes the program's arguments in this shell.
    pub(crate) fn completions(shell: Shell) -> Vec<u8> {
        let mut command = Self::command();
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, "dag-monitor", &mut script);
        script
    }

    /// The manual page of the program or of one of its commands, as roff.
    ///
    /// # Errors
    /// A sentence where there is no such command.
    pub(crate) fn page(name: Option<&str>) -> Result<Vec<u8>, String> {
        let mut program = Self::command();
        // Gives each command its full name.
        program.build();
        let command = match name {
            None => program,
            Some(name) => match program.find_subcommand(name) {
                Some(found) => found.clone(),
                None => {
                    let known: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
                    return Err(format!("there is no command {name}; there are {}", known.join(", ")));
                }
            },
        };
        let mut page = Vec::new();
        // invariant: writing into memory does not fail.
        let _ = clap_mangen::Man::new(command).render(&mut page);
        Ok(page)
    }
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
        let plain = Serve { port: 8480, ..Serve::default() };
        assert_eq!(command(&["dag-monitor", "serve"]), Command::Serve(plain));
        let arguments =
            ["dag-monitor", "serve", "--port", "0", "--allow-cidr", "10.0.0.0/8", "--allow-cidr", "::1"];
        let allow_cidrs = vec!["10.0.0.0/8".to_owned(), "::1".to_owned()];
        let given = Serve { port: 0, allow_cidrs, ..Serve::default() };
        assert_eq!(command(&arguments), Command::Serve(given));
        for wrong in ["", " ", ",", "10.0.0.0/8,::1", "10.0.0.0/33", "localhost"] {
            assert!(Cli::try_parse_from(["dag-monitor", "serve", "--allow-cidr", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_keeps_its_store_in_one_place_or_none() {
        let arguments = ["dag-monitor", "serve", "--data-dir", "/data", "--new-key"];
        let given = Serve { port: 8480, data_dir: Some("/data".into()), new_key: true, ..Serve::default() };
        assert_eq!(command(&arguments), Command::Serve(given));
        let given = Serve { port: 8480, in_memory: true, simulated_cluster: true, ..Serve::default() };
        assert_eq!(
            command(&["dag-monitor", "serve", "--in-memory", "--simulated-cluster"]),
            Command::Serve(given)
        );
        for [one, other] in [
            ["--data-dir=/data", "--in-memory"],
            ["--data-dir=/data", "--simulated-cluster"],
            ["--new-key", "--in-memory"],
            ["--new-key", "--simulated-cluster"],
        ] {
            let refused = Cli::try_parse_from(["dag-monitor", "serve", one, other]).unwrap_err().to_string();
            assert!(refused.contains("cannot be used with"), "{refused}");
        }
    }

    #[test]
    fn what_is_unknown_is_named() {
        for unknown in ["dmeo", "--fast"] {
            let refused = Cli::try_parse_from(["dag-monitor", unknown]).unwrap_err().to_string();
            assert!(refused.contains(unknown) && refused.contains("--help"), "{refused}");
        }
    }

    #[test]
    fn every_shell_is_told_of_every_option() {
        let options: Vec<String> = Cli::command()
            .find_subcommand("watch")
            .unwrap()
            .get_arguments()
            .filter_map(|it| it.get_long().map(str::to_owned))
            .collect();
        assert!(options.len() > 15, "{options:?}");
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let script = String::from_utf8(Cli::completions(shell)).unwrap();
            for option in &options {
                assert!(script.contains(option.as_str()), "{shell}: {option}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let main = String::from_utf8(Cli::page(None).unwrap()).unwrap();
        assert!(main.contains("dag\\-monitor") && main.contains("watch"), "{main}");
        for command in Cli::command().get_subcommands() {
            let page = String::from_utf8(Cli::page(Some(command.get_name())).unwrap()).unwrap();
            assert!(page.contains(&format!("dag\\-monitor {}", command.get_name())), "{page}");
        }
        let told = Cli::page(Some("wacth")).unwrap_err();
        assert!(told.contains("wacth") && told.contains("watch"), "{told}");
    }
}
