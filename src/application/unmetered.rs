//! Requests that the journal refuses: turned away, or served without a row where the operator has said so. Never silently.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    error::JournalError,
    request::RequestId,
    runtime::Clock,
    usage_journal::{Checkpoint, UsageJournal},
    usage_ledger::UsageEvent,
};
use async_trait::async_trait;

/// What becomes of a request while the journal takes none: it, or its disk, is full, fails or is stalled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused: nothing is sent that can't be charged.
    #[default]
    Reject,
    /// It is served without a row, unless it spends of a budget.
    AllowUnmetered,
}

/// Between two lines of the log about it.
const QUIET: Duration = Duration::from_secs(10);

/// Decides about requests that the journal refuses, and counts those that are served all the same.
pub struct Unmetered {
    policy: WhenFull,
    clock: Arc<dyn Clock>,
    served: AtomicU64,
    refused: AtomicU64,
    /// Milliseconds of the monotonic clock before which the log is not told again.
    quiet_until: AtomicU64,
}

impl Unmetered {
    #[must_use]
    pub fn new(policy: WhenFull, clock: Arc<dyn Clock>) -> Self {
        let (served, refused, quiet_until) = Default::default();
        Self { policy, clock, served, refused, quiet_until }
    }

    /// How many have been served.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Whether a request that the journal refuses is served all the same.
    pub(super) fn allows(&self, error: &JournalError, spends_of_a_budget: bool) -> bool {
        // A budget would be overspent, and a process that has lost its journal to another must end.
        let is_allowed = self.policy == WhenFull::AllowUnmetered
            && !spends_of_a_budget
            && !matches!(error, JournalError::Fenced | JournalError::Busy);
        let count = if is_allowed { &self.served } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        self.tell(error);
        is_allowed
    }

    /// A full disk must not be filled with the news of it.
    fn tell(&self, error: &JournalError) {
        let now = self.clock.monotonic();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let later = |until: u64| (until <= millis(now)).then(|| millis(now.saturating_add(QUIET)));
        if self.quiet_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok() {
            tracing::error!(
                error = error as &dyn std::error::Error,
                refused = self.refused.load(Ordering::Relaxed),
                served_without_a_row = self.served(),
                "the usage journal takes no requests; both figures are since the start"
            );
        }
    }
}

/// Of a request that has no row.
pub(super) struct NoJournal;

#[async_trait]
impl UsageJournal for NoJournal {
    fn open(&self, _bound: &UsageEvent) -> Result<(), JournalError> {
        Ok(())
    }

    fn checkpoint(&self, _checkpoint: &Checkpoint) {}

    fn close(&self, _request: RequestId, _events: &[UsageEvent]) {}

    async fn drained(&self, _within: Duration) {}
}
