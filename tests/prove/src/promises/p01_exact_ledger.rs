//! Mixed requests over two replicas; every row of the ledger against what the upstream reported.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::json;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order, Sent},
    oracle::{self, Reconciliation},
    rig::{Answer, Rig, chaos::Mode, dice::Dice},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P1",
    title: "every upstream completion has exactly one charge, exact to the pico-dollar",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: u64 = 24;
/// These have limits, far away, so that Redis counts along.
const LIMITED_LANES: u64 = 6;
const LIMIT: i64 = 1_000_000_000;
/// A window of Redis is a minute: what is older is forgotten.
const WINDOW: Duration = Duration::from_secs(55);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (requests, dice) = (stage.count(4_000, 10_000), stage.dice());
    let rig = stage.services.rig().replicas(2).start().await;
    let mut lanes = Vec::new();
    for number in 0..LANES {
        let limits = if number < LIMITED_LANES {
            json!({"limits": {"tokens_per_minute": LIMIT, "requests_per_minute": LIMIT}})
        } else {
            json!({})
        };
        let gateway = &rig.gateways[usize::try_from(number).unwrap() % rig.gateways.len()];
        lanes.push(Lane::new(gateway.key(limits).await, gateway.address));
    }
    let started = Instant::now();
    let each = usize::try_from(requests / LANES).unwrap();
    let lanes =
        load::drive(lanes, &dice, move |dice, lane| (lane.journal.len() < each).then(|| Order::mixed(dice))).await;
    let elapsed = started.elapsed();
    // The same bytes from the upstream in other pieces, in the middle of a character, a number or a line.
    let mut lanes = lanes;
    for (mode, more) in [(Mode::Split(5), 3), (Mode::Slow(100_000), 1), (Mode::Latency(Duration::from_millis(20)), 1)] {
        rig.to_upstream.set(mode);
        let wanted = lanes[0].journal.len() + more;
        let next = move |dice: &mut Dice, lane: &mut Lane| (lane.journal.len() < wanted).then(|| Order::mixed(dice));
        lanes = load::drive(lanes, &dice.split(77), next).await;
    }
    let journal = load::journal(&lanes);
    // On a machine that is too busy for Redis or the disk to answer in time, requests are refused: not what is proven here.
    let is_refusal = |sent: &&Sent| sent.status == Some(503) && sent.code.ends_with("_unavailable");
    findings.figure("refused_because_the_machine_was_busy", journal.iter().copied().filter(is_refusal).count());
    let failures = oracle::failures(journal.iter().copied().filter(|sent| !is_refusal(sent)));
    findings.figure("requests", journal.len());
    findings.figure("requests_per_second", (requests as f64 / elapsed.as_secs_f64()).round());
    findings.exactly("failed_requests", 0, failures.len() as i128);
    failures.first().inspect(|first| findings.violation((*first).clone()));

    let events = rig.ledger().await;
    let reconciliation = Reconciliation::of(journal, &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(&mut findings);
    reconciliation.complete_ones_are_exact(&mut findings);
    findings.figure("sum_micro_usd", i64::try_from(oracle::total_pico(&events) / 1_000_000).unwrap());
    rig.check_ledger(&mut findings).await;
    if started.elapsed() < WINDOW {
        compare_with_redis(&rig, &lanes, &mut findings).await;
    }
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// The windows of the limited keys hold what their requests used.
async fn compare_with_redis(rig: &Rig<'_>, lanes: &[Lane], findings: &mut Findings) {
    let mut off_by = 0;
    for lane in lanes.iter().take(usize::try_from(LIMITED_LANES).unwrap()) {
        let counted = || lane.journal.iter().filter(|sent| sent.complete && !sent.is_degraded);
        let chats = || counted().filter(|sent| !sent.order.model.is_image);
        let tokens: i64 = counted().map(|sent| sent.order.usage.tokens()).sum();
        let expected = [("requests", i64::try_from(chats().count()).unwrap()), ("tokens", tokens)];
        for (kind, wanted) in expected {
            let key = format!("{{a4f}}:0:w:{kind}:key:{}", lane.key.id);
            let found = match rig.services.redis.command(&["HGET", &key, "s"]).await {
                Answer::Text(text) => text.parse::<i64>().unwrap(),
                _ => 0,
            };
            if found != wanted {
                findings.violation(format!("Redis counts {found} {kind} of a key that used {wanted}"));
                off_by += (found - wanted).abs();
            }
        }
    }
    findings.exactly("sum_of_differences_in_redis", 0, off_by.into());
}
