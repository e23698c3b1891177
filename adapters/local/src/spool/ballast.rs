//! Bytes that take up room until a close needs it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

pub(super) struct Ballast {
    path: PathBuf,
    size: usize,
}

impl Ballast {
    pub(super) fn in_directory(directory: &Path, size: usize) -> Self {
        Self { path: directory.join("ballast"), size }
    }

    /// Real bytes, so that deleting them makes room on every file system; not zeros, so that none stores them as a hole.
    pub(super) fn write(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|found| found.len() == self.size as u64) {
            return Ok(());
        }
        let written = File::create(&self.path).and_then(|mut file| file.write_all(&vec![0xa4; self.size]));
        if written.is_err() {
            let _absent = self.delete();
        }
        written
    }

    pub(super) fn delete(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}
