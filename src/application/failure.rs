//! Why a use-case could not do what it was asked. `http/error.rs` turns each into a status and an envelope, in one place.

use std::time::Duration;

use ai4free_ports::{
    error::{JournalError, LimiterDown, ProviderError, RequestError, StoreError},
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::{LimitKind, Scope, Standing},
    runtime::Timestamp,
};

use crate::application::standing::LimitHeaders;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no valid API key")]
    Unauthenticated(AuthenticationProblem),
    #[error("the key may not use this model")]
    ModelNotAllowed { model: String },
    #[error("no such model")]
    ModelNotFound { model: String },
    /// The model is in the catalogue and none of its providers is switched on.
    #[error("no provider of the model is switched on")]
    ModelDisabled { model: String },
    #[error("no such {0}")]
    NotFound(&'static str),
    #[error("the {0} was changed by somebody else at the same time")]
    Conflict(&'static str),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("limit reached")]
    LimitReached(Box<LimitReached>),
    #[error("budget exhausted")]
    BudgetExhausted(Box<BudgetExhausted>),
    /// A budget applies, and what the request may cost can't be known.
    #[error("the model has no price")]
    Unpriced,
    /// We can't authenticate or account right now. Never blamed on the client.
    #[error("{what} is unavailable")]
    Unavailable { what: Unavailable, retry_after: Duration },
    #[error(transparent)]
    Provider(ProviderError),
}

/// What is wrong with a presented key: for the log. A client is not told which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthenticationProblem {
    Missing,
    Malformed,
    Unknown,
    Revoked,
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The process is still starting.
    Gateway,
    KeyStore,
    RateLimiter,
    UsageJournal,
    UsageLedger,
    /// The key's plan is not in the configuration any more.
    Plan,
}

impl Unavailable {
    /// A bounded code for metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Gateway => "starting",
            Self::KeyStore => "key_store_unavailable",
            Self::RateLimiter => "rate_limiter_unavailable",
            Self::UsageJournal => "accounting_unavailable",
            Self::UsageLedger => "ledger_unavailable",
            Self::Plan => "plan_not_configured",
        }
    }
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gateway => "the gateway, which is starting,",
            Self::KeyStore => "the key store",
            Self::RateLimiter => "the rate limiter",
            Self::UsageJournal => "usage accounting",
            Self::UsageLedger => "the usage ledger",
            Self::Plan => "the plan of this key",
        })
    }
}

/// Which limit said no, and everything that its owner needs to know of it.
#[derive(Debug)]
pub struct LimitReached {
    pub scope: Scope,
    pub kind: LimitKind,
    pub limit: u64,
    /// By requests that have ended.
    pub settled: u64,
    /// By requests that run.
    pub reserved: u64,
    /// What is left, and when all of it is.
    pub standing: Standing,
    /// What this request wanted to reserve.
    pub requested: u64,
    pub retry_after: Duration,
    pub headers: LimitHeaders,
}

/// Which budget said no, and everything that its owner needs to know of it.
#[derive(Debug)]
pub struct BudgetExhausted {
    pub scope: Scope,
    /// The whole budget of the window.
    pub limit: PicoUsdSum,
    /// By all holders: of the others, as far as the ledger knew when it was last asked for a grant.
    pub settled: PicoUsdSum,
    /// By requests that run, and what other holders were granted and have not settled.
    pub reserved: PicoUsdSum,
    /// What this request may cost.
    pub requested: PicoUsd,
    /// End of the window. `None`: the budget is for ever.
    pub resets_at: Option<Timestamp>,
}

impl BudgetExhausted {
    /// What is neither settled nor reserved.
    #[must_use]
    pub fn remaining(&self) -> PicoUsdSum {
        PicoUsdSum((self.limit.0 - self.settled.0 - self.reserved.0).max(0))
    }
}

/// How long a client waits before it asks again for something that should be back soon.
const SOON: Duration = Duration::from_secs(1);

impl Failure {
    #[must_use]
    pub fn unavailable(what: Unavailable) -> Self {
        Self::Unavailable { what, retry_after: SOON }
    }

    /// A bounded code for the request log and the metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "unauthenticated",
            Self::ModelNotAllowed { .. } => "model_not_allowed",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::ModelDisabled { .. } => "provider_disabled",
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Request(_) => "invalid_request",
            Self::LimitReached(_) => "limit_reached",
            Self::BudgetExhausted(_) => "budget_exhausted",
            Self::Unpriced => "unpriced",
            Self::Unavailable { what, .. } => what.code(),
            Self::Provider(error) => error.kind.as_str(),
        }
    }
}

impl From<LimiterDown> for Failure {
    fn from(_: LimiterDown) -> Self {
        Self::unavailable(Unavailable::RateLimiter)
    }
}

impl From<JournalError> for Failure {
    fn from(_: JournalError) -> Self {
        Self::unavailable(Unavailable::UsageJournal)
    }
}

impl Failure {
    /// What a failing key store means for a use-case that changes or reads keys.
    #[must_use]
    pub fn of_key_store(error: &StoreError) -> Self {
        match error {
            StoreError::Conflict(_) => Self::Conflict("key"),
            StoreError::Unavailable(_) | StoreError::Corrupt(_) => Self::unavailable(Unavailable::KeyStore),
        }
    }
}
