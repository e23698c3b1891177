//! Many clients, two replicas, one budget: spent to the last request that fits, and never beyond.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    budget::{self, COST, USD, spent, usd},
    findings::Findings,
    load::{self, Lane, Order, Sent},
    rig::{
        Rig,
        catalogue::{CHEAP, Usage},
        chaos::Mode,
        dice::Dice,
        eventually::found_within,
    },
    upstream::Script,
};

pub(super) const PROMISE: Promise = Promise {
    id: "P7",
    title: "a budget is never overspent but by what a provider makes beyond its cap, and is spent to the last request that fits",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const CLIENTS: usize = 200;
/// There and back, it is a little less than the 130 ms after which replicas decide by themselves.
const ALMOST_TOO_LATE: Duration = Duration::from_millis(45);
/// After so many, nothing more is on its way.
const REFUSALS: usize = 50;
/// The most that a request of this proof may produce.
const CAP: u64 = 300;
/// What it produces when its provider does not care: more than all that is reserved for it, in and out.
const OVERRUN: u64 = 20 * CAP;
/// In which what a request has used is known to Redis, after its client has its answer.
const SETTLED: Duration = Duration::from_secs(1);
const SETTINGS: &str = "
[limits.users.team]
budget = { amount_usd = \"0.63\", window = \"day\" }
";

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (rounds, dice) = (stage.count(3, 50), stage.dice());
    let rig = stage.services.rig().replicas(2).toml(SETTINGS).start().await;
    let (mut inexact, mut overspent, mut busy, mut withheld) = (0, 0, 0, 0);
    for round in 0..rounds {
        let mut fate = dice.split(1_000 + round);
        // Never a whole number of requests.
        let paid = usize::try_from(fate.within(20..300)).unwrap();
        let amount = COST * paid as i128 + COST / 2;
        let window = *fate.pick(windows());
        let key = rig.gateways[0].key(json!({"budget": {"amount_usd": usd(amount), "window": window}})).await;
        // In every other round Redis answers in just about the time that a request waits for it.
        rig.to_redis.set(if round % 2 == 1 { Mode::Latency(ALMOST_TOO_LATE) } else { Mode::Pass });
        let lanes = budget::spend(Lane::sharing(&key, &rig, CLIENTS), &dice.split(round), 400).await;
        rig.to_redis.set(Mode::Pass);
        let journal = load::journal(&lanes);
        let mut admitted = budget::count_served(&journal, &mut findings);
        let is_slow = !budget::was_shared(&journal);
        if is_slow {
            // The machine was too busy for Redis to answer in time, so that replicas had grants of their own.
            busy += 1;
            admitted += budget::spend_what_comes_back(&rig, &key, paid - admitted.min(paid), &mut findings).await.0;
        }
        if is_slow && admitted < paid {
            withheld += 1;
        } else if admitted != paid {
            inexact += 1;
            findings.violation(format!("{admitted} of the {paid} requests that {} USD pay were admitted", usd(amount)));
        }
        if spent(&rig, &key).await > amount {
            overspent += 1;
            let degraded = journal.iter().filter(|sent| sent.is_degraded && sent.complete).count();
            findings.violation(format!("overspent; {degraded} requests were admitted without Redis"));
            budget::who_spent_what(&rig, &key, &mut findings).await;
        }
    }
    findings.figure("rounds", rounds);
    findings.figure("clients", CLIENTS);
    findings.figure("rounds_in_which_redis_was_slow", busy);
    // What replicas were granted by themselves comes back when Redis is well again: not promised is, when.
    findings.figure("slow_rounds_with_a_part_withheld", withheld);
    findings.exactly("rounds_that_did_not_admit_floor_of_budget_by_cost", 0, inexact.into());
    findings.exactly("rounds_that_overspent", 0, overspent.into());
    owner_and_key(&rig, &dice, &mut findings).await;
    random_costs(&rig, rounds.div_ceil(5), &dice, &mut findings).await;
    overruns(&rig, rounds.div_ceil(5), &dice, &mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// Two keys of 40 cents each, of an owner who may spend 63.
async fn owner_and_key(rig: &Rig<'_>, dice: &Dice, findings: &mut Findings) {
    let members = json!({"user_id": "team", "budget": {"amount_usd": "0.40", "window": "total"}});
    let keys = [rig.gateways[0].key(members.clone()).await, rig.gateways[1].key(members).await];
    let lanes = keys.iter().flat_map(|key| Lane::sharing(key, rig, CLIENTS / 4)).collect();
    let lanes = budget::spend(lanes, dice, 400).await;
    let journal = load::journal(&lanes);
    let admitted = budget::count_served(&journal, findings);
    if budget::was_shared(&journal) {
        findings.exactly("admitted_by_owner_of_63", 63, admitted as i128);
    } else {
        findings.at_most("admitted_by_owner_of_63", 63, admitted as u64);
    }
    for key in &keys {
        let spent = spent(rig, key).await;
        findings.require(spent <= 40 * COST, || format!("a key of 0.40 USD has spent {spent} pico-USD"));
    }
}

/// Requests that cost less than they might have: what they did not use is spent as well.
async fn random_costs(rig: &Rig<'_>, rounds: u64, dice: &Dice, findings: &mut Findings) {
    const BUDGET: i128 = USD / 50;
    let mut left_at_worst = 0;
    for round in 0..rounds {
        let key = rig.gateways[0].key(json!({"budget": {"amount_usd": usd(BUDGET), "window": "total"}})).await;
        let next = |dice: &mut Dice, lane: &mut Lane| {
            let is_refused = lane.journal.last().is_some_and(|sent| sent.status == Some(429));
            (!is_refused).then(|| capped(dice.within(0..CAP)))
        };
        let lanes = load::drive(Lane::sharing(&key, rig, 40), &dice.split(7_000 + round), next).await;
        budget::count_served(&load::journal(&lanes), findings);
        let mut was_shared = budget::was_shared(&load::journal(&lanes));
        // Everybody is gone, and what they had reserved is settled: one client spends what is left.
        sleep(Duration::from_millis(1200)).await;
        // A refund may still be on its way: it is refused for good when it was refused many times in a row.
        let insist = |dice: &mut Dice, lane: &mut Lane| {
            let refusals = lane.journal.iter().rev().take_while(|sent| sent.status == Some(429)).count();
            (refusals < REFUSALS).then(|| capped(dice.within(0..CAP)))
        };
        let last = load::drive(Lane::sharing(&key, rig, 1), &dice.split(8_000 + round), insist).await;
        was_shared &= budget::was_shared(&load::journal(&last));
        let largest = capped(CAP);
        let bound = Usage {
            input: largest.body().to_string().len().try_into().unwrap(),
            output: CAP.try_into().unwrap(),
            ..Usage::default()
        };
        let left = BUDGET - spent(rig, &key).await;
        findings.require(left >= 0, || format!("overspent by {left} pico-USD"));
        findings.require(!was_shared || left < CHEAP.cost_pico(&bound), || {
            format!(
                "refused although {left} pico-USD were left, and no request may cost more than {}",
                CHEAP.cost_pico(&bound)
            )
        });
        left_at_worst = left_at_worst.max(left);
    }
    findings.figure("random_costs_left_pico_usd_at_worst", i64::try_from(left_at_worst).unwrap());
}

/// A provider that makes more than it was allowed to. A budget can be overspent then, but by no more than the excess of what
/// was on its way when the last request was admitted; and each such request is counted.
async fn overruns(rig: &Rig<'_>, rounds: u64, dice: &Dice, findings: &mut Findings) {
    const BUDGET: i128 = USD / 5;
    let (mut worst, mut most_allowed, mut overrun) = (0, 0, 0_u32);
    let before = exceeded(rig).await;
    for round in 0..rounds {
        let key = rig.gateways[0].key(json!({"budget": {"amount_usd": usd(BUDGET), "window": "total"}})).await;
        let next = |dice: &mut Dice, lane: &mut Lane| {
            let is_refused = lane.journal.last().is_some_and(|sent| sent.status == Some(429));
            let output = if dice.percent(40) { OVERRUN } else { dice.within(0..CAP / 2) };
            (!is_refused).then(|| capped(output))
        };
        let lanes = load::drive(Lane::sharing(&key, rig, 40), &dice.split(9_000 + round), next).await;
        let journal = load::journal(&lanes);
        let served = budget::count_served(&journal, findings);
        let complete = || journal.iter().filter(|sent| sent.complete);
        overrun += complete().map(|sent| u32::from(excess(sent) > 0)).sum::<u32>();
        let allowed: i128 = if budget::was_shared(&journal) {
            let arrived = |sent: &&&Sent| rig.upstream.journal.of(sent.order.proof).map(|served| served.arrived);
            // The last admission was after the last of them was asked for, and before it was at its provider.
            let from = complete().map(|sent| sent.started).max();
            let to = complete().filter_map(|sent| arrived(&sent)).max();
            let on_its_way = |sent: &&&Sent| {
                from.is_none_or(|from| sent.ended + SETTLED >= from) && to.is_none_or(|to| sent.started <= to)
            };
            complete().filter(on_its_way).map(|sent| excess(sent)).sum()
        } else {
            // Each replica spent a grant of its own: there are as many last admissions.
            complete().map(|sent| excess(sent)).sum()
        };
        let over = spent(rig, &key).await - BUDGET;
        findings.require(over <= allowed, || {
            format!(
                "overspent by {over} pico-USD with {served} requests: more than the {allowed} of what was on its way"
            )
        });
        (worst, most_allowed) = (worst.max(over), most_allowed.max(allowed));
    }
    findings.figure("overruns_overspent_pico_usd_at_worst", i64::try_from(worst).unwrap());
    findings.figure("overruns_excess_on_its_way_pico_usd_at_worst", i64::try_from(most_allowed).unwrap());
    findings.require(overrun > 0, || "no provider made more than it was allowed to".to_owned());
    let told = found_within(Duration::from_secs(5), || async {
        (exceeded(rig).await - before >= f64::from(overrun)).then_some(())
    });
    told.await;
    findings.exactly("overruns_that_a_metric_tells", overrun.into(), (exceeded(rig).await - before) as i128);
}

async fn exceeded(rig: &Rig<'_>) -> f64 {
    let mut sum = 0.0;
    for gateway in &rig.gateways {
        sum += gateway.metric("ai4free_budget_reservation_exceeded_total", "").await;
    }
    sum
}

/// At most by so much a request has cost more than was reserved for it: no less than all of its cap.
fn excess(sent: &Sent) -> i128 {
    let usage = sent.order.usage;
    let cap = Usage { output: CAP.try_into().unwrap(), ..Usage::default() };
    if usage.output > cap.output { CHEAP.cost_pico(&usage) - CHEAP.cost_pico(&cap) } else { 0 }
}

/// Near the end of an hour, others might begin anew in the middle of a round.
fn windows() -> &'static [&'static str] {
    const MARGIN: u64 = 120;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    if now % 3600 > 3600 - MARGIN { &["total"] } else { &["total", "hour", "day", "week", "month"] }
}

fn capped(output: u64) -> Order {
    let usage = Usage { input: 9, output: output.try_into().unwrap(), ..Usage::default() };
    let mut order = Order::new(CHEAP, usage, Script::reporting(2, usage.on_the_wire()));
    order.max_tokens = Some(CAP);
    order
}
