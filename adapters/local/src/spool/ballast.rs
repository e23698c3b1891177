//! Bytes that take up room until a close needs it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

pub(super) struct Ballast {
    path: PathBuf,
    size: usize,
    /// Deleted to make room, and not written again yet.
    is_spent: bool,
}

impl Ballast {
    pub(super) fn in_directory(directory: &Path, size: usize) -> Self {
        Self { path: directory.join("ballast"), size, is_spent: false }
    }

    /// Real bytes, so that deleting them makes room on every file system; not zeros, so that none stores them as a hole.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|found| found.len() == self.size as u64) {
            self.is_spent = false;
            return Ok(());
        }
        let written = File::create(&self.path).and_then(|mut file| file.write_all(&vec![0xa4; self.size]));
        if written.is_err() {
            let _absent = fs::remove_file(&self.path);
        } else {
            self.is_spent = false;
        }
        written
    }

    pub(super) fn write_again(&mut self) -> io::Result<()> {
        if self.is_spent { self.write() } else { Ok(()) }
    }

    pub(super) fn delete(&mut self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        self.is_spent = true;
        Ok(())
    }
}
