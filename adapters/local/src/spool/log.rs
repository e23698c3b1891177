//! The segments of one spool as one sequence of records.

use std::{
    collections::VecDeque,
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ai4free_ports::{runtime::Clock, usage_ledger::SpoolId};

use super::{
    record,
    segment::{self, HEADER, Header, Segment, SegmentFile, Volume},
    unsynced::{Durability, Unsynced},
    write_times::WriteCounts,
};

pub(super) struct Log {
    pub(super) directory: PathBuf,
    pub(super) spool: SpoolId,
    pub(super) volume: Arc<dyn Volume>,
    pub(super) clock: Arc<dyn Clock>,
    /// A segment that would grow beyond this is followed by another.
    pub(super) segment_bytes: u64,
    /// Oldest first. The last is the one being written if there is a `writer`.
    pub(super) segments: VecDeque<Segment>,
    pub(super) writer: Option<Box<dyn SegmentFile>>,
    /// Number of the last segment that there ever was.
    pub(super) last_number: u64,
    /// Number of the next event.
    pub(super) next: u64,
    /// Whether this process does not know yet where the ledger stands.
    pub(super) unconfirmed: bool,
    /// Bytes in segments, of all spools of this process.
    pub(super) used: Arc<AtomicU64>,
    pub(super) writes: Arc<WriteCounts>,
    pub(super) durability: Durability,
    /// Records written so far.
    pub(super) written: u64,
    /// How many of them survive the loss of power. Not kept when that is not asked for.
    pub(super) synced: u64,
    pub(super) unsynced: Unsynced,
    /// Whether `unsynced` has the segment that is being written.
    pub(super) is_dirty: bool,
}

impl Log {
    /// Appends one record, so that after an error nothing of it is left or nothing follows it.
    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        let size = frame.len() as u64;
        let is_full = self
            .segments
            .back()
            .is_some_and(|last| last.length > HEADER as u64 && last.length.saturating_add(size) > self.segment_bytes);
        if self.writer.is_none() || is_full {
            self.start_segment()?;
        }
        let (Some(writer), Some(segment)) = (&mut self.writer, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment to write to"));
        };
        let started = self.clock.monotonic();
        let written = writer.write(frame);
        self.writes.took(self.clock.monotonic().saturating_sub(started));
        let error = match written {
            Ok(count) if count == frame.len() => {
                segment.length = segment.length.saturating_add(size);
                self.used.fetch_add(size, Ordering::Relaxed);
                self.written = self.written.saturating_add(1);
                if self.durability == Durability::PowerSafe && !self.is_dirty {
                    self.is_dirty = true;
                    self.unsynced.file(writer.syncable());
                }
                return Ok(());
            }
            // The disk is full, or this file has all that it may have: only another one can tell.
            Ok(_) => io::Error::new(io::ErrorKind::WriteZero, "the record was written in part"),
            Err(error) => error,
        };
        let is_torn = writer.truncate(segment.length).is_err();
        if is_torn || !is_for_want_of_space(&error) {
            // What was torn stays the last thing in this segment; and a file that is too long, or has a bad block, is not the
            // disk: the next record may fit into another.
            self.seal(is_torn);
        }
        Err(error)
    }

    /// Writes no more to the newest segment.
    pub(super) fn seal(&mut self, is_torn: bool) {
        self.writer = None;
        self.is_dirty = false;
        // An empty one is not kept: a disk that refuses every write would be littered with them.
        let empty = self.segments.pop_back_if(|last| !is_torn && last.length <= HEADER as u64);
        if let Some(segment) = empty {
            match fs::remove_file(&segment.path) {
                Ok(()) => drop(self.used.fetch_sub(segment.length, Ordering::Relaxed)),
                Err(_) => self.segments.push_back(segment),
            }
        }
    }

    /// What has to be synced now, and how many records are safe then.
    pub(super) fn take_unsynced(&mut self) -> (Unsynced, u64) {
        self.is_dirty = false;
        (std::mem::take(&mut self.unsynced), self.written)
    }

    /// Appends a close under the next number, which it returns.
    pub(super) fn append_close(&mut self, frame: &mut [u8], count: u64) -> io::Result<u64> {
        let from = self.next;
        record::number(frame, from);
        self.append(frame)?;
        self.next = from.saturating_add(count);
        if let Some(segment) = self.segments.back_mut() {
            segment.end = self.next;
        }
        Ok(from)
    }

    /// Begins a segment at the next number.
    pub(super) fn start_segment(&mut self) -> io::Result<()> {
        self.writer = None;
        self.is_dirty = false;
        let number = self.last_number.saturating_add(1);
        let path = segment::path_of(&self.directory, number);
        let header = Header { spool: self.spool, number, first: self.next, unconfirmed: self.unconfirmed }.encode();
        let mut writer = self.volume.create(&path)?;
        self.last_number = number;
        let written = writer.write(&header);
        if !matches!(written, Ok(HEADER)) {
            drop(writer);
            fs::remove_file(&path)?;
            return Err(written.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
        }
        let length = HEADER as u64;
        self.used.fetch_add(length, Ordering::Relaxed);
        self.segments.push_back(Segment { number, path, first: self.next, end: self.next, length, drained_at: None });
        self.writer = Some(writer);
        if self.durability == Durability::PowerSafe {
            self.unsynced.directory(&self.directory);
        }
        Ok(())
    }

    /// Deletes the oldest segment.
    pub(super) fn remove_first(&mut self) -> io::Result<()> {
        let Some(segment) = self.segments.front() else { return Ok(()) };
        fs::remove_file(&segment.path)?;
        self.used.fetch_sub(segment.length, Ordering::Relaxed);
        self.segments.pop_front();
        if self.segments.is_empty() {
            self.writer = None;
        }
        Ok(())
    }

    /// Number of the last segment that is kept.
    pub(super) fn current_segment(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.number)
    }

    /// Number of the oldest event that is kept.
    pub(super) fn first(&self) -> u64 {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// Whether no number is missing or twice between the first and the next.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = self.first();
        for segment in &self.segments {
            if segment.first != expected {
                return false;
            }
            expected = segment.end;
        }
        expected == self.next
    }
}

/// Whether there may be room later, for the same record in the same file.
fn is_for_want_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
