//! Errors that cross a port. Each says what went wrong in the port's own words; the library's error is its boxed source.

use std::{borrow::Cow, time::Duration};

/// The error underneath, kept for the log and never shown to a client.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// What a provider's failure means, whatever the vendor called it. Routing and the HTTP status are decided on this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProviderErrorKind {
    /// Our credential was refused (401, 403).
    Credential,
    /// Our credential's quota or balance is used up.
    Quota,
    /// Too many requests for now (429).
    RateLimit,
    /// The provider is overloaded (503, 529).
    Overloaded,
    /// The provider failed (5xx).
    Server,
    /// The client's request was refused (400, 404, 413, 422): the client's own error.
    Request,
    /// A deadline passed.
    Timeout,
    /// No connection, or it broke.
    Transport,
    /// What arrived is not what the protocol says, or the stream ended before it was complete.
    Protocol,
}

impl ProviderErrorKind {
    /// A bounded label for metrics and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "upstream_credential",
            Self::Quota => "upstream_quota",
            Self::RateLimit => "upstream_rate_limit",
            Self::Overloaded => "upstream_overloaded",
            Self::Server => "upstream_server",
            Self::Request => "upstream_request",
            Self::Timeout => "upstream_timeout",
            Self::Transport => "upstream_transport",
            Self::Protocol => "upstream_protocol",
        }
    }
}

/// A client error in the provider's words, already redacted and capped by the dialect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicError {
    pub message: Box<str>,
    pub param: Option<Box<str>>,
    pub code: Option<Box<str>>,
}

/// One attempt at a provider failed.
#[derive(Debug, thiserror::Error)]
#[error("{kind:?} from the provider (status {status:?})")]
pub struct ProviderError {
    pub kind: ProviderErrorKind,
    /// HTTP status that the provider answered, if it answered.
    pub status: Option<u16>,
    /// How long the provider asks us to wait.
    pub retry_after: Option<Duration>,
    /// Whether the whole request had been written before the failure: only then can the provider have charged for it.
    pub request_was_sent: bool,
    /// Whether another credential of the same provider may do better.
    pub try_next_credential: bool,
    /// What the client may see. `None`: a generic message.
    pub public: Option<PublicError>,
    #[source]
    pub source: Option<Source>,
}

impl ProviderError {
    #[must_use]
    pub fn new(kind: ProviderErrorKind) -> Self {
        Self {
            kind,
            status: None,
            retry_after: None,
            request_was_sent: true,
            try_next_credential: false,
            public: None,
            source: None,
        }
    }

    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// The client's request can't be served as it is: always a 4xx.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The member that is wrong, as a path (`messages[0].role`).
    pub param: Option<Cow<'static, str>>,
    pub code: Option<&'static str>,
    pub message: Cow<'static, str>,
}

impl RequestError {
    #[must_use]
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { param: None, code: None, message: message.into() }
    }

    #[must_use]
    pub fn param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }
}

/// The limiter can't say yes or no: the answer is 503, never a guess.
#[derive(Debug, thiserror::Error)]
#[error("rate limiter unavailable")]
pub struct LimiterDown(#[source] pub Source);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, or too slow. Worth trying again.
    #[error("store unavailable")]
    Unavailable(#[source] Source),
    /// Somebody else wrote first, or the row exists already.
    #[error("store conflict: {0}")]
    Conflict(Cow<'static, str>),
    /// What is stored can't be read: a fault of ours or of who edited it.
    #[error("store holds something unreadable: {0}")]
    Corrupt(Cow<'static, str>),
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("usage journal is full")]
    Full,
    #[error("usage journal can't be written")]
    Io(#[source] Source),
    /// It would have to be waited for: [`UsageJournal::ready`](crate::usage_journal::UsageJournal::ready), and once more.
    #[error("usage journal is being written")]
    Busy,
    /// It is not ours any more: what were written would never reach the ledger.
    #[error("another process has taken this usage journal over")]
    Fenced,
}

#[derive(Debug, thiserror::Error)]
#[error("can't count tokens")]
pub struct CountError(#[source] pub Source);
