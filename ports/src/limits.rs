//! Limits as they are configured: on plans, keys, users, models, credentials and the whole gateway.

use serde::{Deserialize, Serialize};

use crate::budget::Budget;

/// What one scope may use; `None` is no limit. Rates are "at most N in any 60 s".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub requests_per_minute: Option<u64>,
    pub image_requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub max_concurrent_requests: Option<u64>,
    pub budget: Option<Budget>,
    /// What the rates and the concurrency above do while the shared limiter is away. `None`: [`OutagePolicy::LocalShare`].
    pub on_redis_down: Option<OutagePolicy>,
}

/// What a limit does while the limiter that all replicas share can't be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutagePolicy {
    /// Refuses with 503.
    Closed,
    /// Each process enforces its share: of a rate, the limit divided by the number of replicas; of a budget, a grant of its
    /// own from the ledger, so that nothing is overspent.
    #[default]
    LocalShare,
    /// Is not enforced. What is spent meanwhile still counts afterwards.
    Open,
}

impl OutagePolicy {
    pub const ALL: [Self; 3] = [Self::Closed, Self::LocalShare, Self::Open];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::LocalShare => "local_share",
            Self::Open => "open",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }
}

impl Limits {
    pub const NONE: Self = Self {
        requests_per_minute: None,
        image_requests_per_minute: None,
        tokens_per_minute: None,
        max_concurrent_requests: None,
        budget: None,
        on_redis_down: None,
    };

    /// These limits, with those that are not set taken from `fallback`: a key's own limits over its plan's.
    #[must_use]
    pub fn or(&self, fallback: &Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(fallback.requests_per_minute),
            image_requests_per_minute: self.image_requests_per_minute.or(fallback.image_requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(fallback.tokens_per_minute),
            max_concurrent_requests: self.max_concurrent_requests.or(fallback.max_concurrent_requests),
            budget: self.budget.as_ref().or(fallback.budget.as_ref()).cloned(),
            on_redis_down: self.on_redis_down.or(fallback.on_redis_down),
        }
    }
}
