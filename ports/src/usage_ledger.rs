//! The ledger: append-only events, and the sums that are added in the same transaction.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    budget::{Epoch, Holder, MoneyWindow, Spending},
    error::StoreError,
    key::KeyId,
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::Scope,
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
};

/// How an admitted request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Success,
    /// The provider failed, or we did.
    Failed,
    /// The client went away.
    Cancelled,
    /// The process died while it was open.
    Lost,
}

impl Outcome {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// What a row is. The sum of a request's rows is its charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Charge,
    /// A later correction, for example after a price was wrong.
    Adjustment,
    /// The bound of a request whose process is gone, until its journal turns up.
    Hold,
    /// Takes a hold back.
    Release,
}

/// One row of the ledger. Its identity is (request, attempt, kind, revision).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEvent {
    pub request: RequestId,
    pub attempt: u16,
    pub kind: EventKind,
    /// More than 0 only for adjustments.
    pub revision: u16,
    pub operation: Operation,
    pub key: KeyId,
    pub user: Option<Arc<str>>,
    /// A model id or a pattern of the catalogue.
    pub model: Arc<str>,
    pub provider: Option<Arc<str>>,
    pub credential: Option<Arc<str>>,
    pub outcome: Outcome,
    /// A bounded code of what went wrong.
    pub error: Option<Cow<'static, str>>,
    pub admitted_at: Timestamp,
    /// From admission to the first byte, in milliseconds.
    pub first_ms: Option<u32>,
    pub total_ms: Option<u32>,
    pub usage: TokenUsage,
    pub usage_source: UsageSource,
    /// `None`: the model has no price, the row is unpriced and costs 0.
    pub price_version: Option<u32>,
    pub cost: PicoUsd,
    /// What the provider said it cost.
    pub provider_cost: Option<PicoUsd>,
    /// The budgets that the cost is added to.
    pub spending: Vec<Spending>,
}

/// Identity of one journal directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpoolId(pub uuid::Uuid);

/// The right to append for one spool. A process that attaches takes it away from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub generation: i64,
    /// How many events of this spool the ledger has committed.
    pub acknowledged: u64,
}

/// Consecutive events of one spool: the first one has the number `from`, counted from 0 over the spool's whole life.
///
/// The charges of one request are never split over two batches: the request is counted once, with the last of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub spool: SpoolId,
    pub generation: i64,
    pub from: u64,
    pub events: Vec<UsageEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Events and sums are committed; the spool stands at this number.
    Acknowledged(u64),
    /// The ledger stands elsewhere (an earlier try had committed after all, or the database lost commits): go on from there.
    StandsAt(u64),
    /// Another process has attached to this spool: stop.
    Fenced,
}

/// Whose usage a report is about. There is no report without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    Key(KeyId),
    Operator,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub requests: u64,
    pub successful: u64,
    pub cancelled: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost: PicoUsdSum,
}

impl Counters {
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.requests.saturating_sub(self.successful).saturating_sub(self.cancelled)
    }

    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.successful = self.successful.saturating_add(other.successful);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cost += other.cost;
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageReport {
    pub by_model: BTreeMap<String, Counters>,
    /// By UTC day, in days since the Unix epoch.
    pub by_day: BTreeMap<i32, Counters>,
}

/// Asks for money in the name of a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRequest {
    pub scope: Scope,
    pub window: MoneyWindow,
    pub holder: Holder,
    /// The whole budget of the window.
    pub limit: PicoUsdSum,
    /// The claim that waits for it.
    pub claim: PicoUsd,
    /// The holder is given this part of the room that is left, `1/share`, and at least 16 times the claim: 1 takes all.
    pub share: u32,
    /// What the holder knows to be granted. While the ledger has recorded more, nothing is added: that is on its way to the
    /// holder, or it is lost. [`GrantAnswer::Granted::before`] tells.
    pub known: PicoUsdSum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantAnswer {
    Granted {
        /// What had been granted before this call; more than zero tells a limiter without a grant that it lost data.
        before: PicoUsdSum,
        /// What is granted now: the same as before if there is no room.
        granted: PicoUsdSum,
        /// What other holders were granted or have settled.
        elsewhere: PicoUsdSum,
        /// What of that they have settled, by events that have reached the ledger.
        settled_elsewhere: PicoUsdSum,
    },
    /// The holder's epoch is over, or its spool has been taken over.
    Stale,
}

/// What a budget's window has seen, over all holders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetSum {
    /// Of events that have reached the ledger.
    pub settled: PicoUsdSum,
    /// What is granted or, of closed holders, settled. Never above the limit at which it was granted.
    pub committed: PicoUsdSum,
}

/// What one holder has of one budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub scope: Scope,
    /// Start of the window.
    pub window: Timestamp,
    /// End of the window. `None`: nothing was granted, and only events tell of it.
    pub end: Option<Timestamp>,
    pub granted: PicoUsdSum,
    /// By events that have reached the ledger.
    pub settled: PicoUsdSum,
}

/// What an operator's report is split by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dimension {
    Key,
    User,
    Model,
    Provider,
    /// UTC days, as `2026-11-22`.
    Day,
}

/// What [`UsageLedger::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Events that were read.
    pub events: u64,
    /// Sums that were compared with them.
    pub sums: u64,
    pub differences: Vec<Difference>,
}

/// A sum that is not the sum of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which sum, in words for an operator: table and key.
    pub sum: String,
    pub stored: String,
    pub expected: String,
}

/// What others remember of the requests of a process that can't tell any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Final events. Of a request all or none, as in a [`Batch`].
    pub charges: Vec<UsageEvent>,
    /// [`EventKind::Hold`]: of leases that were open.
    pub holds: Vec<UsageEvent>,
    /// Requests that reached no provider: what is held of them is released.
    pub never_sent: Vec<RequestId>,
}

/// What [`UsageLedger::recover`] has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The charges of those requests that were to be held, and are known to have ended: nothing is held of them.
    pub charged: HashMap<RequestId, Vec<UsageEvent>>,
    /// Whether the others are held now.
    pub are_held: bool,
}

/// Idempotent, fenced accounting (`ai4free_contract::usage_ledger`).
#[async_trait]
pub trait UsageLedger: Send + Sync {
    /// Takes over a spool: registers it if it is new, and fences whoever held it.
    async fn attach(&self, spool: SpoolId) -> Result<Attachment, StoreError>;

    /// Appends a batch and adds its sums, in one transaction, exactly once: however often a batch is sent again, in whatever
    /// overlap, each event is stored and summed once. At most 500 events.
    ///
    /// # Errors
    /// After an error it is unknown whether the batch was committed; send it again.
    async fn append(&self, batch: &Batch) -> Result<Appended, StoreError>;

    /// Sums of whole hours from `from` (rounded down to its hour) to `to` (exclusive, rounded up).
    async fn report(&self, audience: &Audience, from: Timestamp, to: Timestamp) -> Result<UsageReport, StoreError>;

    /// The last rows of an audience, newest first: for people and for tests. At most 1000.
    async fn recent(&self, audience: &Audience, limit: u16) -> Result<Vec<UsageEvent>, StoreError>;

    /// Raises a holder's grant, in one transaction that keeps what all holders were granted or have settled within the limit.
    /// The first grant of a window counts what its scope has spent in it before.
    async fn grant(&self, request: &GrantRequest) -> Result<GrantAnswer, StoreError>;

    /// Lowers a holder's grant: it has promised to spend no more than this. Never raises one. Idempotent.
    async fn lower(
        &self,
        scope: &Scope,
        window: &MoneyWindow,
        holder: Holder,
        granted: PicoUsdSum,
    ) -> Result<(), StoreError>;

    /// The epoch of the shared limiter whose process calls itself `run_id`. A new `run_id`, or `lost` being the current
    /// epoch, begins the next one. Idempotent by `run_id` and `lost`.
    async fn attest(&self, run_id: &str, lost: Option<Epoch>) -> Result<Epoch, StoreError>;

    /// Closes every holder of this spool of an earlier generation than this one: all its events are in the ledger, so what it
    /// was granted and has not spent is free again. Idempotent.
    async fn close_holders(&self, spool: SpoolId, generation: i64) -> Result<(), StoreError>;

    /// This process lives, none of its requests holds money of this epoch or an earlier one, and the ledger has all events of
    /// those that did. Closes every shared holder of an earlier epoch than the current one of which all processes have said so,
    /// those aside that are retired or were silent for a day. Without effect once the spool has been taken over.
    async fn beat(&self, spool: SpoolId, generation: i64, closed_epoch: Epoch) -> Result<(), StoreError>;

    /// The process ends, and the ledger has all its events: closes what this spool was granted, and nobody waits for its
    /// beat any more. To be attached again is to live again. Without effect once the spool has been taken over.
    async fn retire(&self, spool: SpoolId, generation: i64) -> Result<(), StoreError>;

    /// Appends what is remembered of the requests of this spool's process and adds the sums, in one transaction, each event
    /// once, whoever else appends it. At most 500 events. Nothing is held while the process was heard of within `silence`, nor
    /// of a request that was charged.
    ///
    /// Whenever a request is charged that is held, here or by a batch of its spool, its holds are released in the same
    /// transaction: a [`EventKind::Release`] for each, at minus its cost.
    ///
    /// # Errors
    /// After an error it is unknown whether it was committed; say it again.
    async fn recover(&self, spool: SpoolId, remains: &Remains, silence: Duration) -> Result<Recovered, StoreError>;

    async fn budget(&self, scope: &Scope, window: &MoneyWindow) -> Result<BudgetSum, StoreError>;

    /// The operator's sums of whole hours, as [`UsageLedger::report`] rounds them. By [`Dimension::User`] and
    /// [`Dimension::Provider`], usage without one is under the empty name.
    async fn breakdown(
        &self,
        by: Dimension,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<String, Counters>, StoreError>;

    /// Charges that were admitted from `from` up to `to`, in the order of their ids, after the given one. At most 500, and
    /// after each all its adjustments, by revision.
    async fn charges(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<(RequestId, u16)>,
    ) -> Result<Vec<UsageEvent>, StoreError>;

    /// Compares all sums (by hour, and of budgets by holder) with the events, for the UTC days from `from` to `to`, as far back
    /// as events are kept. Of budgets, the windows that lie within those days; if there are no later events, also those that
    /// have not ended. At most 1000 differences.
    async fn verify(&self, from: Timestamp, to: Timestamp) -> Result<Verification, StoreError>;

    /// What a holder has in windows that have not ended at that time, in the order of their scopes and starts, after the given
    /// one. At most 500.
    async fn shares(
        &self,
        holder: Holder,
        at: Timestamp,
        after: Option<&(Scope, Timestamp)>,
    ) -> Result<Vec<Share>, StoreError>;

    /// What a holder has of one budget.
    async fn share(&self, holder: Holder, scope: &Scope, window: Timestamp) -> Result<Option<Share>, StoreError>;

    /// How many processes have said nothing for so long, neither [`beat`](Self::beat) nor [`retire`](Self::retire), and were
    /// heard of within a day: the ledger may lack some of their events.
    async fn silent(&self, longer_than: Duration) -> Result<u64, StoreError>;
}
