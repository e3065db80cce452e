//! The process dies at each of its awaits, and at several in a row.

use std::{collections::BTreeSet, time::Duration};

use testkit::aws::Abandoned;

use crate::world::{Phase, World, places, reference};

/// A short list of numbers that look like chance, the same in each run
/// (xorshift, Marsaglia 2003).
pub(crate) fn seeded(seed: u64, below: usize) -> impl FnMut() -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_killed_at_any_await_is_done_by_the_next_process() {
    for (phase, ending, warm) in places() {
        let (requests, _) = reference(phase, ending, warm).await;
        let mut abandoned: BTreeSet<Abandoned> = BTreeSet::new();
        for polls in 0.. {
            let (world, process) = World::at(phase, ending, warm).await;
            let (done, polled) = World::killed_after(polls, world.tick(&process)).await;
            if done.is_some() {
                assert!(polled > 2 * requests.len(), "each request waits twice: {polled}");
                break;
            }
            world.audit();
            abandoned.extend(world.aws.abandoned());
            tokio::time::sleep(Duration::from_secs(2)).await;
            let process = world.process();
            let answer = world.tick(&process).await.unwrap();
            assert_eq!(answer.status.is_terminal(), phase == Phase::Verdict, "{phase:?} {ending:?} {polls}");
            world.goes_on(&process, phase, ending).await;
        }
        // Each request was killed before it was done, and after.
        for request in requests {
            for done in [false, true] {
                let killed = Abandoned { request: request.clone(), done };
                assert!(abandoned.contains(&killed), "{killed:?} at {phase:?} {ending:?} {warm}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn processes_that_die_one_after_another_delay_the_verdict_and_do_not_change_it() {
    for seed in 0..12 {
        for (phase, ending, warm) in places() {
            let (world, mut process) = World::at(phase, ending, warm).await;
            let mut points = seeded(seed, 30);
            for _ in 0..4 {
                let (done, _) = World::killed_after(points(), world.tick(&process)).await;
                if let Some(said) = done {
                    assert_eq!(said.unwrap().status.is_terminal(), phase == Phase::Verdict);
                }
                world.audit();
                process = world.process();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let answer = world.tick(&process).await.unwrap();
            assert_eq!(answer.status.is_terminal(), phase == Phase::Verdict, "{seed} {phase:?} {ending:?}");
            world.goes_on(&process, phase, ending).await;
        }
    }
}
