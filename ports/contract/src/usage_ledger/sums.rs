//! Sums are the sums of the events, for those who may see them.

use ai4free_ports::{
    key::KeyId,
    money::{PicoUsd, PicoUsdSum},
    runtime::Timestamp,
    usage::TokenUsage,
    usage_ledger::{Appended, Audience, EventKind, Outcome, UsageEvent, UsageReport},
};

use super::{
    Harness,
    fixture::{BEGIN, COST, END, HOUR, NOON, Spool, event, key, sums_of},
};

pub async fn sums_are_those_of_the_events(harness: &impl Harness) {
    for seed in [1, 2, 3] {
        println!("seed {seed}");
        let mut random = Random(seed);
        let spool = Spool::attach(harness, seed).await;
        let mut position = 0;
        for _ in 0..8 {
            let events: Vec<UsageEvent> = (0..random.below(40)).map(|_| random_event(&mut random, seed)).collect();
            spool.append(position, &events).await;
            position += events.len() as u64;
        }
    }
    let ledger = harness.ledger();
    let events = ledger.recent(&Audience::Operator, 1000).await.unwrap();
    assert_eq!(ledger.report(&Audience::Operator, BEGIN, END).await.unwrap(), sums_of(&events));
    for number in 0..4 {
        let own: Vec<UsageEvent> = events.iter().filter(|event| event.key == key(number)).cloned().collect();
        assert!(!own.is_empty());
        assert_eq!(ledger.report(&Audience::Key(key(number)), BEGIN, END).await.unwrap(), sums_of(&own));
    }
}

pub async fn a_request_is_counted_once_with_its_last_attempt(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let attempt = |attempt, model: &str, outcome| UsageEvent { attempt, model: model.into(), outcome, ..event(1) };
    // Not in the order of the attempts.
    let events = [
        attempt(1, "first", Outcome::Failed),
        attempt(3, "last", Outcome::Success),
        attempt(2, "first", Outcome::Failed),
    ];
    spool.append(0, &events).await;
    let report = spool.report(&Audience::Operator).await;
    let (first, last) = (&report.by_model["first"], &report.by_model["last"]);
    assert_eq!((first.requests, first.successful, first.cost), (0, 0, PicoUsdSum(2 * COST)));
    assert_eq!((last.requests, last.successful, last.cost), (1, 1, PicoUsdSum(COST)));
    assert_eq!(report.by_day.values().map(|day| day.requests).sum::<u64>(), 1);
}

pub async fn each_outcome_is_counted_as_what_it_is(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let outcomes =
        [Outcome::Success, Outcome::Success, Outcome::Success, Outcome::Failed, Outcome::Lost, Outcome::Cancelled];
    let events: Vec<UsageEvent> =
        outcomes.into_iter().zip(0..).map(|(outcome, number)| UsageEvent { outcome, ..event(number) }).collect();
    spool.append(0, &events).await;
    let counters = &spool.report(&Audience::Operator).await.by_model["gpt-x"];
    assert_eq!((counters.requests, counters.successful, counters.cancelled, counters.failed()), (6, 3, 1, 2));
}

pub async fn a_correction_adds_money_and_no_request(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let none = TokenUsage::default();
    let correction = |revision, cost| UsageEvent {
        kind: EventKind::Adjustment,
        revision,
        cost: PicoUsd(cost),
        usage: none,
        ..event(1)
    };
    spool.append(0, &[event(1)]).await;
    spool.append(1, &[correction(1, -1_500_001), correction(2, 7)]).await;
    let counters = &spool.report(&Audience::Operator).await.by_model["gpt-x"];
    assert_eq!((counters.requests, counters.cost), (1, PicoUsdSum(COST - 1_500_001 + 7)));
    assert_eq!(counters.input_tokens, event(1).usage.input_total());
}

pub async fn a_release_takes_back_its_hold(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let hold = UsageEvent { kind: EventKind::Hold, ..event(1) };
    let release = UsageEvent { kind: EventKind::Release, cost: PicoUsd(-hold.cost.0), ..hold.clone() };
    spool.append(0, &[hold]).await;
    let held = spool.report(&Audience::Operator).await.by_model["gpt-x"].clone();
    assert_eq!((held.requests, held.cost), (0, PicoUsdSum(COST)));
    spool.append(1, &[UsageEvent { cost: PicoUsd(1), ..event(1) }, release]).await;
    let settled = &spool.report(&Audience::Operator).await.by_model["gpt-x"];
    assert_eq!((settled.requests, settled.cost), (1, PicoUsdSum(1)));
    assert_eq!(settled.input_tokens, event(1).usage.input_total());
    assert_eq!(settled.output_tokens, event(1).usage.output_total());
}

pub async fn a_report_has_whole_hours(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let at = |number, micros| UsageEvent { admitted_at: Timestamp(micros), ..event(number) };
    spool.append(0, &[at(1, NOON - 1), at(2, NOON), at(3, NOON + HOUR - 1), at(4, NOON + HOUR)]).await;
    let requests = async |from: i64, to: i64| {
        let report = spool.ledger.report(&Audience::Operator, Timestamp(from), Timestamp(to)).await.unwrap();
        report.by_model.values().map(|counters| counters.requests).sum::<u64>()
    };
    assert_eq!(requests(NOON, NOON + HOUR).await, 2);
    assert_eq!(requests(NOON + 5, NOON + 6).await, 2, "rounded to its hour on both sides");
    assert_eq!(requests(NOON - 1, NOON).await, 1);
    assert_eq!(requests(NOON, NOON + HOUR + 1).await, 3);
    assert_eq!(requests(NOON, NOON).await, 0, "an empty span");
    assert_eq!(requests(NOON + HOUR, NOON).await, 0, "a reversed span");
    assert_eq!(requests(0, i64::MAX).await, 4);
}

pub async fn a_report_groups_by_utc_day(harness: &impl Harness) {
    const DAY: i64 = 86_400_000_000;
    let spool = Spool::attach(harness, 1).await;
    let midnight = (NOON / DAY + 1) * DAY;
    let at = |number, micros| UsageEvent { admitted_at: Timestamp(micros), ..event(number) };
    let events = [at(1, midnight - 1), at(2, midnight), at(3, midnight + DAY - 1)];
    spool.append(0, &events).await;
    let days: Vec<_> =
        spool.report(&Audience::Operator).await.by_day.into_iter().map(|(day, sum)| (day, sum.requests)).collect();
    let first = i32::try_from(NOON / DAY).unwrap();
    assert_eq!(days, [(first, 1), (first + 1, 2)]);
}

pub async fn nobody_sees_the_usage_of_another_key(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let of = |number, owner| UsageEvent { key: key(owner), user: Some("same user".into()), ..event(number) };
    let events = [of(1, 1), of(2, 2), of(3, 1)];
    spool.append(0, &events).await;
    let own = Audience::Key(key(1));
    assert_eq!(spool.recent(&own).await, [events[2].clone(), events[0].clone()]);
    assert_eq!(spool.report(&own).await, sums_of(&[events[0].clone(), events[2].clone()]));
    let stranger = Audience::Key(key(3));
    assert!(spool.recent(&stranger).await.is_empty());
    assert_eq!(spool.report(&stranger).await, UsageReport::default());
    assert_eq!(spool.recent(&Audience::Operator).await.len(), 3);
    assert_eq!(spool.report(&Audience::Operator).await, sums_of(&events));
}

pub async fn the_gateways_own_usage_has_an_audience(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let own = UsageEvent { key: KeyId::system(), ..event(1) };
    spool.append(0, &[own.clone(), event(2)]).await;
    assert_eq!(spool.recent(&Audience::Key(KeyId::system())).await, [own]);
}

pub async fn sums_exceed_64_bits_of_pico(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let dear = |number| UsageEvent { cost: PicoUsd(i64::MAX), ..event(number) };
    spool.append(0, &(0..50).map(dear).collect::<Vec<_>>()).await;
    spool.append(50, &(50..100).map(dear).collect::<Vec<_>>()).await;
    let report = spool.report(&Audience::Operator).await;
    assert_eq!(report.by_model["gpt-x"].cost, PicoUsdSum(100 * i128::from(i64::MAX)));
}

pub async fn an_unpriced_event_stays_unpriced(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let unpriced = UsageEvent { price_version: None, cost: PicoUsd::ZERO, ..event(1) };
    spool.append(0, std::slice::from_ref(&unpriced)).await;
    let counters = spool.report(&Audience::Operator).await.by_model["gpt-x"].clone();
    assert_eq!((counters.requests, counters.cost), (1, PicoUsdSum(0)));
    assert_eq!(spool.recent(&Audience::Operator).await, [unpriced]);
}

pub async fn nonsense_from_a_provider_does_not_block_the_ledger(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let usage = TokenUsage {
        input: u64::MAX,
        cache_read: u64::MAX,
        cache_write: u64::MAX,
        output: u64::MAX,
        reasoning: u64::MAX,
        audio_in: u64::MAX,
        audio_out: u64::MAX,
        images: u64::MAX,
    };
    let events: Vec<UsageEvent> = (0..50).map(|number| UsageEvent { usage, ..event(number) }).collect();
    assert_eq!(spool.append(0, &events[..25]).await, Appended::Acknowledged(25));
    assert_eq!(spool.append(25, &events[25..]).await, Appended::Acknowledged(50));
    assert_eq!(spool.recent(&Audience::Operator).await.len(), 50);
    assert_eq!(spool.report(&Audience::Operator).await.by_model["gpt-x"].requests, 50);
}

/// A linear congruential generator: the same events in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn random_event(random: &mut Random, seed: u64) -> UsageEvent {
    let outcomes = [Outcome::Success, Outcome::Failed, Outcome::Cancelled, Outcome::Lost];
    let number = seed << 32 | random.below(1 << 31);
    UsageEvent {
        key: key(random.below(4)),
        model: format!("model-{}", random.below(3)).into(),
        outcome: outcomes[random.below(4) as usize],
        admitted_at: Timestamp(NOON + random.below(1 << 31) as i64 * 100),
        usage: TokenUsage {
            input: random.below(1 << 20),
            cache_read: random.below(1 << 20),
            cache_write: random.below(2),
            output: random.below(1 << 20),
            reasoning: random.below(100),
            audio_in: random.below(9),
            audio_out: random.below(9),
            images: random.below(4),
        },
        cost: PicoUsd((random.below(1 << 31) << 31 | random.below(1 << 31)) as i64),
        ..event(number)
    }
}
