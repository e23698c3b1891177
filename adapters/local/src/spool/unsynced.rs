//! What power loss would take.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::segment::{Syncable, Volume};

/// What a journal survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process: `write(2)`.
    #[default]
    ProcessSafe,
    /// The loss of power as well: `fdatasync(2)` before a provider is called, one for all who wait.
    PowerSafe,
}

/// Files that have been written to since the last sync. Taken as a whole by who syncs them.
#[derive(Default)]
pub(super) struct Unsynced {
    files: Vec<Arc<dyn Syncable>>,
    /// The directory, when it has files that it had not at the last sync.
    directory: Option<PathBuf>,
}

impl Unsynced {
    pub(super) fn file(&mut self, file: Arc<dyn Syncable>) {
        self.files.push(file);
    }

    pub(super) fn directory(&mut self, path: &Path) {
        self.directory.get_or_insert_with(|| path.to_owned());
    }

    /// Blocks on the disk.
    pub(super) fn sync(self, volume: &dyn Volume) -> io::Result<()> {
        for file in self.files {
            file.sync()?;
        }
        // After the files: a name is of no use before what it stands for.
        self.directory.map_or(Ok(()), |path| volume.sync_directory(&path))
    }
}
