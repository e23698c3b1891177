//! One spool directory as the journal and the drainer share it.

use std::{
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ai4free_ports::usage_ledger::{SpoolId, UsageEvent};
use tokio::sync::watch;

use super::{
    directory,
    reader::{self, Cursor},
    record::Closed,
    state::State,
};

pub(crate) struct Spool {
    state: Mutex<State>,
    cursor: Arc<Mutex<Cursor>>,
    progress: watch::Sender<Progress>,
    /// Nobody writes to it any more: it is drained and then deleted.
    is_adopted: bool,
    /// Held until the process ends.
    _lock: File,
}

/// So few requests are decoded at once, in some microseconds; more would hold up the reactor.
const DECODED_IN_PLACE: usize = 8;

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
        Self { state: Mutex::new(state), cursor: Arc::default(), progress, is_adopted, _lock: lock }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> SpoolId {
        self.state().log.spool
    }

    /// Aligns the numbering with the ledger's, which has `acknowledged` events of this spool. May block on the disk.
    pub(crate) fn stand_at(&self, acknowledged: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.can_go_on_from(acknowledged) {
            state.confirm()?;
            state.acknowledge(acknowledged);
        } else {
            tracing::warn!(spool = %state.log.spool.0, ledger = acknowledged, kept_from = state.log.first(), next = state.log.next,
                "the ledger and the usage journal count differently: all events that are kept are sent again");
            state.renumber(acknowledged)?;
        }
        drop(state);
        self.publish(acknowledged);
        Ok(())
    }

    pub(crate) fn renumber(&self, from: u64) -> io::Result<()> {
        self.state().renumber(from)?;
        self.publish(from);
        Ok(())
    }

    pub(crate) fn acknowledge(&self, to: u64) {
        self.state().acknowledge(to);
        self.publish(to);
    }

    /// Another process has taken the spool over.
    pub(crate) fn fence(&self) {
        self.state().fenced = true;
        self.progress.send_modify(|progress| progress.is_over = true);
    }

    /// What follows what the ledger has: at most `limit` events, of whole requests unless a single one has more.
    pub(crate) async fn next(&self, limit: u64) -> io::Result<Next> {
        let (from, in_memory, segments) = {
            let state = self.state();
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

    /// Deletes what is no longer needed. Whether the whole spool is gone. Blocks on the disk.
    pub(crate) fn prune(&self, retention: Duration) -> io::Result<bool> {
        self.state().write_unwritten();
        while self.state().prune(retention, self.is_adopted)? {} // one at a time: requests want the lock too
        let state = self.state();
        let is_empty = self.is_adopted && state.log.segments.is_empty() && !state.fenced;
        if is_empty {
            directory::remove(&state.log.directory)?;
            self.progress.send_modify(|progress| progress.is_over = true);
        } else if state.unwritten.is_empty() && !self.is_adopted && state.refused_closes > 0 {
            state.ballast.write()?;
        }
        Ok(is_empty)
    }

    /// Waits until everything that has been closed by now is in the ledger, or never will be. Whether it is.
    pub(crate) async fn drained(&self) -> bool {
        let target = self.state().log.next;
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| progress.is_over || progress.acknowledged >= target).await;
        reached.is_ok_and(|progress| progress.acknowledged >= target)
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
