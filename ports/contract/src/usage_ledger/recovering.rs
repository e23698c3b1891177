//! What others remember of requests whose journal may be lost, and may turn up again.

use std::time::Duration;

use ai4free_ports::{
    budget::{Epoch, Holder, MoneyWindow, Spending},
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::Scope,
    usage::UsageSource,
    usage_ledger::{
        Appended, Audience, Counters, EventKind, GrantAnswer, GrantRequest, Outcome, Recovered, Remains, UsageEvent,
        UsageLedger, Verification,
    },
};

use super::{
    Harness,
    fixture::{BEGIN, COST, END, Spool, event, key, sums_of},
};

const BOUND: i64 = 5_000_000_000;
/// However long it was.
const ANY: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);

pub async fn what_others_remember_is_stored_and_summed_once(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let events = [charge(1), charge(2), charge(3)];
    for _ in 0..2 {
        assert_eq!(recover(&spool, charges(&events[..2]), ANY).await, Recovered::default());
    }
    // Its journal was not lost after all.
    assert_eq!(spool.append(0, &events).await, Appended::Acknowledged(3));
    recover(&spool, charges(&events), ANY).await;
    spool.assert_holds(&events).await;
    assert_eq!(settled(&*spool.ledger).await, 3 * COST);
    assert_clean(&*spool.ledger).await;
}

pub async fn all_attempts_of_a_remembered_request_are_one_request(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let failed = UsageEvent { attempt: 0, outcome: Outcome::Failed, ..charge(1) };
    recover(&spool, charges(&[failed, charge(1)]), ANY).await;
    let counters = counters(&spool).await;
    assert_eq!((counters.requests, counters.successful, counters.cost), (1, 1, PicoUsdSum(2 * COST)));
    assert_clean(&*spool.ledger).await;
}

/// The journal lost the end of a request, and the next life charged its bound.
pub async fn what_a_journal_has_charged_otherwise_is_charged_once(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let bound = UsageEvent { attempt: 0, cost: PicoUsd(BOUND), outcome: Outcome::Lost, ..charge(1) };
    spool.append(0, std::slice::from_ref(&bound)).await;
    let failed = UsageEvent { attempt: 0, outcome: Outcome::Failed, ..charge(1) };
    let succeeded = UsageEvent { attempt: 1, ..charge(1) };
    recover(&spool, charges(&[failed, succeeded]), ANY).await;
    spool.assert_holds(&[bound]).await;
    let counters = counters(&spool).await;
    assert_eq!((counters.requests, counters.cost), (1, PicoUsdSum(BOUND.into())));
    assert_clean(&*spool.ledger).await;
}

pub async fn a_hold_is_released_with_the_charge_of_its_journal(harness: &impl Harness) {
    let before = Spool::attach(harness, 1).await;
    let (first, top_up) = (hold(1), UsageEvent { attempt: 1, ..hold(1) });
    for _ in 0..2 {
        let told = recover(&before, holds(&[first.clone(), top_up.clone(), hold(2)]), ANY).await;
        assert_eq!(told, Recovered { are_held: true, ..Recovered::default() });
    }
    assert_eq!((counters(&before).await.requests, settled(&*before.ledger).await), (0, 3 * i128::from(BOUND)));
    assert_eq!(counters(&before).await.cost, PicoUsdSum(3 * i128::from(BOUND)));
    assert_clean(&*before.ledger).await;

    let spool = Spool::attach(harness, 1).await;
    for _ in 0..2 {
        spool.append(0, &[charge(1)]).await;
        assert_eq!(settled(&*spool.ledger).await, COST + i128::from(BOUND));
    }
    assert_eq!(spool.append(1, &[charge(2), charge(3)]).await, Appended::Acknowledged(3));
    let releases = [first, top_up, hold(2)].map(|hold| released(&hold));
    let found = spool.recent(&Audience::Operator).await;
    let of_kind = |kind| found.iter().filter(move |event| event.kind == kind).count();
    assert_eq!([EventKind::Charge, EventKind::Hold, EventKind::Release].map(of_kind), [3, 3, 3]);
    assert!(releases.iter().all(|release| found.contains(release)), "{found:?}");
    assert_eq!(spool.report(&Audience::Operator).await, sums_of(&[charge(1), charge(2), charge(3)]));
    assert_eq!(settled(&*spool.ledger).await, 3 * COST);
    assert_clean(&*spool.ledger).await;
}

pub async fn a_hold_is_released_with_a_charge_that_others_remember(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    recover(&spool, holds(&[hold(1)]), ANY).await;
    for _ in 0..2 {
        recover(&spool, charges(&[charge(1)]), ANY).await;
        assert_eq!((counters(&spool).await.requests, settled(&*spool.ledger).await), (1, COST));
    }
    recover(&spool, holds(&[hold(1)]), ANY).await;
    assert_eq!(settled(&*spool.ledger).await, COST);
    assert_clean(&*spool.ledger).await;
}

pub async fn nothing_is_held_of_a_request_that_was_charged(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    spool.append(0, &[charge(1)]).await;
    let told = recover(&spool, holds(&[hold(1), hold(2)]), ANY).await;
    let charged = [(charge(1).request, vec![charge(1)])].into();
    assert_eq!(told, Recovered { charged, are_held: true });
    assert_eq!(settled(&*spool.ledger).await, COST + i128::from(BOUND));
}

pub async fn nothing_is_held_of_a_process_that_was_just_heard_of(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    spool.beat(Epoch(0)).await;
    let remains = Remains { charges: vec![charge(1)], holds: vec![hold(2)], ..Remains::default() };
    assert_eq!(recover(&spool, remains, MINUTE).await, Recovered::default());
    spool.assert_holds(&[charge(1)]).await;
}

pub async fn what_was_never_sent_is_not_held_any_more(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    recover(&spool, holds(&[hold(1), hold(2)]), ANY).await;
    for _ in 0..2 {
        let remains = Remains { never_sent: vec![hold(1).request], ..Remains::default() };
        recover(&spool, remains, ANY).await;
        assert_eq!((settled(&*spool.ledger).await, counters(&spool).await.requests), (i128::from(BOUND), 0));
    }
    assert_clean(&*spool.ledger).await;
}

pub async fn a_missed_process_goes_on_as_before(harness: &impl Harness) {
    let before = Spool::attach(harness, 1).await;
    recover(&before, holds(&[hold(1)]), ANY).await;
    // It was only asleep.
    assert_eq!(before.append(0, &[charge(1)]).await, Appended::Acknowledged(1));
    let spool = Spool::attach(harness, 1).await;
    assert_eq!((spool.generation, spool.acknowledged), (before.generation + 1, 1));
    let request = GrantRequest {
        scope: Scope::Gateway,
        window: MoneyWindow::TOTAL,
        holder: spool.holder(),
        limit: PicoUsdSum(100),
        claim: PicoUsd(1),
        share: 1,
        known: PicoUsdSum(0),
    };
    let answer = spool.ledger.grant(&request).await.unwrap();
    assert!(matches!(answer, GrantAnswer::Granted { .. }), "it spends by itself again: {answer:?}");
}

/// Whoever is first, the other one finds out.
pub async fn holds_and_charges_that_race_come_to_the_charges(harness: &impl Harness) {
    const REQUESTS: u64 = 24;
    let spool = Spool::attach(harness, 1).await;
    let drain = async {
        for number in 0..REQUESTS {
            spool.append(number, &[charge(number)]).await;
        }
    };
    let reap = async || {
        for number in 0..REQUESTS {
            recover(&spool, holds(&[hold(number)]), ANY).await;
        }
    };
    tokio::join!(drain, reap(), reap());
    assert_eq!(settled(&*spool.ledger).await, i128::from(REQUESTS) * COST);
    assert_eq!(counters(&spool).await.cost, PicoUsdSum(i128::from(REQUESTS) * COST));
    assert_clean(&*spool.ledger).await;
}

fn spending() -> Vec<Spending> {
    vec![Spending { scope: Scope::Key(key(1)), window: MoneyWindow::TOTAL.start, holder: Holder::Shared(Epoch(1)) }]
}

fn charge(number: u64) -> UsageEvent {
    UsageEvent { spending: spending(), ..event(number) }
}

fn hold(number: u64) -> UsageEvent {
    UsageEvent {
        kind: EventKind::Hold,
        attempt: 0,
        outcome: Outcome::Lost,
        usage_source: UsageSource::Bound,
        cost: PicoUsd(BOUND),
        ..charge(number)
    }
}

fn released(hold: &UsageEvent) -> UsageEvent {
    UsageEvent { kind: EventKind::Release, cost: PicoUsd(-hold.cost.0), ..hold.clone() }
}

fn charges(events: &[UsageEvent]) -> Remains {
    Remains { charges: events.to_vec(), ..Remains::default() }
}

fn holds(events: &[UsageEvent]) -> Remains {
    Remains { holds: events.to_vec(), ..Remains::default() }
}

async fn recover(spool: &Spool, remains: Remains, silence: Duration) -> Recovered {
    spool.ledger.recover(spool.id, &remains, silence).await.unwrap()
}

async fn counters(spool: &Spool) -> Counters {
    spool.report(&Audience::Operator).await.by_model["gpt-x"].clone()
}

async fn settled(ledger: &dyn UsageLedger) -> i128 {
    ledger.budget(&Scope::Key(key(1)), &MoneyWindow::TOTAL).await.unwrap().settled.0
}

async fn assert_clean(ledger: &dyn UsageLedger) {
    let Verification { differences, events, .. } = ledger.verify(BEGIN, END).await.unwrap();
    assert_eq!(differences, []);
    assert!(events > 0);
}
