//! A fresh process: from its spawning to its first answer.
//!
//! Cold is: a new process, no connection, no session ticket, no secret. The
//! binary itself is in the page cache; in Lambda it is fetched first.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    Binaries,
    hot::{Pair, flux_path},
    table::{Row, Sample, Table, Unit},
    world::{ROUND_TRIP, World, event, one},
};

const STARTS: usize = 21;
/// DESIGN's: ours is at most so many times the bare handler's.
const RATIO: f64 = 1.5;

pub(crate) async fn measure(table: &mut Table, binaries: &Binaries) {
    let world = World::start(1, &testkit::Config::default()).await;
    world.settle(0, "flux/chart-upgrade", "checkout");
    let ours = event("cold", "flux", &one("checkout"));
    let bare = world.bare_event("cold", &flux_path("checkout"));
    // The baseline is stored, so that each process makes the same three round trips.
    let first = world.start_process(&binaries.check).await;
    world.invoke(&first, &ours).await;
    drop(first);

    table.heading("Cold start: from the spawning to the first answer, one target");
    for (words, round_trip) in [("without delay", Duration::ZERO), ("20 ms on every round trip", ROUND_TRIP)]
    {
        world.set_round_trip(round_trip);
        let (mut total, mut busy) = (Pair::new(Unit::Millis), Pair::new(Unit::Millis));
        let mut parts: Vec<(String, Sample)> = Vec::new();
        for _ in 0..STARTS {
            for (binary, event, is_ours) in [(&binaries.check, &ours, true), (&binaries.bare, &bare, false)] {
                let process = world.start_process(binary).await;
                let (answered, cost) = world.invoke(&process, event).await;
                let sample = if is_ours {
                    (&mut total.ours, &mut busy.ours)
                } else {
                    (&mut total.theirs, &mut busy.theirs)
                };
                sample.0.add_time(answered.ended - process.spawned);
                sample.1.add_time(process.processor());
                if !is_ours {
                    continue;
                }
                let operations: Vec<&str> = cost.aws.iter().map(|it| it.what.as_str()).collect();
                assert_eq!(operations, ["handshake", "GetItem", "GetSecretValue"], "the same round trips");
                let at = |what: &str| cost.aws.iter().find(|it| it.what == what).map(|it| it.at).unwrap();
                let ready = process.ready().unwrap();
                let part = |name: &str, from: Instant, to: Instant, parts: &mut Vec<(String, Sample)>| {
                    let known = parts.iter().position(|it| it.0 == name).unwrap_or_else(|| {
                        parts.push((name.to_owned(), Sample::new(Unit::Millis)));
                        parts.len() - 1
                    });
                    parts[known].1.add_time(to.saturating_duration_since(from));
                };
                part("load and init, to the first request for work", process.spawned, ready, &mut parts);
                part("event to the first handshake with AWS", answered.began, at("handshake"), &mut parts);
                part("handshake to the item", at("handshake"), at("GetItem"), &mut parts);
                part("item to the secret", at("GetItem"), at("GetSecretValue"), &mut parts);
                part(
                    "secret to the answer, handshake with the cluster included",
                    at("GetSecretValue"),
                    answered.ended,
                    &mut parts,
                );
            }
        }
        let row = Row::new(format!("a deployment that is known, {words}"), &total.ours)
            .against("bare handler", &total.theirs);
        table.add(row.ratio_at_most(RATIO, "≤ 1.5 ×"));
        table.add(Row::new("of it: processor time", &busy.ours).against("bare handler", &busy.theirs));
        for (name, sample) in &parts {
            table.add(Row::new(format!("of it: {name}"), sample));
        }
    }
    let what = "of init: load, to the end of a process without its variables";
    table.add(Row::new(what, &loading(binaries)));

    // The first look of a deployment finds its clusters in the registry, and stores the baseline.
    let mut first = Sample::new(Unit::Millis);
    for number in 0..STARTS {
        let process = world.start_process(&binaries.check).await;
        let event = event(&format!("first-{number}"), "flux", &one("checkout"));
        let (answered, cost) = world.invoke(&process, &event).await;
        assert_eq!(cost.requests("PutItem"), 1.0);
        first.add_time(answered.ended - process.spawned);
    }
    table.add(Row::new("a new deployment: the registry and the baseline too, 20 ms", &first));

    let size = |path: &std::path::Path| {
        Sample::of(Unit::Mebibytes, [std::fs::metadata(path).unwrap().len() as f64 / f64::from(1 << 20)])
    };
    for (name, path) in [("check", &binaries.check), ("register", &binaries.register)] {
        let row = Row::new(format!("size of `{name}`, stripped"), &size(path));
        table.add(row.against("bare handler", &size(&binaries.bare)).median_at_most(8.0, "≤ 8 MiB"));
    }
}

/// Without its variables a process ends as soon as it has begun.
fn loading(binaries: &Binaries) -> Sample {
    let mut sample = Sample::new(Unit::Millis);
    for _ in 0..STARTS {
        let mut command = Command::new(&binaries.check);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let ended = command.status().unwrap();
        sample.add_time(began.elapsed());
        assert!(!ended.success());
    }
    sample
}
