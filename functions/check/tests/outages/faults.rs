//! Each fault of each call, at the first check, midway, and at the check with the verdict.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use testkit::aws::{Fate, Items};
use verdict::{Reason, Status};

use crate::world::{Ending, GET, ITEM, PUT, Phase, ROW, SECRET, Said, Stage, World, places, references};

/// What a check comes to under a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// What it would have come to without.
    AsEver,
    /// An error of this name; nothing is stored.
    Undone(&'static str),
    /// An error of this name; all is stored.
    Unheard(&'static str),
    /// An answer, of a check that could not look for this reason.
    Blind(Reason),
}

const ALWAYS: usize = usize::MAX;

/// A row: whose fault, what it is, how often, and what comes of it. The item that the check
/// would have written without it is given, for a twin to write.
type Row = (&'static str, &'static str, fn(&Value) -> Vec<(Fate, usize)>, Comes);

fn throttled() -> Fate {
    Fate::refused(400, "ProvisionedThroughputExceededException")
}

fn broken() -> Fate {
    Fate::refused(500, "InternalServerError")
}

fn html() -> Fate {
    Fate::answered(200, "<html>Please log in</html>")
}

fn cut() -> Fate {
    Fate::answered(200, r#"{"Item": {"deploymentId": {"#)
}

/// A twin of the same check, which saw the same and was quicker.
fn twin(items: &mut Items, written: &Value) {
    let mut theirs = written.clone();
    theirs["polls"] = json!({"N": "9"});
    items.insert(ITEM.to_owned(), theirs);
}

fn twin_first(written: &Value) -> Fate {
    let written = written.clone();
    Fate::after(move |items| twin(items, &written))
}

const DYNAMO: [&str; 3] = [GET, ROW, PUT];

/// What can happen to any call to DynamoDB.
const ANY: [Row; 18] = [
    ("", "throttled", |_| vec![(throttled(), 1)], Comes::AsEver),
    ("", "throttled twice", |_| vec![(throttled(), 2)], Comes::AsEver),
    ("", "throttled on and on", |_| vec![(throttled(), ALWAYS)], Comes::Undone("Transient")),
    (
        "",
        "the account's limit",
        |_| vec![(Fate::refused(400, "ThrottlingException"), ALWAYS)],
        Comes::Undone("Transient"),
    ),
    ("", "500", |_| vec![(broken(), 1)], Comes::AsEver),
    ("", "500, then reset", |_| vec![(broken(), 1), (Fate::reset(), 1)], Comes::AsEver),
    ("", "500 on and on", |_| vec![(broken(), ALWAYS)], Comes::Undone("Transient")),
    (
        "",
        "503 on and on",
        |_| vec![(Fate::answered(503, "Service Unavailable"), ALWAYS)],
        Comes::Undone("Transient"),
    ),
    ("", "reset", |_| vec![(Fate::reset(), 1)], Comes::AsEver),
    ("", "reset on and on", |_| vec![(Fate::reset(), ALWAYS)], Comes::Undone("Transient")),
    ("", "silent", |_| vec![(Fate::silence(), 1)], Comes::AsEver),
    ("", "silent on and on", |_| vec![(Fate::silence(), ALWAYS)], Comes::Undone("Transient")),
    ("", "slow", |_| vec![(Fate::slow(Duration::from_secs(1)), ALWAYS)], Comes::AsEver),
    (
        "",
        "too slow",
        |_| vec![(Fate::slow(Duration::from_millis(1_300)), ALWAYS)],
        Comes::Undone("Transient"),
    ),
    (
        "",
        "an expired token",
        |_| vec![(Fate::refused(400, "ExpiredTokenException"), ALWAYS)],
        Comes::Undone("Transient"),
    ),
    (
        "",
        "denied",
        |_| vec![(Fate::refused(400, "AccessDeniedException"), ALWAYS)],
        Comes::Undone("Internal"),
    ),
    (
        "",
        "no such table",
        |_| vec![(Fate::refused(400, "ResourceNotFoundException"), ALWAYS)],
        Comes::Undone("Internal"),
    ),
    ("", "a web page", |_| vec![(html(), ALWAYS)], Comes::Undone("Transient")),
];

/// What can happen to one call.
const ONE: [Row; 27] = [
    (GET, "cut off", |_| vec![(cut(), ALWAYS)], Comes::Undone("Transient")),
    (PUT, "reset, but done", |_| vec![(Fate::reset().but_done(), 1)], Comes::AsEver),
    (PUT, "500, but done", |_| vec![(broken().but_done(), 1)], Comes::AsEver),
    (PUT, "silent, but done", |_| vec![(Fate::silence().but_done(), 1)], Comes::AsEver),
    (
        PUT,
        "done, and no try is heard",
        |_| vec![(Fate::reset().but_done(), ALWAYS)],
        Comes::Unheard("Transient"),
    ),
    (
        PUT,
        "done, and never an answer",
        |_| vec![(Fate::silence().but_done(), ALWAYS)],
        Comes::Unheard("Transient"),
    ),
    (
        PUT,
        "done, and then broken",
        |_| vec![(broken().but_done(), 1), (broken(), ALWAYS)],
        Comes::Unheard("Transient"),
    ),
    (
        PUT,
        "done, and then denied",
        |_| vec![(Fate::reset().but_done(), 1), (Fate::refused(400, "AccessDeniedException"), 1)],
        Comes::Unheard("Internal"),
    ),
    (PUT, "done, but garbled", |_| vec![(html().but_done(), ALWAYS)], Comes::Unheard("Transient")),
    (
        PUT,
        "done unheard, and the second try is not told the item",
        |_| vec![(Fate::reset().but_done(), 1), (Fate::fine().without_old_item(), ALWAYS)],
        Comes::AsEver,
    ),
    (PUT, "a twin was quicker", |it| vec![(twin_first(it), 1)], Comes::AsEver),
    (PUT, "a twin was quicker, untold", |it| vec![(twin_first(it).without_old_item(), 1)], Comes::AsEver),
    (
        PUT,
        "a twin wrote the very same",
        |it| {
            let same = it.clone();
            vec![(Fate::after(move |items| drop(items.insert(ITEM.to_owned(), same.clone()))), 1)]
        },
        Comes::AsEver,
    ),
    (
        PUT,
        "a twin, then throttled",
        |it| vec![(twin_first(it), 1), (throttled(), ALWAYS)],
        // What is stored is the twin's, which saw the same.
        Comes::AsEver,
    ),
    (SECRET, "throttled", |_| vec![(Fate::refused(400, "ThrottlingException"), 2)], Comes::AsEver),
    (
        SECRET,
        "throttled on and on",
        |_| vec![(Fate::refused(400, "ThrottlingException"), ALWAYS)],
        Comes::Blind(Reason::CredentialsUnavailable),
    ),
    (SECRET, "500", |_| vec![(broken(), 1)], Comes::AsEver),
    (SECRET, "500 on and on", |_| vec![(broken(), ALWAYS)], Comes::Blind(Reason::CredentialsUnavailable)),
    (SECRET, "reset", |_| vec![(Fate::reset(), 2)], Comes::AsEver),
    (
        SECRET,
        "reset on and on",
        |_| vec![(Fate::reset(), ALWAYS)],
        Comes::Blind(Reason::CredentialsUnavailable),
    ),
    (SECRET, "slow", |_| vec![(Fate::slow(Duration::from_secs(1)), ALWAYS)], Comes::AsEver),
    (
        SECRET,
        "silent on and on",
        |_| vec![(Fate::silence(), ALWAYS)],
        Comes::Blind(Reason::CredentialsUnavailable),
    ),
    (
        SECRET,
        "denied",
        |_| vec![(Fate::refused(400, "AccessDeniedException"), ALWAYS)],
        Comes::Blind(Reason::CredentialsUnavailable),
    ),
    (
        SECRET,
        "its key denied",
        |_| vec![(Fate::refused(400, "DecryptionFailure"), ALWAYS)],
        Comes::Blind(Reason::CredentialsUnavailable),
    ),
    (
        SECRET,
        "gone",
        |_| vec![(Fate::refused(400, "ResourceNotFoundException"), ALWAYS)],
        Comes::Blind(Reason::CredentialsUnavailable),
    ),
    (SECRET, "a web page", |_| vec![(html(), ALWAYS)], Comes::Blind(Reason::CredentialsUnavailable)),
    (
        SECRET,
        "another cluster's",
        |_| {
            let other = json!({"SecretString": r#"{"id": "other", "apiUrl": "https://a", "token": "t"}"#});
            vec![(Fate::answered(200, &other.to_string()), ALWAYS)]
        },
        Comes::Blind(Reason::CredentialsUnavailable),
    ),
];

/// The check under the fault, and what must be stored then.
async fn faulty(world: &World, said: Said, comes: Comes, before: Option<&Value>, ever: &Value) {
    let item = world.item();
    let status = |item: Option<&Value>| item.map(|it| it["status"].clone());
    match comes {
        Comes::AsEver => {
            let answer = said.unwrap();
            assert_eq!(answer.status.as_str(), ever["status"]["S"]);
            assert_eq!(answer.reason.as_str(), ever["reason"]["S"]);
            assert_eq!(status(item.as_ref()), Some(ever["status"].clone()));
        }
        Comes::Undone(name) => {
            assert_eq!(said.unwrap_err(), name);
            assert_eq!(item.as_ref(), before, "nothing is stored");
        }
        Comes::Unheard(name) => {
            assert_eq!(said.unwrap_err(), name);
            assert_eq!(item.as_ref(), Some(ever), "all is stored");
        }
        Comes::Blind(reason) => {
            let answer = said.unwrap();
            assert_eq!(status(item.as_ref()), Some(json!({"S": answer.status.as_str()})));
            if answer.status == Status::Pending {
                assert_eq!(answer.reason, reason, "{}", answer.message);
            } else {
                // At the deadline nothing else is left to say.
                assert_eq!((answer.reason, answer.last_reason), (Reason::Timeout, Some(reason)));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_fault_costs_a_check_at_most_and_never_the_right_verdict() {
    let references = references().await;
    let any = DYNAMO.into_iter().flat_map(|on| ANY.map(|(_, name, fates, comes)| (on, name, fates, comes)));
    let mut met: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (on, name, fates, comes) in any.chain(ONE) {
        for place @ (phase, ending, warm) in places() {
            let (requests, ever) = &references[&place];
            if !requests.iter().any(|request| request == on) {
                continue;
            }
            met.insert((on, name));
            let (world, process) = World::at(phase, ending, warm).await;
            let before = world.item();
            for (fate, times) in fates(ever) {
                world.aws.fate(on, fate, times);
            }
            let said = world.tick(&process).await;
            let context = format!("{on}: {name}, {place:?}: {said:?}");
            println!("{context}");
            let blind =
                matches!(&said, Ok(answer) if answer.status == Status::Pending) && comes != Comes::AsEver;
            let again = said.is_err() || blind;
            faulty(&world, said, comes, before.as_ref(), ever).await;

            // The fault is over, and the state machine goes on; with the process or, as well, with another.
            world.aws.heal();
            if again {
                tokio::time::sleep(Duration::from_secs(if blind { 5 } else { 2 })).await;
                let asked = world.asked().len();
                let again = world.tick(&process).await.unwrap();
                if matches!(comes, Comes::Unheard(_)) && phase == Phase::Verdict {
                    // What happened is not known for certain: it is read before anybody is asked.
                    assert_eq!(world.asked().len(), asked, "{context}");
                }
                // Past the verdict's check there is no other: the first that is let through has it.
                assert_eq!(again.status.is_terminal(), phase == Phase::Verdict, "{context}");
            }
            world.goes_on(&process, phase, ending).await;
        }
    }
    let rows = DYNAMO.len() * ANY.len() + ONE.len();
    assert_eq!(met.len(), rows, "each fault was met somewhere");
}

/// What stands in an item makes sense to this version, or nothing is done about it.
#[tokio::test(start_paused = true)]
async fn an_item_that_can_t_be_read_is_not_touched() {
    let spoilt: [(&str, Value); 5] = [
        ("schema", json!({"N": "2"})),
        ("schema", json!({"S": "1"})),
        ("status", json!({"S": "paused"})),
        ("targets", json!({"S": "[{}]"})),
        ("rev", json!({"NULL": true})),
    ];
    for (attribute, value) in spoilt {
        for (phase, ending, warm) in places().into_iter().filter(|(phase, ..)| *phase > Phase::First) {
            for on in [GET, PUT] {
                if (phase, ending) == (Phase::Midway, Ending::TimesOut) {
                    continue;
                }
                let (world, process) = World::at(phase, ending, warm).await;
                let good = world.item().unwrap();
                let mut strange = good.clone();
                strange[attribute] = value.clone();
                // By another version, which also counts its revisions.
                strange["rev"] = if attribute == "rev" { value.clone() } else { json!({"N": "17"}) };
                let there = strange.clone();
                world.aws.fate(
                    on,
                    Fate::after(move |items| drop(items.insert(ITEM.to_owned(), there.clone()))),
                    1,
                );
                assert_eq!(world.tick(&process).await.unwrap_err(), "Internal", "{attribute} {phase:?}");
                assert_eq!(world.tick(&process).await.unwrap_err(), "Internal");
                assert_eq!(world.item().unwrap(), strange, "nothing is written");

                world.aws.change(|items| drop(items.insert(ITEM.to_owned(), good.clone())));
                tokio::time::sleep(Duration::from_secs(2)).await;
                world.tick(&process).await.unwrap();
                world.goes_on(&process, phase, ending).await;
            }
        }
    }
}

/// Whoever deletes an item in the middle takes the memory, but neither the deadline nor the verdict.
#[tokio::test(start_paused = true)]
async fn an_item_that_was_deleted_is_made_anew_with_the_same_deadline() {
    for (phase, ending, warm) in places().into_iter().filter(|(phase, ..)| *phase > Phase::First) {
        for on in [GET, PUT] {
            let (world, process) = World::at(phase, ending, warm).await;
            world.aws.fate(on, Fate::after(|items| drop(items.remove(ITEM))), 1);
            let said = world.tick(&process).await;
            // Between reading and writing there is nothing to decide from: the retry begins anew.
            if on == PUT {
                assert_eq!(said.unwrap_err(), "Transient");
                assert_eq!(world.item(), None);
                tokio::time::sleep(Duration::from_secs(2)).await;
                world.tick(&process).await.unwrap();
            } else {
                said.unwrap();
            }
            if phase == Phase::Midway {
                world.goes_on(&process, phase, ending).await;
            } else {
                let answer = world.until_verdict(&process).await;
                assert_eq!((answer.status, answer.reason), ending.verdict(), "{}", answer.message);
            }
        }
    }
}

/// A write that nobody waits for any more arrives when others have gone on.
#[tokio::test(start_paused = true)]
async fn a_write_that_arrives_late_changes_nothing_that_was_decided_since() {
    for (phase, ending, warm) in places() {
        for arrives in ["before the next check", "while it looks", "after it"] {
            let (world, process) = World::at(phase, ending, warm).await;
            world.aws.fate(PUT, Fate::late(), usize::MAX);
            assert_eq!(world.tick(&process).await.unwrap_err(), "Transient");
            world.aws.heal();
            tokio::time::sleep(Duration::from_secs(2)).await;
            if arrives == "before the next check" {
                world.aws.deliver();
            }
            let answer = if arrives == "while it looks" {
                // What is read takes a while; what is late arrives in the meantime.
                world.aws.fate(PUT, Fate::slow(Duration::from_millis(500)), 1);
                let late = async {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    world.aws.deliver();
                };
                tokio::join!(world.tick(&process), late).0.unwrap()
            } else {
                world.tick(&process).await.unwrap()
            };
            if arrives == "after it" {
                let stored = world.item();
                world.aws.deliver();
                assert_eq!(world.item(), stored);
            }
            world.audit();
            assert_eq!(
                answer.status.is_terminal(),
                phase == Phase::Verdict,
                "{arrives} {phase:?} {ending:?}"
            );
            world.goes_on(&process, phase, ending).await;
        }
    }
}

/// However long AWS is away: the first check that it lets through has the verdict.
#[tokio::test(start_paused = true)]
async fn an_outage_over_the_deadline_ends_in_the_verdict_of_the_first_check_after_it() {
    for on in [GET, PUT] {
        for (ending, warm) in Ending::ALL.into_iter().flat_map(|ending| [(ending, true), (ending, false)]) {
            let (world, process) = World::at(Phase::Midway, ending, warm).await;
            world.aws.fate(on, throttled(), ALWAYS);
            world.show(match ending {
                Ending::Succeeds => Stage::New,
                Ending::Fails => Stage::Broken,
                Ending::TimesOut => Stage::Old,
            });
            for _ in 0..40 {
                // What is not worth a write is still answered while the store can be read.
                if let Ok(answer) = world.tick(&process).await {
                    assert!(on == PUT && answer.status == Status::Pending, "{answer:?}");
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            assert!(World::event()["timeoutSecs"].as_i64().unwrap() < 80, "the deadline is over by now");
            world.aws.heal();
            let answer = world.tick(&process).await.unwrap();
            assert_eq!(
                (answer.status, answer.reason),
                ending.verdict(),
                "{on} {ending:?}: {}",
                answer.message
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_not_told_holds_up_no_other_cluster() {
    let faults: [fn() -> Fate; 3] = [
        Fate::silence,
        || Fate::slow(Duration::from_secs(9)),
        || Fate::refused(400, "AccessDeniedException"),
    ];
    for fault in faults {
        let world = World::new().await;
        world.register("other").await;
        let mut event = World::event();
        let target = json!({"cluster": "other", "namespace": "shop", "release": "checkout"});
        event["targets"].as_array_mut().unwrap().push(target);
        world.asks(&world.process(), event.clone()).await.unwrap();
        world.show(Stage::New);
        world.aws.fate(SECRET, fault(), ALWAYS);
        let answer = world.asks(&world.process(), event.clone()).await.unwrap();
        let told: Vec<_> = answer.targets.iter().map(|target| (target.status, target.reason)).collect();
        assert_eq!(
            told,
            [
                (Status::Pending, Reason::CredentialsUnavailable),
                (Status::Succeeded, Reason::UpgradeSucceeded)
            ]
        );
        world.aws.heal();
        let answer = world.asks(&world.process(), event).await.unwrap();
        assert_eq!((answer.status, answer.reason), (Status::Succeeded, Reason::AllDeployed));
    }
}
