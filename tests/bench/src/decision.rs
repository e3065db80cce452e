//! What one decision costs, reading the answer included: the part of a poll that
//! is the rules'. In time, and in instructions, which every machine counts alike.

use std::{fs, hint::black_box, process::Command, time::Instant};

use jiff::Timestamp;
use serde_json::Value;
use verdict::{
    Decision, Expect, FailOn, HelmRelease, HelmType, Look, Question, ReleaseStatus, Releases, Revision, Seen,
    TargetState, decide,
};

use crate::{
    table::{Row, Sample, Table, Unit},
    tools::found,
    world::fixtures,
};

/// Of what a decision is made.
const CASES: [(&str, &str); 3] = [
    ("flux", "a HelmRelease, read and judged"),
    ("plain-10", "10 revisions, judged"),
    ("plain-10000", "10,000 revisions, judged"),
];
/// So many more decisions in the longer of two runs: their difference has no start in it.
const MORE: u32 = 100;
const TIMED: usize = 200;

pub(crate) fn measure(table: &mut Table) {
    for (case, words) in CASES {
        let decision = decision(case);
        let mut times = Sample::new(Unit::Millis);
        for _ in 0..TIMED {
            let began = Instant::now();
            decision();
            times.add_time(began.elapsed());
        }
        table.add(Row::new(format!("decision, {words}: time"), &times));
        let what = format!("decision, {words}: instructions");
        match instructions(case) {
            Ok(sample) => table.add(Row::new(what, &sample)),
            Err(why) => table.add(Row::skipped(what, &why)),
        }
    }
}

fn instructions(case: &str) -> Result<Sample, String> {
    let valgrind = found("valgrind").ok_or("valgrind is not installed")?;
    let run = |times: u32| {
        let ended = Command::new(&valgrind)
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().map_err(|it| it.to_string())?)
            .args(["--decide", case, &times.to_string()])
            .output()
            .map_err(|it| it.to_string())?;
        let words = String::from_utf8_lossy(&ended.stderr);
        let collected = words.lines().find_map(|it| it.split_once("Collected : "));
        collected.and_then(|it| it.1.trim().parse::<f64>().ok()).ok_or("valgrind could not count".to_owned())
    };
    let more = if case == "plain-10000" { 2 } else { MORE };
    let (short, long) = (run(1)?, run(1 + more)?);
    Ok(Sample::of(Unit::Instructions, [(long - short) / f64::from(more)]))
}

/// This many decisions, and nothing else.
pub(crate) fn child(case: &str, times: u32) {
    let decision = decision(case);
    for _ in 0..times {
        decision();
    }
}

fn decision(case: &str) -> Box<dyn Fn()> {
    if case == "flux" {
        let file: Value =
            serde_json::from_slice(&fs::read(fixtures().join("flux/chart-upgrade.json")).unwrap()).unwrap();
        let body = file["frames"][0]["body"].to_string();
        return Box::new(move || {
            let object: HelmRelease = serde_json::from_str(black_box(&body)).unwrap();
            black_box(ask(HelmType::Flux, Seen::HelmRelease(Some(Box::new(object)))));
        });
    }
    let count = case.rsplit('-').next().unwrap().parse().unwrap();
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
    Box::new(move || {
        let seen = Releases { revisions: black_box(&revisions).clone(), ..Releases::default() };
        black_box(ask(HelmType::Plain, Seen::Releases(seen)));
    })
}

fn ask(helm_type: HelmType, seen: Seen) -> Decision {
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
