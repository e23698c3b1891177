//! What Redis may do to us.

use std::{error::Error, time::Duration};

use ai4free_contract::rate_limiter::{claim, counts, lease, settlement};
use ai4free_ports::{
    error::LimiterDown,
    rate_limiter::{Claim, LimitKind, RateLimiter, Reservation, Scope},
};
use ai4free_redis::RedisOptions;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    patient::patiently,
    proxy::Proxy,
    server::{RedisServer, Replica, eventually, free_port, options},
};

/// The deadline, and what a busy machine may add. The proofs measure what it is.
const DEADLINE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_redis_is_down_within_the_deadline_until_it_goes_on() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    works(&replica, 1).await;
    server.signal("-STOP").await;
    // Longer than it takes to give the connections up.
    let stopped = sleep(Duration::from_millis(2_500));
    tokio::pin!(stopped);
    let mut number = 2;
    loop {
        tokio::select! {
            () = &mut stopped => break,
            outcome = try_one(&replica, number) => assert!(outcome.expect("an answer in time").is_err()),
        }
        number += 1;
        if number > 5 {
            assert!(!replica.limiter.is_up());
            sleep(Duration::from_millis(5)).await;
        }
    }
    // Each that waits for its deadline takes 120 ms.
    assert!(number > 40, "only {number} attempts: the breaker did not open");
    server.signal("-CONT").await;
    recovers(&replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stops_for_a_moment_is_asked_again_soon() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    server.signal("-STOP").await;
    for number in 0..4 {
        assert!(try_one(&replica, number).await.expect("an answer in time").is_err());
    }
    server.signal("-CONT").await;
    recovers(&replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_is_found_again_after_its_restart() {
    let Some(mut server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    works(&replica, 1).await;
    server.kill().await;
    for number in 2..200 {
        assert!(try_one(&replica, number).await.expect("an answer in time").is_err());
        sleep(Duration::from_millis(10)).await;
    }
    server.start_again().await;
    recovers(&replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_later_than_the_gateway_is_found() {
    let port = free_port();
    let replica = Replica::start_without_redis(&options(port, "one"));
    for number in 0..20 {
        assert!(try_one(&replica, number).await.expect("an answer in time").is_err());
    }
    assert!(!replica.limiter.is_up());
    let Some(_server) = RedisServer::start_on(port).await else { return };
    recovers(&replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_script_fails_no_request() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    for round in 0..10_u128 {
        // Only one flush at a time: the script is there when a round begins.
        works(&replica, (1 << 100) + round).await;
        let mut tasks = JoinSet::new();
        for number in 0..40 {
            let limiter = replica.limiter.clone();
            tasks.spawn(async move {
                let wanted = counts(&requests(1_000));
                patiently(|| limiter.reserve(lease(round << 64 | number), &wanted)).await
            });
        }
        assert_eq!(server.command("SCRIPT FLUSH").await, "+OK");
        for outcome in tasks.join_all().await {
            assert!(matches!(outcome, Ok(Reservation::Held(_))), "{outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlements_wait_for_a_redis_that_is_away() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let claims = [claim(Scope::Gateway, LimitKind::Tokens, 50_000, 1_000)];
    let wanted = counts(&claims);
    for number in 0..50 {
        let reserved = patiently(|| replica.limiter.reserve(lease(number), &wanted)).await;
        assert!(matches!(reserved, Ok(Reservation::Held(_))), "{reserved:?}");
    }
    server.signal("-STOP").await;
    for number in 0..50 {
        replica.limiter.settle(settlement(lease(number), &claims, &[0]));
    }
    // At least one attempt fails.
    for number in 50..54 {
        assert!(try_one(&replica, number).await.expect("an answer in time").is_err());
    }
    assert_eq!(replica.limiter.queued_settlements(), 50);
    server.signal("-CONT").await;
    eventually("settled queue", || replica.limiter.queued_settlements() == 0).await;
    let all = [claim(Scope::Gateway, LimitKind::Tokens, 50_000, 50_000)];
    let all = counts(&all);
    let reserved = patiently(|| replica.limiter.reserve(lease(100), &all)).await;
    assert!(matches!(reserved, Ok(Reservation::Held(_))), "{reserved:?}");
    assert_eq!(replica.limiter.dropped_settlements(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_delivers_what_is_queued() {
    let Some(server) = RedisServer::start().await else { return };
    let mut replica = Replica::start(&server.options("one")).await;
    let claims = [claim(Scope::Gateway, LimitKind::Concurrency, 1_000, 1)];
    let wanted = counts(&claims);
    for number in 0..200 {
        patiently(|| replica.limiter.reserve(lease(number), &wanted)).await.unwrap();
    }
    for number in 0..200 {
        replica.limiter.settle(settlement(lease(number), &claims, &[1]));
    }
    replica.shutdown.cancel();
    let ended = timeout(Duration::from_secs(10), replica.worker.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))), "{ended:?}");
    assert_eq!(server.command("ZCARD {a4f}:0:c:gateway:").await, ":0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_long_for_a_stopped_redis() {
    let Some(server) = RedisServer::start().await else { return };
    let mut replica = Replica::start(&server.options("one")).await;
    server.signal("-STOP").await;
    replica.limiter.settle(settlement(lease(1), &requests(1), &[1]));
    replica.shutdown.cancel();
    let ended = timeout(Duration::from_secs(10), replica.worker.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_became_a_replica_is_left_for_the_primary() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    assert_eq!(server.command("REPLICAOF 127.0.0.1 1").await, "+OK");
    let connections_before = server.connections_so_far().await;
    assert!(try_one(&replica, 1).await.expect("an answer in time").is_err());
    // It connects again: behind the same name there may be another server by now.
    let connected_again = async {
        let mut asked = 0;
        while server.connections_so_far().await <= connections_before + asked + 1 {
            asked += 1;
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), connected_again).await.is_ok(), "no new connection");
    assert_eq!(server.command("REPLICAOF NO ONE").await, "+OK");
    recovers(&replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fall_silent_are_replaced() {
    let Some(server) = RedisServer::start().await else { return };
    let proxy = Proxy::start(server.port()).await;
    let replica = Replica::start(&options(proxy.port(), "one")).await;
    works(&replica, 1).await;
    proxy.silence().await;
    assert!(try_one(&replica, 2).await.expect("an answer in time").is_err());
    recovers(&replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_is_down_and_not_open() {
    let Some(server) = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]).await else {
        return;
    };
    let replica = Replica::start(&server.options("one")).await;
    assert!(try_one(&replica, 1).await.expect("an answer in time").is_err());
    assert_eq!(server.command("CONFIG SET maxmemory 0").await, "+OK");
    recovers(&replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_error_tells_the_password() {
    let Some(server) = RedisServer::start_with(&["--requirepass", "correct-horse"]).await else { return };
    let url = format!("redis://:battery-staple@127.0.0.1:{}", server.port());
    let replica = Replica::start_without_redis(&RedisOptions::new(&url, "one").unwrap());
    for number in 0..20 {
        let LimiterDown(source) = try_one(&replica, number).await.expect("an answer in time").unwrap_err();
        let mut cause: Option<&dyn Error> = Some(&*source);
        while let Some(error) = cause {
            assert!(!format!("{error} {error:?}").contains("battery"), "{error:?}");
            cause = error.source();
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// While nothing is wrong with Redis.
async fn works(replica: &Replica, number: u128) {
    let wanted = counts(&requests(10_000));
    let reserved = patiently(|| replica.limiter.reserve(lease(number), &wanted)).await;
    assert!(matches!(reserved, Ok(Reservation::Held(_))), "{reserved:?}");
}

/// `Err`: no answer within the deadline.
async fn try_one(
    replica: &Replica,
    number: u128,
) -> Result<Result<Reservation, LimiterDown>, tokio::time::error::Elapsed> {
    timeout(DEADLINE, replica.limiter.reserve(lease(number), &counts(&requests(10_000)))).await
}

/// By itself, however long that takes on a busy machine. The proofs measure it.
async fn recovers(replica: &Replica) {
    let recovery = async {
        let mut number = 1_000_000;
        while !matches!(try_one(replica, number).await, Ok(Ok(Reservation::Held(_)))) {
            number += 1;
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), recovery).await.is_ok(), "not recovered");
    assert!(replica.limiter.is_up());
}

fn requests(limit: u64) -> [Claim; 1] {
    [claim(Scope::Gateway, LimitKind::Requests, limit, 1)]
}
