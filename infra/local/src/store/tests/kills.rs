//! The end of the process, or of the machine's power, between any two writes to the file.

use std::{io, sync::Mutex};

use jiff::SignedDuration;
use monitor::{
    ports::{Auth, Found},
    request::Execution,
};
use redb::{StorageBackend, backends::InMemoryBackend};
use secrecy::ExposeSecret as _;

use super::*;
use crate::executions::Ledger as _;

/// How many executions that have ended the ledger keeps: one less than end here.
const KEPT: usize = 2;

/// What was done to the file.
#[derive(Debug, Clone)]
enum Step {
    Write(usize, Vec<u8>),
    Length(usize),
    /// What came before is on the disk from here on.
    Sync,
}

/// A file that remembers how it came to be.
#[derive(Debug, Clone, Default)]
struct Remembering {
    file: Arc<InMemoryBackend>,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Remembering {
    fn add(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
    }

    fn so_far(&self) -> usize {
        self.steps.lock().unwrap().len()
    }
}

impl StorageBackend for Remembering {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.add(Step::Length(usize::try_from(length).unwrap()));
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.add(Step::Sync);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.add(Step::Write(usize::try_from(offset).unwrap(), data.to_vec()));
        self.file.write(offset, data)
    }
}

fn apply<'a>(image: &mut Vec<u8>, steps: impl IntoIterator<Item = &'a Step>) {
    for step in steps {
        match step {
            Step::Write(offset, data) => {
                let end = offset + data.len();
                image.resize(image.len().max(end), 0);
                image[*offset..end].copy_from_slice(data);
            }
            Step::Length(length) => image.resize(*length, 0),
            Step::Sync => {}
        }
    }
}

/// The write, cut in its middle.
fn torn(step: &Step) -> Option<Step> {
    match step {
        Step::Write(offset, data) => Some(Step::Write(*offset, data[..data.len() / 2].to_vec())),
        Step::Length(_) | Step::Sync => None,
    }
}

/// What a file may hold after the first `done` steps, by how it ended.
fn images(steps: &[Step], done: usize) -> Vec<(&'static str, Vec<u8>)> {
    let (before, next) = (&steps[..done], steps.get(done).and_then(torn));
    let mut killed = Vec::new();
    apply(&mut killed, before);
    let mut images = Vec::new();
    if let Some(next) = next {
        let mut image = killed.clone();
        apply(&mut image, [&next]);
        images.push(("killed within a write", image));
    }
    images.push(("killed", killed));
    let synced = before.iter().rposition(|it| matches!(it, Step::Sync)).map_or(0, |at| at + 1);
    let mut safe = Vec::new();
    apply(&mut safe, &before[..synced]);
    let unsafe_ = before[synced..].iter().enumerate();
    // A disk writes what it was not told to sync in any order.
    let written = [
        ("without power, nothing was written", None),
        ("without power, every other write was done", Some(0)),
        ("without power, the others were done", Some(1)),
    ];
    for (what, parity) in written.into_iter().filter(|_| synced < done) {
        let mut image = safe.clone();
        let done = unsafe_.clone().filter(|(number, _)| Some(number % 2) == parity);
        apply(&mut image, done.map(|(_, step)| step));
        images.push((what, image));
    }
    images
}

/// What is asked of a store, one after the other. Asked again it changes nothing.
async fn ask(store: &Store, number: usize, now: Timestamp) {
    let items = deployments(store);
    let first = contract::large_deployment("first", now);
    let second = contract::deployment("second", now);
    let begun = |number: i64| {
        let started_at = now + SignedDuration::from_secs(number);
        let arn = format!("arn:aws:states:eu-central-1:123456789012:execution:monitor:d-{number}");
        Found { execution: Execution { arn, started_at }, input: None, running: true }
    };
    match number {
        0 => Vault::put(store, "prod", &contract::credentials("token").into()).await.unwrap(),
        1 => drop(Registry::put(store, &contract::cluster("prod", "n"), Expected::Absent).await.unwrap()),
        2 => drop(items.create(&first, now).await.unwrap()),
        3 => drop(store.enter(&begun(0)).await.unwrap()),
        4 => drop(items.update(&contract::next(&first, "it is on its way")).await.unwrap()),
        5 => drop(items.create(&second, now).await.unwrap()),
        6 => store.end("d-0", KEPT).await.unwrap(),
        7 | 8 => drop(store.enter(&begun(i64::try_from(number).unwrap() - 6)).await.unwrap()),
        9 => store.end("d-1", KEPT).await.unwrap(),
        // Here the first is forgotten.
        10 => store.end("d-2", KEPT).await.unwrap(),
        11 => Vault::put(store, "prod", &contract::credentials("another").into()).await.unwrap(),
        12 => Vault::delete(store, "prod").await.unwrap(),
        _ => unreachable!("{number}"),
    }
}

const ASKED: usize = 13;

/// All that can be read.
async fn shown(store: &Store) -> String {
    let items = deployments(store);
    let (first, second) = (items.get("first").await.unwrap(), items.get("second").await.unwrap());
    let history = items.history("checkout", "production", 10, None).await.unwrap();
    let clusters = Registry::list(store, 10, None).await.unwrap();
    let token = Vault::get(store, "prod").await.unwrap().map(|it| match it.auth {
        Auth::Token(credentials) => credentials.token.expose_secret().to_owned(),
        Auth::Eks(cluster) => panic!("{cluster:?} was never kept"),
    });
    let mut executions = Vec::new();
    for name in ["d-0", "d-1", "d-2"] {
        executions.push(store.find(name).await.unwrap());
    }
    let (newest, running) = (store.newest(10).await.unwrap(), store.running().await.unwrap());
    format!(
        "{first:#?}\n{second:#?}\n{history:#?}\n{clusters:#?}\n{token:?}\n{executions:#?}\n{newest:?}\n{running:?}"
    )
}

#[tokio::test]
async fn whenever_it_ends_what_was_answered_is_kept_and_what_was_not_is_kept_whole_or_not_at_all() {
    let folder = Folder::new();
    drop(folder.store());
    let file = Remembering::default();
    let store = {
        let (database, seal) =
            (database(file.clone()).unwrap(), Seal::read(&folder.file(SEAL)).unwrap().unwrap());
        begin(&database, &seal).unwrap_or_else(|_| panic!("it begins"));
        let lock = files::open(&folder.file("another-lock")).unwrap();
        let broken = watch::Sender::new(None);
        Store(Arc::new(Inner { database, seal, directory: folder.0.clone(), broken, _lock: lock }))
    };
    let (begun, now) = (file.so_far(), Timestamp::now());
    let (mut answered, mut pictures) = (Vec::new(), vec![shown(&store).await]);
    for number in 0..ASKED {
        ask(&store, number, now).await;
        answered.push(file.so_far());
        pictures.push(shown(&store).await);
        assert_ne!(pictures[number], pictures[number + 1], "else {number} shows nothing");
    }
    drop(store);

    let steps = file.steps.lock().unwrap().clone();
    let (mut ends, mut on_their_way) = (0, 0);
    for done in begun..=steps.len() {
        let kept = answered.iter().filter(|it| **it <= done).count();
        for (how, image) in images(&steps, done) {
            fs::write(folder.file(STORE), image).unwrap();
            let store =
                Store::open(&folder.0).unwrap_or_else(|error| panic!("{how} after {done} steps: {error}"));
            let found = shown(&store).await;
            let next = pictures.get(kept + 1);
            assert!(
                found == pictures[kept] || Some(&found) == next,
                "{how} after {done} steps, {kept} were answered:\n{found}"
            );
            on_their_way += usize::from(Some(&found) == next);
            if let Some(next) = next {
                ask(&store, kept, now).await;
                assert_eq!(&shown(&store).await, next, "{how} after {done} steps it does not go on");
            }
            ends += 1;
        }
    }
    println!("{} steps, {ends} ends, {on_their_way} with an answer that was not heard", steps.len() - begun);
    assert!(ends > 100 && on_their_way > 0, "{ends}, {on_their_way}");
}
