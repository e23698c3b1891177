//! The write-ahead journal of usage: the only road to the ledger, in good times and bad.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    error::JournalError,
    request::RequestId,
    usage::{TokenUsage, UsageSource},
    usage_ledger::UsageEvent,
};

/// What a stream has consumed so far: what is charged if the process dies now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub request: RequestId,
    pub usage: TokenUsage,
    pub source: UsageSource,
    pub cost: crate::money::PicoUsd,
}

/// What a journal can tell of a request whose process is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The events that it was charged. None: it was never sent.
    Charged(Vec<UsageEvent>),
    /// Nobody will ever know: the records that may have told were deleted.
    Unknown,
}

/// Synchronous on purpose: each call is one `write(2)` of a small record, which survives `kill -9`, so that it can be made
/// from `Drop` and before the last byte is released to a client. Contract: `ai4free_contract::usage_journal`.
///
/// A request that was opened and never closed when its process died is closed by the next one that opens the journal: at its
/// last checkpoint ([`UsageSource::Estimated`]), or at the event that it was opened with ([`UsageSource::Bound`]), with
/// [`crate::usage_ledger::Outcome::Lost`].
#[async_trait]
pub trait UsageJournal: Send + Sync {
    /// Declares that a provider is about to be called. `bound` is the whole event at its upper bound.
    ///
    /// # Errors
    /// MUST be written before it returns `Ok`. [`JournalError::Full`] when there is no room to promise the close as well,
    /// [`JournalError::Busy`] rather than waiting for another's write.
    fn open(&self, bound: &UsageEvent) -> Result<(), JournalError>;

    /// Returns once the journal is not busy, which does not promise that it stays so: to be called after [`JournalError::Busy`].
    ///
    /// # Errors
    /// When a write hangs: the disk is stalled.
    async fn ready(&self) -> Result<(), JournalError> {
        Ok(())
    }

    /// Returns once everything that was closed before is written, or when a write hangs: at once, unless the journal was busy
    /// when it was closed. What a client is given before it returns might be charged otherwise than it was told, should the
    /// process die.
    async fn written(&self) {}

    /// Returns once a request that was opened would survive the loss of power: at once in a journal that need not survive that,
    /// and for a request that is not open.
    ///
    /// # Errors
    /// When it would not: then it must not be sent to a provider.
    async fn durable(&self, _request: RequestId) -> Result<(), JournalError> {
        Ok(())
    }

    /// Replaces the earlier checkpoint of this request. Best effort.
    fn checkpoint(&self, checkpoint: &Checkpoint);

    /// The final events of a request that was opened, no more than a [`crate::usage_ledger::Batch`] holds. Never fails for want
    /// of space: `open` has kept room for it. Never waits: see [`written`](Self::written). Closing a request that is not open
    /// changes nothing.
    fn close(&self, request: RequestId, events: &[UsageEvent]);

    /// Waits until everything that was closed before has reached the ledger, at most this long: so that a report that is asked
    /// for right after an answer has that answer in it. Best effort.
    async fn drained(&self, within: Duration);
}
