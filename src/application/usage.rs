//! What a key has used, and what it may still spend.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    budget::{Budget, MoneyWindow},
    error::{RequestError, StoreError},
    money::PicoUsdSum,
    rate_limiter::{RateLimiter, Scope},
    runtime::{Calendar, Clock, Timestamp},
    usage_journal::UsageJournal,
    usage_ledger::{Audience, UsageLedger, UsageReport},
};

use crate::application::{
    authentication::Principal,
    failure::{Failure, Unavailable},
    policy::PolicySource,
};

/// How long a report waits for what has just ended to reach the ledger.
const FRESHNESS: Duration = Duration::from_millis(300);

pub struct Usage {
    pub ledger: Arc<dyn UsageLedger>,
    pub journal: Arc<dyn UsageJournal>,
    pub clock: Arc<dyn Clock>,
    pub calendar: Arc<dyn Calendar>,
    pub limiter: Arc<dyn RateLimiter>,
    pub policy: Arc<dyn PolicySource>,
}

/// How a budget stands in one of its windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetStanding {
    pub budget: Budget,
    pub window: MoneyWindow,
    /// By requests that have ended.
    pub settled: PicoUsdSum,
    /// By requests that run. While the limiter can't be asked: all that is granted and not settled, which is more.
    pub reserved: PicoUsdSum,
}

impl BudgetStanding {
    /// Never less than nothing, also of a budget that was lowered to less than what is spent.
    #[must_use]
    pub fn remaining(&self) -> PicoUsdSum {
        PicoUsdSum((self.budget.amount.0 - self.settled.0 - self.reserved.0).max(0))
    }

    /// `None`: never.
    #[must_use]
    pub fn resets_at(&self) -> Option<Timestamp> {
        (self.window != MoneyWindow::TOTAL).then_some(self.window.end)
    }
}

impl Usage {
    /// The caller's own usage, from everything or from `from` to `to` in whole hours.
    ///
    /// # Errors
    /// [`Failure::Request`] for an empty period, [`Failure::Unavailable`] when the ledger can't be read.
    pub async fn report(
        &self,
        principal: &Principal,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<UsageReport, Failure> {
        let from = from.unwrap_or_default();
        let to = to.unwrap_or_else(|| self.clock.now().saturating_add(Duration::from_secs(3600)));
        if to <= from {
            return Err(RequestError::new("'to' must be later than 'from'.").param("to").code("invalid_value").into());
        }
        self.journal.drained(FRESHNESS).await;
        let audience = Audience::Key(principal.key().id.clone());
        self.ledger.report(&audience, from, to).await.map_err(|error| unreadable(&error))
    }

    /// How the caller's budget, its own or that of its plan, stands now. `None`: it has none. Asked for after the
    /// [report](Self::report), it has all in it that the report has.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] when the ledger can't be read.
    pub async fn budget(&self, principal: &Principal) -> Result<Option<BudgetStanding>, Failure> {
        let key = principal.key();
        let policy = self.policy.current();
        let own = key.limits.budget.as_ref();
        let Some(budget) = own.or_else(|| policy.plans.get(&*key.plan)?.budget.as_ref()).cloned() else {
            return Ok(None);
        };
        let window = self.calendar.window(budget.period, &budget.time_zone, self.clock.now());
        let window = window.ok_or_else(|| Failure::unavailable(Unavailable::Plan))?;
        let scope = Scope::Key(key.id.clone());
        let held = self.limiter.standing(&scope, &window).await;
        let sum = self.ledger.budget(&scope, &window).await.map_err(|error| unreadable(&error))?;
        let reserved = match held {
            Ok(standing) => standing.unwrap_or_default().reserved,
            Err(_) => PicoUsdSum((sum.committed.0 - sum.settled.0).max(0)),
        };
        Ok(Some(BudgetStanding { budget, window, settled: sum.settled, reserved }))
    }
}

fn unreadable(error: &StoreError) -> Failure {
    tracing::warn!(error = error as &dyn std::error::Error, "usage can't be read");
    Failure::unavailable(Unavailable::UsageLedger)
}

#[cfg(test)]
mod tests {
    use ai4free_ports::{budget::BudgetPeriod, limits::OutagePolicy};

    use super::*;

    fn standing(amount: i128, settled: i128, reserved: i128, window: MoneyWindow) -> BudgetStanding {
        let budget = Budget {
            amount: PicoUsdSum(amount),
            period: BudgetPeriod::Day,
            time_zone: "UTC".into(),
            on_redis_down: OutagePolicy::LocalShare,
        };
        BudgetStanding { budget, window, settled: PicoUsdSum(settled), reserved: PicoUsdSum(reserved) }
    }

    #[test]
    fn what_remains_is_never_less_than_nothing() {
        let day = MoneyWindow { start: Timestamp(0), end: Timestamp::from_seconds(86_400) };
        assert_eq!(standing(10, 3, 4, day).remaining(), PicoUsdSum(3));
        assert_eq!(standing(10, 9, 4, day).remaining(), PicoUsdSum(0));
    }

    #[test]
    fn a_budget_for_ever_never_resets() {
        let day = MoneyWindow { start: Timestamp(0), end: Timestamp::from_seconds(86_400) };
        assert_eq!(standing(1, 0, 0, day).resets_at(), Some(Timestamp::from_seconds(86_400)));
        assert_eq!(standing(1, 0, 0, MoneyWindow::TOTAL).resets_at(), None);
    }
}
