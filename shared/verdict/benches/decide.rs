//! What one decision costs, parsing included: the part of a poll that is ours.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use verdict::{
    Expect, FailOn, HelmRelease, HelmType, Look, Question, ReleaseStatus, Releases, Revision, Seen,
    TargetState, decide,
};

fn main() {
    divan::main();
}

fn ask(helm_type: HelmType, seen: Seen) -> verdict::Decision {
    let start = Timestamp::UNIX_EPOCH;
    let question = Question {
        helm_type,
        cluster: "prod",
        namespace: "apps",
        release: "chart-upgrade",
        expect: &Expect::default(),
        pushed_at: None,
        started_at: start,
        deadline: Timestamp::MAX,
        timeout_secs: 300,
        fail_on: FailOn::Final,
        allow_unchanged: false,
    };
    let look = Look { at: start, cluster_date: Some(start), seen };
    decide(&question, &TargetState::new(start), &look)
}

#[divan::bench]
fn one_helm_release(bencher: divan::Bencher<'_, '_>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/flux/chart-upgrade.json");
    let file: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let body = file["frames"][0]["body"].to_string();
    bencher.counter(divan::counter::BytesCount::of_str(&body)).bench(|| {
        let object: HelmRelease = serde_json::from_str(divan::black_box(&body)).unwrap();
        ask(HelmType::Flux, Seen::HelmRelease(Some(Box::new(object))))
    });
}

#[divan::bench(args = [10, 10_000])]
fn many_revisions(bencher: divan::Bencher<'_, '_>, count: i64) {
    let revisions: Vec<Revision> = (1..=count)
        .map(|version| Revision {
            name: format!("sh.helm.release.v1.app.v{version}"),
            uid: format!("293a661d-122f-48d7-949e-{version:012}"),
            version,
            status: if version == count { ReleaseStatus::Deployed } else { ReleaseStatus::Superseded },
            created: Some(Timestamp::UNIX_EPOCH),
            by_flux: false,
        })
        .collect();
    bencher.bench(|| {
        let seen = Releases { revisions: divan::black_box(&revisions).clone(), ..Releases::default() };
        ask(HelmType::Plain, Seen::Releases(seen))
    });
}
