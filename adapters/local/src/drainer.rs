//! The only road from the journal to the ledger.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ai4free_ports::{
    budget::{Epoch, Holder},
    error::StoreError,
    usage_ledger::{Appended, Batch, UsageEvent, UsageLedger},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    heart::{self, Epochs},
    spool::{Durability, Next, Spool, Spools},
};

/// The most that a ledger takes at once.
const BATCH: u64 = 500;
/// How long closes are collected before they are sent together.
const COALESCE: Duration = Duration::from_millis(20);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);
/// After this the ledger is taken to be unreachable; the batch is sent again.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(10);
const HOUSEKEEPING: Duration = Duration::from_secs(15);
/// The same while requests are refused because the disk is full.
const HOUSEKEEPING_IN_TROUBLE: Duration = Duration::from_secs(1);
/// How often to look for the journals of processes that have died on the same volume.
const ADOPTION: Duration = Duration::from_secs(30);
/// What a shutdown leaves for the last events.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Wakes the drainer.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    closed: Notify,
    hurry: Notify,
    unsynced: Notify,
}

impl Wake {
    /// Something was closed.
    pub(crate) fn notify(&self) {
        self.closed.notify_one();
        self.unsynced.notify_one();
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
    spools: Arc<Spools>,
    wake: Arc<Wake>,
    holder: Arc<OnceLock<Holder>>,
    epochs: Epochs,
    recorded: Option<Recorded>,
}

/// Is told which events the ledger has.
type Recorded = Arc<dyn Fn(&[UsageEvent]) + Send + Sync>;

impl Drainer {
    pub(crate) fn new(spools: Arc<Spools>, wake: Arc<Wake>, holder: Arc<OnceLock<Holder>>) -> Self {
        Self { spools, wake, holder, epochs: Epochs::None, recorded: None }
    }

    /// Tells the ledger which epochs of a shared limiter this process has done with. `current` is the last that it knows of.
    #[must_use]
    pub fn with_epochs(self, current: impl Fn() -> Option<Epoch> + Send + Sync + 'static) -> Self {
        Self { epochs: Epochs::Shared(Arc::new(current)), ..self }
    }

    /// Tells others what the ledger has, as soon as it has it. What it had before is not told.
    #[must_use]
    pub fn telling(self, recorded: impl Fn(&[UsageEvent]) + Send + Sync + 'static) -> Self {
        Self { recorded: Some(Arc::new(recorded)), ..self }
    }

    /// Ends after `shutdown`, when the ledger has everything or has been unreachable for 10 s.
    pub async fn run(self, ledger: Arc<dyn UsageLedger>, shutdown: CancellationToken) {
        let serving = async {
            let heart = heart::beat_for_ever(&self.spools, &self.wake, &self.epochs, &*ledger);
            tokio::join!(self.drain_for_ever(&*ledger), self.sync_for_ever(), heart);
        };
        shutdown.run_until_cancelled(serving).await;
        let last = async {
            tokio::join!(self.drain_with_retries(&*ledger), self.sync());
            heart::retire(&self.spools, &*ledger).await;
        };
        if tokio::time::timeout(SHUTDOWN_PATIENCE, last).await.is_err() {
            tracing::warn!("the ledger does not answer: usage stays in the journal for the next start");
        }
    }

    async fn drain_for_ever(&self, ledger: &dyn UsageLedger) {
        let mut adopted_at = self.spools.clock().monotonic();
        loop {
            self.drain_with_retries(ledger).await;
            let now = self.spools.clock().monotonic();
            if now.saturating_sub(adopted_at) >= ADOPTION {
                adopted_at = now;
                self.adopt().await;
                continue;
            }
            let refuses = self.spools.own().figures().is_refusing;
            let housekeeping = if refuses { HOUSEKEEPING_IN_TROUBLE } else { HOUSEKEEPING };
            tokio::select! {
                () = self.wake.hurry.notified() => continue,
                () = self.wake.closed.notified() => {}
                () = tokio::time::sleep(housekeeping) => continue,
            }
            tokio::select! {
                () = self.wake.hurry.notified() => {}
                () = tokio::time::sleep(COALESCE) => {}
            }
        }
    }

    /// Returns when the ledger has everything.
    async fn drain_with_retries(&self, ledger: &dyn UsageLedger) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let drained = self.drain_all(ledger).await;
            self.tidy(ledger).await;
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

    /// One failing spool does not hold up the others; the first error is returned.
    async fn drain_all(&self, ledger: &dyn UsageLedger) -> Result<(), DrainError> {
        let mut first = Ok(());
        for spool in self.spools.all() {
            let drained = self.drain(&spool, ledger).await;
            first = first.and(drained);
        }
        first
    }

    async fn drain(&self, spool: &Arc<Spool>, ledger: &dyn UsageLedger) -> Result<(), DrainError> {
        let id = spool.id();
        if spool.figures().unwritten_closes > 0 {
            blocking(spool, |spool| {
                spool.write_unwritten();
                Ok(())
            })
            .await?;
        }
        while !spool.is_fenced() {
            let generation = self.attach(spool, ledger).await?;
            let (from, events) = match spool.next(BATCH).await? {
                Next::Nothing => return self.close_earlier_holders(spool, generation, ledger).await,
                Next::Events(from, events) => (from, events),
                Next::Missing(from) => {
                    blocking(spool, move |spool| spool.renumber(from)).await?;
                    return Err(DrainError::Journal(io::Error::other("events are missing from the journal")));
                }
            };
            let batch = Batch { spool: id, generation, from, events };
            match tokio::time::timeout(LEDGER_TIMEOUT, ledger.append(&batch)).await?? {
                Appended::Acknowledged(to) => {
                    spool.acknowledge(to).await;
                    self.tell(&batch, to);
                }
                Appended::StandsAt(at) if at == from => {
                    return Err(DrainError::Journal(io::Error::other("the ledger refuses the batch that it asks for")));
                }
                Appended::StandsAt(at) => {
                    blocking(spool, move |spool| spool.stand_at(at)).await?;
                    self.tell(&batch, at); // an earlier try had committed after all
                }
                Appended::Fenced => {
                    tracing::error!(spool = %id.0, "another process has taken this usage journal over");
                    spool.fence().await;
                }
            }
        }
        Ok(())
    }

    /// The ledger has the events of this batch up to a number.
    fn tell(&self, batch: &Batch, to: u64) {
        let count = usize::try_from(to.saturating_sub(batch.from)).unwrap_or(usize::MAX);
        if let Some(recorded) = &self.recorded {
            recorded(batch.events.get(..count.min(batch.events.len())).unwrap_or_default());
        }
    }

    /// Once in the life of the process: who attaches again closes the grants that it is spending from.
    async fn attach(&self, spool: &Arc<Spool>, ledger: &dyn UsageLedger) -> Result<i64, DrainError> {
        if let Some(generation) = spool.generation() {
            return Ok(generation);
        }
        let attachment = tokio::time::timeout(LEDGER_TIMEOUT, ledger.attach(spool.id())).await??;
        blocking(spool, move |spool| spool.stand_at(attachment.acknowledged)).await?;
        let generation = spool.attached(attachment.generation);
        Ok(generation)
    }

    /// The ledger has all that earlier lives of this spool have spent: the rest of their grants is free again. Only then does
    /// the process spend grants of its own, or the rest of the last life's would seem to be spent.
    async fn close_earlier_holders(
        &self,
        spool: &Spool,
        generation: i64,
        ledger: &dyn UsageLedger,
    ) -> Result<(), DrainError> {
        if spool.needs_holders_closed().await {
            tokio::time::timeout(LEDGER_TIMEOUT, ledger.close_holders(spool.id(), generation)).await??;
            spool.holders_closed();
            if !spool.is_adopted() {
                self.holder.get_or_init(|| Holder::Process { spool: spool.id(), generation });
            }
        }
        Ok(())
    }

    /// Deletes what the ledger has had for long enough, and forgets spools of which nothing is left.
    async fn tidy(&self, ledger: &dyn UsageLedger) {
        let retention = self.spools.options().retention;
        for spool in self.spools.all() {
            match blocking(&spool, move |spool| spool.tidy(retention)).await {
                Ok(true) => {
                    self.spools.forget(&spool);
                    heart::retire_one(&spool, ledger).await;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "can't tidy up the usage journal"),
            }
        }
    }

    async fn adopt(&self) {
        let spools = self.spools.clone();
        let adopted = tokio::task::spawn_blocking(move || spools.adopt()).await;
        if let Err(error) = adopted.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, "can't look for usage journals that others have left behind");
        }
    }

    /// Brings closes to safety from the loss of power, several at a time.
    async fn sync_for_ever(&self) {
        loop {
            self.wake.unsynced.notified().await;
            self.sync().await;
        }
    }

    async fn sync(&self) {
        if self.spools.options().durability == Durability::PowerSafe
            && let Err(error) = self.spools.own().sync_all().await
        {
            tracing::error!(%error, "the usage journal can't be made safe against the loss of power");
        }
    }
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

async fn blocking<T: Send + 'static>(
    spool: &Arc<Spool>,
    work: impl FnOnce(&Spool) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let spool = spool.clone();
    tokio::task::spawn_blocking(move || work(&spool)).await.map_err(io::Error::other)?
}
