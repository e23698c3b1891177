//! Tells the ledger that this process lives, and which epochs of the shared limiter it has done with: what was granted in them
//! and nobody spent is free again once all processes have said so.

use std::{future::Future, sync::Arc, time::Duration};

use ai4free_ports::{budget::Epoch, error::StoreError, usage_ledger::UsageLedger};

use crate::{
    drainer::Wake,
    spool::{Spool, Spools},
};

const BEAT: Duration = Duration::from_secs(10);
/// After this the ledger is taken to be away; the next beat tells it all.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(5);

/// The shared limiter's epochs, as this process knows them.
#[derive(Clone)]
pub(crate) enum Epochs {
    /// Limits are kept in this process: it has nothing of any epoch.
    None,
    Shared(Arc<dyn Fn() -> Option<Epoch> + Send + Sync>),
}

pub(crate) async fn beat_for_ever(spools: &Spools, wake: &Wake, epochs: &Epochs, ledger: &dyn UsageLedger) {
    let mut progress = Progress::default();
    loop {
        tokio::time::sleep(BEAT).await;
        let done = progress.advance(spools, wake, epochs).await;
        for spool in spools.all() {
            if let Some(generation) = spool.generation() {
                tell(ledger.beat(spool.id(), generation, done)).await;
            }
        }
    }
}

/// After the last event has reached the ledger: what is left of the grants of this process is free.
pub(crate) async fn retire(spools: &Spools, ledger: &dyn UsageLedger) {
    for spool in spools.all() {
        retire_one(&spool, ledger).await;
    }
}

pub(crate) async fn retire_one(spool: &Spool, ledger: &dyn UsageLedger) {
    if let Some(generation) = spool.generation().filter(|_| !spool.is_fenced()) {
        tell(ledger.retire(spool.id(), generation)).await;
    }
}

#[derive(Default)]
struct Progress {
    /// At the beat before: what was reserved under an earlier epoch than that is in the journal by now.
    known: Option<Epoch>,
    done: Epoch,
}

impl Progress {
    /// The last epoch of which no request is open and no event is on its way.
    async fn advance(&mut self, spools: &Spools, wake: &Wake, epochs: &Epochs) -> Epoch {
        let Epochs::Shared(current) = epochs else { return Epoch(i64::MAX) };
        let (current, mut lowest) = (current(), self.known);
        for spool in spools.all() {
            lowest = [lowest, spool.lowest_open_epoch().await].into_iter().flatten().min().filter(|_| lowest.is_some());
        }
        wake.hurry();
        let drained = async {
            let mut all = true;
            for spool in spools.all() {
                all &= spool.drained().await;
            }
            all
        };
        let is_drained = tokio::time::timeout(BEAT, drained).await.unwrap_or(false);
        if let Some(lowest) = lowest.filter(|_| is_drained) {
            self.done = self.done.max(Epoch(lowest.0 - 1));
        }
        self.known = current;
        self.done
    }
}

async fn tell(said: impl Future<Output = Result<(), StoreError>>) {
    match tokio::time::timeout(LEDGER_TIMEOUT, said).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "the ledger hears no beat"),
        Err(_) => tracing::debug!("the ledger hears no beat in time"),
    }
}
