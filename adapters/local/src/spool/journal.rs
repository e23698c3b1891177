//! The journal as requests see it.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ai4free_ports::{
    budget::Holder,
    error::JournalError,
    request::RequestId,
    runtime::{Clock, IdSource},
    usage_journal::{Checkpoint, Fate, UsageJournal},
    usage_ledger::{SpoolId, UsageEvent},
};
use async_trait::async_trait;

use super::{
    record,
    segment::{FileSystem, Volume},
    spools::Spools,
    turnstile::Close,
    unsynced::Durability,
    write_times::WriteTimes,
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
    pub durability: Durability,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self {
            capacity: 1 << 30,
            segment_bytes: 8 << 20,
            retention: Duration::from_secs(600),
            ballast_bytes: 4 << 20,
            durability: Durability::default(),
        }
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
    /// Closes that found no room on the disk so far.
    pub refused_closes: u64,
    /// Closes that are in memory only, because the disk is full or stalled. More than 0 is an alarm.
    pub unwritten_closes: u64,
    /// Whether a request would be refused now: the journal or its disk is full, fails or is stalled, or is not ours any more.
    pub is_refusing: bool,
    /// Whether another process has taken this journal over.
    pub is_fenced: bool,
}

/// The usage journal in a directory of this machine.
pub struct SpoolJournal {
    spools: Arc<Spools>,
    wake: Arc<Wake>,
    holder: Arc<OnceLock<Holder>>,
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
        let spools = Arc::new(Spools::open(volume.clone(), parent, options, clock.clone(), ids)?);
        let (wake, holder) = (Arc::<Wake>::default(), Arc::<OnceLock<_>>::default());
        let drainer = Drainer::new(spools.clone(), wake.clone(), holder.clone());
        Ok((Arc::new(Self { spools, wake, holder }), drainer))
    }

    /// As whom this process is granted money. Set by the drainer once the ledger has told it our generation, for good.
    #[must_use]
    pub fn holder(&self) -> Arc<OnceLock<Holder>> {
        self.holder.clone()
    }

    /// The spool that this process writes to.
    #[must_use]
    pub fn spool(&self) -> SpoolId {
        self.spools.own().id()
    }

    /// The spools of this process, which no other process writes to: first the one that it writes to itself, then those that
    /// it has taken over.
    #[must_use]
    pub fn spools(&self) -> Vec<SpoolId> {
        self.spools.all().into_iter().map(|spool| spool.id()).collect()
    }

    /// What is known of requests of earlier processes that wrote to this spool. Those that are left out have not been closed
    /// yet, because the disk refuses it: ask again. None of a spool that is not ours.
    ///
    /// # Errors
    /// When the segments can't be read, or one was deleted meanwhile: ask again.
    pub async fn fates(
        &self,
        spool: SpoolId,
        requests: HashSet<RequestId>,
    ) -> Result<HashMap<RequestId, Fate>, JournalError> {
        let Some(spool) = self.spools.all().into_iter().find(|ours| ours.id() == spool) else {
            return Ok(HashMap::new());
        };
        spool.fates(requests).await.map_err(|error| JournalError::Io(error.into()))
    }

    /// Waits until everything that was closed before is in the ledger. Whether it is.
    pub async fn flush(&self, within: Duration) -> bool {
        self.wake.hurry();
        let drained = async {
            let mut is_drained = true;
            for spool in self.spools.all() {
                is_drained &= spool.drained().await;
            }
            is_drained
        };
        tokio::time::timeout(within, drained).await.unwrap_or(false)
    }

    /// How long writes to segments have taken.
    #[must_use]
    pub fn write_times(&self) -> WriteTimes {
        self.spools.write_times()
    }

    #[must_use]
    pub fn figures(&self) -> JournalFigures {
        let now = self.spools.clock().monotonic();
        let mut figures = JournalFigures { bytes: self.spools.bytes(), ..JournalFigures::default() };
        for spool in self.spools.all() {
            let spool = spool.figures();
            figures.open_requests += spool.open_requests;
            figures.undrained_events += spool.undrained_events;
            let age = spool.undrained_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            figures.undrained_age = figures.undrained_age.max(age);
            figures.refused_closes += spool.refused_closes;
            figures.unwritten_closes += spool.unwritten_closes;
        }
        let own = self.spools.own().figures();
        JournalFigures { is_refusing: own.is_refusing, is_fenced: own.is_fenced, ..figures }
    }
}

#[async_trait]
impl UsageJournal for SpoolJournal {
    fn open(&self, bound: &UsageEvent) -> Result<(), JournalError> {
        let frame = record::open_frame(bound);
        let turnstile = self.spools.own().turnstile();
        match turnstile.try_pass() {
            Some(mut state) => state.open(&frame, bound),
            None if turnstile.is_stalled() => Err(stalled()),
            None => Err(JournalError::Busy),
        }
    }

    async fn ready(&self) -> Result<(), JournalError> {
        if self.spools.own().turnstile().ready().await { Ok(()) } else { Err(stalled()) }
    }

    async fn written(&self) {
        self.spools.own().turnstile().written().await;
    }

    async fn durable(&self, request: RequestId) -> Result<(), JournalError> {
        match self.spools.options().durability {
            Durability::ProcessSafe => Ok(()),
            Durability::PowerSafe => self.spools.own().safe(request).await,
        }
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) {
        let frame = record::check_frame(checkpoint);
        if let Some(mut state) = self.spools.own().turnstile().try_pass() {
            state.checkpoint(&frame, checkpoint);
        }
    }

    fn close(&self, request: RequestId, events: &[UsageEvent]) {
        let frame = record::close_frame(request, events);
        let was_open = self.spools.own().turnstile().close(Close { request, frame, count: events.len() as u64 });
        if was_open {
            self.wake.notify();
        }
    }

    async fn drained(&self, within: Duration) {
        self.flush(within).await;
    }
}

fn stalled() -> JournalError {
    JournalError::Io("the disk is stalled".into())
}
