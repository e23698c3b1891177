//! Requests in flight, counted by the upstream itself, over two replicas of which one dies.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order},
    rig::{Rig, catalogue::CHEAP, client::Connection, dice::Dice, gateway::Key},
    upstream::{Ending, Moment},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P12",
    title: "a concurrency limit holds over replicas, and a replica that dies gives its slots back within 15 s",
    company: Company::Patient,
    prove: |stage| prove(stage).boxed_local(),
};

const LIMIT: usize = 8;
/// Closed, because a machine may be too busy for Redis to answer in time.
const SETTINGS: &str = "
[plans.eight]
max_concurrent_requests = 8
on_redis_down = \"closed\"
";
const CLIENTS: usize = 40;
/// Refusals cost next to nothing: without it they would load the machine.
const PAUSE: Duration = Duration::from_millis(5);
/// A lease lives for 15 s after its last heartbeat; a second for the question and its answer.
const SLOTS_BACK: Duration = Duration::from_secs(16);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (seconds, dice) = (stage.count(4, 10), stage.dice());
    let mut rig = stage.services.rig().replicas(2).toml(SETTINGS).start().await;
    let key = rig.gateways[0].key(json!({"plan": "eight"})).await;

    let end = Instant::now() + Duration::from_secs(seconds);
    let next = move |dice: &mut Dice, _: &mut Lane| (Instant::now() < end).then(|| any(dice));
    let lanes = load::drive_paced(Lane::sharing(&key, &rig, CLIENTS), &dice, PAUSE, next).await;
    let journal = load::journal(&lanes);
    let admitted = journal.iter().filter(|sent| !sent.is_refused()).count();
    findings.figure("admitted", admitted);
    findings.figure("refused", journal.len() - admitted);
    findings.figure("limit", LIMIT);
    findings.figure("most_at_once", rig.upstream.journal.most_open());
    // That each slot can be used is shown below: here a slot is held for a little longer than the upstream sees it.
    findings.require(rig.upstream.journal.most_open() <= LIMIT, || "the upstream saw more at once".to_owned());

    let held = slots(&rig, &key, 1, Duration::from_secs(2)).await;
    findings.exactly("slots_free_after_the_load", LIMIT as i128, held.len() as i128);
    drop(held);

    let of_the_dying = slots(&rig, &key, 0, Duration::from_secs(2)).await;
    findings.exactly("slots_held_by_a_replica_that_dies", LIMIT as i128, of_the_dying.len() as i128);
    rig.gateways[0].process.kill().await;
    let died = Instant::now();
    let held = slots(&rig, &key, 1, SLOTS_BACK).await;
    findings.exactly("slots_free_after_its_death", LIMIT as i128, held.len() as i128);
    findings.within("slots_free_after_its_death", SLOTS_BACK, died.elapsed());
    drop(held);
    rig.gateways[0].start_again().await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

fn any(dice: &mut Dice) -> Order {
    let order = Order::plain(CHEAP);
    let mut script = order.script.clone().delay(dice.within(1..30));
    match dice.within(0..10) {
        0 => script = script.ending(Ending::Status(500)),
        1 => script = script.ending(Ending::Cut(Moment::AfterChunks(1))),
        2 => script = script.ending(Ending::Reset(Moment::BeforeHead)),
        _ => {}
    }
    let order = Order { script, ..order };
    if dice.percent(60) { order.streamed(true) } else { order }
}

/// Takes as many slots as there are, one after the other, and holds them.
async fn slots(rig: &Rig<'_>, key: &Key, replica: usize, patience: Duration) -> Vec<Connection> {
    let mut lane = Lane::new(key.clone(), rig.gateways[replica].address);
    let (mut held, end) = (Vec::new(), Instant::now() + patience);
    while held.len() < LIMIT {
        let order = Order::plain(CHEAP).streamed(false);
        let order = Order { script: order.script.clone().ending(Ending::Hang(Moment::AfterChunks(1))), ..order };
        let (mut connection, _) = lane.begin(order).await.unwrap();
        if connection.head().await.unwrap().status == 200 {
            held.push(connection);
        } else if Instant::now() > end {
            break;
        } else {
            sleep(Duration::from_millis(20)).await;
        }
    }
    held
}
