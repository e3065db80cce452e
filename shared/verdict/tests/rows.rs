//! Every row of the rules, once where it applies and once where it just does not.
//! Written from the rules alone: what is asserted here is what they say.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test, helpers included")]

mod support;

use jiff::Timestamp;
use serde_json::{Value, json};
use support::{
    Case, DAY, Hr, Nothing, Rev, Sight, at, eleven, entry, failed, flux, new, newer, old, plain, rev,
    rolled_back, spec_time,
};
use verdict::{
    AskErrorKind as Kind, Decision, Evidence, Expect, FailOn, HelmType, Look, MESSAGE_BYTES, Question,
    Reason::*, Status, TargetState, decide, expire,
};

// ------------------------------------------------------- flux: one HelmRelease

#[test]
fn t1_a_helmrelease_that_was_never_seen_is_waited_for() {
    flux().see(Nothing).waits(NotFound).see(Nothing).see(Nothing).see(Nothing).waits(NotFound);
}

#[test]
fn t1_one_that_was_seen_is_removed_at_the_third_poll_without_it() {
    let case = flux().see(old()).see(Nothing).pends().see(Nothing).pends();
    case.see(Nothing).fails(Removed).says("shop/checkout");
    // Seen later than at the first look is seen, too.
    let case = flux().see(Nothing).see(new().observed(3)).see(Nothing).see(Nothing).pends();
    case.see(Nothing).fails(Removed);
}

#[test]
fn t1_looks_closer_than_four_seconds_are_one_poll_and_a_sight_starts_the_count_again() {
    let case = flux().see(old()).see(Nothing).see(Nothing).after_ms(3999).see(Nothing).pends();
    case.after_ms(1).see(Nothing).fails(Removed);
    flux().see(old()).see(Nothing).see(Nothing).see(old()).see(Nothing).see(Nothing).pends();
}

#[test]
fn t2_a_deletion_fails_unless_it_was_under_way_before() {
    let going = || old().set("/metadata/deletionTimestamp", at(-60).to_string());
    flux().see(going()).waits(BeingRemoved).see(going()).see(going()).waits(BeingRemoved);
    flux().unchanged_too().see(going()).waits(BeingRemoved);
    flux().push(going()).fails(Removed);
    flux().see(Nothing).see(going()).fails(Removed);
    // Made again, it is another object.
    flux().see(going()).see(going().set("/metadata/uid", "u2")).fails(Removed);
    let again = new().set("/metadata/uid", "u2");
    flux().see(going()).see(Nothing).pends().see(again.clone()).see(again).ok(UpgradeSucceeded);
}

#[test]
fn t3_a_value_that_is_not_in_the_spec_is_waited_for_and_never_quoted() {
    let case = || flux().value("/image/tag", "2026.11.3").see(old()).waits(WaitingForChange);
    let stale = new().set("/spec/values/image/tag", "s3cr3t");
    let case_of_stale = case().see(stale.clone()).waits(WaitingForChange).says("/image/tag");
    assert!(!serde_json::to_string(&case_of_stale.state).unwrap().contains("s3cr3t"));
    case().see(stale.stalled().ready("False", "UpgradeFailed", "")).waits(WaitingForChange);
    case().see(new().without("/spec/values")).waits(WaitingForChange);
    case().see(new().without("/spec/values/image/tag")).waits(WaitingForChange);
    case().see(new()).ok(UpgradeSucceeded).rests_on(Evidence::Expected);
}

#[test]
fn t3_a_value_that_may_come_from_elsewhere_cannot_be_seen() {
    let from = |hr: Hr| hr.set("/spec/valuesFrom", json!([{"kind": "ConfigMap", "name": "c"}]));
    let case = || flux().value("/image/tag", "2026.11.3").see(old());
    case().see(from(new().without("/spec/values"))).pends().says("/image/tag").says("valuesFrom");
    // One that is there can be seen.
    case().see(from(new())).ok(UpgradeSucceeded);
    case().see(from(old())).waits(WaitingForChange).says_not("valuesFrom");
}

#[test]
fn t3_another_full_chart_version_in_the_spec_says_that_the_push_has_not_arrived() {
    let seen = |kind: &str, version: &str| {
        let hr = failed().stalled().set("/spec/chart/spec/version", version);
        flux().chart("1.4.0").push(hr.set("/spec/chart/spec/sourceRef/kind", kind))
    };
    for version in ["1.3.0", "v1.3.9", "1.5.0+abc", "1.4.0-rc.1"] {
        seen("HelmRepository", version).waits(WaitingForChange);
    }
    for version in ["1.4.0", "v1.4.0", "1.4.0+abc", "1.x", ">=1.3.0", "1.4", "*", "~1.3.0", "1.0.0 - 1.3.0"] {
        seen("HelmRepository", version).fails(UpgradeFailed);
    }
    seen("GitRepository", "1.3.0").fails(UpgradeFailed);
    seen("Bucket", "1.3.0").fails(UpgradeFailed);
}

#[test]
fn t4_a_suspended_object_is_judged_by_what_was_tried() {
    let seen = |hr: Hr| flux().push(hr.suspended());
    // The spec was not looked at yet.
    seen(new().observed(3)).waits(Suspended);
    // ATTEMPT.
    seen(failed().reconciling("again")).fails(UpgradeFailed).says("suspended now");
    seen(new()).ok(UpgradeSucceeded).says("suspended now").rests_on(Evidence::Changed);
    seen(new().reconciling("at work")).ok(UpgradeSucceeded);
    seen(new().ready("Unknown", "Progressing", "")).waits(Suspended);
    seen(new().history(&[entry(12, "pending-upgrade", "1.4.0", "", 3)])).waits(Suspended);
    // NEWS without ATTEMPT: the push itself suspended it.
    seen(old().generation(4).observed(4)).fails(Suspended);
    // Neither.
    flux().see(old().suspended()).waits(Suspended).see(old().suspended()).waits(Suspended);
}

#[test]
fn t4_the_expectation_counts_and_allow_unchanged_lends_no_attempt() {
    flux().chart("1.4.0").push(new().suspended()).ok(UpgradeSucceeded).rests_on(Evidence::Expected);
    flux().chart("1.5.0").push(new().suspended()).waits(Suspended);
    flux().unchanged_too().see(old().suspended()).fails(Suspended);
    flux().unchanged_too().see(new().suspended().observed(3)).waits(Suspended);
}

#[test]
fn t5_what_never_stalls_is_failed_by_its_count() {
    // Waiting for the next try: `obs` still belongs to the old spec.
    let failing = || failed().observed(3).reconciling("at work");
    let retrying = || failing().reconciling("retrying after 30s");
    let undone = |word: &str| failing().ready("False", word, "could not");
    for (hr, fails) in [
        (failing().counters(8, 0, 0), true),
        (failing().counters(12, 2, 2), true),
        (failing().counters(7, 0, 0), false),
        (failing().counters(11, 2, 2), false),
        (undone("RollbackFailed").counters(3, 0, 1), true),
        (undone("UninstallFailed").counters(3, 1, 0), true),
        (undone("RollbackFailed").counters(2, 0, 1), false),
        (undone("UninstallSucceeded").counters(3, 1, 0), false),
        (retrying().counters(3, 0, 3), true),
        (retrying().counters(2, 0, 2), false),
        (failing().reconciling("not retrying after").counters(3, 0, 3), false),
        (failing().counters(3, 0, 3), false),
        // Not this spec, not a failure now, no counter, no sense.
        (failing().counters(8, 0, 0).last_tried(3), false),
        (failing().counters(8, 0, 0).ready("Unknown", "Progressing", ""), false),
        (failing().without("/status/failures"), false),
        (failing().counters(i64::MIN, i64::MAX, i64::MAX), false),
        (failing().counters(i64::MAX, i64::MIN, i64::MIN), true),
    ] {
        let case = flux().push(hr.clone());
        if fails {
            let count = hr.0["status"]["failures"].to_string();
            case.fails(KeepsFailing).says("the probe is red").says(&count).rests_on(Evidence::Changed);
        } else {
            case.pends();
        }
        // Where it stood there before the push, it is no news.
        flux().pushed_ms(60_000).see(hr.clone()).see(hr).pends();
    }
}

#[test]
fn t5a_fail_on_first_counts_the_first_failed_attempt() {
    let trying = || failed().observed(3).reconciling("again");
    let first = |hr: Hr| flux().fail_first().push(hr);
    first(trying()).fails(UpgradeFailed).says("the probe is red").rests_on(Evidence::Changed);
    let tests = trying().released("True", "UpgradeSucceeded", "").ready("False", "TestFailed", "red");
    let tests = tests.cond("TestSuccess", "False", "TestFailed", "the test is red");
    first(tests).fails(TestFailed).says("the test is red");
    first(trying().failures(0)).pends();
    first(trying().released("True", "UpgradeSucceeded", "fine")).pends();
    first(trying().last_tried(3)).pends();
    flux().push(trying()).pends();
    flux().fail_first().see(Nothing).see(trying()).fails(UpgradeFailed);
}

#[test]
fn t5a_the_failures_of_the_baseline_are_not_counted_again() {
    let trying = |failures: i64, digest: &str| {
        let hr = failed().observed(3).reconciling("again").failures(failures);
        hr.set("/status/lastAttemptedRevisionDigest", digest)
    };
    let case = || flux().fail_first().pushed_ms(60_000).see(trying(2, "d1")).pends();
    // Only the artifact's digest moved: the counter goes on from the baseline's.
    case().see(trying(2, "d2")).pends();
    case().see(trying(3, "d2")).fails(UpgradeFailed);
    case().see(trying(3, "d1")).pends();
    // Another generation, chart or values: it began at zero.
    case().see(trying(1, "d1").generation(5).last_tried(5)).fails(UpgradeFailed);
    case().see(trying(1, "d1").revision("1.5.0")).fails(UpgradeFailed);
    case().see(trying(1, "d1").digest("sha256:c")).fails(UpgradeFailed);
}

#[test]
fn t6_until_the_generation_is_observed_ready_belongs_to_the_old_spec() {
    flux().chart("1.4.0").push(new().observed(3)).pends();
    flux().chart("1.4.0").push(new().observed(-1)).pends();
    flux().push(old().generation(4)).pends().says("not picked up yet").see(old().generation(4)).pends();
    let old_failure = old().generation(4).stalled().ready("False", "UpgradeFailed", "long ago");
    flux().push(old_failure.clone()).pends().see(old_failure).pends();
    flux().push(failed().observed(3)).pends().says("told by Ready").see(failed().observed(3)).pends();
    // One that is absent is not held against it.
    flux().chart("1.4.0").push(new().without("/status/observedGeneration")).ok(UpgradeSucceeded);
}

#[test]
fn t7_while_it_reconciles_nothing_is_judged() {
    let running = || new().reconciling("Running 'upgrade' action");
    flux().chart("1.4.0").push(running()).waits(Progressing).see(running()).waits(Progressing);
    let retry = failed().reconciling("again").stalled();
    flux().push(retry.clone()).waits(UpgradeFailed).says("told by Ready").see(retry).pends();
    flux().chart("1.4.0").push(new().cond("Reconciling", "False", "", "")).ok(UpgradeSucceeded);
}

#[test]
fn t8_stalled_is_a_failure_if_it_is_news() {
    let case = flux().push(failed().stalled()).fails(UpgradeFailed).rests_on(Evidence::Changed);
    case.says("the probe is red").observes(12, "1.4.0", "UpgradeFailed");
    // Without Released=False Ready speaks for itself.
    flux().push(failed().stalled().released("True", "", "fine")).fails(UpgradeFailed).says("told by Ready");
    flux().push(failed().stalled().ready("False", "HealthCheckCanceled", "newer")).waits(HealthCheckCanceled);
    // The old failure still stands.
    let case = flux().pushed_ms(60_000).see(rolled_back()).waits(WaitingForChange).says("still stands");
    case.see(rolled_back()).see(rolled_back()).waits(WaitingForChange);
    let case = flux().unchanged_too().pushed_ms(60_000).see(rolled_back());
    case.fails(RolledBack).rests_on(Evidence::Unchanged);
}

#[test]
fn a_remediation_is_told_by_what_failed_first_and_the_word_of_flux_is_kept() {
    for (word, reason) in [
        ("RollbackSucceeded", RolledBack),
        ("RollbackFailed", RolledBack),
        ("UninstallSucceeded", Uninstalled),
        ("UninstallFailed", Uninstalled),
        ("InstallFailed", InstallFailed),
        ("TestFailed", TestFailed),
        ("NeverHeardOf", NotReady),
    ] {
        let case = flux().push(rolled_back().ready("False", word, "undone"));
        case.fails(reason).says("the probe is red").observes(13, "1.3.0", word);
    }
}

#[test]
fn t9_ready_false_fails_on_the_second_poll_running() {
    let case = flux().push(failed()).waits(UpgradeFailed).says("told by Ready");
    case.after_ms(3999).see(failed()).pends().after_ms(1).see(failed()).fails(UpgradeFailed);
    // Something else in between starts the count again.
    let case = flux().push(failed()).see(failed().reconciling("again")).see(failed()).pends();
    case.see(failed()).fails(UpgradeFailed);
    // Not tried; no news.
    flux().push(failed().last_tried(3)).see(failed().last_tried(3)).see(failed().last_tried(3)).pends();
    flux().push(failed().last_tried(-1)).see(failed().last_tried(-1)).pends();
    flux().pushed_ms(60_000).see(failed()).see(failed()).see(failed()).pends();
}

#[test]
fn t10_to_t12_a_read_between_two_writes_is_not_judged() {
    for hr in [
        new().ready("Unknown", "Progressing", "soon"),
        new().no("Ready"),
        new().last_tried(3),
        new().last_tried(-1),
        new().set("/status/history", Value::Null),
        new().history(&[entry(12, "pending-upgrade", "1.4.0", "2026.11.3", 3)]),
        new().history(&[entry(12, "superseded", "1.4.0", "2026.11.3", 3)]),
        new().history(&[entry(11, "deployed", "1.3.0", "2026.11.2", -DAY)]),
        new().revision("1.4.1"),
        new().revision("1.4.0+another"),
    ] {
        flux().push(hr.clone()).waits(Progressing).see(hr.clone()).waits(Progressing);
        flux().chart("1.4").push(hr.clone()).waits(Progressing);
        flux().unchanged_too().see(hr).waits(Progressing);
    }
    // What is absent is not held against it.
    let case = || flux().app("2026.11.3").see(old());
    case().see(new().without("/status/lastAttemptedGeneration")).ok(UpgradeSucceeded);
    case().see(new().without("/status/lastAttemptedRevision")).ok(UpgradeSucceeded);
    case().see(new().without("/status/history/0/chartVersion")).ok(UpgradeSucceeded);
}

#[test]
fn h0_is_the_entry_with_the_highest_version_wherever_it_stands() {
    let nine = entry(9, "superseded", "1.2.0", "", -DAY);
    let hr = new().history(&[nine.clone(), entry(12, "deployed", "1.4.0", "", 3), nine]);
    flux().chart("1.4.0").push(hr).ok(UpgradeSucceeded).observes(12, "1.4.0", "UpgradeSucceeded");
    // One version twice: the one that began later.
    let twice = |secs| {
        new().history(&[entry(12, "failed", "1.4.0", "", 5), entry(12, "deployed", "1.4.0", "", secs)])
    };
    flux().chart("1.4.0").push(twice(8)).ok(UpgradeSucceeded);
    flux().chart("1.4.0").push(twice(1)).waits(Progressing);
}

#[test]
fn t13_what_ran_and_was_superseded_since_succeeded() {
    let ran = || flux().chart("1.4.0").push(new().reconciling("")).pends();
    ran().see(newer("superseded")).ok(Superseded).rests_on(Evidence::Expected).says("1.5.0");
    // It stays seen through polls in between.
    let case = ran().see(newer("superseded").reconciling("")).see(Kind::Slow).pends();
    case.see(newer("superseded")).ok(Superseded);
    // It is not superseded, it failed after all.
    ran().see(newer("failed")).fails(Superseded);
    // It did not run Ready: something newer came before.
    let unready = new().reconciling("").ready("Unknown", "Progressing", "");
    flux().chart("1.4.0").push(unready).see(newer("superseded")).fails(Superseded);
}

#[test]
fn t13_a_release_that_met_it_before_the_push_proves_nothing() {
    let case = flux().chart("1.3.0").see(old()).waits(WaitingForChange).see(old().reconciling("")).pends();
    case.see(new()).waits(OtherVersion).see(new()).waits(OtherVersion);
}

#[test]
fn t13_something_newer_than_expected_fails_only_where_the_expected_was_to_come() {
    flux().chart("1.4.0").push(newer("failed")).fails(Superseded).says("1.4.0").says("1.5.0");
    // Older than expected: the push is still to come.
    flux().chart("1.6.0").push(newer("failed")).waits(OtherVersion).says("1.6.0").says("1.5.0");
    // A push back to an older version: what is newer may be what stands before it.
    flux().chart("1.2.0").push(newer("failed")).waits(OtherVersion);
    flux().chart("1.3.0").push(newer("failed")).waits(OtherVersion);
    // The newer one was there before.
    let case = flux().chart("1.4.0").see(newer("failed")).waits(OtherVersion);
    case.see(newer("failed").generation(6).last_tried(6).observed(6)).waits(OtherVersion);
    // What is no semver is neither older nor newer.
    flux().app("stable").push(new()).waits(OtherVersion).says("stable");
}

#[test]
fn t13_an_entry_is_identified_by_name_version_and_start() {
    let eleven = || entry(11, "deployed", "1.5.0", "2026.12.0", -DAY);
    let seen = |entry: Value| flux().chart("1.4.0").push(newer("failed").history(&[entry]));
    seen(eleven()).waits(OtherVersion);
    let (mut renamed, mut again) = (eleven(), eleven());
    renamed["name"] = json!("shop-checkout");
    seen(renamed).fails(Superseded);
    again["lastDeployed"] = json!(at(9).to_string());
    seen(again).fails(Superseded);
}

#[test]
fn t14_the_expected_version_that_was_not_there_before_succeeded() {
    let case = flux().chart("1.4.0").push(new()).ok(UpgradeSucceeded).rests_on(Evidence::Expected);
    case.observes(12, "1.4.0", "UpgradeSucceeded").says("shop/checkout");
    flux().app("2026.11.3").push(new()).ok(UpgradeSucceeded);
    flux().app("2026.11.4").chart("1.4.0").push(new()).waits(OtherVersion);
    // Under way at the first look it is no news; but the version says it.
    let running =
        new().history(&[entry(11, "deployed", "1.3.0", "2026.11.2", -DAY)]).ready("Unknown", "", "");
    flux().chart("1.4.0").pushed_ms(60_000).see(running.clone()).pends().see(new()).ok(UpgradeSucceeded);
    flux().pushed_ms(60_000).see(running).see(new()).see(new()).waits(WaitingForChange);
}

#[test]
fn t14_the_expected_version_that_ran_before_is_waited_for() {
    let case = flux().chart("1.3.0").see(old()).waits(WaitingForChange).says("before the push");
    case.see(old()).see(old()).waits(WaitingForChange);
    // Something happened, and it is what was asked for.
    flux().chart("1.3.0").push(old().tried(4, "1.3.0", "sha256:z").observed(4)).ok(UpgradeSucceeded);
    flux().chart("1.3.0").unchanged_too().see(old()).ok(UpgradeSucceeded).says("before the push");
    flux().chart("1.4.0").unchanged_too().see(old()).waits(OtherVersion);
}

#[test]
fn t15_without_an_expectation_the_same_is_seen_twice() {
    flux().push(new()).pends().see(new()).ok(UpgradeSucceeded).rests_on(Evidence::Changed);
    flux().see(Nothing).see(new()).pends().see(new()).ok(UpgradeSucceeded);
    let case = flux().push(new()).after_ms(3999).see(new()).pends();
    case.after_ms(1).see(new()).ok(UpgradeSucceeded);
    // It settles twice; it is at work in between; it moves on without a release.
    let case = flux().push(new()).see(newer("superseded")).pends().see(newer("superseded"));
    case.ok(UpgradeSucceeded).observes(13, "1.5.0", "UpgradeSucceeded");
    flux().push(new()).see(new().reconciling("")).see(new()).pends();
    flux().push(new()).see(new().generation(5).last_tried(5).observed(5)).pends();
}

#[test]
fn t15_allow_unchanged_needs_one_poll_and_says_that_it_was_there() {
    let case = flux().unchanged_too().see(old()).ok(UpgradeSucceeded).rests_on(Evidence::Unchanged);
    case.says("was already there before the push");
    let case = flux().unchanged_too().see(old().reconciling("")).pends().see(new()).ok(UpgradeSucceeded);
    case.says_not("was already there").rests_on(Evidence::Changed);
}

#[test]
fn t16_without_news_chart_version_and_generation_are_named() {
    let mut case = flux();
    for _ in 0..6 {
        case = case.see(old()).waits(WaitingForChange).says("1.3.0").says("11").says("generation 3");
    }
}

#[test]
fn attempt_and_news_are_what_the_definitions_name() {
    let old = || old().set("/status/lastAttemptedRevisionDigest", "sha256:d1");
    for (hr, news) in [
        (old().generation(4).observed(4).last_tried(4), true),
        (old().set("/metadata/uid", "u2"), true),
        (old().revision("1.3.0+x").history(&[entry(11, "deployed", "1.3.0+x", "", -DAY)]), true),
        (old().digest("sha256:c"), true),
        (old().set("/status/lastAttemptedRevisionDigest", "sha256:d2"), true),
        // Started after the push, of a spec that was there: quicker than the first look.
        (old().history(&[entry(12, "deployed", "1.3.0", "", 0)]), true),
        // A changed H0 alone; what is absent; what the metadata and the conditions say.
        (old().history(&[entry(12, "deployed", "1.3.0", "", -1)]), false),
        (old().without("/metadata/uid"), false),
        (old().without("/metadata/generation"), false),
        (old().without("/status/lastAttemptedRevision"), false),
        (old().without("/status/lastAttemptedConfigDigest"), false),
        (old().without("/status/lastAttemptedRevisionDigest"), false),
        (old().set("/metadata/managedFields", json!([spec_time("kustomize-controller", 3)])), false),
        (old().set("/metadata/annotations", json!({"reconcile.fluxcd.io/requestedAt": "now"})), false),
        (old().set("/metadata/resourceVersion", "99").set("/metadata/labels/x", "y"), false),
        (old().ready("True", "TestSucceeded", "tests"), false),
    ] {
        let case = flux().see(old()).see(hr.clone()).pends().see(hr);
        case.ok_if(news, UpgradeSucceeded);
    }
}

#[test]
fn news_from_before_the_first_look_is_told_by_the_time() {
    let hr = |fields: Value, deployed: i64| {
        let hr = new().history(&[entry(12, "deployed", "1.4.0", "2026.11.3", deployed)]);
        hr.set("/metadata/managedFields", fields)
    };
    let (mut subresource, mut annotation) = (spec_time("kustomize-controller", 5), spec_time("flux", 5));
    subresource["subresource"] = json!("status");
    annotation["fieldsV1"] = json!({"f:metadata": {}});
    for (hr, news) in [
        (hr(json!([spec_time("kustomize-controller", 0)]), -DAY), true),
        (hr(json!([spec_time("kustomize-controller", -1)]), -DAY), false),
        (hr(json!([spec_time("kustomize-controller", -9), spec_time("kubectl-edit", 2)]), -DAY), true),
        (hr(json!([spec_time("helm-controller", 5)]), -DAY), false),
        (hr(json!([subresource]), -DAY), false),
        (hr(json!([annotation]), -DAY), false),
        (hr(Value::Null, 0), true),
        (hr(Value::Null, -1), false),
        (hr(Value::Null, 0).failures(1), false),
    ] {
        let case = flux().chart("1.4.0").see(hr.clone());
        case.ok_if(news, UpgradeSucceeded);
        // Where the cluster's clock is not known, time is no evidence.
        flux().clock_ms(None).chart("1.4.0").see(hr).waits(WaitingForChange);
    }
}

#[test]
fn the_push_is_compared_on_the_clusters_clock_and_cut_to_the_second() {
    for (pushed_ms, ahead_ms, made, news) in [
        (999, 0, 0, true),
        (1000, 0, 0, false),
        // Two seconds are no difference; more are.
        (0, 2000, 0, true),
        (0, -2000, -1, false),
        (0, 3000, 2, false),
        (0, 3000, 3, true),
        (0, -3000, -3, true),
        (0, -3000, -4, false),
        (0, 600_000, 599, false),
        (0, 600_000, 600, true),
        (0, -300_000, -300, true),
        (0, -300_000, -301, false),
        // An hour behind: theirs, where the push is in its future. Else it may be
        // ours that is ahead, and what came before the push is not new.
        (0, -3_600_000, -3600, true),
        (0, -3_600_000, -3601, false),
        (-7_200_000, -3_600_000, -7200, true),
        (-7_200_000, -3_600_000, -7201, false),
    ] {
        let asked = |case: Case| case.pushed_ms(pushed_ms).clock_ms(Some(ahead_ms));
        let case =
            asked(flux().chart("1.3.0")).see(old().history(&[entry(12, "deployed", "1.3.0", "", made)]));
        case.ok_if(news, UpgradeSucceeded);
        let case = asked(plain()).list([rev(12, "deployed").made(made)]);
        case.ok_if(news, Deployed);
    }
}

#[test]
fn without_pushed_at_the_start_stands_for_it() {
    let hr = |deployed| old().history(&[entry(12, "deployed", "1.3.0", "", deployed)]);
    flux().pushed_unknown().chart("1.3.0").see(hr(0)).ok(UpgradeSucceeded);
    flux().pushed_unknown().chart("1.3.0").see(hr(-1)).waits(WaitingForChange);
}

#[test]
fn a_failure_of_another_chart_version_is_that_of_another_push() {
    let keeps = failed().observed(3).reconciling("retrying after 1m").counters(3, 0, 3);
    for (hr, fail_on) in [
        (keeps.clone(), FailOn::Final),
        (keeps.counters(1, 0, 1), FailOn::First),
        (rolled_back(), FailOn::Final),
        (failed(), FailOn::Final),
    ] {
        let case = |chart: &str, hr: Hr| Case { fail_on, ..flux().chart(chart) }.push(hr.clone()).see(hr);
        case("1.5.0", hr.clone()).waits(OtherVersion).says("1.4.0").says("1.5.0");
        assert_eq!(case("v1.4.0", hr.clone()).state.status, Status::Failed);
        // A version that is absent is not held against it.
        assert_eq!(case("1.5.0", hr.without("/status/lastAttemptedRevision")).state.status, Status::Failed);
    }
}

#[test]
fn versions_are_compared_as_helm_and_flux_write_them() {
    for (expected, seen, met) in [
        ("1.4.0", "1.4.0+60fec512ea2b.1", true),
        ("1.4.0", "v1.4.0", true),
        ("v1.4.0", "1.4.0_60fe", true),
        ("1.4.0+60fe", "1.4.0+60fec512ea2b.1", true),
        ("1.4.0_60fe", "1.4.0+60fec512ea2b.1", true),
        ("1.4.0+60ff", "1.4.0+60fec512ea2b.1", false),
        ("1.4.0+60fe", "1.4.0", false),
        ("1.4.0", "1.4.0-rc.1", false),
        ("1.4.0", "1.4.1", false),
        ("2026.01.3", "2026.01.3", true),
        ("2026.01.3", "2026.1.3", false),
        ("latest", "latest", true),
        ("1.x", "1.4.0", false),
        ("^1.4.0", "1.4.0", false),
        ("", "1.4.0", false),
    ] {
        let hr = new().revision(seen).history(&[entry(12, "deployed", seen, seen, 3)]);
        let twelve = rev(12, "deployed").made(3).chart(seen).app(seen);
        for case in [
            flux().chart(expected).push(hr.clone()),
            flux().app(expected).push(hr),
            plain().chart(expected).then([twelve.clone()]),
            plain().app(expected).then([twelve]),
        ] {
            assert_eq!(case.succeeded(), met, "{expected} {seen}: {}", case.state.message);
        }
    }
}

#[test]
fn an_expectation_is_never_met_by_an_absent_field() {
    let unknown = || new().history(&[json!({"name": "checkout", "version": 12, "status": "deployed"})]);
    flux().chart("1.4.0").push(unknown()).see(unknown()).waits(OtherVersion);
    flux().app("2026.11.3").unchanged_too().see(unknown()).waits(OtherVersion);
    let unknown = || rev(12, "deployed").made(3).edit("/chart/metadata", json!({}));
    plain().chart("1.4.0").then([unknown()]).waits(OtherVersion);
    plain().app("2026.11.3").then([unknown()]).waits(OtherVersion);
    plain().value("/image/tag", "x").then([unknown().config(Value::Null)]).waits(OtherVersion);
}

#[test]
fn values_are_found_by_pointer_and_a_string_equals_the_text_of_a_scalar() {
    let values = json!({
        "port": 8080, "on": true, "ratio": 1.5, "tag": "2026.11.3", "list": ["a", {"b": "c"}],
        "a/b": {"c~d": "e"}, "map": {"x": 1}, "empty": "",
    });
    for (pointer, expected, met) in [
        ("/tag", json!("2026.11.3"), true),
        ("/port", json!("8080"), true),
        ("/port", json!(8080), true),
        ("/port", json!("08080"), false),
        ("/on", json!("true"), true),
        ("/on", json!(true), true),
        ("/on", json!("yes"), false),
        ("/ratio", json!("1.5"), true),
        ("/ratio", json!("1.50"), false),
        ("/list/1/b", json!("c"), true),
        ("/list", json!(["a", {"b": "c"}]), true),
        ("/list/2", json!("c"), false),
        ("/a~1b/c~0d", json!("e"), true),
        ("/map", json!({"x": 1}), true),
        ("/map", json!("{\"x\":1}"), false),
        ("/absent", json!(null), false),
        ("/absent", json!(""), false),
        ("/empty", json!(""), true),
    ] {
        let case = flux().value(pointer, expected.clone()).push(new().set("/spec/values", values.clone()));
        assert_eq!(case.succeeded(), met, "flux {pointer} {expected}: {}", case.state.message);
        let twelve = rev(12, "deployed").made(3).config(values.clone());
        let case = plain().value(pointer, expected.clone()).then([twelve]);
        assert_eq!(case.succeeded(), met, "plain {pointer} {expected}: {}", case.state.message);
    }
}

#[test]
fn the_first_answer_and_the_timeout_warn_of_a_deadline_shorter_than_the_patience_of_flux() {
    let patience = |timeout: &str, retries: i64| {
        let hr = old().set("/spec/upgrade", json!({"remediation": {"retries": retries}}));
        if timeout.is_empty() { hr.without("/spec/timeout") } else { hr.set("/spec/timeout", timeout) }
    };
    for (hr, secs, short) in [
        (patience("", 0), 300, false),
        (patience("", 0), 299, true),
        (patience("", 3), 1200, false),
        (patience("", 3), 1199, true),
        (patience("1m30s", 1), 180, false),
        (patience("1m30s", 1), 179, true),
        (patience("1h", 0), 3599, true),
        (patience("500ms", 0), 10, false),
        (old().set("/spec/timeout", "5m"), 120, true),
    ] {
        let warns = |case: &Case| case.state.message.contains("spec.timeout");
        let case = flux().timeout(secs).see(hr.clone()).pends();
        assert_eq!(warns(&case), short, "{secs} s: {}", case.state.message);
        let case = case.see(hr.clone()).says_not("spec.timeout").at_the_deadline().see(hr).fails(Timeout);
        assert_eq!(warns(&case), short, "{secs} s: {}", case.state.message);
    }
}

#[test]
fn the_first_answer_warns_of_a_missing_pushed_at_where_something_settled_is_found() {
    flux().pushed_unknown().see(old()).says("pushedAt").see(old()).says_not("pushedAt");
    flux().see(old()).says_not("pushedAt");
    flux().pushed_unknown().see(Nothing).says_not("pushedAt");
    flux().pushed_unknown().see(new().reconciling("at work")).says_not("pushedAt");
}

#[test]
fn a_timeout_of_flux_names_the_likely_cause() {
    let last = |hr: Hr| flux().see(old()).at_the_deadline().see(hr).fails(Timeout);
    let case = last(old()).waited_for(WaitingForChange).says("HelmRelease never changed").says("apps-prod");
    case.says("timed out after 300 s waiting for HelmRelease shop/checkout on prod-eu: ");
    last(old().generation(4)).says("did not pick it up").says("helm-controller").says_not("never changed");
    last(old().generation(4).reconciling("")).says_not("did not pick it up").says_not("never changed");
    last(failed().reconciling("")).waited_for(UpgradeFailed).says("told by Ready").says_not("never changed");
    flux().at_the_deadline().see(Nothing).fails(Timeout).waited_for(NotFound);
}

#[test]
fn objects_with_little_in_them_are_waited_for() {
    for hr in [
        json!({}),
        json!({"metadata": null, "spec": null, "status": null}),
        json!({"metadata": {"uid": "u1", "generation": 4}, "status": null}),
        json!({"metadata": {"generation": 1}, "status": {"observedGeneration": -1}}),
        json!({"status": {"conditions": null, "history": null, "failures": null}}),
        json!({"status": {"conditions": [{"type": null, "status": null}], "history": [{}]}}),
    ] {
        flux().push(Hr(hr.clone())).pends().see(Hr(hr.clone())).pends();
        flux().see(Nothing).see(Hr(hr.clone())).pends().see(Hr(hr)).pends();
    }
    // The first attempt of an object that had none is an attempt.
    let fresh = old().set("/status", Value::Null);
    flux().chart("1.3.0").see(fresh).waits(Progressing).see(old()).ok(UpgradeSucceeded);
}

// --------------------------------------------------- plain Helm: release secrets

#[test]
fn p0_a_release_that_flux_drives_is_not_judged() {
    let mut driven = eleven();
    driven.revision.by_flux = true;
    plain().list([driven]).fails(UseFlux).says("flux");
    plain().list([eleven()]).waits(WaitingForChange);
}

#[test]
fn p1_what_was_new_and_is_gone_was_removed() {
    let running = || rev(1, "pending-install").made(3);
    let case = plain().list([]).list([running()]).waits(Progressing).list([]).list([]).pends();
    let case = case.after_ms(3999).list([]).pends().after_ms(1).list([]).fails(Removed);
    case.list([rev(2, "deployed").made(50)]).fails(Removed);
    // A sight starts the count again; what was old and is gone was never new.
    let case = plain().list([]).list([running()]).list([]).list([]).list([running()]);
    case.list([]).list([]).pends();
    plain().list([eleven()]).list([]).list([]).list([]).waits(NotFound);
    // The last description is kept.
    let other = rev(1, "failed").made(3).chart("1.3.0").told("the image is missing");
    let case = plain().chart("1.4.0").list([]).list([other]).waits(OtherVersion).list([]).list([]).pends();
    case.list([]).fails(Removed).says("the image is missing");
}

#[test]
fn p2_a_release_that_an_interrupted_helm_left_locked_fails() {
    let stuck = |word: &str, age: i64| rev(12, word).made(-age);
    for word in ["pending-install", "pending-upgrade", "pending-rollback"] {
        plain().list([eleven(), stuck(word, 901)]).fails(Locked).says("12").says("2026-11-23T19:00:44Z");
        plain().list([eleven(), stuck(word, 899)]).waits(WaitingForChange);
        plain().timeout(3600).list([stuck(word, 3599)]).waits(WaitingForChange);
        plain().timeout(3600).list([stuck(word, 3601)]).fails(Locked);
    }
    // It grows old while we look; by the cluster's clock, and not where that is unknown.
    let growing = || [stuck("pending-upgrade", 896)];
    plain().list(growing()).pends().list(growing()).fails(Locked);
    plain().clock_ms(None).list([stuck("pending-upgrade", DAY)]).waits(WaitingForChange);
    let slow = || plain().clock_ms(Some(-DAY * 1000));
    slow().list([stuck("pending-upgrade", DAY + 899)]).waits(WaitingForChange);
    slow().list([stuck("pending-upgrade", DAY + 901)]).fails(Locked);
    // Not the newest; new; without a date.
    plain().list([stuck("pending-upgrade", 901), rev(13, "deployed")]).waits(WaitingForChange);
    plain().list([]).list([stuck("pending-upgrade", 901)]).waits(Progressing);
    let mut undated = stuck("pending-upgrade", 901);
    undated.revision.created = None;
    plain().list([undated]).waits(WaitingForChange);
}

#[test]
fn p3_nothing_new_is_waited_for_and_ten_is_above_nine() {
    plain().list([]).waits(NotFound).list([]).waits(NotFound);
    let case = plain().list([rev(9, "superseded"), rev(10, "deployed")]).waits(WaitingForChange);
    let case = case.list([rev(10, "deployed"), rev(9, "superseded")]).waits(WaitingForChange);
    case.list([rev(9, "failed").uid("a").made(3), rev(10, "deployed").uid("b").made(4)]).ok(Deployed);
}

#[test]
fn p4_a_new_failed_revision_fails_with_the_sentence_of_helm() {
    let twelve = || rev(12, "failed").made(3);
    let case = plain().then([twelve()]).fails(UpgradeFailed).says("the probe is red");
    case.rests_on(Evidence::Changed).observes(12, "1.4.0", "failed");
    let first = rev(1, "failed").made(3).told("Release \"checkout\" failed: no such image");
    plain().list([]).list([first]).fails(InstallFailed).says("no such image");
    // It failed before the push.
    plain().list([rev(12, "failed")]).list([rev(12, "failed")]).waits(WaitingForChange);
    plain().unchanged_too().list([rev(12, "failed")]).fails(UpgradeFailed);
    // Where the payload can't be read, or does not say it, the label stands.
    plain().chart("1.4.0").then([twelve().unreadable()]).fails(UpgradeFailed);
    plain().chart("1.4.0").then([twelve().edit("/chart/metadata", json!({}))]).fails(UpgradeFailed);
    // Another push's.
    plain().chart("1.4.0").then([twelve().chart("1.3.5")]).waits(OtherVersion).says("1.3.5").says("1.4.0");
    plain().chart("1.3.5").then([twelve().chart("1.3.5")]).fails(UpgradeFailed);
}

#[test]
fn p5_a_rollback_under_way_fails_with_what_failed_before_it() {
    let (twelve, back) = (|| rev(12, "failed").made(3), || rev(13, "pending-rollback").made(9));
    let case = plain().then([twelve(), back()]).fails(RolledBack).says("the probe is red");
    assert_eq!(case.asked, ["sh.helm.release.v1.checkout.v12"]);
    plain().then([back()]).pends();
    plain().list([rev(12, "failed")]).list([rev(12, "failed"), back()]).pends();
    plain().unchanged_too().list([rev(12, "failed"), back().made(-3)]).pends();
    plain().chart("1.4.0").then([twelve().chart("1.3.5"), back()]).waits(OtherVersion).says("1.3.5");
}

#[test]
fn p6_p7_p11_follow_the_label_and_fetch_no_payload() {
    for (word, fails) in [
        ("pending-install", false),
        ("pending-upgrade", false),
        ("uninstalling", true),
        ("uninstalled", true),
        ("superseded", false),
        ("unknown", false),
        ("a-word-of-tomorrow", false),
    ] {
        let case = plain().then([rev(12, word).made(3)]);
        let case = if fails { case.fails(Uninstalled) } else { case.waits(Progressing) };
        assert!(case.asked.is_empty(), "{word} fetched {:?}", case.asked);
        plain().list([rev(12, word).made(-60)]).waits(WaitingForChange);
    }
    // At the deadline it says since when, and why.
    let twelve = || rev(12, "pending-upgrade").made(3);
    let case = plain().then([twelve()]).at_the_deadline().list([eleven(), twelve()]).fails(Timeout);
    case.waited_for(Progressing).says("2026-11-23T19:15:48Z").says("interrupted");
}

#[test]
fn p8_a_rollback_is_a_failure() {
    let (twelve, back) = (|| rev(12, "failed").made(3), || rev(13, "deployed").made(9).chart("1.3.0"));
    for back in [back().told("Rollback to 11"), back().edit("/info/rollback_revision", 11)] {
        let case = plain().then([twelve(), back.clone()]).fails(RolledBack).rests_on(Evidence::Changed);
        case.says("the probe is red");
        // Whatever is expected.
        plain().chart("1.3.0").then([twelve(), back.clone()]).fails(RolledBack);
        plain().chart("1.4.0").then([twelve(), back.clone()]).fails(RolledBack);
        // None failed: somebody went back on purpose.
        plain().chart("1.3.0").then([back.clone()]).ok(Deployed).rests_on(Evidence::Expected);
        plain().chart("1.4.0").then([back.clone()]).fails(RolledBack);
        plain().then([back.clone()]).fails(RolledBack);
        // It, or the failure, was there before the push.
        plain().list([rev(12, "failed"), back.clone().made(-9)]).waits(WaitingForChange);
        plain().chart("1.3.0").list([rev(12, "failed")]).list([rev(12, "failed"), back]).ok(Deployed);
    }
    // Tried again after a failure: no rollback.
    plain().then([twelve(), rev(13, "deployed").made(9)]).ok(Deployed);
}

#[test]
fn p9_another_release_runs_than_the_expected_one() {
    let twelve = |word: &str| rev(12, word).made(3);
    let thirteen = || rev(13, "deployed").made(9).chart("1.5.0");
    let case = || plain().chart("1.4.0");
    // The expected one ran; it failed; it was superseded after it had failed.
    case().then([twelve("superseded"), thirteen()]).ok(Superseded).rests_on(Evidence::Expected);
    case().then([twelve("failed"), thirteen()]).fails(UpgradeFailed).says("the probe is red");
    let bad = twelve("superseded").told("Upgrade \"checkout\" failed: the probe is red");
    case().then([bad, thirteen()]).fails(Superseded);
    // Something newer came.
    case().then([thirteen()]).fails(Superseded).says("1.4.0").says("1.5.0");
    // Older than expected; the expected is no newer than what ran before; it was there before.
    plain().chart("1.6.0").then([thirteen()]).waits(OtherVersion).says("1.6.0").says("1.5.0");
    plain().chart("1.2.0").then([thirteen()]).waits(OtherVersion);
    plain().chart("1.3.0").then([thirteen()]).waits(OtherVersion);
    case().list([eleven(), thirteen().made(1)]).waits(OtherVersion);
    case().unchanged_too().list([twelve("superseded").made(-9), thirteen().made(-3)]).waits(OtherVersion);
}

#[test]
fn p10_a_new_deployed_revision_succeeded() {
    let twelve = || rev(12, "deployed").made(3);
    let case = plain().then([twelve()]).ok(Deployed).rests_on(Evidence::Changed);
    case.observes(12, "1.4.0", "deployed");
    plain().list([]).list([rev(1, "deployed").made(3)]).ok(Deployed);
    let case = plain().chart("1.4.0").value("/image/tag", "2026.11.3").then([twelve()]).ok(Deployed);
    case.rests_on(Evidence::Expected);
    let case = plain().value("/image/tag", "x").then([twelve().config(json!({"image": {"tag": "s3cr3t"}}))]);
    assert!(!serde_json::to_string(&case.waits(OtherVersion).state).unwrap().contains("s3cr3t"));
    // Made again with the same number: another secret.
    plain().list([eleven()]).list([eleven().uid("again").made(3)]).ok(Deployed);
    // Quicker than the first look: told by time, where the cluster's clock is known.
    plain().list([eleven(), twelve().made(0)]).ok(Deployed);
    plain().clock_ms(None).list([eleven(), twelve().made(0)]).waits(WaitingForChange);
    let case = plain().unchanged_too().list([eleven()]).ok(Deployed).rests_on(Evidence::Unchanged);
    case.says("was already there before the push");
}

#[test]
fn p10_a_payload_that_cannot_be_read_is_waited_for() {
    let broken = || [eleven(), rev(12, "deployed").made(3).unreadable()];
    let case = || plain().list([eleven()]).list(broken()).waits(PayloadUnreadable);
    case().list(broken()).waits(PayloadUnreadable).list([eleven(), rev(12, "deployed").made(3)]).ok(Deployed);
    let case = case().after_ms(1000).list(broken()).after_ms(1000).list(broken()).waits(PayloadUnreadable);
    case.list(broken()).list(broken()).list(broken()).fails(PayloadUnreadable);
}

#[test]
fn of_a_long_history_only_what_was_made_later_is_new() {
    let many = |from: i64, to: i64| -> Vec<Rev> {
        (from..=to).map(|v| rev(v, "superseded").made(v - DAY)).collect()
    };
    let first = many(1, 25);
    let case = || plain().see(&first[..]).waits(WaitingForChange);
    let baseline = serde_json::to_value(case().state.baseline).unwrap();
    assert_eq!(baseline["revisions"].as_array().unwrap().len(), 20);
    case().see(&first[..]).waits(WaitingForChange).see(&first[..5]).see(&first[..3]).waits(WaitingForChange);
    let mut next = many(2, 25);
    next.push(rev(26, "deployed").made(3));
    case().see(&next[..]).ok(Deployed);
    // Not among the kept: new only if made after the newest of them.
    case().list([rev(1, "deployed").uid("anew").made(26 - DAY)]).ok(Deployed);
    case().list([rev(1, "deployed").uid("anew").made(25 - DAY)]).waits(WaitingForChange);
    // Where all were kept, an unknown uid is new.
    plain().see(&first[..20]).list([rev(1, "deployed").uid("anew").made(-DAY)]).ok(Deployed);
}

#[test]
fn a_timeout_of_plain_helm_says_that_an_error_may_have_left_no_trace() {
    let case = plain().list([eleven()]).at_the_deadline().list([eleven()]).fails(Timeout);
    case.waited_for(WaitingForChange).says("300 s").says("shop/checkout on prod-eu").says("trace");
    plain().list([]).at_the_deadline().list([]).fails(Timeout).waited_for(NotFound).says("trace");
}

#[test]
fn fail_on_first_changes_nothing_for_plain_helm() {
    plain().fail_first().then([rev(12, "pending-upgrade").made(3)]).waits(Progressing);
    plain().fail_first().list([rev(12, "failed")]).waits(WaitingForChange);
    plain().fail_first().then([rev(12, "deployed").made(3)]).ok(Deployed);
}

// -------------------------------------------------------------------- for both

#[test]
fn an_answer_that_cannot_pass_by_itself_fails_at_the_third_poll_in_a_row() {
    for (kind, waits, fails) in [
        (Kind::Unauthorized, Unauthorized, Unauthorized),
        (Kind::Forbidden, Forbidden, Forbidden),
        (Kind::FluxNotInstalled, FluxNotInstalled, FluxNotInstalled),
        (Kind::Tls, TlsError, TlsError),
        (Kind::NotKubernetes, BadAnswer, NotKubernetes),
    ] {
        let case =
            flux().see(old()).see(kind).waits(waits).says("words of the server").see(kind).waits(waits);
        case.see(kind).fails(fails).says("words of the server").says("prod-eu");
        // One good answer in between starts the count again; absence is one, too.
        flux().see(kind).see(kind).see(old()).see(kind).see(kind).pends().see(kind).fails(fails);
        flux().see(kind).see(kind).see(Nothing).see(kind).see(kind).pends();
        plain().see(kind).see(kind).list([]).see(kind).see(kind).pends();
        let case = flux().see(kind).see(kind).after_ms(3999).see(kind).pends();
        case.after_ms(1).see(kind).fails(fails);
    }
    // Another kind of object than was asked for.
    plain().see(old()).waits(BadAnswer).see(old()).see(old()).fails(NotKubernetes);
    // Registered anew elsewhere: no waiting helps.
    flux().see(old()).see(Kind::ClusterChanged).fails(ClusterChanged);
    flux().see(old()).see(Kind::NamespaceNotAllowed).fails(NamespaceNotAllowed);
}

#[test]
fn an_answer_that_can_pass_by_itself_is_waited_out() {
    for (kind, reason) in [
        (Kind::Unreachable, ClusterUnreachable),
        (Kind::Slow, ClusterSlow),
        (Kind::Throttled, Throttled),
        (Kind::ServerError, ServerError),
        (Kind::CredentialsUnavailable, CredentialsUnavailable),
    ] {
        let mut case = flux().see(old());
        for _ in 0..8 {
            case = case.see(kind).waits(reason).says("words of the server");
        }
        case.at_the_deadline().see(kind).fails(Timeout).waited_for(reason).says("words of the server");
    }
}

#[test]
fn an_unreachable_first_look_leaves_the_baseline_unknown_not_absent() {
    let case = flux().see(Kind::Unreachable).waits(ClusterUnreachable);
    assert_eq!(case.state.baseline, None);
    let case = case.see(old()).waits(WaitingForChange).see(old()).see(old()).waits(WaitingForChange);
    case.see(new()).see(new()).ok(UpgradeSucceeded);
    let case = plain().see(Kind::Forbidden).list([eleven()]).list([eleven()]).waits(WaitingForChange);
    case.list([eleven(), rev(12, "deployed").made(9)]).ok(Deployed);
}

#[test]
fn a_verdict_on_the_last_poll_counts_and_a_late_tick_asks_nobody() {
    flux().chart("1.4.0").see(old()).at_the_deadline().see(new()).ok(UpgradeSucceeded);
    flux().chart("1.4.0").see(old()).at_the_deadline().see(rolled_back()).fails(RolledBack);
    let case = flux().see(old()).at_the_deadline().after_ms(4999).see(old()).waits(WaitingForChange);
    let late = expire(&case.question(), &case.state, at(400));
    assert_eq!(
        (late.status, late.reason, late.last_reason),
        (Status::Failed, Timeout, Some(WaitingForChange))
    );
    assert_eq!(late.evidence, None);
    let start = "timed out after 300 s waiting for HelmRelease shop/checkout on prod-eu: ";
    assert!(late.message.starts_with(start), "{}", late.message);
}

#[test]
fn a_target_with_a_verdict_keeps_it() {
    for case in [flux().chart("1.4.0").push(new()), flux().push(rolled_back())] {
        let kept = case.state.clone();
        assert_eq!(expire(&case.question(), &kept, at(500)), kept);
        assert_eq!(case.see(old()).see(Nothing).see(Kind::ClusterChanged).state, kept);
    }
}

#[test]
fn texts_of_a_cluster_are_cleaned_before_they_are_told() {
    let dirty = "\u{1b}[31mfirst\nsecond\u{7} error found in #10 byte of ...|password\":\"s3cr3t\"|...";
    let long = format!("first{} error found in #1 s3cr3t", " ä".repeat(300));
    for text in [dirty, &long] {
        let hr = failed().stalled().released("False", "UpgradeFailed", text);
        flux().push(hr).fails(UpgradeFailed).says("first").says_not("s3cr3t");
        flux().push(new().ready("Unknown", "Progressing", text)).pends().says_not("s3cr3t");
        let case = plain().then([rev(12, "failed").made(3).told(text)]);
        case.fails(UpgradeFailed).says("first").says_not("s3cr3t");
    }
}

#[test]
fn extreme_times_and_numbers_have_an_answer() {
    let times = [Timestamp::MIN, at(-4_000_000_000), at(0), at(251_600_000_000), Timestamp::MAX];
    let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
    let expect = Expect { chart_version: Some("1.4.0".to_owned()), ..Expect::default() };
    for case in 0..625 {
        let [now, stamp, pushed, date] = [1, 5, 25, 125].map(|step| times[case / step % 5]);
        let number = numbers[(case + case / 5 + case / 25 + case / 125) % 5];
        let hr = failed()
            .tried(number, "1.4.0", "x")
            .counters(number, number.saturating_neg(), number)
            .set("/metadata/managedFields", json!([{"time": stamp.to_string(), "fieldsV1": {"f:spec": {}}}]))
            .set("/spec/timeout", "9223372036854775807s")
            .set("/spec/upgrade", json!({"remediation": {"retries": number}}))
            .history(&[json!({"version": number, "status": "failed", "lastDeployed": stamp.to_string()})]);
        let mut secrets = [rev(number, "pending-upgrade"), rev(number, "failed").uid("b"), eleven()];
        secrets[0].revision.created = Some(stamp);
        let names: Vec<String> = secrets.iter().map(|s| s.revision.name.clone()).collect();
        for asked in [flux().fail_first(), plain().unchanged_too()] {
            let mut state = TargetState::new(stamp);
            for at in [now, stamp, pushed, date] {
                let question = Question {
                    expect: &expect,
                    pushed_at: Some(pushed),
                    deadline: stamp,
                    timeout_secs: u32::MAX,
                    ..asked.question()
                };
                let seen = match asked.helm_type {
                    HelmType::Flux => hr.seen(&[]),
                    HelmType::Plain => (&secrets[..]).seen(&names),
                };
                let look = Look { at, cluster_date: Some(date), seen };
                let Decision::Known(known) = decide(&question, &state, &look) else { unreachable!() };
                assert!(known.message.len() <= MESSAGE_BYTES);
                assert!(expire(&question, &known, now).status.is_terminal());
                state = *known;
            }
        }
    }
}

// What reading the rules beside the recordings brought up.

#[test]
fn a_retry_of_what_ran_before_the_push_is_no_news() {
    // The first attempt of an older push is under way at the first look, and fails after ours.
    let attempt = || old().tried(3, "1.3.0", "c3").reconciling("");
    let eleven = || entry(11, "failed", "1.3.0", "2026.11.2", -9);
    let twelve = |status| entry(12, status, "1.3.0", "2026.11.2", 40);
    let before = || flux().see(attempt().history(&[]));
    let retried = || old().tried(3, "1.3.0", "c3").counters(1, 0, 1).history(&[twelve("deployed"), eleven()]);
    before().see(retried()).see(retried()).waits(WaitingForChange);
    let trimmed = || retried().history(&[twelve("deployed")]);
    before().see(trimmed()).see(trimmed()).waits(WaitingForChange);
}

#[test]
fn what_was_new_stays_new_where_the_clock_is_lost() {
    let seen = || [rev(12, "pending-upgrade").made(1), eleven()];
    let mut case = plain().list(seen()).waits(Progressing);
    for _ in 0..4 {
        case = case.clock_ms(None).list(seen()).waits(Progressing);
    }
    case.clock_ms(Some(0)).list(seen()).waits(Progressing);
}

#[test]
fn an_atomic_upgrade_whose_rollback_fails_too_has_failed() {
    let twelve = rev(12, "superseded").made(3).chart("1.4.0").told("Upgrade \"checkout\" failed: timed out");
    let thirteen = rev(13, "failed").made(9).chart("1.3.0").told("Rollback \"checkout\" failed: no quota");
    plain()
        .chart("1.4.0")
        .list([eleven()])
        .list([thirteen, twelve, eleven()])
        .fails(UpgradeFailed)
        .says("timed out");
}

#[test]
fn a_user_s_own_description_is_neither_a_rollback_nor_a_failure() {
    let told = "Rollback to the old look of the page";
    plain().list([eleven()]).list([rev(12, "deployed").made(3).told(told), eleven()]).ok(Deployed);
    let twelve = rev(12, "superseded").made(3).chart("1.4.0").told("release of build 77");
    let thirteen = rev(13, "deployed").made(9).chart("1.5.0");
    plain().chart("1.4.0").list([eleven()]).list([thirteen, twelve, eleven()]).ok(Superseded);
}

#[test]
fn a_field_that_appears_is_no_attempt() {
    let before = || old().without("/status/lastAttemptedConfigDigest");
    flux().see(before()).see(old()).see(old()).waits(WaitingForChange);
}

#[test]
fn advice_stays_behind_what_was_redacted_and_secrets_are_not_kept() {
    let dirty = "bad: Error found in #10 byte of ...|password\":\"s3cr3t";
    let case = plain().chart("1.4.0").list([eleven()]);
    let case = case.list([rev(12, "failed").made(3).chart("1.3.5").told(&dirty.repeat(900)), eleven()]);
    let stored = serde_json::to_string(&case.state).unwrap();
    assert!(!stored.contains("s3cr3t") && stored.len() < 4096, "{stored}");
    let released = old().reconciling("").released("False", "UpgradeFailed", dirty).counters(9, 0, 0);
    let case =
        flux().push(released.ready("False", "UpgradeFailed", dirty).generation(4).tried(4, "1.4.0", "c4"));
    case.fails(KeepsFailing).says("Flux will go on trying").says_not("s3cr3t");
}

#[test]
fn both_versions_are_named() {
    let runs = rev(12, "deployed").made(3).chart("1.4.0").app("2026.11.3");
    let case = plain().chart("1.4.0").app("2026.11.4").list([eleven()]).list([runs, eleven()]);
    case.waits(OtherVersion).says("2026.11.3").says("2026.11.4");
    let runs = rev(12, "deployed").made(3).config(json!({"image": {"tag": "a"}}));
    let case = plain().value("/image/tag", "b").list([eleven()]).list([runs, eleven()]);
    case.waits(OtherVersion).says("/image/tag");
}
