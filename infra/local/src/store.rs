//! What `serve` keeps on disk: one file, in which each write is on disk before it is
//! answered, so that a kill at any moment loses nothing that was.
//!
//! The directory holds `store.redb`; `key`, under which tokens are sealed in it; and
//! `lock`, which whoever uses it holds.

use std::{
    error::Error,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use monitor::ports::StoreError;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction, backends::FileBackend,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::watch, task::spawn_blocking};

use crate::key::{AccessKey, Digest};

mod deployments;
mod files;
mod ledger;
mod registry;
mod seal;
mod vault;

pub(crate) use deployments::StoredDeployments;

use seal::Seal;

const STORE: &str = "store.redb";
const SEAL: &str = "key";
const LOCK: &str = "lock";

/// The version of the tables and of what stands in them. A change raises it.
const SCHEMA: u8 = 1;
/// What redb may keep in memory, in bytes; its own default is 1 GiB. A store of a
/// thousand deployments is a few MiB.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// What an error calls it.
const NAME: &str = "the store";

/// By [`SCHEMA_ROW`], [`ACCESS_ROW`] and [`SEAL_ROW`].
const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");
const SCHEMA_ROW: &str = "schema";
/// The digest of the key that callers show.
const ACCESS_ROW: &str = "access";
/// Nothing, sealed: told apart by it is a `key` that is not this store's.
const SEAL_ROW: &str = "seal";

/// The store. Its ports are [`monitor::ports`] and [`crate::executions::Ledger`].
#[derive(Clone)]
pub(crate) struct Store(Arc<Inner>);

struct Inner {
    database: Database,
    seal: Seal,
    directory: PathBuf,
    broken: watch::Sender<Option<String>>,
    /// Held as long as the store is.
    _lock: File,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{} can't be used", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is open to others on this machine (mode {mode:04o}); close it with: chmod {} {}",
        .path.display(),
        if *.is_directory { "700" } else { "600" },
        .path.display()
    )]
    Open { path: PathBuf, mode: u32, is_directory: bool },
    #[error(
        "another dag-monitor serves from {}; end that one, or give this one a directory of its own by --data-dir",
        .0.display()
    )]
    InUse(PathBuf),
    #[error(
        "{} is damaged, or no store; put a backup of its directory in its place, or move the directory away to begin anew",
        .path.display()
    )]
    Damaged { path: PathBuf, source: Box<dyn Error + Send + Sync> },
    #[error(
        "{} was written by a newer dag-monitor (its form is {found}, this one knows {SCHEMA}); use that one, or another directory by --data-dir",
        .path.display()
    )]
    Newer { path: PathBuf, found: u8 },
    #[error(
        "{} is missing, or not the one that seals the tokens in {STORE} beside it; put it back from a backup, or move the directory away to begin anew",
        .0.display()
    )]
    WrongSeal(PathBuf),
    #[error("there is no randomness to make a key of")]
    NoRandomness,
}

impl OpenError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }

    fn damaged(path: &Path) -> impl Fn(redb::Error) -> Self {
        let path = path.to_owned();
        move |error| match error {
            redb::Error::Io(source)
                if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::Io { path: path.clone(), source }
            }
            error => Self::Damaged { path: path.clone(), source: error.into() },
        }
    }
}

/// What a change came to: kept, or left as it was because its condition did not hold.
enum Outcome<T> {
    Keep(T),
    Leave(T),
}

/// Why a transaction was not done.
enum Trouble {
    /// The store itself: nothing works any more until it is opened again.
    Broken(Box<redb::Error>),
    /// What stands in it.
    Said(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Said(error)
    }
}

macro_rules! broken {
    ($($error:ty),+) => {$(
        impl From<$error> for Trouble {
            fn from(error: $error) -> Self {
                Self::Broken(Box::new(error.into()))
            }
        }
    )+};
}

broken!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

impl Store {
    /// Opens the store of a directory, or makes both. Each page is read and its
    /// checksum compared first.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do.
    pub(crate) fn open(directory: &Path) -> Result<Self, OpenError> {
        files::directory(directory)?;
        let lock_path = directory.join(LOCK);
        let lock = files::open(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::InUse(directory.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => return Err(OpenError::io(&lock_path)(source)),
        }
        let path = directory.join(STORE);
        let seal_path = directory.join(SEAL);
        let is_new = !path.try_exists().map_err(OpenError::io(&path))?;
        let (database, seal) = if is_new {
            let seal = Seal::read_or_make(&seal_path)?;
            // Under another name until it is whole: redb takes a file that a kill left
            // half made for none of its own.
            let database = files::whole(&path, |file| {
                let database = FileBackend::new(file).and_then(database);
                let database = database.map_err(|error| OpenError::damaged(&path)(error.into()))?;
                begin(&database, &seal).map_err(|trouble| trouble.at(&path))?;
                Ok(database)
            })?;
            (database, seal)
        } else {
            let file = files::open(&path)?;
            let database = FileBackend::new(file).and_then(database).map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(directory.to_owned()),
                error => OpenError::damaged(&path)(error.into()),
            })?;
            let about = About::read(&database).map_err(|trouble| trouble.at(&path))?;
            match about.schema.as_deref() {
                Some([SCHEMA]) => {}
                Some(&[found]) if found > SCHEMA => return Err(OpenError::Newer { path, found }),
                _ => {
                    let source = "nothing in it says of what form it is".into();
                    return Err(OpenError::Damaged { path, source });
                }
            }
            let seal = Seal::read(&seal_path)?
                .filter(|seal| about.seal.is_some_and(|sealed| seal.open(SEAL_ROW, &sealed).is_some()));
            (database, seal.ok_or(OpenError::WrongSeal(seal_path))?)
        };
        let inner = Inner {
            database,
            seal,
            directory: directory.to_owned(),
            broken: watch::Sender::new(None),
            _lock: lock,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The digest of the key that callers show. Where there is none yet, or another is
    /// wanted, that one, too: it is known only now.
    ///
    /// # Errors
    /// Where there is no randomness, or the store fails.
    pub(crate) fn access(&self, another: bool) -> Result<(Digest, Option<AccessKey>), OpenError> {
        let path = self.0.directory.join(STORE);
        let about = About::read(&self.0.database).map_err(|trouble| trouble.at(&path))?;
        if let Some(digest) = about.access.and_then(|it| Digest::read(&it)).filter(|_| !another) {
            return Ok((digest, None));
        }
        let key = AccessKey::make().ok_or(OpenError::NoRandomness)?;
        let digest = key.digest();
        let written = digest.clone();
        self.0
            .change(move |change| {
                change.open_table(ABOUT)?.insert(ACCESS_ROW, written.bytes())?;
                Ok(Outcome::Keep(()))
            })
            .map_err(|trouble| trouble.at(&path))?;
        Ok((digest, Some(key)))
    }

    /// Comes back with the reason once the store can't be used any more, as where the
    /// disk is full. What runs is safe: it goes on when the store is opened again.
    pub(crate) async fn broken(&self) -> String {
        let mut broken = self.0.broken.subscribe();
        match broken.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(why)) => why.clone(),
            // invariant: the sender lives as long as this store.
            _ => std::future::pending().await,
        }
    }

    /// Reads, on a thread that may wait for a disk.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.blocking(move |inner| look(&inner.database.begin_read()?)).await
    }

    /// Writes, all of it or nothing, after all other writes that have begun before.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<Outcome<T>, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.blocking(move |inner| inner.change(change)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let done = spawn_blocking(move || work(&inner)).await;
        let cause: Box<dyn Error + Send + Sync> = match done {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(Trouble::Said(error))) => return Err(error),
            Ok(Err(Trouble::Broken(error))) => error,
            // It panicked, or this process ends.
            Err(error) => error.into(),
        };
        self.0.broken.send_if_modified(|it| {
            let first = it.is_none();
            it.get_or_insert_with(|| cause.to_string());
            first
        });
        Err(StoreError::Transient(NAME, cause))
    }
}

impl Inner {
    fn change<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<Outcome<T>, Trouble>,
    ) -> Result<T, Trouble> {
        let mut transaction = self.database.begin_write()?;
        // What clusters say is written here: without it, whoever controls every byte and the
        // moment of a crash could make half a transaction look whole (redb's documentation).
        transaction.set_two_phase_commit(true);
        match change(&transaction)? {
            Outcome::Keep(value) => {
                transaction.commit()?;
                Ok(value)
            }
            // Dropped, it is undone.
            Outcome::Leave(value) => Ok(value),
        }
    }
}

impl Trouble {
    fn at(self, path: &Path) -> OpenError {
        match self {
            Self::Broken(error) => OpenError::damaged(path)(*error),
            Self::Said(error) => OpenError::Damaged { path: path.to_owned(), source: error.into() },
        }
    }
}

fn database(file: impl StorageBackend) -> Result<Database, DatabaseError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // Else a store that was damaged is trusted, and panics later.
    builder.set_check_integrity_on_open(true);
    builder.create_with_backend(file)
}

/// Makes the tables, each of them: one that was never written to can't be read.
fn begin(database: &Database, seal: &Seal) -> Result<(), Trouble> {
    let transaction = database.begin_write()?;
    {
        let mut about = transaction.open_table(ABOUT)?;
        about.insert(SCHEMA_ROW, [SCHEMA].as_slice())?;
        let sealed = seal.close(SEAL_ROW, Vec::new().into()).ok_or_else(|| unwritable("the seal"))?;
        about.insert(SEAL_ROW, sealed.as_slice())?;
    }
    deployments::begin(&transaction)?;
    registry::begin(&transaction)?;
    vault::begin(&transaction)?;
    ledger::begin(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// What a store says of itself.
struct About {
    schema: Option<Vec<u8>>,
    access: Option<Vec<u8>>,
    seal: Option<Vec<u8>>,
}

impl About {
    fn read(database: &Database) -> Result<Self, Trouble> {
        let about = database.begin_read()?.open_table(ABOUT)?;
        let row = |name| Ok::<_, Trouble>(about.get(name)?.map(|it| it.value().to_vec()));
        Ok(Self { schema: row(SCHEMA_ROW)?, access: row(ACCESS_ROW)?, seal: row(SEAL_ROW)? })
    }
}

fn unwritable(what: &str) -> StoreError {
    StoreError::Broken { what: format!("{what} can't be written"), source: None }
}

/// A row as it is written.
fn json<T: Serialize>(what: &str, row: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(row).map_err(|error| StoreError::Broken {
        what: format!("{what} can't be written"),
        source: Some(error.into()),
    })
}

/// What was written, read.
fn parsed<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Broken {
        what: format!("{what} can't be read"),
        source: Some(error.into()),
    })
}

/// The row under a key, if there is one.
fn row<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    what: &str,
    key: &str,
) -> Result<Option<T>, Trouble> {
    let Some(found) = table.get(key)? else { return Ok(None) };
    Ok(Some(parsed(&format!("{what} {key}"), found.value())?))
}

#[cfg(test)]
pub(crate) mod tests;
