//! Everything of one spool that its lock guards: what the files hold, what is open, and what the ledger has.

use std::{collections::HashMap, io, sync::atomic::Ordering, time::Duration};

use ai4free_ports::{error::JournalError, request::RequestId, usage_journal::Checkpoint, usage_ledger::UsageEvent};

use super::{
    ballast::Ballast,
    log::Log,
    record::{self, Intent},
    recovery,
    tail::Tail,
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
}

pub(super) struct Opened {
    segment: u64,
    intent: Intent,
}

pub(super) struct Unwritten {
    /// Where the request was opened: until its close is written, that is all that the disk knows of it.
    opened_in: u64,
    request: RequestId,
    frame: Vec<u8>,
    count: u64,
}

impl State {
    pub(super) fn open(&mut self, frame: &[u8], bound: &UsageEvent) -> Result<(), JournalError> {
        if self.fenced {
            return Err(JournalError::Io("another process has taken this journal over".into()));
        }
        self.write_unwritten();
        if !self.unwritten.is_empty() || self.used_with(1) > self.capacity {
            return Err(JournalError::Full);
        }
        self.log.append(frame).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                JournalError::Full
            }
            _ => JournalError::Io(error.into()),
        })?;
        let intent = Intent { bound: bound.clone(), checkpoint: None };
        self.open.insert(bound.request, Opened { segment: self.log.current_segment(), intent });
        Ok(())
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
    pub(super) fn close_lost(&mut self, left_open: Vec<Intent>) {
        let opened_in = self.log.segments.front().map_or(0, |oldest| oldest.number);
        for intent in left_open {
            let event = intent.clone().lost();
            let request = event.request;
            tracing::warn!(%request, source = ?event.usage_source, "a request was lost with its process: it is charged");
            self.open.insert(request, Opened { segment: opened_in, intent });
            self.close(record::close_frame(request, &[event]), request, 1);
        }
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
    /// is short. Requests that are still open in it are copied to the newest. Whether it was deleted.
    pub(super) fn prune(&mut self, retention: Duration, is_retiring: bool) -> io::Result<bool> {
        let now = self.log.clock.monotonic();
        self.note_drained(now);
        let Some(oldest) = self.log.segments.front() else { return Ok(false) };
        let number = oldest.number;
        let is_short = !self.unwritten.is_empty() || self.log.used.load(Ordering::Relaxed) > self.capacity / 2;
        let has_aged = oldest.drained_at.is_some_and(|at| is_short || now.saturating_sub(at) >= retention);
        let is_last = self.log.segments.len() == 1;
        let is_needed = self.unwritten.iter().any(|close| close.opened_in == number);
        if !has_aged || is_needed || is_last && !(is_retiring && self.open.is_empty()) {
            return Ok(false);
        }
        self.copy_open(|opened| opened.segment == number)?;
        self.log.remove_first()?;
        Ok(true)
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
            self.log.append(&record::copy_frame(&opened.intent))?;
            opened.segment = self.log.current_segment();
        }
        Ok(())
    }
}
