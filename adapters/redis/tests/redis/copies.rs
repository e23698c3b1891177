//! What Redis remembers of requests until the ledger has them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ai4free_contract::rate_limiter::{lease, spent, voided};
use ai4free_ports::{
    budget::{Holder, Spending},
    rate_limiter::{Claims, Held, LeaseId, RateLimiter, Reservation, Settlement},
    usage_journal::Fate,
    usage_ledger::{
        EventKind::{Charge, Hold},
        SpoolId, UsageEvent,
    },
};

use crate::{
    dead_replicas::{Cluster, SILENCE, charged, settle},
    server::{Replica, eventually},
    spending::{budget, hold},
};

/// Names of replicas begin with their journal.
const JOURNAL: &str = "00000000-0000-0000-0000-0000000000f1";

async fn replica(cluster: &Cluster, life: u32) -> Replica {
    cluster.replica_of(&format!("{JOURNAL}.{life}")).await
}

/// How a lease of the first life is kept: as `o`, `g`, `h`, `s` or `x`; empty if not at all.
async fn kept(cluster: &Cluster, number: u128) -> String {
    let script = r#""return {ok=(redis.call('HGET',KEYS[1],KEYS[2]) or ''):sub(1,1)}""#;
    let request = lease(number).request.0.simple();
    let reply = cluster.server.command(&format!("EVAL {script} 2 {{a4f}}:0:l:{JOURNAL}.1 {request}.0")).await;
    reply.trim_start_matches('+').to_owned()
}

fn event(number: u128, holder: Holder, cost: i64) -> UsageEvent {
    UsageEvent { request: lease(number).request, attempt: 0, ..charged(holder, cost) }
}

/// A request whose event is known.
fn claims(number: u128, holder: Holder, amount: i64) -> Claims {
    Claims { event: Some(Arc::new(event(number, holder, 0))), ..budget(amount) }
}

/// Holds money for some requests, each with its event.
async fn open(replica: &Replica, amounts: &[(u128, i64)]) -> Holder {
    let holder = hold(replica, 999, 1).await; // brings the grant
    settle(replica, voided(lease(999), &budget(1))).await;
    for (number, amount) in amounts {
        let held = replica.limiter.reserve(lease(*number), &claims(*number, holder, *amount)).await.unwrap();
        assert!(matches!(held, Reservation::Held(Held { holder: Some(_), .. })), "{held:?}");
    }
    holder
}

fn settlement(number: u128, holder: Holder, amount: i64, cost: i64) -> Settlement {
    let events = vec![event(number, holder, cost)];
    Settlement { events, ..spent(lease(number), holder, &budget(amount), &[cost]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_kept_from_the_settlement_until_the_ledger_has_the_events() {
    let Some(cluster) = Cluster::start().await else { return };
    let replica = replica(&cluster, 1).await;
    let holder = open(&replica, &[(1, 60), (2, 70), (3, 10)]).await;
    for _ in 0..2 {
        settle(&replica, settlement(1, holder, 60, 20)).await;
        assert_eq!(
            (cluster.money().await, kept(&cluster, 1).await, replica.limiter.copies()),
            ((20, 80), "s".into(), 1)
        );
    }
    // The ledger may be faster than Redis.
    replica.limiter.recorded(&[event(2, holder, 30)]);
    assert_eq!(kept(&cluster, 2).await, "o", "an open lease stays");
    settle(&replica, settlement(2, holder, 70, 30)).await;
    assert_eq!((kept(&cluster, 2).await, replica.limiter.copies()), (String::new(), 1));
    replica.limiter.recorded(&[event(1, holder, 20)]);
    while !kept(&cluster, 1).await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!((cluster.money().await, replica.limiter.copies()), ((50, 10), 0));
    // The answer to a settlement was lost, and when it is said again the ledger has its events.
    settle(&replica, settlement(3, holder, 10, 5)).await;
    assert_eq!(kept(&cluster, 3).await, "s");
    settle(&replica, Settlement { events: Vec::new(), ..settlement(3, holder, 10, 5) }).await;
    assert_eq!((cluster.money().await, kept(&cluster, 3).await), ((55, 0), String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_bring_what_was_settled_and_hold_what_was_open() {
    let Some(cluster) = Cluster::start().await else { return };
    let doomed = replica(&cluster, 1).await;
    let holder = open(&doomed, &[(1, 60), (2, 70), (3, 80)]).await;
    let top_up = LeaseId { number: 1, ..lease(2) };
    let mut more = claims(2, holder, 10);
    more.money.iter_mut().for_each(|claim| claim.is_top_up = true);
    assert!(matches!(doomed.limiter.reserve(top_up, &more).await.unwrap(), Reservation::Held(_)));
    settle(&doomed, settlement(1, holder, 60, 20)).await;
    drop(doomed);
    // Away at first.
    cluster.ledger.set_away(true);
    cluster.at(SILENCE + Duration::from_millis(1)).await;
    assert!(cluster.other.limiter.give_up_silent().await.is_err());
    assert_eq!((cluster.money().await, kept(&cluster, 1).await), ((20 + 70 + 80 + 10, 0), "s".into()));
    cluster.ledger.set_away(false);
    // Then it has heard of the process.
    cluster.ledger.set_heard(true);
    cluster.find_silent().await;
    assert_eq!(cluster.ledger.recovered(), [(Charge, 1, 0, 20)]);
    assert_eq!((kept(&cluster, 1).await, kept(&cluster, 2).await), (String::new(), "g".into()));
    cluster.ledger.set_heard(false);
    let all = [(Charge, 1, 0, 20), (Hold, 2, 0, 70), (Hold, 2, 1, 10), (Hold, 3, 0, 80)];
    for _ in 0..3 {
        cluster.find_silent().await;
        assert_eq!((cluster.ledger.recovered(), kept(&cluster, 2).await), (all.to_vec(), "h".into()));
        assert_eq!(cluster.money().await, (180, 0), "as much as in the ledger");
    }
    let beat = cluster.server.command(&format!("ZSCORE {{a4f}}:0:reps {JOURNAL}.1")).await;
    assert_eq!(beat, "$-1", "nobody looks again");

    // Its directory turns up.
    let next = replica(&cluster, 2).await;
    let leases = next.limiter.take_over(JOURNAL).await.unwrap();
    assert_eq!(leases.len(), 3);
    let fates = HashMap::from([
        (lease(2).request, Fate::Charged(vec![event(2, holder, 30)])),
        (lease(3).request, Fate::Charged(Vec::new())),
    ]);
    for _ in 0..2 {
        next.limiter.charge(&leases, &fates).await.unwrap();
        assert_eq!(cluster.money().await, (50, 0));
    }
    assert!(cluster.ledger.released().iter().all(|request| *request == 3), "{:?}", cluster.ledger.released());
    assert_eq!(next.limiter.take_over(JOURNAL).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_life_brings_copies_and_holds_what_its_journal_can_not_tell() {
    let Some(cluster) = Cluster::start().await else { return };
    let doomed = replica(&cluster, 1).await;
    let holder = open(&doomed, &[(1, 60), (2, 70)]).await;
    settle(&doomed, settlement(1, holder, 60, 20)).await;
    drop(doomed);
    let next = replica(&cluster, 2).await;
    cluster.ledger.set_heard(true);
    let leases = next.limiter.take_over(JOURNAL).await.unwrap();
    assert_eq!((cluster.ledger.recovered(), kept(&cluster, 1).await), (vec![(Charge, 1, 0, 20)], String::new()));
    next.limiter.charge(&leases, &HashMap::from([(lease(2).request, Fate::Unknown)])).await.unwrap();
    assert_eq!(cluster.ledger.recovered(), [(Charge, 1, 0, 20), (Hold, 2, 0, 70)]);
    assert_eq!(cluster.money().await, (90, 0));
}

/// A reservation that timed out and arrived late: its request was decided without Redis, and charged to the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_request_was_decided_elsewhere_is_given_back_in_full() {
    let Some(cluster) = Cluster::start().await else { return };
    let doomed = replica(&cluster, 1).await;
    let holder = open(&doomed, &[(1, 60), (2, 70)]).await;
    let process = Holder::Process { spool: SpoolId(uuid::Uuid::nil()), generation: 1 };
    // The first is voided by its own replica, whatever it brings.
    settle(&doomed, Settlement { events: vec![event(1, process, 20)], ..voided(lease(1), &budget(60)) }).await;
    assert_eq!((cluster.money().await, kept(&cluster, 1).await, doomed.limiter.copies()), ((0, 70), "x".into(), 0));
    // Of the second that is lost with the replica; the ledger knows what the request was charged.
    let elsewhere = UsageEvent {
        spending: vec![Spending { holder: process, ..event(2, holder, 0).spending.remove(0) }],
        ..event(2, process, 20)
    };
    doomed.limiter.recorded(std::slice::from_ref(&elsewhere));
    assert_eq!(kept(&cluster, 2).await, "o");
    cluster.ledger.drain(&[elsewhere]);
    drop(doomed);
    cluster.find_silent().await;
    assert_eq!((cluster.money().await, kept(&cluster, 2).await), ((0, 0), String::new()));
    assert_eq!(cluster.ledger.recovered(), [(Charge, 2, 0, 20)], "nothing is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_copies_are_kept_than_there_is_room_for() {
    let Some(cluster) = Cluster::start().await else { return };
    let name = format!("{JOURNAL}.1");
    let options = cluster.server.options(&name).with_movable_time().with_room_for_copies(8);
    let replica = Replica::start_with(&options, cluster.ledger.clone()).await;
    replica.limiter.beat().await.unwrap();
    let requests: Vec<(u128, i64)> = (1..10).map(|number| (number, 10)).collect();
    let holder = open(&replica, &requests).await;
    for (number, _) in requests {
        settle(&replica, settlement(number, holder, 10, 3)).await;
    }
    eventually("end of settling", || replica.limiter.queued_settlements() == 0).await;
    // Two replicas share the room; the heartbeat and a tombstone take some.
    let copies = replica.limiter.copies();
    assert!((1..=4).contains(&copies), "{copies}");
    assert_eq!(replica.limiter.refused_copies(), 9 - copies as u64);
    assert_eq!(cluster.money().await, (27, 0));
}
