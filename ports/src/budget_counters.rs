//! What the limiter that all replicas share has counted of budgets: to be compared and corrected, never on a request's path.

use async_trait::async_trait;

use crate::{
    budget::{Epoch, GrantStanding, Spending},
    error::LimiterDown,
    money::PicoUsdSum,
    rate_limiter::Scope,
    runtime::Timestamp,
    usage_ledger::SpoolId,
};

/// One correction of a run that makes several. They are numbered in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CorrectionId {
    /// Whoever corrects appends the same to the ledger, for this spool.
    pub run: SpoolId,
    pub number: u64,
}

/// The counters of the shared limiter, whoever spends by them meanwhile. Every call may take some seconds.
#[async_trait]
pub trait BudgetCounters: Send + Sync {
    /// The epoch whose grants are spent now. `None`: none has begun since the data was lost.
    ///
    /// # Errors
    /// When the limiter can't be reached, as for all calls.
    async fn epoch(&self) -> Result<Option<Epoch>, LimiterDown>;

    /// How budgets stand in an epoch, by scope and start of the window, in the same order. `None`: nothing was granted there,
    /// or it is lost, or the window is long over.
    async fn standings(
        &self,
        epoch: Epoch,
        budgets: &[(Scope, Timestamp)],
    ) -> Result<Vec<Option<GrantStanding>>, LimiterDown>;

    /// Whether anything counts as settled, at what was reserved, only because the process that held it fell silent.
    async fn is_anything_given_up(&self) -> Result<bool, LimiterDown>;

    /// Adds what was charged later to what is settled, where it is counted; of other holders, nothing. Said again, it has no
    /// effect.
    async fn correct(&self, id: CorrectionId, changes: &[(Spending, PicoUsdSum)]) -> Result<(), LimiterDown>;
}
