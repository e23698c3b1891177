//! Brings grants from the ledger to the limiter: the only time that admission asks a database, and rarely on the path.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder, MoneyWindow},
    error::LimiterDown,
    money::PicoUsdSum,
    rate_limiter::{MoneyClaim, NeededGrant, RateLimiter, Scope},
    runtime::{TaskSpawner, Timer, Timestamp},
    usage_ledger::{GrantAnswer, GrantRequest, UsageLedger},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared, try_join_all},
};

use crate::application::failure::{Failure, Unavailable};

/// Of what is left of a budget, the shared limiter is granted one part in so many: a limiter that loses its data withholds
/// no more than that from its successor.
const SHARED_SHARE: u32 = 4;
/// Another replica may have been told of its grant and not have passed it on yet. After this it has lost it.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
/// How often a limiter is told of a grant before it is given up.
const DELIVERIES: u32 = 4;
/// Budgets that are remembered to be asked for before those that have been answered are looked for.
const TIDY_ABOVE: usize = 256;

pub struct Grants {
    desk: Arc<Desk>,
    spawner: Arc<dyn TaskSpawner>,
    /// What is being asked for now.
    asking: Mutex<HashMap<Budgeted, WeakShared<Asking>>>,
}

/// A scope and the start of a window.
type Budgeted = (Scope, Timestamp);

type Asking = BoxFuture<'static, Result<(), Unavailable>>;

/// Who asks, and whom.
struct Desk {
    limiter: Arc<dyn RateLimiter>,
    ledger: Arc<dyn UsageLedger>,
    timer: Arc<dyn Timer>,
    /// A process by itself is granted one part in so many: 1 where there is only one.
    process_share: u32,
}

impl Grants {
    #[must_use]
    pub fn new(
        limiter: Arc<dyn RateLimiter>,
        ledger: Arc<dyn UsageLedger>,
        timer: Arc<dyn Timer>,
        spawner: Arc<dyn TaskSpawner>,
        process_share: u32,
    ) -> Self {
        let desk = Arc::new(Desk { limiter, ledger, timer, process_share });
        Self { desk, spawner, asking: Mutex::default() }
    }

    /// Asks the ledger for all that is needed. Then it is worth reserving again: there is more, or there will be none.
    pub(super) async fn provide(
        &self,
        holder: Holder,
        needed: &[NeededGrant],
        money: &[MoneyClaim],
    ) -> Result<(), Failure> {
        let needed = needed.iter().filter_map(|need| Some((money.get(need.claim)?, need.granted)));
        let asked = try_join_all(needed.map(|(claim, known)| self.ask(holder, claim, known))).await;
        asked.map(|_| ()).map_err(Failure::unavailable)
    }

    /// Gives back what this process was granted while the shared limiter was away, and has not spent. For a time when that is
    /// there again; what can't be told to the ledger now is surplus the next time, too.
    pub async fn give_back_surplus(&self) {
        for (scope, window) in self.desk.limiter.surplus() {
            let (desk, place) = (self.desk.clone(), (scope.clone(), window.start));
            // Alone: while a grant is on its way the ledger and the limiter do not agree.
            let told = self.once_at_a_time(place, move || async move { desk.give_back(&scope, &window).await }.boxed());
            if told.await.is_err() {
                return;
            }
        }
    }

    /// Asks in the background for more where half is used, so that the next requests need not wait.
    pub(super) fn prefetch(&self, holder: Holder, money: &[MoneyClaim], standings: &[GrantStanding]) {
        for (claim, standing) in money.iter().zip(standings) {
            let is_half_used = standing.used().0 * 2 > standing.granted.0;
            let there_is_more = standing.granted.0 + standing.elsewhere.0 < claim.limit.0;
            if is_half_used && there_is_more && !claim.is_top_up {
                // A failure is found again by the request that needs the grant, and told to its client.
                drop(self.ask(holder, claim, Some(standing.granted)));
            }
        }
    }

    /// Once at a time for each budget, whoever waits. It goes on when nobody waits any more: a grant that is recorded has to
    /// reach the limiter.
    fn ask(&self, holder: Holder, claim: &MoneyClaim, known: Option<PicoUsdSum>) -> Shared<Asking> {
        let place = (claim.scope.clone(), claim.window.start);
        self.once_at_a_time(place, || {
            let (desk, claim) = (self.desk.clone(), claim.clone());
            async move { desk.ask(holder, &claim, known).await }.boxed()
        })
    }

    fn once_at_a_time(&self, place: Budgeted, errand: impl FnOnce() -> Asking) -> Shared<Asking> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let running = asking.get(&place).and_then(WeakShared::upgrade).filter(|running| running.peek().is_none());
        if let Some(running) = running {
            return running;
        }
        if asking.len() > TIDY_ABOVE {
            asking.retain(|_, running| running.upgrade().is_some());
        }
        let fresh = errand().shared();
        if let Some(weak) = fresh.downgrade() {
            asking.insert(place, weak);
        }
        self.spawner.spawn(Box::pin(fresh.clone().map(drop)));
        fresh
    }
}

impl Desk {
    async fn ask(&self, holder: Holder, claim: &MoneyClaim, known: Option<PicoUsdSum>) -> Result<(), Unavailable> {
        let request = GrantRequest {
            scope: claim.scope.clone(),
            window: claim.window,
            holder,
            limit: claim.limit,
            claim: claim.amount,
            share: match holder {
                Holder::Shared(_) => SHARED_SHARE,
                Holder::Process { .. } => self.process_share,
            },
            known: known.unwrap_or_default(),
        };
        let answer = match self.ledger.grant(&request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the ledger gives no grant");
                self.doubt(request).await;
                return Err(Unavailable::UsageLedger);
            }
        };
        let deal = self.deal(request, answer, known.is_none());
        deal.await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a grant does not reach the limiter");
            Unavailable::RateLimiter
        })
    }

    /// The ledger did not answer, and may have recorded a grant all the same. What this process was granted by itself, and does
    /// not know of, is surplus. (The shared limiter hears of it with the next grant.)
    async fn doubt(&self, request: GrantRequest) {
        let GrantRequest { scope, window, holder, .. } = request;
        if matches!(holder, Holder::Shared(_)) {
            return;
        }
        let nothing = PicoUsdSum::default();
        let grant = Grant {
            scope,
            window,
            holder,
            granted: nothing,
            elsewhere: nothing,
            settled_elsewhere: nothing,
            is_final: false,
        };
        if self.limiter.grant(&grant).await.is_ok() {
            self.limiter.gave_back(&grant.scope, &grant.window, PicoUsdSum(i128::MAX));
        }
    }

    async fn give_back(&self, scope: &Scope, window: &MoneyWindow) -> Result<(), Unavailable> {
        let Some((holder, granted)) = self.limiter.give_back(scope, window) else { return Ok(()) };
        self.ledger.lower(scope, window, holder, granted).await.map_err(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "a grant can't be given back yet");
            Unavailable::UsageLedger
        })?;
        self.limiter.gave_back(scope, window, granted);
        Ok(())
    }

    async fn deal(&self, request: GrantRequest, answer: GrantAnswer, is_first: bool) -> Result<(), LimiterDown> {
        let GrantRequest { scope, window, holder, limit, .. } = request;
        let GrantAnswer::Granted { before, granted, elsewhere, settled_elsewhere } = answer else {
            return self.limiter.forget(holder).await;
        };
        if is_first && before > PicoUsdSum::default() {
            // Recorded before, and the limiter did not know: another replica is bringing it, or it is lost.
            if self.limiter.standing(&scope, &window).await?.is_some() {
                return Ok(());
            }
            self.timer.sleep(ON_ITS_WAY).await;
            if self.limiter.standing(&scope, &window).await?.is_some() {
                return Ok(());
            }
            tracing::error!(%holder, scope = scope.name(), "the limiter has lost a grant that the ledger recorded");
            return self.limiter.forget(holder).await;
        }
        let is_final = granted.0 + elsewhere.0 >= limit.0;
        self.deliver(&Grant { scope, window, holder, granted, elsewhere, settled_elsewhere, is_final }).await
    }

    /// More than once: a grant that is recorded and never arrives looks like one that was lost.
    async fn deliver(&self, grant: &Grant) -> Result<(), LimiterDown> {
        for _ in 1..DELIVERIES {
            if self.limiter.grant(grant).await.is_ok() {
                return Ok(());
            }
            self.timer.sleep(ON_ITS_WAY).await;
        }
        self.limiter.grant(grant).await
    }
}
