//! [`Metrics`] and [`CheckMetrics`] as lines of the log, from which CloudWatch takes them.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::Arc,
};

use monitor::{
    deployment::Deployment,
    ports::{CheckMetrics, Checked, Clock, ClusterFailed, Metrics, Probed},
};
use serde_json::{Map, Value, json};

/// Under which all of ours stand in CloudWatch.
const NAMESPACE: &str = "dag-monitor";

/// [`Metrics`] and [`CheckMetrics`] in CloudWatch's embedded metric format: a JSON
/// document that is a line of its own on the standard output.
///
/// Lambda needs nothing beside that line ("Specification: Embedded metric format",
/// CloudWatch user guide). With the JSON log format it rewrites the output of some
/// managed runtimes only, not ours; and where an application log level is set, a line
/// that has no `level` counts as `INFO` ("Log-level filtering", Lambda developer
/// guide): with `WARN` and above these metrics end.
///
/// The lines of the checks are lines of the log, too: members that are no metric and no
/// dimension are fields for a query, and cost no metric. Ids of deployments are never
/// a dimension.
#[derive(Clone)]
pub struct EmfMetrics {
    stack: String,
    clock: Arc<dyn Clock>,
    write: Arc<dyn Fn(&str) + Send + Sync>,
}

/// One metric of a line: name, unit, value.
type Figure = (&'static str, &'static str, Value);

/// Metrics that have the same sets of dimensions: those sets, without the stack, and the metrics.
type Group = (&'static [&'static [&'static str]], Vec<Figure>);

impl EmfMetrics {
    /// Metrics of this stack.
    #[must_use]
    pub fn new(stack: &str, clock: Arc<dyn Clock>) -> Self {
        Self::writing_to(stack, clock, |line| {
            // At once, so that no line of the log comes in between. There is nobody to
            // tell that the standard output is closed.
            let _written = io::stdout().lock().write_all(line.as_bytes());
        })
    }

    /// Metrics of this stack, whose lines go elsewhere. Each ends with a line feed.
    #[must_use]
    pub fn writing_to(
        stack: &str,
        clock: Arc<dyn Clock>,
        write: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self { stack: stack.to_owned(), clock, write: Arc::new(write) }
    }

    /// One line of these metrics, and of the members that are no metric.
    fn write(&self, groups: Vec<Group>, mut members: Map<String, Value>) {
        let mut directives = Vec::new();
        for (sets, figures) in groups {
            let mut metrics = Vec::new();
            for (name, unit, value) in figures {
                metrics.push(json!({"Name": name, "Unit": unit}));
                members.insert(name.to_owned(), value);
            }
            let sets: Vec<Vec<&str>> = sets.iter().map(|set| [&["Stack"], *set].concat()).collect();
            directives.push(json!({"Namespace": NAMESPACE, "Dimensions": sets, "Metrics": metrics}));
        }
        members.insert("Stack".to_owned(), self.stack.as_str().into());
        let timestamp = self.clock.now().as_millisecond();
        members.insert("_aws".to_owned(), json!({"Timestamp": timestamp, "CloudWatchMetrics": directives}));
        (self.write)(&(Value::Object(members).to_string() + "\n"));
    }

    /// What a line of the log has, as those that are no metric.
    fn logged(&self, message: &str, fields: Value) -> Map<String, Value> {
        let mut members = if let Value::Object(members) = fields { members } else { Map::new() };
        members.insert("timestamp".to_owned(), self.clock.now().to_string().into());
        members.insert("level".to_owned(), "INFO".into());
        members.insert("message".to_owned(), message.into());
        members
    }

    fn stands(&self, message: &str, item: &Deployment, took: Option<i64>, verdict: bool) {
        let clusters: BTreeSet<&str> = item.targets.iter().map(|it| it.cluster_id.as_str()).collect();
        let mut members = self.logged(
            message,
            json!({
                "deployment_id": item.deployment_id,
                "clusters": clusters,
                "status": item.status.as_str(),
                "reason": item.reason.as_str(),
                "polls": item.polls,
                "sentence": item.message,
            }),
        );
        let mut groups: Vec<Group> = Vec::new();
        if let Some(took) = took {
            groups.push((&[&[]], vec![("PollDuration", "Milliseconds", took.into())]));
        }
        if verdict {
            // Both from closed lists.
            members.insert("Status".to_owned(), item.status.as_str().into());
            members.insert("Reason".to_owned(), item.reason.as_str().into());
            groups.push((&[&["Status", "Reason"]], vec![("Verdicts", "Count", 1.into())]));
            if let Some(finished_at) = item.finished_at {
                let seconds = finished_at.duration_since(item.started_at).as_secs().max(0);
                groups.push((&[&["Status"]], vec![("TimeToVerdict", "Seconds", seconds.into())]));
            }
        }
        self.write(groups, members);
    }
}

impl Metrics for EmfMetrics {
    fn cluster_probed(&self, probed: &Probed<'_>) {
        let mut figures = vec![("ClusterUnreachable", "Count", i64::from(!probed.reached).into())];
        for (name, left) in [
            ("TokenSecondsLeft", probed.token_secs_left),
            ("CertificateSecondsLeft", probed.certificate_secs_left),
        ] {
            if let Some(left) = left {
                figures.push((name, "Seconds", left.into()));
            }
        }
        let members = Map::from_iter([("Cluster".to_owned(), probed.cluster.into())]);
        // For one alarm over all clusters, and for each by itself.
        self.write(vec![(&[&[], &["Cluster"]], figures)], members);
    }
}

impl CheckMetrics for EmfMetrics {
    fn checked(&self, checked: &Checked<'_>) {
        let took = i64::try_from(checked.took.as_millis()).unwrap_or(i64::MAX);
        self.stands("checked", checked.item, Some(took), checked.verdict);
    }

    fn closed(&self, item: &Deployment) {
        self.stands("closed", item, None, true);
    }

    fn cluster_failed(&self, failed: &ClusterFailed<'_>) {
        let mut members = self.logged(
            "cluster not asked",
            json!({
                "deployment_id": failed.deployment_id,
                "clusters": [failed.cluster],
                "kind": failed.kind,
                "targets": failed.targets,
            }),
        );
        members.insert("Cluster".to_owned(), failed.cluster.into());
        self.write(vec![(&[&[], &["Cluster"]], vec![("ClusterErrors", "Count", 1.into())])], members);
    }
}

#[cfg(test)]
mod tests;
