//! Spool directories: finding them, locking them, taking over those whose process is gone.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use ai4free_ports::usage_ledger::SpoolId;
use uuid::Uuid;

use super::ballast::Ballast;

const LOCK: &str = "lock";

/// A directory that no other process can write to while `lock` is open.
pub(super) struct Locked {
    pub(super) spool: SpoolId,
    pub(super) path: PathBuf,
    pub(super) lock: File,
}

/// Locks every spool directory that no living process holds, oldest name first.
pub(super) fn lock_all(parent: &Path) -> io::Result<Vec<Locked>> {
    fs::create_dir_all(parent)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(parent)? {
        if let Some(id) = entry?.file_name().to_str().and_then(|name| Uuid::parse_str(name).ok()) {
            names.push(id);
        }
    }
    names.sort_unstable();
    let mut locked = Vec::new();
    for id in names {
        match lock(parent, SpoolId(id)) {
            Ok(Some(directory)) => locked.push(directory),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // its drainer has just deleted it
            Err(error) => return Err(error),
        }
    }
    Ok(locked)
}

/// Makes a new one. `None`: somebody else was faster.
pub(super) fn create(parent: &Path, spool: SpoolId) -> io::Result<Option<Locked>> {
    fs::create_dir_all(parent.join(spool.0.to_string()))?;
    lock(parent, spool)
}

/// Deletes a directory whose segments are gone. Somebody who has taken it over meanwhile keeps it.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    let _absent = Ballast::in_directory(directory, 0).delete();
    fs::remove_file(directory.join(LOCK))?;
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

fn lock(parent: &Path, spool: SpoolId) -> io::Result<Option<Locked>> {
    let path = parent.join(spool.0.to_string());
    let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) if is_at(&lock, &path.join(LOCK))? => Ok(Some(Locked { spool, path, lock })),
        Ok(()) => Ok(None), // its drainer has just deleted it
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (held, found) = (file.metadata()?, fs::metadata(path)?);
    Ok((held.dev(), held.ino()) == (found.dev(), found.ino()))
}
