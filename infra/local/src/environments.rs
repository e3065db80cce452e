//! The environments of apps: listed, shown, set, deleted.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use axum::http::Method;
use jiff::Timestamp;
use monitor::request::TargetRequest;
use serde::Deserialize;
use serde_json::{Value, json};
use verdict::HelmType;

use crate::{
    api::Api,
    asking::{ASKED, Failure, may_remove, print_json, print_list, run as asked},
    cli::{Environments, EnvironmentsCommand, Format, Named, Target},
    clusters::instant,
    display::helm_type,
    environment::Environment as Variables,
    grid::grid,
};

pub(crate) async fn run(arguments: &Environments, variables: &Variables) -> ExitCode {
    asked(answer(&arguments.command, variables), ASKED).await
}

async fn answer(command: &EnvironmentsCommand, variables: &Variables) -> Result<(), Failure> {
    match command {
        EnvironmentsCommand::List { app, limit, asking } => {
            let api = Api::find(&asking.aws, variables).await?;
            let found = api.list(&format!("/apps/{app}/environments"), "", "environments", *limit).await?;
            print_list(&api, found, "environments", asking.output, table)?;
        }
        EnvironmentsCommand::Show { named, asking } => {
            let api = Api::find(&asking.aws, variables).await?;
            show(&api, &api.get(&path(named)).await?, asking.output)?;
        }
        EnvironmentsCommand::Set { named, helm_type, targets, timeout, asking } => {
            let api = Api::find(&asking.aws, variables).await?;
            let mut body = json!({"helmType": helm_type.as_str(), "targets": fields(targets)});
            if let Some(timeout) = timeout {
                body["timeoutSecs"] = json!(timeout);
            }
            show(&api, &api.ask(Method::PUT, &path(named), Some(&body)).await?, asking.output)?;
        }
        EnvironmentsCommand::Delete { named, yes, asking } => {
            let api = Api::find(&asking.aws, variables).await?;
            let what = format!("the environment {} of {}", named.environment, named.app);
            may_remove(&what, *yes).await?;
            let answer = api.ask(Method::DELETE, &path(named), None).await?;
            match asking.output {
                Format::Json => print_json(&answer)?,
                Format::Text => writeln!(io::stdout(), "Deleted {what}.")?,
            }
        }
    }
    Ok(())
}

/// Both are labels, which need no encoding.
fn path(Named { app, environment }: &Named) -> String {
    format!("/apps/{app}/environments/{environment}")
}

/// Targets as a request has them.
pub(crate) fn fields(targets: &[Target]) -> Vec<Value> {
    let field =
        |it: &Target| json!({"cluster": it.cluster, "namespace": it.namespace, "release": it.release});
    targets.iter().map(field).collect()
}

/// What is shown of an environment.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Environment {
    app: String,
    environment: String,
    helm_type: HelmType,
    targets: Vec<TargetRequest>,
    timeout_secs: Option<u32>,
    updated_at: Timestamp,
}

impl Environment {
    fn timeout(&self) -> String {
        self.timeout_secs.map_or_else(|| "the stack's".to_owned(), |secs| format!("{secs} s"))
    }

    fn described(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        row("App:", self.app.clone());
        row("Environment:", self.environment.clone());
        row("Helm type:", helm_type(self.helm_type).to_owned());
        row("Timeout:", self.timeout());
        row("Updated:", instant(self.updated_at));
        for (index, target) in self.targets.iter().enumerate() {
            let TargetRequest { cluster, namespace, release } = target;
            row(if index == 0 { "Targets:" } else { "" }, format!("{cluster}/{namespace}/{release}"));
        }
        grid(&rows)
    }
}

fn show(api: &Api, answer: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(answer)?,
        Format::Text => write!(io::stdout(), "{}", api.read::<Environment>(answer)?.described())?,
    }
    Ok(())
}

fn table(environments: &[Environment]) -> Vec<Vec<String>> {
    let head = ["ENVIRONMENT", "HELM TYPE", "TARGETS", "TIMEOUT", "UPDATED"].map(str::to_owned).to_vec();
    let rows = environments.iter().map(|it| {
        let helm_type = helm_type(it.helm_type).to_owned();
        let targets = it.targets.len().to_string();
        vec![it.environment.clone(), helm_type, targets, it.timeout(), instant(it.updated_at)]
    });
    [head].into_iter().chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_described_with_its_targets() {
        let target = |cluster: &str| json!({"cluster": cluster, "namespace": "shop", "release": "checkout"});
        let environment = json!({
            "app": "checkout", "environment": "production", "helmType": "flux",
            "targets": [target("Prod EU"), target("prod-us")], "timeoutSecs": 600,
            "createdAt": "2026-11-23T19:15:45Z", "updatedAt": "2026-11-23T19:15:45.123Z",
        });
        let environment: Environment = serde_json::from_value(environment).unwrap();
        assert_eq!(
            environment.described(),
            "App:          checkout\nEnvironment:  production\nHelm type:    flux\nTimeout:      600 s\n\
             Updated:      2026-11-23T19:15:45Z\nTargets:      Prod EU/shop/checkout\n              \
             prod-us/shop/checkout\n"
        );
        assert_eq!(
            grid(&table(&[environment])),
            "ENVIRONMENT  HELM TYPE  TARGETS  TIMEOUT  UPDATED\n\
             production   flux       2        600 s    2026-11-23T19:15:45Z\n"
        );
    }
}
