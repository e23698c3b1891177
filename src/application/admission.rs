//! Reserving everything that a request may use, in every scope or in none, before a provider is called.
//!
//! Order: reserve, then journal `open`, then the provider. A refused request writes nothing, and what a crash leaves behind
//! between the two was never sent.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    catalogue::Price,
    rate_limiter::{
        Certainty, Claim, Claims, LeaseId, LimitKind, RateLimiter, Reservation, Scope, SettledClaim, Settlement,
        Standing,
    },
    request::Operation,
    runtime::Clock,
    usage_journal::UsageJournal,
    usage_ledger::UsageEvent,
};

use crate::application::{
    failure::{Failure, LimitReached, Unavailable},
    gate::Gate,
    metering::Meter,
    observation::Observation,
    policy::{self, ScopeLimits},
    standing::{LimitHeaders, LimitStanding},
};

/// Proof that a request holds its reservations and is written in the journal. Only [`Admission::admit`] makes one; dropping it
/// settles.
#[must_use]
pub struct Admitted {
    meter: Meter,
    limits: LimitHeaders,
}

impl Admitted {
    /// Gives up the proof: what is left is the meter, which settles however the request ends.
    pub(super) fn into_parts(self) -> (Meter, LimitHeaders) {
        (self.meter, self.limits)
    }
}

/// A request as admission sees it.
pub struct Order {
    pub operation: Operation,
    pub scopes: Vec<ScopeLimits>,
    /// Upper bound of its tokens, in and out. Not looked at when no scope limits tokens.
    pub tokens: u64,
    /// The whole event at its upper bound.
    pub bound: UsageEvent,
    pub price: Option<Arc<Price>>,
    /// [`ai4free_ports::catalogue::Model::label`].
    pub label: Arc<str>,
    /// Bytes of the prompt, for an estimate when the request is interrupted.
    pub prompt_bytes: u64,
}

pub struct Admission {
    pub limiter: Arc<dyn RateLimiter>,
    pub journal: Arc<dyn UsageJournal>,
    pub clock: Arc<dyn Clock>,
    pub gate: Arc<Gate>,
}

/// Not admitted, with the order and the observation back: the caller may try once more with a tighter bound.
pub struct NotAdmitted {
    pub failure: Failure,
    pub order: Order,
    pub observation: Observation,
}

impl Admission {
    /// # Errors
    /// [`Failure::LimitReached`] with everything about the limit that said no; [`Failure::Unavailable`] when we can't account.
    pub async fn admit(&self, order: Order, observation: Observation) -> Result<Admitted, Box<NotAdmitted>> {
        if !self.gate.is_open() {
            let failure = Failure::unavailable(Unavailable::Gateway);
            return Err(Box::new(NotAdmitted { failure, order, observation }));
        }
        let claims = Claims::from(policy::claims(&order.scopes, order.operation, order.tokens));
        let lease = LeaseId { request: order.bound.request, number: 0 };
        // Armed before the reservation is awaited: a client that leaves meanwhile leaves no lease behind.
        let mut held = Held::pending(self.limiter.clone(), lease, claims);
        let limits = match held.reserve().await {
            Ok(Ok(limits)) => limits,
            Ok(Err(reached)) => {
                return Err(Box::new(NotAdmitted { failure: Failure::LimitReached(reached), order, observation }));
            }
            Err(failure) => return Err(Box::new(NotAdmitted { failure, order, observation })),
        };
        if let Err(error) = self.journal.open(&order.bound) {
            tracing::error!(error = &error as &dyn std::error::Error, "usage journal refused a request");
            return Err(Box::new(NotAdmitted { failure: error.into(), order, observation }));
        }
        let meter = Meter::opened(self, held, order, observation);
        Ok(Admitted { meter, limits })
    }
}

/// Leases that have to be given back. Dropping it voids what was not settled: nothing was sent.
pub(super) struct Held {
    limiter: Arc<dyn RateLimiter>,
    leases: Vec<Lease>,
}

struct Lease {
    id: LeaseId,
    claims: Claims,
    certainty: Certainty,
}

/// What a request used, in the terms of its claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used<'a> {
    /// 0 voids a request that was never sent.
    pub(super) requests: u64,
    pub(super) tokens: u64,
    /// The credential of the last attempt: those before it gave no tokens.
    pub(super) credential: Option<&'a str>,
}

impl Held {
    fn pending(limiter: Arc<dyn RateLimiter>, id: LeaseId, claims: Claims) -> Self {
        let leases =
            if claims.is_empty() { Vec::new() } else { vec![Lease { id, claims, certainty: Certainty::Unknown }] };
        Self { limiter, leases }
    }

    /// Reserves the newest lease. A refused one is forgotten: it holds nothing.
    async fn reserve(&mut self) -> Result<Result<LimitHeaders, Box<LimitReached>>, Failure> {
        let Some(lease) = self.leases.last_mut() else { return Ok(Ok(LimitHeaders::default())) };
        match self.limiter.reserve(lease.id, &lease.claims).await? {
            Reservation::Held(standing) => {
                lease.certainty = Certainty::Held;
                Ok(Ok(LimitHeaders::of(&lease.claims.counts, &standing.counts)))
            }
            Reservation::Refused { claim, remaining, retry_after } => {
                let refused = self.leases.pop().and_then(|mut lease| {
                    (claim < lease.claims.counts.len()).then(|| lease.claims.counts.swap_remove(claim))
                });
                // An index out of range would be a fault of the adapter: answered as an outage, not as a panic.
                let refused = refused.ok_or(Failure::unavailable(Unavailable::RateLimiter))?;
                Ok(Err(Box::new(reached(refused, remaining, retry_after))))
            }
            Reservation::Exhausted { .. } | Reservation::NeedsGrants { .. } | Reservation::WrongWindow { .. } => {
                Err(Failure::unavailable(Unavailable::RateLimiter))
            }
        }
    }

    /// A further lease, for the credential of a later attempt. Held together with the others.
    pub(super) async fn extend(
        &mut self,
        scope: ScopeLimits,
        operation: Operation,
        tokens: u64,
        request: ai4free_ports::request::RequestId,
    ) -> Result<(), Failure> {
        let number = u16::try_from(self.leases.len()).unwrap_or(u16::MAX);
        let claims = Claims::from(policy::claims(&[scope], operation, tokens));
        if claims.is_empty() {
            return Ok(());
        }
        self.leases.push(Lease { id: LeaseId { request, number }, claims, certainty: Certainty::Unknown });
        self.reserve().await?.map(|_| ()).map_err(Failure::LimitReached)
    }

    /// Settles every lease. Never blocks.
    pub(super) fn settle(&mut self, used: Used<'_>) {
        for lease in self.leases.drain(..) {
            let served = |scope: &Scope| match scope {
                Scope::Credential(id) => used.credential == Some(&**id),
                Scope::Gateway | Scope::User(_) | Scope::Key(_) | Scope::Model(_) => true,
            };
            let actual = |claim: &Claim| match claim.kind {
                LimitKind::Requests | LimitKind::ImageRequests => used.requests,
                LimitKind::Tokens if served(&claim.scope) => used.tokens,
                LimitKind::Tokens | LimitKind::Concurrency => 0,
            };
            let counts = lease.claims.counts.into_iter();
            let claims = counts.map(|claim| SettledClaim { actual: actual(&claim), claim }).collect();
            self.limiter.settle(Settlement {
                lease: lease.id,
                claims,
                money: Vec::new(),
                holder: None,
                certainty: lease.certainty,
            });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.settle(Used::default());
    }
}

fn reached(claim: Claim, remaining: u64, retry_after: Duration) -> LimitReached {
    let standing = LimitStanding {
        scope: claim.scope.clone(),
        limit: claim.limit,
        standing: Standing { remaining, reset: retry_after },
    };
    let headers = match claim.kind {
        LimitKind::Requests | LimitKind::ImageRequests => LimitHeaders { requests: Some(standing), tokens: None },
        LimitKind::Tokens => LimitHeaders { requests: None, tokens: Some(standing) },
        LimitKind::Concurrency => LimitHeaders::default(),
    };
    LimitReached {
        scope: claim.scope,
        kind: claim.kind,
        limit: claim.limit,
        remaining,
        requested: claim.amount,
        retry_after,
        headers,
    }
}
