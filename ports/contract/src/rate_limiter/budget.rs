//! Budgets as the clauses speak of them.

use ai4free_ports::{
    budget::{Epoch, Grant, GrantStanding, Holder, MoneyWindow},
    limits::OutagePolicy,
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::{
        Certainty, Claim, Claims, Held, LeaseId, MoneyClaim, NeededGrant, RateLimiter, Reservation, Scope,
        SettledClaim, SettledMoney, Settlement,
    },
    runtime::Timestamp,
};

use super::{Harness, lease, user};

#[must_use]
pub fn money_claim(scope: Scope, window: MoneyWindow, limit: i128, amount: i64) -> MoneyClaim {
    MoneyClaim {
        scope,
        window,
        limit: PicoUsdSum(limit),
        amount: PicoUsd(amount),
        is_top_up: false,
        on_redis_down: OutagePolicy::LocalShare,
    }
}

/// Claims of both sorts.
#[must_use]
pub fn claims(counts: &[Claim], money: &[MoneyClaim]) -> Claims {
    Claims { counts: counts.to_vec(), money: money.to_vec(), event: None }
}

/// The settlement of a held lease whose counts were used up and whose money came to `actual`.
#[must_use]
pub fn spent(id: LeaseId, holder: Holder, claims: &Claims, actual: &[i64]) -> Settlement {
    let used = |claim: &Claim| SettledClaim { claim: claim.clone(), actual: claim.amount };
    let cost = |(claim, actual): (&MoneyClaim, &i64)| SettledMoney { claim: claim.clone(), actual: PicoUsd(*actual) };
    Settlement {
        lease: id,
        claims: claims.counts.iter().map(used).collect(),
        money: claims.money.iter().zip(actual).map(cost).collect(),
        holder: Some(holder),
        certainty: Certainty::Held,
        events: Vec::new(),
    }
}

/// The settlement of claims of which nobody knows whether they were held.
#[must_use]
pub fn voided(id: LeaseId, claims: &Claims) -> Settlement {
    let amounts: Vec<i64> = claims.money.iter().map(|claim| claim.amount.0).collect();
    let nobody = Holder::Shared(Epoch::default());
    Settlement { holder: None, certainty: Certainty::Unknown, ..spent(id, nobody, claims, &amounts) }
}

/// Under whose name a limiter wants to be granted money.
pub async fn holder_of(limiter: &dyn RateLimiter) -> Holder {
    let unheard_of = [money_claim(user("whose grants are these?"), MoneyWindow::TOTAL, 1, 1)];
    match limiter.reserve(lease(u128::MAX), &claims(&[], &unheard_of)).await.unwrap() {
        Reservation::NeedsGrants { holder, .. } => holder,
        other => panic!("{other:?}"),
    }
}

/// What the limiter's clock says.
pub async fn time_of(limiter: &dyn RateLimiter) -> Timestamp {
    let long_over = MoneyWindow { start: Timestamp(0), end: Timestamp(1_000) };
    match limiter.reserve(lease(u128::MAX), &claims(&[], &[money_claim(user("u"), long_over, 1, 1)])).await.unwrap() {
        Reservation::WrongWindow { now } => now,
        other => panic!("{other:?}"),
    }
}

/// One scope's budget in one window, and how to speak of it.
pub(super) struct Budget<'a, H> {
    harness: &'a H,
    holder: Holder,
    scope: Scope,
    window: MoneyWindow,
    limit: i128,
}

impl<'a, H: Harness> Budget<'a, H> {
    pub(super) async fn new(harness: &'a H, scope: Scope, limit: i128) -> Self {
        let now = time_of(&*harness.limiter()).await;
        let hour = 3_600_000_000;
        let window = MoneyWindow { start: Timestamp(now.0 - hour), end: Timestamp(now.0 + hour) };
        Self { harness, holder: harness.holder().await, scope, window, limit }
    }

    pub(super) fn with_limit(&self, limit: i128) -> Self {
        Self { harness: self.harness, holder: self.holder, scope: self.scope.clone(), window: self.window, limit }
    }

    pub(super) fn in_window(self, window: MoneyWindow) -> Self {
        Self { window, ..self }
    }

    /// The window before this one.
    pub(super) fn over(self) -> Self {
        let length = self.window.end.0 - self.window.start.0;
        let window = MoneyWindow { start: Timestamp(self.window.start.0 - length), end: self.window.start };
        self.in_window(window)
    }

    pub(super) fn claim(&self, amount: i64) -> MoneyClaim {
        money_claim(self.scope.clone(), self.window, self.limit, amount)
    }

    pub(super) fn to_grant(&self, granted: i128, elsewhere: i128, is_final: bool) -> Grant {
        Grant {
            scope: self.scope.clone(),
            window: self.window,
            holder: self.holder,
            granted: PicoUsdSum(granted),
            elsewhere: PicoUsdSum(elsewhere),
            settled_elsewhere: settled_of(elsewhere),
            is_final,
        }
    }

    pub(super) async fn grant(&self, granted: i128, elsewhere: i128, is_final: bool) {
        self.harness.limiter().grant(&self.to_grant(granted, elsewhere, is_final)).await.unwrap();
    }

    pub(super) async fn reserve(&self, number: u128, amount: i64) -> Reservation {
        self.harness.limiter().reserve(lease(number), &claims(&[], &[self.claim(amount)])).await.unwrap()
    }

    pub(super) async fn hold(&self, number: u128, amount: i64) {
        let reply = self.reserve(number, amount).await;
        assert!(matches!(reply, Reservation::Held(_)), "{reply:?}");
    }

    pub(super) fn spent(&self, number: u128, reserved: i64, actual: i64) -> Settlement {
        spent(lease(number), self.holder, &claims(&[], &[self.claim(reserved)]), &[actual])
    }

    pub(super) async fn settle(&self, number: u128, reserved: i64, actual: i64) {
        self.harness.limiter().settle(self.spent(number, reserved, actual));
        self.harness.settled().await;
    }

    pub(super) async fn standing(&self) -> Option<GrantStanding> {
        self.harness.limiter().standing(&self.scope, &self.window).await.unwrap()
    }

    pub(super) fn held(&self, standing: GrantStanding) -> Reservation {
        Reservation::Held(Held { money: vec![standing], holder: Some(self.holder), ..Held::default() })
    }

    /// `None`: the first grant in this window.
    pub(super) fn needs(&self, granted: Option<i128>) -> Reservation {
        let granted = granted.map(PicoUsdSum).or_else(|| self.harness.granted_at_first());
        let needed = vec![NeededGrant { claim: 0, granted }];
        Reservation::NeedsGrants { holder: self.holder, needed }
    }
}

/// Of the only money claim.
pub(super) fn exhausted(standing: GrantStanding) -> Reservation {
    Reservation::Exhausted { claim: 0, standing }
}

pub(super) fn standing(granted: i128, settled: i128, reserved: i128, elsewhere: i128) -> GrantStanding {
    GrantStanding {
        granted: PicoUsdSum(granted),
        settled: PicoUsdSum(settled),
        reserved: PicoUsdSum(reserved),
        elsewhere: PicoUsdSum(elsewhere),
        settled_elsewhere: settled_of(elsewhere),
    }
}

/// Half of what others have is settled.
fn settled_of(elsewhere: i128) -> PicoUsdSum {
    PicoUsdSum(elsewhere / 2)
}
