//! Everything of one spool that its lock guards: what the files hold, what is open, and what the ledger has.

use std::{collections::HashMap, io, sync::atomic::Ordering, time::Duration};

use ai4free_ports::{
    budget::{Epoch, Holder},
    error::JournalError,
    request::RequestId,
    usage_journal::Checkpoint,
    usage_ledger::UsageEvent,
};

use super::{
    ballast::Ballast,
    log::Log,
    record::{self, Intent},
    recovery,
    tail::Tail,
    unsynced::Durability,
};

/// What is kept free for the close of each open request.
const CLOSE_ROOM: u64 = 1024;

pub(super) struct State {
    pub(super) log: Log,
    /// Requests that a provider may be working on, and the segment that says so.
    pub(super) open: HashMap<RequestId, Opened>,
    /// Closes that the disk refused, without a number yet.
    pub(super) unwritten: Vec<Unwritten>,
    pub(super) tail: Tail,
    /// How many events the ledger has. Until it has been asked: the number of the oldest that is kept.
    pub(super) acknowledged: u64,
    /// Since when there has been anything that the ledger does not have.
    pub(super) undrained_since: Option<Duration>,
    pub(super) unconfirmed_from: Option<u64>,
    pub(super) fenced: bool,
    pub(super) capacity: u64,
    /// Deleted when a close finds the disk full.
    pub(super) ballast: Ballast,
    /// Closes that found no room on the disk, ever.
    pub(super) refused_closes: u64,
    /// Whether the disk refused the last request.
    pub(super) is_in_trouble: bool,
    /// Until so many records are safe, no segment is deleted: what is still open in them was copied.
    pub(super) copied: u64,
}

pub(super) struct Opened {
    segment: u64,
    intent: Intent,
    /// How many records there were with the newest that declares it.
    written: u64,
    /// The sync failed that should have made that record safe.
    is_unsafe: bool,
}

pub(super) struct Unwritten {
    /// Where the request was opened: until its close is written, that is all that the disk knows of it.
    opened_in: u64,
    request: RequestId,
    frame: Vec<u8>,
    count: u64,
}

/// What is to be told of one spool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpoolFigures {
    pub(super) open_requests: u64,
    pub(super) undrained_events: u64,
    pub(super) undrained_since: Option<Duration>,
    pub(super) refused_closes: u64,
    pub(crate) unwritten_closes: u64,
    pub(crate) is_refusing: bool,
    pub(super) is_fenced: bool,
}

/// What came of tidying up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pruned {
    Nothing,
    Deleted,
    /// Something can be deleted after a sync.
    Unsynced,
}

impl State {
    pub(super) fn open(&mut self, frame: &[u8], bound: &UsageEvent) -> Result<(), JournalError> {
        if self.fenced {
            return Err(JournalError::Fenced);
        }
        self.write_unwritten();
        if !self.unwritten.is_empty() || self.used_with(1) > self.capacity {
            return Err(JournalError::Full);
        }
        let written = match self.log.append(frame) {
            Err(error) if matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::WriteZero) => {
                self.log.append(frame) // in another segment
            }
            written => written,
        };
        self.is_in_trouble = written.is_err();
        written.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::WriteZero => JournalError::Full,
            _ => JournalError::Io(error.into()),
        })?;
        let intent = Intent { bound: bound.clone(), checkpoint: None };
        let (segment, written) = (self.log.current_segment(), self.log.written);
        self.open.insert(bound.request, Opened { segment, intent, written, is_unsafe: false });
        Ok(())
    }

    /// Whether a request that was opened would survive the loss of power. `None`: not yet.
    pub(super) fn is_safe(&self, request: RequestId) -> Option<Result<(), JournalError>> {
        match self.open.get(&request) {
            Some(opened) if opened.is_unsafe => {
                Some(Err(JournalError::Io("the disk could not make the request safe against the loss of power".into())))
            }
            Some(opened) => (opened.written <= self.log.synced).then_some(Ok(())),
            None => Some(Ok(())), // it has ended
        }
    }

    /// A sync of everything up to so many records has ended.
    pub(super) fn synced(&mut self, written: u64, is_safe: bool) {
        let before = self.log.synced;
        self.log.synced = before.max(written);
        if is_safe {
            return;
        }
        // The kernel does not try these pages again, and the next sync of the same file may succeed without them.
        self.log.seal(false);
        let oldest = self.log.segments.front().map_or(0, |segment| segment.number);
        for opened in self.open.values_mut().filter(|opened| opened.written > before && opened.written <= written) {
            opened.is_unsafe = true;
            opened.segment = oldest; // that has to be copied again before a segment is deleted
        }
    }

    pub(super) fn checkpoint(&mut self, frame: &[u8], checkpoint: &Checkpoint) {
        let room = self.used_with(0) <= self.capacity;
        if let Some(opened) = self.open.get_mut(&checkpoint.request) {
            opened.intent.checkpoint = Some(*checkpoint);
            if room {
                let _best_effort = self.log.append(frame);
            }
        }
    }

    /// Whether the request was open.
    pub(super) fn close(&mut self, frame: Vec<u8>, request: RequestId, count: u64) -> bool {
        let Some(opened) = self.open.remove(&request) else { return false };
        self.write_unwritten();
        if let Some(refused) = self.write_at_all_costs(Unwritten { opened_in: opened.segment, request, frame, count }) {
            self.refused_closes = self.refused_closes.saturating_add(1);
            tracing::error!(%request, "the disk refuses the usage of a request: it is kept in memory");
            self.unwritten.push(refused);
        }
        true
    }

    /// Closes what another process has left open, as far as it is known.
    pub(super) fn lowest_open_epoch(&self) -> Option<Epoch> {
        let spending = self.open.values().flat_map(|opened| &opened.intent.bound.spending);
        let epochs = spending.filter_map(|spending| match spending.holder {
            Holder::Shared(epoch) => Some(epoch),
            Holder::Process { .. } => None,
        });
        epochs.min()
    }

    pub(super) fn close_lost(&mut self, left_open: Vec<Intent>) {
        let opened_in = self.log.segments.front().map_or(0, |oldest| oldest.number);
        for intent in left_open {
            let event = intent.clone().lost();
            let request = event.request;
            tracing::warn!(%request, source = ?event.usage_source, "a request was lost with its process: it is charged");
            self.open.insert(request, Opened { segment: opened_in, intent, written: 0, is_unsafe: false });
            self.close(record::close_frame(request, &[event]), request, 1);
        }
    }

    /// Asks a disk that refused the last request whether it would take one now: nobody may come to find out while we say
    /// that we can't serve.
    pub(super) fn probe(&mut self) {
        if self.is_in_trouble {
            self.is_in_trouble = self.log.append(&record::blank_frame()).is_err();
        }
    }

    pub(super) fn figures(&self) -> SpoolFigures {
        SpoolFigures {
            open_requests: self.open.len() as u64,
            undrained_events: self.log.next.saturating_sub(self.acknowledged),
            undrained_since: self.undrained_since,
            refused_closes: self.refused_closes,
            unwritten_closes: self.unwritten.len() as u64,
            is_refusing: self.is_refusing(),
            is_fenced: self.fenced,
        }
    }

    /// Why no request can be opened now.
    pub(super) fn is_refusing(&self) -> bool {
        self.fenced || self.is_in_trouble || !self.unwritten.is_empty() || self.used_with(1) > self.capacity
    }

    /// Tries again what the disk refused, in order.
    pub(super) fn write_unwritten(&mut self) {
        let mut waiting = std::mem::take(&mut self.unwritten).into_iter();
        while let Some(close) = waiting.next() {
            if let Err((refused, _)) = self.write(close) {
                self.unwritten.push(refused);
                self.unwritten.extend(waiting);
                return;
            }
        }
    }

    /// Deletes the oldest segment if the ledger has had it for so long that it will not lose it again, or at once when space
    /// is short. Requests that are still open in it are copied to the newest.
    pub(super) fn prune(&mut self, retention: Duration, is_retiring: bool) -> io::Result<Pruned> {
        let now = self.log.clock.monotonic();
        self.note_drained(now);
        let Some(oldest) = self.log.segments.front() else { return Ok(Pruned::Nothing) };
        let number = oldest.number;
        let is_short = self.is_in_trouble
            || !self.unwritten.is_empty()
            || self.log.used.load(Ordering::Relaxed) > self.capacity / 2;
        let has_aged = oldest.drained_at.is_some_and(|at| is_short || now.saturating_sub(at) >= retention);
        let is_last = self.log.segments.len() == 1;
        let is_needed = self.unwritten.iter().any(|close| close.opened_in == number);
        if !has_aged || is_needed || is_last && !(is_retiring && self.open.is_empty()) {
            return Ok(Pruned::Nothing);
        }
        self.copy_open(|opened| opened.segment == number)?;
        if self.log.durability == Durability::PowerSafe && self.copied > self.log.synced {
            return Ok(Pruned::Unsynced);
        }
        self.log.remove_first()?;
        Ok(Pruned::Deleted)
    }

    /// The ledger has all events before `to`.
    pub(super) fn acknowledge(&mut self, to: u64) {
        let now = self.log.clock.monotonic();
        self.acknowledged = to;
        for segment in self.log.segments.iter_mut().filter(|segment| segment.end > to) {
            segment.drained_at = None; // it had them, and has lost them again
        }
        self.note_drained(now);
        self.tail.forget_until(to);
        self.undrained_since =
            if to >= self.log.next { None } else { self.tail.oldest().or(self.undrained_since).or(Some(now)) };
    }

    /// Whether the ledger can go on from a number, as far as our numbering tells.
    pub(super) fn can_go_on_from(&self, number: u64) -> bool {
        self.log.is_contiguous()
            && (self.log.first()..=self.log.next).contains(&number)
            && self.unconfirmed_from.is_none_or(|from| number <= from)
    }

    /// From now on the ledger's number is known to be ours: a process after this one need not doubt what we write.
    pub(super) fn confirm(&mut self) -> io::Result<()> {
        if self.unconfirmed_from.is_some() && !self.log.segments.is_empty() {
            self.log.append(&record::attached_frame())?;
        }
        self.log.unconfirmed = false;
        self.unconfirmed_from = None;
        Ok(())
    }

    /// Gives all closes that are kept new numbers, from the one at which the ledger stands: what it has already it
    /// recognises by the events' own identity. Needed when the disk lost a tail that the ledger has (power failure), when
    /// the ledger lost more than is kept here, and after damage.
    pub(super) fn renumber(&mut self, from: u64) -> io::Result<()> {
        let old = self.log.segments.len();
        let closes = recovery::closes(self.log.segments.make_contiguous())?;
        self.log.next = from;
        self.log.unconfirmed = false;
        self.log.start_segment()?;
        for closed in &closes {
            self.log.append_close(&mut record::close_frame_of(closed), closed.count)?;
        }
        self.copy_open(|_| true)?;
        let (unsynced, written) = self.log.take_unsynced();
        if let Err(error) = unsynced.sync(&*self.log.volume) {
            self.synced(written, false);
            return Err(error);
        }
        for _ in 0..old {
            self.log.remove_first()?;
        }
        self.unconfirmed_from = None;
        self.tail.clear();
        self.acknowledge(from);
        Ok(())
    }

    fn used_with(&self, more_open: u64) -> u64 {
        let open = (self.open.len() as u64).saturating_add(more_open);
        self.log.used.load(Ordering::Relaxed).saturating_add(open.saturating_mul(CLOSE_ROOM))
    }

    /// `Some`: the close, as it could not be written.
    fn write_at_all_costs(&mut self, close: Unwritten) -> Option<Unwritten> {
        if !self.unwritten.is_empty() {
            return Some(close); // in order
        }
        let (close, _) = self.write(close).err()?;
        self.log.writer = None; // perhaps it is only this file: too long, or on a bad block
        let (close, error) = self.write(close).err()?;
        if self.ballast.delete().is_err() {
            return Some(close);
        }
        tracing::error!(%error, "no room for the usage of a request: the journal's ballast was deleted");
        self.write(close).err().map(|(close, _)| close)
    }

    fn write(&mut self, mut close: Unwritten) -> Result<(), (Unwritten, io::Error)> {
        let from = match self.log.append_close(&mut close.frame, close.count) {
            Ok(from) => from,
            Err(error) => return Err((close, error)),
        };
        if close.count > 0 {
            let now = self.log.clock.monotonic();
            self.undrained_since.get_or_insert(now);
            self.tail.push(record::closed_of_frame(close.frame, from, close.request, close.count), now);
        }
        Ok(())
    }

    fn note_drained(&mut self, now: Duration) {
        let acknowledged = self.acknowledged;
        for segment in self.log.segments.iter_mut().filter(|segment| segment.end <= acknowledged) {
            segment.drained_at.get_or_insert(now);
        }
    }

    fn copy_open(&mut self, which: impl Fn(&Opened) -> bool) -> io::Result<()> {
        for opened in self.open.values_mut().filter(|opened| which(opened)) {
            let frame = record::copy_frame(&opened.intent);
            if let Err(error) = self.log.append(&frame) {
                if self.ballast.delete().is_err() {
                    return Err(error);
                }
                self.log.append(&frame)?; // what is deleted then is more
            }
            opened.segment = self.log.current_segment();
            opened.written = self.log.written;
            self.copied = self.log.written;
        }
        Ok(())
    }
}
