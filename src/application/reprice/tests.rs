use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use ai4free_contract::recording::{Fault, RecordingLedger};
use ai4free_ports::{
    budget::{Epoch, GrantStanding, Holder, Spending},
    catalogue::{Model, ModelKind, OnDisconnect, Snapshot, Target},
    error::LimiterDown,
    key::KeyId,
    limits::Limits,
    rate_limiter::Scope,
    request::{Operation, RequestId},
    usage::{Encoding, UsageSource},
    usage_ledger::Outcome,
};

use async_trait::async_trait;

use super::*;

struct Prices(Mutex<Vec<(&'static str, Option<i64>)>>);

impl Catalogue for Prices {
    fn current(&self) -> Arc<Snapshot> {
        let mut snapshot = Snapshot::default();
        for (id, input) in self.0.lock().unwrap().iter() {
            let price = input.map(|input| Arc::new(Price { version: 9, input, ..Price::default() }));
            snapshot.by_name.insert((*id).into(), Arc::new(model(id, price)));
        }
        Arc::new(snapshot)
    }
}

fn model(id: &str, price: Option<Arc<Price>>) -> Model {
    Model {
        id: id.into(),
        label: id.into(),
        kind: ModelKind::Chat,
        targets: Arc::new([Target { provider: "p".into(), upstream_model: id.into() }]),
        price,
        max_input_tokens: None,
        max_output_tokens: None,
        limits: Limits::NONE,
        encoding: Encoding::default(),
        on_disconnect: OnDisconnect::default(),
        hides_reasoning: true,
        description: None,
        owned_by: "p".into(),
        created: 0,
        available: true,
    }
}

struct Ids(AtomicU64);

impl IdSource for Ids {
    fn request_id(&self) -> RequestId {
        RequestId(uuid::Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::Relaxed)) | 1 << 100))
    }
}

const TOKENS: u64 = 10;

/// Of 10 tokens, at one pico-USD each.
fn charge(number: u128, model: &str) -> UsageEvent {
    let holder = Holder::Shared(Epoch(1));
    let key = KeyId::parse("abcdefghijkl").unwrap();
    UsageEvent {
        request: RequestId(uuid::Uuid::from_u128(number)),
        attempt: 1,
        kind: EventKind::Charge,
        revision: 0,
        operation: Operation::Chat,
        key: key.clone(),
        user: None,
        model: model.into(),
        provider: Some("p".into()),
        credential: None,
        outcome: Outcome::Success,
        error: None,
        admitted_at: Timestamp::from_seconds(1000),
        first_ms: None,
        total_ms: None,
        usage: TokenUsage { input: TOKENS, ..TokenUsage::default() },
        usage_source: UsageSource::Provider,
        price_version: Some(1),
        cost: PicoUsd(10),
        provider_cost: Some(PicoUsd(3)),
        spending: vec![Spending { scope: Scope::Key(key), window: Timestamp(0), holder }],
    }
}

/// What the shared limiter was told.
#[derive(Default)]
struct Told {
    corrections: Mutex<Vec<(CorrectionId, i128)>>,
    is_away: AtomicBool,
}

#[expect(clippy::unimplemented, reason = "who charges again reads no counters")]
#[async_trait]
impl BudgetCounters for Told {
    async fn epoch(&self) -> Result<Option<Epoch>, LimiterDown> {
        unimplemented!("not asked for")
    }

    async fn standings(&self, _: Epoch, _: &[(Scope, Timestamp)]) -> Result<Vec<Option<GrantStanding>>, LimiterDown> {
        unimplemented!("not asked for")
    }

    async fn is_anything_given_up(&self) -> Result<bool, LimiterDown> {
        unimplemented!("not asked for")
    }

    async fn correct(&self, id: CorrectionId, changes: &[(Spending, PicoUsdSum)]) -> Result<(), LimiterDown> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(LimiterDown("away".into()));
        }
        assert!(changes.iter().all(|(spending, _)| spending.holder == Holder::Shared(Epoch(1))), "{changes:?}");
        self.corrections.lock().unwrap().push((id, changes.iter().map(|(_, change)| change.0).sum()));
        Ok(())
    }
}

struct World {
    ledger: Arc<RecordingLedger>,
    counters: Arc<Told>,
    prices: Arc<Prices>,
    reprice: Reprice,
}

impl World {
    async fn with(charges: Vec<UsageEvent>) -> Self {
        let ledger = Arc::new(RecordingLedger::default());
        let spool = SpoolId(uuid::Uuid::from_u128(1));
        let attachment = ledger.attach(spool).await.unwrap();
        for (batch, from) in charges.chunks(500).zip((0..).step_by(500)) {
            let batch = Batch { spool, generation: attachment.generation, from, events: batch.to_vec() };
            ledger.append(&batch).await.unwrap();
        }
        let prices = Arc::new(Prices(Mutex::new(vec![("a", Some(1)), ("b", Some(1)), ("unpriced", None)])));
        let ids = Arc::new(Ids(AtomicU64::new(0)));
        let counters = Arc::new(Told::default());
        let reprice =
            Reprice { ledger: ledger.clone(), counters: Some(counters.clone()), catalogue: prices.clone(), ids };
        Self { ledger, counters, prices, reprice }
    }

    fn price(&self, model: &'static str, input: i64) {
        self.prices.0.lock().unwrap().push((model, Some(input)));
    }

    async fn run(&self, models: Option<&[&str]>, mode: Mode) -> BTreeMap<String, Repriced> {
        let models = models.map(|models| models.iter().map(|model| (*model).to_owned()).collect());
        let selection = Selection { models, from: Timestamp(0), to: Timestamp::from_seconds(2000) };
        self.reprice.run(&selection, mode).await.unwrap().models
    }

    /// What all rows of a model cost.
    fn cost(&self, model: &str) -> i64 {
        self.ledger.events().iter().filter(|row| &*row.model == model).map(|row| row.cost.0).sum()
    }

    fn adjustments(&self) -> Vec<UsageEvent> {
        self.ledger.events().into_iter().filter(|row| row.kind == EventKind::Adjustment).collect()
    }
}

#[tokio::test]
async fn a_price_that_is_the_same_changes_nothing() {
    let world = World::with(vec![charge(1, "a"), charge(2, "b")]).await;
    let models = world.run(None, Mode::Append).await;
    assert!(models.values().all(|model| model.adjusted == 0 && model.before == model.after));
    assert_eq!(world.ledger.events().len(), 2);
}

#[tokio::test]
async fn a_difference_is_a_row_of_its_own_that_counts_no_request_and_follows_the_budgets() {
    let world = World::with(vec![charge(1, "a"), charge(2, "b")]).await;
    world.price("a", 3);
    let models = world.run(None, Mode::Append).await;
    let expected = Repriced { charges: 1, adjusted: 1, before: PicoUsdSum(10), after: PicoUsdSum(30), is_priced: true };
    assert_eq!(models["a"], expected);
    let original = charge(1, "a");
    let adjustment = UsageEvent {
        kind: EventKind::Adjustment,
        revision: 1,
        usage: TokenUsage::default(),
        price_version: Some(9),
        cost: PicoUsd(20),
        provider_cost: None,
        ..original
    };
    assert_eq!(world.adjustments(), [adjustment]);
}

#[tokio::test]
async fn a_second_run_finds_nothing_and_a_second_price_corrects_the_first() {
    let world = World::with(vec![charge(1, "a")]).await;
    world.price("a", 3);
    world.run(None, Mode::Append).await;
    assert_eq!(world.run(None, Mode::Append).await["a"].adjusted, 0);
    assert_eq!(world.cost("a"), 30);
    world.price("a", 2);
    let models = world.run(None, Mode::Append).await;
    assert_eq!((models["a"].before, models["a"].after), (PicoUsdSum(30), PicoUsdSum(20)));
    assert_eq!(world.cost("a"), 20);
    assert_eq!(world.adjustments().iter().map(|row| row.revision).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_dry_run_says_what_would_change_and_appends_nothing() {
    let world = World::with(vec![charge(1, "a")]).await;
    world.price("a", 3);
    for _ in 0..2 {
        assert_eq!(world.run(None, Mode::DryRun).await["a"].adjusted, 1);
    }
    assert_eq!(world.ledger.events().len(), 1);
}

#[tokio::test]
async fn other_models_and_models_without_a_price_are_left_alone() {
    let world = World::with(vec![charge(1, "a"), charge(2, "b"), charge(3, "unpriced"), charge(4, "gone")]).await;
    world.price("a", 3);
    world.price("b", 3);
    let models = world.run(Some(&["b"]), Mode::Append).await;
    assert_eq!(models.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!((world.cost("a"), world.cost("b")), (10, 30));
    let models = world.run(None, Mode::Append).await;
    for model in ["unpriced", "gone"] {
        assert!(!models[model].is_priced && models[model].adjusted == 0, "{model}");
        assert_eq!(world.cost(model), 10);
    }
}

#[tokio::test]
async fn what_a_provider_refused_stays_free() {
    let refused =
        UsageEvent { outcome: Outcome::Failed, usage: TokenUsage::default(), cost: PicoUsd::ZERO, ..charge(1, "a") };
    let world = World::with(vec![refused]).await;
    world.price("a", 3);
    assert_eq!(world.run(None, Mode::Append).await["a"].adjusted, 0);
}

#[tokio::test]
async fn many_pages_are_gone_through_and_an_interrupted_run_is_finished_by_the_next() {
    let world = World::with((1..=1201).map(|number| charge(number, "a")).collect()).await;
    world.price("a", 3);
    world.ledger.fail([Fault::None, Fault::AfterCommit]);
    let all = Selection { models: None, from: Timestamp(0), to: Timestamp::from_seconds(2000) };
    world.reprice.run(&all, Mode::Append).await.unwrap_err();
    assert_eq!(world.cost("a"), 12_010 + 20 * 1000);
    let models = world.run(None, Mode::Append).await;
    assert_eq!((models["a"].charges, models["a"].adjusted), (1201, 201));
    assert_eq!(world.cost("a"), 3 * 12_010);
    assert_eq!(world.adjustments().len(), 1201);
}

#[tokio::test]
async fn what_is_appended_is_told_to_the_shared_limiter_once() {
    let process = Holder::Process { spool: SpoolId(uuid::Uuid::from_u128(5)), generation: 1 };
    let alone = |number| {
        let mut charge = charge(number, "a");
        charge.spending.iter_mut().for_each(|spending| spending.holder = process);
        charge
    };
    let shared = (1..=600).map(|number| charge(number, "a"));
    let world = World::with(shared.chain((601..=700).map(alone)).collect()).await;
    world.price("a", 3);
    world.run(None, Mode::DryRun).await;
    assert!(world.counters.corrections.lock().unwrap().is_empty());
    world.run(None, Mode::Append).await;
    let told = world.counters.corrections.lock().unwrap().clone();
    assert_eq!(told.iter().map(|(_, change)| *change).collect::<Vec<_>>(), [500 * 20, 100 * 20]);
    assert!(told[0].0.run == told[1].0.run && told[0].0.number < told[1].0.number, "{told:?}");
    world.run(None, Mode::Append).await;
    assert_eq!(world.counters.corrections.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_limiter_that_is_away_is_told_nothing_and_the_ledger_everything() {
    let world = World::with((1..=600).map(|number| charge(number, "a")).collect()).await;
    world.price("a", 3);
    world.counters.is_away.store(true, Ordering::Relaxed);
    let all = Selection { models: None, from: Timestamp(0), to: Timestamp::from_seconds(2000) };
    let repricing = world.reprice.run(&all, Mode::Append).await.unwrap();
    assert_eq!((repricing.untold, repricing.models["a"].adjusted), (600, 600));
    assert_eq!(world.cost("a"), 600 * 30);
    world.counters.is_away.store(false, Ordering::Relaxed);
    assert_eq!(world.reprice.run(&all, Mode::Append).await.unwrap().untold, 0, "it says nothing of the one before");
    assert!(world.counters.corrections.lock().unwrap().is_empty());
}
