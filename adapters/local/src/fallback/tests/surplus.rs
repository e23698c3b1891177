//! What a process was granted by itself goes back when the shared limiter is there again.

use super::*;

#[tokio::test]
async fn what_was_granted_to_this_process_and_not_spent_is_given_back() {
    let replica = Replica::down(ALONE);
    let (window, scope) = (MoneyWindow::TOTAL, user("u"));
    replica.limiter.grant(&grant(scope.clone(), PROCESS, 100, false)).await.unwrap();
    let money = [budget(scope.clone(), 30, OutagePolicy::LocalShare)];
    let claims = claims(&[], &money);
    replica.hold(1, &claims).await;
    replica.hold(2, &claims).await;
    replica.limiter.settle(spent(lease(1), PROCESS, &claims, &[10]));
    replica.shared.come_back();

    assert_eq!(replica.limiter.surplus(), [(scope.clone(), window)]);
    assert_eq!(replica.limiter.give_back(&scope, &window), Some((PROCESS, PicoUsdSum(40))));
    // Until the ledger has heard of it, it is to be told.
    assert_eq!(replica.limiter.surplus(), [(scope.clone(), window)]);
    replica.limiter.gave_back(&scope, &window, PicoUsdSum(40));
    assert_eq!(replica.limiter.surplus(), []);
    // What runs may still turn out to cost less.
    replica.limiter.settle(spent(lease(2), PROCESS, &claims, &[0]));
    assert_eq!(replica.limiter.give_back(&scope, &window), Some((PROCESS, PicoUsdSum(10))));
    replica.go_down();
    let missing = NeededGrant { claim: 0, granted: Some(PicoUsdSum(10)) };
    let reply = replica.reserve(3, &claims).await;
    assert_eq!(reply, Reservation::NeedsGrants { holder: PROCESS, needed: vec![missing] });
}

/// The ledger may have recorded a grant and not have been heard.
#[tokio::test]
async fn a_grant_that_nobody_heard_of_is_given_back_too() {
    let replica = Replica::down(ALONE);
    let (window, scope) = (MoneyWindow::TOTAL, user("u"));
    replica.limiter.grant(&grant(scope.clone(), PROCESS, 0, false)).await.unwrap();
    assert_eq!(replica.limiter.surplus(), []);
    replica.limiter.gave_back(&scope, &window, PicoUsdSum(i128::MAX));
    assert_eq!(replica.limiter.surplus(), [(scope.clone(), window)]);
    assert_eq!(replica.limiter.give_back(&scope, &window), Some((PROCESS, PicoUsdSum(0))));
    replica.limiter.gave_back(&scope, &window, PicoUsdSum(0));
    assert_eq!(replica.limiter.surplus(), []);
}
