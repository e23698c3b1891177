//! Contract of [`ai4free_ports::rate_limiter::RateLimiter`].
//!
//! ```ignore
//! ai4free_contract::rate_limiter_contract!(start); // async fn start() -> Option<impl Harness>; `None` skips
//! ```

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    budget::Holder,
    money::PicoUsdSum,
    rate_limiter::{Claim, LimitKind, RateLimiter, Reservation, Scope, Standing},
};
use async_trait::async_trait;
use tokio::task::JoinSet;

use fixture::{key, user};
use refusals::told;

pub use budget::{claims, holder_of, money_claim, spent, time_of, voided};
pub use fixture::{claim, counts, lease, settlement, void};
pub use model::{any_order_of_operations_agrees_with_a_naive_model, no_interval_of_a_window_holds_more_than_the_limit};
pub use refusals::{
    a_refusal_tells_apart_what_is_settled_and_what_is_reserved, what_runs_longer_than_a_window_is_reserved_no_more,
};

mod budget;
mod fixture;
mod model;
pub mod money;
mod money_model;
mod refusals;

const KINDS: [LimitKind; 4] =
    [LimitKind::Requests, LimitKind::ImageRequests, LimitKind::Tokens, LimitKind::Concurrency];

/// One limiter, fresh, whose clock stands at a whole second and moves only by [`Harness::advance`].
#[async_trait]
pub trait Harness: Send + Sync {
    fn limiter(&self) -> Arc<dyn RateLimiter>;
    /// Moves the limiter's clock, in whole milliseconds; open leases stay alive meanwhile.
    async fn advance(&self, by: Duration);
    /// Returns when every settlement so far has been applied.
    async fn settled(&self);

    /// Under whose name this limiter is granted money.
    async fn holder(&self) -> Holder {
        holder_of(&*self.limiter()).await
    }

    /// What it says it was granted where it knows of no grant: zero if it can't have lost one.
    fn granted_at_first(&self) -> Option<PicoUsdSum> {
        None
    }
}

/// Makes one named test of each clause for one adapter.
#[macro_export]
macro_rules! rate_limiter_contract {
    ($start:path) => {
        $crate::rate_limiter_contract! { @tests $start:
            exactly_the_limit_of_concurrent_requests_is_admitted,
            all_claims_are_held_or_none,
            a_burst_gets_the_whole_limit_and_all_of_it_back_after_a_window,
            no_interval_of_a_window_holds_more_than_the_limit,
            sustained_demand_gets_at_least_98_percent_of_the_limit,
            a_refund_goes_to_the_bucket_of_its_reservation,
            a_refund_after_the_window_is_owed_to_nobody,
            settling_frees_concurrency,
            a_lease_reserved_twice_counts_once,
            a_lease_reserved_twice_at_the_same_time_counts_once,
            a_lease_settled_twice_is_settled_once,
            settling_a_lease_that_nobody_holds_changes_nothing,
            a_voided_lease_that_is_reserved_later_holds_nothing,
            voiding_a_held_lease_refunds_all_of_it,
            more_than_was_reserved_counts_in_full,
            requests_stay_counted_unless_nothing_was_used,
            retry_after_is_exact,
            retry_after_is_that_of_the_claim_that_waits_longest,
            standings_tell_what_is_left_and_when_it_is_whole_again,
            a_refusal_tells_apart_what_is_settled_and_what_is_reserved,
            what_runs_longer_than_a_window_is_reserved_no_more,
            kinds_and_scopes_do_not_mix,
            unusual_scope_ids_are_kept_apart,
            a_limit_lowered_in_mid_window_holds_at_once,
            a_limit_of_zero_refuses_everything,
            a_request_with_twenty_claims_is_held,
            no_claims_are_always_held,
            any_order_of_operations_agrees_with_a_naive_model,
        }
        $crate::rate_limiter_contract! { @money $start:
            a_budget_is_spent_only_out_of_a_grant,
            exactly_what_a_racing_grant_pays_for_is_held,
            after_a_final_grant_nobody_asks_for_a_second,
            a_lowered_budget_holds_at_once,
            what_others_have_counts_against_a_lowered_budget,
            the_actual_cost_replaces_the_reserved_one,
            voiding_gives_the_money_back,
            money_is_reserved_and_settled_once_however_often_it_is_said,
            money_and_counts_are_held_together_or_not_at_all,
            of_several_reasons_the_first_in_order_is_told,
            a_claim_outside_its_window_is_told_the_time,
            the_end_of_a_window_changes_nothing_for_requests_that_began_in_it,
            grants_only_grow,
            what_is_said_of_another_holder_has_no_effect,
            amounts_of_billions_are_exact_to_the_pico,
            events_that_come_with_a_settlement_change_nothing_of_it,
            what_costs_nothing_needs_no_grant,
            budgets_of_different_scopes_and_windows_do_not_mix,
        }
    };
    (@tests $start:path: $($clause:ident),+ $(,)?) => {
        $($crate::rate_limiter_contract! { @test $start, $clause, $crate::rate_limiter::$clause })+
    };
    (@money $start:path: $($clause:ident),+ $(,)?) => {
        $($crate::rate_limiter_contract! { @test $start, $clause, $crate::rate_limiter::money::$clause })+
    };
    (@test $start:path, $name:ident, $clause:path) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if let Some(harness) = $start().await {
                $clause(&harness).await;
            }
        }
    };
}

pub async fn exactly_the_limit_of_concurrent_requests_is_admitted(harness: &impl Harness) {
    for (round, kind) in [LimitKind::Requests, LimitKind::Concurrency].into_iter().enumerate() {
        let mut tasks = JoinSet::new();
        for number in 0..80 {
            let limiter = harness.limiter();
            let claims = [claim(user("crowd"), kind, 10, 1), claim(Scope::Gateway, LimitKind::Tokens, 10_000, 100)];
            tasks.spawn(async move {
                let id = lease(u128::try_from(round).unwrap() << 64 | number);
                limiter.reserve(id, &counts(&claims)).await.unwrap()
            });
        }
        let held = tasks.join_all().await.into_iter().filter(is_held).count();
        assert_eq!(held, 10, "{kind:?}");
        let used = 1_000 * (u64::try_from(round).unwrap() + 1);
        assert_eq!(remaining(harness, Scope::Gateway, LimitKind::Tokens, 10_000).await, 10_000 - used);
    }
}

pub async fn all_claims_are_held_or_none(harness: &impl Harness) {
    let claims = |tokens| {
        vec![
            claim(Scope::Gateway, LimitKind::Requests, 100, 1),
            claim(key(), LimitKind::Tokens, 1_000, tokens),
            claim(Scope::Model("m".into()), LimitKind::Concurrency, 1, 1),
        ]
    };
    assert!(held(harness, 1, &claims(400)).await.is_some());
    // The last claim refuses, then the middle one does.
    assert!(held(harness, 2, &claims(400)).await.is_none());
    harness.limiter().settle(settlement(lease(1), &claims(400), &[1, 400, 1]));
    harness.settled().await;
    assert!(held(harness, 3, &claims(601)).await.is_none());
    assert_eq!(remaining(harness, Scope::Gateway, LimitKind::Requests, 100).await, 99);
    assert_eq!(remaining(harness, key(), LimitKind::Tokens, 1_000).await, 600);
    assert!(held(harness, 4, &claims(600)).await.is_some());
}

pub async fn a_burst_gets_the_whole_limit_and_all_of_it_back_after_a_window(harness: &impl Harness) {
    harness.advance(Duration::from_millis(700)).await;
    let requests = [claim(user("u"), LimitKind::Requests, 7, 1)];
    for number in 0..7 {
        assert!(held(harness, number, &requests).await.is_some(), "request {number} of 7");
    }
    assert!(held(harness, 7, &requests).await.is_none());
    // Used at 0.7 s: still counted at 60.999 s, free at 61 s.
    harness.advance(Duration::from_millis(60_299)).await;
    assert!(held(harness, 8, &requests).await.is_none());
    harness.advance(Duration::from_millis(1)).await;
    for number in 9..16 {
        assert!(held(harness, number, &requests).await.is_some(), "request {number} after the window");
    }
    assert!(held(harness, 16, &requests).await.is_none());
}

pub async fn sustained_demand_gets_at_least_98_percent_of_the_limit(harness: &impl Harness) {
    const LIMIT: u64 = 40;
    const CYCLES: u64 = 5;
    let requests = [claim(user("busy"), LimitKind::Requests, LIMIT, 1)];
    let mut admitted = 0_u64;
    // Demand of three times the limit.
    for number in 0..CYCLES * 61 * 2 {
        admitted += u64::from(held(harness, number.into(), &requests).await.is_some());
        harness.advance(Duration::from_millis(500)).await;
    }
    let allowed = LIMIT * CYCLES * 61 / 60;
    assert!(admitted * 100 >= allowed * 98, "{admitted} of {allowed}");
}

pub async fn a_refund_goes_to_the_bucket_of_its_reservation(harness: &impl Harness) {
    let tokens = |amount| [claim(user("u"), LimitKind::Tokens, 100, amount)];
    assert!(held(harness, 1, &tokens(60)).await.is_some());
    harness.advance(Duration::from_secs(30)).await;
    assert!(held(harness, 2, &tokens(40)).await.is_some());
    harness.limiter().settle(settlement(lease(1), &tokens(60), &[10]));
    harness.settled().await;
    assert_eq!(remaining(harness, user("u"), LimitKind::Tokens, 100).await, 50);
    // What lease 1 used leaves with its own second, and takes nothing of lease 2 with it.
    harness.advance(Duration::from_secs(31)).await;
    assert_eq!(remaining(harness, user("u"), LimitKind::Tokens, 100).await, 60);
    harness.advance(Duration::from_secs(30)).await;
    assert_eq!(remaining(harness, user("u"), LimitKind::Tokens, 100).await, 100);
}

pub async fn a_refund_after_the_window_is_owed_to_nobody(harness: &impl Harness) {
    let tokens = |amount| [claim(user("u"), LimitKind::Tokens, 100, amount)];
    assert!(held(harness, 1, &tokens(60)).await.is_some());
    harness.advance(Duration::from_secs(61)).await;
    assert!(held(harness, 2, &tokens(100)).await.is_some());
    harness.limiter().settle(settlement(lease(1), &tokens(60), &[0]));
    harness.settled().await;
    assert!(held(harness, 3, &tokens(1)).await.is_none());
}

pub async fn settling_frees_concurrency(harness: &impl Harness) {
    let one = [claim(key(), LimitKind::Concurrency, 1, 1)];
    assert!(held(harness, 1, &one).await.is_some());
    // However long it runs.
    harness.advance(Duration::from_secs(300)).await;
    assert!(held(harness, 2, &one).await.is_none());
    harness.limiter().settle(settlement(lease(1), &one, &[1]));
    harness.settled().await;
    assert!(held(harness, 3, &one).await.is_some());
    assert!(held(harness, 4, &one).await.is_none());
}

pub async fn a_lease_reserved_twice_counts_once(harness: &impl Harness) {
    let claims = [claim(key(), LimitKind::Tokens, 100, 60), claim(key(), LimitKind::Concurrency, 5, 1)];
    let first = held(harness, 1, &claims).await;
    assert!(first.is_some());
    assert_eq!(held(harness, 1, &claims).await, first);
    harness.limiter().settle(settlement(lease(1), &claims, &[60, 1]));
    harness.settled().await;
    assert_eq!(remaining(harness, key(), LimitKind::Tokens, 100).await, 40);
    assert_eq!(remaining(harness, key(), LimitKind::Concurrency, 5).await, 5);
}

pub async fn a_lease_reserved_twice_at_the_same_time_counts_once(harness: &impl Harness) {
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let limiter = harness.limiter();
        tasks.spawn(async move {
            limiter.reserve(lease(1), &counts(&[claim(key(), LimitKind::Tokens, 100, 60)])).await.unwrap()
        });
    }
    assert!(tasks.join_all().await.iter().all(is_held));
    assert_eq!(remaining(harness, key(), LimitKind::Tokens, 100).await, 40);
}

pub async fn a_lease_settled_twice_is_settled_once(harness: &impl Harness) {
    let claims = [claim(key(), LimitKind::Tokens, 100, 50), claim(key(), LimitKind::Concurrency, 5, 1)];
    assert!(held(harness, 1, &claims).await.is_some());
    assert!(held(harness, 2, &claims).await.is_some());
    for _ in 0..3 {
        harness.limiter().settle(settlement(lease(1), &claims, &[20, 1]));
        harness.settled().await;
    }
    assert_eq!(remaining(harness, key(), LimitKind::Tokens, 100).await, 30);
    assert_eq!(remaining(harness, key(), LimitKind::Concurrency, 5).await, 4);
}

pub async fn settling_a_lease_that_nobody_holds_changes_nothing(harness: &impl Harness) {
    let claims = [claim(key(), LimitKind::Tokens, 100, 50), claim(key(), LimitKind::Concurrency, 5, 1)];
    assert!(held(harness, 1, &claims).await.is_some());
    harness.limiter().settle(settlement(lease(2), &claims, &[0, 1]));
    harness.settled().await;
    assert_eq!(remaining(harness, key(), LimitKind::Tokens, 100).await, 50);
    assert_eq!(remaining(harness, key(), LimitKind::Concurrency, 5).await, 4);
    // Not a tombstone either.
    assert!(held(harness, 2, &claims).await.is_some());
}

pub async fn a_voided_lease_that_is_reserved_later_holds_nothing(harness: &impl Harness) {
    let claims = [claim(key(), LimitKind::Tokens, 100, 50), claim(key(), LimitKind::Concurrency, 5, 1)];
    harness.limiter().settle(void(lease(1), &claims));
    harness.settled().await;
    for _ in 0..2 {
        assert!(harness.limiter().reserve(lease(1), &counts(&claims)).await.is_err());
        harness.limiter().settle(void(lease(1), &claims));
        harness.settled().await;
    }
    assert_eq!(remaining(harness, key(), LimitKind::Tokens, 100).await, 100);
    assert_eq!(remaining(harness, key(), LimitKind::Concurrency, 5).await, 5);
}

pub async fn voiding_a_held_lease_refunds_all_of_it(harness: &impl Harness) {
    let claims = [
        claim(key(), LimitKind::Requests, 10, 1),
        claim(key(), LimitKind::Tokens, 100, 50),
        claim(key(), LimitKind::Concurrency, 5, 1),
    ];
    assert!(held(harness, 1, &claims).await.is_some());
    harness.limiter().settle(void(lease(1), &claims));
    harness.settled().await;
    assert_eq!(remaining(harness, key(), LimitKind::Requests, 10).await, 10);
    assert_eq!(remaining(harness, key(), LimitKind::Tokens, 100).await, 100);
    assert_eq!(remaining(harness, key(), LimitKind::Concurrency, 5).await, 5);
    assert!(harness.limiter().reserve(lease(1), &counts(&claims)).await.is_err());
}

pub async fn more_than_was_reserved_counts_in_full(harness: &impl Harness) {
    let tokens = |amount| [claim(key(), LimitKind::Tokens, 100, amount)];
    assert!(held(harness, 1, &tokens(10)).await.is_some());
    harness.limiter().settle(settlement(lease(1), &tokens(10), &[170]));
    harness.settled().await;
    let refused = harness.limiter().reserve(lease(2), &counts(&tokens(1))).await.unwrap();
    assert_eq!(told(&refused), (0, [170, 0, 0], [61_000, 61_000]));
    harness.advance(Duration::from_secs(61)).await;
    assert!(held(harness, 3, &tokens(100)).await.is_some());
}

pub async fn requests_stay_counted_unless_nothing_was_used(harness: &impl Harness) {
    let one = [claim(key(), LimitKind::Requests, 10, 1)];
    assert!(held(harness, 1, &one).await.is_some());
    assert!(held(harness, 2, &one).await.is_some());
    harness.limiter().settle(settlement(lease(1), &one, &[1]));
    harness.limiter().settle(settlement(lease(2), &one, &[0]));
    harness.settled().await;
    assert_eq!(remaining(harness, key(), LimitKind::Requests, 10).await, 9);
}

pub async fn retry_after_is_exact(harness: &impl Harness) {
    let tokens = |amount| [claim(key(), LimitKind::Tokens, 100, amount)];
    for (number, (amount, pause)) in [(30, 250), (30, 7_300), (40, 11_111)].into_iter().enumerate() {
        assert!(held(harness, u128::try_from(number).unwrap(), &tokens(amount)).await.is_some());
        harness.advance(Duration::from_millis(pause)).await;
    }
    // 50 fit when the first two have left: the second one was used at 0.25 s, in second 0, as the first.
    let refused = harness.limiter().reserve(lease(10), &counts(&tokens(50))).await.unwrap();
    let passed = 250 + 7_300 + 11_111;
    assert_eq!(told(&refused), (0, [0, 100, 0], [68_000 - passed, 61_000 - passed]));
    let retry_after = Duration::from_millis(61_000 - passed);
    harness.advance(retry_after - Duration::from_secs(1)).await;
    assert!(held(harness, 11, &tokens(50)).await.is_none());
    harness.advance(Duration::from_millis(999)).await;
    assert!(held(harness, 12, &tokens(50)).await.is_none());
    harness.advance(Duration::from_millis(1)).await;
    assert!(held(harness, 13, &tokens(50)).await.is_some());
}

pub async fn retry_after_is_that_of_the_claim_that_waits_longest(harness: &impl Harness) {
    assert!(held(harness, 1, &[claim(Scope::Gateway, LimitKind::Requests, 1, 1)]).await.is_some());
    harness.advance(Duration::from_secs(20)).await;
    assert!(held(harness, 2, &[claim(key(), LimitKind::Tokens, 10, 10)]).await.is_some());
    let both = [claim(Scope::Gateway, LimitKind::Requests, 1, 1), claim(key(), LimitKind::Tokens, 10, 1)];
    let refused = harness.limiter().reserve(lease(3), &counts(&both)).await.unwrap();
    assert_eq!(told(&refused), (1, [0, 10, 0], [61_000, 61_000]));
    harness.advance(Duration::from_secs(61)).await;
    assert!(held(harness, 4, &both).await.is_some());
}

pub async fn standings_tell_what_is_left_and_when_it_is_whole_again(harness: &impl Harness) {
    harness.advance(Duration::from_millis(300)).await;
    let claims = [
        claim(key(), LimitKind::Requests, 10, 1),
        claim(key(), LimitKind::Tokens, 1_000, 150),
        claim(key(), LimitKind::Concurrency, 3, 1),
    ];
    let rate = |remaining, millis| Standing { remaining, reset: Duration::from_millis(millis) };
    let concurrency = |remaining| Standing { remaining, reset: Duration::ZERO };
    assert_eq!(held(harness, 1, &claims).await.unwrap(), [rate(9, 60_700), rate(850, 60_700), concurrency(2)]);
    harness.advance(Duration::from_millis(1_500)).await;
    assert_eq!(held(harness, 2, &claims).await.unwrap(), [rate(8, 60_200), rate(700, 60_200), concurrency(1)]);
}

pub async fn kinds_and_scopes_do_not_mix(harness: &impl Harness) {
    let scopes = [Scope::Gateway, user("x"), Scope::Model("x".into()), Scope::Credential("x".into()), key()];
    let all = || scopes.iter().flat_map(|scope| KINDS.map(|kind| (scope.clone(), kind)));
    for (number, (scope, kind)) in all().enumerate() {
        let one = [claim(scope.clone(), kind, 1, 1)];
        assert!(held(harness, u128::try_from(number).unwrap(), &one).await.is_some(), "{scope:?} {kind:?}");
        assert!(held(harness, 1_000, &one).await.is_none(), "{scope:?} {kind:?}");
    }
}

pub async fn unusual_scope_ids_are_kept_apart(harness: &impl Harness) {
    let long = "x".repeat(5_000);
    let ids = ["", ":", "}{", "a:b", "a b\r\n", "ä\u{0}", "*", &long, &format!("{long}y")];
    for (number, id) in ids.into_iter().enumerate() {
        for (at, scope) in [user(id), Scope::Model(id.into())].into_iter().enumerate() {
            let number = u128::try_from(number * 2 + at).unwrap();
            assert!(held(harness, number, &[claim(scope, LimitKind::Requests, 1, 1)]).await.is_some(), "{id:.20}");
        }
        assert!(held(harness, 1_000, &[claim(user(id), LimitKind::Requests, 1, 1)]).await.is_none());
    }
}

pub async fn a_limit_lowered_in_mid_window_holds_at_once(harness: &impl Harness) {
    let tokens = |limit, amount| [claim(key(), LimitKind::Tokens, limit, amount)];
    assert!(held(harness, 1, &tokens(100, 60)).await.is_some());
    harness.advance(Duration::from_secs(10)).await;
    assert!(held(harness, 2, &tokens(100, 20)).await.is_some());
    let refused = harness.limiter().reserve(lease(3), &counts(&tokens(50, 10))).await.unwrap();
    assert_eq!(told(&refused), (0, [0, 80, 0], [61_000, 51_000]));
    harness.advance(Duration::from_secs(51)).await;
    assert_eq!(held(harness, 4, &tokens(50, 10)).await.unwrap()[0].remaining, 20);
    assert!(held(harness, 5, &tokens(100, 70)).await.is_some());
}

pub async fn a_limit_of_zero_refuses_everything(harness: &impl Harness) {
    for kind in KINDS {
        for _ in 0..2 {
            let refused = harness.limiter().reserve(lease(1), &counts(&[claim(key(), kind, 0, 1)])).await.unwrap();
            let (claim, amounts, [_, retry_after]) = told(&refused);
            assert_eq!((claim, amounts), (0, [0, 0, 0]));
            assert!(retry_after > 0);
            harness.advance(Duration::from_millis(retry_after)).await;
        }
    }
}

pub async fn a_request_with_twenty_claims_is_held(harness: &impl Harness) {
    let scopes = [Scope::Gateway, user("u"), Scope::Model("m".into()), Scope::Credential("c".into()), key()];
    let claims: Vec<Claim> =
        scopes.iter().flat_map(|scope| KINDS.map(|kind| claim(scope.clone(), kind, 5, 1))).collect();
    for number in 0..5 {
        let standings = held(harness, number, &claims).await.unwrap();
        assert_eq!(standings.len(), 20);
        assert!(standings.iter().all(|standing| u128::from(standing.remaining) == 4 - number));
    }
    assert!(held(harness, 5, &claims).await.is_none());
    for number in 0..5 {
        harness.limiter().settle(settlement(lease(number), &claims, &[0; 20]));
    }
    harness.settled().await;
    assert!(held(harness, 6, &claims).await.unwrap().iter().all(|standing| standing.remaining == 4));
}

pub async fn no_claims_are_always_held(harness: &impl Harness) {
    assert_eq!(held(harness, 1, &[]).await, Some(Vec::new()));
    harness.limiter().settle(settlement(lease(1), &[], &[]));
    harness.settled().await;
}

/// The standings of what was held, or `None` when it was refused.
async fn held(harness: &impl Harness, number: u128, claims: &[Claim]) -> Option<Vec<Standing>> {
    match harness.limiter().reserve(lease(number), &counts(claims)).await.unwrap() {
        Reservation::Held(held) => Some(held.counts),
        _ => None,
    }
}

/// What is left, read off a refusal: a claim of more than the whole limit never fits.
async fn remaining(harness: &impl Harness, scope: Scope, kind: LimitKind, limit: u64) -> u64 {
    if kind == LimitKind::Concurrency {
        return concurrency_left(harness, scope, limit).await;
    }
    let probe = [claim(scope, kind, limit, limit + 1)];
    match harness.limiter().reserve(lease(u128::MAX), &counts(&probe)).await.unwrap() {
        Reservation::Refused { standing, .. } => standing.remaining,
        other => panic!("not refused: {other:?}"),
    }
}

/// One more is held and given back to see how many are left.
async fn concurrency_left(harness: &impl Harness, scope: Scope, limit: u64) -> u64 {
    let probe = [claim(scope, LimitKind::Concurrency, limit, 1)];
    let left = held(harness, u128::MAX, &probe).await.map_or(0, |standings| standings[0].remaining + 1);
    harness.limiter().settle(settlement(lease(u128::MAX), &probe, &[1]));
    harness.settled().await;
    left
}

fn is_held(reservation: &Reservation) -> bool {
    matches!(reservation, Reservation::Held(_))
}
