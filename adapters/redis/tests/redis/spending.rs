//! Spending from one budget, as the application does.

use ai4free_contract::rate_limiter::{claims, lease, money_claim, spent};
use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder, MoneyWindow},
    error::LimiterDown,
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::{Claims, Held, NeededGrant, RateLimiter, Reservation, Scope},
    usage_ledger::{GrantAnswer, GrantRequest, UsageLedger},
};

use crate::{
    patient::patiently,
    server::{Replica, eventually},
};

/// A budget for ever, of the whole gateway.
pub(crate) const LIMIT: i128 = 10_000;
/// Another replica may have been granted money that Redis is just about to hear of.
const PATIENCE: u32 = 100;

/// One request that may cost `amount`.
pub(crate) async fn spend(replica: &Replica, number: u128, amount: i64) -> Result<Reservation, LimiterDown> {
    let mut misses = 0;
    loop {
        let reservation = patiently(|| try_to_spend(replica, number, amount)).await?;
        let Reservation::NeedsGrants { holder, needed } = &reservation else { return Ok(reservation) };
        let is_missing = matches!(needed.as_slice(), [NeededGrant { granted: None, .. }]);
        match ask(replica, *holder, amount, is_missing).await {
            (GrantAnswer::Granted { before, .. }, _) if is_missing && before.0 > 0 => {
                misses += 1;
                if misses > PATIENCE {
                    patiently(|| replica.limiter.forget(*holder)).await?;
                }
                tokio::task::yield_now().await;
            }
            (_, Some(grant)) => patiently(|| replica.limiter.grant(&grant)).await?,
            (_, None) => patiently(|| replica.limiter.forget(*holder)).await?,
        }
    }
}

/// Without asking for more.
pub(crate) async fn try_to_spend(replica: &Replica, number: u128, amount: i64) -> Result<Reservation, LimiterDown> {
    replica.limiter.reserve(lease(number), &budget(amount)).await
}

/// Asks the ledger, and tells nobody yet. No grant: the holder is not the one any more.
pub(crate) async fn ask(
    replica: &Replica,
    holder: Holder,
    amount: i64,
    is_first: bool,
) -> (GrantAnswer, Option<Grant>) {
    let (scope, window) = (Scope::Gateway, MoneyWindow::TOTAL);
    let limit = PicoUsdSum(LIMIT);
    let claim = PicoUsd(amount);
    let known = PicoUsdSum(if is_first { 0 } else { i128::MAX });
    let request = GrantRequest { scope: scope.clone(), window, holder, limit, claim, share: 4, known };
    let answer = replica.ledger.grant(&request).await.unwrap();
    let grant = match answer {
        GrantAnswer::Granted { before, granted, elsewhere, settled_elsewhere } => {
            let is_final = before == granted;
            Some(Grant { scope, window, holder, granted, elsewhere, settled_elsewhere, is_final })
        }
        GrantAnswer::Stale => None,
    };
    (answer, grant)
}

pub(crate) async fn hold(replica: &Replica, number: u128, amount: i64) -> Holder {
    match spend(replica, number, amount).await {
        Ok(Reservation::Held(Held { holder: Some(holder), .. })) => holder,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn settle(replica: &Replica, number: u128, holder: Holder, amount: i64, actual: i64) {
    replica.limiter.settle(spent(lease(number), holder, &budget(amount), &[actual]));
    eventually("settled queue", || replica.limiter.queued_settlements() == 0).await;
}

pub(crate) async fn standing(replica: &Replica) -> Option<GrantStanding> {
    patiently(|| replica.limiter.standing(&Scope::Gateway, &MoneyWindow::TOTAL)).await.unwrap()
}

pub(crate) fn budget(amount: i64) -> Claims {
    claims(&[], &[money_claim(Scope::Gateway, MoneyWindow::TOTAL, LIMIT, amount)])
}
