//! What a use-case may not take from the air: time, randomness, ids, tasks, and who watches.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::{
    budget::{BudgetPeriod, MoneyWindow},
    error::CountError,
    key::{ApiKey, KeyId, StoredSecret},
    money::PicoUsd,
    rate_limiter::{LimitKind, Scope},
    request::{Operation, RequestId},
    usage::{Encoding, TokenUsage, UsageSource},
    usage_ledger::Outcome,
};

/// An instant in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Zero when `earlier` is later: clocks step back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

pub trait Clock: Send + Sync {
    /// Wall clock; may step.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary start; never steps back. For measuring and for deadlines.
    fn monotonic(&self) -> Duration;
}

/// Cuts time into the windows of budgets, in any time zone.
pub trait Calendar: Send + Sync {
    /// The window that contains `at`. It begins with the first instant of its local date (where a clock change skips midnight,
    /// that is later), so days have 23 to 25 hours. `None`: there is no such time zone.
    fn window(&self, period: BudgetPeriod, time_zone: &str, at: Timestamp) -> Option<MoneyWindow>;

    /// Whether there is such a time zone.
    fn knows(&self, time_zone: &str) -> bool {
        self.window(BudgetPeriod::Day, time_zone, Timestamp::default()).is_some()
    }
}

pub trait IdSource: Send + Sync {
    /// A `UUIDv7`: ids sort by time, and the day of a ledger row follows from its id.
    fn request_id(&self) -> RequestId;
}

/// A cryptographically secure source of random bytes.
pub trait SecretSource: Send + Sync {
    fn fill(&self, bytes: &mut [u8]);
}

/// Turns the secret of an API key into what is stored of it: HMAC-SHA-256 under a pepper that is not in the database.
pub trait KeyHasher: Send + Sync {
    /// Under the newest pepper.
    fn hash(&self, key: &ApiKey) -> StoredSecret;
    /// In constant time, under the pepper version that `stored` names; an unknown version never matches.
    fn matches(&self, key: &ApiKey, stored: &StoredSecret) -> bool;
    /// The full 32-byte digest under the newest pepper: the only thing of a secret that may be kept in memory as a cache key.
    fn fingerprint(&self, key: &ApiKey) -> Zeroizing<[u8; 32]>;
    /// Version and fingerprint of each pepper, for comparison with what the database remembers.
    fn peppers(&self) -> Vec<(u16, [u8; 32])>;
}

/// Runs work that outlives a request. Wiring owns the runtime and joins these tasks at shutdown.
pub trait TaskSpawner: Send + Sync {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);
}

/// Waits, for use-cases that have to. Adapters have their runtime's own timers.
pub trait Timer: Send + Sync {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Counts tokens as the model would. Special tokens in the text count as plain text.
#[async_trait]
pub trait TokenCounter: Send + Sync {
    /// Large texts are counted away from the reactor, and the tables are loaded on first need; the adapter sees to both.
    async fn count(&self, encoding: Encoding, text: Bytes) -> Result<u64, CountError>;
}

/// Sees one summary per request, at its end, however it ended. Called on the request's own thread and from `Drop`: an
/// implementation must neither block nor fail.
pub trait RequestObserver: Send + Sync {
    fn finished(&self, summary: &RequestSummary);
}

/// What the request log and the metrics know of a request. Never a prompt, never a secret.
#[derive(Clone, Debug)]
pub struct RequestSummary {
    pub request: RequestId,
    pub operation: Operation,
    pub streamed: bool,
    pub key: Option<KeyId>,
    /// A known model id or pattern, never the client's own string: it is a metric label.
    pub model: Option<Arc<str>>,
    pub provider: Option<Arc<str>>,
    pub credential: Option<Arc<str>>,
    pub end: RequestEnd,
    /// Attempts at a provider.
    pub attempts: u16,
    pub usage: TokenUsage,
    pub usage_source: UsageSource,
    /// Whether a provider reported more than its model can have done, and the usage is cut to that.
    pub usage_clamped: bool,
    /// `None`: unpriced.
    pub cost: Option<PicoUsd>,
    /// Whether it cost more than was reserved of a budget.
    pub reservation_exceeded: bool,
    /// From the request's arrival to the first byte that could be sent.
    pub first_byte: Option<Duration>,
    pub total: Duration,
    /// Of `total`, what was spent waiting for a provider, or for the client to take what it sent. The rest is the gateway's own
    /// overhead.
    pub upstream: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// Admitted, and ended so; the code says more of a failure.
    Admitted { outcome: Outcome, error: Option<&'static str> },
    /// A limit said no.
    LimitReached { scope: Scope, kind: LimitKind },
    /// A budget said no.
    BudgetExhausted { scope: Scope },
    /// Refused before any limit was touched, or because we could not account for it; a bounded code.
    Refused(&'static str),
}

impl fmt::Display for RequestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted { outcome, .. } => f.write_str(outcome.as_str()),
            Self::LimitReached { .. } => f.write_str("limit_reached"),
            Self::BudgetExhausted { .. } => f.write_str("budget_exhausted"),
            Self::Refused(_) => f.write_str("refused"),
        }
    }
}
