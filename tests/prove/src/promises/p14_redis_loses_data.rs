//! Redis forgets everything while it is in use: flushed, or started again empty.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order, Sent},
    oracle::total_pico,
    rig::{
        Rig,
        catalogue::{CHEAP, FIXED},
        dice::Dice,
        gateway::Key,
    },
};

pub(super) const PROMISE: Promise = Promise {
    id: "P14",
    title: "when Redis loses its data no budget is overspent, and a rate lets pass at most twice its limit, once",
    mostly_waits: true,
    prove: |stage| prove(stage).boxed_local(),
};

const CLIENTS: usize = 16;
const LIMIT: usize = 40;
/// Of a request of the model `prove/fixed`, in pico-USD, and how many of them the budget pays.
const COST: i128 = 10_000_000_000;
const PAID: usize = 400;
/// 400 × 0.01 USD.
const BUDGET: &str = "4.00";
const STRANDED_MONEY_RETURNS: Duration = Duration::from_secs(90);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (losses, dice) = (stage.count(2, 10), stage.dice());
    let mut rig = stage.services.rig().replicas(2).start().await;
    windows(&mut rig, &dice, &mut findings).await;
    budget(&mut rig, losses, &dice, &mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// The window that was lost admits once more, at most.
async fn windows(rig: &mut Rig<'_>, dice: &Dice, findings: &mut Findings) {
    let key = rig.gateways[0].key(json!({"limits": {"requests_per_minute": LIMIT}})).await;
    let mut admitted = Vec::new();
    for _ in 0..2 {
        let next =
            |_: &mut Dice, lane: &mut Lane| (lane.journal.len() < 2 * LIMIT / CLIENTS).then(|| Order::plain(CHEAP));
        let lanes = load::drive(Lane::sharing(&key, rig, CLIENTS), dice, next).await;
        let journal = load::journal(&lanes);
        let failed: Vec<&&Sent> = journal.iter().filter(|sent| !matches!(sent.status, Some(200 | 429))).collect();
        findings.require(failed.is_empty(), || format!("neither admitted nor over the limit: {:?}", failed[0].failure));
        admitted.push(journal.iter().filter(|sent| sent.complete).count());
        rig.services.redis.command(&["FLUSHALL"]).await;
    }
    findings.exactly("admitted_before_the_loss_of_40", LIMIT as i128, admitted[0] as i128);
    findings.at_most("admitted_in_the_window_of_the_loss", 2 * LIMIT as u64, (admitted[0] + admitted[1]) as u64);
}

/// Spends a budget while Redis forgets, several times; in the end everything is spent, and nothing more.
async fn budget(rig: &mut Rig<'_>, losses: u64, dice: &Dice, findings: &mut Findings) {
    let key = rig.gateways[0].key(json!({"budget": {"amount_usd": BUDGET, "window": "total"}})).await;
    let mut served = 0;
    for loss in 0..losses {
        let mut fate = dice.split(9_000 + loss);
        let spending = tokio::spawn(spend(Lane::sharing(&key, rig, CLIENTS), dice.split(loss), PAID / 4));
        sleep(Duration::from_millis(fate.within(50..400))).await;
        if fate.percent(50) {
            rig.services.redis.command(&["FLUSHALL"]).await;
        } else {
            rig.services.redis.kill().await;
            rig.services.redis.start_again().await;
        }
        served += count_served(&spending.await.unwrap(), findings);
    }
    served += count_served(&spend(Lane::sharing(&key, rig, CLIENTS), dice.clone(), PAID).await, findings);
    findings.figure("budget_pays_for", PAID);
    findings.figure("served_at_once", served);
    // What was granted to a Redis that forgot is withheld until its leases have ended: each time at most a quarter of the room.
    let room = (0..losses).fold(PAID, |room, _| room - room / 4);
    findings.require(served >= room, || format!("{served} of {PAID}: more than a quarter is withheld at a time"));
    let lost = Instant::now();
    let mut last = Lane::sharing(&key, rig, 1);
    while served < PAID && lost.elapsed() < STRANDED_MONEY_RETURNS {
        last = spend(last, dice.clone(), usize::MAX).await;
        served += count_served(&last, findings);
        last = Lane::sharing(&key, rig, 1);
        sleep(Duration::from_millis(500)).await;
    }
    findings.figure("stranded_for_ms", u64::try_from(lost.elapsed().as_millis()).unwrap());
    findings.exactly("served_in_the_end", PAID as i128, served as i128);
    let spent = spent(rig, &key).await;
    findings.exactly("spent_pico_usd", COST * PAID as i128, spent);
}

async fn spend(lanes: Vec<Lane>, dice: Dice, most: usize) -> Vec<Lane> {
    let each = most / lanes.len();
    load::drive(lanes, &dice, move |_, lane| {
        // Right after a loss there is no grant yet, which is a 503; a 429 is final.
        let is_final = lane.journal.last().is_some_and(|sent| sent.status == Some(429));
        (!is_final && lane.journal.len() < each).then(|| Order::plain(FIXED))
    })
    .await
}

fn count_served(lanes: &[Lane], findings: &mut Findings) -> usize {
    let journal = load::journal(lanes);
    for sent in &journal {
        let is_known = sent.complete
            || (sent.status == Some(429) && sent.code == "insufficient_quota")
            || sent.status == Some(503);
        findings.require(is_known, || format!("a budget answers {:?}", sent.failure));
    }
    journal.iter().filter(|sent| sent.complete).count()
}

async fn spent(rig: &Rig<'_>, key: &Key) -> i128 {
    let events = rig.ledger().await;
    total_pico(events.iter().filter(|event| event.key == key.id))
}
