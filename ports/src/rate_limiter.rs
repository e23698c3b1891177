//! Reserving what a request may use before the provider is called, and settling it to what it did use.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{error::LimiterDown, key::KeyId, request::RequestId};

/// The window of every rate: at most `limit` in any interval of this length.
pub const RATE_WINDOW: Duration = Duration::from_secs(60);

/// Whose limit a claim counts against.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Gateway,
    User(Arc<str>),
    Key(KeyId),
    Model(Arc<str>),
    Credential(Arc<str>),
}

impl Scope {
    /// The name that refusals, headers and metrics use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::User(_) => "user",
            Self::Key(_) => "key",
            Self::Model(_) => "model",
            Self::Credential(_) => "credential",
        }
    }

    /// What tells two scopes of the same kind apart; empty for the gateway.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Gateway => "",
            Self::User(id) | Self::Model(id) | Self::Credential(id) => id,
            Self::Key(id) => id.as_str(),
        }
    }
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitKind {
    /// Text requests per [`RATE_WINDOW`].
    Requests,
    /// Image requests per [`RATE_WINDOW`].
    ImageRequests,
    /// Tokens, in and out, per [`RATE_WINDOW`].
    Tokens,
    /// Requests in flight.
    Concurrency,
}

impl LimitKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::ImageRequests => "image_requests",
            Self::Tokens => "tokens",
            Self::Concurrency => "concurrency",
        }
    }
}

/// One limit that a request counts against, and by how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub scope: Scope,
    pub kind: LimitKind,
    pub limit: u64,
    /// An upper bound of what the request can use; 1 for [`LimitKind::Concurrency`].
    pub amount: u64,
}

/// Identifies one reservation for ever. Later attempts of a request that reserve again have the next `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId {
    pub request: RequestId,
    pub number: u16,
}

/// How much is left of a claim's limit after the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub remaining: u64,
    /// When, from now, the limit is whole again if nothing more is used. Zero for [`LimitKind::Concurrency`]: nobody knows
    /// when requests in flight will end.
    pub reset: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// All claims are held; one standing per claim, in the order of the claims.
    Held(Vec<Standing>),
    /// Nothing is held; this claim (an index into the claims) has not enough left.
    Refused {
        claim: usize,
        remaining: u64,
        /// When the same request would be admitted if nothing more were used. Always more than zero.
        retry_after: Duration,
    },
}

/// How a lease ends. Each claim as it was reserved, with what was really used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub lease: LeaseId,
    pub claims: Vec<SettledClaim>,
    pub certainty: Certainty,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledClaim {
    pub claim: Claim,
    /// May exceed the reserved amount (a provider that ignored a cap): it is then counted in full.
    pub actual: u64,
}

/// Whether the reservation is known to have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// `reserve` answered [`Reservation::Held`].
    Held,
    /// `reserve` failed or was abandoned before it answered: it may have happened, and may even still arrive. Settling then
    /// voids the lease, and a reservation of it that arrives later must hold nothing.
    Unknown,
}

/// Limits in every scope. The in-memory and the Redis adapter keep one contract (`ai4free_contract::rate_limiter`).
///
/// Rates are a sliding window of one-second buckets, rounded against the caller: any interval of [`RATE_WINDOW`] holds at
/// most `limit`, a burst gets exactly `limit`, and what was used is free again after at most one second more.
#[async_trait]
pub trait RateLimiter: Send + Sync {
    /// Holds all claims or none, in one atomic step. No two claims have the same scope and kind. Of several claims that do not
    /// fit, the refusal names the one that has to wait longest.
    ///
    /// Idempotent by lease: a lease that is held already answers `Held` and counts once.
    ///
    /// # Errors
    /// MUST fail (within the adapter's deadline, 150 ms) when it can't know; the caller then settles with
    /// [`Certainty::Unknown`]. A lease that was voided fails too.
    async fn reserve(&self, lease: LeaseId, claims: &[Claim]) -> Result<Reservation, LimiterDown>;

    /// Settles a lease to what was used. Never blocks and never fails: callable from `Drop`; an adapter with a network
    /// between queues it. Idempotent by lease; unknown leases are ignored (see [`Certainty::Unknown`] for the exception).
    /// Tokens move to the actual amount in the bucket of the reservation, concurrency is freed, requests stay counted
    /// unless `actual` is 0.
    fn settle(&self, settlement: Settlement);
}
