//! The only road from the journal to the ledger.

use std::{io, sync::Arc, time::Duration};

use ai4free_ports::{
    error::StoreError,
    usage_ledger::{Appended, Batch, UsageLedger},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::spool::{Next, Spool};

/// The most that a ledger takes at once.
const BATCH: u64 = 500;
/// How long closes are collected before they are sent together.
const COALESCE: Duration = Duration::from_millis(20);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);
/// After this the ledger is taken to be unreachable; the batch is sent again.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(10);
const HOUSEKEEPING: Duration = Duration::from_secs(15);
/// What a shutdown leaves for the last events.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Wakes the drainer.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    closed: Notify,
    hurry: Notify,
}

impl Wake {
    /// Something was closed.
    pub(crate) fn notify(&self) {
        self.closed.notify_one();
    }

    /// Somebody is waiting for it.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }
}

/// Brings closed events to the ledger, in order and in whole requests, however often it has to try.
///
/// A clone can be run again after a panic: everything it needs to know is in the journal and in the ledger.
#[derive(Clone)]
pub struct Drainer {
    spools: Arc<[Arc<Spool>]>,
    wake: Arc<Wake>,
    retention: Duration,
}

impl Drainer {
    pub(crate) fn new(spools: Arc<[Arc<Spool>]>, wake: Arc<Wake>, retention: Duration) -> Self {
        Self { spools, wake, retention }
    }

    /// Ends after `shutdown`, when the ledger has everything or has been unreachable for 10 s.
    pub async fn run(self, ledger: Arc<dyn UsageLedger>, shutdown: CancellationToken) {
        let mut sources: Vec<Source> = self.spools.iter().cloned().map(Source::new).collect();
        shutdown.run_until_cancelled(self.drain_for_ever(&mut sources, &*ledger)).await;
        let last = self.drain_with_retries(&mut sources, &*ledger);
        if tokio::time::timeout(SHUTDOWN_PATIENCE, last).await.is_err() {
            tracing::warn!("the ledger does not answer: usage stays in the journal for the next start");
        }
    }

    async fn drain_for_ever(&self, sources: &mut Vec<Source>, ledger: &dyn UsageLedger) {
        loop {
            self.drain_with_retries(sources, ledger).await;
            tokio::select! {
                () = self.wake.hurry.notified() => continue,
                () = self.wake.closed.notified() => {}
                () = tokio::time::sleep(HOUSEKEEPING) => continue,
            }
            tokio::select! {
                () = self.wake.hurry.notified() => {}
                () = tokio::time::sleep(COALESCE) => {}
            }
        }
    }

    /// Returns when the ledger has everything.
    async fn drain_with_retries(&self, sources: &mut Vec<Source>, ledger: &dyn UsageLedger) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let drained = drain_all(sources, ledger).await;
            self.prune(sources).await;
            let Err(error) = drained else { return };
            if backoff == FIRST_BACKOFF {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "usage can't be brought to the ledger, trying again"
                );
            }
            tokio::time::sleep(backoff).await;
            backoff = LAST_BACKOFF.min(backoff.saturating_mul(2));
        }
    }

    /// Deletes what the ledger has had for long enough, and forgets spools of which nothing is left.
    async fn prune(&self, sources: &mut Vec<Source>) {
        let mut kept = Vec::with_capacity(sources.len());
        for source in sources.drain(..) {
            let retention = self.retention;
            match blocking(&source.spool, move |spool| spool.prune(retention)).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "can't tidy up the usage journal"),
            }
            kept.push(source);
        }
        *sources = kept;
    }
}

/// A spool and the right to append for it.
struct Source {
    spool: Arc<Spool>,
    /// `None`: not attached yet.
    generation: Option<i64>,
    is_fenced: bool,
}

#[derive(Debug, thiserror::Error)]
enum DrainError {
    #[error("the ledger failed")]
    Ledger(#[from] StoreError),
    #[error("the ledger did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the journal can't be read")]
    Journal(#[from] io::Error),
}

impl Source {
    fn new(spool: Arc<Spool>) -> Self {
        Self { spool, generation: None, is_fenced: false }
    }

    async fn drain(&mut self, ledger: &dyn UsageLedger) -> Result<(), DrainError> {
        let id = self.spool.id();
        while !self.is_fenced {
            let generation = self.attach(ledger).await?;
            let (from, events) = match self.spool.next(BATCH).await? {
                Next::Nothing => break,
                Next::Events(from, events) => (from, events),
                Next::Missing(from) => {
                    blocking(&self.spool, move |spool| spool.renumber(from)).await?;
                    return Err(DrainError::Journal(io::Error::other("events are missing from the journal")));
                }
            };
            let batch = Batch { spool: id, generation, from, events };
            match tokio::time::timeout(LEDGER_TIMEOUT, ledger.append(&batch)).await?? {
                Appended::Acknowledged(to) => self.spool.acknowledge(to),
                Appended::StandsAt(at) if at == from => {
                    return Err(DrainError::Journal(io::Error::other("the ledger refuses the batch that it asks for")));
                }
                Appended::StandsAt(at) => blocking(&self.spool, move |spool| spool.stand_at(at)).await?,
                Appended::Fenced => {
                    tracing::error!(spool = %id.0, "another process has taken this usage journal over");
                    self.spool.fence();
                    self.is_fenced = true;
                }
            }
        }
        Ok(())
    }

    async fn attach(&mut self, ledger: &dyn UsageLedger) -> Result<i64, DrainError> {
        if let Some(generation) = self.generation {
            return Ok(generation);
        }
        let attachment = tokio::time::timeout(LEDGER_TIMEOUT, ledger.attach(self.spool.id())).await??;
        blocking(&self.spool, move |spool| spool.stand_at(attachment.acknowledged)).await?;
        self.generation = Some(attachment.generation);
        Ok(attachment.generation)
    }
}

/// One failing spool does not hold up the others; the first error is returned.
async fn drain_all(sources: &mut [Source], ledger: &dyn UsageLedger) -> Result<(), DrainError> {
    let mut first = Ok(());
    for source in sources {
        let drained = source.drain(ledger).await;
        first = first.and(drained);
    }
    first
}

async fn blocking<T: Send + 'static>(
    spool: &Arc<Spool>,
    work: impl FnOnce(&Spool) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let spool = spool.clone();
    tokio::task::spawn_blocking(move || work(&spool)).await.map_err(io::Error::other)?
}
