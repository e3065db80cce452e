use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use monitor::{
    contract,
    deployment::Deployment,
    ports::{Deployments as _, Expected, Registry, Stored, SystemClock, Vault},
};
use tokio::time::timeout;

use super::*;
use crate::executions::tests::ledger_contract;

mod kills;

/// Nothing here waits for a clock: longer is stuck.
const HARD_LIMIT: Duration = Duration::from_secs(20);

/// A directory that is gone afterwards.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dag-monitor-store-{}-{number}", std::process::id()));
        Self(path)
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.0).unwrap()
    }

    fn refused(&self) -> OpenError {
        Store::open(&self.0).err().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn deployments(store: &Store) -> StoredDeployments {
    StoredDeployments { store: store.clone(), clock: Arc::new(SystemClock) }
}

#[tokio::test]
async fn deployments_keep_the_contract() {
    let folder = Folder::new();
    contract::deployments(&deployments(&folder.store()), Timestamp::now()).await;
}

#[tokio::test]
async fn the_registry_keeps_the_contract() {
    let folder = Folder::new();
    contract::registry(&folder.store()).await;
}

#[tokio::test]
async fn environments_keep_the_contract() {
    let folder = Folder::new();
    contract::environments(&folder.store()).await;
}

#[tokio::test]
async fn the_vault_keeps_the_contract() {
    let folder = Folder::new();
    contract::vault(&folder.store()).await;
}

#[tokio::test]
async fn the_ledger_keeps_the_contract() {
    let folder = Folder::new();
    ledger_contract(&folder.store()).await;
}

#[tokio::test]
async fn what_was_kept_is_there_when_it_is_opened_again() {
    let folder = Folder::new();
    let now = Timestamp::now();
    let store = folder.store();
    let (digest, key) = store.access(false).unwrap();
    assert_eq!(key.unwrap().digest(), digest);
    let item = contract::large_deployment("kept", now);
    let row = contract::cluster("prod", "n");
    assert_eq!(deployments(&store).create(&item, now).await.unwrap(), Stored::Yes);
    assert_eq!(Registry::put(&store, &row, Expected::Absent).await.unwrap(), Stored::Yes);
    Vault::put(&store, "prod", &contract::credentials("token").into()).await.unwrap();
    drop(store);

    let store = folder.store();
    assert!(matches!(store.access(false).unwrap(), (there, None) if there == digest), "it is told once");
    assert_eq!(deployments(&store).get("kept").await.unwrap(), Some(item));
    assert_eq!(Registry::get(&store, "prod").await.unwrap(), Some(row));
    assert!(Vault::get(&store, "prod").await.unwrap().is_some());
    let (other, key) = store.access(true).unwrap();
    assert!(key.is_some() && other != digest);
    drop(store);
    assert!(matches!(folder.store().access(false).unwrap(), (there, None) if there == other));
}

#[tokio::test]
async fn expired_deployments_make_room() {
    let folder = Folder::new();
    let store = deployments(&folder.store());
    let now = Timestamp::now();
    let expiring = |id: &str, seconds| Deployment {
        expires_at: now.as_second() + seconds,
        ..contract::deployment(id, now)
    };
    let newer = Deployment { schema: 2, ..expiring("newer", -5) };
    for item in [expiring("old", -5), expiring("new", 5), newer] {
        assert_eq!(store.create(&item, now).await.unwrap(), Stored::Yes);
    }
    let later = now + jiff::SignedDuration::from_secs(1);
    assert_eq!(store.create(&contract::deployment("newest", now), later).await.unwrap(), Stored::Yes);
    let left = store
        .store
        .look(|store| {
            let of = |name| {
                let table = store.open_table(TableDefinition::<&str, &[u8]>::new(name))?;
                let names = table.iter()?.map(|it| Ok::<_, Trouble>(it?.0.value().to_owned()));
                names.collect::<Result<Vec<_>, _>>()
            };
            let expiry = store.open_table(TableDefinition::<(i64, &str), ()>::new("deployments-expiry"))?;
            Ok((of("deployments")?, redb::ReadableTableMetadata::len(&expiry)?))
        })
        .await
        .unwrap();
    assert_eq!(left, (vec!["new".to_owned(), "newest".to_owned()], 2));
}

#[tokio::test]
async fn nobody_else_may_read_it() {
    let folder = Folder::new();
    let inside = Folder(folder.0.join("made/on the way"));
    let store = inside.store();
    store.access(false).unwrap();
    Vault::put(&store, "prod", &contract::credentials("token").into()).await.unwrap();
    for directory in [&folder.0, &folder.0.join("made"), &inside.0] {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
    }
    let mut files: Vec<_> = fs::read_dir(&inside.0).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    assert_eq!(files, [SEAL, LOCK, STORE].map(|name| inside.file(name)));
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    drop(store);

    for (path, closed, open) in [
        (&inside.0, 0o700, 0o750),
        (&files[0], 0o600, 0o640),
        (&files[1], 0o600, 0o604),
        (&files[2], 0o600, 0o666),
    ] {
        set_mode(path, open);
        let told = inside.refused().to_string();
        let mended = format!("chmod {closed:o} {}", path.display());
        assert!(told.contains(&mended) && told.contains(&format!("{open:04o}")), "{told}");
        set_mode(path, closed);
    }
    drop(inside.store());
}

/// Each form in which it could stand there; as base64 by where it begins.
fn stands_in(bytes: &[u8], token: &str) -> bool {
    let shifted = (0..3).map(|shift| {
        let text = BASE64_STANDARD.encode([&b"\0\0"[..shift], token.as_bytes()].concat());
        text.as_bytes()[4..text.len() - 4].to_vec()
    });
    let hex: String = token.bytes().map(|byte| format!("{byte:02x}")).collect();
    let forms = shifted.chain([token.as_bytes().to_vec(), hex.into_bytes()]);
    forms.into_iter().any(|form| bytes.windows(form.len()).any(|it| it == form))
}

#[tokio::test]
async fn no_token_stands_in_it_nor_the_key() {
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl";
    for form in
        [TOKEN.to_owned(), BASE64_STANDARD.encode(TOKEN), BASE64_STANDARD.encode(format!("\"{TOKEN}"))]
    {
        assert!(stands_in(format!("before{form}after").as_bytes(), TOKEN), "else this shows nothing");
    }
    let folder = Folder::new();
    let store = folder.store();
    let (_, key) = store.access(false).unwrap();
    for (id, token) in [("prod", TOKEN), ("prod", TOKEN), ("gone", TOKEN)] {
        Vault::put(&store, id, &contract::credentials(token).into()).await.unwrap();
        let row = contract::cluster(id, "n");
        let _ = Registry::put(&store, &row, Expected::Absent).await.unwrap();
    }
    Vault::delete(&store, "gone").await.unwrap();
    drop(store);
    let bytes = fs::read(folder.file(STORE)).unwrap();
    assert!(stands_in(&bytes, "https://api.example.com:6443"), "what is no secret stands there");
    assert!(!stands_in(&bytes, TOKEN));
    assert!(!stands_in(&bytes, key.unwrap().shown()));
    // With the key beside it, it is opened; so it was there.
    let found = Vault::get(&folder.store(), "prod").await.unwrap();
    assert!(found.is_some());
}

#[tokio::test]
async fn what_was_sealed_for_one_cluster_opens_for_no_other() {
    let folder = Folder::new();
    let store = folder.store();
    Vault::put(&store, "prod", &contract::credentials("token").into()).await.unwrap();
    store
        .change(|store| {
            let mut table = store.open_table(TableDefinition::<&str, &[u8]>::new("secrets"))?;
            let sealed = table.get("prod")?.unwrap().value().to_vec();
            table.insert("other", sealed.as_slice())?;
            Ok(Outcome::Keep(()))
        })
        .await
        .unwrap();
    assert!(Vault::get(&store, "prod").await.unwrap().is_some());
    let told = Vault::get(&store, "other").await.unwrap_err();
    assert!(matches!(&told, StoreError::Told(why) if why.contains("register it anew")), "{told}");
}

#[test]
fn without_its_key_it_is_refused() {
    let folder = Folder::new();
    drop(folder.store());
    let key = fs::read(folder.file(SEAL)).unwrap();
    assert_eq!(key.len(), 32);
    fs::remove_file(folder.file(SEAL)).unwrap();
    assert!(matches!(folder.refused(), OpenError::WrongSeal(_)));
    assert!(!folder.file(SEAL).exists(), "another one would only hide that it is missing");
    for wrong in [&[0; 32][..], &key[1..], &[&key[..], &[0]].concat(), b""] {
        fs::write(folder.file(SEAL), wrong).unwrap();
        set_mode(&folder.file(SEAL), 0o600);
        assert!(matches!(folder.refused(), OpenError::WrongSeal(_)), "{wrong:?}");
    }
    fs::write(folder.file(SEAL), key).unwrap();
    drop(folder.store());
}

#[test]
fn one_at_a_time_uses_it() {
    let folder = Folder::new();
    let first = folder.store();
    let told = folder.refused().to_string();
    assert!(told.contains("another dag-monitor") && told.contains("--data-dir"), "{told}");
    drop(first);
    drop(folder.store());
}

#[test]
fn what_a_newer_version_wrote_is_refused() {
    let folder = Folder::new();
    let store = folder.store();
    let newer = |change: &WriteTransaction| {
        change.open_table(ABOUT)?.insert(SCHEMA_ROW, [SCHEMA + 1].as_slice())?;
        Ok(Outcome::Keep(()))
    };
    assert!(store.0.change(newer).is_ok());
    drop(store);
    let before = fs::read(folder.file(STORE)).unwrap();
    let told = folder.refused().to_string();
    assert!(told.contains("newer") && told.contains("--data-dir"), "{told}");
    assert_eq!(fs::read(folder.file(STORE)).unwrap().len(), before.len());
}

#[test]
fn what_is_damaged_is_refused_and_never_panics() {
    let folder = Folder::new();
    let store = folder.store();
    store.access(false).unwrap();
    drop(store);
    let whole = fs::read(folder.file(STORE)).unwrap();
    let told = |bytes: &[u8]| {
        fs::write(folder.file(STORE), bytes).unwrap();
        Store::open(&folder.0).err()
    };
    for damaged in [&b"no store"[..], &[0; 4096], &whole[..whole.len() / 2], &whole[..100]] {
        let error = told(damaged).unwrap();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("backup"), "{error}");
    }
    // One byte of each page that is written to, and of the header all.
    let pages = whole.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let bytes = pages
        .map(|(number, page)| number * 4096 + page.iter().rposition(|byte| *byte != 0).unwrap_or_default());
    let mut refused = 0;
    for at in (0..320).chain(bytes) {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        // What nothing leads to any more may be anything.
        refused += usize::from(told(&changed).is_some());
    }
    assert!(refused > 50, "{refused}");
    assert!(told(&whole).is_none());
}

#[test]
fn what_a_kill_left_half_made_is_made_anew() {
    let folder = Folder::new();
    files::directory(&folder.0).unwrap();
    for name in [STORE, SEAL] {
        fs::write(folder.file(&format!("{name}.new")), b"half").unwrap();
    }
    drop(folder.store());
    drop(folder.store());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 3);
}

#[test]
fn what_can_not_be_used_is_named() {
    let folder = Folder::new();
    fs::write(&folder.0, "").unwrap();
    let told = folder.refused();
    assert!(matches!(&told, OpenError::Io { path, .. } if *path == folder.0), "{told:?}");
    fs::remove_file(&folder.0).unwrap();
    symlink("/dev/null", &folder.0).unwrap();
    assert!(Store::open(&folder.0).is_err());
    fs::remove_file(&folder.0).unwrap();
}

#[tokio::test]
async fn a_store_that_breaks_says_so_once_and_for_all() {
    let folder = Folder::new();
    let store = folder.store();
    let failed =
        store.look::<()>(|_| Err(redb::StorageError::Corrupted("on purpose".to_owned()).into())).await;
    assert!(matches!(failed, Err(StoreError::Transient(..))), "{failed:?}");
    let panicked = store.look::<()>(|_| panic!("on purpose, too")).await;
    assert!(matches!(panicked, Err(StoreError::Transient(..))), "{panicked:?}");
    let why = timeout(HARD_LIMIT, store.broken()).await.unwrap();
    assert!(why.contains("on purpose") && !why.contains("too"), "{why}");
    // What only stands wrong in it breaks nothing else.
    let other = Folder::new().store();
    let said = other.look::<()>(|_| Err(unwritable("a row").into())).await;
    assert!(matches!(said, Err(StoreError::Broken { .. })), "{said:?}");
    assert!(other.0.broken.borrow().is_none());
}
