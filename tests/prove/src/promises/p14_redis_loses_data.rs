//! Redis forgets everything while it is in use: flushed, or started again empty.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    budget::{self, COST, usd},
    findings::Findings,
    load::{self, Lane, Order, Sent},
    rig::{Rig, catalogue::CHEAP, dice::Dice},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P14",
    title: "when Redis loses its data no budget is overspent, and a rate lets pass at most twice its limit, once",
    company: Company::Everybody,
    prove: |stage| prove(stage).boxed_local(),
};

const CLIENTS: usize = 16;
const LIMIT: usize = 40;
/// Closed, because a machine may be too busy for Redis to answer in time.
const SETTINGS: &str = "
[plans.forty]
requests_per_minute = 40
on_redis_down = \"closed\"
";
/// Requests that the budget pays.
const PAID: usize = 400;

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (losses, dice) = (stage.count(2, 10), stage.dice());
    let mut rig = stage.services.rig().replicas(2).toml(SETTINGS).start().await;
    windows(&mut rig, &dice, &mut findings).await;
    spend_and_forget(&mut rig, losses, &dice, &mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// The window that was lost admits once more, at most.
async fn windows(rig: &mut Rig<'_>, dice: &Dice, findings: &mut Findings) {
    let key = rig.gateways[0].key(json!({"plan": "forty"})).await;
    let mut admitted = Vec::new();
    for _ in 0..2 {
        let next =
            |_: &mut Dice, lane: &mut Lane| (lane.journal.len() < 2 * LIMIT / CLIENTS).then(|| Order::plain(CHEAP));
        let lanes = load::drive(Lane::sharing(&key, rig, CLIENTS), dice, next).await;
        let journal = load::journal(&lanes);
        let failed: Vec<&&Sent> = journal.iter().filter(|sent| !matches!(sent.status, Some(200 | 429 | 503))).collect();
        findings.require(failed.is_empty(), || format!("neither admitted nor over the limit: {:?}", failed[0].failure));
        admitted.push(journal.iter().filter(|sent| sent.complete).count());
        rig.services.redis.command(&["FLUSHALL"]).await;
    }
    findings.at_most("admitted_before_the_loss", LIMIT as u64, admitted[0] as u64);
    findings.at_most("admitted_in_the_window_of_the_loss", 2 * LIMIT as u64, (admitted[0] + admitted[1]) as u64);
}

/// Spends a budget while Redis forgets, several times; in the end everything is spent, and nothing more.
async fn spend_and_forget(rig: &mut Rig<'_>, losses: u64, dice: &Dice, findings: &mut Findings) {
    let key = rig.gateways[0].key(json!({"budget": {"amount_usd": usd(COST * PAID as i128), "window": "total"}})).await;
    let mut served = 0;
    for loss in 0..losses {
        let mut fate = dice.split(9_000 + loss);
        let spending = tokio::spawn({
            let (lanes, dice) = (Lane::sharing(&key, rig, CLIENTS), dice.split(loss));
            async move { budget::spend(lanes, &dice, PAID / 4 / CLIENTS).await }
        });
        sleep(Duration::from_millis(fate.within(50..400))).await;
        if fate.percent(50) {
            rig.services.redis.command(&["FLUSHALL"]).await;
        } else {
            rig.services.redis.kill().await;
            rig.services.redis.start_again().await;
        }
        served += budget::count_served(&load::journal(&spending.await.unwrap()), findings);
    }
    let lanes = budget::spend(Lane::sharing(&key, rig, CLIENTS), dice, 2 * PAID / CLIENTS).await;
    served += budget::count_served(&load::journal(&lanes), findings);
    findings.figure("budget_pays_for", PAID);
    findings.figure("served_at_once", served);
    // What was granted to a Redis that forgot is withheld until its leases have ended: each time at most half of the first
    // quarter, and a quarter of the rest, which is asked for by then.
    let room = (0..losses).fold(PAID, |room, _| room - (5 * room).div_ceil(16));
    findings.require(served >= room, || format!("{served} of {PAID}: more than 5/16 are withheld at a time"));
    let (rest, stranded_for) = budget::spend_what_comes_back(rig, &key, PAID - served.min(PAID), findings).await;
    findings.figure("stranded_for_ms", u64::try_from(stranded_for.as_millis()).unwrap());
    findings.exactly("served_in_the_end", PAID as i128, (served + rest) as i128);
    budget::is_spent_exactly(rig, &key, "spent_pico_usd", COST * PAID as i128, findings).await;
}
