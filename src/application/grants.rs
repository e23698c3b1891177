//! Brings grants from the ledger to the limiter: the only time that admission asks a database, and rarely on the path.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder},
    error::LimiterDown,
    money::PicoUsdSum,
    rate_limiter::{MoneyClaim, NeededGrant, RateLimiter, Scope},
    runtime::{TaskSpawner, Timer, Timestamp},
    usage_ledger::{GrantAnswer, GrantRequest, UsageLedger},
};
use futures_util::{
    future::try_join_all,
    lock::{Mutex as AsyncMutex, MutexGuard},
};

use crate::application::failure::{Failure, Unavailable};

/// Of what is left of a budget, the shared limiter is granted one part in so many: a limiter that loses its data withholds
/// no more than that from its successor.
const SHARED_SHARE: u32 = 4;
/// Another replica may have been told of its grant and not have passed it on yet. After this it has lost it.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
/// Flights that are remembered before those that have ended are looked for.
const TIDY_ABOVE: usize = 256;

pub struct Grants {
    limiter: Arc<dyn RateLimiter>,
    ledger: Arc<dyn UsageLedger>,
    timer: Arc<dyn Timer>,
    spawner: Arc<dyn TaskSpawner>,
    /// A process by itself is granted one part in so many: 1 where there is only one.
    process_share: u32,
    flights: Mutex<HashMap<Budgeted, Weak<Flight>>>,
}

/// A scope and the start of a window.
type Budgeted = (Scope, Timestamp);

/// One budget asks the ledger once at a time, whoever waits.
#[derive(Default)]
struct Flight {
    asking: AsyncMutex<()>,
    answers: AtomicU64,
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
        Self { limiter, ledger, timer, spawner, process_share, flights: Mutex::default() }
    }

    /// Asks the ledger for all that is needed. Then it is worth reserving again: there is more, or there will be none.
    pub(super) async fn provide(
        &self,
        holder: Holder,
        needed: &[NeededGrant],
        money: &[MoneyClaim],
    ) -> Result<(), Failure> {
        let asked = needed.iter().filter_map(|need| Some((money.get(need.claim)?, need.granted)));
        try_join_all(asked.map(|(claim, granted)| self.provide_one(holder, claim, granted))).await.map(|_| ())
    }

    /// Asks in the background for more where half is used, so that the next requests need not wait.
    pub(super) fn prefetch(self: &Arc<Self>, holder: Holder, money: &[MoneyClaim], standings: &[GrantStanding]) {
        for (claim, standing) in money.iter().zip(standings) {
            let is_half_used = standing.used().0 * 2 > standing.granted.0;
            let there_is_more = standing.granted.0 + standing.elsewhere.0 < claim.limit.0;
            if !is_half_used || !there_is_more || claim.is_top_up {
                continue;
            }
            let flight = self.flight(claim);
            if flight.asking.try_lock().is_none() {
                continue;
            }
            let (grants, claim, granted) = (self.clone(), claim.clone(), standing.granted);
            self.spawner.spawn(Box::pin(async move {
                // A failure is found again by the request that needs the grant, and told to its client.
                let _ = grants.provide_one(holder, &claim, Some(granted)).await;
            }));
        }
    }

    async fn provide_one(
        &self,
        holder: Holder,
        claim: &MoneyClaim,
        granted: Option<PicoUsdSum>,
    ) -> Result<(), Failure> {
        let flight = self.flight(claim);
        let before = flight.answers.load(Ordering::Acquire);
        let asking = flight.asking.lock().await;
        if flight.answers.load(Ordering::Acquire) != before {
            return Ok(()); // somebody else has asked while we waited
        }
        let asked = self.ask(&asking, holder, claim, granted).await;
        flight.answers.fetch_add(1, Ordering::Release);
        asked
    }

    async fn ask(
        &self,
        _: &MutexGuard<'_, ()>,
        holder: Holder,
        claim: &MoneyClaim,
        known: Option<PicoUsdSum>,
    ) -> Result<(), Failure> {
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
        };
        let answer = self.ledger.grant(&request).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the ledger gives no grant");
            Failure::unavailable(Unavailable::UsageLedger)
        })?;
        let GrantAnswer::Granted { before, granted, elsewhere } = answer else {
            return Ok(self.limiter.forget(holder).await?);
        };
        if known.is_none() && before > PicoUsdSum::default() && self.has_lost(claim).await? {
            tracing::error!(%holder, scope = claim.scope.name(), "the limiter has lost a grant that the ledger recorded");
            return Ok(self.limiter.forget(holder).await?);
        }
        let grant = Grant {
            scope: request.scope,
            window: request.window,
            holder,
            granted,
            elsewhere,
            is_final: granted.0 + elsewhere.0 >= claim.limit.0,
        };
        Ok(self.limiter.grant(&grant).await?)
    }

    /// Whether nobody brings the grant that was recorded before.
    async fn has_lost(&self, claim: &MoneyClaim) -> Result<bool, LimiterDown> {
        if self.limiter.standing(&claim.scope, &claim.window).await?.is_some() {
            return Ok(false);
        }
        self.timer.sleep(ON_ITS_WAY).await;
        Ok(self.limiter.standing(&claim.scope, &claim.window).await?.is_none())
    }

    fn flight(&self, claim: &MoneyClaim) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.len() > TIDY_ABOVE {
            flights.retain(|_, flight| flight.strong_count() > 0);
        }
        let known = flights.entry((claim.scope.clone(), claim.window.start)).or_default();
        known.upgrade().unwrap_or_else(|| {
            let fresh = Arc::new(Flight::default());
            *known = Arc::downgrade(&fresh);
            fresh
        })
    }
}
