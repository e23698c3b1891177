//! Requests that end in every way there is, under a budget; afterwards all of it that was not charged can be spent.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order, Sent},
    oracle::{Reconciliation, total_pico},
    rig::{
        Rig,
        catalogue::{DEAR, FIXED, Usage},
        dice::Dice,
        gateway::Key,
    },
    upstream::{Ending, Moment, Script, UpstreamJournal},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P8",
    title: "no reservation is lost: however requests end, what was not charged can be spent again",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const CLIENTS: usize = 24;
const BUDGET: &str = "9.00";
const BUDGET_PICO: i128 = 9_000_000_000_000;
/// Of a request of the model `prove/fixed`: one that is lost is one that can't be asked in the end.
const COST: i128 = 10_000_000_000;
/// Between two chunks; a hang ends with it.
const IDLE: &str = "2";
/// In which all that was reserved has to be free again.
const FREE_AGAIN: Duration = Duration::from_secs(60);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (rounds, dice) = (stage.count(1, 3), stage.dice());
    let builder = stage.services.rig().replicas(2);
    let builder =
        builder.set("AI4FREE__TIMEOUTS__IDLE_SECONDS", IDLE).set("AI4FREE__TIMEOUTS__FIRST_BYTE_SECONDS", IDLE);
    let mut rig = builder.start().await;
    for round in 0..rounds {
        let budget = json!({"budget": {"amount_usd": BUDGET, "window": "total"}});
        let key = rig.gateways[0].key(budget).await;
        let journal = every_end(&mut rig, &key, &dice.split(round)).await;
        check(&rig, &key, &journal, &dice, &mut findings).await;
    }
    findings.figure("rounds", rounds);
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// A client that leaves, an upstream that errs, breaks off or hangs, and a replica that is killed and starts again.
async fn every_end(rig: &mut Rig<'_>, key: &Key, dice: &Dice) -> Vec<Sent> {
    let end = Instant::now() + Duration::from_secs(4);
    let clients = Lane::sharing(key, rig, CLIENTS).into_iter().zip(0..).map(|(lane, number)| {
        let upstream = rig.upstream.journal.clone();
        tokio::spawn(use_and_leave(lane, dice.split(number), upstream, end))
    });
    let clients: Vec<_> = clients.collect();
    sleep(Duration::from_secs(2)).await;
    rig.gateways[1].process.kill().await;
    rig.gateways[1].start_again().await;
    let lanes = join_all(clients).await.into_iter().map(Result::unwrap);
    lanes.flat_map(|lane| lane.journal).collect()
}

async fn use_and_leave(mut lane: Lane, mut dice: Dice, upstream: UpstreamJournal, end: Instant) -> Lane {
    while Instant::now() < end {
        let order = any(&mut dice);
        if dice.percent(70) {
            lane.send(order).await;
            continue;
        }
        let proof = order.proof;
        let Ok((mut connection, mut entry)) = lane.begin(order).await else { break };
        if dice.percent(50)
            && let Ok(head) = connection.head().await
        {
            entry.headed(&head);
        }
        sleep(Duration::from_millis(dice.within(0..30))).await;
        connection.reset();
        let left = Instant::now();
        // So that the next request's name can't be taken for this one's.
        while upstream.of(proof).is_some_and(|served| served.ended.is_none()) && left.elapsed().as_secs() < 5 {
            sleep(Duration::from_millis(2)).await;
        }
        lane.write(entry).await;
    }
    lane
}

fn any(dice: &mut Dice) -> Order {
    let usage = Usage { input: 20, output: dice.within(0..50).try_into().unwrap(), ..Usage::default() };
    let chunk = Moment::AfterChunks(1);
    let ending = match dice.within(0..12) {
        0 => Ending::Status(500),
        1 => Ending::Status(400),
        2 => Ending::Status(429),
        3 => Ending::Cut(Moment::BeforeHead),
        4 => Ending::Reset(Moment::BeforeFirst),
        5 => Ending::Cut(chunk),
        6 => Ending::ErrorEvent(chunk),
        7 => Ending::Hang(chunk),
        _ => Ending::Complete,
    };
    let script = Script::reporting(4, usage.on_the_wire()).delay(dice.within(0..20)).ending(ending);
    let mut order = Order::new(*dice.pick(&[FIXED, DEAR]), usage, script);
    order.max_tokens = Some(50);
    order.streamed(true)
}

async fn check(rig: &Rig<'_>, key: &Key, journal: &[Sent], dice: &Dice, findings: &mut Findings) {
    findings.figure("requests", journal.len());
    let quota = journal.iter().filter(|sent| sent.code == "insufficient_quota").count();
    findings.exactly("false_refusals", 0, quota as i128);
    let events = rig.ledger().await;
    let of_key: Vec<_> = events.into_iter().filter(|event| event.key == key.id).collect();
    let before = total_pico(&of_key);
    // Clients share a key here, so that a request without a name is nobody's in particular.
    let charged_to_nobody = Reconciliation::of(journal, &rig.upstream.journal, &of_key).strangers.len();
    let nameless = journal.iter().filter(|sent| sent.request_id.is_none()).count();
    findings.require(charged_to_nobody <= nameless, || format!("{charged_to_nobody} charges of {nameless} requests"));

    // Each client asks until there is nothing left; then one asks on, until the last of the killed replica's leases is settled.
    let wanted = (BUDGET_PICO - before) / COST;
    let until_refused = |_: &mut Dice, lane: &mut Lane| {
        lane.journal.last().is_none_or(|sent| sent.status != Some(429)).then(|| Order::plain(FIXED))
    };
    let lanes = load::drive(Lane::sharing(key, rig, CLIENTS), dice, until_refused).await;
    let mut served = lanes.iter().map(|lane| lane.journal.iter().filter(|sent| sent.complete).count()).sum::<usize>();
    let asked = Instant::now();
    while (served as i128) < wanted && asked.elapsed() < FREE_AGAIN {
        sleep(Duration::from_millis(500)).await;
        let more = load::drive(Lane::sharing(key, rig, 1), dice, until_refused).await;
        served += more[0].journal.iter().filter(|sent| sent.complete).count();
    }
    findings.figure("left_to_spend", i64::try_from(wanted).unwrap());
    findings.exactly("spent_of_what_was_left", wanted, served as i128);
    findings.figure("all_free_after_ms", u64::try_from(asked.elapsed().as_millis()).unwrap());
    let events = rig.ledger().await;
    let after = total_pico(events.iter().filter(|event| event.key == key.id));
    findings.require(after <= BUDGET_PICO, || format!("{after} pico-USD were spent of {BUDGET_PICO}"));
    findings.require(BUDGET_PICO - after < COST, || format!("{} pico-USD can't be spent", BUDGET_PICO - after));
}
