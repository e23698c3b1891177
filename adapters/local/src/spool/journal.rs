//! The journal as requests see it.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    error::JournalError,
    request::RequestId,
    runtime::{Clock, IdSource},
    usage_journal::{Checkpoint, UsageJournal},
    usage_ledger::{SpoolId, UsageEvent},
};
use async_trait::async_trait;

use super::{
    ballast::Ballast,
    directory::{self, Locked},
    log::Log,
    record,
    recovery::{self, Recovered},
    segment::{FileSystem, Volume},
    spool::Spool,
    state::State,
    tail::Tail,
};
use crate::drainer::{Drainer, Wake};

#[derive(Clone, Copy, Debug)]
pub struct SpoolOptions {
    /// Bytes that all segments may take; a request that would need more is not opened.
    pub capacity: u64,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// How long segments are kept after the ledger has their events, in case it loses its last commits in a failover.
    pub retention: Duration,
    /// Bytes that are kept on the disk only to be deleted when it is full, beside `capacity`.
    pub ballast_bytes: usize,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self { capacity: 1 << 30, segment_bytes: 8 << 20, retention: Duration::from_secs(600), ballast_bytes: 4 << 20 }
    }
}

/// What an operator wants to know of a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalFigures {
    /// Bytes in segments.
    pub bytes: u64,
    pub open_requests: u64,
    /// Closed events that are not in the ledger yet.
    pub undrained_events: u64,
    /// Age of the oldest of them.
    pub undrained_age: Duration,
    /// Longest write to a segment so far.
    pub slowest_write: Duration,
    /// Closes that found no room on the disk so far.
    pub refused_closes: u64,
    /// Those of them that are in memory only. More than 0 is an alarm.
    pub unwritten_closes: u64,
    /// Whether another process has taken this journal over.
    pub is_fenced: bool,
}

/// The usage journal in a directory of this machine.
pub struct SpoolJournal {
    own: Arc<Spool>,
    all: Arc<[Arc<Spool>]>,
    wake: Arc<Wake>,
    clock: Arc<dyn Clock>,
    used: Arc<AtomicU64>,
}

impl SpoolJournal {
    /// Takes over every journal in the directory whose process is gone, closes what was open in them, and goes on writing
    /// in the oldest, or in a new one. Blocks on the disk: for the start of a process.
    ///
    /// # Errors
    /// When the directory can't be read or written.
    pub fn open(
        parent: &Path,
        options: SpoolOptions,
        clock: &Arc<dyn Clock>,
        ids: &dyn IdSource,
    ) -> Result<(Arc<Self>, Drainer), JournalError> {
        Self::open_on(&(Arc::new(FileSystem) as Arc<dyn Volume>), parent, options, clock, ids)
            .map_err(|error| JournalError::Io(error.into()))
    }

    pub(super) fn open_on(
        volume: &Arc<dyn Volume>,
        parent: &Path,
        options: SpoolOptions,
        clock: &Arc<dyn Clock>,
        ids: &dyn IdSource,
    ) -> io::Result<(Arc<Self>, Drainer)> {
        let mut directories = directory::lock_all(parent)?;
        if directories.is_empty() {
            let fresh = directory::create(parent, SpoolId(ids.request_id().0))?;
            directories.extend(fresh);
        }
        let used = Arc::new(AtomicU64::new(0));
        let mut spools = Vec::new();
        for directory in directories {
            let is_adopted = !spools.is_empty();
            let path = directory.path.clone();
            match take_over(volume, directory, is_adopted, options, clock, &used) {
                Ok(spool) => spools.push(Arc::new(spool)),
                Err(error) if is_adopted => {
                    tracing::error!(%error, path = %path.display(), "can't take over the usage journal of another process");
                }
                Err(error) => return Err(error),
            }
        }
        let own = spools.first().cloned().ok_or_else(|| io::Error::other("another process took the new journal"))?;
        let (all, wake): (Arc<[_]>, _) = (spools.into(), Arc::new(Wake::default()));
        let drainer = Drainer::new(all.clone(), wake.clone(), options.retention);
        Ok((Arc::new(Self { own, all, wake, clock: clock.clone(), used }), drainer))
    }

    /// Waits until everything that was closed before is in the ledger. Whether it is.
    pub async fn flush(&self, within: Duration) -> bool {
        self.wake.hurry();
        let drained = async {
            let mut is_drained = true;
            for spool in self.all.iter() {
                is_drained &= spool.drained().await;
            }
            is_drained
        };
        tokio::time::timeout(within, drained).await.unwrap_or(false)
    }

    #[must_use]
    pub fn figures(&self) -> JournalFigures {
        let now = self.clock.monotonic();
        let mut figures = JournalFigures { bytes: self.used.load(Ordering::Relaxed), ..JournalFigures::default() };
        for spool in self.all.iter() {
            let state = spool.state();
            figures.open_requests += state.open.len() as u64;
            figures.undrained_events += state.log.next.saturating_sub(state.acknowledged);
            let age = state.undrained_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            figures.undrained_age = figures.undrained_age.max(age);
            figures.slowest_write = figures.slowest_write.max(state.log.slowest_write);
            figures.refused_closes += state.refused_closes;
            figures.unwritten_closes += state.unwritten.len() as u64;
        }
        figures.is_fenced = self.own.state().fenced;
        figures
    }
}

#[async_trait]
impl UsageJournal for SpoolJournal {
    fn open(&self, bound: &UsageEvent) -> Result<(), JournalError> {
        let frame = record::open_frame(bound);
        self.own.state().open(&frame, bound)
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) {
        let frame = record::check_frame(checkpoint);
        self.own.state().checkpoint(&frame, checkpoint);
    }

    fn close(&self, request: RequestId, events: &[UsageEvent]) {
        let frame = record::close_frame(request, events);
        let was_open = self.own.state().close(frame, request, events.len() as u64);
        if was_open {
            self.wake.notify();
        }
    }

    async fn drained(&self, within: Duration) {
        self.flush(within).await;
    }
}

/// Recovers a spool and closes what was open in it.
fn take_over(
    volume: &Arc<dyn Volume>,
    directory: Locked,
    is_adopted: bool,
    options: SpoolOptions,
    clock: &Arc<dyn Clock>,
    used: &Arc<AtomicU64>,
) -> io::Result<Spool> {
    let Locked { spool, path, lock } = directory;
    let Recovered { segments, last_number, open, next, unconfirmed_from } = recovery::recover(&path, spool)?;
    used.fetch_add(segments.iter().map(|segment| segment.length).sum(), Ordering::Relaxed);
    let ballast = Ballast::in_directory(&path, options.ballast_bytes);
    if !is_adopted && let Err(error) = ballast.write() {
        tracing::warn!(%error, "no room for the usage journal's ballast");
    }
    let log = Log {
        directory: path,
        spool,
        volume: volume.clone(),
        clock: clock.clone(),
        segment_bytes: options.segment_bytes,
        segments: segments.into(),
        writer: None,
        last_number,
        next,
        unconfirmed: true,
        used: used.clone(),
        slowest_write: Duration::ZERO,
    };
    let acknowledged = log.first();
    let undrained_since = (log.next > acknowledged).then(|| clock.monotonic());
    let mut state = State {
        log,
        open: std::collections::HashMap::new(),
        unwritten: Vec::new(),
        tail: Tail::default(),
        acknowledged,
        undrained_since,
        unconfirmed_from: Some(unconfirmed_from.unwrap_or(next).min(next)),
        fenced: false,
        capacity: options.capacity,
        ballast,
        refused_closes: 0,
    };
    state.close_lost(open);
    Ok(Spool::new(state, is_adopted, lock))
}
