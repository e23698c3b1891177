//! Money that a replica holds when it dies, or seems to.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ai4free_contract::{
    rate_limiter::{lease, spent, voided},
    usage_journal::charge,
};
use ai4free_ports::{
    budget::{Holder, MoneyWindow, Spending},
    rate_limiter::{Claims, LeaseId, RateLimiter, Reservation, Scope, Settlement},
    request::RequestId,
    usage_journal::Fate,
    usage_ledger::UsageEvent,
};

use crate::{
    ledger::Epochs,
    patient::patiently,
    server::{RedisServer, Replica, eventually},
    spending::{budget, hold, standing},
};

const START: Duration = Duration::from_secs(1_700_000_000);
/// What a replica may be silent for.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
const FAMILY: &str = "family";

/// Replicas on one server, over one ledger, whose time stands still until a test moves it.
pub(crate) struct Cluster {
    pub(crate) server: RedisServer,
    pub(crate) ledger: Arc<Epochs>,
    pub(crate) other: Replica,
}

impl Cluster {
    /// With one replica of another family.
    pub(crate) async fn start() -> Option<Self> {
        let server = RedisServer::start().await?;
        let ledger = Arc::new(Epochs::default());
        let other = Replica::start_with(&server.options("other.1").with_movable_time(), ledger.clone()).await;
        let cluster = Self { server, ledger, other };
        cluster.at(Duration::ZERO).await;
        Some(cluster)
    }

    /// One life of the family.
    async fn replica(&self, life: u32) -> Replica {
        self.replica_of(&format!("{FAMILY}.{life}")).await
    }

    pub(crate) async fn replica_of(&self, name: &str) -> Replica {
        let replica = Replica::start_with(&self.server.options(name).with_movable_time(), self.ledger.clone()).await;
        patiently(|| replica.limiter.beat()).await.unwrap();
        replica
    }

    pub(crate) async fn at(&self, since_start: Duration) {
        patiently(|| self.other.limiter.move_time(START + since_start)).await.unwrap();
        patiently(|| self.other.limiter.beat()).await.unwrap();
    }

    /// The family falls silent, and the others find out.
    pub(crate) async fn find_silent(&self) {
        self.at(SILENCE + Duration::from_millis(1)).await;
        patiently(|| self.other.limiter.give_up_silent()).await.unwrap();
    }

    /// Settled and reserved.
    pub(crate) async fn money(&self) -> (i128, i128) {
        let standing = standing(&self.other).await.unwrap();
        (standing.settled.0, standing.reserved.0)
    }

    async fn settled(&self) -> i128 {
        standing(&self.other).await.map_or(0, |standing| standing.settled.0)
    }

    /// What is left of the family.
    async fn left(&self, life: u32) -> [String; 3] {
        let name = format!("{FAMILY}.{life}");
        [
            self.server.command(&format!("EXISTS {{a4f}}:0:l:{name}")).await,
            self.server.command(&format!("ZSCORE {{a4f}}:0:reps {name}")).await,
            self.server.command(&format!("ZSCORE {{a4f}}:0:gone {name}")).await,
        ]
    }
}

const NOTHING: [&str; 3] = [":0", "$-1", "$-1"];

/// A request that was charged this, to the budget that the tests spend from.
pub(crate) fn charged(holder: Holder, cost: i64) -> UsageEvent {
    let spending = vec![Spending { scope: Scope::Gateway, window: MoneyWindow::TOTAL.start, holder }];
    UsageEvent { spending, ..charge(1, cost) }
}

fn fates(of: impl IntoIterator<Item = (u128, Fate)>) -> HashMap<RequestId, Fate> {
    of.into_iter().map(|(number, fate)| (lease(number).request, fate)).collect()
}

/// Tells what the requests of the family were charged.
async fn tell(replica: &Replica, fates: &HashMap<RequestId, Fate>) {
    let leases = patiently(|| replica.limiter.take_over(FAMILY)).await.unwrap();
    patiently(|| replica.limiter.charge(&leases, fates)).await.unwrap();
}

pub(crate) async fn settle(replica: &Replica, settlement: Settlement) {
    replica.limiter.settle(settlement);
    eventually("settled queue", || replica.limiter.queued_settlements() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_silent_replica_reserved_is_not_outstanding_after_a_minute_and_counts_as_used() {
    let Some(cluster) = Cluster::start().await else { return };
    let doomed = cluster.replica(1).await;
    hold(&doomed, 1, 60).await;
    hold(&doomed, 2, 70).await;
    hold(&cluster.other, 3, 5).await;
    drop(doomed);
    cluster.at(SILENCE).await;
    patiently(|| cluster.other.limiter.give_up_silent()).await.unwrap();
    assert_eq!(cluster.money().await, (0, 135));
    cluster.find_silent().await;
    assert_eq!(cluster.money().await, (130, 5));
    assert_eq!(cluster.other.limiter.given_up_leases(), 2);
    patiently(|| cluster.other.limiter.give_up_silent()).await.unwrap();
    assert_eq!(cluster.money().await, (130, 5));
    assert_eq!(cluster.left(1).await[1], "$-1", "nobody looks again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_life_tells_what_requests_were_charged_and_the_rest_can_be_spent() {
    let Some(cluster) = Cluster::start().await else { return };
    for is_found_first in [false, true] {
        let before = cluster.settled().await;
        let doomed = cluster.replica(1).await;
        let number = if is_found_first { 10 } else { 0 };
        let holder = hold(&doomed, number + 1, 60).await;
        for (request, amount) in [(2, 70), (3, 80), (4, 90)] {
            hold(&doomed, number + request, amount).await;
        }
        drop(doomed);
        if is_found_first {
            cluster.find_silent().await;
            assert_eq!(cluster.money().await, (before + 300, 0));
        }
        let next = cluster.replica(2).await;
        let lost = Fate::Charged(vec![charged(holder, 20), charged(holder, 3)]);
        let told = [(number + 1, lost), (number + 2, Fate::Charged(vec![])), (number + 3, Fate::Unknown)];
        for _ in 0..2 {
            tell(&next, &fates(told.clone())).await;
            // The last one is not known yet.
            assert_eq!(cluster.money().await, (before + 23 + 80 + 90, 0));
        }
        tell(&next, &fates([(number + 4, Fate::Charged(vec![charged(holder, 100)]))])).await;
        assert_eq!(cluster.money().await, (before + 23 + 80 + 100, 0), "more than was reserved");
        cluster.at(SILENCE * 3).await;
        assert_eq!(patiently(|| next.limiter.take_over(FAMILY)).await.unwrap(), []);
        assert_eq!(cluster.left(1).await, NOTHING);
        cluster.at(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_budget_or_another_holder_was_charged_is_nothing_here() {
    let Some(cluster) = Cluster::start().await else { return };
    let doomed = cluster.replica(1).await;
    let holder = hold(&doomed, 1, 60).await;
    drop(doomed);
    let next = cluster.replica(2).await;
    let elsewhere = |spending: Spending| UsageEvent { spending: vec![spending], ..charged(holder, 20) };
    let here = charged(holder, 20).spending.remove(0);
    let process = Holder::Process { spool: ai4free_ports::usage_ledger::SpoolId(uuid::Uuid::nil()), generation: 1 };
    let events = vec![
        charged(holder, 7),
        elsewhere(Spending { scope: Scope::User("u".into()), ..here.clone() }),
        elsewhere(Spending { holder: process, ..here }),
    ];
    tell(&next, &fates([(1, Fate::Charged(events))])).await;
    assert_eq!(cluster.money().await, (7, 0));
}

/// The first lease of a request is charged for all of it. Whether its settlement arrived or not, a top-up is charged nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_ups_are_given_back_whether_the_first_lease_was_settled_or_not() {
    for is_settled in [false, true] {
        let Some(cluster) = Cluster::start().await else { return };
        let doomed = cluster.replica(1).await;
        let holder = hold(&doomed, 1, 60).await;
        let claims = more(10);
        for number in 1..40 {
            let top_up = LeaseId { number, ..lease(1) };
            let held = patiently(|| doomed.limiter.reserve(top_up, &claims)).await.unwrap();
            assert!(matches!(held, Reservation::Held(_)), "{held:?}");
        }
        if is_settled {
            settle(&doomed, spent(lease(1), holder, &budget(60), &[200])).await;
        }
        drop(doomed);
        let next = cluster.replica(2).await;
        tell(&next, &fates([(1, Fate::Charged(vec![charged(holder, 200)]))])).await;
        assert_eq!(cluster.money().await, (200, 0), "{is_settled}");
    }
}

fn more(amount: i64) -> Claims {
    let mut claims = budget(amount);
    claims.money.iter_mut().for_each(|claim| claim.is_top_up = true);
    claims
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_only_asleep_settles_each_lease_once() {
    let Some(cluster) = Cluster::start().await else { return };
    let asleep = cluster.replica(1).await;
    let holder = hold(&asleep, 1, 60).await;
    hold(&asleep, 2, 70).await;
    hold(&asleep, 3, 80).await;
    cluster.find_silent().await;
    assert_eq!(cluster.money().await, (210, 0));
    patiently(|| asleep.limiter.beat()).await.unwrap();
    assert_eq!(hold(&asleep, 4, 5).await, holder);
    for _ in 0..2 {
        settle(&asleep, spent(lease(1), holder, &budget(60), &[20])).await;
        settle(&asleep, voided(lease(2), &budget(70))).await;
        assert_eq!(cluster.money().await, (20 + 80, 5));
    }
    // Nobody will settle the third: the replica finds that it is not its own.
    asleep.limiter.settle(Settlement { money: vec![], ..spent(lease(3), holder, &budget(80), &[80]) });
    cluster.at(SILENCE * 3).await;
    patiently(|| asleep.limiter.beat()).await.unwrap();
    patiently(|| asleep.limiter.purge()).await.unwrap();
    assert_eq!(cluster.money().await, (20, 5));
    assert!(matches!(cluster.left(1).await, [leases, beat, _] if leases == ":1" && beat != "$-1"), "it lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_leases_are_given_up_once_by_two_who_find_them_at_the_same_time() {
    let Some(cluster) = Cluster::start().await else { return };
    let doomed = cluster.replica(1).await;
    let mut holder = None;
    for number in 0..500 {
        holder = Some(hold(&doomed, number, 3).await);
    }
    for number in 500..600 {
        settle(&doomed, voided(lease(number), &budget(3))).await;
    }
    drop(doomed);
    let (second, next) = (cluster.replica_of("third.1").await, cluster.replica(2).await);
    cluster.at(SILENCE + Duration::from_millis(1)).await;
    let looks = [&cluster.other, &second].map(|replica| replica.limiter.give_up_silent());
    let (looked, taken) = tokio::join!(futures_util::future::join_all(looks), next.limiter.take_over(FAMILY));
    looked.into_iter().for_each(|look| look.unwrap());
    assert_eq!(cluster.money().await, (1500, 0));
    let reaped = [&cluster.other, &second, &next].map(|replica| replica.limiter.given_up_leases());
    assert_eq!(reaped.iter().sum::<u64>(), 500, "{reaped:?}");
    assert!(taken.is_ok());
    let told = |number| (number, Fate::Charged(vec![charged(holder.unwrap(), 1)]));
    let all = fates((0..500).map(told));
    tokio::join!(tell(&next, &all), tell(&next, &all));
    assert_eq!(cluster.money().await, (500, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_reserved_before_redis_lost_its_data_changes_nothing_after_it() {
    let Some(cluster) = Cluster::start().await else { return };
    let doomed = cluster.replica(1).await;
    let holder = hold(&doomed, 1, 60).await;
    drop(doomed);
    cluster.find_silent().await;
    let next = cluster.replica(2).await;
    let leases = patiently(|| next.limiter.take_over(FAMILY)).await.unwrap();
    assert_eq!(leases.iter().map(|given_up| given_up.lease).collect::<Vec<_>>(), [lease(1)]);
    // Its budget is gone, and its epoch over; the lease is not.
    let Holder::Shared(epoch) = holder else { panic!("{holder:?}") };
    assert_eq!(cluster.server.command(&format!("DEL {{a4f}}:0:m:{}:gateway::0", epoch.0)).await, ":1");
    assert_ne!(hold(&next, 2, 5).await, holder);
    let told = fates([(1, Fate::Charged(vec![charged(holder, 20)]))]);
    patiently(|| next.limiter.charge(&leases, &told)).await.unwrap();
    let now = standing(&next).await.unwrap();
    assert_eq!((now.settled.0, now.reserved.0), (0, 5));
    assert_eq!(cluster.server.command("FLUSHALL").await, "+OK");
    patiently(|| next.limiter.charge(&leases, &told)).await.unwrap();
    assert_eq!(patiently(|| next.limiter.take_over(FAMILY)).await.unwrap(), []);
    assert_eq!(standing(&next).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_cleanly_leaves_nothing() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut replica = cluster.replica(1).await;
    let holder = hold(&replica, 1, 60).await;
    replica.limiter.settle(voided(lease(2), &budget(70)));
    replica.limiter.settle(spent(lease(1), holder, &budget(60), &[20]));
    replica.shutdown.cancel();
    while replica.worker.join_next().await.is_some() {}
    assert_eq!(cluster.money().await, (20, 0));
    assert_eq!(cluster.left(1).await, NOTHING);
}

/// A shutdown that is cut short: the next life knows better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_at_a_clean_end_is_kept_for_the_next_life() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut replica = cluster.replica(1).await;
    let holder = hold(&replica, 1, 60).await;
    replica.shutdown.cancel();
    while replica.worker.join_next().await.is_some() {}
    assert_eq!(cluster.money().await, (60, 0));
    let next = cluster.replica(2).await;
    tell(&next, &fates([(1, Fate::Charged(vec![charged(holder, 20)]))])).await;
    assert_eq!(cluster.money().await, (20, 0));
}

/// A command may be on its way when its sender dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_that_arrives_after_its_replica_was_buried_is_found_the_next_time() {
    let Some(cluster) = Cluster::start().await else { return };
    let (doomed, next) = (cluster.replica(1).await, cluster.replica(2).await);
    assert_eq!(patiently(|| next.limiter.take_over(FAMILY)).await.unwrap(), []);
    hold(&doomed, 1, 60).await;
    assert_eq!(patiently(|| next.limiter.take_over(FAMILY)).await.unwrap().len(), 1);
    hold(&doomed, 2, 70).await;
    drop(doomed);
    assert_eq!(patiently(|| next.limiter.take_over(FAMILY)).await.unwrap().len(), 2);
    assert_eq!(cluster.money().await, (130, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_families_and_the_own_life_are_left_alone() {
    let Some(cluster) = Cluster::start().await else { return };
    let (own, relative) = (cluster.replica(1).await, cluster.replica_of("family.of.1").await);
    hold(&own, 1, 60).await;
    hold(&relative, 2, 70).await;
    hold(&cluster.other, 3, 80).await;
    assert_eq!(patiently(|| own.limiter.take_over(FAMILY)).await.unwrap(), []);
    cluster.at(SILENCE * 2).await;
    patiently(|| own.limiter.beat()).await.unwrap();
    patiently(|| relative.limiter.beat()).await.unwrap();
    patiently(|| own.limiter.give_up_silent()).await.unwrap();
    assert_eq!(cluster.money().await, (0, 210));
}
