//! `kill -9` at a random moment under load, again and again; then every upstream call is in the ledger once.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order},
    oracle::{Matched, Reconciliation},
    rig::{
        catalogue::{CHEAP, DEAR, Usage},
        dice::Dice,
        ledger,
    },
    upstream::{CHUNK_TEXT, Script},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P2",
    title: "kill -9 loses no charge and doubles none; what a client has is charged exactly",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: u64 = 50;
/// Every 250 ms or 64 frames the gateway writes down what a stream has used; the rest is for a machine that is busy.
const CHECKPOINT: Duration = Duration::from_millis(250);
const SLACK: Duration = Duration::from_millis(750);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (rounds, dice) = (stage.count(5, 100), stage.dice());
    let mut rig = stage.services.rig().start().await;
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(Lane::new(rig.gateways[0].key(json!({})).await, rig.gateways[0].address));
    }
    let (mut kills, mut restarts) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let gateway = &mut rig.gateways[0];
        let mut fate = dice.split(1_000_000 + round);
        let running: Vec<_> = lanes
            .into_iter()
            .zip(0..)
            .map(|(mut lane, number)| {
                lane.aim(gateway.address);
                tokio::spawn(until_it_dies(lane, dice.split(round * LANES + number)))
            })
            .collect();
        sleep(Duration::from_millis(fate.within(30..700))).await;
        gateway.process.kill().await;
        kills.push(Instant::now());
        lanes = join_all(running).await.into_iter().map(Result::unwrap).collect();
        let restarted = Instant::now();
        gateway.start_again().await;
        restarts.push(restarted.elapsed());
    }
    let journal = load::journal(&lanes);
    findings.figure("rounds", rounds);
    findings.figure("requests", journal.len());
    findings.spread("restart", &mut restarts);

    let events = rig.ledger().await;
    let reconciliation = Reconciliation::of(journal, &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(&mut findings);
    reconciliation.complete_ones_are_exact(&mut findings);
    check_the_interrupted(&reconciliation.requests, &kills, &mut findings);
    rig.check_ledger(&mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

async fn until_it_dies(mut lane: Lane, mut dice: Dice) -> Lane {
    loop {
        let usage = Usage {
            input: dice.within(1..3000).try_into().unwrap(),
            output: dice.within(1..1000).try_into().unwrap(),
            ..Usage::default()
        };
        let chunks = u32::try_from(dice.within(1..40)).unwrap();
        let script = Script::reporting(chunks, usage.on_the_wire()).delay(dice.within(0..25));
        let mut order = Order::new(*dice.pick(&[CHEAP, DEAR]), usage, script);
        order.max_tokens = Some(1000);
        let order = if dice.percent(75) { order.streamed(true) } else { order };
        if !lane.send(order).await.complete {
            return lane;
        }
    }
}

/// What was open when the gateway died is charged as of its last checkpoint or at its bound, and says so.
fn check_the_interrupted(requests: &[Matched<'_>], kills: &[Instant], findings: &mut Findings) {
    let (mut at_checkpoint, mut at_bound, mut never_sent, mut worst_lag) = (0, 0, 0, Duration::ZERO);
    let charged = requests.iter().filter(|request| !request.sent.complete);
    for (request, event) in charged.filter_map(|request| Some((request, request.event?))) {
        let order = &request.sent.order;
        let Some(served) = &request.served else {
            never_sent += 1;
            findings.require(event.source == ledger::BOUND, || format!("never sent, and not at its bound: {event:?}"));
            continue;
        };
        match event.source {
            // It was settled, and died before its last bytes were out.
            ledger::PROVIDER => {
                findings.require(event.cost_pico == order.cost_pico(), || format!("{order:?} is charged as {event:?}"))
            }
            ledger::ESTIMATED => {
                at_checkpoint += 1;
                let killed = kills.iter().find(|killed| **killed > request.sent.started).copied();
                let killed = killed.unwrap_or(request.sent.ended);
                let charged = usize::try_from(event.usage.output).unwrap();
                findings.require(charged <= served.chunks.len(), || {
                    format!("{charged} tokens are charged of {} that were sent: {event:?}", served.chunks.len())
                });
                if let Some(first_uncharged) = served.chunks.get(charged) {
                    worst_lag = worst_lag.max(killed.saturating_duration_since(*first_uncharged));
                }
            }
            ledger::BOUND => {
                at_bound += 1;
                let bound = i64::try_from(order.max_tokens.unwrap()).unwrap();
                let at_bound =
                    event.usage.output == bound && event.usage.input >= order.prompt.len().try_into().unwrap();
                findings.require(at_bound, || format!("not at its bound: {event:?}"));
            }
            other => findings.violation(format!("source {other} of an interrupted request: {event:?}")),
        }
        let flagged = event.source == ledger::PROVIDER || event.outcome == ledger::LOST;
        findings.require(flagged, || format!("an interrupted request does not say so: {event:?}"));
    }
    assert_eq!(CHUNK_TEXT.len(), 4, "a chunk is a token by the gateway's estimate");
    findings.figure("in_flight_at_checkpoint", at_checkpoint);
    findings.figure("in_flight_at_bound", at_bound);
    findings.figure("charged_at_bound_and_never_sent", never_sent);
    findings.within("oldest_token_not_in_a_checkpoint", CHECKPOINT + SLACK, worst_lag);
}
