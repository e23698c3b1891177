//! A budget is granted once, to whomever, and what was spent counts.

use ai4free_ports::{
    budget::{Budget, Epoch, Holder, MoneyWindow, Spending},
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::Scope,
    runtime::Timestamp,
    usage_ledger::{EventKind, GrantAnswer, GrantRequest, Share, UsageEvent},
};
use futures_util::future::{join, join_all};

use super::{
    Harness,
    fixture::{COST, HOUR, NOON, Spool, event, key, request_at, spool_id},
};

/// Whoever knows of all grants is granted more.
const ALL: PicoUsdSum = PicoUsdSum(i128::MAX);

/// Half an hour and a second off the hour, as some time zones are.
pub(super) const WINDOW: MoneyWindow =
    MoneyWindow { start: Timestamp(NOON - HOUR / 2 - 1_000_000), end: Timestamp(NOON + 10 * HOUR) };

pub async fn a_grant_is_a_part_of_the_room_or_lasts_for_some_claims(harness: &impl Harness) {
    let holder = Spool::attach(harness, 1).await.holder();
    let asked = GrantRequest { claim: PicoUsd(1_000), share: 4, ..request(holder, 1_000_000) };
    assert_eq!(grant(harness, &asked).await, granted(0, 250_000, 0), "a quarter of all");
    assert_eq!(grant(harness, &asked).await, granted(250_000, 437_500, 0), "a quarter of what is left");
    let dear = GrantRequest { claim: PicoUsd(20_000), ..asked.clone() };
    assert_eq!(grant(harness, &dear).await, granted(437_500, 757_500, 0), "16 claims");
    assert_eq!(grant(harness, &dear).await, granted(757_500, 1_000_000, 0), "no more than there is");
    assert_eq!(grant(harness, &dear).await, granted(1_000_000, 1_000_000, 0), "nothing is left");
    let other = Spool::attach(harness, 2).await.holder();
    let all = GrantRequest { share: 1, window: next(WINDOW), ..request(other, 77) };
    assert_eq!(grant(harness, &all).await, granted(0, 77, 0));
}

pub async fn what_others_were_granted_is_not_granted_again(harness: &impl Harness) {
    let first = request(Spool::attach(harness, 1).await.holder(), 1_000_000);
    let second = request(Spool::attach(harness, 2).await.holder(), 1_000_000);
    assert_eq!(grant(harness, &GrantRequest { share: 2, ..first.clone() }).await, granted(0, 500_000, 0));
    assert_eq!(grant(harness, &second).await, granted(0, 500_000, 500_000));
    assert_eq!(grant(harness, &first).await, granted(500_000, 500_000, 500_000));
    // The budget was raised, then lowered.
    let raised = GrantRequest { limit: PicoUsdSum(1_200_000), ..first.clone() };
    assert_eq!(grant(harness, &raised).await, granted(500_000, 700_000, 500_000));
    let lowered = GrantRequest { limit: PicoUsdSum(7), ..second };
    assert_eq!(grant(harness, &lowered).await, granted(500_000, 500_000, 700_000));
}

pub async fn a_grant_tells_what_others_have_settled_of_theirs(harness: &impl Harness) {
    let (first, second) = (Spool::attach(harness, 1).await, Spool::attach(harness, 2).await);
    let ask = async |holder| match harness.ledger().grant(&request(holder, 10 * COST)).await.unwrap() {
        GrantAnswer::Granted { elsewhere, settled_elsewhere, .. } => [elsewhere.0 / COST, settled_elsewhere.0 / COST],
        GrantAnswer::Stale => panic!("{holder} is current"),
    };
    first.append(0, &[event(1)]).await;
    let asked = GrantRequest { share: 3, ..request(first.holder(), 10 * COST) };
    assert_eq!(grant(harness, &asked).await, granted(0, 3 * COST, COST));
    assert_eq!(ask(second.holder()).await, [4, 1], "what was spent before, and what is granted");
    first.append(1, &[charged_to(first.holder(), 2), charged_to(first.holder(), 3)]).await;
    assert_eq!(ask(second.holder()).await, [4, 3]);
    // More than it was granted, and nothing of the own.
    second
        .append(0, &[charged_to(first.holder(), 4), charged_to(first.holder(), 5), charged_to(second.holder(), 6)])
        .await;
    assert_eq!(ask(second.holder()).await, [5, 5]);
    harness.ledger().close_holders(first.id, first.generation + 1).await.unwrap();
    assert_eq!(ask(second.holder()).await, [5, 5]);
}

pub async fn what_a_holder_gives_back_is_granted_to_others(harness: &impl Harness) {
    let first = request(Spool::attach(harness, 1).await.holder(), 1_000);
    let second = request(Spool::attach(harness, 2).await.holder(), 1_000);
    assert_eq!(grant(harness, &first).await, granted(0, 1_000, 0));
    assert_eq!(grant(harness, &second).await, granted(0, 0, 1_000));
    let (ledger, key) = (harness.ledger(), Scope::Key(key(1)));
    for to in [400, 700] {
        // The second changes nothing: nobody is granted more by giving back.
        ledger.lower(&key, &WINDOW, first.holder, PicoUsdSum(to)).await.unwrap();
    }
    assert_eq!(grant(harness, &second).await, granted(0, 600, 400));
    // What nobody was ever granted can't be given back.
    ledger.lower(&key, &next(WINDOW), first.holder, PicoUsdSum(5)).await.unwrap();
    assert_eq!(grant(harness, &GrantRequest { window: next(WINDOW), ..second }).await, granted(0, 1_000, 0));
    assert_eq!(grant(harness, &first).await, granted(400, 400, 600));
}

/// A holder that knows of no grant has lost it, or is about to hear of it: it is told, before it gets more.
pub async fn a_grant_that_is_recorded_is_told_to_who_does_not_know_it(harness: &impl Harness) {
    let asked = GrantRequest { share: 4, ..request(Spool::attach(harness, 1).await.holder(), 1_000) };
    let first = GrantRequest { known: PicoUsdSum::default(), ..asked.clone() };
    assert_eq!(grant(harness, &first).await, granted(0, 250, 0));
    assert_eq!(grant(harness, &first).await, granted(250, 250, 0));
    assert_eq!(grant(harness, &asked).await, granted(250, 437, 0));
    assert_eq!(grant(harness, &first).await, granted(437, 437, 0));
    // Another replica has asked meanwhile, and brings what it was granted.
    let late = GrantRequest { known: PicoUsdSum(250), ..asked };
    assert_eq!(grant(harness, &late).await, granted(437, 437, 0));
    assert_eq!(grant(harness, &GrantRequest { known: PicoUsdSum(437), ..late }).await, granted(437, 577, 0));
}

pub async fn what_a_holder_has_is_listed_in_order(harness: &impl Harness) {
    let ledger = harness.ledger();
    let (spool, other) = (Spool::attach(harness, 1).await, Spool::attach(harness, 2).await);
    let holder = spool.holder();
    let models: Vec<Scope> = (0..3).map(|number| Scope::Model(format!("m{number}").into())).collect();
    for scope in &models {
        for window in [WINDOW, next(WINDOW)] {
            grant(harness, &GrantRequest { scope: scope.clone(), window, ..request(holder, 7) }).await;
        }
    }
    grant(harness, &GrantRequest { scope: Scope::Gateway, ..request(other.holder(), 7) }).await;
    // Nothing is granted of this one, and it is charged all the same.
    spool.append(0, &[charged_to(holder, 1), charged_to(other.holder(), 2)]).await;
    let share = |scope: &Scope, window: MoneyWindow| Share {
        scope: scope.clone(),
        window: window.start,
        end: Some(window.end),
        granted: PicoUsdSum(7),
        settled: PicoUsdSum(0),
    };
    let mut expected = vec![Share {
        end: None,
        granted: PicoUsdSum(0),
        settled: PicoUsdSum(COST),
        ..share(&Scope::Key(key(1)), WINDOW)
    }];
    for scope in &models {
        expected.extend([WINDOW, next(WINDOW)].map(|window| share(scope, window)));
    }
    assert_eq!(ledger.shares(holder, WINDOW.start, None).await.unwrap(), expected);
    let third = (expected[2].scope.clone(), expected[2].window);
    assert_eq!(ledger.shares(holder, WINDOW.start, Some(&third)).await.unwrap(), expected[3..]);
    let later = ledger.shares(holder, WINDOW.end, None).await.unwrap();
    assert_eq!(later.len(), 4, "a window is over at its end: {later:?}");
    for share in expected {
        assert_eq!(ledger.share(holder, &share.scope, share.window).await.unwrap(), Some(share));
    }
    assert_eq!(ledger.share(holder, &Scope::Gateway, WINDOW.start).await.unwrap(), None);
}

pub async fn windows_and_scopes_are_budgets_of_their_own(harness: &impl Harness) {
    let all = request(Spool::attach(harness, 1).await.holder(), 5);
    let scopes = [
        Scope::Gateway,
        Scope::User("k00000000001".into()),
        Scope::User("g".into()),
        Scope::Key(key(1)),
        Scope::Model("openai/*".into()),
        Scope::Credential("openai#1".into()),
    ];
    for scope in scopes {
        for window in [WINDOW, next(WINDOW), MoneyWindow::TOTAL] {
            let request = GrantRequest { scope: scope.clone(), window, ..all.clone() };
            assert_eq!(grant(harness, &request).await, granted(0, 5, 0), "{scope:?}");
        }
    }
}

/// Whatever the order in which they ask, and however often.
pub async fn racing_holders_share_out_a_budget_to_the_last_pico(harness: &impl Harness) {
    const LIMIT: i128 = 10_000_000_000_007;
    let mut holders = Vec::new();
    for number in 0..16 {
        holders.push(Spool::attach(harness, number).await.holder());
    }
    let racers = holders.iter().map(|holder| async move {
        let asked = GrantRequest { claim: PicoUsd(1_000_000_000), share: 4, ..request(*holder, LIMIT) };
        loop {
            match grant(harness, &asked).await {
                GrantAnswer::Granted { before, granted, elsewhere, .. } if before == granted => {
                    return (granted.0, elsewhere.0);
                }
                GrantAnswer::Granted { granted, elsewhere, .. } => assert!(granted.0 + elsewhere.0 <= LIMIT),
                GrantAnswer::Stale => panic!("a current holder is stale"),
            }
        }
    });
    let answers = join_all(racers).await;
    assert_eq!(answers.iter().map(|(granted, _)| granted).sum::<i128>(), LIMIT);
    assert!(answers.iter().all(|(granted, elsewhere)| granted + elsewhere == LIMIT), "{answers:?}");
    let sum = harness.ledger().budget(&Scope::Key(key(1)), &WINDOW).await.unwrap();
    assert_eq!((sum.committed, sum.settled), (PicoUsdSum(LIMIT), PicoUsdSum(0)));
}

pub async fn a_holder_of_the_past_is_granted_nothing(harness: &impl Harness) {
    let ledger = harness.ledger();
    let stale = async |holder| assert_eq!(grant(harness, &request(holder, 9)).await, GrantAnswer::Stale, "{holder}");
    stale(Holder::Shared(Epoch(0))).await;
    stale(Holder::Shared(Epoch(1))).await;
    let epoch = ledger.attest("a", None).await.unwrap();
    assert_eq!(grant(harness, &request(Holder::Shared(epoch), 9)).await, granted(0, 9, 0));
    stale(Holder::Shared(Epoch(epoch.0 + 1))).await;
    ledger.attest("a", Some(epoch)).await.unwrap();
    stale(Holder::Shared(epoch)).await;

    let before = Spool::attach(harness, 1).await.holder();
    let now = Spool::attach(harness, 1).await;
    stale(before).await;
    stale(Holder::Process { spool: spool_id(1), generation: now.generation + 1 }).await;
    stale(Holder::Process { spool: spool_id(2), generation: 1 }).await;
    assert_eq!(grant(harness, &request(now.holder(), 19)).await, granted(0, 10, 9));
}

pub async fn what_events_cost_is_added_to_their_budgets(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let key_budget = spending(Scope::Key(key(1)), WINDOW, spool.holder());
    let gateway = spending(Scope::Gateway, MoneyWindow::TOTAL, spool.holder());
    let events: Vec<UsageEvent> = (0..20)
        .map(|number| match number % 3 {
            0 => UsageEvent { spending: vec![key_budget.clone(), gateway.clone()], ..event(number) },
            1 => UsageEvent { spending: vec![gateway.clone()], ..event(number) },
            _ => event(number),
        })
        .collect();
    grant(harness, &request(spool.holder(), 100 * COST)).await;
    grant(harness, &GrantRequest { scope: Scope::Gateway, window: MoneyWindow::TOTAL, ..request(spool.holder(), 1) })
        .await;
    // Sent again, and by another spool.
    spool.append(0, &events[..12]).await;
    spool.append(0, &events[..12]).await;
    Spool::attach(harness, 2).await.append(0, &events[6..]).await;
    let sum = async |scope, window| harness.ledger().budget(&scope, &window).await.unwrap();
    let own = sum(Scope::Key(key(1)), WINDOW).await;
    assert_eq!((own.settled, own.committed), (PicoUsdSum(7 * COST), PicoUsdSum(100 * COST)));
    let all = sum(Scope::Gateway, MoneyWindow::TOTAL).await;
    assert_eq!((all.settled, all.committed), (PicoUsdSum(14 * COST), PicoUsdSum(14 * COST)), "more than was granted");

    // A correction, and a hold that is released.
    let more = |number, kind, cost| UsageEvent {
        kind,
        cost: PicoUsd(cost),
        spending: vec![key_budget.clone()],
        ..event(number)
    };
    let corrections = [
        more(0, EventKind::Adjustment, -1_500_001),
        more(50, EventKind::Hold, 9_000_000_000),
        more(50, EventKind::Release, -9_000_000_000),
    ];
    spool.append(12, &corrections).await;
    assert_eq!(sum(Scope::Key(key(1)), WINDOW).await.settled, PicoUsdSum(7 * COST - 1_500_001));
}

/// Batches that share budgets, in orders that would deadlock, with grants and closings of the same.
pub async fn spools_that_share_budgets_do_not_get_in_each_others_way(harness: &impl Harness) {
    const HOLDERS: u64 = 5;
    let scope = |number: u64| Scope::Model(format!("m{}", number % HOLDERS).into());
    let limit = PicoUsdSum(1 << 70);
    let spools = (0..6_u64).map(|number| async move {
        let spool = Spool::attach(harness, number).await;
        let past = Holder::Process { spool: spool.id, generation: 0 };
        let events: Vec<UsageEvent> = (0..60)
            .map(|at| {
                let shared = (0..HOLDERS).map(|other| {
                    let of = if number % 2 == 1 { HOLDERS - other } else { other };
                    spending(scope(of), WINDOW, Holder::Process { spool: spool_id(77), generation: 1 })
                });
                let own = [spending(scope(at), WINDOW, spool.holder()), spending(scope(at), WINDOW, past)];
                UsageEvent { spending: shared.chain(own).collect(), ..event(number * 1000 + at) }
            })
            .collect();
        let grants = async {
            for at in 0..20 {
                let asked = GrantRequest { scope: scope(at + number), limit, share: 9, ..request(spool.holder(), 0) };
                assert_ne!(grant(harness, &asked).await, GrantAnswer::Stale);
                spool.ledger.close_holders(spool.id, spool.generation).await.unwrap();
                spool.ledger.close_holders(spool_id(77), 2).await.unwrap();
            }
        };
        join(spool.drain(&events), grants).await;
    });
    join_all(spools.collect::<Vec<_>>()).await;
    let mut settled = 0;
    for number in 0..HOLDERS {
        settled += harness.ledger().budget(&scope(number), &WINDOW).await.unwrap().settled.0;
    }
    assert_eq!(settled, 6 * 60 * i128::from(HOLDERS + 2) * COST);
}

/// A provider may use more than was reserved: all of it counts, also against what the holder is granted next.
pub async fn what_was_spent_beyond_a_grant_counts(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let asked = GrantRequest { share: 4, ..request(spool.holder(), 4 * COST) };
    assert_eq!(grant(harness, &asked).await, granted(0, COST, 0));
    let charged = |number| charged_to(spool.holder(), number);
    spool.append(0, &[charged(1), charged(2), charged(3)]).await;
    let other = request(Spool::attach(harness, 2).await.holder(), 4 * COST);
    assert_eq!(grant(harness, &other).await, granted(0, COST, 3 * COST));
    spool.append(3, &[charged(4), charged(5)]).await;
    assert_eq!(grant(harness, &asked).await, granted(COST, COST, COST), "overspent");
}

pub async fn the_first_grant_counts_what_was_spent_before(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let start = WINDOW.start.0;
    let times = [
        start - HOUR,
        start - 1, // The last instant before the window.
        start,     // Its first.
        NOON - 1,  // Within its partial first hour.
        NOON,      // Whole hours.
        NOON + 2 * HOUR,
        WINDOW.end.0 - 1,
        WINDOW.end.0, // In the next window.
    ];
    let mut events = Vec::new();
    for (at, number) in times.into_iter().zip(1..) {
        let of_many = UsageEvent {
            request: request_at(at as u64 / 1000, number),
            admitted_at: Timestamp(at),
            user: Some("ann".into()),
            model: "openai/*".into(),
            provider: Some("openai".into()),
            credential: Some("openai#1".into()),
            ..event(number)
        };
        let of_others = UsageEvent {
            request: request_at(at as u64 / 1000, 100 + number),
            key: key(2),
            admitted_at: Timestamp(at),
            ..event(number)
        };
        events.extend([of_many, of_others]);
    }
    spool.append(0, &events).await;
    let mine = [
        Scope::User("ann".into()),
        Scope::Key(key(1)),
        Scope::Model("openai/*".into()),
        Scope::Credential("openai#1".into()),
    ];
    for (scope, count) in mine.into_iter().map(|scope| (scope, 5)).chain([(Scope::Gateway, 10)]) {
        let known = harness.ledger().budget(&scope, &WINDOW).await.unwrap();
        assert_eq!((known.settled, known.committed), (PicoUsdSum(count * COST), PicoUsdSum(count * COST)));
        let asked = GrantRequest { scope: scope.clone(), ..request(spool.holder(), 12 * COST) };
        assert_eq!(grant(harness, &asked).await, granted(0, (12 - count) * COST, count * COST), "{scope:?}");
        let known = harness.ledger().budget(&scope, &WINDOW).await.unwrap();
        assert_eq!((known.settled, known.committed), (PicoUsdSum(count * COST), PicoUsdSum(12 * COST)));
    }
    // A window within one hour, and one of everything.
    let short = MoneyWindow { start: Timestamp(NOON - 2), end: Timestamp(NOON - 1) };
    let asked = GrantRequest { window: short, ..request(spool.holder(), 12 * COST) };
    assert_eq!(grant(harness, &asked).await, granted(0, 12 * COST, 0));
    let total = GrantRequest { window: MoneyWindow::TOTAL, ..asked };
    assert_eq!(grant(harness, &total).await, granted(0, 4 * COST, 8 * COST));
}

/// The ledger lost the grants and not the events, or the budget was not enforced for a while.
pub async fn what_is_charged_before_the_first_grant_counts_once(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let lost = Holder::Process { spool: spool_id(9), generation: 4 };
    spool.append(0, &[charged_to(lost, 1), charged_to(spool.holder(), 2), event(3)]).await;
    let sum = harness.ledger().budget(&Scope::Key(key(1)), &WINDOW).await.unwrap();
    assert_eq!(sum.settled, PicoUsdSum(3 * COST));
    assert_eq!(grant(harness, &request(spool.holder(), 5 * COST)).await, granted(0, 3 * COST, 2 * COST));
    let sum = harness.ledger().budget(&Scope::Key(key(1)), &WINDOW).await.unwrap();
    assert_eq!((sum.settled, sum.committed), (PicoUsdSum(3 * COST), PicoUsdSum(5 * COST)));
}

pub async fn the_largest_budget_is_granted_to_the_pico(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let most = Budget::MOST.0;
    let asked = GrantRequest { share: 3, ..request(spool.holder(), most) };
    assert_eq!(grant(harness, &asked).await, granted(0, most / 3, 0));
    let other = request(Spool::attach(harness, 2).await.holder(), most);
    assert_eq!(grant(harness, &other).await, granted(0, most - most / 3, most / 3));
}

/// What others have settled is compared where it matters.
pub(super) async fn grant(harness: &impl Harness, request: &GrantRequest) -> GrantAnswer {
    match harness.ledger().grant(request).await.unwrap() {
        GrantAnswer::Granted { before, granted: now, elsewhere, settled_elsewhere } => {
            assert!((PicoUsdSum::default()..=elsewhere).contains(&settled_elsewhere), "{settled_elsewhere:?}");
            granted(before.0, now.0, elsewhere.0)
        }
        GrantAnswer::Stale => GrantAnswer::Stale,
    }
}

pub(super) fn granted(before: i128, granted: i128, elsewhere: i128) -> GrantAnswer {
    let [before, granted, elsewhere] = [before, granted, elsewhere].map(PicoUsdSum);
    GrantAnswer::Granted { before, granted, elsewhere, settled_elsewhere: PicoUsdSum::default() }
}

/// All that is left of the budget of [`key`] 1.
pub(super) fn request(holder: Holder, limit: i128) -> GrantRequest {
    let claim = PicoUsd(1);
    let (scope, limit) = (Scope::Key(key(1)), PicoUsdSum(limit));
    GrantRequest { scope, window: WINDOW, holder, limit, claim, share: 1, known: ALL }
}

pub(super) fn charged_to(holder: Holder, number: u64) -> UsageEvent {
    UsageEvent { spending: vec![spending(Scope::Key(key(1)), WINDOW, holder)], ..event(number) }
}

fn spending(scope: Scope, window: MoneyWindow, holder: Holder) -> Spending {
    Spending { scope, window: window.start, holder }
}

fn next(window: MoneyWindow) -> MoneyWindow {
    MoneyWindow { start: window.end, end: Timestamp(2 * window.end.0 - window.start.0) }
}
