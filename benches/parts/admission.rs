//! Limits in memory: a reservation of every kind in every scope, and its settlement.

use std::sync::{Arc, OnceLock};

use ai4free_local::{MemoryRateLimiter, OsSecrets, SystemClock, UuidV7Ids};
use ai4free_ports::{
    budget::{Grant, Holder, MoneyWindow},
    key::KeyId,
    limits::OutagePolicy,
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::{
        Certainty, Claim, Claims, LeaseId, LimitKind, MoneyClaim, RateLimiter, Reservation, Scope, SettledClaim,
        SettledMoney, Settlement,
    },
    runtime::IdSource,
    usage_ledger::SpoolId,
};
use divan::Bencher;
use futures_util::FutureExt;
use uuid::Uuid;

const PLENTY: u64 = 1 << 50;
const BUDGET: PicoUsdSum = PicoUsdSum(1 << 100);

fn scopes() -> [Scope; 5] {
    [
        Scope::Gateway,
        Scope::User("user".into()),
        Scope::Key(KeyId::parse("0123456789ab").unwrap()),
        Scope::Model("gpt-4o-mini".into()),
        Scope::Credential("openai/1".into()),
    ]
}

fn claims() -> Claims {
    let on_redis_down = OutagePolicy::LocalShare;
    let count =
        |scope: &Scope, kind, amount| Claim { scope: scope.clone(), kind, limit: PLENTY, amount, on_redis_down };
    let counts = |scope: &Scope| {
        [
            count(scope, LimitKind::Requests, 1),
            count(scope, LimitKind::Tokens, 700),
            count(scope, LimitKind::Concurrency, 1),
        ]
    };
    let money = |scope: &Scope| MoneyClaim {
        scope: scope.clone(),
        window: MoneyWindow::TOTAL,
        limit: BUDGET,
        amount: PicoUsd(220_000_000),
        is_top_up: false,
        on_redis_down,
    };
    Claims {
        counts: scopes().iter().flat_map(counts).collect(),
        money: scopes().iter().map(money).collect(),
        event: None,
    }
}

fn settlement(lease: LeaseId, holder: Holder, claims: &Claims) -> Settlement {
    Settlement {
        lease,
        claims: claims.counts.iter().map(|claim| SettledClaim { claim: claim.clone(), actual: claim.amount }).collect(),
        money: claims
            .money
            .iter()
            .map(|claim| SettledMoney { claim: claim.clone(), actual: PicoUsd(83_100_000) })
            .collect(),
        holder: Some(holder),
        certainty: Certainty::Held,
        events: Vec::new(),
    }
}

/// Five scopes with four kinds each, and what a caller clones for them.
#[divan::bench(threads = [1, 2])]
fn reserve_and_settle(bencher: Bencher<'_, '_>) {
    let clock = Arc::new(SystemClock::new());
    let ids = UuidV7Ids::new(clock.clone(), Arc::new(OsSecrets));
    let holder = Holder::Process { spool: SpoolId(Uuid::nil()), generation: 1 };
    let limiter = MemoryRateLimiter::new(clock, Arc::new(OnceLock::from(holder)));
    for scope in scopes() {
        let (window, granted, none) = (MoneyWindow::TOTAL, BUDGET, PicoUsdSum::default());
        let grant = Grant { scope, window, holder, granted, elsewhere: none, settled_elsewhere: none, is_final: true };
        limiter.grant(&grant).now_or_never().unwrap().unwrap();
    }
    let claims = claims();
    bencher.bench(|| {
        let lease = LeaseId { request: ids.request_id(), number: 0 };
        let reserved = limiter.reserve(lease, &claims).now_or_never().unwrap().unwrap();
        assert!(matches!(reserved, Reservation::Held(_)));
        limiter.settle(settlement(lease, holder, &claims));
    });
}
