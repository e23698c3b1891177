use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use ai4free_contract::recording::RecordingLedger;
use ai4free_ports::{
    budget::{MoneyWindow, Spending},
    budget_counters::CorrectionId,
    key::KeyId,
    money::PicoUsd,
    request::{Operation, RequestId},
    usage::{TokenUsage, UsageSource},
    usage_ledger::{Appended, Batch, EventKind, GrantRequest, Outcome, SpoolId, UsageEvent},
};
use async_trait::async_trait;

use super::*;

const EPOCH: Epoch = Epoch(1);
const LOOKS: u64 = 60;

/// One budget, as the limiter counts it.
#[derive(Default)]
struct Counted {
    standing: Mutex<Option<GrantStanding>>,
    epoch: Mutex<Option<Epoch>>,
    is_given_up: AtomicBool,
}

impl Counted {
    fn change(&self, change: impl FnOnce(&mut GrantStanding)) {
        change(self.standing.lock().unwrap().get_or_insert_default());
    }
}

#[expect(clippy::unimplemented, reason = "who compares corrects nothing")]
#[async_trait]
impl BudgetCounters for Counted {
    async fn epoch(&self) -> Result<Option<Epoch>, LimiterDown> {
        Ok(*self.epoch.lock().unwrap())
    }

    async fn standings(
        &self,
        epoch: Epoch,
        budgets: &[(Scope, Timestamp)],
    ) -> Result<Vec<Option<GrantStanding>>, LimiterDown> {
        assert_eq!(epoch, EPOCH);
        Ok(budgets.iter().map(|_| *self.standing.lock().unwrap()).collect())
    }

    async fn is_anything_given_up(&self) -> Result<bool, LimiterDown> {
        Ok(self.is_given_up.load(Ordering::Relaxed))
    }

    async fn correct(&self, _: CorrectionId, _: &[(Spending, PicoUsdSum)]) -> Result<(), LimiterDown> {
        unimplemented!("not asked for")
    }
}

/// What happens with each look, and the time that it takes.
struct Meanwhile {
    looks: AtomicU64,
    happens: Box<dyn Fn(u64) + Send + Sync>,
}

impl Clock for Meanwhile {
    fn now(&self) -> Timestamp {
        Timestamp(1_000)
    }

    fn monotonic(&self) -> Duration {
        LOOK_AGAIN * u32::try_from(self.looks.load(Ordering::Relaxed)).unwrap()
    }
}

struct Ticks(Arc<Meanwhile>);

impl Timer for Ticks {
    fn sleep(&self, duration: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        assert_eq!(duration, LOOK_AGAIN);
        let look = self.0.looks.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(look <= LOOKS, "it does not end");
        (self.0.happens)(look);
        Box::pin(std::future::ready(()))
    }
}

#[derive(Clone)]
struct World {
    ledger: Arc<RecordingLedger>,
    counted: Arc<Counted>,
    charges: Arc<AtomicU64>,
}

impl World {
    /// A budget of which 1000 is granted, as both know.
    async fn new() -> Self {
        let (ledger, counted) = (Arc::new(RecordingLedger::default()), Arc::new(Counted::default()));
        ledger.attest("a", None).await.unwrap();
        ledger.attach(SpoolId(uuid::Uuid::nil())).await.unwrap();
        let request = GrantRequest {
            scope: Scope::Gateway,
            window: MoneyWindow::TOTAL,
            holder: Holder::Shared(EPOCH),
            limit: PicoUsdSum(1_000),
            claim: PicoUsd(1),
            share: 1,
            known: PicoUsdSum(0),
        };
        ledger.grant(&request).await.unwrap();
        counted.change(|standing| standing.granted = PicoUsdSum(1_000));
        *counted.epoch.lock().unwrap() = Some(EPOCH);
        Self { ledger, counted, charges: Arc::default() }
    }

    /// The ledger hears of a request that has ended.
    fn charge(&self, cost: i64) {
        let number = self.charges.fetch_add(1, Ordering::Relaxed);
        let spending = Spending { scope: Scope::Gateway, window: Timestamp(0), holder: Holder::Shared(EPOCH) };
        let event = UsageEvent {
            request: RequestId(uuid::Uuid::from_u128(number.into())),
            attempt: 0,
            kind: EventKind::Charge,
            revision: 0,
            operation: Operation::Chat,
            key: KeyId::system(),
            user: None,
            model: "m".into(),
            provider: None,
            credential: None,
            outcome: Outcome::Success,
            error: None,
            admitted_at: Timestamp(0),
            first_ms: None,
            total_ms: None,
            usage: TokenUsage::default(),
            usage_source: UsageSource::Provider,
            price_version: None,
            cost: PicoUsd(cost),
            provider_cost: None,
            spending: vec![spending],
        };
        let batch = Batch { spool: SpoolId(uuid::Uuid::nil()), generation: 1, from: number, events: vec![event] };
        let mut append = self.ledger.append(&batch);
        let polled = append.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(polled, std::task::Poll::Ready(Ok(Appended::Acknowledged(_)))));
    }

    /// The limiter hears of it.
    fn count(&self, cost: i128) {
        self.counted.change(|standing| standing.settled.0 += cost);
    }

    fn reserve(&self, amount: i128) {
        self.counted.change(|standing| standing.reserved.0 += amount);
    }

    /// What is found while something happens with each look, and how many looks that takes.
    async fn compare_while(&self, happens: impl Fn(u64) + Send + Sync + 'static) -> (Compared, u64) {
        let meanwhile = Arc::new(Meanwhile { looks: AtomicU64::new(0), happens: Box::new(happens) });
        let compare = CompareCounters {
            ledger: self.ledger.clone(),
            counters: self.counted.clone(),
            clock: meanwhile.clone(),
            timer: Arc::new(Ticks(meanwhile.clone())),
        };
        let compared = compare.run(Timestamp(0), Timestamp(i64::MAX)).await.unwrap();
        (compared, meanwhile.looks.load(Ordering::Relaxed))
    }

    async fn compare(&self) -> Compared {
        self.compare_while(|_| {}).await.0
    }
}

fn told(compared: &Compared) -> (u64, Vec<[&str; 2]>) {
    let told = |difference: &'_ Difference| {
        assert_eq!(difference.sum, "limiter budget scope=\"g\" win=0 holder=\"r:1\"");
    };
    compared.differences.iter().for_each(told);
    let sums = compared.differences.iter().map(|difference| [&*difference.stored, &*difference.expected]);
    (compared.undecided, sums.collect())
}

fn fine(budgets: u64) -> Compared {
    Compared { budgets, ..Compared::default() }
}

#[tokio::test]
async fn what_agrees_is_looked_at_once() {
    let world = World::new().await;
    world.charge(7);
    world.count(7);
    world.reserve(50);
    assert_eq!(world.compare_while(|_| {}).await, (fine(1), 0));
}

#[tokio::test]
async fn a_counter_that_drifted_is_found() {
    for (counted, shown) in [(5, "0.000000000005 USD"), (9, "0.000000000009 USD")] {
        let world = World::new().await;
        world.charge(7);
        world.count(counted);
        assert_eq!(told(&world.compare().await), (0, vec![[shown, "0.000000000007 USD"]]));
    }
}

#[tokio::test]
async fn a_counter_that_is_gone_and_one_that_was_granted_too_much_are_found() {
    let world = World::new().await;
    *world.counted.standing.lock().unwrap() = None;
    assert_eq!(told(&world.compare().await), (0, vec![["missing", "0 USD"]]));
    world.counted.change(|standing| standing.granted = PicoUsdSum(1_001));
    let expected = ["granted 0.000000001001 USD, settled 0 USD", "granted 0.000000001 USD, settled 0 USD"];
    assert_eq!(told(&world.compare().await), (0, vec![expected]));
}

#[tokio::test]
async fn requests_that_end_meanwhile_are_no_difference_whoever_hears_of_them_first() {
    // Neither is ever up to date with the other while it goes on, and one comes to rest.
    for (ledger_lags, rests) in [(true, false), (false, false), (true, true), (false, true)] {
        let world = World::new().await;
        let one = move |world: &World, is_first: bool| match is_first == ledger_lags {
            true => world.count(10),
            false => world.charge(10),
        };
        world.reserve(40);
        one(&world, true);
        let busy = world.clone();
        let (compared, looks) = world
            .compare_while(move |look| {
                one(&busy, false);
                if !rests || look < 20 {
                    one(&busy, true);
                }
            })
            .await;
        assert_eq!((compared, looks), (fine(1), if rests { 20 } else { LOOKS }), "{ledger_lags} {rests}");
    }
}

#[tokio::test]
async fn a_drift_that_traffic_does_not_explain_is_found_while_it_goes_on() {
    for counted in [-10_000, 10_000] {
        let world = World::new().await;
        world.count(counted);
        world.reserve(40);
        let busy = world.clone();
        let (compared, looks) = world
            .compare_while(move |_| {
                busy.charge(10);
                busy.count(10);
            })
            .await;
        assert_eq!((compared.differences.len(), compared.undecided, looks), (1, 0, LOOKS), "{counted}");
    }
}

#[tokio::test]
async fn what_is_still_reserved_may_explain_a_counter_that_is_behind() {
    let world = World::new().await;
    world.charge(7);
    world.reserve(40);
    assert_eq!(told(&world.compare().await), (1, vec![]));
    // Only that much.
    world.charge(34);
    assert_eq!(told(&world.compare().await).1.len(), 1);
}

#[tokio::test]
async fn what_a_silent_process_has_not_told_may_explain_a_ledger_that_is_behind() {
    let world = World::new().await;
    world.count(7);
    world.ledger.fall_silent(1);
    assert_eq!(told(&world.compare().await), (1, vec![]));
    world.ledger.fall_silent(0);
    world.counted.is_given_up.store(true, Ordering::Relaxed);
    assert_eq!(told(&world.compare().await), (1, vec![]));
    // Neither explains the contrary.
    world.charge(8);
    assert_eq!(told(&world.compare().await).1.len(), 1);
}

#[tokio::test]
async fn of_an_epoch_that_ends_meanwhile_nothing_is_said() {
    let world = World::new().await;
    world.count(7);
    let counted = world.counted.clone();
    let (compared, _) = world.compare_while(move |_| *counted.epoch.lock().unwrap() = Some(Epoch(2))).await;
    assert_eq!(told(&compared), (1, vec![]));
    *world.counted.epoch.lock().unwrap() = None;
    assert_eq!(world.compare().await, fine(0));
}
