//! How a budget stands, as its owner is told.

use std::sync::Arc;

use ai4free_contract::recording::RecordingLedger;
use ai4free_ports::{
    budget::{Budget, BudgetPeriod, Grant, GrantStanding, Holder, MoneyWindow},
    error::LimiterDown,
    key::StoredKey,
    limits::{Limits, OutagePolicy},
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::{Claims, LeaseId, RateLimiter, Reservation, Scope, Settlement},
    runtime::{Calendar, Clock},
    usage_ledger::{GrantRequest, UsageLedger},
};
use async_trait::async_trait;

use super::{
    fakes::{World, run},
    money::ShortDays,
};
use crate::application::{authentication::Principal, failure::Failure, policy::Policy, usage::Usage};

/// Knows one thing, or nothing because it is away.
struct Told(Option<PicoUsdSum>);

#[async_trait]
impl RateLimiter for Told {
    async fn reserve(&self, _: LeaseId, _: &Claims) -> Result<Reservation, LimiterDown> {
        Err(LimiterDown("only tells".into()))
    }
    fn settle(&self, _: Settlement) {}
    async fn grant(&self, _: &Grant) -> Result<(), LimiterDown> {
        Ok(())
    }
    async fn forget(&self, _: Holder) -> Result<(), LimiterDown> {
        Ok(())
    }
    async fn standing(&self, _: &Scope, _: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown> {
        let reserved = self.0.ok_or_else(|| LimiterDown("away".into()))?;
        Ok(Some(GrantStanding { reserved, ..GrantStanding::default() }))
    }
}

fn budget(amount: i128) -> Budget {
    Budget {
        amount: PicoUsdSum(amount),
        period: BudgetPeriod::Day,
        time_zone: "UTC".into(),
        on_redis_down: OutagePolicy::LocalShare,
    }
}

/// Usage of a key under a plan with a budget of 500, when this much is reserved.
fn usage(world: &World, ledger: Arc<RecordingLedger>, reserved: Option<PicoUsdSum>) -> Usage {
    let plan = Limits { budget: Some(budget(500)), ..Limits::NONE };
    let plans = [("plan".into(), plan), ("unlimited".into(), Limits::NONE)].into();
    Usage {
        ledger,
        journal: world.journal.clone(),
        clock: world.clock.clone(),
        calendar: Arc::new(ShortDays),
        limiter: Arc::new(Told(reserved)),
        policy: Arc::new(Arc::new(Policy { plans, ..Policy::default() })),
    }
}

#[test]
fn the_keys_own_budget_counts_before_that_of_its_plan() {
    let world = World::new(Vec::new());
    let usage = usage(&world, Arc::default(), Some(PicoUsdSum(30)));
    let amount_of = |key: StoredKey| {
        let standing = run(usage.budget(&Principal::of_test(key))).unwrap();
        standing.map(|standing| (standing.budget.amount.0, standing.reserved.0, standing.remaining().0))
    };
    assert_eq!(amount_of(world.key.clone()), Some((500, 30, 470)));
    let own = Limits { budget: Some(budget(70)), ..Limits::NONE };
    assert_eq!(amount_of(StoredKey { limits: own, ..world.key.clone() }), Some((70, 30, 40)));
    assert_eq!(amount_of(StoredKey { plan: "unlimited".into(), ..world.key }), None);
}

#[test]
fn while_the_limiter_is_away_all_that_is_granted_and_not_settled_is_reserved() {
    let world = World::new(Vec::new());
    let ledger = Arc::new(RecordingLedger::default());
    let window = ShortDays.window(BudgetPeriod::Day, "UTC", world.clock.now()).unwrap();
    let request = GrantRequest {
        scope: Scope::Key(world.key.id.clone()),
        window,
        holder: Holder::Shared(run(ledger.attest("redis", None)).unwrap()),
        limit: PicoUsdSum(500),
        claim: PicoUsd(1),
        share: 4,
        known: PicoUsdSum::default(),
    };
    run(ledger.grant(&request)).unwrap();
    let caller = Principal::of_test(world.key.clone());
    let standing = run(usage(&world, ledger.clone(), None).budget(&caller)).unwrap().unwrap();
    assert_eq!((standing.reserved, standing.remaining()), (PicoUsdSum(125), PicoUsdSum(375)));
    let standing = run(usage(&world, ledger, Some(PicoUsdSum(0))).budget(&caller)).unwrap().unwrap();
    assert_eq!((standing.reserved, standing.remaining()), (PicoUsdSum(0), PicoUsdSum(500)));
}

#[test]
fn a_time_zone_that_this_release_does_not_know_is_our_fault() {
    let world = World::new(Vec::new());
    let lost = Budget { time_zone: "Europe/Bonn".into(), ..budget(5) };
    let limits = Limits { budget: Some(lost), ..Limits::NONE };
    let caller = Principal::of_test(StoredKey { limits, ..world.key.clone() });
    let refused = run(usage(&world, Arc::default(), Some(PicoUsdSum(0))).budget(&caller));
    assert!(matches!(refused, Err(Failure::Unavailable { .. })));
}
