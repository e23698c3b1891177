//! What a refusal says of the limit that refuses.

use std::time::Duration;

use ai4free_ports::rate_limiter::{Claim, LimitKind, Reservation};

use super::{Harness, claim, counts, fixture::key, held, lease, settlement, void};

/// Which claim was refused; what is settled, reserved and left; and the milliseconds until all of it is left, and until the
/// same request would be admitted.
pub(super) fn told(reply: &Reservation) -> (usize, [u64; 3], [u64; 2]) {
    let Reservation::Refused { claim, settled, reserved, standing, retry_after } = reply else { panic!("{reply:?}") };
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
    (*claim, [*settled, *reserved, standing.remaining], [millis(standing.reset), millis(*retry_after)])
}

pub async fn a_refusal_tells_apart_what_is_settled_and_what_is_reserved(harness: &impl Harness) {
    let claims = |tokens| {
        [
            claim(key(), LimitKind::Tokens, 100, tokens),
            claim(key(), LimitKind::Requests, 5, 1),
            claim(key(), LimitKind::Concurrency, 3, 1),
        ]
    };
    let settle = async |number, tokens, actual: [u64; 3]| {
        // Said twice, done once.
        for _ in 0..2 {
            harness.limiter().settle(settlement(lease(number), &claims(tokens), &actual));
            harness.settled().await;
        }
    };
    for (number, tokens) in [(1, 20), (2, 30), (3, 40)] {
        assert!(held(harness, number, &claims(tokens)).await.is_some());
        harness.advance(Duration::from_secs(1)).await;
    }
    assert_eq!(refused(harness, claims(101)[0].clone()).await, [0, 90, 10]);
    assert_eq!(refused(harness, claims(1)[2].clone()).await, [0, 3, 0]);
    settle(1, 20, [5, 1, 1]).await;
    assert_eq!(refused(harness, claims(101)[0].clone()).await, [5, 70, 25]);
    assert_eq!(refused(harness, Claim { amount: 6, ..claims(1)[1].clone() }).await, [1, 2, 2]);
    // More than was reserved, and nothing at all.
    settle(2, 30, [45, 1, 1]).await;
    assert_eq!(refused(harness, claims(101)[0].clone()).await, [50, 40, 10]);
    harness.limiter().settle(void(lease(3), &claims(40)));
    harness.settled().await;
    assert_eq!(refused(harness, claims(101)[0].clone()).await, [50, 0, 50]);
    assert_eq!(refused(harness, Claim { amount: 6, ..claims(1)[1].clone() }).await, [2, 0, 3]);
    assert!(held(harness, 4, &claims(10)).await.is_some());
    assert_eq!(refused(harness, claims(101)[0].clone()).await, [50, 10, 40]);
}

pub async fn what_runs_longer_than_a_window_is_reserved_no_more(harness: &impl Harness) {
    let tokens = |amount| [claim(key(), LimitKind::Tokens, 100, amount)];
    assert!(held(harness, 1, &tokens(30)).await.is_some());
    harness.advance(Duration::from_secs(30)).await;
    assert!(held(harness, 2, &tokens(40)).await.is_some());
    assert_eq!(refused(harness, tokens(101)[0].clone()).await, [0, 70, 30]);
    // The second of the first has left, and took with it what was reserved.
    harness.advance(Duration::from_secs(31)).await;
    assert_eq!(refused(harness, tokens(101)[0].clone()).await, [0, 40, 60]);
    harness.limiter().settle(settlement(lease(1), &tokens(30), &[30]));
    harness.settled().await;
    assert_eq!(refused(harness, tokens(101)[0].clone()).await, [0, 40, 60]);
    harness.advance(Duration::from_secs(30)).await;
    harness.limiter().settle(settlement(lease(2), &tokens(40), &[40]));
    harness.settled().await;
    assert_eq!(refused(harness, tokens(101)[0].clone()).await, [0, 0, 100]);
}

/// What is settled, reserved and left.
async fn refused(harness: &impl Harness, claim: Claim) -> [u64; 3] {
    let (_, amounts, _) = told(&harness.limiter().reserve(lease(u128::MAX), &counts(&[claim])).await.unwrap());
    amounts
}
