use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU64},
};

use ai4free_contract::rate_limiter::{Harness, claim, claims, counts, lease, money_claim, settlement, spent, void};
use ai4free_ports::{
    budget::Epoch,
    money::PicoUsdSum,
    rate_limiter::{LimitKind, MoneyClaim, NeededGrant},
    runtime::{Clock, Timestamp},
    usage_ledger::SpoolId,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::*;

mod surplus;

#[derive(Default)]
struct MovableClock(AtomicU64);

impl Clock for MovableClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000).saturating_add(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// A limiter that can go away, and whose answers can be lost.
struct Shared {
    limiter: MemoryRateLimiter,
    is_down: AtomicBool,
    /// Reservations are made, but nobody is told.
    loses_answers: AtomicBool,
    /// Settlements wait while it is down.
    queue: Mutex<Vec<Settlement>>,
}

impl Shared {
    fn come_back(&self) {
        self.is_down.store(false, Ordering::SeqCst);
        self.loses_answers.store(false, Ordering::SeqCst);
        for settlement in std::mem::take(&mut *self.queue.lock().unwrap()) {
            self.limiter.settle(settlement);
        }
    }

    fn check(&self) -> Result<(), LimiterDown> {
        if self.is_down.load(Ordering::SeqCst) { Err(LimiterDown("no connection".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl RateLimiter for Shared {
    async fn reserve(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        self.check()?;
        let reply = self.limiter.reserve(lease, claims).await;
        if self.loses_answers.load(Ordering::SeqCst) { Err(LimiterDown("too slow".into())) } else { reply }
    }

    fn settle(&self, settlement: Settlement) {
        let mut queue = self.queue.lock().unwrap();
        match self.check() {
            Ok(()) => self.limiter.settle(settlement),
            Err(_) => queue.push(settlement),
        }
    }

    async fn grant(&self, grant: &Grant) -> Result<(), LimiterDown> {
        self.check()?;
        self.limiter.grant(grant).await
    }

    async fn forget(&self, holder: Holder) -> Result<(), LimiterDown> {
        self.check()?;
        self.limiter.forget(holder).await
    }

    async fn standing(&self, scope: &Scope, window: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown> {
        self.check()?;
        self.limiter.standing(scope, window).await
    }
}

/// One of several replicas.
struct Replica {
    clock: Arc<MovableClock>,
    shared: Arc<Shared>,
    local: Arc<MemoryRateLimiter>,
    limiter: Arc<FallbackLimiter>,
}

const PROCESS: Holder = Holder::Process { spool: SpoolId(Uuid::from_u128(7)), generation: 3 };
const SHARED: Holder = Holder::Shared(Epoch(1));
const ALONE: ReplicaShare = ReplicaShare { replicas: 1 };

impl Replica {
    fn new(share: ReplicaShare, process: OnceLock<Holder>) -> Self {
        let clock = Arc::new(MovableClock::default());
        let shared = Arc::new(Shared {
            limiter: MemoryRateLimiter::new(clock.clone(), Arc::new(OnceLock::from(SHARED))),
            is_down: AtomicBool::new(false),
            loses_answers: AtomicBool::new(false),
            queue: Mutex::default(),
        });
        let local = Arc::new(MemoryRateLimiter::new(clock.clone(), Arc::new(process)));
        let limiter = Arc::new(FallbackLimiter::new(shared.clone(), local.clone(), share));
        Self { clock, shared, local, limiter }
    }

    fn up() -> Self {
        Self::new(ALONE, OnceLock::from(PROCESS))
    }

    fn down(share: ReplicaShare) -> Self {
        let replica = Self::new(share, OnceLock::from(PROCESS));
        replica.go_down();
        replica
    }

    fn go_down(&self) {
        self.shared.is_down.store(true, Ordering::SeqCst);
    }

    async fn reserve(&self, number: u128, claims: &Claims) -> Reservation {
        self.limiter.reserve(lease(number), claims).await.unwrap()
    }

    async fn hold(&self, number: u128, claims: &Claims) -> Held {
        match self.reserve(number, claims).await {
            Reservation::Held(held) => held,
            other => panic!("{other:?}"),
        }
    }
}

#[async_trait]
impl Harness for Replica {
    fn limiter(&self) -> Arc<dyn RateLimiter> {
        self.limiter.clone()
    }

    async fn advance(&self, by: Duration) {
        self.clock.0.fetch_add(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }

    async fn settled(&self) {}

    fn granted_at_first(&self) -> Option<PicoUsdSum> {
        Some(PicoUsdSum::default())
    }
}

mod healthy {
    use super::*;

    fn start() -> impl Future<Output = Option<Replica>> {
        std::future::ready(Some(Replica::up()))
    }

    ai4free_contract::rate_limiter_contract!(start);
}

const POLICIES: [OutagePolicy; 3] = [OutagePolicy::Closed, OutagePolicy::LocalShare, OutagePolicy::Open];

fn requests(scope: Scope, limit: u64, on_redis_down: OutagePolicy) -> Claim {
    Claim { on_redis_down, ..claim(scope, LimitKind::Requests, limit, 1) }
}

fn budget(scope: Scope, amount: i64, on_redis_down: OutagePolicy) -> MoneyClaim {
    MoneyClaim { on_redis_down, ..money_claim(scope, MoneyWindow::TOTAL, 1_000, amount) }
}

fn user(id: &str) -> Scope {
    Scope::User(id.into())
}

fn grant(scope: Scope, holder: Holder, granted: i128, is_final: bool) -> Grant {
    let (granted, nothing) = (PicoUsdSum(granted), PicoUsdSum::default());
    let window = MoneyWindow::TOTAL;
    Grant { scope, window, holder, granted, elsewhere: nothing, settled_elsewhere: nothing, is_final }
}

/// What is left of a limit of 100 at one of the two limiters.
async fn left(limiter: &MemoryRateLimiter, scope: Scope, kind: LimitKind) -> u64 {
    let probe = [claim(scope, kind, 100, 1)];
    let reply = limiter.reserve(lease(u128::MAX), &counts(&probe)).await.unwrap();
    limiter.settle(settlement(lease(u128::MAX), &probe, &[0]));
    let Reservation::Held(held) = reply else { panic!("{reply:?}") };
    held.counts[0].remaining + 1
}

#[tokio::test]
async fn the_policy_of_each_claim_decides() {
    for policy in POLICIES {
        let replica = Replica::down(ALONE);
        let limit = counts(&[requests(user("u"), 1, policy)]);
        let replies = [
            replica.limiter.reserve(lease(1), &limit).await.ok(),
            replica.limiter.reserve(lease(2), &limit).await.ok(),
        ];
        let held = |remaining| {
            let counts = vec![Standing {
                remaining,
                reset: Duration::from_secs(if policy == OutagePolicy::LocalShare { 61 } else { 0 }),
            }];
            Reservation::Held(Held { counts, is_degraded: true, ..Held::default() })
        };
        let (retry_after, reset) = (Duration::from_secs(61), Duration::from_secs(61));
        let standing = Standing { remaining: 0, reset };
        let refused = Reservation::Refused { claim: 0, settled: 0, reserved: 1, standing, retry_after };
        let (expected, degraded) = match policy {
            OutagePolicy::Closed => ([None, None], 0),
            OutagePolicy::LocalShare => ([Some(held(0)), Some(refused)], 1),
            OutagePolicy::Open => ([Some(held(1)), Some(held(1))], 2),
        };
        assert_eq!(replies, expected, "{policy:?}");
        assert_eq!(replica.limiter.degraded_reservations(), degraded, "{policy:?}");
    }
}

#[tokio::test]
async fn one_closed_claim_closes_the_request() {
    let replica = Replica::down(ALONE);
    replica.limiter.grant(&grant(user("u"), PROCESS, 100, false)).await.unwrap();
    let [closed, local, open] = POLICIES.map(|policy| budget(user("u"), 1, policy));
    let others = [requests(user("u"), 10, OutagePolicy::LocalShare), requests(Scope::Gateway, 10, OutagePolicy::Open)];
    for money in [local, open] {
        let with_closed = [&others[..], &[requests(user("v"), 10, OutagePolicy::Closed)]].concat();
        assert!(replica.limiter.reserve(lease(1), &claims(&with_closed, &[money])).await.is_err());
    }
    assert!(replica.limiter.reserve(lease(2), &claims(&others, &[closed])).await.is_err());
    // Nothing of it is held.
    assert_eq!(replica.hold(3, &counts(&others)).await.counts[0].remaining, 9);
}

#[tokio::test]
async fn answers_name_the_claims_as_the_caller_numbers_them() {
    let replica = Replica::down(ALONE);
    let [_, local, open] = POLICIES;
    let of_two = |limit| {
        let counted = [requests(user("open"), 7, open), requests(user("u"), limit, local)];
        claims(&counted, &[budget(user("open"), 5, open), budget(user("u"), 60, local)])
    };
    let needed = vec![NeededGrant { claim: 1, granted: Some(PicoUsdSum(0)) }];
    assert_eq!(replica.reserve(1, &of_two(5)).await, Reservation::NeedsGrants { holder: PROCESS, needed });
    replica.limiter.grant(&grant(user("u"), PROCESS, 100, true)).await.unwrap();
    let held = replica.hold(1, &of_two(5)).await;
    assert_eq!(held.counts.iter().map(|count| count.remaining).collect::<Vec<_>>(), [7, 4]);
    assert_eq!(held.money.iter().map(|money| money.reserved.0).collect::<Vec<_>>(), [0, 60]);
    assert_eq!((held.holder, held.is_degraded), (Some(PROCESS), true));
    let told = replica.reserve(2, &of_two(5)).await;
    assert!(matches!(told, Reservation::Exhausted { claim: 1, .. }), "{told:?}");
    replica.limiter.settle(spent(lease(1), PROCESS, &of_two(5), &[5, 10]));
    let told = replica.reserve(2, &of_two(1)).await;
    assert!(matches!(told, Reservation::Refused { claim: 1, .. }), "{told:?}");
    let standing = replica.limiter.standing(&user("u"), &MoneyWindow::TOTAL).await.unwrap().unwrap();
    assert_eq!((standing.settled, standing.reserved), (PicoUsdSum(10), PicoUsdSum(0)));
    // What is open is recorded by the ledger alone.
    assert_eq!(replica.limiter.standing(&user("open"), &MoneyWindow::TOTAL).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_not_counted_is_not_given_back() {
    let replica = Replica::down(ALONE);
    let slot = |on_redis_down| Claim { on_redis_down, ..claim(user("u"), LimitKind::Concurrency, 1, 1) };
    let money = |on_redis_down| budget(user("u"), 60, on_redis_down);
    replica.limiter.grant(&grant(user("u"), PROCESS, 100, false)).await.unwrap();
    let [enforced, open] =
        [OutagePolicy::LocalShare, OutagePolicy::Open].map(|policy| claims(&[slot(policy)], &[money(policy)]));
    replica.hold(1, &enforced).await;
    replica.hold(2, &open).await;
    replica.limiter.settle(spent(lease(2), PROCESS, &open, &[60]));
    assert!(matches!(replica.reserve(3, &enforced).await, Reservation::Refused { .. }));
    let standing = replica.limiter.standing(&user("u"), &MoneyWindow::TOTAL).await.unwrap().unwrap();
    assert_eq!((standing.settled, standing.reserved), (PicoUsdSum(0), PicoUsdSum(60)));
}

#[tokio::test]
async fn money_is_not_held_before_this_process_can_be_charged() {
    let replica = Replica::new(ALONE, OnceLock::new());
    replica.go_down();
    for policy in POLICIES {
        let money = claims(&[], &[budget(user("u"), 1, policy)]);
        assert!(replica.limiter.reserve(lease(1), &money).await.is_err(), "{policy:?}");
    }
    assert_eq!(replica.hold(2, &counts(&[requests(user("u"), 10, OutagePolicy::LocalShare)])).await.holder, None);
}

#[test]
fn all_shares_together_are_as_much_of_the_limit_as_can_be_divided() {
    for replicas in 0..9 {
        for limit in [0, 1, 2, 3, 7, 8, 9, 1_000, u64::MAX] {
            let all = u64::from(replicas.max(1));
            let together = u128::from(ReplicaShare { replicas }.of(limit)) * u128::from(all);
            assert_eq!(u128::from(limit) - together, u128::from(limit % all), "{limit} over {replicas}");
        }
    }
}

#[tokio::test]
async fn replicas_that_cannot_see_each_other_admit_no_more_than_the_limit() {
    let replicas: Vec<Replica> = (0..3).map(|_| Replica::down(ReplicaShare { replicas: 3 })).collect();
    for kind in [LimitKind::Requests, LimitKind::Concurrency, LimitKind::Tokens] {
        let mut admitted = Vec::new();
        for replica in &replicas {
            let mut here = 0;
            for number in 0..20 {
                let wanted = counts(&[claim(user("u"), kind, 11, 1)]);
                here += u32::from(matches!(replica.reserve(number, &wanted).await, Reservation::Held(_)));
                if kind != LimitKind::Concurrency {
                    replica.limiter.settle(settlement(lease(number), &wanted.counts, &[1]));
                }
            }
            for number in 0..20 {
                replica.limiter.settle(settlement(lease(number), &[claim(user("u"), kind, 11, 1)], &[1]));
            }
            admitted.push(here);
        }
        assert_eq!(admitted, [3, 3, 3], "{kind:?}");
    }
}

#[tokio::test]
async fn a_lease_ends_where_it_was_held() {
    let replica = Replica::up();
    let slots = counts(&[claim(user("u"), LimitKind::Concurrency, 100, 1)]);
    let slot = |number| settlement(lease(number), &slots.counts, &[1]);
    assert!(!replica.hold(1, &slots).await.is_degraded);
    replica.go_down();
    assert!(replica.hold(2, &slots).await.is_degraded);
    replica.limiter.settle(slot(1));
    // That lease 2 is not held there need not have been heard.
    replica.shared.queue.lock().unwrap().retain(|queued| queued.certainty == Certainty::Held);
    replica.shared.come_back();
    assert_eq!(left(&replica.shared.limiter, user("u"), LimitKind::Concurrency).await, 100);
    // Held here, whatever is up.
    assert!(replica.hold(2, &slots).await.is_degraded);
    assert!(!replica.hold(3, &slots).await.is_degraded);
    assert_eq!(left(&replica.local, user("u"), LimitKind::Concurrency).await, 99);
    assert_eq!(left(&replica.shared.limiter, user("u"), LimitKind::Concurrency).await, 99);
    for number in [2, 2, 3] {
        replica.limiter.settle(slot(number));
    }
    assert_eq!(left(&replica.local, user("u"), LimitKind::Concurrency).await, 100);
    assert_eq!(left(&replica.shared.limiter, user("u"), LimitKind::Concurrency).await, 100);
    assert_eq!(replica.limiter.degraded_reservations(), 1);
}

#[tokio::test]
async fn a_reservation_whose_answer_was_lost_counts_once() {
    let replica = Replica::up();
    replica.limiter.grant(&grant(user("u"), SHARED, 100, false)).await.unwrap();
    replica.limiter.grant(&grant(user("u"), PROCESS, 100, false)).await.unwrap();
    let limits = [claim(user("u"), LimitKind::Concurrency, 100, 1), requests(user("u"), 100, OutagePolicy::LocalShare)];
    let wanted = claims(&limits, &[budget(user("u"), 60, OutagePolicy::LocalShare)]);
    replica.shared.loses_answers.store(true, Ordering::SeqCst);
    let held = replica.hold(1, &wanted).await;
    assert_eq!((held.holder, held.is_degraded), (Some(PROCESS), true));
    replica.shared.come_back();
    for kind in [LimitKind::Concurrency, LimitKind::Requests] {
        assert_eq!(left(&replica.shared.limiter, user("u"), kind).await, 100, "{kind:?}");
        assert_eq!(left(&replica.local, user("u"), kind).await, 99, "{kind:?}");
    }
    replica.limiter.settle(spent(lease(1), PROCESS, &wanted, &[50]));
    let spent_at = async |limiter: &MemoryRateLimiter| {
        let standing = limiter.standing(&user("u"), &MoneyWindow::TOTAL).await.unwrap().unwrap();
        (standing.settled.0, standing.reserved.0)
    };
    assert_eq!(spent_at(&replica.shared.limiter).await, (0, 0));
    assert_eq!(spent_at(&replica.local).await, (50, 0));
}

#[tokio::test]
async fn a_voided_lease_is_held_by_neither() {
    let replica = Replica::up();
    let limits = counts(&[requests(user("u"), 100, OutagePolicy::LocalShare)]);
    // Voided while all is well, reserved in an outage; and the other way round.
    replica.limiter.settle(void(lease(1), &limits.counts));
    replica.go_down();
    assert!(replica.limiter.reserve(lease(1), &limits).await.is_err());
    replica.limiter.settle(void(lease(2), &limits.counts));
    replica.hold(3, &limits).await;
    replica.limiter.settle(void(lease(3), &limits.counts));
    replica.shared.come_back();
    for number in 1..=3 {
        assert!(replica.limiter.reserve(lease(number), &limits).await.is_err(), "{number}");
    }
    assert_eq!(left(&replica.local, user("u"), LimitKind::Requests).await, 100);
    assert_eq!(left(&replica.shared.limiter, user("u"), LimitKind::Requests).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_outage_among_many_requests_leaves_nothing_behind() {
    let replica = Arc::new(Replica::up());
    for holder in [SHARED, PROCESS] {
        replica.limiter.grant(&grant(user("u"), holder, 1_000, false)).await.unwrap();
    }
    let slots = [claim(user("u"), LimitKind::Concurrency, 100, 1)];
    let wanted = claims(&slots, &[budget(user("u"), 5, OutagePolicy::LocalShare)]);
    let mut tasks = JoinSet::new();
    for task in 0..16_u128 {
        let (replica, wanted) = (replica.clone(), wanted.clone());
        tasks.spawn(async move {
            let mut charged = [0_i128; 2];
            for round in 0..200_u128 {
                let id = lease(task << 32 | round);
                match replica.limiter.reserve(id, &wanted).await.unwrap() {
                    Reservation::Held(held) => {
                        assert_eq!(held.is_degraded, held.holder == Some(PROCESS));
                        let cost = i64::try_from(round % 2).unwrap();
                        charged[usize::from(held.is_degraded)] += i128::from(cost);
                        tokio::task::yield_now().await;
                        replica.limiter.settle(spent(id, held.holder.unwrap(), &wanted, &[cost]));
                    }
                    Reservation::NeedsGrants { .. } | Reservation::Exhausted { .. } => {}
                    other => panic!("{other:?}"),
                }
                match (task, round % 20) {
                    (0, 5) => replica.go_down(),
                    (0, 15) => replica.shared.come_back(),
                    (1, 10) => replica.shared.loses_answers.store(true, Ordering::SeqCst),
                    _ => {}
                }
            }
            charged
        });
    }
    let charged = tasks.join_all().await;
    replica.shared.come_back();
    for (at, limiter) in [&replica.shared.limiter, &*replica.local].into_iter().enumerate() {
        assert_eq!(left(limiter, user("u"), LimitKind::Concurrency).await, 100);
        let standing = limiter.standing(&user("u"), &MoneyWindow::TOTAL).await.unwrap().unwrap();
        let expected: i128 = charged.iter().map(|charged| charged[at]).sum();
        assert_eq!((standing.settled.0, standing.reserved.0), (expected, 0));
        assert!(expected > 0, "both had their part");
    }
    assert!(!replica.limiter.leases.contains(lease(0)));
}

/// The shared limiter was too slow once. What it is told to void must not be what it is asked for again.
#[tokio::test]
async fn a_lease_that_was_in_doubt_once_is_never_held_by_the_shared_limiter() {
    let replica = Replica::up();
    let scope = user("u");
    replica.limiter.grant(&grant(scope.clone(), SHARED, 100, false)).await.unwrap();
    let claims = claims(&[], &[budget(scope.clone(), 30, OutagePolicy::LocalShare)]);
    replica.shared.loses_answers.store(true, Ordering::SeqCst);
    let reply = replica.reserve(1, &claims).await;
    assert!(matches!(reply, Reservation::NeedsGrants { holder: PROCESS, .. }), "{reply:?}");
    replica.shared.come_back();
    replica.limiter.grant(&grant(scope.clone(), PROCESS, 100, false)).await.unwrap();
    assert_eq!(replica.hold(1, &claims).await.holder, Some(PROCESS));
    let shared = replica.shared.standing(&scope, &MoneyWindow::TOTAL).await.unwrap().unwrap();
    assert_eq!(shared.used(), PicoUsdSum::default());
    // Other requests are the shared limiter's again.
    assert_eq!(replica.hold(2, &claims).await.holder, Some(SHARED));
}

#[tokio::test]
async fn what_was_never_held_is_forgotten_after_a_while() {
    let replica = Replica::down(ALONE);
    let claims = counts(&[requests(user("u"), 0, OutagePolicy::LocalShare)]);
    for number in 0..1_000 {
        replica.reserve(number, &claims).await;
    }
    replica.advance(Duration::from_secs(11)).await;
    for number in 1_000..1_256 {
        replica.reserve(number, &claims).await;
    }
    assert!(!replica.limiter.leases.contains(lease(1)));
    assert!(replica.limiter.leases.contains(lease(1_200)));
}
