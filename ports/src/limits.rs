//! Limits as they are configured: on plans, keys, users, models, credentials and the whole gateway.

use serde::{Deserialize, Serialize};

/// What one scope may use; `None` is no limit. Rates are "at most N in any 60 s".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_requests: Option<u64>,
}

impl Limits {
    pub const NONE: Self = Self {
        requests_per_minute: None,
        image_requests_per_minute: None,
        tokens_per_minute: None,
        max_concurrent_requests: None,
    };

    /// These limits, with those that are not set taken from `fallback`: a key's own limits over its plan's.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(fallback.requests_per_minute),
            image_requests_per_minute: self.image_requests_per_minute.or(fallback.image_requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(fallback.tokens_per_minute),
            max_concurrent_requests: self.max_concurrent_requests.or(fallback.max_concurrent_requests),
        }
    }
}
