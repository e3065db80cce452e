//! What was deployed: listed and shown.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use jiff::Timestamp;
use monitor::{answer::Answer, deployment::Summary};
use verdict::Status;

use crate::{
    api::Api,
    asking::{ASKED, Failure, print_json, print_list, run as asked},
    cli::{Deployments, DeploymentsCommand, Format},
    clusters::instant,
    display::columns,
    environment::Environment,
    grid::grid,
    report::paragraph,
    run::told_rows,
    text::wrap,
};

pub(crate) async fn run(arguments: &Deployments, environment: &Environment) -> ExitCode {
    asked(answer(&arguments.command, environment), ASKED).await
}

async fn answer(command: &DeploymentsCommand, variables: &Environment) -> Result<(), Failure> {
    match command {
        DeploymentsCommand::List { app, environment, limit, asking } => {
            let api = Api::find(&asking.aws, variables).await?;
            let query = format!("&app={app}&environment={environment}");
            let found = api.list("/deployments", &query, "deployments", Some(*limit)).await?;
            print_list(&api, found, "deployments", asking.output, table)?;
        }
        DeploymentsCommand::Show { id, asking } => {
            let api = Api::find(&asking.aws, variables).await?;
            let answer = api.get(&format!("/deployments/{id}")).await?;
            match asking.output {
                Format::Json => print_json(&answer)?,
                Format::Text => write!(io::stdout(), "{}", described(&api.read(&answer)?))?,
            }
        }
    }
    Ok(())
}

fn table(deployments: &[Summary]) -> Vec<Vec<String>> {
    let head = ["ID", "STATUS", "REASON", "STARTED", "FINISHED"].map(str::to_owned).to_vec();
    let rows = deployments.iter().map(|it| {
        let finished = it.finished_at.map(instant).unwrap_or_default();
        let (status, reason) = (it.status.as_str().to_owned(), it.reason.as_str().to_owned());
        vec![it.deployment_id.clone(), status, reason, instant(it.started_at), finished]
    });
    [head].into_iter().chain(rows).collect()
}

fn described(answer: &Answer) -> String {
    let mut cells = Vec::new();
    let mut row = |name: &str, value: String| cells.push(vec![name.to_owned(), value]);
    row("Deployment:", answer.deployment_id.clone());
    if let (Some(app), Some(environment)) = (&answer.app, &answer.environment) {
        row("Environment:", format!("{environment} of {app}"));
    }
    let waited = answer.last_reason.map(|it| format!(", waiting with {it}")).unwrap_or_default();
    row("Status:", format!("{}, {}{waited}", answer.status.as_str(), answer.reason));
    row("Started:", instant(answer.started_at));
    match answer.finished_at {
        Some(finished) => row("Finished:", instant(finished)),
        None => row("Deadline:", instant(answer.deadline)),
    }
    row("Looks:", answer.polls.to_string());
    let mut text = grid(&cells);
    // What stands in the paragraph of the only release need not stand here, too.
    if answer.targets.len() != 1 || answer.status == Status::Pending {
        for line in wrap(&answer.message, columns().saturating_sub(1).max(40)) {
            text.push_str(&format!("{line}\n"));
        }
    }
    if !answer.targets.is_empty() {
        text.push('\n');
        told_rows(answer).iter().for_each(|row| text.push_str(&paragraph(row, Timestamp::now())));
    }
    text
}

#[cfg(test)]
mod tests {
    use console::strip_ansi_codes;
    use verdict::Reason;

    use super::*;
    use crate::{driver::tests::answer, run::tests::target};

    #[test]
    fn a_deployment_is_described_with_what_became_of_each_release() {
        let targets = vec![
            target("prod-eu", Status::Succeeded, Reason::UpgradeSucceeded, "it is upgraded"),
            target("prod-us", Status::Failed, Reason::RolledBack, "it is rolled back"),
        ];
        let [app, environment] = ["checkout", "production"].map(|it| Some(it.to_owned()));
        let failed = answer(Status::Failed, Reason::RolledBack, "one of two is rolled back");
        let shown = described(&Answer { targets, app, environment, ..failed });
        assert_eq!(
            strip_ansi_codes(&shown),
            "Deployment:   checkout-4711\nEnvironment:  production of checkout\n\
             Status:       failed, RolledBack\nStarted:      2026-11-23T19:15:45Z\n\
             Finished:     2026-11-23T19:15:45Z\nLooks:        3\none of two is rolled back\n\n\
             ✓ prod-eu/shop/cart  succeeded  UpgradeSucceeded  0 s\n    it is upgraded\n\
             ✗ prod-us/shop/cart  failed  RolledBack  0 s\n    it is rolled back\n"
        );
    }

    #[test]
    fn a_history_has_a_line_for_each() {
        let summary = Summary {
            deployment_id: "checkout-4711".to_owned(),
            status: Status::Pending,
            reason: Reason::Progressing,
            started_at: "2026-11-23T19:15:45Z".parse().unwrap(),
            finished_at: None,
        };
        assert_eq!(
            grid(&table(&[summary])),
            "ID             STATUS   REASON       STARTED               FINISHED\n\
             checkout-4711  pending  Progressing  2026-11-23T19:15:45Z\n"
        );
    }
}
