//! Spool directories: finding them, locking them, taking over those whose process is gone.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use ai4free_ports::usage_ledger::SpoolId;
use uuid::Uuid;

const LOCK: &str = "lock";
const BALLAST: &str = "ballast";
const BALLAST_BYTES: usize = 4 * 1024 * 1024;

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
    let _absent = fs::remove_file(ballast(directory));
    fs::remove_file(directory.join(LOCK))?;
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

pub(super) fn ballast(directory: &Path) -> PathBuf {
    directory.join(BALLAST)
}

/// Real bytes, so that deleting them makes room on every file system; not zeros, so that none stores them as a hole.
pub(super) fn write_ballast(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| found.len() == BALLAST_BYTES as u64) {
        return Ok(());
    }
    let written = File::create(path).and_then(|mut file| file.write_all(&vec![0xa4; BALLAST_BYTES]));
    if written.is_err() {
        let _absent = fs::remove_file(path);
    }
    written
}

fn lock(parent: &Path, spool: SpoolId) -> io::Result<Option<Locked>> {
    let path = parent.join(spool.0.to_string());
    let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Locked { spool, path, lock })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
