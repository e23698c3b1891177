//! Limits of a single process. First-class: what an installation without Redis runs on.
//!
//! Lock order: the shard of the lease, then the shards of the scopes in ascending order. All are held while a reservation
//! is checked and written, none across an `await`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder, MoneyWindow},
    error::LimiterDown,
    money::PicoUsd,
    money::PicoUsdSum,
    rate_limiter::{
        Certainty, Claim, Claims, Held, LeaseId, LimitKind, RATE_WINDOW, RateLimiter, Reservation, Scope, SettledClaim,
        SettledMoney, Settlement, Standing,
    },
    runtime::Clock,
};
use async_trait::async_trait;

use budgets::Budget;
use cell::Cell;
use shards::{LockedScopes, ScopeShards};

mod budgets;
mod cell;
mod money;
mod shards;
mod window;

/// Enough that threads of one machine rarely meet in one shard.
const LEASE_SHARDS: usize = 64;

/// Nobody knows when a request in flight will end: ask again soon.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);

/// [`RateLimiter`] in memory.
pub struct MemoryRateLimiter {
    clock: Arc<dyn Clock>,
    holder: Arc<OnceLock<Holder>>,
    scopes: ScopeShards,
    leases: Vec<Mutex<LeaseShard>>,
}

impl MemoryRateLimiter {
    /// Whoever attaches the journal to the ledger sets the holder. Until then no request with a budget is admitted.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, holder: Arc<OnceLock<Holder>>) -> Self {
        Self {
            clock,
            holder,
            scopes: ScopeShards::default(),
            leases: (0..LEASE_SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// [`Clock::monotonic`].
    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// In whose name money is granted here. `None`: the journal is not attached to the ledger yet.
    pub(crate) fn holder(&self) -> Option<Holder> {
        self.holder.get().copied()
    }

    pub(crate) fn hold(&self, id: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        let holder = self.holder();
        if holder.is_none() && !claims.money.is_empty() {
            return Err(LimiterDown("the journal is not attached to the ledger yet".into()));
        }
        let mut leases = self.lease_shard(id).ok_or_else(|| LimiterDown("no shard of leases".into()))?;
        let mut scopes = self.scopes.lock(scopes_of(claims));
        // Read under the locks, so that no cell has seen a later time.
        let now = self.clock.monotonic();
        leases.forget_old(now.as_secs());
        scopes.drop_idle(now);
        let held = |counts, money| Held {
            counts,
            holder: holder.filter(|_| !claims.money.is_empty()),
            money,
            is_degraded: false,
        };
        match leases.states.get(&id) {
            Some(Lease::Voided { .. }) => {
                return Err(LimiterDown("the lease was voided before it was reserved".into()));
            }
            Some(Lease::Held { .. }) => {
                let counts = standings(&mut scopes, &claims.counts, now);
                return Ok(Reservation::Held(held(counts, money::standings(&mut scopes, &claims.money))));
            }
            None => {}
        }
        let assessed = money::assess(&mut scopes, &claims.money, now);
        let refusal = money::refusal(&claims.money, &assessed, self.clock.now())
            .or_else(|| refusal(&mut scopes, &claims.counts, now))
            .or_else(|| money::missing(holder, &assessed));
        if let Some(refusal) = refusal {
            return Ok(refusal);
        }
        leases.states.insert(id, Lease::Held { second: now.as_secs() });
        let counts = take(&mut scopes, &claims.counts, now);
        Ok(Reservation::Held(held(counts, money::take(&mut scopes, &claims.money))))
    }

    /// Budgets of which more is recorded in the ledger than is used here.
    pub(crate) fn surplus(&self) -> Vec<(Scope, MoneyWindow)> {
        self.scopes.collect(|scope, cell| cell.budgets.surplus().map(|window| (scope.clone(), window)).collect())
    }

    /// From now on no more of a budget is granted here than what is used.
    pub(crate) fn give_back(&self, scope: &Scope, window: &MoneyWindow) -> Option<PicoUsdSum> {
        let mut scopes = self.scopes.lock(std::iter::once(scope));
        scopes.existing_cell(scope)?.budgets.of_mut(window).map(Budget::give_back)
    }

    pub(crate) fn gave_back(&self, scope: &Scope, window: &MoneyWindow, granted: PicoUsdSum) {
        let mut scopes = self.scopes.lock(std::iter::once(scope));
        let budget = scopes.existing_cell(scope).and_then(|cell| cell.budgets.of_mut(window));
        if let Some(budget) = budget {
            budget.gave_back(granted);
        }
    }

    /// Takes the lease out of the held ones; the second of its reservation if it was among them.
    fn end(&self, id: LeaseId, certainty: Certainty) -> Option<u64> {
        let mut leases = self.lease_shard(id)?;
        if certainty == Certainty::Unknown {
            let second = self.clock.monotonic().as_secs();
            leases.forget_old(second);
            let tombstone = Lease::Voided { second };
            return leases.states.insert(id, tombstone).and_then(Lease::reserved_in);
        }
        let second = leases.states.get(&id).copied().and_then(Lease::reserved_in)?;
        leases.states.remove(&id);
        Some(second)
    }

    fn lease_shard(&self, id: LeaseId) -> Option<MutexGuard<'_, LeaseShard>> {
        // The low bits of a UUIDv7 are random.
        let shard = usize::from(id.request.0.as_bytes().last().copied().unwrap_or(0)) % LEASE_SHARDS;
        self.leases.get(shard).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl RateLimiter for MemoryRateLimiter {
    async fn reserve(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        self.hold(lease, claims)
    }

    fn settle(&self, settlement: Settlement) {
        let Some(second) = self.end(settlement.lease, settlement.certainty) else { return };
        let is_held = settlement.certainty == Certainty::Held;
        let counted = settlement.claims.iter().map(|settled| &settled.claim.scope);
        let mut scopes = self.scopes.lock(counted.chain(settlement.money.iter().map(|settled| &settled.claim.scope)));
        for run in settlement.claims.chunk_by(|one, next| one.claim.scope == next.claim.scope) {
            let Some(cell) = run.first().and_then(|settled| scopes.existing_cell(&settled.claim.scope)) else {
                continue;
            };
            for SettledClaim { claim, actual } in run {
                cell.settle(claim.kind, second, claim.amount, if is_held { *actual } else { 0 });
            }
        }
        for SettledMoney { claim, actual } in &settlement.money {
            if let Some(budget) = money::budget(&mut scopes, claim) {
                budget.settle(claim.amount, if is_held { *actual } else { PicoUsd::ZERO });
            }
        }
    }

    async fn grant(&self, grant: &Grant) -> Result<(), LimiterDown> {
        if self.holder() == Some(grant.holder) {
            let mut scopes = self.scopes.lock(std::iter::once(&grant.scope));
            let (now, wall_clock) = (self.clock.monotonic(), self.clock.now());
            if let Some(cell) = scopes.cell(&grant.scope) {
                cell.budgets.grant(grant, now, wall_clock);
            }
        }
        Ok(())
    }

    /// Nothing is lost here while the process lives: if it may not go on as this holder, another process has its journal.
    async fn forget(&self, holder: Holder) -> Result<(), LimiterDown> {
        if self.holder() == Some(holder) {
            return Err(LimiterDown("this process is no holder of budgets any more".into()));
        }
        Ok(())
    }

    async fn standing(&self, scope: &Scope, window: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown> {
        let mut scopes = self.scopes.lock(std::iter::once(scope));
        let budget = scopes.existing_cell(scope).and_then(|cell| cell.budgets.of(window));
        Ok(budget.map(Budget::standing))
    }
}

#[derive(Clone, Copy)]
enum Lease {
    /// Reserved in this second.
    Held { second: u64 },
    /// A tombstone set in this second: a reservation that arrives later holds nothing.
    Voided { second: u64 },
}

impl Lease {
    fn reserved_in(self) -> Option<u64> {
        match self {
            Self::Held { second } => Some(second),
            Self::Voided { .. } => None,
        }
    }
}

#[derive(Default)]
struct LeaseShard {
    states: HashMap<LeaseId, Lease>,
    cleaned: u64,
}

impl LeaseShard {
    /// A reservation can't be a whole window late: its caller's deadline is far shorter.
    fn forget_old(&mut self, second: u64) {
        let age = RATE_WINDOW.as_secs();
        if second < self.cleaned + age {
            return;
        }
        self.cleaned = second;
        self.states.retain(|_, lease| match lease {
            Lease::Held { .. } => true,
            Lease::Voided { second: voided } => second <= *voided + age,
        });
    }
}

/// The claim that has to wait longest: only then would the whole request be admitted.
fn refusal(scopes: &mut LockedScopes<'_>, claims: &[Claim], now: Duration) -> Option<Reservation> {
    let (mut longest, mut refusal) = (Duration::ZERO, None);
    let mut before = 0;
    for (scope, run) in runs(claims) {
        let cell = scopes.cell(scope)?;
        for (claim, index) in run.iter().zip(before..) {
            cell.roll(claim.kind, now.as_secs());
            if cell.fits(claim) {
                continue;
            }
            let wait = match claim.kind {
                LimitKind::Concurrency => CONCURRENCY_RETRY,
                LimitKind::Requests | LimitKind::ImageRequests | LimitKind::Tokens => {
                    Duration::from_secs(cell.fits_at(claim)).saturating_sub(now)
                }
            };
            if refusal.is_none() || wait > longest {
                let (settled, reserved) = cell.parts(claim.kind);
                let standing = standing(cell, claim, now);
                longest = wait;
                refusal = Some(Reservation::Refused { claim: index, settled, reserved, standing, retry_after: wait });
            }
        }
        before += run.len();
    }
    refusal
}

/// Counts claims that were found to fit.
fn take(scopes: &mut LockedScopes<'_>, claims: &[Claim], now: Duration) -> Vec<Standing> {
    let mut standings = Vec::with_capacity(claims.len());
    for (scope, run) in runs(claims) {
        let Some(cell) = scopes.cell(scope) else { continue };
        for claim in run {
            cell.reserve(claim.kind, claim.amount);
            standings.push(standing(cell, claim, now));
        }
    }
    standings
}

fn standings(scopes: &mut LockedScopes<'_>, claims: &[Claim], now: Duration) -> Vec<Standing> {
    let mut standings = Vec::with_capacity(claims.len());
    for (scope, run) in runs(claims) {
        let Some(cell) = scopes.cell(scope) else { continue };
        for claim in run {
            cell.roll(claim.kind, now.as_secs());
            standings.push(standing(cell, claim, now));
        }
    }
    standings
}

/// A scope twice is no harm: its shard is locked once.
fn scopes_of(claims: &Claims) -> impl Iterator<Item = &Scope> {
    runs(&claims.counts).map(|(scope, _)| scope).chain(claims.money.iter().map(|claim| &claim.scope))
}

/// Neighbours of one scope together, so that its cell is looked up once. (Every scope is locked, so each has a cell.)
fn runs(claims: &[Claim]) -> impl Iterator<Item = (&Scope, &[Claim])> {
    claims.chunk_by(|one, next| one.scope == next.scope).filter_map(|run| Some((&run.first()?.scope, run)))
}

fn standing(cell: &Cell, claim: &Claim, now: Duration) -> Standing {
    let reset = Duration::from_secs(cell.whole_at(claim.kind)).saturating_sub(now);
    Standing { remaining: cell.remaining(claim), reset }
}

#[cfg(test)]
mod tests;
