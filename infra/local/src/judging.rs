//! The options that `watch` and `run` have in common, as fields of a deployment.

use monitor::request::Refusal;
use serde_json::{Map, Value, json};

use crate::cli::{FailOn, Judging};

/// What the options say of a deployment. An absent instant is left to whoever starts it.
pub(crate) fn fields(judging: &Judging) -> Map<String, Value> {
    let mut expect = Map::new();
    for (field, given) in [("chartVersion", &judging.expect_chart), ("appVersion", &judging.expect_app)] {
        expect.extend(given.as_ref().map(|version| (field.to_owned(), json!(version))));
    }
    if !judging.expect_values.is_empty() {
        let values = judging.expect_values.iter().map(|it| (it.pointer.clone(), it.value.clone()));
        expect.insert("values".to_owned(), Value::Object(values.collect()));
    }
    let fail_on = match judging.fail_on {
        FailOn::Final => "final",
        FailOn::First => "first",
    };
    let mut fields = Map::new();
    fields.insert("expect".to_owned(), expect.into());
    fields.insert("failOn".to_owned(), json!(fail_on));
    fields.insert("failFast".to_owned(), json!(judging.fail_fast));
    fields.insert("allowUnchanged".to_owned(), json!(judging.allow_unchanged));
    fields.extend(judging.pushed_at.map(|at| ("pushedAt".to_owned(), json!(at))));
    fields
}

/// The refusals of a request in the words of who gave options; `namespace` and `release`
/// are the options that name a target's.
pub(crate) fn in_options(refusals: &[Refusal], [namespace, release]: [&str; 2]) -> String {
    let option = |pointer: &str| match pointer.split('/').nth(1).unwrap_or_default() {
        "targets" if pointer.ends_with("/namespace") => namespace,
        "targets" => release,
        "timeoutSecs" => "--timeout",
        "pushedAt" => "--pushed-at",
        "expect" if pointer.starts_with("/expect/chartVersion") => "--expect-chart",
        "expect" if pointer.starts_with("/expect/appVersion") => "--expect-app",
        "expect" => "--expect-value",
        _ => "the request",
    };
    let all: Vec<String> =
        refusals.iter().map(|it| format!("{}: {}", option(&it.pointer), it.detail)).collect();
    all.join("; ")
}
