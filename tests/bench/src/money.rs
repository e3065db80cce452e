//! Dollars per 1,000 deployments, from what was counted in the same run.
//!
//! Prices of us-east-1, without free tiers, looked up on 2026-11-27; the pages that
//! hold are aws.amazon.com/{step-functions, lambda, dynamodb, secrets-manager,
//! eventbridge, cloudwatch, fargate}/pricing.

use crate::table::{Row, Sample, Table, Unit};

/// A state transition of a standard workflow: $0.025 per 1,000.
const TRANSITION: f64 = 0.025 / 1e3;
/// An invocation: $0.20 per million.
const INVOCATION: f64 = 0.20 / 1e6;
/// A GB-second on x86; on arm64 it is a fifth less.
const GB_SECOND: f64 = 0.000_016_666_7;
/// `MemorySize` of the template.
const GB: f64 = 0.25;
/// On-demand: $0.125 per million read units (4 KB, strongly consistent), $0.625 per million write units (1 KB).
const READ: f64 = 0.125 / 1e6;
const WRITE: f64 = 0.625 / 1e6;
/// $0.05 per 10,000 calls; beside it $0.40 a month for each cluster's secret.
const SECRET_CALL: f64 = 0.05 / 1e4;
/// A custom event: $1.00 per million.
const EVENT: f64 = 1.0 / 1e6;
/// $0.50 per GB that is written to a log.
const LOGGED_BYTE: f64 = 0.5 / 1e9;
/// 0.25 vCPU and 0.5 GB on Fargate, the smallest there is: $0.04048 and $0.004445 an hour, 730 hours.
const ALWAYS_ON_MONTH: f64 = (0.25 * 0.04048 + 0.5 * 0.004445) * 730.0;

/// What is billed of a function with a seventh of a processor, in seconds: several
/// times what is measured here, and still the smaller part.
const WARM_SECS: f64 = 0.1;
const COLD_SECS: f64 = 1.5;
/// Writes of an item: the baseline, three changes on the way and the verdict; beside them one a minute.
const CHANGES: f64 = 5.0;
/// Lambda's own two lines of an invocation, `platform.start` and `platform.report`.
const PLATFORM_BYTES: f64 = 700.0;

/// What a run has counted of a warm poll; so much, where that section did not run.
pub(crate) struct Counted {
    pub(crate) log_bytes: f64,
    pub(crate) item_bytes: f64,
    pub(crate) reads: f64,
}

impl Default for Counted {
    fn default() -> Self {
        Self { log_bytes: 500.0, item_bytes: 2_000.0, reads: 1.0 }
    }
}

/// The looks until one comes this late or later. Where a wait may be longer than
/// 5 s it is a tenth of the age, as the state machine has it.
fn looks(secs: u32, longest_wait: u32) -> f64 {
    let (mut age, mut looks) = (0, 1.0);
    while age < secs {
        age += (age / 10).clamp(5, longest_wait);
        looks += 1.0;
    }
    looks
}

/// Check and Judged? for each look, Wait between two; Publish, End and the last state.
fn transitions(looks: f64) -> f64 {
    3.0 * looks - 1.0 + 3.0
}

/// What 1,000 deployments of one target cost, each alone (so that each has a cold start).
fn terms(secs: u32, longest_wait: u32, counted: &Counted) -> Vec<(String, f64)> {
    let looks = looks(secs, longest_wait);
    let writes = CHANGES + f64::from(secs / 60);
    // The item, and its line in the index.
    let units = (counted.item_bytes / 1024.0).ceil() + 1.0;
    let busy = COLD_SECS + (looks - 1.0) * WARM_SECS;
    // A read a look, and the first look's of the registry.
    let reads = looks * counted.reads + 1.0;
    let logged = looks * (counted.log_bytes + PLATFORM_BYTES);
    [
        (format!("Step Functions, {:.0} transitions", transitions(looks)), transitions(looks) * TRANSITION),
        (format!("Lambda, {looks:.0} requests"), looks * INVOCATION),
        (format!("Lambda, {:.2} GB-s", busy * GB), busy * GB * GB_SECOND),
        (format!("DynamoDB, {reads:.0} reads"), reads * READ),
        (format!("DynamoDB, {writes:.0} writes of {units:.0} units"), writes * units * WRITE),
        ("Secrets Manager, 1 call".to_owned(), SECRET_CALL),
        ("EventBridge, 1 event".to_owned(), EVENT),
        (format!("CloudWatch Logs, {:.1} KB", logged / 1e3), logged * LOGGED_BYTE),
    ]
    .into_iter()
    .map(|(what, dollars)| (what, dollars * 1e3))
    .collect()
}

fn total(secs: u32, longest_wait: u32, counted: &Counted) -> f64 {
    terms(secs, longest_wait, counted).iter().map(|it| it.1).sum()
}

/// One invocation that looks every five seconds for 50 s: fewer transitions, and
/// Lambda is paid for waiting.
fn held(secs: u32) -> f64 {
    let invocations = f64::from(secs.div_ceil(50));
    (transitions(invocations) * TRANSITION + f64::from(secs) * GB * GB_SECOND) * 1e3
}

pub(crate) fn measure(table: &mut Table, counted: &Counted) {
    let dollars = |value| Sample::of(Unit::Dollars, [value]);
    for secs in [60, 300] {
        table.heading(&format!("Dollars per 1,000 deployments of {secs} s, one target"));
        for (what, cost) in terms(secs, 5, counted) {
            table.add(Row::figure(what, &dollars(cost)));
        }
        table.add(Row::figure("together", &dollars(total(secs, 5, counted))));
        let even = ALWAYS_ON_MONTH / total(secs, 5, counted) * 1e3;
        let what = format!("an always-on task instead, a month: the price of {:.0} deployments", even);
        table.add(Row::figure(what, &dollars(ALWAYS_ON_MONTH)));
    }
    table.heading("Dollars per 1,000 deployments by `LongestWaitSecs`");
    for secs in [60, 300, 1_800] {
        let now = dollars(total(secs, 5, counted));
        for longest in [15, 30, 60] {
            let what =
                format!("{secs} s, at most {longest} s between two looks, {:.0} looks", looks(secs, longest));
            table.add(Row::figure(what, &dollars(total(secs, longest, counted))).against("5 s", &now));
        }
        let what = format!("{secs} s, not built: one invocation that waits 50 s and looks every 5 s");
        table.add(Row::figure(what, &dollars(held(secs))).against("5 s", &now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_looks_are_the_state_machines() {
        assert_eq!(looks(60, 5), 13.0);
        assert_eq!(looks(300, 5), 61.0);
        assert_eq!(transitions(13.0), 41.0);
        // 5 s until the tenth of the age is more.
        assert_eq!(looks(60, 30), 13.0);
        assert!(looks(1_800, 60) < looks(1_800, 30) && looks(1_800, 30) < looks(1_800, 5) / 4.0);
    }
}
