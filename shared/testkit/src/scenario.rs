//! Recorded timelines, read from the fixtures.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use verdict::HelmType;

use crate::rewrite::{for_each_stamp, is_dns_name};

/// Why a scenario can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Not the form of a name: a folder, a slash and a file without its ending.
    #[error("{0:?} does not name a scenario; for example flux/chart-upgrade or timelines/03#3")]
    Name(String),
    /// No such file, or several that begin like this.
    #[error("there is no scenario {name:?} in {}", dir.display())]
    Unknown {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The file can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not JSON, or not of the expected form.
    #[error("{} is not a recording", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The file is JSON, but can't be replayed.
    #[error("{name} can't be replayed: {what}")]
    Shape {
        /// The scenario.
        name: String,
        /// What is missing.
        what: &'static str,
    },
    /// A namespace or name that no object could have.
    #[error("{0:?} can't be the name of an object")]
    Rename(String),
    /// A speed of zero, or one that no replay could keep.
    #[error("a speed of {0} is not between 0.01 and 100")]
    Speed(f64),
    /// A push too far ahead.
    #[error("a push can be at most an hour ahead")]
    TooFarAhead,
}

/// A recorded timeline of one release.
#[derive(Debug, Clone)]
pub struct Scenario {
    name: String,
    description: String,
    expect: String,
    helm_type: HelmType,
    namespace: String,
    release: String,
    events: Vec<Event>,
    pub(crate) recording: Recording,
}

/// What was done while it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds relative to the push.
    pub after_push_ms: i64,
    /// What.
    pub text: String,
}

/// What was answered, in milliseconds relative to the push.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recording {
    /// The HelmRelease; `None` while there is none. Empty in a plain scenario.
    pub(crate) helm_releases: Vec<(i64, Option<Value>)>,
    /// Helm's secrets, sorted by name; empty where none were recorded.
    pub(crate) secrets: Vec<(i64, Secrets)>,
    /// The push on the recorded cluster's clock, in milliseconds since 1970.
    pub(crate) pushed_ms: i64,
    /// For each second that occurs in a stamp: when an answer first showed it,
    /// on the recorded cluster's clock, in milliseconds since 1970.
    pub(crate) first_seen: BTreeMap<i64, i64>,
}

/// The secrets of one release at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    /// That of the list, where it was recorded.
    pub(crate) resource_version: Option<u64>,
    /// As a full list has them; without `data` where the payload was not recorded.
    pub(crate) items: Vec<Value>,
}

#[derive(Deserialize)]
struct PolledFile {
    description: String,
    #[serde(default)]
    expect: String,
    request: RecordedRequest,
    events: Vec<RecordedEvent>,
    frames: Vec<Frame>,
    full_list_at_end: Option<Value>,
}

#[derive(Deserialize)]
struct RecordedRequest {
    path: String,
}

#[derive(Deserialize)]
struct RecordedEvent {
    at_ms: i64,
    event: String,
    wall: Timestamp,
}

#[derive(Deserialize)]
struct Frame {
    at_ms: i64,
    status: u16,
    body: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Note { note: String, t_ms: i64 },
    Write { event: String, object: Value, t_ms: i64 },
}

impl Scenario {
    /// Reads `NAME.json` or, of watched timelines, `NAME.jsonl` below `fixtures`.
    ///
    /// `flux/chart-upgrade` and `helm/helm3-upgrade` are polled answers.
    /// `timelines/03-upgrade-…` (any unique beginning will do, such as
    /// `timelines/03`) are watched writes; the push is the note of which `#3`
    /// gives the index, or else the first one after things had settled.
    ///
    /// # Errors
    /// Where there is no such file, or it can't be replayed.
    pub fn load(fixtures: &Path, name: &str) -> Result<Self, ScenarioError> {
        let (path, note) = match name.split_once('#') {
            Some((path, note)) => {
                let note = note.parse().map_err(|_| ScenarioError::Name(name.to_owned()))?;
                (path, Some(note))
            }
            None => (name, None),
        };
        let (folder, file) = path.split_once('/').ok_or_else(|| ScenarioError::Name(name.to_owned()))?;
        // The name may come over the control port: it must not leave the folder.
        if !is_plain(folder) || !is_plain(file) {
            return Err(ScenarioError::Name(name.to_owned()));
        }
        let dir = fixtures.join(folder);
        let polled = dir.join(format!("{file}.json"));
        if note.is_none() && polled.is_file() {
            return Self::polled(name, &polled);
        }
        let mut found = timelines(&dir).into_iter().filter(|it| it.starts_with(file));
        match (found.next(), found.next()) {
            (Some(only), None) => Self::watched(&format!("{folder}/{only}"), &dir, &only, note),
            (Some(first), Some(_)) if first == file => {
                Self::watched(&format!("{folder}/{first}"), &dir, &first, note)
            }
            _ => Err(ScenarioError::Unknown { name: name.to_owned(), dir: fixtures.to_owned() }),
        }
    }

    /// The names of all scenarios below `fixtures`, sorted.
    #[must_use]
    pub fn list(fixtures: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for folder in ["flux", "helm", "timelines"] {
            let dir = fixtures.join(folder);
            let polled = files(&dir).into_iter().filter_map(|it| it.strip_suffix(".json").map(str::to_owned));
            names.extend(polled.chain(timelines(&dir)).map(|it| format!("{folder}/{it}")));
        }
        names.sort();
        names
    }

    /// As it is loaded.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What happens, in a sentence; of a watched timeline the push itself.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What was expected of it before it was recorded; may be empty.
    #[must_use]
    pub fn expect(&self) -> &str {
        &self.expect
    }

    /// How Helm was driven.
    #[must_use]
    pub fn helm_type(&self) -> HelmType {
        self.helm_type
    }

    /// The namespace that it was recorded in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The HelmRelease or Helm release that it was recorded of.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// What was done while it was recorded, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// When the last distinct answer came, in milliseconds after the push.
    #[must_use]
    pub fn ends_after_push_ms(&self) -> i64 {
        let releases = self.recording.helm_releases.last().map(|it| it.0);
        let secrets = self.recording.secrets.last().map(|it| it.0);
        releases.max(secrets).unwrap_or_default()
    }

    /// The push on the recorded cluster's clock.
    #[must_use]
    pub fn pushed_at(&self) -> Timestamp {
        Timestamp::from_millisecond(self.recording.pushed_ms).unwrap_or_default()
    }

    /// What was answered, in order: from when on, in milliseconds after the push, and
    /// the objects: the HelmRelease, while there was one, or the secrets of the release.
    pub fn answers(&self) -> impl Iterator<Item = (i64, Vec<&Value>)> {
        let releases = self.recording.helm_releases.iter().map(|(at, it)| (*at, it.iter().collect()));
        let secrets = self.recording.secrets.iter().map(|(at, it)| (*at, it.items.iter().collect()));
        let (releases, secrets) = match self.helm_type {
            HelmType::Flux => (Some(releases), None),
            HelmType::Plain => (None, Some(secrets)),
        };
        releases.into_iter().flatten().chain(secrets.into_iter().flatten())
    }

    fn polled(name: &str, path: &Path) -> Result<Self, ScenarioError> {
        let file: PolledFile = serde_json::from_str(&read(path)?)
            .map_err(|source| ScenarioError::Parse { path: path.to_owned(), source })?;
        let shape = |what| ScenarioError::Shape { name: name.to_owned(), what };
        let target = Target::of(&file.request.path).ok_or_else(|| shape("its request is of another kind"))?;
        let push = file.events.iter().find(|it| it.event == "push").ok_or_else(|| shape("it has no push"))?;

        let mut recording = Recording::default();
        for frame in file.frames {
            let at = frame.at_ms - push.at_ms;
            match (target.helm_type, frame.status) {
                (HelmType::Flux, 200) => recording.helm_releases.push((at, Some(frame.body))),
                (HelmType::Flux, 404) => recording.helm_releases.push((at, None)),
                (HelmType::Plain, 200) => {
                    recording.secrets.push((at, joined(&frame.body, file.full_list_at_end.as_ref())));
                }
                _ => return Err(shape("it has an answer that is neither 200 nor 404")),
            }
        }
        recording.settle_clock(Some(push.wall.as_millisecond()));
        recording.check(name)?;
        recording.settle_answers();
        Ok(Self {
            name: name.to_owned(),
            description: file.description,
            expect: file.expect,
            helm_type: target.helm_type,
            namespace: target.namespace,
            release: target.release,
            events: file
                .events
                .iter()
                .map(|it| Event { after_push_ms: it.at_ms - push.at_ms, text: it.event.clone() })
                .collect(),
            recording,
        })
    }

    fn watched(name: &str, dir: &Path, file: &str, note: Option<usize>) -> Result<Self, ScenarioError> {
        let shape = |what| ScenarioError::Shape { name: name.to_owned(), what };
        let mut notes = Vec::new();
        let mut writes = Vec::new();
        for line in lines(&dir.join(format!("{file}.jsonl")))? {
            match line {
                Line::Note { note, t_ms } => notes.push((t_ms, note)),
                Line::Write { event, object, t_ms } => writes.push((t_ms, event, object)),
            }
        }
        let settled = notes.iter().position(|(_, text)| text == "settled");
        let index = note.or(settled.map(|it| it + 1)).unwrap_or_default();
        let (push, description) = notes.get(index).cloned().ok_or_else(|| shape("it has no such note"))?;
        let metadata = writes.first().map(|(_, _, object)| &object["metadata"]);
        let metadata = metadata.ok_or_else(|| shape("nothing was written"))?;
        let namespace = text(&metadata["namespace"]);
        let release = text(&metadata["name"]);

        let mut recording = Recording::default();
        // Before the first write there was nothing.
        recording.helm_releases.push((-push, None));
        for (at, event, object) in writes {
            recording.helm_releases.push((at - push, (event != "DELETED").then_some(object)));
        }
        let secrets = dir.join(format!("{file}.secrets.jsonl"));
        if secrets.is_file() {
            recording.secrets.push((-push, Secrets::default()));
            let mut stored = BTreeMap::new();
            for line in lines(&secrets)? {
                let Line::Write { event, mut object, t_ms } = line else { continue };
                // An item of a list does not repeat its kind.
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("apiVersion");
                    fields.remove("kind");
                }
                let key = text(&object["metadata"]["name"]);
                if event == "DELETED" {
                    stored.remove(&key);
                } else {
                    stored.insert(key, object);
                }
                let items = stored.values().cloned().collect();
                recording.secrets.push((t_ms - push, Secrets { resource_version: None, items }));
            }
        }
        recording.settle_clock(None);
        recording.check(name)?;
        recording.settle_answers();
        Ok(Self {
            name: name.to_owned(),
            description,
            expect: String::new(),
            helm_type: HelmType::Flux,
            namespace,
            release,
            events: notes.into_iter().map(|(at, text)| Event { after_push_ms: at - push, text }).collect(),
            recording,
        })
    }
}

impl Recording {
    /// Finds the time of the push on the recorded cluster's clock.
    ///
    /// A stamp never lies in the future of the answer that shows it. Where the
    /// recorded time of the push is missing, or was cut to whole seconds, that
    /// bounds it: the earliest time at which no stamp is ahead is taken.
    fn settle_clock(&mut self, declared_ms: Option<i64>) {
        let mut seen: Vec<(i64, i64)> = Vec::new();
        let mut note = |at: i64, value: &Value| {
            for_each_stamp(value, &mut |stamp| seen.push((at, stamp.as_second())));
        };
        for (at, release) in &self.helm_releases {
            if let Some(release) = release {
                note(*at, release);
            }
        }
        for (at, secrets) in &self.secrets {
            for item in &secrets.items {
                note(*at, &item["metadata"]);
            }
        }
        let bound = seen.iter().map(|(at, second)| second * 1000 - at).max();
        self.pushed_ms = declared_ms.max(bound).unwrap_or_default();
        for (at, second) in seen {
            let shown = self.pushed_ms + at;
            self.first_seen.entry(second).and_modify(|it| *it = shown.min(*it)).or_insert(shown);
        }
    }

    /// Keeps of what was before the push only its end: how it came about would
    /// be replayed in part, depending on when the push is.
    fn settle_answers(&mut self) {
        fn settle<T>(answers: &mut Vec<(i64, T)>) {
            let before = answers.iter().take_while(|(at, _)| *at < 0).count();
            answers.drain(..before.saturating_sub(1));
        }
        settle(&mut self.helm_releases);
        settle(&mut self.secrets);
    }

    fn check(&self, name: &str) -> Result<(), ScenarioError> {
        let ordered = |times: Vec<i64>| times.is_sorted();
        let releases = self.helm_releases.iter().map(|it| it.0).collect();
        let secrets = self.secrets.iter().map(|it| it.0).collect();
        if self.helm_releases.is_empty() && self.secrets.is_empty() {
            return Err(ScenarioError::Shape { name: name.to_owned(), what: "it has no answers" });
        }
        if !ordered(releases) || !ordered(secrets) {
            return Err(ScenarioError::Shape { name: name.to_owned(), what: "its answers are not in order" });
        }
        Ok(())
    }
}

/// Whose answers a polled recording holds, from the path it asked.
struct Target {
    helm_type: HelmType,
    namespace: String,
    release: String,
}

impl Target {
    fn of(path: &str) -> Option<Self> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.split('/').collect();
        let (helm_type, namespace, release) = match parts.as_slice() {
            ["", "apis", "helm.toolkit.fluxcd.io", _, "namespaces", namespace, "helmreleases", name] => {
                (HelmType::Flux, *namespace, (*name).to_owned())
            }
            ["", "api", "v1", "namespaces", namespace, "secrets"] => {
                let query = percent_decode_str(query).decode_utf8().ok()?;
                let name = query.split(['&', ',', '=']).skip_while(|it| *it != "name").nth(1)?;
                (HelmType::Plain, *namespace, name.to_owned())
            }
            _ => return None,
        };
        (is_dns_name(namespace) && is_dns_name(&release)).then(|| Self {
            helm_type,
            namespace: namespace.to_owned(),
            release,
        })
    }
}

/// The metadata of a frame with the payloads of the final list, by uid. A
/// revision that was pruned before the end has none.
fn joined(frame: &Value, full: Option<&Value>) -> Secrets {
    let payloads: BTreeMap<&str, &Value> = full
        .and_then(|it| it["items"].as_array())
        .into_iter()
        .flatten()
        .filter_map(|it| Some((it["metadata"]["uid"].as_str()?, &it["data"])))
        .collect();
    let mut items: Vec<Value> = frame["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| {
            let metadata = &it["metadata"];
            let mut secret = json!({ "metadata": metadata, "type": "helm.sh/release.v1" });
            if let Some(data) = metadata["uid"].as_str().and_then(|uid| payloads.get(uid)) {
                secret["data"] = (*data).clone();
            }
            secret
        })
        .collect();
    items.sort_by_key(|it| text(&it["metadata"]["name"]));
    let resource_version = frame["metadata"]["resourceVersion"].as_str().and_then(|it| it.parse().ok());
    Secrets { resource_version, items }
}

fn lines(path: &Path) -> Result<Vec<Line>, ScenarioError> {
    read(path)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|source| ScenarioError::Parse { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, ScenarioError> {
    fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })
}

fn timelines(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = files(dir)
        .into_iter()
        .filter_map(|it| it.strip_suffix(".jsonl").map(str::to_owned))
        .filter(|it| !it.ends_with(".secrets"))
        .collect();
    names.sort();
    names
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|it| it.file_name().into_string().ok()).collect()
}

fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && !part.contains("..")
        && part.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_'))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
