//! Reserving what a request may use before the provider is called, and settling it to what it did use.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    budget::{Grant, GrantStanding, Holder, MoneyWindow, Spending},
    error::LimiterDown,
    key::KeyId,
    limits::OutagePolicy,
    money::{PicoUsd, PicoUsdSum},
    request::RequestId,
    runtime::Timestamp,
    usage_ledger::{EventKind, UsageEvent},
};

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

    /// As it is stored and as it is named in keys: `g`, `u:ID`, `k:ID`, `m:ID`, `c:ID`.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Gateway => "g".to_owned(),
            Self::User(id) => format!("u:{id}"),
            Self::Key(id) => format!("k:{id}"),
            Self::Model(id) => format!("m:{id}"),
            Self::Credential(id) => format!("c:{id}"),
        }
    }

    /// What [`Scope::to_text`] has written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "g" {
            return Some(Self::Gateway);
        }
        let (kind, id) = text.split_once(':')?;
        match kind {
            "u" => Some(Self::User(id.into())),
            "k" if id == KeyId::system().as_str() => Some(Self::Key(KeyId::system())),
            "k" => KeyId::parse(id).map(Self::Key),
            "m" => Some(Self::Model(id.into())),
            "c" => Some(Self::Credential(id.into())),
            _ => None,
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
    pub on_redis_down: OutagePolicy,
}

/// One budget that a request counts against, and by how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoneyClaim {
    pub scope: Scope,
    pub window: MoneyWindow,
    /// The budget. It may have changed since the grant: then the smaller of the two holds.
    pub limit: PicoUsdSum,
    /// An upper bound of what the request can cost.
    pub amount: PicoUsd,
    /// A further claim of a request that began in this window: it belongs there also when the window has ended.
    pub is_top_up: bool,
    pub on_redis_down: OutagePolicy,
}

/// All that a request claims at once. No two claims have the same scope and kind, no two money claims the same scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub counts: Vec<Claim>,
    pub money: Vec<MoneyClaim>,
    /// The request's event, of which a limiter that outlives this process makes [`Claims::hold`]. `None`: nobody can say what it
    /// was if the process and its journal are lost.
    pub event: Option<Arc<UsageEvent>>,
}

impl Claims {
    /// What the ledger is told if nobody can ever say how the request of this lease ended: all the money that it holds. Each
    /// lease of a request has a hold of its own, under the number of the lease. `None`: it holds no money.
    #[must_use]
    pub fn hold(&self, lease: LeaseId, holder: Holder) -> Option<UsageEvent> {
        let (event, first) = (self.event.as_deref()?, self.money.first()?);
        let spent = |claim: &MoneyClaim| Spending { scope: claim.scope.clone(), window: claim.window.start, holder };
        Some(UsageEvent {
            kind: EventKind::Hold,
            attempt: lease.number,
            // What a request can cost is the same in all scopes.
            cost: first.amount,
            spending: self.money.iter().map(spent).collect(),
            ..event.clone()
        })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.money.is_empty()
    }
}

/// Counts only: no budget is concerned.
impl From<Vec<Claim>> for Claims {
    fn from(counts: Vec<Claim>) -> Self {
        Self { counts, ..Self::default() }
    }
}

/// Identifies one reservation for ever. Later attempts of a request that reserve again have the next `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId {
    pub request: RequestId,
    pub number: u16,
}

/// How much is left of a claim's limit, after the reservation if there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub remaining: u64,
    /// When, from now, the limit is whole again if nothing more is used. Zero for [`LimitKind::Concurrency`]: nobody knows
    /// when requests in flight will end.
    pub reset: Duration,
}

/// In all but the first case nothing is held. Of several reasons, the first in this order is told: a wrong window, an
/// exhausted budget, a refused claim, a missing grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// All claims are held.
    Held(Held),
    /// This claim (an index into the counts) has not enough left.
    Refused {
        claim: usize,
        /// What counts against the limit now and was used by requests that have ended.
        settled: u64,
        /// What counts against the limit now and is only reserved, by requests that have not ended. Of a rate, what they
        /// reserved within the window; nothing in flight is settled, so of [`LimitKind::Concurrency`] this is all.
        reserved: u64,
        standing: Standing,
        /// When the same request would be admitted if nothing more were used. Always more than zero.
        retry_after: Duration,
    },
    /// This money claim (an index) does not fit, and the ledger has said within the last second that there is no more; or the
    /// budget itself is smaller than what this holder alone would then have used. (What others have may have shrunk since the
    /// last grant: of that, the ledger is asked.)
    Exhausted { claim: usize, standing: GrantStanding },
    /// These money claims don't fit into what this holder was granted: ask the ledger, pass the grants on to
    /// [`RateLimiter::grant`] and reserve again.
    NeedsGrants { holder: Holder, needed: Vec<NeededGrant> },
    /// A money claim is for a window that it is not the time of, by the limiter's clock, which is the one that counts.
    WrongWindow { now: Timestamp },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// One per count, in the order of the claims.
    pub counts: Vec<Standing>,
    /// One per money claim, in the order of the claims.
    pub money: Vec<GrantStanding>,
    /// Out of whose grants the money is held. `None` without money claims.
    pub holder: Option<Holder>,
    /// Whether the shared limiter was away, and the answer follows each claim's [`OutagePolicy`].
    pub is_degraded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeededGrant {
    /// Index of the money claim.
    pub claim: usize,
    /// What the holder has so far. `None`: nothing in this window, or it has lost it; the ledger knows which. A limiter that
    /// can't have lost anything says zero.
    pub granted: Option<PicoUsdSum>,
}

/// How a lease ends. Each claim as it was reserved, with what was really used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub lease: LeaseId,
    pub claims: Vec<SettledClaim>,
    pub money: Vec<SettledMoney>,
    /// As [`Held::holder`] said.
    pub holder: Option<Holder>,
    pub certainty: Certainty,
    /// The final events of the request, with its first lease if that holds money of a grant that is shared: a limiter that
    /// outlives this process keeps them until the ledger has them. Elsewhere none, and of no effect.
    pub events: Vec<UsageEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledClaim {
    pub claim: Claim,
    /// May exceed the reserved amount (a provider that ignored a cap): it is then counted in full.
    pub actual: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledMoney {
    pub claim: MoneyClaim,
    /// May exceed the reserved amount: it is then counted in full.
    pub actual: PicoUsd,
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
    /// MUST fail (within the deadline that the adapter was given, 150 ms if none) when it can't know; the caller then settles with
    /// [`Certainty::Unknown`]. A lease that was voided fails too.
    async fn reserve(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown>;

    /// Settles a lease to what was used. Never blocks and never fails: callable from `Drop`; an adapter with a network
    /// between queues it. Idempotent by lease; unknown leases are ignored (see [`Certainty::Unknown`] for the exception).
    /// Tokens move to the actual amount in the bucket of the reservation, concurrency is freed, requests stay counted
    /// unless `actual` is 0, money moves from reserved to settled.
    fn settle(&self, settlement: Settlement);

    /// Raises what a holder may spend. Of no effect on a holder that is not this limiter's any more.
    ///
    /// # Errors
    /// When the limiter can't be reached: the next reservation asks for the grant again.
    async fn grant(&self, grant: &Grant) -> Result<(), LimiterDown>;

    /// The ledger has recorded grants of this holder that the limiter does not know: it has lost data, and has to go on as
    /// another holder. Idempotent.
    ///
    /// # Errors
    /// When no new holder is to be had now.
    async fn forget(&self, holder: Holder) -> Result<(), LimiterDown>;

    /// How a budget stands in a window, as the current holder sees it. `None`: nothing was granted here.
    ///
    /// # Errors
    /// When the limiter can't be reached.
    async fn standing(&self, scope: &Scope, window: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown>;

    /// Budgets of which the ledger has recorded more for this process alone than it has used. They are worth giving back once
    /// the shared limiter is there again. None where limits are nobody else's, and none of the shared limiter.
    fn surplus(&self) -> Vec<(Scope, MoneyWindow)> {
        Vec::new()
    }

    /// From now on this process has no more of a budget than what it has used, which is returned with its holder, to be told
    /// to the ledger. While a grant of the same budget is on its way, it must not be called.
    fn give_back(&self, _scope: &Scope, _window: &MoneyWindow) -> Option<(Holder, PicoUsdSum)> {
        None
    }

    /// The ledger has recorded that no more than this is granted. All there is: nobody knows what it has recorded.
    fn gave_back(&self, _scope: &Scope, _window: &MoneyWindow, _granted: PicoUsdSum) {}
}
