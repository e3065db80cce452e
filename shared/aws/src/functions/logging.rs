//! The log of a Lambda process: a JSON object a line, which Lambda and CloudWatch
//! take as it is.

use std::io;

use tracing::{Level, Metadata};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, Targets, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Crates that write requests and answers into the log below this level, tokens
/// included: whatever level is asked for, they don't get it.
const CAPPED: &[&str] = &["aws_", "h2", "hyper", "lambda_", "reqwest", "rustls", "tower"];

/// The Lambda runtime writes every error of a handler here, all as `ERROR`. The
/// handlers have told theirs already, each at its level: a refused request is a
/// caller's mistake and must not ring an alarm. A panic still stands in the log,
/// written by the standard library's own hook.
const TOLD_ALREADY: &str = "lambda_runtime::layers::panic";

/// Begins logging. A second call changes nothing: the first one counts, as where
/// a test has set a subscriber of its own.
pub fn init(log: &Targets) {
    let _already = tracing_subscriber::registry().with(layer(log, io::stdout)).try_init();
}

fn layer<W>(log: &Targets, writer: W) -> impl Layer<Registry>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_ansi(false)
        // The list holds the runtime's span, which has the request's id, and ours within it.
        .with_current_span(false)
        .with_span_list(true)
        .with_writer(writer)
        .with_filter(log.clone().and(filter_fn(is_wanted)))
}

fn is_wanted(event: &Metadata<'_>) -> bool {
    if event.target() == TOLD_ALREADY {
        return false;
    }
    *event.level() <= Level::INFO || !CAPPED.iter().any(|prefix| event.target().starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LevelFilter, act: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Targets::new().with_default(level);
        let subscriber = tracing_subscriber::registry().with(layer(&log, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, act);
        let bytes = lines.0.lock().unwrap();
        bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    #[test]
    fn a_line_is_one_flat_object() {
        let lines = logged(LevelFilter::INFO, || {
            let _span = tracing::info_span!("invoke", request_id = "r-1").entered();
            tracing::info!(deployment = "d-1", polls = 7, "still \u{1b}[31mpending");
            tracing::debug!("not asked for");
        });
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "still \u{1b}[31mpending");
        assert_eq!((&line["deployment"], &line["polls"]), (&Value::from("d-1"), &Value::from(7)));
        assert_eq!(line["spans"][0]["request_id"], "r-1");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn an_error_that_the_handler_told_is_not_told_again() {
        let lines = logged(LevelFilter::TRACE, || {
            tracing::error!(target: "lambda_runtime::layers::panic", "refused");
            tracing::error!(target: "lambda_runtime::runtime", "broken");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    #[test]
    fn no_level_lets_the_sdk_write_its_requests() {
        let lines = logged(LevelFilter::TRACE, || {
            tracing::trace!(target: "aws_smithy_runtime::client", "request with a token");
            tracing::debug!(target: "hyper_util::client", "bytes");
            tracing::debug!(target: "aws::vault", "ours");
            tracing::warn!(target: "aws_smithy_runtime::client", "theirs");
        });
        let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["ours", "theirs"]);
    }
}
