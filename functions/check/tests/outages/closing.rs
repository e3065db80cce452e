//! What an execution left pending is closed and told, however AWS and the process behave.

use std::{collections::BTreeSet, time::Duration};

use lambda_runtime::Diagnostic;
use monitor::{answer::Answer, check::Checker};
use serde_json::{Value, json};
use testkit::aws::{Abandoned, Fate};
use verdict::{Reason, Status};

use crate::{
    kills::seeded,
    world::{ARN, EVENT, Ending, GET, ITEM, PUT, Phase, World},
};

const ALWAYS: usize = usize::MAX;

/// What EventBridge tells of an execution.
fn news(arn: &str, status: &str, error: Option<&str>) -> Value {
    json!({
        "detail-type": "Step Functions Execution Status Change",
        "detail": {
            "executionArn": arn, "status": status, "startDate": 1_795_460_400_000_i64,
            "input": World::event().to_string(), "error": error, "cause": null,
        }
    })
}

fn stopped() -> Value {
    news(ARN, "ABORTED", None)
}

type Closed = Result<Option<Answer>, String>;

impl World {
    async fn close(&self, process: &Checker, event: Value) -> Closed {
        *self.closed.lock().unwrap() = true;
        let answer = check::handle(process, event).await;
        self.audit();
        answer.map_err(|failure| Diagnostic::from(failure).error_type)
    }
}

/// What the item is when the news comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// No check ever ran.
    Nothing,
    Pending,
    /// The state machine had stored the verdict, and was stopped before it told it.
    Judged,
}

const LEFT: [Left; 3] = [Left::Nothing, Left::Pending, Left::Judged];

async fn left(left: Left) -> (World, Checker) {
    let phase = if left == Left::Nothing { Phase::First } else { Phase::Verdict };
    let (world, process) = World::at(phase, Ending::Fails, true).await;
    if left == Left::Judged {
        world.tick(&process).await.unwrap();
    }
    (world, process)
}

/// Closed, once, and told as it is stored.
async fn closed(world: &World, left: Left, context: &str) {
    let stored = world.stored().await.unwrap();
    let reason = if left == Left::Judged { Reason::UpgradeFailed } else { Reason::MonitorError };
    assert_eq!((stored.status, stored.reason), (Status::Failed, reason), "{context}");
    assert!(world.told().await >= 1, "{context}: nothing lost");
}

#[tokio::test(start_paused = true)]
async fn each_fault_of_a_closing_is_mended_by_its_repetition() {
    type Fault = (&'static str, fn() -> Fate, usize, Option<&'static str>);
    let any: [Fault; 10] = [
        ("throttled", || Fate::refused(400, "ThrottlingException"), 2, None),
        ("throttled on and on", || Fate::refused(400, "ThrottlingException"), ALWAYS, Some("Transient")),
        ("500", || Fate::refused(500, "InternalFailure"), 1, None),
        ("503 on and on", || Fate::answered(503, ""), ALWAYS, Some("Transient")),
        ("reset on and on", Fate::reset, ALWAYS, Some("Transient")),
        ("silent on and on", Fate::silence, ALWAYS, Some("Transient")),
        ("done, but reset", || Fate::reset().but_done(), 1, None),
        ("done, and never heard", || Fate::reset().but_done(), ALWAYS, Some("Transient")),
        ("denied", || Fate::refused(400, "AccessDeniedException"), ALWAYS, Some("Internal")),
        ("a web page", || Fate::answered(200, "<html>"), ALWAYS, Some("Transient")),
    ];
    let entry = |code: &str| {
        let entry = json!({"ErrorCode": code, "ErrorMessage": "on purpose"});
        Fate::answered(200, &json!({"FailedEntryCount": 1, "Entries": [entry]}).to_string())
    };
    let of_the_entry: [(&str, Fate, Option<&str>); 2] = [
        ("the entry failed", entry("InternalFailure"), Some("Transient")),
        ("the entry is refused", entry("NotAuthorizedForDetailTypeException"), Some("Internal")),
    ];
    let mut rows: Vec<(&str, &str, Fate, usize, Option<&str>)> = Vec::new();
    for on in [GET, PUT, EVENT] {
        rows.extend(any.iter().map(|(name, fate, times, error)| (on, *name, fate(), *times, *error)));
    }
    rows.extend(of_the_entry.into_iter().map(|(name, fate, error)| (EVENT, name, fate, ALWAYS, error)));
    for (on, name, fate, times, error) in rows {
        for was in LEFT {
            if (on, was) == (PUT, Left::Judged) {
                continue;
            }
            let context = format!("{on}: {name}, {was:?}");
            let (world, process) = left(was).await;
            world.aws.fate(on, fate.clone(), times);
            let answer = world.close(&process, stopped()).await;
            assert_eq!(answer.as_ref().err().map(String::as_str), error, "{context}");
            world.told().await;
            world.aws.heal();
            // Lambda repeats what failed, and EventBridge may tell what went well twice.
            let again = world.close(&process, stopped()).await.unwrap();
            assert_eq!(again, world.stored().await);
            closed(&world, was, &context).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_closing_that_is_killed_at_any_await_is_done_by_its_repetition() {
    for was in LEFT {
        let mut abandoned: BTreeSet<Abandoned> = BTreeSet::new();
        for polls in 0.. {
            let (world, process) = left(was).await;
            let (done, _) = World::killed_after(polls, world.close(&process, stopped())).await;
            if done.is_some() {
                break;
            }
            *world.closed.lock().unwrap() = true;
            world.audit();
            abandoned.extend(world.aws.abandoned());
            world.close(&world.process(), stopped()).await.unwrap();
            closed(&world, was, &format!("{was:?} {polls}")).await;
        }
        let requests: &[&str] = if was == Left::Judged { &[GET, EVENT] } else { &[GET, PUT, EVENT] };
        for (request, done) in requests.iter().flat_map(|it| [(it, false), (it, true)]) {
            let killed = Abandoned { request: (*request).to_owned(), done };
            assert!(abandoned.contains(&killed), "{killed:?} of {was:?}");
        }
    }
}

/// News that comes twice, at once and while a check is under way.
#[tokio::test(start_paused = true)]
async fn news_that_comes_twice_closes_once_and_tells_the_same() {
    for was in LEFT {
        for seed in 0..30 {
            let (world, process) = left(was).await;
            let mut millis = seeded(seed, 40);
            for on in [GET, GET, GET, PUT, PUT, PUT, EVENT, EVENT] {
                world.aws.fate(on, Fate::slow(Duration::from_millis(u64::try_from(millis()).unwrap())), 1);
            }
            let (one, two) = (world.process(), world.process());
            let (first, second, check) = tokio::join!(
                world.close(&one, stopped()),
                world.close(&two, stopped()),
                world.tick(&process),
            );
            for answer in [first, second] {
                match answer {
                    Ok(answer) => assert_eq!(answer, world.stored().await, "{seed}"),
                    Err(name) => assert_eq!(name, "Transient"),
                }
            }
            if let Err(name) = check {
                assert_eq!(name, "Transient");
            }
            world.close(&one, stopped()).await.unwrap();
            world.told().await;
            let stored = world.stored().await.unwrap();
            assert!(stored.status.is_terminal());
            assert!(world.aws.published().len() >= 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn news_of_another_execution_with_the_same_id_closes_and_tells_nothing() {
    for was in [Left::Pending, Left::Judged] {
        for error in [None, Some("InvalidRequest"), Some("DeploymentFailed")] {
            let (world, process) = left(was).await;
            let before = world.item();
            let again = format!("{ARN}-again");
            assert_eq!(world.close(&process, news(&again, "FAILED", error)).await.unwrap(), None);
            assert_eq!(world.item(), before);
            // Nor where the item becomes another's between reading and writing.
            let mut theirs = before.clone().unwrap();
            theirs["executionArn"] = json!({"S": again});
            let there = theirs.clone();
            world.aws.fate(
                PUT,
                Fate::after(move |items| drop(items.insert(ITEM.to_owned(), there.clone()))),
                1,
            );
            if was == Left::Pending {
                assert_eq!(world.close(&process, stopped()).await.unwrap(), None);
                assert_eq!(world.item(), Some(theirs));
            }
            assert_eq!(world.aws.published(), Vec::<Value>::new());
        }
    }
}

/// The state machine has told it: the news tells nothing more, and finds no reason to doubt it.
#[tokio::test(start_paused = true)]
async fn a_verdict_that_was_told_is_neither_told_again_nor_replaced() {
    for deleted in [false, true] {
        let (world, process) = left(Left::Judged).await;
        if deleted {
            world.aws.change(|items| drop(items.remove(ITEM)));
        }
        let before = world.item();
        for error in ["DeploymentFailed", "DeploymentTimedOut"] {
            world.close(&process, news(ARN, "FAILED", Some(error))).await.unwrap();
            assert_eq!(world.item(), before);
        }
        assert_eq!(world.told().await, 0);
    }
}

/// On which call what happens, and what the function's error is called.
type Fault = (&'static str, fn() -> Fate, &'static str);

/// The bus did not take the verdict, and the state machine hands it over.
#[tokio::test(start_paused = true)]
async fn a_verdict_that_the_bus_did_not_take_is_told_by_the_check_function() {
    let untold = |arn: &str| json!({"detail-type": "Deployment Untold", "detail": {"executionArn": arn, "deploymentId": "d"}});
    let faults: [Fault; 4] = [
        (GET, || Fate::refused(400, "ThrottlingException"), "Transient"),
        (EVENT, || Fate::refused(500, "InternalFailure"), "Transient"),
        (EVENT, || Fate::silence().but_done(), "Transient"),
        (EVENT, || Fate::refused(400, "AccessDeniedException"), "Internal"),
    ];
    for (on, fate, error) in faults {
        let (world, process) = left(Left::Judged).await;
        let before = world.item();
        world.aws.fate(on, fate(), ALWAYS);
        assert_eq!(world.close(&process, untold(ARN)).await.unwrap_err(), error, "{on}");
        world.aws.heal();
        assert_eq!(world.close(&process, untold(ARN)).await.unwrap(), world.stored().await);
        assert!(world.told().await >= 1);
        assert_eq!(world.item(), before);
    }
    // Nothing to tell: no verdict yet, none any more, or another execution's.
    for (was, arn) in [
        (Left::Nothing, ARN.to_owned()),
        (Left::Pending, ARN.to_owned()),
        (Left::Judged, format!("{ARN}-again")),
    ] {
        let (world, process) = left(was).await;
        assert_eq!(world.close(&process, untold(&arn)).await.unwrap(), None, "{was:?}");
        assert_eq!(world.told().await, 0);
    }
}

/// Whoever may start an execution chooses its input, and can't close or tell another's deployment with it.
#[tokio::test(start_paused = true)]
async fn an_input_that_looks_like_news_is_a_request_and_refused() {
    let mut untold =
        json!({"detail-type": "Deployment Untold", "detail": {"executionArn": ARN, "deploymentId": "d"}});
    let mut stopped = stopped();
    for was in [Left::Pending, Left::Judged] {
        for event in [&mut untold, &mut stopped] {
            let (world, process) = left(was).await;
            let before = world.item();
            // As the state machine hands on its input.
            event["execution"] = json!({"arn": format!("{ARN}-again"), "startedAt": crate::world::START});
            assert_eq!(world.close(&process, event.clone()).await.unwrap_err(), "InvalidRequest");
            assert_eq!(world.item(), before);
            assert_eq!(world.told().await, 0);
        }
    }
}
