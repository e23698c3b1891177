//! The limiter as one would write it without a thought for cost, and the clauses that need it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use ai4free_ports::rate_limiter::{
    Certainty, Claim, Held, LeaseId, LimitKind, RATE_WINDOW, Reservation, Scope, SettledClaim, Settlement, Standing,
};

use super::{Harness, claim, counts, lease, user};

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

/// Random operations give the same replies as the model, to the millisecond.
pub async fn any_order_of_operations_agrees_with_a_naive_model(harness: &impl Harness) {
    let mut now = Duration::ZERO;
    for seed in [11, 12, 13, 14] {
        println!("seed {seed}");
        let model = Model { now, ..Model::default() };
        let mut run = Run { random: Random(seed), seed, model, open: Vec::new(), next: 0 };
        for step in 0..400 {
            match run.random.below(10) {
                0..5 => run.reserve(harness, step).await,
                5 => run.reserve_again(harness, step).await,
                6..8 => run.settle(harness).await,
                8 => run.void(harness, step).await,
                _ => run.advance(harness).await,
            }
        }
        now = run.model.now;
    }
}

struct Run {
    random: Random,
    seed: u64,
    model: Model,
    /// Reserved, and not settled yet.
    open: Vec<(LeaseId, Vec<Claim>)>,
    next: u128,
}

impl Run {
    async fn reserve(&mut self, harness: &impl Harness, step: u32) {
        let (id, claims) = (self.new_lease(), self.claims());
        let reply = harness.limiter().reserve(id, &counts(&claims)).await.unwrap();
        assert_eq!(reply, self.model.reserve(id, &claims), "seed {} step {step}: {claims:?}", self.seed);
        if matches!(reply, Reservation::Held(_)) {
            self.open.push((id, claims));
        }
    }

    async fn reserve_again(&mut self, harness: &impl Harness, step: u32) {
        let Some(at) = self.any_open() else { return };
        let (id, claims) = &self.open[at];
        let reply = harness.limiter().reserve(*id, &counts(claims)).await.unwrap();
        assert_eq!(reply, self.model.reserve(*id, claims), "seed {} step {step}", self.seed);
    }

    async fn settle(&mut self, harness: &impl Harness) {
        let Some(at) = self.any_open() else { return };
        let (id, claims) = self.open.swap_remove(at);
        let claims: Vec<SettledClaim> = claims
            .into_iter()
            .map(|claim| SettledClaim { actual: self.random.below(claim.amount + claim.amount / 2 + 1), claim })
            .collect();
        for _ in 0..=self.random.below(1) {
            let settlement = Settlement {
                lease: id,
                claims: claims.clone(),
                money: Vec::new(),
                holder: None,
                certainty: Certainty::Held,
            };
            self.model.settle(&settlement);
            harness.limiter().settle(settlement);
        }
        harness.settled().await;
    }

    /// Of an open lease, or of one whose reservation arrives only afterwards.
    async fn void(&mut self, harness: &impl Harness, step: u32) {
        let (id, claims) = match self.any_open() {
            Some(at) if self.random.below(2) == 0 => self.open.swap_remove(at),
            _ => (self.new_lease(), self.claims()),
        };
        let void = super::void(id, &claims);
        self.model.settle(&void);
        harness.limiter().settle(void);
        harness.settled().await;
        let late = harness.limiter().reserve(id, &counts(&claims)).await;
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

    fn new_lease(&mut self) -> LeaseId {
        self.next += 1;
        lease(u128::from(self.seed) << 64 | self.next)
    }

    fn any_open(&mut self) -> Option<usize> {
        let count = u64::try_from(self.open.len()).unwrap();
        (count > 0).then(|| usize::try_from(self.random.below(count)).unwrap())
    }

    /// Up to five claims, no scope and kind twice.
    fn claims(&mut self) -> Vec<Claim> {
        let mut claims = BTreeMap::new();
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
            claims.insert((scope, kind), (limit, amount));
        }
        claims.into_iter().map(|((scope, kind), (limit, amount))| claim(scope, kind, limit, amount)).collect()
    }
}

/// Every use there ever was, in a list.
#[derive(Default)]
struct Model {
    now: Duration,
    uses: Vec<Use>,
    /// `None`: settled or voided.
    leases: HashMap<LeaseId, Option<u64>>,
}

struct Use {
    lease: LeaseId,
    scope: Scope,
    kind: LimitKind,
    second: u64,
    amount: i128,
}

impl Model {
    fn reserve(&mut self, id: LeaseId, claims: &[Claim]) -> Reservation {
        if !matches!(self.leases.get(&id), Some(Some(_))) {
            let waits = claims.iter().enumerate().filter_map(|(at, claim)| Some((at, self.wait(claim)?)));
            // The first of those that wait longest.
            if let Some((at, retry_after)) = waits.rev().max_by_key(|(_, wait)| *wait) {
                let remaining = self.remaining(&claims[at]);
                return Reservation::Refused { claim: at, remaining, retry_after };
            }
            let second = self.now.as_secs();
            for Claim { scope, kind, amount, .. } in claims {
                let (scope, kind, amount) = (scope.clone(), *kind, i128::from(*amount));
                self.uses.push(Use { lease: id, scope, kind, second, amount });
            }
            self.leases.insert(id, Some(second));
        }
        let standing = |claim: &Claim| {
            let newest = self.in_window(claim, self.now.as_secs()).filter(|found| found.amount > 0);
            let whole_at = newest.map(|found| found.second + 61).max();
            let reset = match claim.kind {
                LimitKind::Concurrency => Duration::ZERO,
                _ => whole_at.map_or(Duration::ZERO, |second| Duration::from_secs(second) - self.now),
            };
            Standing { remaining: self.remaining(claim), reset }
        };
        Reservation::Held(Held { counts: claims.iter().map(standing).collect(), ..Held::default() })
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
