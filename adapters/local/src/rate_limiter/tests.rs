use std::sync::atomic::{AtomicU64, Ordering};

use ai4free_contract::rate_limiter::{Harness, claim, claims, counts, lease, money_claim, spent};
use ai4free_ports::{key::KeyId, money::PicoUsdSum, runtime::Timestamp, usage_ledger::SpoolId};
use uuid::Uuid;

use super::*;

#[derive(Default)]
struct MovableClock {
    micros: AtomicU64,
    /// Seconds by which the clock on the wall is ahead.
    off_by: AtomicU64,
}

impl Clock for MovableClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000)
            .saturating_add(self.monotonic() + Duration::from_secs(self.off_by.load(Ordering::SeqCst)))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::SeqCst))
    }
}

struct Memory {
    clock: Arc<MovableClock>,
    limiter: Arc<MemoryRateLimiter>,
}

impl Memory {
    fn new() -> Self {
        let clock = Arc::new(MovableClock::default());
        Self { clock: Arc::clone(&clock), limiter: Arc::new(MemoryRateLimiter::new(clock, holder())) }
    }
}

fn holder() -> Arc<OnceLock<Holder>> {
    Arc::new(OnceLock::from(Holder::Process { spool: SpoolId(Uuid::from_u128(7)), generation: 3 }))
}

#[async_trait]
impl Harness for Memory {
    fn limiter(&self) -> Arc<dyn RateLimiter> {
        Arc::clone(&self.limiter) as Arc<dyn RateLimiter>
    }

    async fn advance(&self, by: Duration) {
        self.clock.micros.fetch_add(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }

    async fn settled(&self) {}

    fn granted_at_first(&self) -> Option<PicoUsdSum> {
        Some(PicoUsdSum::default())
    }
}

fn start() -> impl Future<Output = Option<Memory>> {
    std::future::ready(Some(Memory::new()))
}

ai4free_contract::rate_limiter_contract!(start);

#[tokio::test]
async fn idle_scopes_and_old_tombstones_are_forgotten() {
    let memory = Memory::new();
    for number in 0..5_000 {
        let scope = Scope::User(format!("user-{number}").into());
        memory.limiter.reserve(lease(number), &counts(&[claim(scope, LimitKind::Requests, 10, 1)])).await.unwrap();
        let unknown = Settlement {
            lease: lease(number),
            claims: Vec::new(),
            money: Vec::new(),
            holder: None,
            certainty: Certainty::Unknown,
            events: Vec::new(),
        };
        memory.limiter.settle(unknown);
    }
    memory.advance(Duration::from_secs(61)).await;
    for number in 5_000..10_000 {
        let scope = Scope::User(format!("user-{number}").into());
        memory.limiter.reserve(lease(number), &counts(&[claim(scope, LimitKind::Requests, 10, 1)])).await.unwrap();
    }
    let cells: usize = memory.limiter.scopes.sizes().sum();
    let leases: usize = memory.limiter.leases.iter().map(|shard| shard.lock().unwrap().states.len()).sum();
    assert_eq!(leases, 5_000);
    // A shard is swept when it is next used: one or two may not have been.
    assert!((5_000..5_500).contains(&cells), "{cells} cells");
}

#[tokio::test]
async fn a_scope_with_a_request_in_flight_is_not_idle() {
    let memory = Memory::new();
    let one = [claim(Scope::Gateway, LimitKind::Concurrency, 1, 1)];
    assert!(matches!(memory.limiter.reserve(lease(1), &counts(&one)).await, Ok(Reservation::Held(_))));
    memory.advance(Duration::from_secs(3_600)).await;
    assert!(matches!(memory.limiter.reserve(lease(2), &counts(&one)).await, Ok(Reservation::Refused { .. })));
}

/// Threads lock the same scopes in every order: with a wrong lock order this never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claims_in_any_order_do_not_deadlock() {
    let memory = Memory::new();
    let scopes = [Scope::Gateway, Scope::User("u".into()), Scope::Key(KeyId::system()), Scope::Model("m".into())];
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8_usize {
        let (limiter, scopes) = (Arc::clone(&memory.limiter), scopes.clone());
        tasks.spawn(async move {
            for round in 0..500_usize {
                let id = lease(u128::try_from(task * 1_000 + round).unwrap());
                let claims: Vec<Claim> = (0..scopes.len())
                    .map(|at| scopes[(at * 3 + task + round) % scopes.len()].clone())
                    .map(|scope| claim(scope, LimitKind::Tokens, u64::MAX, 1))
                    .collect();
                limiter.reserve(id, &counts(&claims)).await.unwrap();
                let claims = claims.into_iter().map(|claim| SettledClaim { claim, actual: 0 }).collect();
                limiter.settle(Settlement {
                    lease: id,
                    claims,
                    money: Vec::new(),
                    holder: None,
                    certainty: Certainty::Held,
                    events: Vec::new(),
                });
            }
        });
    }
    tasks.join_all().await;
    let probe = [claim(Scope::Gateway, LimitKind::Tokens, 10, 10)];
    assert!(matches!(memory.limiter.reserve(lease(9_999_999), &counts(&probe)).await, Ok(Reservation::Held(_))));
}

/// Run it in release to see the cost: `cargo test --release -p ai4free-local cost -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_reserve_and_settle() {
    let limiter = MemoryRateLimiter::new(Arc::new(crate::SystemClock::default()), holder());
    let scopes = [
        Scope::Gateway,
        Scope::User("user-17".into()),
        Scope::Key(KeyId::parse("0123456789ab").unwrap()),
        Scope::Model("gpt-4o-mini".into()),
        Scope::Credential("openai-1".into()),
    ];
    let claims: Vec<Claim> = scopes
        .into_iter()
        .flat_map(|scope| [LimitKind::Requests, LimitKind::Tokens].map(|kind| claim(scope.clone(), kind, u64::MAX, 1)))
        .collect();
    let settled: Vec<SettledClaim> =
        claims.iter().map(|claim| SettledClaim { claim: claim.clone(), actual: 1 }).collect();
    let rounds = 200_000;
    let mut settlements: Vec<Vec<SettledClaim>> = (0..rounds).map(|_| settled.clone()).collect();
    let clock = crate::SystemClock::default();
    let start = clock.monotonic();
    for number in 0..rounds {
        limiter.reserve(lease(number), &counts(&claims)).await.unwrap();
        let claims = settlements.pop().unwrap();
        limiter.settle(Settlement {
            lease: lease(number),
            claims,
            money: Vec::new(),
            holder: None,
            certainty: Certainty::Held,
            events: Vec::new(),
        });
    }
    println!("{:?} per reserve and settle", (clock.monotonic() - start) / u32::try_from(rounds).unwrap());
}

#[tokio::test]
async fn no_request_with_a_budget_is_admitted_before_the_holder_is_known() {
    let holder = Arc::new(OnceLock::new());
    let limiter = MemoryRateLimiter::new(Arc::new(MovableClock::default()), holder.clone());
    let wanted = claims(&[], &[money_claim(Scope::Gateway, MoneyWindow::TOTAL, 100, 1)]);
    assert!(limiter.reserve(lease(1), &wanted).await.is_err());
    assert!(matches!(limiter.reserve(lease(2), &counts(&[])).await, Ok(Reservation::Held(_))));
    let known = Holder::Process { spool: SpoolId(Uuid::from_u128(7)), generation: 3 };
    holder.set(known).unwrap();
    let reply = limiter.reserve(lease(1), &wanted).await.unwrap();
    assert!(matches!(reply, Reservation::NeedsGrants { holder, .. } if holder == known), "{reply:?}");
    assert!(limiter.forget(known).await.is_err(), "there is no other holder to go on as");
}

#[tokio::test]
async fn a_budget_is_kept_until_a_day_after_its_window_whatever_the_clock_on_the_wall_says() {
    let memory = Memory::new();
    let now = memory.clock.now();
    let hour = MoneyWindow { start: now, end: now.saturating_add(Duration::from_secs(3_600)) };
    let grant = Grant {
        scope: Scope::Gateway,
        window: hour,
        holder: memory.holder().await,
        granted: PicoUsdSum(100),
        elsewhere: PicoUsdSum(0),
        settled_elsewhere: PicoUsdSum(0),
        is_final: false,
    };
    memory.limiter.grant(&grant).await.unwrap();
    let wanted = claims(&[], &[money_claim(Scope::Gateway, hour, 100, 60)]);
    assert!(matches!(memory.limiter.reserve(lease(1), &wanted).await, Ok(Reservation::Held(_))));
    // Any use of the scope sweeps.
    let sweep = async |number| {
        memory.limiter.reserve(lease(number), &counts(&[claim(Scope::Gateway, LimitKind::Requests, 9, 1)])).await
    };
    memory.clock.off_by.store(3 * 86_400, Ordering::SeqCst);
    memory.advance(Duration::from_secs(3_600 + 86_400 - 1)).await;
    sweep(2).await.unwrap();
    assert!(memory.limiter.standing(&Scope::Gateway, &hour).await.unwrap().is_some());
    memory.advance(Duration::from_secs(61)).await;
    sweep(3).await.unwrap();
    assert_eq!(memory.limiter.standing(&Scope::Gateway, &hour).await.unwrap(), None);
    // Its request settles all the same, and nothing comes of it.
    memory.limiter.settle(spent(lease(1), grant.holder, &wanted, &[60]));
    assert_eq!(memory.limiter.standing(&Scope::Gateway, &hour).await.unwrap(), None);
}
