//! What operators ask for: sums by anything, the charges themselves, and whether the one is the sum of the other.

use std::collections::BTreeMap;

use ai4free_ports::{
    budget::{MoneyWindow, Spending},
    money::PicoUsd,
    rate_limiter::Scope,
    request::RequestId,
    runtime::Timestamp,
    usage::TokenUsage,
    usage_ledger::{Counters, Dimension, EventKind, GrantRequest, Outcome, UsageEvent, Verification},
};

use super::{
    Harness,
    budgets::{WINDOW, grant, request},
    fixture::{HOUR, NOON, Spool, event, key, request_at, sums_of},
};

pub async fn a_breakdown_is_by_what_is_asked_for(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let at = |number: u64, hours: i64| UsageEvent {
        admitted_at: Timestamp(NOON + hours * HOUR),
        request: request_at((NOON + hours * HOUR) as u64 / 1000, number),
        ..event(number)
    };
    let events = [
        UsageEvent { user: Some("ann".into()), provider: Some("openai".into()), ..at(1, 0) },
        UsageEvent { user: Some("ann".into()), key: key(2), outcome: Outcome::Failed, ..at(2, 0) },
        UsageEvent { model: "m".into(), provider: Some("groq".into()), outcome: Outcome::Cancelled, ..at(3, 11) },
        UsageEvent { provider: Some("groq".into()), credential: Some("groq#2".into()), ..at(4, 12) },
        at(5, 24),
    ];
    spool.append(0, &events).await;
    let (from, to) = (Timestamp(NOON + 7), Timestamp(NOON + 12 * HOUR + 1));
    let breakdown = async |by| harness.ledger().breakdown(by, from, to).await.unwrap();
    let sums = |parts: &[(&str, &[usize])]| -> BTreeMap<String, Counters> {
        parts
            .iter()
            .map(|(name, numbers)| {
                let part: Vec<UsageEvent> = numbers.iter().map(|number| events[number - 1].clone()).collect();
                let mut sum = Counters::default();
                sums_of(&part).by_model.values().for_each(|counters| sum.add(counters));
                ((*name).to_owned(), sum)
            })
            .collect()
    };
    assert_eq!(breakdown(Dimension::Key).await, sums(&[("k00000000001", &[1, 3, 4]), ("k00000000002", &[2])]));
    assert_eq!(breakdown(Dimension::User).await, sums(&[("", &[3, 4]), ("ann", &[1, 2])]));
    assert_eq!(breakdown(Dimension::Model).await, sums(&[("gpt-x", &[1, 2, 4]), ("m", &[3])]));
    assert_eq!(breakdown(Dimension::Provider).await, sums(&[("", &[2]), ("groq", &[3, 4]), ("openai", &[1])]));
    assert_eq!(breakdown(Dimension::Day).await, sums(&[("2025-06-15", &[1, 2, 3]), ("2025-06-16", &[4])]));
    let nothing = harness.ledger().breakdown(Dimension::Day, to, from).await.unwrap();
    assert!(nothing.is_empty());
}

pub async fn charges_come_in_pages_with_their_corrections(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let charge = |number: u64, attempt| UsageEvent {
        attempt,
        admitted_at: Timestamp(NOON + number as i64 * 1000),
        request: request_at(NOON as u64 / 1000 + number, number),
        ..event(number)
    };
    let more = |number, attempt, kind, revision| UsageEvent { kind, revision, ..charge(number, attempt) };
    let mut charges: Vec<UsageEvent> = (0..640)
        .flat_map(|number| [charge(number, 1), charge(number, 2)].into_iter().take(1 + usize::from(number == 7)))
        .collect();
    charges.reverse();
    let others = [
        more(7, 2, EventKind::Adjustment, 2),
        more(7, 2, EventKind::Adjustment, 1),
        more(300, 1, EventKind::Adjustment, 1),
        more(650, 1, EventKind::Hold, 0),
        more(650, 1, EventKind::Release, 0),
        // Admitted before and after the span.
        UsageEvent { admitted_at: Timestamp(NOON - 1), ..charge(700, 1) },
        UsageEvent { admitted_at: Timestamp(NOON + HOUR), ..charge(701, 1) },
        more(701, 1, EventKind::Adjustment, 1),
    ];
    let mut position = 0;
    for batch in charges.chunks(250).chain([&others[..]]) {
        spool.append(position, batch).await;
        position += batch.len() as u64;
    }
    let page = async |after: Option<(RequestId, u16)>| {
        harness.ledger().charges(Timestamp(NOON), Timestamp(NOON + HOUR), after).await.unwrap()
    };
    let mut expected = charges.clone();
    expected.extend([others[1].clone(), others[0].clone(), others[2].clone()]);
    expected.sort_by_key(|event| (event.request, event.attempt, event.revision));
    let first = page(None).await;
    assert_eq!(first.len(), 503, "500 charges and three corrections");
    let last = first.last().unwrap();
    let second = page(Some((last.request, last.attempt))).await;
    assert_eq!([&first[..], &second].concat(), expected);
    let last = second.last().unwrap();
    assert!(page(Some((last.request, last.attempt))).await.is_empty());
    let first_attempt = page(Some((charge(7, 1).request, 1))).await;
    assert_eq!((first_attempt[0].attempt, first_attempt[1].revision), (2, 1), "within a request");
}

/// Of many spools, in any order, with attempts, corrections, holds and budgets.
pub async fn a_ledger_that_nobody_touched_is_verified(harness: &impl Harness) {
    const DAY: i64 = 24 * HOUR;
    let (first, second) = (Spool::attach(harness, 1).await, Spool::attach(harness, 2).await);
    let day = MoneyWindow { start: Timestamp(NOON - 12 * HOUR), end: Timestamp(NOON + 12 * HOUR) };
    let budgets =
        [(Scope::Key(key(1)), WINDOW), (Scope::Gateway, day), (Scope::User("ann".into()), MoneyWindow::TOTAL)];
    for (scope, window) in &budgets {
        let request = request(first.holder(), 1 << 60);
        grant(harness, &GrantRequest { scope: scope.clone(), window: *window, ..request }).await;
    }
    let mut events = Vec::new();
    for number in 0..3000_u64 {
        // Three weeks, a gap of four more, and the first instants of a day.
        let minutes = number as i64 * 15 + if number > 2000 { 28 * 24 * 60 } else { 0 };
        let at = Timestamp(NOON - 5 * DAY + minutes * 60_000_000 + 900);
        let charged = budgets.iter().filter(|(_, window)| window.contains(at));
        let charge = UsageEvent {
            request: request_at(at.0 as u64 / 1000, number),
            admitted_at: at,
            key: key(number % 7),
            user: (number % 2 == 0).then(|| "ann".into()),
            provider: (number % 3 == 0).then(|| "openai".into()),
            outcome: [Outcome::Success, Outcome::Cancelled, Outcome::Failed][number as usize % 3],
            spending: charged
                .map(|(scope, window)| Spending { scope: scope.clone(), window: window.start, holder: first.holder() })
                .collect(),
            ..event(number)
        };
        match number % 10 {
            0 => events.extend([
                UsageEvent { attempt: 2, model: "m".into(), ..charge.clone() },
                UsageEvent { spending: Vec::new(), ..charge },
            ]),
            1 => events.extend([
                charge.clone(),
                UsageEvent {
                    kind: EventKind::Adjustment,
                    revision: 1,
                    cost: PicoUsd(-3),
                    usage: TokenUsage::default(),
                    ..charge
                },
            ]),
            2 => {
                let cost = PicoUsd(-charge.cost.0);
                events.extend([
                    UsageEvent { kind: EventKind::Hold, ..charge.clone() },
                    UsageEvent { kind: EventKind::Release, cost, ..charge },
                ]);
            }
            _ => events.push(charge),
        }
    }
    let count = events.len() as u64;
    events.sort_by_key(|event| (event.request.0.as_u128() % 31, event.request));
    let half = events.iter().position(|event| event.request.0.as_u128() % 31 == 15).unwrap();
    for (spool, part) in [(&first, &events[..half]), (&second, &events[half..])] {
        let mut position = 0;
        // All charges of a request are in one batch.
        for batch in part.chunk_by(|a, b| a.request.0.as_u128() % 31 == b.request.0.as_u128() % 31) {
            spool.append(position, batch).await;
            position += batch.len() as u64;
        }
    }
    let verify = async |from: i64, to: i64| harness.ledger().verify(Timestamp(from), Timestamp(to)).await.unwrap();
    let all = verify(0, i64::MAX).await;
    assert_eq!((all.events, all.differences), (count, Vec::new()));
    assert!(all.sums > 0);
    // From the midnight before to the midnight after.
    let of_day = events.iter().filter(|event| day.contains(event.admitted_at)).count() as u64;
    let day = verify(NOON, NOON + 1).await;
    assert_eq!((day.events, day.differences), (of_day, Vec::new()));
    assert_eq!(verify(NOON - 100 * DAY, NOON - 50 * DAY).await, Verification::default());
}
