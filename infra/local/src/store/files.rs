//! The directory and the files in it, for nobody else on this machine.
//!
//! They are made so, not closed afterwards. What is found open is refused, not closed
//! in silence: whoever could read it may have done so.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::OpenError;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The rights of the group and of all others.
const OTHERS: u32 = 0o077;

/// Makes the directory and those above it, where they are missing.
pub(super) fn directory(path: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(OpenError::io(path))?;
    let found = fs::metadata(path).map_err(OpenError::io(path))?;
    closed(path, &found)
}

/// Opens a file to read and write, or makes it.
pub(super) fn open(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    opened(path, &options)
}

/// Opens a file to read; `None` where there is none.
pub(super) fn existing(path: &Path) -> Result<Option<File>, OpenError> {
    match opened(path, OpenOptions::new().read(true)) {
        Ok(file) => Ok(Some(file)),
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn opened(path: &Path, options: &OpenOptions) -> Result<File, OpenError> {
    let file = options.open(path).map_err(OpenError::io(path))?;
    closed(path, &file.metadata().map_err(OpenError::io(path))?)?;
    Ok(file)
}

fn closed(path: &Path, found: &fs::Metadata) -> Result<(), OpenError> {
    let mode = found.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(OpenError::Open { path: path.to_owned(), mode, is_directory: found.is_dir() })
}

/// Makes a file that is there whole or not at all, whenever this process is killed:
/// under another name first, of which what is left is made anew.
pub(super) fn whole<T>(path: &Path, make: impl FnOnce(File) -> Result<T, OpenError>) -> Result<T, OpenError> {
    let unfinished: PathBuf = path.with_added_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(OpenError::io(&unfinished)(error));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(FILE_MODE);
    let made = make(opened(&unfinished, &options)?)?;
    fs::rename(&unfinished, path).map_err(OpenError::io(path))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|it| it.sync_all()).map_err(OpenError::io(directory))?;
    Ok(made)
}
