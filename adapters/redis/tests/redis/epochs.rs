//! Money while Redis loses what it knows. Whatever happens, no more is held than the ledger has granted.

use std::{sync::Arc, time::Duration};

use ai4free_contract::rate_limiter::{claim, counts, lease};
use ai4free_ports::{
    budget::{Epoch, Holder},
    error::LimiterDown,
    money::PicoUsdSum,
    rate_limiter::{Held, LimitKind, RateLimiter, Reservation, Scope},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    ledger::Epochs,
    patient::patiently,
    proxy::Proxy,
    server::{RedisServer, Replica, eventually, options},
    spending::{LIMIT, ask, hold, settle, spend, standing, try_to_spend},
};

/// The deadline, and what a busy machine may add. The proofs measure what it is.
const DEADLINE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_flushed_under_load_fail_no_reservation_of_money() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Arc::new(Replica::start(&server.options("one")).await);
    let holder = hold(&replica, 1 << 100, 1).await;
    for round in 0..10_u128 {
        let mut tasks = JoinSet::new();
        for number in 0..40 {
            let replica = replica.clone();
            tasks.spawn(async move { spend(&replica, round << 64 | number, 1).await });
        }
        assert_eq!(server.command("SCRIPT FLUSH").await, "+OK");
        for outcome in tasks.join_all().await {
            assert!(matches!(outcome, Ok(Reservation::Held(_))), "{outcome:?}");
        }
    }
    assert_eq!(hold(&replica, 2 << 100, 1).await, holder, "no data was lost");
    assert_eq!(standing(&replica).await.unwrap().reserved, PicoUsdSum(402));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_with_racing_grants_hold_exactly_what_the_budget_pays_for() {
    let Some(server) = RedisServer::start().await else { return };
    let ledger = Arc::new(Epochs::default());
    let one = Arc::new(Replica::start_with(&server.options("one"), ledger.clone()).await);
    let two = Arc::new(Replica::start_with(&server.options("two"), ledger).await);
    let mut tasks = JoinSet::new();
    for number in 0..200_u128 {
        let replica = if number % 2 == 0 { one.clone() } else { two.clone() };
        tasks.spawn(async move {
            loop {
                // A busy machine may miss the deadline: then whether it is held is unknown, and asking again tells.
                if let Ok(reservation) = spend(&replica, number, 170).await {
                    return reservation;
                }
            }
        });
    }
    let held = tasks.join_all().await.into_iter().filter(is_held).count();
    assert_eq!(held, 58, "of 10000 at 170 each");
    let standing = standing(&one).await.unwrap();
    assert_eq!((standing.granted, standing.used()), (PicoUsdSum(LIMIT), PicoUsdSum(58 * 170)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_redis_goes_on_in_the_next_epoch_with_what_is_left() {
    let Some(server) = RedisServer::start().await else { return };
    let ledger = Arc::new(Epochs::default());
    let one = Replica::start_with(&server.options("one"), ledger.clone()).await;
    let two = Replica::start_with(&server.options("two"), ledger).await;
    let mut held: i128 = 0;
    let mut holders = Vec::new();
    for round in 0..3_u128 {
        for number in 0..20 {
            let replica = if number % 2 == 0 { &one } else { &two };
            if let Reservation::Held(reply) = spend(replica, round << 64 | number, 170).await.unwrap() {
                held += 170;
                holders.extend(reply.holder);
            }
        }
        assert_eq!(server.command("FLUSHALL").await, "+OK");
    }
    assert!(LIMIT / 2 < held && held <= LIMIT, "{held}");
    holders.dedup();
    assert_eq!(holders.len(), 2, "nothing is left for a third: {holders:?}");
}

/// The old grant must not come to life again in a Redis that does not know what was spent of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_was_on_its_way_when_the_data_was_lost_is_worth_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let holder = hold(&replica, 1, 60).await;
    let (_, raised) = ask(&replica, holder, 60, false).await;
    assert_eq!(server.command("FLUSHALL").await, "+OK");
    let raised = raised.unwrap();
    patiently(|| replica.limiter.grant(&raised)).await.unwrap();
    assert_eq!(standing(&replica).await, None);
    match patiently(|| try_to_spend(&replica, 2, 1)).await {
        Ok(Reservation::NeedsGrants { holder: next, .. }) => assert_ne!(next, holder),
        other => panic!("{other:?}"),
    }
    // Its settlement finds nothing, and makes nothing.
    settle(&replica, 1, holder, 60, 60).await;
    assert_eq!(standing(&replica).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_forgotten_once() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let holder = hold(&replica, 1, 60).await;
    let Holder::Shared(epoch) = holder else { panic!("{holder:?}") };
    assert_eq!(server.command(&format!("DEL {{a4f}}:0:m:{}:gateway::0", epoch.0)).await, ":1");
    // The ledger knows of grants to this holder, so that it is given up.
    let next = hold(&replica, 2, 60).await;
    assert_eq!(next, Holder::Shared(Epoch(epoch.0 + 1)));
    let attestations = replica.ledger.attestations();
    patiently(|| replica.limiter.forget(holder)).await.unwrap();
    assert_eq!((hold(&replica, 3, 1).await, replica.ledger.attestations()), (next, attestations));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_data_is_the_next_epoch() {
    let Some(mut server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let holder = hold(&replica, 1, 60).await;
    server.kill().await;
    server.start_again().await;
    assert_ne!(recovered(&replica, 60).await, holder);
}

/// It may lack what the primary wrote last, and nobody can tell: so its data is not trusted, complete as it is here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_is_the_next_epoch_and_the_old_primary_spends_no_more_than_its_grant() {
    let (Some(primary), Some(follower)) = (RedisServer::start().await, RedisServer::start().await) else { return };
    assert_eq!(follower.command(&format!("REPLICAOF 127.0.0.1 {}", primary.port())).await, "+OK");
    let ledger = Arc::new(Epochs::default());
    let isolated = Replica::start_with(&primary.options("one"), ledger.clone()).await;
    let proxy = Proxy::start(primary.port()).await;
    let other = Replica::start_with(&options(proxy.port(), "two"), ledger).await;
    let before = hold(&other, 1, 60).await;
    assert_eq!(hold(&isolated, 2, 60).await, before);
    in_step(&primary, &follower).await;

    assert_eq!(follower.command("REPLICAOF NO ONE").await, "+OK");
    proxy.lead_to(follower.port());
    let after = recovered(&other, 60).await;
    assert_ne!(after, before);
    // 10 requests are far more than what is left of the old grant.
    let mut still_held: i128 = 0;
    for number in 0..10 {
        if is_held(&patiently(|| try_to_spend(&isolated, 10 + number, 60)).await.unwrap()) {
            still_held += 60;
        }
    }
    let (answer, grant) = ask(&isolated, before, 60, false).await;
    assert_eq!(grant, None, "{answer:?}");
    let granted = standing(&isolated).await.unwrap().granted;
    assert!(0 < still_held && still_held + 120 <= granted.0 && granted.0 < LIMIT, "{still_held} of {granted}");
}

/// A server that has been the primary before still has the script of its old epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_of_an_old_epoch_holds_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let holder = hold(&replica, 1, 60).await;
    let Holder::Shared(epoch) = holder else { panic!("{holder:?}") };
    assert_eq!(server.command(&format!("SET {{a4f}}:0:e {}", epoch.0 + 7)).await, "+OK");
    assert_eq!(hold(&replica, 2, 60).await, Holder::Shared(Epoch(epoch.0 + 8)), "no earlier one that may be in use");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_restored_re_uses_no_epoch() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let Holder::Shared(epoch) = hold(&replica, 1, 60).await else { panic!("no shared holder") };
    replica.ledger.step_back_to(Epoch(0));
    assert_eq!(server.command("SCRIPT FLUSH").await, "+OK");
    assert_eq!(hold(&replica, 2, 60).await, Holder::Shared(Epoch(epoch.0 + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_ledger_an_unknown_redis_gets_no_money_and_other_limits_go_on() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let holder = hold(&replica, 1, 60).await;
    replica.ledger.set_away(true);
    // As long as Redis stands, the ledger is not asked.
    assert!(is_held(&patiently(|| try_to_spend(&replica, 2, 60)).await.unwrap()));
    assert_eq!(server.command("SCRIPT FLUSH").await, "+OK");
    for number in 3..50 {
        let reply = timeout(DEADLINE, try_to_spend(&replica, number, 1)).await.expect("an answer in time");
        assert!(reply.is_err(), "{reply:?}");
        assert!(holds_a_request(&replica, number).await);
    }
    assert!(replica.limiter.money_closed_reason().is_some());
    assert!(replica.ledger.attestations() < 40, "{}", replica.ledger.attestations());
    replica.ledger.set_away(false);
    assert_eq!(recovered(&replica, 60).await, holder);
    assert_eq!(replica.limiter.money_closed_reason(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_evicts_gets_no_money_until_it_no_longer_does() {
    let Some(server) = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]).await else { return };
    let replica = Replica::start(&server.options("one")).await;
    eventually("reason", || replica.limiter.money_closed_reason().is_some()).await;
    assert!(replica.limiter.money_closed_reason().unwrap().contains("noeviction"));
    assert!(try_to_spend(&replica, 1, 1).await.is_err());
    assert!(holds_a_request(&replica, 2).await);
    assert_eq!(server.command("CONFIG SET maxmemory-policy noeviction").await, "+OK");
    recovered(&replica, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_can_not_be_written_to_holds_no_money() {
    let Some(server) = RedisServer::start().await else { return };
    let replica = Replica::start(&server.options("one")).await;
    let holder = hold(&replica, 1, 60).await;
    for (break_it, mend_it) in
        [("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"), ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE")]
    {
        assert_eq!(server.command(break_it).await, "+OK");
        let reply = timeout(DEADLINE, try_to_spend(&replica, 2, 60)).await.expect("an answer in time");
        assert!(reply.is_err(), "{break_it}: {reply:?}");
        assert_eq!(server.command(mend_it).await, "+OK");
        assert_eq!(recovered(&replica, 1).await, holder);
    }
}

/// The holder of the first reservation that works.
async fn recovered(replica: &Replica, amount: i64) -> Holder {
    let recovery = async {
        let mut number = 1_000_000;
        loop {
            match spend(replica, number, amount).await {
                Ok(Reservation::Held(Held { holder: Some(holder), .. })) => return holder,
                Ok(other) => panic!("{other:?}"),
                Err(LimiterDown(_)) => sleep(Duration::from_millis(5)).await,
            }
            number += 1;
        }
    };
    timeout(Duration::from_secs(20), recovery).await.expect("recovered")
}

/// Waits until a follower has all that its primary wrote.
async fn in_step(primary: &RedisServer, follower: &RedisServer) {
    let leases = "HLEN {a4f}:0:l:one";
    let wait = async {
        while follower.command(leases).await != primary.command(leases).await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect("a follower in step");
}

async fn holds_a_request(replica: &Replica, number: u128) -> bool {
    let request = counts(&[claim(Scope::Gateway, LimitKind::Requests, 10_000, 1)]);
    is_held(&patiently(|| replica.limiter.reserve(lease(1 << 90 | number), &request)).await.unwrap())
}

fn is_held(reservation: &Reservation) -> bool {
    matches!(reservation, Reservation::Held(_))
}
