//! Clients leave at random moments and in every way; the upstream call ends at once and what had come is charged.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, future::join_all};
use serde_json::json;

use super::{Company, Promise, Stage};
use crate::{
    findings::{Findings, percentile},
    load::{self, Lane, Order, Sent},
    noise::Noise,
    oracle::Reconciliation,
    rig::{
        catalogue::{CHEAP, Usage},
        client::Connection,
        dice::Dice,
        eventually::eventually,
        ledger,
    },
    upstream::{Ending, Moment, Script, UpstreamJournal},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P20",
    title: "a client that leaves ends its upstream call at once, and pays for what had come",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: u64 = 16;
const AT_ONCE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    Fin,
    Reset,
    HalfClose,
}

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (requests, dice) = (stage.count(320, 2_000), stage.dice());
    let rig = stage.services.rig().start().await;
    let gateway = &rig.gateways[0];
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(Lane::new(gateway.key(json!({})).await, gateway.address));
    }
    let noise = Noise::at(gateway.address);
    let running = lanes.into_iter().zip(0..).map(|(mut lane, number)| {
        let (mut dice, upstream) = (dice.split(number), rig.upstream.journal.clone());
        tokio::spawn(async move {
            let mut ends = Vec::new();
            for _ in 0..requests / LANES {
                ends.push(leave(&mut lane, &mut dice, &upstream).await);
            }
            (lane, ends)
        })
    });
    let (mut lanes, mut ends) = (Vec::new(), Vec::new());
    for ended in join_all(running).await {
        let (lane, its_ends) = ended.unwrap();
        lanes.push(lane);
        ends.extend(its_ends);
    }
    let journal = load::journal(&lanes);
    findings.figure("disconnects", journal.len());
    findings.spread("upstream_ended", &mut ends);
    findings.figure("noise_ms", u64::try_from(noise.worst().as_millis()).unwrap());
    findings.within("upstream_ended_p99", AT_ONCE + noise.worst(), percentile(&ends, 99));
    findings.exactly("upstream_calls_left", 0, rig.upstream.journal.open() as i128);

    let events = rig.ledger().await;
    let reconciliation = Reconciliation::of(journal.iter().copied(), &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(&mut findings);
    findings.exactly("charges", journal.len() as i128, events.len() as i128);
    let mut wrong = 0;
    for (request, event) in reconciliation.requests.iter().filter_map(|request| Some((request, request.event?))) {
        let received = request.served.as_ref().map_or(0, |served| served.chunks.len());
        let is_right = event.outcome == ledger::CANCELLED
            && event.source == ledger::ESTIMATED
            && usize::try_from(event.usage.output).unwrap() == received;
        if !is_right {
            wrong += 1;
            findings.violation(format!("{received} tokens had come: {event:?}"));
        }
    }
    findings.exactly("charges_that_are_not_what_had_come", 0, wrong);
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// One request that its client leaves; how long the upstream call outlived that.
async fn leave(lane: &mut Lane, dice: &mut Dice, upstream: &UpstreamJournal) -> Duration {
    let goodbye = *dice.pick(&[Goodbye::Fin, Goodbye::Reset, Goodbye::HalfClose]);
    let moment = match dice.within(0..5) {
        0 => Moment::BeforeHead,
        1 => Moment::BeforeFirst,
        _ => Moment::AfterChunks(u32::try_from(dice.within(1..30)).unwrap()),
    };
    let script = Script::reporting(40, Usage::default().on_the_wire()).ending(Ending::Hang(moment));
    let order = Order::new(CHEAP, Usage::default(), script);
    // Of an answer that is not a stream there is nothing before its end.
    let order = if moment == Moment::BeforeHead && dice.percent(50) { order } else { order.streamed(true) };
    let proof = order.proof;
    let (mut connection, mut entry) = lane.begin(order).await.unwrap();
    eventually("the request at the upstream", || async { upstream.of(proof) }).await;
    if let Moment::AfterChunks(chunks) = moment {
        receive(&mut connection, &mut entry, chunks).await;
    }
    let left = Instant::now();
    match goodbye {
        Goodbye::Fin => connection.close(),
        Goodbye::Reset => connection.reset(),
        Goodbye::HalfClose => {
            let _ = connection.half_close().await;
        }
    }
    let ended = eventually("the end of the upstream call", || async { upstream.of(proof)?.cancelled }).await;
    lane.write(entry).await;
    ended.saturating_duration_since(left)
}

async fn receive(connection: &mut Connection, entry: &mut Sent, chunks: u32) {
    let mut head = connection.head().await.unwrap();
    entry.headed(&head);
    let mut text = String::new();
    while text.matches("\"content\":").count() < chunks as usize {
        let piece = connection.piece(&mut head).await.unwrap().expect("a stream that goes on");
        text.push_str(&String::from_utf8_lossy(&piece));
    }
}
