//! What limits do while the limiter that all replicas share can't be asked: each claim says it for itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder, MoneyWindow},
    error::LimiterDown,
    limits::OutagePolicy,
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::{
        Certainty, Claim, Claims, Held, LeaseId, RateLimiter, Reservation, Scope, SettledClaim, SettledMoney,
        Settlement, Standing,
    },
};
use async_trait::async_trait;

use crate::MemoryRateLimiter;
use leases::LocalLeases;

mod leases;

/// A [`RateLimiter`] around the shared one. While that fails, this process decides, by the policy of each claim:
///
/// - one `closed` claim closes the request: the failure is passed on;
/// - `local_share` counts against this process alone: a rate or a concurrency with [`ReplicaShare`], a budget with grants of
///   its own from the ledger, so that it is exact;
/// - `open` is not enforced. The cost of such a request is still recorded as this process's spending: nothing was granted for
///   it, so the ledger adds it to what is used as soon as it is settled. So this takes a known holder too.
///
/// A lease ends where it was held, whatever is up by then.
pub struct FallbackLimiter {
    shared: Arc<dyn RateLimiter>,
    local: Arc<MemoryRateLimiter>,
    share: ReplicaShare,
    /// Held here, and not settled yet.
    leases: LocalLeases,
    degraded: AtomicU64,
}

/// What part of a limit is this process's while it decides alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaShare {
    /// How many replicas there are; 0 counts as 1.
    pub replicas: u32,
}

impl ReplicaShare {
    /// The shares of all replicas together are never more than the limit. One that is smaller than the number of replicas
    /// refuses everything.
    #[must_use]
    pub fn of(&self, limit: u64) -> u64 {
        limit / u64::from(self.replicas.max(1))
    }
}

impl FallbackLimiter {
    #[must_use]
    pub fn new(shared: Arc<dyn RateLimiter>, local: Arc<MemoryRateLimiter>, share: ReplicaShare) -> Self {
        Self { shared, local, share, leases: LocalLeases::default(), degraded: AtomicU64::new(0) }
    }

    /// How many leases were held here because the shared limiter could not be asked.
    #[must_use]
    pub fn degraded_reservations(&self) -> u64 {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Never awaits: no caller can give up in between.
    fn reserve_here(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        let holder = self.local.holder();
        if holder.is_none() && !claims.money.is_empty() {
            return Err(LimiterDown("the shared limiter is away, and this process is no holder of budgets yet".into()));
        }
        let enforced = Enforced::of(claims, self.share);
        Ok(match self.local.hold(lease, &enforced.claims)? {
            Reservation::Held(held) => {
                if self.leases.hold(lease) {
                    self.degraded.fetch_add(1, Ordering::Relaxed);
                }
                Reservation::Held(Held {
                    counts: count_standings(claims, held.counts),
                    money: money_standings(claims, held.money),
                    holder: holder.filter(|_| !claims.money.is_empty()),
                    is_degraded: true,
                })
            }
            Reservation::Refused { claim, settled, reserved, standing, retry_after } => {
                Reservation::Refused { claim: place(&enforced.counts, claim), settled, reserved, standing, retry_after }
            }
            Reservation::Exhausted { claim, standing } => {
                Reservation::Exhausted { claim: place(&enforced.money, claim), standing }
            }
            Reservation::NeedsGrants { holder, mut needed } => {
                needed.iter_mut().for_each(|need| need.claim = place(&enforced.money, need.claim));
                Reservation::NeedsGrants { holder, needed }
            }
            wrong @ Reservation::WrongWindow { .. } => wrong,
        })
    }

    fn is_local(&self, holder: Holder) -> bool {
        self.local.holder() == Some(holder)
    }
}

#[async_trait]
impl RateLimiter for FallbackLimiter {
    async fn reserve(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        if self.leases.contains(lease) {
            return self.reserve_here(lease, claims);
        }
        let down = match self.shared.reserve(lease, claims).await {
            Ok(reply) => return Ok(reply),
            Err(down) => down,
        };
        if policies(claims).any(|policy| policy == OutagePolicy::Closed) {
            return Err(down);
        }
        // It may be held there all the same, or may yet arrive. So it is voided there, and asked about only here from now on:
        // a caller that brings a grant and asks again would otherwise be given there what the void then takes away.
        self.leases.bind(lease, self.local.now());
        self.shared.settle(unknown(lease, claims));
        self.reserve_here(lease, claims)
    }

    fn settle(&self, mut settlement: Settlement) {
        let is_local = self.leases.remove(settlement.lease);
        let is_unknown = settlement.certainty == Certainty::Unknown;
        if !is_local && !is_unknown {
            self.shared.settle(settlement);
            return;
        }
        if !is_local {
            // Voided in both: a reservation that arrives later must not be held by whichever is up then.
            self.shared.settle(settlement.clone());
        }
        settlement.claims.retain(|settled| settled.claim.on_redis_down == OutagePolicy::LocalShare);
        settlement.money.retain(|settled| settled.claim.on_redis_down == OutagePolicy::LocalShare);
        self.local.settle(settlement);
    }

    async fn grant(&self, grant: &Grant) -> Result<(), LimiterDown> {
        if self.is_local(grant.holder) { self.local.grant(grant).await } else { self.shared.grant(grant).await }
    }

    async fn forget(&self, holder: Holder) -> Result<(), LimiterDown> {
        if self.is_local(holder) { self.local.forget(holder).await } else { self.shared.forget(holder).await }
    }

    async fn standing(&self, scope: &Scope, window: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown> {
        match self.shared.standing(scope, window).await {
            Err(_) => self.local.standing(scope, window).await,
            known => known,
        }
    }

    fn surplus(&self) -> Vec<(Scope, MoneyWindow)> {
        self.local.surplus()
    }

    fn give_back(&self, scope: &Scope, window: &MoneyWindow) -> Option<(Holder, PicoUsdSum)> {
        let holder = self.local.holder()?;
        self.local.give_back(scope, window).map(|granted| (holder, granted))
    }

    fn gave_back(&self, scope: &Scope, window: &MoneyWindow, granted: PicoUsdSum) {
        self.local.gave_back(scope, window, granted);
    }
}

/// The claims that this process enforces, and their places among all.
#[derive(Default)]
struct Enforced {
    claims: Claims,
    counts: Vec<usize>,
    money: Vec<usize>,
}

impl Enforced {
    fn of(claims: &Claims, share: ReplicaShare) -> Self {
        let mut enforced = Self::default();
        for (place, claim) in claims.counts.iter().enumerate() {
            if claim.on_redis_down == OutagePolicy::LocalShare {
                enforced.counts.push(place);
                enforced.claims.counts.push(Claim { limit: share.of(claim.limit), ..claim.clone() });
            }
        }
        for (place, claim) in claims.money.iter().enumerate() {
            if claim.on_redis_down == OutagePolicy::LocalShare {
                enforced.money.push(place);
                enforced.claims.money.push(claim.clone());
            }
        }
        enforced
    }
}

fn place(places: &[usize], of: usize) -> usize {
    places.get(of).copied().unwrap_or(of)
}

fn policies(claims: &Claims) -> impl Iterator<Item = OutagePolicy> {
    let counts = claims.counts.iter().map(|claim| claim.on_redis_down);
    counts.chain(claims.money.iter().map(|claim| claim.on_redis_down))
}

/// Of what is not enforced, all is left.
fn count_standings(claims: &Claims, enforced: Vec<Standing>) -> Vec<Standing> {
    let mut enforced = enforced.into_iter();
    let standing = |claim: &Claim| match claim.on_redis_down {
        OutagePolicy::LocalShare => enforced.next(),
        OutagePolicy::Closed | OutagePolicy::Open => Some(Standing { remaining: claim.limit, reset: Duration::ZERO }),
    };
    claims.counts.iter().filter_map(standing).collect()
}

/// Of what is not enforced, nothing is known to be used.
fn money_standings(claims: &Claims, enforced: Vec<GrantStanding>) -> Vec<GrantStanding> {
    let mut enforced = enforced.into_iter();
    let policies = claims.money.iter().map(|claim| claim.on_redis_down);
    let standing = |policy| match policy {
        OutagePolicy::LocalShare => enforced.next(),
        OutagePolicy::Closed | OutagePolicy::Open => Some(GrantStanding::default()),
    };
    policies.filter_map(standing).collect()
}

/// Nobody knows whether the shared limiter holds this.
fn unknown(lease: LeaseId, claims: &Claims) -> Settlement {
    let nothing_used = |claim: &Claim| SettledClaim { claim: claim.clone(), actual: 0 };
    let money = claims.money.iter().map(|claim| SettledMoney { claim: claim.clone(), actual: PicoUsd::ZERO });
    Settlement {
        lease,
        claims: claims.counts.iter().map(nothing_used).collect(),
        money: money.collect(),
        holder: None,
        certainty: Certainty::Unknown,
        events: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
