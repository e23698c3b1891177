//! The clauses on budgets. Amounts are pico-USD; where nothing else is said, a window has two hours, and it is in its middle.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ai4free_ports::{
    budget::{Epoch, Grant, Holder, MoneyWindow},
    money::PicoUsdSum,
    rate_limiter::{Claim, Claims, Held, LimitKind, MoneyClaim, NeededGrant, Reservation, Scope, Settlement},
    runtime::Timestamp,
    usage_ledger::SpoolId,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    Harness,
    budget::{Budget, claims, exhausted, money_claim, spent, standing, time_of, voided},
    claim, key, lease,
    refusals::told,
    remaining, user,
};
use crate::usage_journal::charge;

pub async fn a_budget_is_spent_only_out_of_a_grant(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    assert_eq!(budget.reserve(1, 60).await, budget.needs(None));
    assert_eq!(budget.standing().await, None);
    budget.grant(100, 0, false).await;
    assert_eq!(budget.standing().await, Some(standing(100, 0, 0, 0)));
    let expected =
        Held { money: vec![standing(100, 0, 60, 0)], holder: Some(harness.holder().await), ..Held::default() };
    assert_eq!(budget.reserve(2, 60).await, Reservation::Held(expected));
    assert_eq!(budget.reserve(3, 41).await, budget.needs(Some(100)));
    assert_eq!(budget.reserve(4, 40).await, budget.held(standing(100, 0, 100, 0)));
    assert_eq!(budget.standing().await, Some(standing(100, 0, 100, 0)));
}

/// What the ledger does for one budget. Its answers overtake each other on their way to the limiter.
struct RacingLedger {
    limit: i128,
    granted: Mutex<i128>,
}

pub async fn exactly_what_a_racing_grant_pays_for_is_held(harness: &impl Harness) {
    const LIMIT: i128 = 1_000;
    const AMOUNT: i64 = 17;
    let budget = Budget::new(harness, key(), LIMIT).await;
    let ledger = Arc::new(RacingLedger { limit: LIMIT, granted: Mutex::new(0) });
    let mut tasks = JoinSet::new();
    for number in 0..200 {
        let (limiter, ledger, claim) = (harness.limiter(), ledger.clone(), budget.claim(AMOUNT));
        let grant = budget.to_grant(0, 0, false);
        let tokens = super::claim(Scope::Gateway, LimitKind::Tokens, 10_000, 10);
        let wanted = claims(&[tokens], &[claim]);
        tasks.spawn(async move {
            for _ in 0..1_000 {
                match limiter.reserve(lease(number), &wanted).await.unwrap() {
                    Reservation::Held(_) => return true,
                    Reservation::Exhausted { .. } => return false,
                    Reservation::NeedsGrants { holder, .. } => {
                        let granted = {
                            let mut granted = ledger.granted.lock().unwrap();
                            *granted = ledger.limit.min(*granted + 70);
                            *granted
                        };
                        let is_final = granted == ledger.limit;
                        let grant = Grant { holder, granted: PicoUsdSum(granted), is_final, ..grant.clone() };
                        tokio::task::yield_now().await;
                        limiter.grant(&grant).await.unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
            panic!("neither held nor exhausted after a thousand grants")
        });
    }
    let held = tasks.join_all().await.into_iter().filter(|held| *held).count();
    assert_eq!(held, 58, "of 1000 at 17 each");
    assert_eq!(budget.standing().await, Some(standing(LIMIT, 0, 58 * 17, 0)));
    assert_eq!(remaining(harness, Scope::Gateway, LimitKind::Tokens, 10_000).await, 10_000 - 580);
}

pub async fn after_a_final_grant_nobody_asks_for_a_second(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    budget.grant(100, 900, true).await;
    budget.hold(1, 60).await;
    for _ in 0..2 {
        assert_eq!(budget.reserve(2, 41).await, exhausted(standing(100, 0, 60, 900)));
        harness.advance(Duration::from_millis(499)).await;
    }
    budget.hold(3, 10).await;
    harness.advance(Duration::from_millis(1)).await;
    assert_eq!(budget.reserve(2, 41).await, exhausted(standing(100, 0, 70, 900)));
    harness.advance(Duration::from_millis(1)).await;
    assert_eq!(budget.reserve(2, 41).await, budget.needs(Some(100)));
    // Said once more, it holds for another second; more money is at once there.
    budget.grant(100, 900, true).await;
    assert_eq!(budget.reserve(2, 41).await, exhausted(standing(100, 0, 70, 900)));
    budget.grant(110, 800, false).await;
    assert_eq!(budget.reserve(2, 41).await, budget.needs(Some(110)));
    assert_eq!(budget.reserve(2, 40).await, budget.held(standing(110, 0, 110, 800)));
}

pub async fn a_lowered_budget_holds_at_once(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    budget.grant(1_000, 0, false).await;
    budget.hold(1, 60).await;
    let lowered = budget.with_limit(100);
    assert_eq!(lowered.reserve(2, 41).await, exhausted(standing(1_000, 0, 60, 0)));
    assert_eq!(lowered.reserve(2, 40).await, lowered.held(standing(1_000, 0, 100, 0)));
    assert_eq!(lowered.reserve(3, 1).await, exhausted(standing(1_000, 0, 100, 0)));
    // No second has to pass after it is raised again.
    assert_eq!(budget.reserve(3, 900).await, budget.held(standing(1_000, 0, 1_000, 0)));
}

/// What others have may have shrunk since the last grant: so the ledger is asked before the answer is no.
pub async fn what_others_have_counts_against_a_lowered_budget(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 150).await;
    budget.grant(100, 50, false).await;
    let lowered = budget.with_limit(120);
    assert_eq!(lowered.reserve(1, 71).await, lowered.needs(Some(100)));
    budget.grant(100, 50, true).await;
    assert_eq!(lowered.reserve(1, 71).await, exhausted(standing(100, 0, 0, 50)));
    assert_eq!(lowered.reserve(1, 70).await, lowered.held(standing(100, 0, 70, 50)));
    budget.grant(100, 40, true).await;
    assert_eq!(lowered.reserve(2, 11).await, exhausted(standing(100, 0, 70, 40)));
    assert_eq!(lowered.reserve(2, 10).await, lowered.held(standing(100, 0, 80, 40)));
}

pub async fn the_actual_cost_replaces_the_reserved_one(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    budget.grant(100, 7, false).await;
    for number in 1..=4 {
        budget.hold(number, 25).await;
    }
    budget.settle(1, 25, 10).await;
    assert_eq!(budget.standing().await, Some(standing(100, 10, 75, 7)));
    budget.settle(2, 25, 0).await;
    assert_eq!(budget.standing().await, Some(standing(100, 10, 50, 7)));
    budget.settle(3, 25, 25).await;
    assert_eq!(budget.standing().await, Some(standing(100, 35, 25, 7)));
    assert_eq!(budget.reserve(5, 40).await, budget.held(standing(100, 35, 65, 7)));
    // More than was reserved counts in full, also beyond the grant.
    budget.settle(4, 25, 170).await;
    assert_eq!(budget.standing().await, Some(standing(100, 205, 40, 7)));
    assert_eq!(budget.reserve(6, 1).await, budget.needs(Some(100)));
    budget.settle(5, 40, 0).await;
    budget.grant(206, 7, true).await;
    assert_eq!(budget.reserve(6, 2).await, exhausted(standing(206, 205, 0, 7)));
    assert_eq!(budget.reserve(6, 1).await, budget.held(standing(206, 205, 1, 7)));
}

pub async fn voiding_gives_the_money_back(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    budget.grant(100, 0, false).await;
    budget.hold(1, 60).await;
    harness.limiter().settle(voided(lease(1), &claims(&[], &[budget.claim(60)])));
    harness.settled().await;
    assert_eq!(budget.standing().await, Some(standing(100, 0, 0, 0)));
    assert!(harness.limiter().reserve(lease(1), &claims(&[], &[budget.claim(60)])).await.is_err());
    // The void overtakes its reservation.
    harness.limiter().settle(voided(lease(2), &claims(&[], &[budget.claim(60)])));
    harness.settled().await;
    assert!(harness.limiter().reserve(lease(2), &claims(&[], &[budget.claim(60)])).await.is_err());
    assert_eq!(budget.standing().await, Some(standing(100, 0, 0, 0)));
}

pub async fn events_that_come_with_a_settlement_change_nothing_of_it(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    let wanted = |amount| claims(&[], &[budget.claim(amount)]);
    let holder = harness.holder().await;
    budget.grant(100, 0, false).await;
    budget.hold(1, 60).await;
    budget.hold(2, 30).await;
    for _ in 0..2 {
        let settled = spent(lease(1), holder, &wanted(60), &[20]);
        harness.limiter().settle(Settlement { events: vec![charge(1, 20)], ..settled });
        let void = voided(lease(2), &wanted(30));
        harness.limiter().settle(Settlement { events: vec![charge(2, 20)], ..void });
        harness.settled().await;
        assert_eq!(budget.standing().await, Some(standing(100, 20, 0, 0)));
    }
    assert!(harness.limiter().reserve(lease(2), &wanted(30)).await.is_err());
}

pub async fn money_is_reserved_and_settled_once_however_often_it_is_said(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    budget.grant(100, 0, false).await;
    budget.hold(1, 60).await;
    // Held already: not even a grant that is too small for a second one matters.
    assert_eq!(budget.reserve(1, 60).await, budget.held(standing(100, 0, 60, 0)));
    for _ in 0..3 {
        budget.settle(1, 60, 20).await;
    }
    harness.limiter().settle(voided(lease(1), &claims(&[], &[budget.claim(60)])));
    harness.settled().await;
    budget.settle(2, 60, 20).await;
    assert_eq!(budget.standing().await, Some(standing(100, 20, 0, 0)));
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (limiter, claim) = (harness.limiter(), budget.claim(60));
        tasks.spawn(async move { limiter.reserve(lease(3), &claims(&[], &[claim])).await.unwrap() });
    }
    let replies = tasks.join_all().await;
    assert!(replies.iter().all(|reply| *reply == budget.held(standing(100, 20, 60, 0))), "{replies:?}");
}

pub async fn money_and_counts_are_held_together_or_not_at_all(harness: &impl Harness) {
    let keys = Budget::new(harness, key(), 1_000).await;
    let users = Budget::new(harness, user("u"), 1_000).await;
    let holder = harness.holder().await;
    let wanted = |tokens, of_key, of_user| {
        let counts = [claim(key(), LimitKind::Tokens, 100, tokens), claim(user("u"), LimitKind::Concurrency, 1, 1)];
        claims(&counts, &[keys.claim(of_key), users.claim(of_user)])
    };
    let reserve = async |number, claims: &Claims| harness.limiter().reserve(lease(number), claims).await.unwrap();
    let nothing_is_held = async || {
        assert_eq!(remaining(harness, key(), LimitKind::Tokens, 100).await, 100);
        assert_eq!(remaining(harness, user("u"), LimitKind::Concurrency, 1).await, 1);
        for budget in [&keys, &users] {
            assert!(budget.standing().await.is_none_or(|standing| standing.used() == PicoUsdSum(0)));
        }
    };
    let at_first = harness.granted_at_first();
    let needs = |needed: &[(usize, Option<i128>)]| {
        let needed = needed
            .iter()
            .map(|(claim, granted)| NeededGrant { claim: *claim, granted: granted.map(PicoUsdSum).or(at_first) })
            .collect();
        Reservation::NeedsGrants { holder, needed }
    };
    // All that are missing are told at once.
    assert_eq!(reserve(1, &wanted(10, 10, 10)).await, needs(&[(0, None), (1, None)]));
    nothing_is_held().await;
    users.grant(50, 0, false).await;
    assert_eq!(reserve(1, &wanted(10, 10, 10)).await, needs(&[(0, None)]));
    keys.grant(100, 0, false).await;
    assert_eq!(reserve(1, &wanted(10, 101, 51)).await, needs(&[(0, Some(100)), (1, Some(50))]));
    assert_eq!(reserve(1, &wanted(10, 100, 51)).await, needs(&[(1, Some(50))]));
    nothing_is_held().await;
    let refused = reserve(1, &wanted(101, 10, 10)).await;
    assert_eq!(told(&refused), (0, [0, 0, 100], [0, 61_000]));
    users.grant(50, 0, true).await;
    let used_up = reserve(1, &wanted(10, 10, 51)).await;
    assert_eq!(used_up, Reservation::Exhausted { claim: 1, standing: standing(50, 0, 0, 0) });
    nothing_is_held().await;

    let first = wanted(10, 60, 50);
    let Reservation::Held(held) = reserve(1, &first).await else { panic!("it fits") };
    assert_eq!(held.money, [standing(100, 0, 60, 0), standing(50, 0, 50, 0)]);
    assert_eq!((held.counts.len(), held.holder, held.is_degraded), (2, Some(holder), false));
    assert_eq!(remaining(harness, key(), LimitKind::Tokens, 100).await, 90);
    assert_eq!(remaining(harness, user("u"), LimitKind::Concurrency, 1).await, 0);
    harness.limiter().settle(spent(lease(1), holder, &first, &[3, 50]));
    harness.settled().await;
    assert_eq!(keys.standing().await, Some(standing(100, 3, 0, 0)));
    assert_eq!(users.standing().await, Some(standing(50, 50, 0, 0)));
    assert_eq!(remaining(harness, user("u"), LimitKind::Concurrency, 1).await, 1);
}

pub async fn of_several_reasons_the_first_in_order_is_told(harness: &impl Harness) {
    let missing = Budget::new(harness, user("u"), 1_000).await;
    let empty = Budget::new(harness, key(), 1_000).await;
    empty.grant(0, 1_000, true).await;
    let over = Budget::new(harness, Scope::Model("m".into()), 1_000).await.over();
    let full = [claim(Scope::Gateway, LimitKind::Tokens, 5, 6)];
    let reserve = async |counts: &[Claim], money: &[&Budget<'_, _>]| {
        let money: Vec<MoneyClaim> = money.iter().map(|budget| budget.claim(1)).collect();
        harness.limiter().reserve(lease(1), &claims(counts, &money)).await.unwrap()
    };
    let told = reserve(&[], &[&missing]).await;
    assert!(matches!(told, Reservation::NeedsGrants { .. }), "{told:?}");
    let told = reserve(&full, &[&missing]).await;
    assert!(matches!(told, Reservation::Refused { claim: 0, .. }), "{told:?}");
    let told = reserve(&full, &[&missing, &empty]).await;
    assert_eq!(told, Reservation::Exhausted { claim: 1, standing: standing(0, 0, 0, 1_000) });
    let told = reserve(&full, &[&missing, &empty, &over]).await;
    assert!(matches!(told, Reservation::WrongWindow { .. }), "{told:?}");
}

pub async fn a_claim_outside_its_window_is_told_the_time(harness: &impl Harness) {
    let now = time_of(&*harness.limiter()).await;
    let window =
        |from: i64, to: i64| MoneyWindow { start: Timestamp(now.0 + from * 1_000), end: Timestamp(now.0 + to * 1_000) };
    // The end is not part of a window, the start is.
    for (wrong, is_wrong) in
        [(window(-10, 0), true), (window(1, 10), true), (window(0, 1), false), (window(-10, 1), false)]
    {
        let reply =
            harness.limiter().reserve(lease(1), &claims(&[], &[money_claim(key(), wrong, 10, 1)])).await.unwrap();
        match is_wrong {
            true => assert_eq!(reply, Reservation::WrongWindow { now }, "{wrong:?}"),
            false => assert!(matches!(reply, Reservation::NeedsGrants { .. }), "{reply:?}"),
        }
    }
    harness.advance(Duration::from_millis(2_500)).await;
    assert_eq!(time_of(&*harness.limiter()).await, now.saturating_add(Duration::from_millis(2_500)));
}

pub async fn the_end_of_a_window_changes_nothing_for_requests_that_began_in_it(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    budget.grant(100, 0, false).await;
    budget.hold(1, 30).await;
    harness.advance(Duration::from_secs(3_600)).await;
    let reply = budget.reserve(2, 30).await;
    assert!(matches!(reply, Reservation::WrongWindow { .. }), "{reply:?}");
    // A further claim of the first request.
    let top_up = claims(&[], &[MoneyClaim { is_top_up: true, ..budget.claim(50) }]);
    let reply = harness.limiter().reserve(lease(3), &top_up).await.unwrap();
    assert_eq!(reply, budget.held(standing(100, 0, 80, 0)));
    let next = Budget::new(harness, key(), 1_000).await;
    next.grant(10, 0, false).await;
    next.hold(4, 10).await;
    budget.settle(1, 30, 20).await;
    harness.limiter().settle(spent(lease(3), harness.holder().await, &top_up, &[40]));
    harness.settled().await;
    assert_eq!(budget.standing().await, Some(standing(100, 60, 0, 0)));
    assert_eq!(next.standing().await, Some(standing(10, 0, 10, 0)));
}

pub async fn grants_only_grow(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    budget.grant(100, 7, true).await;
    // Late: not even what it says of others is news.
    budget.grant(99, 3, false).await;
    assert_eq!(budget.standing().await, Some(standing(100, 0, 0, 7)));
    assert_eq!(budget.reserve(1, 101).await, exhausted(standing(100, 0, 0, 7)));
    budget.grant(100, 3, false).await;
    assert_eq!(budget.standing().await, Some(standing(100, 0, 0, 3)));
    assert_eq!(budget.reserve(1, 101).await, budget.needs(Some(100)));
    budget.hold(1, 100).await;
    budget.grant(200, 5, false).await;
    assert_eq!(budget.standing().await, Some(standing(200, 0, 100, 5)));
    budget.hold(2, 100).await;
}

pub async fn what_is_said_of_another_holder_has_no_effect(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 1_000).await;
    let strangers =
        [Holder::Shared(Epoch(-1)), Holder::Process { spool: SpoolId(Uuid::from_u128(0xdead)), generation: i64::MAX }];
    for stranger in strangers {
        let grant = Grant { holder: stranger, ..budget.to_grant(100, 0, false) };
        harness.limiter().grant(&grant).await.unwrap();
        assert_eq!(budget.standing().await, None);
        assert_eq!(budget.reserve(1, 1).await, budget.needs(None));
    }
    budget.grant(100, 0, false).await;
    for stranger in strangers {
        let grant = Grant { holder: stranger, ..budget.to_grant(200, 0, false) };
        harness.limiter().grant(&grant).await.unwrap();
        // Nor does a stranger's loss make this limiter forget.
        harness.limiter().forget(stranger).await.unwrap();
        assert_eq!(budget.standing().await, Some(standing(100, 0, 0, 0)));
    }
    assert_eq!(budget.reserve(1, 100).await, budget.held(standing(100, 0, 100, 0)));
}

/// A double would have lost the last digits long before nine billion dollars, and one of 64 bits overflows at nine million.
pub async fn amounts_of_billions_are_exact_to_the_pico(harness: &impl Harness) {
    const LIMIT: i128 = 9_000_000_000 * 1_000_000_000_000;
    const LARGEST: i64 = i64::MAX;
    let budget = Budget::new(harness, key(), LIMIT).await;
    budget.grant(LIMIT - 1, 0, false).await;
    let mut used: i128 = 0;
    let mut number = 0;
    while used + i128::from(LARGEST) < LIMIT {
        budget.hold(number, LARGEST).await;
        let actual = LARGEST - i64::try_from(number).unwrap();
        harness.limiter().settle(budget.spent(number, LARGEST, actual));
        used += i128::from(actual);
        number += 1;
    }
    harness.settled().await;
    assert_eq!(budget.standing().await, Some(standing(LIMIT - 1, used, 0, 0)));
    let left = i64::try_from(LIMIT - 1 - used).unwrap();
    assert_eq!(budget.reserve(number, left + 1).await, budget.needs(Some(LIMIT - 1)));
    budget.hold(number, left).await;
    assert_eq!(budget.reserve(number + 1, 1).await, budget.needs(Some(LIMIT - 1)));
    budget.grant(LIMIT, 0, true).await;
    assert_eq!(budget.reserve(number + 1, 2).await, exhausted(standing(LIMIT, used, left.into(), 0)));
    assert_eq!(budget.reserve(number + 1, 1).await, budget.held(standing(LIMIT, used, i128::from(left) + 1, 0)));
    budget.settle(number, left, 0).await;
    budget.settle(number + 1, 1, 1).await;
    assert_eq!(budget.standing().await, Some(standing(LIMIT, used + 1, 0, 0)));
}

pub async fn what_costs_nothing_needs_no_grant(harness: &impl Harness) {
    let budget = Budget::new(harness, key(), 100).await;
    assert_eq!(budget.reserve(1, 0).await, budget.held(standing(0, 0, 0, 0)));
    budget.settle(1, 0, 0).await;
    assert_eq!(budget.standing().await, None);
    budget.grant(100, 0, true).await;
    budget.hold(2, 100).await;
    assert_eq!(budget.reserve(3, 0).await, budget.held(standing(100, 0, 100, 0)));
    budget.settle(2, 100, 101).await;
    // More has been spent than there was: the budget is closed for all.
    assert_eq!(budget.reserve(4, 0).await, exhausted(standing(100, 101, 0, 0)));
}

pub async fn budgets_of_different_scopes_and_windows_do_not_mix(harness: &impl Harness) {
    let now = time_of(&*harness.limiter()).await;
    let later = MoneyWindow { start: Timestamp(now.0 - 1_000), end: Timestamp(now.0 + 3_600_000_000) };
    let scopes = [Scope::Gateway, user("x"), Scope::Model("x".into()), Scope::Credential("x".into()), key()];
    for (number, scope) in scopes.iter().enumerate() {
        let number = u128::try_from(number * 3).unwrap();
        let budget = Budget::new(harness, scope.clone(), 1_000).await;
        let budgets =
            [budget.with_limit(1_000).in_window(later), budget.with_limit(1_000).in_window(MoneyWindow::TOTAL), budget];
        for (at, budget) in (0..).zip(&budgets) {
            assert_eq!(budget.reserve(number + at, 5).await, budget.needs(None), "{scope:?}");
            budget.grant(5, 0, false).await;
            assert_eq!(budget.reserve(number + at, 5).await, budget.held(standing(5, 0, 5, 0)), "{scope:?}");
        }
    }
}
