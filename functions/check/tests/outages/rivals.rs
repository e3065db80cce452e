//! Checks that come twice, late and out of order, and executions that share an id.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::aws::Fate;
use verdict::{Reason, Status};

use crate::{
    kills::seeded,
    world::{ARN, Ending, GET, ITEM, PUT, Phase, Stage, World, places},
};

#[tokio::test(start_paused = true)]
async fn a_check_that_is_delivered_twice_at_once_has_one_verdict() {
    for (phase, ending, warm) in places() {
        // One of them is slower, at its reading or at its writing, or neither is.
        for slow in [None, Some(GET), Some(PUT)] {
            let (world, process) = World::at(phase, ending, warm).await;
            let twin = world.process();
            if let Some(slow) = slow {
                world.aws.fate(slow, Fate::slow(Duration::from_millis(300)), 1);
            }
            let (one, other) = tokio::join!(world.tick(&process), world.tick(&twin));
            let (one, other) = (one.unwrap(), other.unwrap());
            assert_eq!(
                (one.status, one.reason),
                (other.status, other.reason),
                "{phase:?} {ending:?} {slow:?}"
            );
            assert_eq!(one.status.is_terminal(), phase == Phase::Verdict);
            // And later, when it is long decided.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let later = world.tick(&twin).await.unwrap();
            assert_eq!((later.status, later.reason), (one.status, one.reason));
            world.goes_on(&process, phase, ending).await;
        }
    }
}

/// A check that was frozen, as Lambda does, comes back when others have gone on.
#[tokio::test(start_paused = true)]
async fn a_check_that_was_overtaken_can_t_bring_back_what_it_saw() {
    for ending in Ending::ALL {
        for warm in [true, false] {
            for polls in 1..40 {
                let (world, process) = World::at(Phase::Midway, ending, warm).await;
                let mut frozen = Box::pin(check::handle(&process, World::event()));
                let (done, _) = World::killed_after(polls, frozen.as_mut()).await;
                if done.is_some() {
                    break;
                }
                // Meanwhile there is a verdict.
                let other = world.process();
                world.show(match ending {
                    Ending::Succeeds => Stage::New,
                    Ending::Fails => Stage::Broken,
                    Ending::TimesOut => Stage::Old,
                });
                let verdict = world.until_verdict(&other).await;
                assert_eq!((verdict.status, verdict.reason), ending.verdict());
                let stored = world.item();
                // It may have run into its own time limits by now, and says so. An end that it tells is the
                // stored one; where it had nothing to write, or had written it, it tells what was true then.
                match frozen.await {
                    Ok(Some(answer)) if answer.status == Status::Pending => {
                        assert_eq!(Ok(verdict), world.tick(&process).await);
                    }
                    Ok(answer) => assert_eq!(answer, world.stored().await),
                    Err(failure) => {
                        assert_eq!(lambda_runtime::Diagnostic::from(failure).error_type, "Transient")
                    }
                }
                assert_eq!(world.item(), stored);
                world.audit();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_redrive_long_after_the_deadline_asks_nobody_and_keeps_the_deadline() {
    for phase in [Phase::First, Phase::Midway] {
        for warm in [true, false] {
            let (world, process) = World::at(phase, Ending::Succeeds, warm).await;
            // The cluster shows the new release by then, or somebody's who pushed after us.
            world.show(Stage::New);
            tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
            let asked = world.asked();
            // The first tries don't get through.
            world.aws.fate(PUT, Fate::reset().but_done(), 3);
            assert_eq!(world.tick(&process).await.unwrap_err(), "Transient");
            let answer = world.tick(&process).await.unwrap();
            assert_eq!((answer.status, answer.reason), (Status::Failed, Reason::Timeout));
            assert_eq!(world.asked(), asked);
        }
    }
}

/// What a request is called, and what makes it of the usual one.
type Change = (&'static str, fn(&mut Value));

fn foreign(change: impl Fn(&mut Value)) -> Value {
    let mut event = World::event();
    event["execution"]["arn"] = json!(format!("{ARN}-again"));
    change(&mut event);
    event
}

#[tokio::test(start_paused = true)]
async fn another_execution_with_the_same_id_is_refused_at_any_time() {
    let requests: [Change; 3] = [
        ("the same", |_| {}),
        ("another", |event| event["timeoutSecs"] = json!(600)),
        ("none", |event| drop(event.as_object_mut().unwrap().remove("execution"))),
    ];
    for (request, change) in requests {
        for (phase, ending, warm) in places() {
            for late in [false, true] {
                let (world, process) = World::at(phase, ending, warm).await;
                let event = foreign(change);
                if late || phase == Phase::First {
                    world.tick(&process).await.unwrap();
                    let stored = world.item();
                    for other in [&process, &world.process()] {
                        assert_eq!(world.asks(other, event.clone()).await.unwrap_err(), "InvalidRequest");
                    }
                    assert_eq!(world.item(), stored, "{request}: untouched");
                } else {
                    // Both at once.
                    let other = world.process();
                    let (own, theirs) = tokio::join!(world.tick(&process), world.asks(&other, event.clone()));
                    assert_eq!(theirs.unwrap_err(), "InvalidRequest");
                    assert_eq!(own.unwrap().status.is_terminal(), phase == Phase::Verdict);
                }
                world.goes_on(&process, phase, ending).await;
            }
        }
    }
}

/// Of two executions that begin at once one makes the item, and the other is refused.
#[tokio::test(start_paused = true)]
async fn of_two_executions_that_begin_at_once_one_is_served() {
    for seed in 0..40 {
        let world = World::new().await;
        let mut millis = seeded(seed, 50);
        for kind in [GET, PUT] {
            for _ in 0..2 {
                let delay = Duration::from_millis(u64::try_from(millis()).unwrap());
                world.aws.fate(kind, Fate::slow(delay), 1);
            }
        }
        let (one, two) = (world.process(), world.process());
        let (own, theirs) = tokio::join!(world.asks(&one, World::event()), world.asks(&two, foreign(|_| {})));
        let made = world.item().unwrap()["executionArn"]["S"].clone();
        let (served, refused) = if made == ARN { (own, theirs) } else { (theirs, own) };
        assert_eq!(served.unwrap().status, Status::Pending);
        assert_eq!(refused.unwrap_err(), "InvalidRequest", "{seed}");
    }
}

/// The item is deleted midway, and another execution of the same id begins before we write: the
/// item is theirs now, and its revision happens to be the one that we read.
#[tokio::test(start_paused = true)]
async fn an_item_that_became_another_executions_is_not_overwritten() {
    for (phase, ending, warm) in places().into_iter().filter(|(phase, ..)| *phase > Phase::First) {
        for on in [GET, PUT] {
            let (world, process) = World::at(phase, ending, warm).await;
            let mut theirs = world.item().unwrap();
            theirs["executionArn"] = json!({"S": format!("{ARN}-again")});
            let there = theirs.clone();
            world.aws.fate(
                on,
                Fate::after(move |items| drop(items.insert(ITEM.to_owned(), there.clone()))),
                1,
            );
            assert_eq!(
                world.tick(&process).await.unwrap_err(),
                "InvalidRequest",
                "{on} {phase:?} {ending:?}"
            );
            assert_eq!(world.item(), Some(theirs));
        }
    }
}

/// The item was deleted and made anew by a twin, when the environment named another release, or
/// the cluster was registered at another address: what a process saw by what it remembers, or
/// before it lost, tells nothing of that.
#[tokio::test(start_paused = true)]
async fn a_look_tells_only_of_what_it_looked_at() {
    let changes: [(&str, Value); 2] =
        [("release", json!("other")), ("apiUrl", json!("https://two.example.com"))];
    for (attribute, value) in changes {
        for (on, warm) in [(GET, true), (PUT, true), (PUT, false)] {
            let (world, process) = World::at(Phase::Verdict, Ending::Succeeds, warm).await;
            let mut anew = world.item().unwrap();
            let mut targets: Value = serde_json::from_str(anew["targets"]["S"].as_str().unwrap()).unwrap();
            targets[0][attribute] = value.clone();
            anew["targets"]["S"] = json!(targets.to_string());
            // Written once more than what was read.
            anew["rev"] = json!({"N": "3"});
            let there = anew.clone();
            world.aws.fate(
                on,
                Fate::after(move |items| drop(items.insert(ITEM.to_owned(), there.clone()))),
                1,
            );
            let said = world.tick(&process).await;
            match (attribute, on) {
                ("release", GET) => {
                    // Asked for once more, by its name.
                    assert_eq!(said.unwrap().status, Status::Succeeded);
                    assert_eq!(world.asked().last().unwrap(), "other");
                }
                ("release", _) => assert_eq!(said.unwrap_err(), "Transient"),
                _ => assert_eq!(said.unwrap().status, Status::Pending),
            }
            assert!(!world.asked().is_empty());
        }
    }
}
