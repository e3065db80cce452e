//! [`Metrics`] as lines of the log, from which CloudWatch takes them.

use std::{
    io::{self, Write},
    sync::Arc,
};

use monitor::ports::{Clock, Metrics, Probed};
use serde_json::{Map, Value, json};

/// Under which all of ours stand in CloudWatch.
const NAMESPACE: &str = "dag-monitor";

/// [`Metrics`] in CloudWatch's embedded metric format: a JSON document that is a line
/// of its own on the standard output.
///
/// Lambda needs nothing beside that line ("Specification: Embedded metric format",
/// CloudWatch user guide). With the JSON log format it rewrites the output of some
/// managed runtimes only, not ours; and where an application log level is set, a line
/// that has no `level` counts as `INFO` ("Log-level filtering", Lambda developer
/// guide): with `WARN` and above these metrics end.
#[derive(Clone)]
pub struct EmfMetrics {
    stack: String,
    clock: Arc<dyn Clock>,
}

impl EmfMetrics {
    /// Metrics of this stack.
    #[must_use]
    pub fn new(stack: &str, clock: Arc<dyn Clock>) -> Self {
        Self { stack: stack.to_owned(), clock }
    }

    fn line(&self, probed: &Probed<'_>) -> String {
        let values = [
            ("ClusterUnreachable", "Count", Some(i64::from(!probed.reached))),
            ("TokenSecondsLeft", "Seconds", probed.token_secs_left),
            ("CertificateSecondsLeft", "Seconds", probed.certificate_secs_left),
        ];
        let (mut members, mut metrics) = (Map::new(), Vec::new());
        for (name, unit, value) in values {
            if let Some(value) = value {
                metrics.push(json!({"Name": name, "Unit": unit}));
                members.insert(name.to_owned(), value.into());
            }
        }
        members.insert("Stack".to_owned(), self.stack.as_str().into());
        members.insert("Cluster".to_owned(), probed.cluster.into());
        members.insert(
            "_aws".to_owned(),
            json!({
                "Timestamp": self.clock.now().as_millisecond(),
                "CloudWatchMetrics": [{
                    "Namespace": NAMESPACE,
                    // For one alarm over all clusters, and for each by itself.
                    "Dimensions": [["Stack"], ["Stack", "Cluster"]],
                    "Metrics": metrics,
                }],
            }),
        );
        Value::Object(members).to_string()
    }
}

impl Metrics for EmfMetrics {
    fn cluster_probed(&self, probed: &Probed<'_>) {
        let line = self.line(probed) + "\n";
        // At once, so that no line of the log comes in between. There is nobody to
        // tell that the standard output is closed.
        let _written = io::stdout().lock().write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests;
