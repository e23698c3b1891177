//! Budgets: grants are asked for once, losses are noticed, and what is charged is what was reserved for.

use std::{
    collections::{BTreeMap, HashMap},
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use ai4free_ports::{
    budget::{Budget, BudgetPeriod, Epoch, Grant, GrantStanding, Holder, MoneyWindow},
    error::StoreError,
    limits::{Limits, OutagePolicy},
    llm_provider::Facts,
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::{Claims, NeededGrant, Reservation, Scope, SettledMoney},
    request::RequestId,
    runtime::{Calendar, RequestEnd, TaskSpawner, Timer, Timestamp},
    usage::TokenUsage,
    usage_ledger::{
        Appended, Attachment, Audience, Batch, BudgetSum, Counters, Dimension, EventKind, GrantAnswer, GrantRequest,
        Outcome, Recovered, Remains, Share, SpoolId, UsageEvent, UsageLedger, UsageReport, Verification,
    },
};
use async_trait::async_trait;

use super::fakes::{Step, World, delta, done, pause, run, tokens};
use crate::application::failure::{Failure, Unavailable};

/// Money in the fake limiter, by scope and start of the window.
#[derive(Default)]
pub(super) struct FakeMoney {
    epoch: i64,
    standings: HashMap<(Scope, Timestamp), GrantStanding>,
    final_for: Vec<(Scope, Timestamp)>,
    /// The clock of the limiter, where it is not that of the gateway.
    pub(super) clock: Option<Timestamp>,
    pub(super) grants: Vec<Grant>,
    pub(super) forgotten: Vec<Holder>,
}

impl FakeMoney {
    pub(super) fn holder(&self) -> Holder {
        Holder::Shared(Epoch(self.epoch))
    }

    /// `None`: it is held.
    pub(super) fn refuse(&mut self, claims: &Claims) -> Option<Reservation> {
        if let Some(now) = self.clock
            && claims.money.iter().any(|claim| !claim.window.contains(now))
        {
            return Some(Reservation::WrongWindow { now });
        }
        let mut needed = Vec::new();
        for (index, claim) in claims.money.iter().enumerate() {
            let place = (claim.scope.clone(), claim.window.start);
            let standing = self.standings.get(&place).copied();
            let room = standing.map_or(-1, |at| at.granted.0 - at.used().0);
            if i128::from(claim.amount.0) <= room {
                continue;
            }
            if self.final_for.contains(&place) {
                return Some(Reservation::Exhausted { claim: index, standing: standing.unwrap_or_default() });
            }
            needed.push(NeededGrant { claim: index, granted: standing.map(|at| at.granted) });
        }
        if !needed.is_empty() {
            return Some(Reservation::NeedsGrants { holder: self.holder(), needed });
        }
        for claim in &claims.money {
            let at = self.standings.entry((claim.scope.clone(), claim.window.start)).or_default();
            at.reserved += claim.amount;
        }
        None
    }

    pub(super) fn standings(&self, claims: &Claims) -> Vec<GrantStanding> {
        let standing = |claim: &ai4free_ports::rate_limiter::MoneyClaim| {
            self.standings.get(&(claim.scope.clone(), claim.window.start)).copied().unwrap_or_default()
        };
        claims.money.iter().map(standing).collect()
    }

    pub(super) fn settle(&mut self, money: &[SettledMoney]) {
        for SettledMoney { claim, actual } in money {
            let at = self.standings.entry((claim.scope.clone(), claim.window.start)).or_default();
            at.reserved.0 -= i128::from(claim.amount.0);
            at.settled += *actual;
        }
    }

    pub(super) fn grant(&mut self, grant: &Grant) {
        self.grants.push(grant.clone());
        if grant.holder != self.holder() {
            return;
        }
        let place = (grant.scope.clone(), grant.window.start);
        let at = self.standings.entry(place.clone()).or_default();
        at.granted = at.granted.max(grant.granted);
        (at.elsewhere, at.settled_elsewhere) = (grant.elsewhere, grant.settled_elsewhere);
        if grant.is_final {
            self.final_for.push(place);
        }
    }

    pub(super) fn forget(&mut self, holder: Holder) {
        self.forgotten.push(holder);
        if holder == self.holder() {
            self.epoch += 1;
            self.standings.clear();
            self.final_for.clear();
        }
    }

    pub(super) fn standing(&self, scope: &Scope, window: &MoneyWindow) -> Option<GrantStanding> {
        self.standings.get(&(scope.clone(), window.start)).copied()
    }
}

/// Grants as the real one does; the rest of a ledger is not asked for here.
#[derive(Default)]
pub(super) struct FakeLedger {
    granted: Mutex<HashMap<(Scope, Timestamp, Holder), i128>>,
    /// By other holders, of what they were granted.
    pub(super) settled_elsewhere: Mutex<PicoUsdSum>,
    pub(super) asked: AtomicUsize,
    pub(super) is_down: AtomicBool,
    /// Holders that are over.
    pub(super) stale: Mutex<Vec<Holder>>,
}

#[expect(clippy::unimplemented, reason = "admission asks a ledger for grants only")]
#[async_trait]
impl UsageLedger for FakeLedger {
    async fn grant(&self, request: &GrantRequest) -> Result<GrantAnswer, StoreError> {
        pause().await;
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("down".into()));
        }
        if self.stale.lock().unwrap().contains(&request.holder) {
            return Ok(GrantAnswer::Stale);
        }
        let mut all = self.granted.lock().unwrap();
        let of_budget = |key: &&(Scope, Timestamp, Holder)| key.0 == request.scope && key.1 == request.window.start;
        let committed: i128 = all.iter().filter(|(key, _)| of_budget(key)).map(|(_, granted)| granted).sum();
        let mine = all.entry((request.scope.clone(), request.window.start, request.holder)).or_default();
        let (before, room) = (*mine, (request.limit.0 - committed).max(0));
        if before <= request.known.0 {
            *mine += room.min((room / i128::from(request.share)).max(16 * i128::from(request.claim.0)));
        }
        Ok(GrantAnswer::Granted {
            before: PicoUsdSum(before),
            granted: PicoUsdSum(*mine),
            elsewhere: PicoUsdSum(committed - before),
            settled_elsewhere: *self.settled_elsewhere.lock().unwrap(),
        })
    }

    async fn attach(&self, _: SpoolId) -> Result<Attachment, StoreError> {
        unimplemented!("not asked for")
    }
    async fn append(&self, _: &Batch) -> Result<Appended, StoreError> {
        unimplemented!("not asked for")
    }
    async fn report(&self, _: &Audience, _: Timestamp, _: Timestamp) -> Result<UsageReport, StoreError> {
        unimplemented!("not asked for")
    }
    async fn recent(&self, _: &Audience, _: u16) -> Result<Vec<UsageEvent>, StoreError> {
        unimplemented!("not asked for")
    }
    async fn lower(&self, _: &Scope, _: &MoneyWindow, _: Holder, _: PicoUsdSum) -> Result<(), StoreError> {
        unimplemented!("not asked for")
    }
    async fn attest(&self, _: &str, _: Option<Epoch>) -> Result<Epoch, StoreError> {
        unimplemented!("not asked for")
    }
    async fn close_holders(&self, _: SpoolId, _: i64) -> Result<(), StoreError> {
        unimplemented!("not asked for")
    }
    async fn beat(&self, _: SpoolId, _: i64, _: Epoch) -> Result<(), StoreError> {
        unimplemented!("not asked for")
    }
    async fn recover(&self, _: SpoolId, _: &Remains, _: Duration) -> Result<Recovered, StoreError> {
        unimplemented!("not asked for")
    }

    async fn retire(&self, _: SpoolId, _: i64) -> Result<(), StoreError> {
        unimplemented!("not asked for")
    }
    async fn budget(&self, _: &Scope, _: &MoneyWindow) -> Result<BudgetSum, StoreError> {
        unimplemented!("not asked for")
    }
    async fn breakdown(
        &self,
        _: Dimension,
        _: Timestamp,
        _: Timestamp,
    ) -> Result<BTreeMap<String, Counters>, StoreError> {
        unimplemented!("not asked for")
    }
    async fn charges(
        &self,
        _: Timestamp,
        _: Timestamp,
        _: Option<(RequestId, u16)>,
    ) -> Result<Vec<UsageEvent>, StoreError> {
        unimplemented!("not asked for")
    }
    async fn verify(&self, _: Timestamp, _: Timestamp) -> Result<Verification, StoreError> {
        unimplemented!("not asked for")
    }
    async fn shares(&self, _: Holder, _: Timestamp, _: Option<&(Scope, Timestamp)>) -> Result<Vec<Share>, StoreError> {
        unimplemented!("not asked for")
    }
    async fn share(&self, _: Holder, _: &Scope, _: Timestamp) -> Result<Option<Share>, StoreError> {
        unimplemented!("not asked for")
    }
    async fn silent(&self, _: Duration) -> Result<u64, StoreError> {
        unimplemented!("not asked for")
    }
}

/// Days of a thousand microseconds; there is one time zone.
pub(super) struct ShortDays;

impl Calendar for ShortDays {
    fn window(&self, period: BudgetPeriod, time_zone: &str, at: Timestamp) -> Option<MoneyWindow> {
        let start = at.0.div_euclid(1000) * 1000;
        let day = MoneyWindow { start: Timestamp(start), end: Timestamp(start + 1000) };
        (time_zone == "UTC").then_some(if period == BudgetPeriod::Total { MoneyWindow::TOTAL } else { day })
    }
}

/// Short waits pass at once, long ones when a test says so; tasks are left to run when they are asked to.
#[derive(Default)]
pub(super) struct FakeTasks {
    waiting: Mutex<Vec<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    pub(super) time_is_up: Arc<AtomicBool>,
}

impl Timer for FakeTasks {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        if duration < Duration::from_secs(1) {
            return Box::pin(pause());
        }
        let time_is_up = self.time_is_up.clone();
        let waiting =
            move |_: &mut Context<'_>| if time_is_up.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending };
        Box::pin(poll_fn(waiting))
    }
}

impl TaskSpawner for FakeTasks {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.waiting.lock().unwrap().push(task);
    }
}

impl FakeTasks {
    pub(super) fn run_all(&self) {
        std::mem::take(&mut *self.waiting.lock().unwrap()).into_iter().for_each(run);
    }

    /// Polls each task once, and forgets those that have ended.
    pub(super) fn poll_all(&self) {
        let mut context = Context::from_waker(Waker::noop());
        self.waiting.lock().unwrap().retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
    }
}

/// Each `hello` costs at most 5 + 200 × 1000 pico-USD, and 7 + 3 × 1000 in the end.
const BOUND: i128 = 200_005;
const COST: i64 = 3_007;
/// Where the clock stands: at the start of a day.
const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

pub(super) fn world(amount: i128, script: impl IntoIterator<Item = Step>) -> World {
    let mut world = World::new(script.into_iter().collect());
    world.key.limits = Limits { budget: Some(budget(amount)), ..Limits::NONE };
    world
}

pub(super) fn budget(amount: i128) -> Budget {
    Budget {
        amount: PicoUsdSum(amount),
        period: BudgetPeriod::Day,
        time_zone: "UTC".into(),
        on_redis_down: OutagePolicy::LocalShare,
    }
}

fn hello() -> Step {
    Step::Whole { body: "Hello", facts: Facts { usage: Some(tokens(7, 3)), done: true, ..Facts::default() } }
}

pub(super) fn of_key(world: &World) -> GrantStanding {
    let scope = Scope::Key(world.key.id.clone());
    world.limiter.money(|money| money.standing(&scope, &window())).unwrap()
}

pub(super) fn window() -> MoneyWindow {
    MoneyWindow { start: NOW, end: Timestamp(NOW.0 + 1000) }
}

#[test]
fn a_request_is_held_out_of_a_grant_and_settled_to_what_it_cost() {
    let world = world(BOUND * 100, [hello(), hello()]);
    run(world.exchange("hello")).unwrap();
    let standing = of_key(&world);
    assert_eq!((standing.settled.0, standing.reserved.0), (i128::from(COST), 0));
    assert_eq!(standing.granted.0, BOUND * 25, "a quarter of what is left");
    let rows = world.journal.rows();
    let [spent] = &*rows[0].spending else { panic!("{:?}", rows[0].spending) };
    assert_eq!((&spent.scope, spent.window), (&Scope::Key(world.key.id.clone()), NOW));
    assert_eq!(spent.holder, Holder::Shared(Epoch(0)));
    assert_eq!(rows[0].cost, PicoUsd(COST));
    assert_eq!(world.limiter.remembered(), rows, "others know of it until the ledger does");
    let [hold] = &*world.limiter.holds() else { panic!("{:?}", world.limiter.holds()) };
    assert_eq!((hold.kind, i128::from(hold.cost.0), hold.attempt), (EventKind::Hold, BOUND, 0));
    assert_eq!((&hold.spending, hold.request, hold.outcome), (&rows[0].spending, rows[0].request, Outcome::Lost));
    run(world.exchange("hello")).unwrap();
    assert_eq!(world.ledger.asked.load(Ordering::Relaxed), 1, "the grant lasts");
}

#[test]
fn what_does_not_fit_into_the_budget_is_refused_with_everything_about_it() {
    let world = world(BOUND + i128::from(COST) - 1, [hello()]);
    run(world.exchange("hello")).unwrap();
    let Failure::BudgetExhausted(budget) = run(world.exchange("hello")).unwrap_err() else { panic!("admitted") };
    assert_eq!((budget.settled.0, budget.reserved.0), (i128::from(COST), 0));
    assert_eq!((budget.limit.0, budget.remaining().0), (BOUND + i128::from(COST) - 1, BOUND - 1));
    assert_eq!((i128::from(budget.requested.0), budget.resets_at), (BOUND, Some(window().end)));
    assert_eq!(world.limiter.outstanding(), 0);
    let summaries = world.observer.0.lock().unwrap();
    assert!(matches!(summaries.last().unwrap().end, RequestEnd::BudgetExhausted { scope: Scope::Key(_) }));
}

#[test]
fn a_refusal_tells_what_others_have_settled_and_what_they_only_hold() {
    let world = world(BOUND * 16, [hello()]);
    run(world.exchange("hello")).unwrap();
    // The next epoch finds all of it granted to this one, which has settled as much as the ledger knows.
    *world.ledger.settled_elsewhere.lock().unwrap() = PicoUsdSum(COST.into());
    world.limiter.money(|money| *money = FakeMoney { epoch: money.epoch + 1, ..FakeMoney::default() });
    let Failure::BudgetExhausted(budget) = run(world.exchange("hello")).unwrap_err() else { panic!("admitted") };
    let cost = i128::from(COST);
    assert_eq!((budget.settled.0, budget.reserved.0, budget.remaining().0), (cost, BOUND * 16 - cost, 0));
}

#[test]
fn a_budget_that_decides_by_the_byte_bound_is_asked_again_with_the_count() {
    // Many spaces are many bytes, and the fake tokenizer does not count them.
    let prompt = format!("cap=1 x{}", " ".repeat(400));
    let world = world(1_100, [hello()]);
    run(world.exchange(&prompt)).unwrap();
    assert_eq!(world.journal.rows().len(), 1);
}

#[test]
fn a_grant_is_asked_for_in_the_background_once_half_is_used() {
    let world = world(BOUND * 64, (0..12).map(|_| Step::Stream(vec![delta("x"), done(Some(tokens(5, 200)))])));
    for number in 1..=12 {
        run(world.exchange("hello stream")).unwrap();
        world.tasks.run_all();
        if world.ledger.asked.load(Ordering::Relaxed) == 2 {
            assert!(number >= 8, "half of a grant of sixteen");
            return;
        }
    }
    panic!("nothing was asked for");
}

#[test]
fn a_limiter_that_lost_its_grants_goes_on_as_another_holder() {
    let world = world(BOUND * 100, [hello(), hello()]);
    run(world.exchange("hello")).unwrap();
    world.limiter.money(|money| *money = super::money::FakeMoney { epoch: money.epoch, ..FakeMoney::default() });
    run(world.exchange("hello")).unwrap();
    world.limiter.money(|money| {
        assert_eq!(money.forgotten, [Holder::Shared(Epoch(0))]);
        let last = money.grants.last().unwrap();
        assert_eq!((last.holder, last.elsewhere.0), (Holder::Shared(Epoch(1)), BOUND * 25));
    });
}

#[test]
fn a_holder_that_the_ledger_has_ended_is_forgotten() {
    let world = world(BOUND * 100, [hello()]);
    world.ledger.stale.lock().unwrap().push(Holder::Shared(Epoch(0)));
    run(world.exchange("hello")).unwrap();
    world.limiter.money(|money| assert_eq!(money.forgotten, [Holder::Shared(Epoch(0))]));
}

#[test]
fn the_limiters_clock_decides_which_window_it_is() {
    let world = world(BOUND * 100, [hello(), hello()]);
    world.limiter.money(|money| money.clock = Some(Timestamp(5_500)));
    run(world.exchange("hello")).unwrap();
    assert_eq!(world.journal.rows()[0].spending[0].window, Timestamp(5_000));
}

#[test]
fn without_a_grant_nothing_is_admitted_while_the_ledger_is_away() {
    let world = world(BOUND * 100, []);
    world.ledger.is_down.store(true, Ordering::Relaxed);
    let failure = run(world.exchange("hello")).unwrap_err();
    assert!(matches!(failure, Failure::Unavailable { what: Unavailable::UsageLedger, .. }), "{failure:?}");
    assert_eq!(world.limiter.outstanding(), 0);
}

#[test]
fn a_client_that_leaves_at_any_await_leaves_no_money_reserved() {
    let mut polls = 0;
    loop {
        let world = world(BOUND * 100, [hello()]);
        let ended = super::fakes::polled(world.exchange("hello"), polls).is_some();
        let key = Scope::Key(world.key.id.clone());
        let reserved = world.limiter.money(|money| money.standing(&key, &window()).map(|at| at.reserved.0));
        assert_eq!(reserved.unwrap_or(0), 0, "after {polls} polls");
        if ended {
            break;
        }
        polls += 1;
    }
    assert!(polls > 4);
}

#[test]
fn absurd_usage_is_cut_to_what_the_model_can_do_and_told() {
    let absurd = TokenUsage { input: 9_000_000, cache_read: 3, output: u64::MAX, ..TokenUsage::default() };
    let facts = Facts { usage: Some(absurd), done: true, ..Facts::default() };
    let world = world(BOUND * 100, [Step::Whole { body: "Hello", facts }, hello()]);
    run(world.exchange("hello")).unwrap();
    let row = world.journal.rows().pop().unwrap();
    assert_eq!(row.usage, TokenUsage { input: 597, cache_read: 3, output: 600, ..TokenUsage::default() });
    assert_eq!(of_key(&world).settled.0, i128::from(row.cost.0));
    run(world.exchange("hello")).unwrap();
    let summaries = world.observer.0.lock().unwrap();
    let told: Vec<_> = summaries.iter().map(|one| (one.usage_clamped, one.reservation_exceeded)).collect();
    assert_eq!(told, [(true, true), (false, false)]);
}

#[test]
fn tools_that_the_provider_runs_are_refused_where_a_budget_applies() {
    let world = world(BOUND * 100, []);
    let Failure::Request(refused) = run(world.exchange("server tool")).unwrap_err() else { panic!("admitted") };
    assert_eq!(refused.code, Some("server_side_tools_unpriced"));
    let mut world = World::new(vec![hello()]);
    world.key.plan = "unlimited".into();
    run(world.exchange("server tool")).unwrap();
}

#[test]
fn tools_are_bounded_with_what_a_provider_adds_to_them() {
    let claimed = |body: &str| {
        let mut world = world(BOUND * 1000, [hello()]);
        world.key.plan = "unlimited".into();
        run(world.exchange(body)).unwrap();
        world.limiter.leases()[0].1
    };
    assert_eq!(claimed("a tool") - claimed("a word"), 1024);
}
