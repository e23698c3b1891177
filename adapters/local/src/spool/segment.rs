//! Segments: files `00000042.seg`, a header and then records.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ai4free_ports::usage_ledger::SpoolId;
use uuid::Uuid;

const MAGIC: &[u8; 8] = b"a4fspool";
const VERSION: u32 = 1;
pub(super) const HEADER: usize = 49;
const EXTENSION: &str = "seg";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) spool: SpoolId,
    /// Of the segment; the file has the same in its name.
    pub(super) number: u64,
    /// Number of the first event that it can hold.
    pub(super) first: u64,
    /// Whether the process that made it had not yet heard from the ledger where the spool stands.
    pub(super) unconfirmed: bool,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(self.spool.0.as_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.push(u8::from(self.unconfirmed));
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// `None`: not a header, or not a whole one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (checked, rest) = bytes.split_at_checked(HEADER - 4)?;
        if crc32c::crc32c(checked) != u32::from_le_bytes(*rest.first_chunk()?) {
            return None;
        }
        let (magic, rest) = checked.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (spool, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (first, rest) = rest.split_first_chunk()?;
        (magic == MAGIC && u32::from_le_bytes(*version) == VERSION).then(|| Self {
            spool: SpoolId(Uuid::from_bytes(*spool)),
            number: u64::from_le_bytes(*number),
            first: u64::from_le_bytes(*first),
            unconfirmed: rest.first() == Some(&1),
        })
    }
}

/// A segment that is kept.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// Number of the first event in it, and of the one after its last.
    pub(super) first: u64,
    pub(super) end: u64,
    /// Good bytes. There may be damage behind them.
    pub(super) length: u64,
    /// When the ledger acknowledged the last of its events, on the monotonic clock.
    pub(super) drained_at: Option<Duration>,
}

/// A segment that is being written.
pub(super) trait SegmentFile: Send {
    /// One `write(2)` at the end of the file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// The same file for a thread that waits for the disk while others go on writing.
    fn syncable(&self) -> Arc<dyn Syncable>;
}

pub(super) trait Syncable: Send + Sync {
    /// Returns once what was written before survives the loss of power.
    fn sync(&self) -> io::Result<()>;
}

/// Where segments are made: the file system, or one that fails on purpose.
pub(super) trait Volume: Send + Sync {
    /// Makes a file that was not there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
    /// Returns once the names in a directory survive the loss of power.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

pub(super) struct FileSystem;

impl Volume for FileSystem {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = File::options().create_new(true).append(true).open(path)?;
        Ok(Box::new(Arc::new(file)))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl SegmentFile for Arc<File> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match Write::write(&mut &**self, bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn syncable(&self) -> Arc<dyn Syncable> {
        self.clone()
    }
}

impl Syncable for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

pub(super) fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:08}.{EXTENSION}"))
}

/// The segments of a directory by number, in order.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == EXTENSION)) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}
