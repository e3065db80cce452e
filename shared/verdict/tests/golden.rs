//! Every recorded timeline, asked at every phase, against `tests/fixtures/verdicts.json`.
//! A new case needs no Rust: add a recording, and a row to that file.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Read as _,
    path::PathBuf,
};

use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use verdict::{
    Decision, Expect, FailOn, HelmRelease, HelmType, Look, Payload, Question, Reason, ReleaseStatus,
    Releases, Revision, Seen, Status, TargetState, decide,
};

const POLL: SignedDuration = SignedDuration::from_secs(5);
const TIMEOUT_SECS: u32 = 120;
/// The looks begin at ten places within the five seconds between two polls.
const PHASES: i64 = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    /// For the README's table; absent for variations that need no row there.
    #[serde(default)]
    #[allow(dead_code)] // Read by the test of the README.
    title: Option<String>,
    recording: String,
    #[serde(default)]
    ask: Ask,
    verdict: Verdict,
    /// Where the first look comes 4 s late and `pushedAt` is not given: the reason
    /// of a verdict that the cluster still gives evidence for. `Timeout` is always right.
    #[serde(default)]
    late_without_pushed_at: Option<Reason>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Ask {
    expect: Expect,
    fail_on: FailOn,
    allow_unchanged: bool,
    timeout_secs: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Verdict {
    status: Status,
    reason: Reason,
    #[serde(default)]
    last_reason: Option<Reason>,
    /// What is said instead by a look that falls between two writes of one action, a
    /// fraction of a second apart. The phases miss it, a clock may not.
    #[serde(default)]
    between_writes: Option<Reason>,
    /// The poll, counted from the first look, by which it must be said. A `Timeout` has none.
    #[serde(default)]
    latest_poll: Option<u32>,
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn read(name: &str) -> Value {
    let path = fixtures().join(name);
    serde_json::from_slice(&fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// A recording: what the cluster answered from when on, on its own clock.
struct Recording {
    helm_type: HelmType,
    push: Timestamp,
    frames: Vec<(Timestamp, Value)>,
    payloads: BTreeMap<String, Payload>,
}

impl Recording {
    fn load(name: &str) -> Self {
        let file = read(&format!("{name}.json"));
        let event = &file["events"][0];
        let push: Timestamp = event["wall"].as_str().unwrap().parse().unwrap();
        let push_ms = event["at_ms"].as_i64().unwrap();
        let frames = file["frames"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| {
                let after = SignedDuration::from_millis(f["at_ms"].as_i64().unwrap() - push_ms);
                (push + after, f["body"].clone())
            })
            .collect();
        let payloads = file["full_list_at_end"]["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| (s["metadata"]["uid"].as_str().unwrap().to_owned(), payload(&s["data"]["release"])))
            .collect();
        let helm_type = if name.starts_with("flux/") { HelmType::Flux } else { HelmType::Plain };
        Self { helm_type, push, frames, payloads }
    }

    fn seen(&self, at: Timestamp, asked: &[String]) -> Seen {
        let frame = self.frames.iter().rev().find(|(from, _)| *from <= at).unwrap_or(&self.frames[0]);
        seen(self.helm_type, &frame.1, &self.payloads, asked)
    }
}

fn payload(release: &Value) -> Payload {
    let engine = base64::engine::general_purpose::STANDARD;
    let inner = engine.decode(release.as_str().unwrap()).unwrap();
    let packed = engine.decode(inner).unwrap();
    let mut json = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut json).unwrap();
    Payload::Read(serde_json::from_str(&json).unwrap())
}

fn seen(helm_type: HelmType, body: &Value, payloads: &BTreeMap<String, Payload>, asked: &[String]) -> Seen {
    if helm_type == HelmType::Flux {
        let object = body["kind"] == "HelmRelease";
        return Seen::HelmRelease(object.then(|| Box::new(HelmRelease::deserialize(body).unwrap())));
    }
    let revisions: Vec<Revision> = body["items"].as_array().into_iter().flatten().map(revision).collect();
    let payloads = revisions
        .iter()
        .filter(|r| asked.contains(&r.name))
        .map(|r| {
            let gone = || Payload::Unreadable("it is gone".to_owned());
            (r.uid.clone(), payloads.get(&r.uid).cloned().unwrap_or_else(gone))
        })
        .collect();
    Seen::Releases(Releases { revisions, payloads })
}

fn revision(secret: &Value) -> Revision {
    let metadata = &secret["metadata"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Revision {
        name: text(&metadata["name"]),
        uid: text(&metadata["uid"]),
        version: metadata["labels"]["version"].as_str().unwrap().parse().unwrap(),
        status: ReleaseStatus::from_label(metadata["labels"]["status"].as_str().unwrap()),
        created: metadata["creationTimestamp"].as_str().unwrap().parse().ok(),
        by_flux: metadata["managedFields"].to_string().contains("helm-controller"),
    }
}

struct Asking {
    helm_type: HelmType,
    ask: Ask,
    pushed_at: Option<Timestamp>,
    started_at: Timestamp,
}

impl Asking {
    fn look(&self, before: &TargetState, at: Timestamp, see: impl Fn(&[String]) -> Seen) -> TargetState {
        let timeout_secs = self.ask.timeout_secs.unwrap_or(TIMEOUT_SECS);
        let question = Question {
            helm_type: self.helm_type,
            cluster: "prod-eu",
            namespace: "apps",
            release: "demo",
            expect: &self.ask.expect,
            pushed_at: self.pushed_at,
            started_at: self.started_at,
            deadline: self.started_at + SignedDuration::from_secs(timeout_secs.into()),
            timeout_secs,
            fail_on: self.ask.fail_on,
            allow_unchanged: self.ask.allow_unchanged,
        };
        let mut asked = Vec::new();
        for _ in 0..3 {
            let cluster_date = Timestamp::from_second(at.as_second()).ok();
            match decide(&question, before, &Look { at, cluster_date, seen: see(&asked) }) {
                Decision::Known(state) => return *state,
                Decision::NeedsPayloads(names) => asked.extend(names),
            }
        }
        panic!("asked for payloads without end");
    }
}

/// Polls until there is a verdict; the number of the poll that brought it.
fn replay(
    recording: &Recording,
    ask: &Ask,
    first_look: SignedDuration,
    with_pushed_at: bool,
) -> (u32, TargetState) {
    let started_at = recording.push + first_look;
    let asking = Asking {
        helm_type: recording.helm_type,
        ask: ask.clone(),
        pushed_at: with_pushed_at.then_some(recording.push),
        started_at,
    };
    let mut state = TargetState::new(started_at);
    for poll in 1.. {
        let at = started_at + POLL * (i32::try_from(poll).unwrap() - 1);
        state = asking.look(&state, at, |asked| recording.seen(at, asked));
        // What is stored between two polls must carry everything.
        state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        if state.status.is_terminal() {
            return (poll, state);
        }
    }
    unreachable!("the deadline ends it")
}

#[test]
fn every_recording_is_judged_as_written_down() {
    let cases: Vec<Case> = serde_json::from_value(read("verdicts.json")).unwrap();
    let mut wrong = String::new();
    let mut replays = 0;
    let mut polls = BTreeMap::<u32, u32>::new();
    let mut slowest = BTreeMap::<usize, u32>::new();
    for (number, case) in cases.iter().enumerate() {
        let recording = Recording::load(&case.recording);
        let ask = serde_json::to_string(&case.ask.expect).unwrap();
        for (first_look, offset, with_pushed_at) in [
            ("before", -5000, true),
            ("at", 0, true),
            ("late", 4000, true),
            ("late without pushedAt", 4000, false),
        ] {
            let wanted = &case.verdict;
            for phase in 0..PHASES {
                let first = SignedDuration::from_millis(offset + phase * 5000 / PHASES);
                let (poll, state) = replay(&recording, &case.ask, first, with_pushed_at);
                replays += 1;
                let as_wanted = if with_pushed_at {
                    state.status == wanted.status
                        && state.reason == wanted.reason
                        && (wanted.last_reason.is_none() || state.last_reason == wanted.last_reason)
                        && wanted.latest_poll.is_none_or(|latest| poll <= latest)
                } else {
                    state.reason == Reason::Timeout || Some(state.reason) == case.late_without_pushed_at
                };
                let slowest = slowest.entry(number).or_insert(0);
                if with_pushed_at && state.reason != Reason::Timeout {
                    *slowest = poll.max(*slowest);
                }
                if state.reason != Reason::Timeout {
                    *polls.entry(poll).or_default() += 1;
                }
                if !as_wanted {
                    writeln!(
                        wrong,
                        "{} {ask} first look {first_look} {first:?}: {} {} (last {:?}) at poll {poll}: {}",
                        case.recording, state.status, state.reason, state.last_reason, state.message
                    )
                    .unwrap();
                }
            }
        }
    }
    println!("{} cases, {replays} replays, verdicts by poll: {polls:?}", cases.len());
    assert!(wrong.is_empty(), "\n{wrong}");
    for (number, case) in cases.iter().enumerate() {
        assert_eq!(
            case.verdict.latest_poll.unwrap_or(0),
            slowest[&number],
            "{}: latestPoll in verdicts.json is not the slowest phase's",
            case.recording
        );
    }
}

/// A look falls on each frame at the instant at which it is written.
#[test]
fn a_look_between_two_writes_is_judged_as_written_down() {
    let cases: Vec<Case> = serde_json::from_value(read("verdicts.json")).unwrap();
    for case in &cases {
        let (wanted, recording) = (&case.verdict, Recording::load(&case.recording));
        let mut told = BTreeSet::new();
        for (written, _) in &recording.frames {
            let since_push = written.duration_since(recording.push).as_millis().rem_euclid(POLL.as_millis());
            let first_look = SignedDuration::from_millis(i64::try_from(since_push).unwrap()) - POLL;
            let (_, state) = replay(&recording, &case.ask, first_look, true);
            assert_eq!(state.status, wanted.status, "{}: {}", case.recording, state.message);
            told.insert(state.reason.as_str());
        }
        let both = [Some(wanted.reason), wanted.between_writes];
        assert_eq!(told, both.iter().flatten().map(|it| it.as_str()).collect(), "{}", case.recording);
    }
}

#[test]
fn every_recording_has_a_case() {
    let cases: Vec<Case> = serde_json::from_value(read("verdicts.json")).unwrap();
    for folder in ["flux", "helm"] {
        for file in fs::read_dir(fixtures().join(folder)).unwrap() {
            let path = file.unwrap().path();
            let name = format!("{folder}/{}", path.file_stem().unwrap().to_str().unwrap());
            assert!(cases.iter().any(|c| c.recording == name), "no case for {name} in verdicts.json");
        }
    }
}

/// One stored state of a timeline: when it was written, and what it was.
struct Stored {
    t_ms: i64,
    body: Value,
}

/// A stretch of a timeline from one note to the next.
struct Stretch {
    note: String,
    note_ms: i64,
    before: Option<Value>,
    states: Vec<Stored>,
}

fn stretches(text: &str) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = Vec::new();
    let mut last: Option<Value> = None;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let t_ms = line["t_ms"].as_i64().unwrap();
        if let Some(note) = line["note"].as_str() {
            out.push(Stretch {
                note: note.to_owned(),
                note_ms: t_ms,
                before: last.clone(),
                states: Vec::new(),
            });
            continue;
        }
        let gone = line["event"] == "DELETED";
        let body = if gone { serde_json::json!({"kind": "Status"}) } else { line["object"].clone() };
        last = Some(body.clone());
        if let Some(stretch) = out.last_mut() {
            stretch.states.push(Stored { t_ms, body });
        }
    }
    out
}

/// Each timeline is asked at every stored state: the baseline is what stood
/// before the stretch's first write; then one look falls on the state, a second
/// one finds it unchanged five seconds later. What is said is written down in
/// `tests/fixtures/states/`; `UPDATE_STATES=1` writes it anew, for a reader to judge.
#[test]
fn every_stored_state_of_every_timeline_is_judged_as_written_down() {
    let update = std::env::var_os("UPDATE_STATES").is_some();
    let (mut states, mut timelines) = (0, 0);
    for file in fs::read_dir(fixtures().join("timelines")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".jsonl") || name.ends_with(".secrets.jsonl") {
            continue;
        }
        timelines += 1;
        let mut told = String::new();
        for stretch in stretches(&fs::read_to_string(&path).unwrap()) {
            if stretch.states.is_empty() {
                continue;
            }
            writeln!(told, "# {} ms: {}", stretch.note_ms, stretch.note).unwrap();
            for stored in &stretch.states {
                states += 1;
                let absent = serde_json::json!({"kind": "Status"});
                let before = stretch.before.as_ref().unwrap_or(&absent);
                let start: Timestamp = "2026-11-23T19:00:00Z".parse().unwrap();
                let asking = Asking {
                    helm_type: HelmType::Flux,
                    ask: Ask::default(),
                    // Time is no evidence here: the stretches follow each other within a second.
                    pushed_at: Some("2099-01-01T00:00:00Z".parse().unwrap()),
                    started_at: start,
                };
                let none = BTreeMap::new();
                let mut state = TargetState::new(start);
                let mut line = format!("{:>7} ms ", stored.t_ms);
                for (poll, body) in [before, &stored.body, &stored.body].into_iter().enumerate() {
                    let at = start + POLL * i32::try_from(poll).unwrap();
                    state = asking.look(&state, at, |asked| seen(HelmType::Flux, body, &none, asked));
                    if poll > 0 {
                        write!(line, " {} {};", state.status, state.reason).unwrap();
                    }
                }
                writeln!(told, "{line} {}", state.message).unwrap();
            }
        }
        let golden = fixtures().join("states").join(name.replace(".jsonl", ".txt"));
        if update {
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            fs::write(&golden, &told).unwrap();
        }
        let wanted = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(told, wanted, "{name} is judged otherwise than {} says", golden.display());
    }
    println!("{timelines} timelines, {states} states");
}

/// The release secrets that Flux's Helm writes must not be judged as plain Helm's.
#[test]
fn the_secrets_of_flux_are_told_from_plain_helm() {
    let mut told = 0;
    for file in fs::read_dir(fixtures().join("timelines")).unwrap() {
        let path = file.unwrap().path();
        if !path.to_str().unwrap().ends_with(".secrets.jsonl") {
            continue;
        }
        for line in fs::read_to_string(&path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            // One timeline has a secret that was edited by hand, and so is nobody's.
            if !line["object"]["metadata"]["managedFields"].to_string().contains("helm-controller") {
                continue;
            }
            told += 1;
            let start = Timestamp::UNIX_EPOCH;
            let asking = Asking {
                helm_type: HelmType::Plain,
                ask: Ask::default(),
                pushed_at: None,
                started_at: start,
            };
            let list = serde_json::json!({"items": [line["object"]]});
            let state = asking.look(&TargetState::new(start), start, |asked| {
                seen(HelmType::Plain, &list, &BTreeMap::new(), asked)
            });
            assert_eq!((state.status, state.reason), (Status::Failed, Reason::UseFlux), "{}", path.display());
        }
    }
    assert!(told > 50, "only {told} secrets of Flux were asked");
}
