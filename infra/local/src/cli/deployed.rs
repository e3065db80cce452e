//! The arguments of what talks to the deployed API.

use std::path::PathBuf;

use aws::operator::ApiAddress;
use clap::{Args, Subcommand, ValueEnum};

use super::{
    judging::Judging,
    parsers::{Target, api_address, deployment_id, label, registered_target, timeout_secs},
    watch::{ClusterArguments, HelmType},
};

/// Which stack is asked, and as whom.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "AWS")]
pub(crate) struct AwsArguments {
    /// The stack, whose outputs say where the API is; by default $DAG_MONITOR_STACK, else
    /// dag-monitor.
    #[arg(long, value_name = "NAME")]
    pub(crate) stack: Option<String>,
    /// A profile of the AWS CLI; by default $AWS_PROFILE, or what else the CLI would take.
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// The region; by default $AWS_REGION, or the profile's.
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
    /// The API's address, where it is not the stack's output: a VPC endpoint, a domain of
    /// your own, or `dag-monitor serve` on this machine, with its key in $DAG_MONITOR_KEY. By
    /// default $DAG_MONITOR_ENDPOINT.
    #[arg(long, value_name = "URL", value_parser = api_address)]
    pub(crate) endpoint: Option<ApiAddress>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For a person.
    #[default]
    Text,
    /// For a program: what the API answers.
    Json,
}

const REGISTER: &str = "\
Examples:
  The current context's cluster, after a look at the manifests:
    dag-monitor register

  Under another name, from a pipeline:
    dag-monitor register \"Prod EU\" --context prod-eu --apply

  An account that reads HelmReleases only, or only what is in some namespaces:
    dag-monitor register --context prod-eu --rights flux-only
    dag-monitor register --context prod-eu --rights namespaced -n shop -n pay

  What is registered has a new address, CA or token:
    dag-monitor register \"Prod EU\" --context prod-eu --replace

  EKS, without a stored token:
    dag-monitor register \"Prod EU\" --eks-cluster prod --eks-region eu-central-1

It ends with 0 where the cluster is registered, else with 3, and with 130 after Ctrl-C.";

/// Register a cluster of your kubeconfig with the deployed API.
///
/// Address and CA come from the kubeconfig. The token is that of the Secret
/// dag-monitor-token in the namespace dag-monitor, which is read with your own rights;
/// where it is missing, the manifests are shown that make it and its account, and are
/// applied by kubectl once you agree. The API probes the cluster before it keeps anything.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(after_long_help = REGISTER, after_help = "See --help for examples.")]
pub(crate) struct Register {
    /// What the cluster is called; by default as its context, or as in EKS.
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Close it to all namespaces but these, as shop or team-*; repeatable.
    #[arg(short, long = "namespace", value_name = "GLOB")]
    pub(crate) namespaces: Vec<String>,
    /// Keep it without asking the cluster first.
    #[arg(long)]
    pub(crate) no_probe: bool,
    /// Replace address, CA and token of the cluster that has the name already.
    #[arg(long)]
    pub(crate) replace: bool,
    /// What is printed.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Format,

    /// The kubeconfig; by default the files of $KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context; by default the current one.
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// What the account of the manifests may do.
    #[arg(long, value_enum, value_name = "RIGHTS", default_value_t, help_heading = "Cluster")]
    pub(crate) rights: Rights,
    /// Apply the manifests without asking, where the Secret is missing.
    #[arg(long, visible_alias = "yes", short_alias = 'y', help_heading = "Cluster")]
    pub(crate) apply: bool,

    /// The name of a cluster in EKS, which is entered without a token.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all = ["kubeconfig", "context", "rights", "apply"],
        help_heading = "EKS"
    )]
    pub(crate) eks_cluster: Option<String>,
    /// Its region; by default that of the API.
    #[arg(long, value_name = "REGION", requires = "eks_cluster", help_heading = "EKS")]
    pub(crate) eks_region: Option<String>,
    /// A role that is taken on the way, one of the stack's EksRoleArns.
    #[arg(long, value_name = "ARN", requires = "eks_cluster", help_heading = "EKS")]
    pub(crate) eks_role_arn: Option<String>,

    #[command(flatten)]
    pub(crate) aws: AwsArguments,
}

impl Register {
    /// The kubeconfig's part.
    pub(crate) fn cluster(&self) -> ClusterArguments {
        ClusterArguments {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            ..ClusterArguments::default()
        }
    }
}

/// What an account of the guide's manifests may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rights {
    /// Get HelmReleases and list secrets, in the whole cluster.
    #[default]
    Cluster,
    /// Get HelmReleases, in the whole cluster; no secret can be read.
    FluxOnly,
    /// Get HelmReleases and list secrets, in the namespaces of -n.
    Namespaced,
}

const CLUSTERS: &str = "\
Examples:
  dag-monitor clusters list
  dag-monitor clusters show \"Prod EU\"
  dag-monitor clusters probe prod-eu -o json
  dag-monitor clusters delete prod-eu";

/// List, show, probe and delete the registered clusters.
#[derive(Debug, PartialEq, Eq, Args)]
#[command(after_help = CLUSTERS, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Clusters {
    #[command(subcommand)]
    pub(crate) command: ClustersCommand,
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum ClustersCommand {
    /// List them, in the order of their ids.
    List {
        /// How many at most; by default all.
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Show one, with its last probe.
    Show {
        /// The cluster's name or id.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Ask one now whether it can be asked, and what its account may do.
    Probe {
        /// The cluster's name or id.
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Remove one that no environment names.
    Delete {
        /// The cluster's name or id.
        #[arg(value_name = "NAME")]
        name: String,
        /// Don't ask first.
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        asking: Asking,
    },
}

const ENVIRONMENTS: &str = "\
Examples:
  dag-monitor environments list checkout
  dag-monitor environments show checkout production
  dag-monitor environments set checkout production --target \"Prod EU/shop/checkout\"
  dag-monitor environments delete checkout production";

/// List, show, set and delete the environments of apps: where they are deployed.
#[derive(Debug, PartialEq, Eq, Args)]
#[command(after_help = ENVIRONMENTS, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Environments {
    #[command(subcommand)]
    pub(crate) command: EnvironmentsCommand,
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum EnvironmentsCommand {
    /// List those of an app.
    List {
        /// The app.
        #[arg(value_parser = label)]
        app: String,
        /// How many at most; by default all.
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Show one, with its targets.
    Show {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        asking: Asking,
    },
    /// Register one, or replace it whole.
    Set {
        #[command(flatten)]
        named: Named,
        /// Who deploys: Flux's helm-controller, or Helm itself.
        #[arg(long, value_enum, value_name = "TYPE", default_value_t)]
        helm_type: HelmType,
        /// A release on a registered cluster; repeatable, 40 at most.
        #[arg(
            long = "target",
            value_name = "CLUSTER/NAMESPACE/RELEASE",
            value_parser = registered_target,
            required = true
        )]
        targets: Vec<Target>,
        /// How long its deployments wait, from 10s to 2h; by default as the stack says.
        #[arg(long, value_name = "DURATION", value_parser = timeout_secs)]
        timeout: Option<u32>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Remove one; what runs already goes on.
    Delete {
        #[command(flatten)]
        named: Named,
        /// Don't ask first.
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        asking: Asking,
    },
}

/// One environment.
#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct Named {
    /// The app.
    #[arg(value_parser = label)]
    pub(crate) app: String,
    /// The environment.
    #[arg(value_parser = label)]
    pub(crate) environment: String,
}

const DEPLOYMENTS: &str = "\
Examples:
  dag-monitor deployments list --app checkout --environment production
  dag-monitor deployments show checkout-4711
  dag-monitor run --follow checkout-4711";

/// List and show deployments: what was pushed, and what became of it.
#[derive(Debug, PartialEq, Eq, Args)]
#[command(after_help = DEPLOYMENTS, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Deployments {
    #[command(subcommand)]
    pub(crate) command: DeploymentsCommand,
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum DeploymentsCommand {
    /// List those of an environment, the newest first.
    List {
        /// The app.
        #[arg(long, value_name = "APP", value_parser = label)]
        app: String,
        /// The environment.
        #[arg(long, value_name = "ENVIRONMENT", value_parser = label)]
        environment: String,
        /// How many at most.
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        asking: Asking,
    },
    /// Show one, with its targets and why they stand as they do.
    Show {
        /// The deployment's id.
        #[arg(value_name = "ID", value_parser = deployment_id)]
        id: String,
        #[command(flatten)]
        asking: Asking,
    },
}

/// How a question is asked, and its answer shown.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct Asking {
    /// What is printed.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) aws: AwsArguments,
}

const RUN: &str = "\
Examples:
  Push, and say what became of it in a registered environment:
    dag-monitor run --app checkout --environment production -- git push

  What a pipeline pushed a moment ago, told from everybody else's pushes:
    pushed_at=$(date -u +%Y-%m-%dT%H:%M:%SZ); git push
    dag-monitor run --app checkout --environment production \\
      --pushed-at \"$pushed_at\" --expect-chart 1.4.0

  Without an environment, on registered clusters:
    dag-monitor run --helm-type flux --target \"Prod EU/shop/checkout\" -- git push

  Start it only, and follow it later, from anywhere:
    id=$(dag-monitor run --app checkout --environment production --detach)
    dag-monitor run --follow \"$id\"

Exit codes:
  0    every release is deployed
  1    one has failed
  2    one was waited for in vain (--timeout)
  3    nothing is known: arguments, credentials, no answer of the API, or nobody could judge
  4    the command after -- failed; nothing was started
  130  interrupted, by Ctrl-C or SIGTERM; what was started goes on on AWS";

/// The part of the help that tells them.
#[cfg(test)]
pub(crate) fn exit_codes() -> &'static str {
    RUN.split_once("Exit codes:").map_or("", |it| it.1)
}

/// Start a deployment on AWS, and follow it until each release has its verdict.
///
/// The state machine judges, whatever becomes of this program: a connection that breaks off
/// is made again, and a deployment can be followed anew by its id.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(after_long_help = RUN, after_help = "See --help for examples and exit codes.")]
pub(crate) struct Run {
    /// The app; with the environment it says what is judged, where no target does.
    #[arg(long, value_name = "APP", requires = "environment", value_parser = label)]
    pub(crate) app: Option<String>,
    /// The environment.
    #[arg(long, value_name = "ENVIRONMENT", requires = "app", value_parser = label)]
    pub(crate) environment: Option<String>,
    /// A release on a registered cluster; repeatable, 40 at most.
    #[arg(
        long = "target",
        value_name = "CLUSTER/NAMESPACE/RELEASE",
        value_parser = registered_target,
        required_unless_present_any = ["app", "follow"],
    )]
    pub(crate) targets: Vec<Target>,
    /// Who deploys to the targets: Flux's helm-controller, by default, or Helm itself.
    #[arg(long, value_enum, value_name = "TYPE", requires = "targets")]
    pub(crate) helm_type: Option<HelmType>,
    /// How long to wait, from 10s to 2h; by default as the environment or the stack says.
    #[arg(long, value_name = "DURATION", value_parser = timeout_secs)]
    pub(crate) timeout: Option<u32>,
    /// What the deployment is called, used once; 1-80 of A-Z a-z 0-9 - _. By default one is
    /// made up.
    #[arg(long, value_name = "ID", value_parser = deployment_id)]
    pub(crate) deployment_id: Option<String>,
    /// Start it only, and print its id.
    #[arg(long)]
    pub(crate) detach: bool,
    /// Start nothing; follow a deployment that was started.
    #[arg(
        long,
        value_name = "ID",
        value_parser = deployment_id,
        conflicts_with_all = [
            "app", "environment", "targets", "helm_type", "timeout", "deployment_id", "detach", "expect_chart",
            "expect_app", "expect_values", "pushed_at", "fail_on", "fail_fast", "allow_unchanged", "command",
        ],
    )]
    pub(crate) follow: Option<String>,

    #[command(flatten)]
    pub(crate) judging: Judging,

    // The last: its heading would be that of what came after it.
    #[command(flatten)]
    pub(crate) aws: AwsArguments,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser as _;
    use jiff::Timestamp;

    use super::*;
    use crate::cli::{Cli, Command, FailOn, Output};

    fn command(words: &[&str]) -> Result<Command, String> {
        let all = ["dag-monitor"].iter().chain(words);
        let read = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
        Ok(read.command.unwrap_or_default())
    }

    fn asking() -> Asking {
        Asking::default()
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn checkout() -> Target {
        let [cluster, namespace] = ["Prod EU", "shop"].map(text);
        Target { cluster, namespace, release: "checkout".to_owned() }
    }

    /// Each option by its name, and what it sets.
    #[test]
    fn every_option_of_a_registration_is_read() {
        let with = |arguments: &[&str], change: &dyn Fn(&mut Register)| {
            let mut wanted = Register { ..Register::default() };
            change(&mut wanted);
            let read = command(&[&["register"], arguments].concat());
            assert_eq!(read, Ok(Command::Register(Box::new(wanted))), "{arguments:?}");
        };
        with(&[], &|_| ());
        with(&["Prod EU"], &|it| it.name = text("Prod EU"));
        with(&["-n", "shop", "--namespace", "team-*"], &|it| {
            it.namespaces = vec!["shop".to_owned(), "team-*".to_owned()];
        });
        with(&["--no-probe"], &|it| it.no_probe = true);
        with(&["--replace"], &|it| it.replace = true);
        with(&["-o", "json"], &|it| it.output = Format::Json);
        with(&["--output", "text"], &|it| it.output = Format::Text);
        with(&["--kubeconfig", "a"], &|it| it.kubeconfig = Some("a".into()));
        with(&["--context", "prod"], &|it| it.context = text("prod"));
        with(&["--rights", "cluster"], &|it| it.rights = Rights::Cluster);
        with(&["--rights", "flux-only"], &|it| it.rights = Rights::FluxOnly);
        with(&["--rights", "namespaced"], &|it| it.rights = Rights::Namespaced);
        for apply in ["--apply", "--yes", "-y"] {
            with(&[apply], &|it| it.apply = true);
        }
        with(&["--eks-cluster", "prod", "--eks-region", "eu-west-1", "--eks-role-arn", "arn"], &|it| {
            it.eks_cluster = text("prod");
            it.eks_region = text("eu-west-1");
            it.eks_role_arn = text("arn");
        });
        with(&["--stack", "other"], &|it| it.aws.stack = text("other"));
        with(&["--profile", "prod"], &|it| it.aws.profile = text("prod"));
        with(&["--region", "eu-west-1"], &|it| it.aws.region = text("eu-west-1"));
        with(&["--endpoint", "https://a.example.com/v1"], &|it| {
            it.aws.endpoint = Some(ApiAddress::parse("https://a.example.com/v1").unwrap());
        });
    }

    #[test]
    fn every_option_of_a_run_is_read() {
        let with = |arguments: &[&str], change: &dyn Fn(&mut Run)| {
            let [app, environment] = ["checkout", "production"].map(text);
            let mut wanted = Run { app, environment, ..Run::default() };
            change(&mut wanted);
            let named = ["run", "--app", "checkout", "--environment", "production"];
            let read = command(&[&named, arguments].concat());
            assert_eq!(read, Ok(Command::Run(Box::new(wanted))), "{arguments:?}");
        };
        with(&[], &|_| ());
        with(&["--target", "Prod EU/shop/checkout", "--helm-type", "plain"], &|it| {
            it.targets = vec![checkout()];
            it.helm_type = Some(HelmType::Plain);
        });
        with(&["--timeout", "10m"], &|it| it.timeout = Some(600));
        with(&["--deployment-id", "a-1_B"], &|it| it.deployment_id = text("a-1_B"));
        with(&["--detach"], &|it| it.detach = true);
        with(&["--expect-chart", "1.4.0"], &|it| it.judging.expect_chart = text("1.4.0"));
        with(&["--pushed-at", "2026-11-23T19:15:45Z"], &|it| {
            it.judging.pushed_at = Some("2026-11-23T19:15:45Z".parse::<Timestamp>().unwrap());
        });
        with(&["--fail-on", "first", "--fail-fast", "--allow-unchanged"], &|it| {
            it.judging.fail_on = FailOn::First;
            (it.judging.fail_fast, it.judging.allow_unchanged) = (true, true);
        });
        with(&["-o", "github"], &|it| it.judging.output = Output::Github);
        with(&["--region", "eu-west-1"], &|it| it.aws.region = text("eu-west-1"));
        with(&["--", "git", "push"], &|it| {
            it.judging.command = ["git", "push"].map(OsString::from).to_vec();
        });
        let follow = Run { follow: text("a-1"), ..Run::default() };
        assert_eq!(command(&["run", "--follow", "a-1"]), Ok(Command::Run(Box::new(follow))));
    }

    #[test]
    fn every_question_is_read() {
        let [app, environment] = ["checkout", "production"].map(str::to_owned);
        let named = || Named { app: app.clone(), environment: environment.clone() };
        let name = "Prod EU".to_owned();
        let json = || Asking { output: Format::Json, ..asking() };
        for (words, wanted) in [
            (&["list", "--limit", "7"][..], ClustersCommand::List { limit: Some(7), asking: asking() }),
            (&["list", "-o", "json"], ClustersCommand::List { limit: None, asking: json() }),
            (&["show", "Prod EU"], ClustersCommand::Show { name: name.clone(), asking: asking() }),
            (&["probe", "Prod EU"], ClustersCommand::Probe { name: name.clone(), asking: asking() }),
            (
                &["delete", "Prod EU", "--yes"],
                ClustersCommand::Delete { name: name.clone(), yes: true, asking: asking() },
            ),
        ] {
            let read = command(&[&["clusters"], words].concat());
            assert_eq!(read, Ok(Command::Clusters(Clusters { command: wanted })), "{words:?}");
        }
        let set = |helm_type, timeout| EnvironmentsCommand::Set {
            named: named(),
            helm_type,
            targets: vec![checkout()],
            timeout,
            asking: asking(),
        };
        let both = ["checkout", "production"];
        let target = ["--target", "Prod EU/shop/checkout"];
        for (words, wanted) in [
            (
                vec!["list", "checkout", "--limit", "7"],
                EnvironmentsCommand::List { app: app.clone(), limit: Some(7), asking: asking() },
            ),
            ([&["show"][..], &both].concat(), EnvironmentsCommand::Show { named: named(), asking: asking() }),
            ([&["set"][..], &both, &target].concat(), set(HelmType::Flux, None)),
            (
                [&["set"][..], &both, &target, &["--helm-type", "plain", "--timeout", "10m"]].concat(),
                set(HelmType::Plain, Some(600)),
            ),
            (
                [&["delete"][..], &both, &["-y"]].concat(),
                EnvironmentsCommand::Delete { named: named(), yes: true, asking: asking() },
            ),
        ] {
            let read = command(&[&["environments"], &words[..]].concat());
            assert_eq!(read, Ok(Command::Environments(Environments { command: wanted })), "{words:?}");
        }
        for (words, wanted) in [
            (
                &["list", "--app", "checkout", "--environment", "production", "--limit", "7"][..],
                DeploymentsCommand::List { app, environment, limit: 7, asking: asking() },
            ),
            (
                &["show", "checkout-4711"],
                DeploymentsCommand::Show { id: "checkout-4711".to_owned(), asking: asking() },
            ),
        ] {
            let read = command(&[&["deployments"], words].concat());
            assert_eq!(read, Ok(Command::Deployments(Deployments { command: wanted })), "{words:?}");
        }
    }

    #[test]
    fn what_can_not_be_used_is_refused_by_name() {
        let run = |words: &[&'static str]| [&["run"], words].concat();
        for (words, named) in [
            (run(&[]), "--target"),
            (run(&["--app", "checkout"]), "--environment"),
            (run(&["--app", "Checkout", "--environment", "production"]), "a-z 0-9 -"),
            (run(&["--target", "shop/checkout"]), "registered cluster"),
            (run(&["--follow", "a", "--app", "a", "--environment", "b"]), "--app"),
            (run(&["--follow", "a", "--expect-chart", "1"]), "--expect-chart"),
            (run(&["--follow", "a", "--detach"]), "--detach"),
            (run(&["--follow", "a/b"]), "1-80"),
            (run(&["--deployment-id", "", "--target", "a/b/c"]), "1-80"),
            (run(&["--app", "a", "--environment", "b", "--helm-type", "flux"]), "--target"),
            (vec!["register", "--eks-region", "eu-west-1"], "--eks-cluster"),
            (vec!["register", "--eks-cluster", "a", "--context", "b"], "--context"),
            (vec!["register", "--rights", "all"], "flux-only"),
            (vec!["register", "--endpoint", "http://a.example.com"], "this machine only"),
            (vec!["deployments", "list"], "--app"),
            (vec!["environments", "set", "a", "b"], "--target"),
            (vec!["clusters", "show"], "NAME"),
            (vec!["clusters"], "list"),
        ] {
            let refused = command(&words).unwrap_err();
            assert!(refused.contains(named), "{words:?}: {refused}");
        }
    }
}
