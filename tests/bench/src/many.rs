//! Many targets in one deployment, and many deployments at once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    Binaries, plain,
    process::Process,
    table::{Row, Sample, Table, Unit},
    world::{ROUND_TRIP, World, event},
};

const POLLS: usize = 40;
const TARGETS: usize = 40;
const DEPLOYMENTS: usize = 500;
/// As many as would be warm in Lambda for these, at a few ms a poll.
const PROCESSES: usize = 10;
const ROUNDS: usize = 3;
const MEMORY_MIB: f64 = 64.0;

pub(crate) async fn measure(table: &mut Table, binaries: &Binaries) {
    let world = World::start(TARGETS, &testkit::Config::default()).await;
    table.heading("Many targets: one process, each target on a cluster of its own");
    targets(table, &world, binaries).await;
    table.heading(&format!("{DEPLOYMENTS} deployments at once on this machine"));
    deployments(table, &world, binaries).await;
}

fn peak(processes: &[Process]) -> Sample {
    Sample::of(Unit::Mebibytes, processes.iter().map(|it| it.peak_kib() as f64 / 1024.0))
}

async fn targets(table: &mut Table, world: &World, binaries: &Binaries) {
    for cluster in 0..TARGETS {
        world.settle(cluster, "flux/chart-upgrade", "checkout");
    }
    let mut of_one = Sample::new(Unit::Millis);
    for count in [1, 10, TARGETS] {
        let targets: Vec<_> = (0..count).map(|cluster| (cluster, "checkout".to_owned())).collect();
        let event = event(&format!("targets-{count}"), "flux", &targets);
        let check = world.start_process(&binaries.check).await;
        for _ in 0..2 {
            world.invoke(&check, &event).await;
        }
        for (words, round_trip) in
            [("without delay", Duration::ZERO), ("20 ms on every round trip", ROUND_TRIP)]
        {
            world.set_round_trip(round_trip);
            let mut times = Sample::new(Unit::Millis);
            for _ in 0..POLLS {
                let (answered, cost) = world.invoke(&check, &event).await;
                assert_eq!((cost.kubernetes, cost.requests("GetItem")), (count, 1.0));
                assert_eq!(answered.answer["status"], "pending");
                times.add_time(answered.took());
            }
            let row = Row::new(format!("a warm poll of {count}, {words}"), &times);
            let is_delayed = !round_trip.is_zero();
            table.add(match count {
                TARGETS if is_delayed => row.against("one target", &of_one).ratio_at_most(2.0, "≤ 2 ×"),
                10 if is_delayed => row.against("one target", &of_one),
                _ => row,
            });
            if is_delayed && count == 1 {
                of_one = times;
            }
        }
        world.set_round_trip(Duration::ZERO);
        let row = Row::new(format!("peak memory, {count} targets"), &peak(&[check]));
        table.add(row.worst_at_most(MEMORY_MIB, "≤ 64 MiB"));
    }

    // The most that one poll can be asked to read.
    for cluster in 0..TARGETS {
        plain::put_release(&world.clusters[cluster], "large", 1024);
    }
    let targets: Vec<_> = (0..TARGETS).map(|cluster| (cluster, "large".to_owned())).collect();
    let check = world.start_process(&binaries.check).await;
    let mut times = Sample::new(Unit::Millis);
    for number in 0..3 {
        let mut event = event(&format!("large-{number}"), "plain", &targets);
        event["allowUnchanged"] = json!(true);
        let (answered, _) = world.invoke(&check, &event).await;
        assert_ne!(answered.answer["status"], "failed", "{}", answered.answer);
        times.add_time(answered.took());
    }
    let what = format!("{TARGETS} plain targets, a payload of 1 MiB read for each");
    table.add(Row::new(format!("{what}: time, without delay"), &times));
    table
        .add(Row::new(format!("{what}: peak memory"), &peak(&[check])).worst_at_most(MEMORY_MIB, "≤ 64 MiB"));
}

async fn deployments(table: &mut Table, world: &World, binaries: &Binaries) {
    let all: Vec<_> = (0..DEPLOYMENTS)
        .map(|number| {
            let (cluster, release) = (number % TARGETS, format!("r{number}"));
            world.settle(cluster, "flux/chart-upgrade", &release);
            event(&format!("many-{number}"), "flux", &[(cluster, release)])
        })
        .collect();
    for count in [1, PROCESSES] {
        let processes = join_all((0..count).map(|_| world.start_process(&binaries.check))).await;
        let (mut rounds, mut polls) = (Sample::new(Unit::Millis), Sample::new(Unit::Millis));
        for round in 0..=ROUNDS {
            let began = Instant::now();
            let took = join_all(processes.iter().enumerate().map(|(at, process)| {
                let its = all.iter().skip(at).step_by(count);
                async move {
                    let mut took = Vec::new();
                    for event in its {
                        let answered = process.invoke(event).await;
                        assert_eq!(answered.answer["status"], "pending", "{}", answered.answer);
                        took.push(answered.took());
                    }
                    took
                }
            }))
            .await;
            // The first round stores the baselines and makes the connections.
            if round > 0 {
                rounds.add_time(began.elapsed());
                took.into_iter().flatten().for_each(|it| polls.add_time(it));
            }
        }
        let who = if count == 1 { "one process".to_owned() } else { format!("{count} processes") };
        table.add(Row::new(format!("{who}: a round of all, each polled once"), &rounds));
        table.add(Row::new(format!("{who}: one poll"), &polls));
        let row = Row::new(format!("{who}: peak memory of each"), &peak(&processes));
        table.add(row.worst_at_most(MEMORY_MIB, "≤ 64 MiB"));
    }
}
