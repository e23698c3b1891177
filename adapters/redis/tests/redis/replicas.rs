//! What several replicas of the gateway have in common.

use std::time::Duration;

use ai4free_contract::rate_limiter::{claim, counts, lease, settlement, spent, void};
use ai4free_ports::{
    money::PicoUsdSum,
    rate_limiter::{Claim, LimitKind, RateLimiter, Reservation, Scope},
};
use tokio::task::JoinSet;

use crate::{
    patient::patiently,
    server::{RedisServer, Replica, eventually},
    spending::{budget, hold, standing},
};

const START: Duration = Duration::from_secs(1_700_000_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_together_admit_exactly_the_limit() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = [Replica::start(&server.options("one")).await, Replica::start(&server.options("two")).await];
    let mut tasks = JoinSet::new();
    for number in 0..40_u128 {
        let limiter = replicas[usize::from(number % 2 == 0)].limiter.clone();
        tasks.spawn(async move {
            let claims = [claim(Scope::Gateway, LimitKind::Requests, 10, 1), one_at_a_time(10)];
            let wanted = counts(&claims);
            patiently(|| limiter.reserve(lease(number), &wanted)).await.unwrap()
        });
    }
    let held = tasks.join_all().await.into_iter().filter(|reply| matches!(reply, Reservation::Held(_))).count();
    assert_eq!(held, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_concurrency_of_a_dead_replica_is_free_after_15_seconds() {
    let Some(server) = RedisServer::start().await else { return };
    let doomed = Replica::start(&server.options("one").with_movable_time()).await;
    let other = Replica::start(&server.options("two").with_movable_time()).await;
    patiently(|| other.limiter.move_time(START)).await.unwrap();
    assert!(holds(&doomed, 1).await);
    drop(doomed);
    patiently(|| other.limiter.move_time(START + Duration::from_millis(14_999))).await.unwrap();
    patiently(|| other.limiter.beat()).await.unwrap();
    assert!(!holds(&other, 2).await);
    patiently(|| other.limiter.move_time(START + Duration::from_secs(15))).await.unwrap();
    assert!(holds(&other, 3).await);
}

/// The heartbeat that was on its way while the lease was settled: as if another limiter of the replica had settled it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_heartbeat_gives_nothing_back_to_a_lease_that_ended() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let settler = Replica::start(&server.options("one")).await;
    patiently(|| replica.limiter.beat()).await.unwrap();
    let claims = [one_at_a_time(1)];
    for (number, end) in [settlement(lease(0), &claims, &[1]), void(lease(1), &claims)].into_iter().enumerate() {
        assert!(holds(&replica, u128::try_from(number).unwrap()).await);
        settler.limiter.settle(end);
        eventually("settled queue", || settler.limiter.queued_settlements() == 0).await;
        patiently(|| replica.limiter.beat()).await.unwrap();
    }
    assert!(holds(&replica, 2).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_come_back_with_the_heartbeat_after_redis_lost_its_data() {
    let Some(server) = RedisServer::start().await else { return };
    let (one, two) = (Replica::start(&server.options("one")).await, Replica::start(&server.options("two")).await);
    patiently(|| one.limiter.beat()).await.unwrap();
    assert!(holds(&one, 1).await);
    assert_eq!(server.command("FLUSHALL").await, "+OK");
    patiently(|| one.limiter.beat()).await.unwrap();
    assert!(!holds(&two, 2).await);
    one.limiter.settle(settlement(lease(1), &[one_at_a_time(1)], &[1]));
    eventually("settled queue", || one.limiter.queued_settlements() == 0).await;
    assert!(holds(&two, 3).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_steps_back_re_opens_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one").with_movable_time()).await;
    let requests = [claim(Scope::Gateway, LimitKind::Requests, 2, 1)];
    patiently(|| replica.limiter.move_time(START)).await.unwrap();
    assert!(held(&replica, 1, &requests).await);
    patiently(|| replica.limiter.move_time(START - Duration::from_secs(50))).await.unwrap();
    assert!(held(&replica, 2, &requests).await);
    assert!(!held(&replica, 3, &requests).await);
    // What was used while the clock was behind counts as of the latest second: it is free 61 s after that.
    patiently(|| replica.limiter.move_time(START + Duration::from_millis(60_999))).await.unwrap();
    assert!(!held(&replica, 4, &requests).await);
    patiently(|| replica.limiter.move_time(START + Duration::from_secs(61))).await.unwrap();
    assert!(held(&replica, 5, &requests).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_and_strays_are_removed_and_open_leases_are_not() {
    let Some(server) = RedisServer::start().await else { return };
    let dead = Replica::start(&server.options("one").with_movable_time()).await;
    patiently(|| dead.limiter.move_time(START)).await.unwrap();
    let request = [claim(Scope::Gateway, LimitKind::Concurrency, 1_000, 1)];
    for number in 0..200 {
        dead.limiter.settle(void(lease(number), &request));
        assert!(held(&dead, 1_000 + number, &request).await);
    }
    eventually("settled queue", || dead.limiter.queued_settlements() == 0).await;
    drop(dead);
    // The same name after a restart: the leases of before are nobody's.
    let replica = Replica::start(&server.options("one").with_movable_time()).await;
    patiently(|| replica.limiter.beat()).await.unwrap();
    assert!(held(&replica, 5_000, &request).await);
    let leases = "HLEN {a4f}:0:l:one";
    patiently(|| replica.limiter.move_time(START + Duration::from_secs(60))).await.unwrap();
    patiently(|| replica.limiter.purge()).await.unwrap();
    assert_eq!(server.command(leases).await, ":402"); // with the mark of the heartbeat
    patiently(|| replica.limiter.move_time(START + Duration::from_secs(61))).await.unwrap();
    patiently(|| replica.limiter.purge()).await.unwrap();
    assert_eq!(server.command(leases).await, ":2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_of_strays_is_given_back_and_that_of_leases_whose_end_is_still_queued_is_not() {
    let Some(server) = RedisServer::start().await else { return };
    let options = server.options("one").with_movable_time();
    let dead = Replica::start(&options).await;
    patiently(|| dead.limiter.move_time(START)).await.unwrap();
    let holder = hold(&dead, 1, 60).await;
    let ledger = dead.ledger.clone();
    drop(dead);
    let mut replica = Replica::start_with(&options, ledger).await;
    assert_eq!(hold(&replica, 2, 70).await, holder);
    assert_eq!(hold(&replica, 3, 80).await, holder);
    patiently(|| replica.limiter.move_time(START + Duration::from_secs(61))).await.unwrap();
    // Nobody delivers this.
    replica.worker.shutdown().await;
    replica.limiter.settle(spent(lease(3), holder, &budget(80), &[75]));
    for _ in 0..2 {
        patiently(|| replica.limiter.purge()).await.unwrap();
        assert_eq!(standing(&replica).await.unwrap().reserved, PicoUsdSum(70 + 80));
    }
}

fn one_at_a_time(limit: u64) -> Claim {
    claim(Scope::Model("m".into()), LimitKind::Concurrency, limit, 1)
}

async fn holds(replica: &Replica, number: u128) -> bool {
    held(replica, number, &[one_at_a_time(1)]).await
}

async fn held(replica: &Replica, number: u128, claims: &[Claim]) -> bool {
    let wanted = counts(claims);
    matches!(patiently(|| replica.limiter.reserve(lease(number), &wanted)).await.unwrap(), Reservation::Held(_))
}
