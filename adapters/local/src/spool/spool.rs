//! One spool directory as the journal and the drainer share it.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    budget::Epoch,
    error::JournalError,
    request::RequestId,
    usage_journal::Fate,
    usage_ledger::{SpoolId, UsageEvent},
};
use tokio::sync::{OwnedMutexGuard, watch};

use super::{
    directory, fates,
    reader::{self, Cursor},
    record::Closed,
    state::{Pruned, SpoolFigures, State},
    turnstile::Turnstile,
};

pub(crate) struct Spool {
    id: SpoolId,
    state: Turnstile,
    /// Held by who makes it safe against the loss of power: one at a time, for all who wait.
    syncing: Arc<tokio::sync::Mutex<()>>,
    cursor: Arc<Mutex<Cursor>>,
    progress: watch::Sender<Progress>,
    /// In which this process holds it, once the ledger has said so.
    generation: OnceLock<i64>,
    has_holders_closed: AtomicBool,
    is_fenced: AtomicBool,
    /// Nobody writes to it any more: it is drained and then deleted.
    is_adopted: bool,
    /// Held until it is deleted, or the process ends.
    _lock: File,
}

/// So few requests are decoded at once, in some microseconds; more would hold up the reactor.
const DECODED_IN_PLACE: usize = 8;
/// A disk that needs longer for a sync is as good as away.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// How far the ledger has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    acknowledged: u64,
    /// Nothing more will come.
    is_over: bool,
}

/// What the drainer finds to do.
pub(crate) enum Next {
    Nothing,
    /// The number of the first one, and the events of whole requests.
    Events(u64, Vec<UsageEvent>),
    /// Events that should be there are not.
    Missing(u64),
}

impl Spool {
    pub(super) fn new(state: State, is_adopted: bool, lock: File) -> Self {
        let progress = watch::Sender::new(Progress { acknowledged: state.acknowledged, is_over: false });
        Self {
            id: state.log.spool,
            state: Turnstile::new(state),
            syncing: Arc::default(),
            cursor: Arc::default(),
            progress,
            generation: OnceLock::new(),
            has_holders_closed: AtomicBool::new(false),
            is_fenced: AtomicBool::new(false),
            is_adopted,
            _lock: lock,
        }
    }

    pub(crate) fn id(&self) -> SpoolId {
        self.id
    }

    pub(crate) fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    pub(crate) fn generation(&self) -> Option<i64> {
        self.generation.get().copied()
    }

    /// The generation in which it is held, from the first time on.
    pub(crate) fn attached(&self, generation: i64) -> i64 {
        *self.generation.get_or_init(|| generation)
    }

    /// Whether earlier lives of it may still count as spending, although everything that they left has been written.
    pub(crate) async fn needs_holders_closed(&self) -> bool {
        !self.has_holders_closed.load(Ordering::Relaxed) && self.state.pass().await.unwritten.is_empty()
    }

    pub(crate) fn holders_closed(&self) {
        self.has_holders_closed.store(true, Ordering::Relaxed);
    }

    /// The earliest epoch of the shared limiter that an open request holds money of.
    pub(crate) async fn lowest_open_epoch(&self) -> Option<Epoch> {
        self.state.pass().await.lowest_open_epoch()
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed)
    }

    /// What requests pass through: it never makes them wait for long.
    pub(super) fn turnstile(&self) -> &Turnstile {
        &self.state
    }

    /// Aligns the numbering with the ledger's, which has `acknowledged` events of this spool. May block on the disk.
    pub(crate) fn stand_at(&self, acknowledged: u64) -> io::Result<()> {
        let mut state = self.state.wait();
        if state.can_go_on_from(acknowledged) {
            state.confirm()?;
            state.acknowledge(acknowledged);
        } else {
            tracing::warn!(spool = %self.id.0, ledger = acknowledged, kept_from = state.log.first(), next = state.log.next,
                "the ledger and the usage journal count differently: all events that are kept are sent again");
            state.renumber(acknowledged)?;
        }
        drop(state);
        self.publish(acknowledged);
        Ok(())
    }

    pub(crate) fn renumber(&self, from: u64) -> io::Result<()> {
        self.state.wait().renumber(from)?;
        self.publish(from);
        Ok(())
    }

    pub(crate) async fn acknowledge(&self, to: u64) {
        self.state.pass().await.acknowledge(to);
        self.publish(to);
    }

    /// Another process has taken the spool over.
    pub(crate) async fn fence(&self) {
        self.is_fenced.store(true, Ordering::Relaxed);
        self.state.pass().await.fenced = true;
        self.progress.send_modify(|progress| progress.is_over = true);
    }

    /// What follows what the ledger has: at most `limit` events, of whole requests unless a single one has more.
    pub(crate) async fn next(&self, limit: u64) -> io::Result<Next> {
        let (from, in_memory, segments) = {
            let state = self.state.pass().await;
            let from = state.acknowledged;
            if from >= state.log.next {
                return Ok(Next::Nothing);
            }
            let in_memory = state.tail.batch(from, limit);
            let segments =
                if in_memory.is_some() { Vec::new() } else { state.log.segments.iter().cloned().collect::<Vec<_>>() };
            (from, in_memory, segments)
        };
        if let Some(batch) = in_memory.as_ref().filter(|batch| batch.len() <= DECODED_IN_PLACE) {
            return decode(batch, from, limit);
        }
        let cursor = self.cursor.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let batch = match in_memory {
                Some(batch) => batch,
                None => {
                    let mut cursor = cursor.lock().unwrap_or_else(PoisonError::into_inner);
                    reader::read(&segments, &mut cursor, from, limit)?
                }
            };
            decode(&batch, from, limit)
        });
        reading.await.map_err(io::Error::other)?
    }

    /// Writes what could not be written, and deletes what is no longer needed. Whether the whole spool is gone. Blocks on the
    /// disk.
    pub(crate) fn tidy(&self, retention: Duration) -> io::Result<bool> {
        self.write_unwritten();
        self.state.wait().probe();
        loop {
            let pruned = self.state.wait().prune(retention, self.is_adopted)?; // requests want the lock in between
            match pruned {
                Pruned::Nothing => break,
                Pruned::Deleted => {}
                Pruned::Unsynced => self.sync(&self.syncing.clone().blocking_lock_owned())?,
            }
        }
        let mut state = self.state.wait();
        let is_empty = self.is_adopted && state.log.segments.is_empty() && !state.fenced;
        if is_empty {
            directory::remove(&state.log.directory)?;
            self.progress.send_modify(|progress| progress.is_over = true);
        } else if !self.is_adopted && !state.is_refusing() {
            state.ballast.write_again()?;
        }
        Ok(is_empty)
    }

    /// Tries again what the disk refused. Blocks on the disk.
    pub(crate) fn write_unwritten(&self) {
        self.state.wait().write_unwritten();
    }

    /// What is known of requests of processes that are gone.
    pub(super) async fn fates(&self, requests: HashSet<RequestId>) -> io::Result<HashMap<RequestId, Fate>> {
        let (directory, segments, last_number) = {
            let state = self.state.pass().await;
            let segments: Vec<_> = state.log.segments.iter().cloned().collect();
            (state.log.directory.clone(), segments, state.log.last_number)
        };
        let reading = tokio::task::spawn_blocking(move || fates::read(&directory, &segments, last_number, requests));
        reading.await.map_err(io::Error::other)?
    }

    /// Waits until everything that has been closed by now is in the ledger, or never will be. Whether it is.
    pub(crate) async fn drained(&self) -> bool {
        let target = self.state.pass().await.log.next;
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| progress.is_over || progress.acknowledged >= target).await;
        reached.is_ok_and(|progress| progress.acknowledged >= target)
    }

    /// Returns once a request that was opened would survive the loss of power.
    pub(super) async fn safe(self: &Arc<Self>, request: RequestId) -> Result<(), JournalError> {
        let safe = async {
            loop {
                if let Some(result) = self.is_safe(request).await {
                    return result;
                }
                let turn = self.syncing.clone().lock_owned().await;
                if let Some(result) = self.is_safe(request).await {
                    return result; // who had the turn before has done it for us
                }
                if let Err(error) = self.sync_in_turn(turn).await {
                    tracing::error!(%error, "the usage journal can't be made safe against the loss of power");
                }
            }
        };
        let in_time = tokio::time::timeout(SYNC_PATIENCE, safe).await;
        in_time.unwrap_or_else(|late| Err(JournalError::Io(late.into())))
    }

    /// Makes everything that was written by now safe against the loss of power.
    pub(crate) async fn sync_all(self: &Arc<Self>) -> io::Result<()> {
        let turn = self.syncing.clone().lock_owned().await;
        self.sync_in_turn(turn).await
    }

    /// What is to be told of it, without waiting for the disk.
    pub(crate) fn figures(&self) -> SpoolFigures {
        let known = self.state.figures();
        SpoolFigures {
            unwritten_closes: known.unwritten_closes.saturating_add(self.state.waiting_closes()),
            is_refusing: known.is_refusing || self.state.is_stalled(),
            ..known
        }
    }

    async fn is_safe(&self, request: RequestId) -> Option<Result<(), JournalError>> {
        self.state.pass().await.is_safe(request)
    }

    /// The turn goes with the work: a caller that is dropped must not let another begin before this has ended.
    async fn sync_in_turn(self: &Arc<Self>, turn: OwnedMutexGuard<()>) -> io::Result<()> {
        let spool = self.clone();
        tokio::task::spawn_blocking(move || spool.sync(&turn)).await.map_err(io::Error::other)?
    }

    fn sync(&self, _turn: &OwnedMutexGuard<()>) -> io::Result<()> {
        let (volume, (unsynced, written)) = {
            let mut state = self.state.wait();
            if state.log.synced == state.log.written {
                return Ok(());
            }
            (state.log.volume.clone(), state.log.take_unsynced())
        };
        let synced = unsynced.sync(&*volume);
        self.state.wait().synced(written, synced.is_ok());
        synced
    }

    fn publish(&self, acknowledged: u64) {
        self.progress.send_modify(|progress| progress.acknowledged = acknowledged);
    }
}

fn decode(batch: &[Closed], from: u64, limit: u64) -> io::Result<Next> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut events = Vec::new();
    for closed in batch {
        let skipped = usize::try_from(from.saturating_sub(closed.from)).unwrap_or(usize::MAX);
        events.extend(closed.decode().map_err(io::Error::other)?.into_iter().skip(skipped));
    }
    events.truncate(limit);
    Ok(if events.is_empty() { Next::Missing(from) } else { Next::Events(from, events) })
}
