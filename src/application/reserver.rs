//! Asks the limiter for a reservation until it says yes or no, and brings it the grants that money takes.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use ai4free_ports::{
    budget::{Budget, GrantStanding, MoneyWindow},
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::{
        Claim, Claims, Held, LeaseId, LimitKind, MoneyClaim, RateLimiter, Reservation, Scope, Settlement, Standing,
    },
    runtime::{Calendar, Clock, Timestamp},
};

use crate::application::{
    failure::{BudgetExhausted, Failure, LimitReached, Unavailable},
    grants::Grants,
    policy::ScopeLimits,
    standing::{LimitHeaders, LimitStanding},
};

/// Reservations are tried again after each grant, and many requests may want the same one. Who has seen so many go to others
/// is told to come back.
const MOST_TRIES: u32 = 64;

pub struct Reserver {
    limiter: Arc<dyn RateLimiter>,
    grants: Arc<Grants>,
    calendar: Arc<dyn Calendar>,
    clock: Arc<dyn Clock>,
    /// Microseconds by which the limiter's clock is ahead of ours: its clock decides which window it is.
    ahead: AtomicI64,
}

/// Why nothing is reserved.
pub(super) enum NotHeld {
    /// Certainly nothing is held.
    Refused(Failure),
    /// The limiter did not answer: it may hold the lease, or may yet.
    Unknown(Failure),
}

impl Reserver {
    #[must_use]
    pub fn new(
        limiter: Arc<dyn RateLimiter>,
        grants: Arc<Grants>,
        calendar: Arc<dyn Calendar>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { limiter, grants, calendar, clock, ahead: AtomicI64::new(0) }
    }

    /// The window of a budget that it is the time of.
    pub(super) fn window(&self, budget: &Budget) -> Result<MoneyWindow, Failure> {
        let now = Timestamp(self.clock.now().0.saturating_add(self.ahead.load(Ordering::Relaxed)));
        // Checked when the budget was set: only a release that knows fewer time zones could fail here.
        let window = self.calendar.window(budget.period, &budget.time_zone, now);
        window.ok_or_else(|| Failure::unavailable(Unavailable::Plan))
    }

    /// What the budgets among these scopes are claimed for.
    pub(super) fn money(&self, scopes: &[ScopeLimits], cost: Option<PicoUsd>) -> Result<Vec<MoneyClaim>, Failure> {
        let budgets = scopes.iter().filter_map(|(scope, limits)| Some((scope, limits.budget.as_ref()?)));
        budgets
            .map(|(scope, budget)| {
                Ok(MoneyClaim {
                    scope: scope.clone(),
                    window: self.window(budget)?,
                    limit: budget.amount,
                    amount: cost.ok_or(Failure::Unpriced)?,
                    is_top_up: false,
                    on_redis_down: budget.on_redis_down,
                })
            })
            .collect()
    }

    /// Asks until the limiter says yes or no, and brings it the grants that it lacks. The windows of `claims` may be moved.
    pub(super) async fn hold(
        &self,
        lease: LeaseId,
        claims: &mut Claims,
        scopes: &[ScopeLimits],
    ) -> Result<Held, NotHeld> {
        for _ in 0..MOST_TRIES {
            match self.limiter.reserve(lease, claims).await.map_err(|down| NotHeld::Unknown(down.into()))? {
                Reservation::Held(held) => {
                    if let Some(holder) = held.holder {
                        self.grants.prefetch(holder, &claims.money, &held.money);
                    }
                    return Ok(held);
                }
                Reservation::Refused { claim, settled, reserved, standing, retry_after } => {
                    let Claim { scope, kind, limit, amount, .. } = claims.counts.get(claim).ok_or_else(broken)?.clone();
                    return Err(NotHeld::Refused(Failure::LimitReached(Box::new(LimitReached {
                        headers: headers(&scope, kind, limit, standing),
                        scope,
                        kind,
                        limit,
                        settled,
                        reserved,
                        standing,
                        requested: amount,
                        retry_after,
                    }))));
                }
                Reservation::Exhausted { claim, standing } => {
                    let claim = claims.money.get(claim).ok_or_else(broken)?;
                    return Err(NotHeld::Refused(Failure::BudgetExhausted(Box::new(exhausted(claim, &standing)))));
                }
                Reservation::NeedsGrants { holder, needed } => {
                    self.grants.provide(holder, &needed, &claims.money).await.map_err(NotHeld::Refused)?;
                }
                Reservation::WrongWindow { now } => {
                    self.ahead.store(now.0.saturating_sub(self.clock.now().0), Ordering::Relaxed);
                    self.move_windows(claims, scopes).map_err(NotHeld::Refused)?;
                }
            }
        }
        Err(NotHeld::Refused(Failure::unavailable(Unavailable::UsageLedger)))
    }

    pub(super) fn settle(&self, settlement: Settlement) {
        self.limiter.settle(settlement);
    }

    fn move_windows(&self, claims: &mut Claims, scopes: &[ScopeLimits]) -> Result<(), Failure> {
        for claim in &mut claims.money {
            let budget = scopes.iter().find(|(scope, _)| *scope == claim.scope);
            if let Some(budget) = budget.and_then(|(_, limits)| limits.budget.as_ref()) {
                claim.window = self.window(budget)?;
            }
        }
        Ok(())
    }
}

/// An index out of range would be a fault of the adapter: answered as an outage, not as a panic.
fn broken() -> NotHeld {
    NotHeld::Unknown(Failure::unavailable(Unavailable::RateLimiter))
}

fn headers(scope: &Scope, kind: LimitKind, limit: u64, standing: Standing) -> LimitHeaders {
    let standing = Some(LimitStanding { scope: scope.clone(), limit, standing });
    match kind {
        LimitKind::Requests | LimitKind::ImageRequests => {
            LimitHeaders { requests: standing, ..LimitHeaders::default() }
        }
        LimitKind::Tokens => LimitHeaders { tokens: standing, ..LimitHeaders::default() },
        LimitKind::Concurrency => LimitHeaders::default(),
    }
}

fn exhausted(claim: &MoneyClaim, standing: &GrantStanding) -> BudgetExhausted {
    BudgetExhausted {
        scope: claim.scope.clone(),
        limit: claim.limit,
        settled: PicoUsdSum(standing.settled.0 + standing.settled_elsewhere.0),
        reserved: PicoUsdSum(standing.reserved.0 + standing.elsewhere.0 - standing.settled_elsewhere.0),
        requested: claim.amount,
        resets_at: (claim.window != MoneyWindow::TOTAL).then_some(claim.window.end),
    }
}
