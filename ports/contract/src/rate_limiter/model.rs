//! The limiter as one would write it without a thought for cost, and the clauses that need it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use ai4free_ports::{
    budget::{Epoch, Grant, Holder, MoneyWindow},
    money::PicoUsdSum,
    rate_limiter::{
        Certainty, Claim, Claims, Held, LeaseId, LimitKind, MoneyClaim, RATE_WINDOW, Reservation, Scope, SettledClaim,
        SettledMoney, Settlement, Standing,
    },
    runtime::Timestamp,
};

use super::{
    Harness,
    budget::{money_claim, spent, time_of, voided},
    claim, counts, lease,
    money_model::MoneyModel,
    user,
};

/// Random reservations at random times; then every interval that begins with one of them is added up.
pub async fn no_interval_of_a_window_holds_more_than_the_limit(harness: &impl Harness) {
    const LIMIT: u64 = 50;
    for seed in [1, 2, 3] {
        let mut random = Random(seed);
        let scope = user(&format!("seed-{seed}"));
        let (mut now, mut admitted) = (Duration::ZERO, Vec::new());
        for number in 0..600 {
            let amount = 1 + random.below(7);
            let id = lease(u128::from(seed) << 64 | number);
            let tokens = [claim(scope.clone(), LimitKind::Tokens, LIMIT, amount)];
            if let Reservation::Held(_) = harness.limiter().reserve(id, &counts(&tokens)).await.unwrap() {
                admitted.push((now, amount));
            }
            let pause = Duration::from_millis(if random.below(3) == 0 { 0 } else { random.below(2_500) });
            harness.advance(pause).await;
            now += pause;
        }
        for (start, _) in &admitted {
            let inside = admitted.iter().filter(|(at, _)| (*start..=*start + RATE_WINDOW).contains(at));
            let sum: u64 = inside.map(|(_, amount)| amount).sum();
            assert!(sum <= LIMIT, "seed {seed}: {sum} in the window that starts at {start:?}");
        }
    }
}

/// Random operations give the same replies as the model, to the millisecond and to the pico-USD.
pub async fn any_order_of_operations_agrees_with_a_naive_model(harness: &impl Harness) {
    let (start, holder) = (time_of(&*harness.limiter()).await, harness.holder().await);
    let mut now = Duration::ZERO;
    let mut replies = BTreeMap::new();
    // Amounts of budgets in cents, and in millions of dollars.
    for (seed, unit) in [(11, 1), (12, 20_000_000_000_000_000), (13, 1), (14, 20_000_000_000_000_000)] {
        println!("seed {seed}");
        let model = Model {
            start,
            now,
            uses: Vec::new(),
            leases: HashMap::new(),
            money: MoneyModel::new(holder, harness.granted_at_first()),
        };
        let mut run = Run { random: Random(seed), seed, unit, model, open: Vec::new(), next: 0, replies };
        for step in 0..500 {
            match run.random.below(12) {
                0..5 => run.reserve(harness, step).await,
                5 => run.reserve_again(harness, step).await,
                6..8 => run.settle(harness).await,
                8 => run.void(harness, step).await,
                9 => run.advance(harness).await,
                _ => run.grant(harness, step).await,
            }
        }
        now = run.model.now;
        replies = run.replies;
    }
    println!("{replies:?}");
    assert!(replies.len() == 5 && replies.values().all(|count| *count >= 10), "too little was tried: {replies:?}");
}

struct Run {
    random: Random,
    seed: u64,
    /// Of what is claimed and granted of budgets.
    unit: i64,
    model: Model,
    /// Reserved, and not settled yet.
    open: Vec<(LeaseId, Claims)>,
    next: u128,
    /// How often there was each sort of reply.
    replies: BTreeMap<&'static str, u32>,
}

impl Run {
    async fn reserve(&mut self, harness: &impl Harness, step: u32) {
        let (id, claims) = (self.new_lease(), self.claims());
        let reply = harness.limiter().reserve(id, &claims).await.unwrap();
        assert_eq!(reply, self.model.reserve(id, &claims), "seed {} step {step}: {claims:?}", self.seed);
        *self.replies.entry(sort(&reply)).or_default() += 1;
        if matches!(reply, Reservation::Held(_)) {
            self.open.push((id, claims));
        }
    }

    async fn reserve_again(&mut self, harness: &impl Harness, step: u32) {
        let Some(at) = self.any_open() else { return };
        let (id, claims) = &self.open[at];
        let reply = harness.limiter().reserve(*id, claims).await.unwrap();
        assert_eq!(reply, self.model.reserve(*id, claims), "seed {} step {step}", self.seed);
    }

    async fn settle(&mut self, harness: &impl Harness) {
        let Some(at) = self.any_open() else { return };
        let (id, claims) = self.open.swap_remove(at);
        let mut actual = |amount: u64| self.random.below(amount.saturating_add(amount / 2 + 1));
        let mut settlement = spent(id, self.model.money.holder, &claims, &vec![0; claims.money.len()]);
        for SettledClaim { claim, actual: used } in &mut settlement.claims {
            *used = actual(claim.amount);
        }
        for SettledMoney { claim, actual: cost } in &mut settlement.money {
            let cost_at_most = u64::try_from(claim.amount.0).unwrap();
            cost.0 = i64::try_from(actual(cost_at_most)).unwrap_or(i64::MAX);
        }
        for _ in 0..=self.random.below(2) {
            self.model.settle(&settlement);
            harness.limiter().settle(settlement.clone());
        }
        harness.settled().await;
    }

    /// Of an open lease, or of one whose reservation arrives only afterwards.
    async fn void(&mut self, harness: &impl Harness, step: u32) {
        let (id, claims) = match self.any_open() {
            Some(at) if self.random.below(2) == 0 => self.open.swap_remove(at),
            _ => (self.new_lease(), self.claims()),
        };
        let void = voided(id, &claims);
        self.model.settle(&void);
        harness.limiter().settle(void);
        harness.settled().await;
        let late = harness.limiter().reserve(id, &claims).await;
        assert!(late.is_err(), "seed {} step {step}: {late:?}", self.seed);
    }

    async fn advance(&mut self, harness: &impl Harness) {
        let pause = Duration::from_millis(match self.random.below(4) {
            0 => self.random.below(90_000),
            1 => 1_000 * self.random.below(62),
            _ => self.random.below(4_000),
        });
        self.model.now += pause;
        harness.advance(pause).await;
    }

    /// Now and then late, or to somebody else.
    async fn grant(&mut self, harness: &impl Harness, step: u32) {
        let claim = self.any_money_claim();
        let holder = match self.random.below(8) {
            0 => Holder::Shared(Epoch(-1)),
            _ => self.model.money.holder,
        };
        let (granted, elsewhere) = (self.amount(1_500), self.amount(600));
        let settled_elsewhere = self.amount(600).min(elsewhere);
        let grant = Grant {
            scope: claim.scope.clone(),
            window: claim.window,
            holder,
            granted: PicoUsdSum(granted.into()),
            elsewhere: PicoUsdSum(elsewhere.into()),
            settled_elsewhere: PicoUsdSum(settled_elsewhere.into()),
            is_final: self.random.below(3) == 0,
        };
        self.model.grant(&grant);
        harness.limiter().grant(&grant).await.unwrap();
        let standing = harness.limiter().standing(&claim.scope, &claim.window).await.unwrap();
        assert_eq!(standing.unwrap_or_default(), self.model.money.standing(&claim), "seed {} step {step}", self.seed);
    }

    fn new_lease(&mut self) -> LeaseId {
        self.next += 1;
        lease(u128::from(self.seed) << 64 | self.next)
    }

    fn any_open(&mut self) -> Option<usize> {
        let count = u64::try_from(self.open.len()).unwrap();
        (count > 0).then(|| usize::try_from(self.random.below(count)).unwrap())
    }

    /// Up to five counts, no scope and kind twice, and in every second request one or two budgets.
    fn claims(&mut self) -> Claims {
        let mut counts = BTreeMap::new();
        for _ in 0..1 + self.random.below(5) {
            let scope = match self.random.below(3) {
                0 => user(&format!("seed-{}", self.seed)),
                1 => Scope::Model(format!("seed-{}", self.seed).into()),
                _ => Scope::Credential(format!("seed-{}", self.seed).into()),
            };
            let (kind, limit, amount) = match self.random.below(4) {
                0 => (LimitKind::Requests, 20, 1),
                1 => (LimitKind::ImageRequests, 10, 1 + self.random.below(3)),
                2 => (LimitKind::Concurrency, 6, 1),
                // Sometimes lowered, sometimes more than ever fits.
                _ => (LimitKind::Tokens, 600 + 200 * self.random.below(3), 1 + self.random.below(650)),
            };
            counts.insert((scope, kind), (limit, amount));
        }
        let counts =
            counts.into_iter().map(|((scope, kind), (limit, amount))| claim(scope, kind, limit, amount)).collect();
        let mut money: Vec<MoneyClaim> = (0..self.random.below(4) / 2 * 2).map(|_| self.any_money_claim()).collect();
        money.dedup_by(|one, next| one.scope == next.scope);
        Claims { counts, money, event: None }
    }

    /// Of a user's budget in windows of 100 s, or of a model's for ever.
    fn any_money_claim(&mut self) -> MoneyClaim {
        let (scope, window) = match self.random.below(2) {
            0 => {
                let length = 100_000_000;
                let now = self.model.wall_clock().0;
                // Sometimes the one before or after.
                let off = match self.random.below(16) {
                    0 => -length,
                    1 => length,
                    _ => 0,
                };
                let start = now - now % length + off;
                let window = MoneyWindow { start: Timestamp(start), end: Timestamp(start + length) };
                (user(&format!("seed-{}", self.seed)), window)
            }
            _ => (Scope::Model(format!("seed-{}", self.seed).into()), MoneyWindow::TOTAL),
        };
        let limit = (1_000 + 500 * i128::from(self.random.below(3))) * i128::from(self.unit);
        let amount = match self.random.below(10) {
            0 => 0,
            _ => self.amount(400),
        };
        MoneyClaim { is_top_up: self.random.below(8) == 0, ..money_claim(scope, window, limit, amount) }
    }

    /// Less than so many units, and not a whole number of them. Never more than fits into an event.
    fn amount(&mut self, units: u64) -> i64 {
        let whole = i64::try_from(self.random.below(units)).unwrap();
        let part = i64::try_from(self.random.below(u64::try_from(self.unit).unwrap())).unwrap();
        whole.saturating_mul(self.unit).saturating_add(part)
    }
}

fn sort(reply: &Reservation) -> &'static str {
    match reply {
        Reservation::Held(_) => "held",
        Reservation::Refused { .. } => "refused",
        Reservation::Exhausted { .. } => "exhausted",
        Reservation::NeedsGrants { .. } => "needs grants",
        Reservation::WrongWindow { .. } => "wrong window",
    }
}

/// Every use there ever was, in a list.
struct Model {
    /// What the clock on the wall said when `now` was zero.
    start: Timestamp,
    now: Duration,
    uses: Vec<Use>,
    /// `None`: settled or voided.
    leases: HashMap<LeaseId, Option<u64>>,
    money: MoneyModel,
}

struct Use {
    lease: LeaseId,
    scope: Scope,
    kind: LimitKind,
    second: u64,
    amount: i128,
}

impl Model {
    fn reserve(&mut self, id: LeaseId, claims: &Claims) -> Reservation {
        let now = self.wall_clock();
        if !matches!(self.leases.get(&id), Some(Some(_))) {
            let refusal = self.money.refusal(&claims.money, now);
            let refusal =
                refusal.or_else(|| self.refusal(&claims.counts)).or_else(|| self.money.missing(&claims.money));
            if let Some(refusal) = refusal {
                return refusal;
            }
            let second = self.now.as_secs();
            for Claim { scope, kind, amount, .. } in &claims.counts {
                let (scope, kind, amount) = (scope.clone(), *kind, i128::from(*amount));
                self.uses.push(Use { lease: id, scope, kind, second, amount });
            }
            self.money.take(id, &claims.money);
            self.leases.insert(id, Some(second));
        }
        Reservation::Held(Held {
            counts: claims.counts.iter().map(|claim| self.standing(claim)).collect(),
            money: claims.money.iter().map(|claim| self.money.standing(claim)).collect(),
            holder: (!claims.money.is_empty()).then_some(self.money.holder),
            is_degraded: false,
        })
    }

    fn settle(&mut self, settlement: &Settlement) {
        if self.leases.insert(settlement.lease, None).flatten().is_none() {
            return;
        }
        for SettledClaim { claim, actual } in &settlement.claims {
            let used = match (claim.kind, settlement.certainty) {
                (LimitKind::Concurrency, _) | (_, Certainty::Unknown) => 0,
                (_, Certainty::Held) => i128::from(*actual),
            };
            let of_claim = |found: &&mut Use| {
                found.lease == settlement.lease && found.scope == claim.scope && found.kind == claim.kind
            };
            self.uses.iter_mut().filter(of_claim).for_each(|found| found.amount = used);
        }
        self.money.settle(settlement);
    }

    fn grant(&mut self, grant: &Grant) {
        let now = self.wall_clock();
        self.money.grant(grant, now);
    }

    fn refusal(&self, claims: &[Claim]) -> Option<Reservation> {
        let waits = claims.iter().enumerate().filter_map(|(at, claim)| Some((at, self.wait(claim)?)));
        // The first of those that wait longest.
        let (at, retry_after) = waits.rev().max_by_key(|(_, wait)| *wait)?;
        let claim = &claims[at];
        let is_open = |found: &&Use| matches!(self.leases.get(&found.lease), Some(Some(_)));
        let uses = || self.in_window(claim, self.now.as_secs());
        let used: i128 = uses().map(|found| found.amount).sum();
        let reserved: i128 = uses().filter(is_open).map(|found| found.amount).sum();
        let [settled, reserved] = [used - reserved, reserved].map(|amount| u64::try_from(amount).unwrap());
        Some(Reservation::Refused { claim: at, settled, reserved, standing: self.standing(claim), retry_after })
    }

    fn standing(&self, claim: &Claim) -> Standing {
        let newest = self.in_window(claim, self.now.as_secs()).filter(|found| found.amount > 0);
        let whole_at = newest.map(|found| found.second + 61).max();
        let reset = match claim.kind {
            LimitKind::Concurrency => Duration::ZERO,
            _ => whole_at.map_or(Duration::ZERO, |second| Duration::from_secs(second) - self.now),
        };
        Standing { remaining: self.remaining(claim), reset }
    }

    fn wall_clock(&self) -> Timestamp {
        self.start.saturating_add(self.now)
    }

    /// How long until the claim fits if nothing more is used; `None`: it fits now.
    fn wait(&self, claim: &Claim) -> Option<Duration> {
        let fits = |second| {
            let used: i128 = self.in_window(claim, second).map(|found| found.amount).sum();
            used + i128::from(claim.amount) <= i128::from(claim.limit)
        };
        let now = self.now.as_secs();
        if fits(now) {
            return None;
        }
        Some(match claim.kind {
            LimitKind::Concurrency => Duration::from_secs(1),
            _ => {
                let at = (now + 1..=now + 61).find(|second| fits(*second)).unwrap_or(now + 61);
                Duration::from_secs(at) - self.now
            }
        })
    }

    fn remaining(&self, claim: &Claim) -> u64 {
        let used: i128 = self.in_window(claim, self.now.as_secs()).map(|found| found.amount).sum();
        u64::try_from((i128::from(claim.limit) - used).max(0)).unwrap()
    }

    /// What counts against a claim in this second.
    fn in_window(&self, claim: &Claim, second: u64) -> impl Iterator<Item = &Use> {
        self.uses.iter().filter(move |found| {
            let counts = found.kind == LimitKind::Concurrency || found.second + 60 >= second;
            counts && found.scope == claim.scope && found.kind == claim.kind
        })
    }
}

/// `SplitMix64`: small, and the same on every machine.
struct Random(u64);

impl Random {
    /// Less than `bound`; of 0, 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % bound.max(1)
    }
}
