//! The arguments of `watch`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    judging::Judging,
    parsers::{Target, target, timeout_secs},
};

const EXAMPLES: &str = "\
Examples:
  Push, and say what became of it. The baseline is taken before the push:
    dag-monitor watch -n shop checkout -- git push

  What a pipeline pushed a moment ago, told from everybody else's pushes:
    pushed_at=$(date -u +%Y-%m-%dT%H:%M:%SZ); git push
    dag-monitor watch -n shop checkout --pushed-at \"$pushed_at\" --expect-chart 1.4.0

  A push that changes only values:
    dag-monitor watch -n shop checkout --expect-value /image/tag=2026.11.3 -- git push

  Several clusters of the kubeconfig at once, by their contexts:
    dag-monitor watch --target prod-eu/shop/checkout --target prod-us/shop/checkout -- git push

  Helm itself, as a pipeline runs it:
    dag-monitor watch --helm-type plain -n shop checkout --timeout 10m -- helm upgrade checkout ./chart -n shop

  Is what is there now all right?
    dag-monitor watch -n shop checkout --allow-unchanged --timeout 10s

  In GitHub Actions, with annotations and a job summary; elsewhere, for programs:
    dag-monitor watch -n shop checkout -o github -- git push
    dag-monitor watch -n shop checkout -o json -- git push | jq -r .message

Exit codes:
  0    every release is deployed
  1    one has failed
  2    one was waited for in vain (--timeout)
  3    it could not look: arguments, kubeconfig, credentials, or no cluster that answers
  4    the command after -- failed; nothing was judged
  130  interrupted, by Ctrl-C or SIGTERM";

/// The part of the help that tells them.
#[cfg(test)]
pub(crate) fn exit_codes() -> &'static str {
    EXAMPLES.split_once("Exit codes:").map_or("", |it| it.1)
}

/// Watch releases on any cluster of your kubeconfig until each has its verdict.
///
/// What was there before the push never counts as success: a verdict needs evidence that
/// something happened after it. So either let this program run the push (`-- git push`),
/// or tell it when the push was (`--pushed-at`), or start it before the push.
///
/// It asks the API server every five seconds, for one object a release: it needs `get
/// helmreleases` (flux) or `list secrets` (plain) in the namespace, and changes nothing.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(after_long_help = EXAMPLES, after_help = "See --help for examples and exit codes.")]
pub(crate) struct Watch {
    /// The release: a HelmRelease's name (flux), or a Helm release's (plain).
    #[arg(value_name = "RELEASE", required_unless_present = "targets", conflicts_with = "targets")]
    pub(crate) release: Option<String>,
    /// The namespace that it is in; by default the context's, else `default`.
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "targets")]
    pub(crate) namespace: Option<String>,
    /// One of several releases; repeatable, 40 at most.
    ///
    /// CLUSTER is the name of a context; without it the one of --context.
    #[arg(long = "target", value_name = "CLUSTER/NAMESPACE/RELEASE", value_parser = target)]
    pub(crate) targets: Vec<Target>,
    /// Who deploys: Flux's helm-controller, or Helm itself.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t)]
    pub(crate) helm_type: HelmType,
    /// How long to wait, from 10s to 2h; from the end of the command, where there is one.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = timeout_secs)]
    pub(crate) timeout: u32,

    #[command(flatten)]
    pub(crate) judging: Judging,

    // The last: its heading would be that of what came after it.
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
}

/// Which cluster is asked, and as whom.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArguments {
    /// The kubeconfig; by default the files of $KUBECONFIG, else ~/.kube/config, else the
    /// pod's own account.
    #[arg(long, value_name = "FILE", conflicts_with = "api_url")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context; by default the current one.
    #[arg(long, value_name = "NAME", conflicts_with = "api_url")]
    pub(crate) context: Option<String>,
    /// The API server, without a kubeconfig.
    #[arg(long, visible_alias = "server", value_name = "URL", requires = "token_file")]
    pub(crate) api_url: Option<String>,
    /// A file with the token for --api-url; read again as it changes.
    #[arg(long, value_name = "FILE", requires = "api_url")]
    pub(crate) token_file: Option<PathBuf>,
    /// The CA of --api-url in PEM; by default the public ones.
    #[arg(long, visible_alias = "certificate-authority", value_name = "FILE", requires = "api_url")]
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum HelmType {
    /// Flux: the HelmRelease is read.
    #[default]
    Flux,
    /// Helm, from a pipeline or by hand: its release secrets are listed.
    Plain,
}

impl HelmType {
    /// As requests have it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Flux => "flux",
            Self::Plain => "plain",
        }
    }
}

impl From<HelmType> for verdict::HelmType {
    fn from(helm_type: HelmType) -> Self {
        match helm_type {
            HelmType::Flux => Self::Flux,
            HelmType::Plain => Self::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::cli::{
        Cli, Command,
        judging::{FailOn, Output},
        parsers::ExpectedValue,
    };

    fn read(arguments: &[&str]) -> Result<Watch, String> {
        let all = ["dag-monitor", "watch"].iter().chain(arguments);
        match Cli::try_parse_from(all).map_err(|e| e.to_string())?.command {
            Some(Command::Watch(watch)) => Ok(*watch),
            other => panic!("{other:?}"),
        }
    }

    fn plain() -> Watch {
        Watch { release: Some("checkout".to_owned()), timeout: 300, ..Watch::default() }
    }

    /// Each option by its name, and what it sets.
    #[test]
    fn every_option_is_read() {
        assert_eq!(read(&["checkout"]), Ok(plain()));
        let text = |text: &str| Some(text.to_owned());
        let with = |arguments: &[&str], change: &dyn Fn(&mut Watch)| {
            let mut wanted = plain();
            change(&mut wanted);
            assert_eq!(read(&[&["checkout"], arguments].concat()), Ok(wanted), "{arguments:?}");
        };
        with(&["-n", "shop"], &|it| it.namespace = text("shop"));
        with(&["--namespace", "shop"], &|it| it.namespace = text("shop"));
        with(&["--helm-type", "flux"], &|it| it.helm_type = HelmType::Flux);
        with(&["--helm-type", "plain"], &|it| it.helm_type = HelmType::Plain);
        with(&["--timeout", "10m"], &|it| it.timeout = 600);
        with(&["--timeout", "300"], &|it| it.timeout = 300);
        with(&["--kubeconfig", "a"], &|it| it.cluster.kubeconfig = Some("a".into()));
        with(&["--context", "prod"], &|it| it.cluster.context = text("prod"));
        for [server, ca] in [["--api-url", "--ca-file"], ["--server", "--certificate-authority"]] {
            with(&[server, "https://a", "--token-file", "t", ca, "c"], &|it| {
                it.cluster.api_url = text("https://a");
                it.cluster.token_file = Some("t".into());
                it.cluster.ca_file = Some("c".into());
            });
        }
        with(&["--expect-chart", "1.4.0"], &|it| it.judging.expect_chart = text("1.4.0"));
        with(&["--expect-app", "2"], &|it| it.judging.expect_app = text("2"));
        with(&["--expect-value", "/a=1", "--expect-value", "/b=2"], &|it| {
            let value = |pointer: &str, value| ExpectedValue { pointer: pointer.to_owned(), value };
            it.judging.expect_values = vec![value("/a", json!("1")), value("/b", json!("2"))];
        });
        for pushed_at in ["2026-11-23T19:15:45Z", "2026-11-23T20:15:45+01:00"] {
            with(&["--pushed-at", pushed_at], &|it| {
                it.judging.pushed_at = Some("2026-11-23T19:15:45Z".parse().unwrap());
            });
        }
        with(&["--fail-on", "first"], &|it| it.judging.fail_on = FailOn::First);
        with(&["--fail-on", "final"], &|it| it.judging.fail_on = FailOn::Final);
        with(&["--fail-fast"], &|it| it.judging.fail_fast = true);
        with(&["--allow-unchanged"], &|it| it.judging.allow_unchanged = true);
        with(&["-o", "json"], &|it| it.judging.output = Output::Json);
        with(&["--output", "github"], &|it| it.judging.output = Output::Github);
        with(&["--output", "text"], &|it| it.judging.output = Output::Text);
        with(&["--", "git", "push", "--force"], &|it| {
            it.judging.command = ["git", "push", "--force"].map(OsString::from).to_vec();
        });

        let two = read(&["--target", "prod/shop/checkout", "--target", "shop/cart"]).unwrap();
        assert_eq!(two.targets, [target("prod/shop/checkout").unwrap(), target("shop/cart").unwrap()]);
        assert_eq!(two.release, None);
    }

    #[test]
    fn what_can_not_go_together_is_refused_by_name() {
        for (arguments, named) in [
            (&["-n", "shop"][..], "RELEASE"),
            (&["checkout", "--target", "a/b/c"], "--target"),
            (&["--target", "a/b/c", "-n", "shop"], "--target"),
            (&["--target", "c"], "CLUSTER/NAMESPACE/RELEASE"),
            (&["checkout", "--api-url", "https://a"], "--token-file"),
            (&["checkout", "--token-file", "t"], "--api-url"),
            (&["checkout", "--ca-file", "t"], "--api-url"),
            (&["checkout", "--api-url", "https://a", "--token-file", "t", "--context", "x"], "--context"),
            (
                &["checkout", "--api-url", "https://a", "--token-file", "t", "--kubeconfig", "x"],
                "--kubeconfig",
            ),
            (&["checkout", "--pushed-at", "2026-11-23T19:15:45Z", "--", "git", "push"], "COMMAND"),
            (&["checkout", "--pushed-at", "yesterday"], "yesterday"),
            (&["checkout", "--timeout", "3s"], "10s to 2h"),
            (&["checkout", "--helm-type", "argo"], "flux, plain"),
            (&["checkout", "-o", "yaml"], "text, json, github"),
            (&["checkout", "--expect-value", "image.tag=1"], "/image/tag=1.2.3"),
            (&["checkout", "git", "push"], "git"),
            (&["checkout", "--fail-on", "never"], "final, first"),
            (&["checkout", "--expct-chart", "1"], "--expect-chart"),
        ] {
            let refused = read(arguments).unwrap_err();
            assert!(refused.contains(named), "{arguments:?}: {refused}");
        }
    }
}
