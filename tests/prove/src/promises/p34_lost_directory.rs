//! Two of three replicas are killed under load, one for ever with its directory, one whose directory turns up later. The
//! third tells the ledger what Redis remembers of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order, Sent},
    noise::Noise,
    oracle::{Matched, Reconciliation, total_pico},
    rig::{
        Answer, Rig,
        catalogue::{CHEAP, DEAR, Usage},
        dice::Dice,
        eventually::found_within,
        gateway::drained,
        ledger::{self, Event},
    },
    upstream::Script,
};

pub(super) const PROMISE: Promise = Promise {
    id: "P34",
    title: "a replica that is lost with its directory loses no charge: others bring it; what was open is held until it turns up",
    company: Company::Everybody,
    prove: |stage| prove(stage).boxed_local(),
};

/// The last to be killed goes on alone.
const REPLICAS: usize = 3;
const LANES_EACH: usize = 6;
const MOST_TOKENS: u64 = 1000;
/// An answer that is older when its replica dies is charged as what it was: Redis has the copy.
const JUST_NOW: Duration = Duration::from_millis(100);
/// Two tasks and Redis have to be given their turns for that, and a machine may make each of them wait.
const TURNS: u32 = 10;
/// A minute of silence, and the time to look; the rest is for a machine that is busy.
const REAPED: Duration = Duration::from_secs(150);
/// After an answer that says to come back.
const COME_BACK: Duration = Duration::from_millis(50);
const SETTLED: Duration = Duration::from_secs(30);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (rounds, dice) = (stage.count(1, 3), stage.dice());
    for round in 0..rounds {
        let dice = dice.split(round);
        let mut rig = stage.services.rig().replicas(REPLICAS).start().await;
        lose_two(&mut rig, &dice, &mut findings).await;
        findings.exactly("panics", 0, rig.finish().await as i128);
    }
    findings.figure("rounds", rounds);
    findings
}

async fn lose_two(rig: &mut Rig<'_>, dice: &Dice, findings: &mut Findings) {
    let mut lanes = Vec::new();
    for number in 0..(REPLICAS - 1) * LANES_EACH {
        let key = rig.gateways[0].key(json!({"budget": {"amount_usd": "50.00", "window": "total"}})).await;
        lanes.push(Lane::new(key, rig.gateways[number % (REPLICAS - 1)].address));
    }
    load::warm(&mut lanes).await;
    let noises = [0, 1].map(|replica: usize| Noise::at(rig.gateways[replica].address));
    let running: Vec<_> = lanes
        .into_iter()
        .zip(0..)
        .map(|(lane, number)| tokio::spawn(until_it_dies(lane, dice.split(number))))
        .collect();
    sleep(Duration::from_millis(dice.split(1_000).within(1_500..2_500))).await;
    // Of what was decided without it, Redis can remember nothing: on a machine that is too busy there may be some.
    let mut without_redis = 0.0;
    for gateway in &rig.gateways[..REPLICAS - 1] {
        without_redis += gateway.metric("ai4free_degraded_reservations_total", "").await;
    }
    findings.figure("decided_without_redis", without_redis);
    let just_now = JUST_NOW + TURNS * noises.iter().map(Noise::worst).max().unwrap_or_default();
    drop(noises);
    let killed = Instant::now();
    for gateway in &mut rig.gateways[..REPLICAS - 1] {
        gateway.process.kill().await;
    }
    let directories: Vec<_> = rig.gateways.iter().map(|gateway| gateway.home().join(".ai4free")).collect();
    let away = rig.gateways[1].home().join("away");
    fs::remove_dir_all(&directories[0]).unwrap();
    fs::rename(&directories[1], &away).unwrap();
    let lanes: Vec<Lane> = join_all(running).await.into_iter().map(Result::unwrap).collect();
    let journal = load::journal(&lanes);
    let keys: Vec<&str> = lanes.iter().map(|lane| &*lane.key.id).collect();
    findings.figure("requests", journal.len());

    let reaped = found_within(REAPED, || is_reaped(rig)).await;
    findings.require(reaped.is_some(), || "Redis still remembers what the ledger was not told".to_owned());
    findings.figure("reaped_after_ms", u64::try_from(killed.elapsed().as_millis()).unwrap());
    let events = ledger::events(&mut rig.session().await).await;
    let missing = untold(&journal, rig, &events);
    findings.figure("neither_charged_nor_held", missing.len());
    findings.require(f64::from(u32::try_from(missing.len()).unwrap()) <= without_redis, || {
        format!("neither charged nor held: {missing:?}")
    });
    check_the_lost(&journal, rig, &events, killed - just_now, findings);
    let brought =
        "SELECT count(*) FROM usage_event WHERE kind = 1 AND spool_id = '00000000-0000-0000-0000-000000000000'";
    findings.figure("brought_by_another_replica", ledger::number(&mut rig.session().await, brought).await);
    budgets_agree(rig, &keys, "while held", findings).await;

    fs::rename(&away, &directories[1]).unwrap();
    let mut back = rig.gateways.remove(1);
    back.start_again().await;
    drained(&back).await;
    rig.gateways.push(back);
    check_what_turned_up(&journal, rig, findings).await;
    budgets_agree(rig, &keys, "in the end", findings).await;
    for difference in ledger::differences(&mut rig.session().await).await {
        findings.violation(difference);
    }
    rig.gateways.remove(0);
}

async fn until_it_dies(mut lane: Lane, mut dice: Dice) -> Lane {
    loop {
        let usage = Usage {
            input: dice.within(1..20).try_into().unwrap(),
            output: dice.within(1..MOST_TOKENS).try_into().unwrap(),
            ..Usage::default()
        };
        let chunks = u32::try_from(dice.within(1..20)).unwrap();
        let script = Script::reporting(chunks, usage.on_the_wire()).delay(dice.within(0..15));
        let mut order = Order::new(*dice.pick(&[CHEAP, DEAR]), usage, script);
        order.max_tokens = Some(MOST_TOKENS);
        match lane.send(order.streamed(true)).await.status {
            None => return lane,
            Some(200) => {}
            Some(_) => sleep(COME_BACK).await,
        }
    }
}

/// Whether the ledger was told of all that Redis remembers.
async fn is_reaped(rig: &Rig<'_>) -> Option<()> {
    sleep(Duration::from_millis(200)).await;
    let redis = &rig.services.redis;
    let names = redis.command(&["KEYS", "{a4f}:0:l:*"]).await;
    for name in names.texts() {
        let leases = redis.command(&["HVALS", name]).await;
        if leases.texts().iter().any(|lease| lease.starts_with(['o', 'g', 's'])) {
            return None;
        }
    }
    Some(())
}

/// What reached the provider, and of which the ledger knows nothing.
fn untold(journal: &[&Sent], rig: &Rig<'_>, events: &[Event]) -> Vec<Sent> {
    let known = one_each(events);
    let matched = Reconciliation::of(journal.iter().copied(), &rig.upstream.journal, &known);
    let is_untold = |request: &&Matched<'_>| request.served.is_some() && request.event.is_none();
    matched.requests.iter().filter(is_untold).map(|request| request.sent.clone()).collect()
}

/// Of each request the charge, or else its hold.
fn one_each(events: &[Event]) -> Vec<Event> {
    let mut each: BTreeMap<&str, &Event> = BTreeMap::new();
    for event in events.iter().filter(|event| matches!(event.kind, ledger::CHARGE | ledger::HOLD)) {
        let known = each.entry(&event.request).or_insert(event);
        if event.kind == ledger::CHARGE {
            *known = event;
        }
    }
    each.into_values().cloned().collect()
}

/// Both directories are gone: what Redis remembers is what there is.
fn check_the_lost(journal: &[&Sent], rig: &Rig<'_>, events: &[Event], just_before: Instant, findings: &mut Findings) {
    let rows = events.iter().map(|event| (&*event.request, event.attempt, event.kind)).collect::<BTreeSet<_>>();
    findings.exactly("double_rows", 0, (events.len() - rows.len()) as i128);
    let charged: BTreeSet<&str> = of_kind(events, ledger::CHARGE).map(|event| &*event.request).collect();
    let both = of_kind(events, ledger::HOLD).filter(|event| charged.contains(&*event.request));
    findings.exactly("charged_and_held", 0, both.count() as i128);
    let known = one_each(events);
    let matched = Reconciliation::of(journal.iter().copied(), &rig.upstream.journal, &known);
    findings.exactly("charged_or_held_for_nobody", 0, matched.strangers.len() as i128);
    let (mut held, mut held_though_answered) = (0, 0);
    for request in &matched.requests {
        let Some(event) = request.event else { continue };
        let (sent, order) = (request.sent, &request.sent.order);
        if event.kind == ledger::CHARGE {
            let is_exact = !sent.complete || event.cost_pico == order.cost_pico() && event.usage == order.usage;
            findings.require(is_exact, || format!("{order:?} is charged as {event:?}"));
            continue;
        }
        held += 1;
        held_though_answered += u64::from(sent.complete);
        let is_recent = !sent.complete || sent.ended >= just_before;
        findings.require(is_recent, || format!("answered in time, and only held: {sent:?}"));
        let at_bound = event.source == ledger::BOUND
            && event.outcome == ledger::LOST
            && event.usage.output == i64::try_from(MOST_TOKENS).unwrap()
            && event.cost_pico == order.model.cost_pico(&event.usage);
        findings.require(at_bound, || format!("not held at its bound: {event:?}"));
    }
    findings.figure("charged", charged.len());
    findings.figure("held", held);
    findings.figure("held_though_answered_just_before", held_though_answered);
}

/// One of the directories is back: its charges, and nothing is held of them any more.
async fn check_what_turned_up(journal: &[&Sent], rig: &Rig<'_>, findings: &mut Findings) {
    let events = ledger::events(&mut rig.session().await).await;
    let charges: Vec<Event> = of_kind(&events, ledger::CHARGE).cloned().collect();
    let matched = Reconciliation::of(journal.iter().copied(), &rig.upstream.journal, &charges);
    findings.exactly("double_or_unexplained_charges", 0, matched.strangers.len() as i128);
    matched.charged_ones_are_exact(findings);
    let mut open: BTreeMap<&str, i128> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind != ledger::CHARGE) {
        *open.entry(&event.request).or_default() += event.cost_pico;
    }
    let released = of_kind(&events, ledger::RELEASE).count();
    let charged: BTreeSet<&str> = charges.iter().map(|event| &*event.request).collect();
    let twice = open.iter().filter(|(request, cost)| **cost != 0 && charged.contains(**request)).count();
    findings.exactly("still_held_though_charged", 0, twice as i128);
    findings.figure("released", released);
    findings.require(released > 0, || "nothing had been held of the replica that came back".to_owned());
}

/// What a key was charged and what is held of it, as the ledger and Redis say.
async fn budgets_agree(rig: &Rig<'_>, keys: &[&str], when: &str, findings: &mut Findings) {
    let agree = async || {
        let mut session = rig.session().await;
        let events = ledger::events(&mut session).await;
        let mut found = BTreeMap::new();
        for key in keys {
            let of_key = total_pico(events.iter().filter(|event| event.key == *key));
            let sum =
                "SELECT coalesce(sum(settled_micro * 1000000 + settled_rest), 0) FROM budget_window WHERE scope =";
            let all = i128::from(ledger::number(&mut session, &format!("{sum} 'k:{key}'")).await);
            // What a replica spent by itself is none of Redis's business.
            let shared = format!("{sum} 'k:{key}' AND holder LIKE 'r:%'");
            let shared = i128::from(ledger::number(&mut session, &shared).await);
            let (used, reserved) = in_redis(rig, key).await;
            if [all, used, reserved] != [of_key, shared, 0] {
                found.insert((*key).to_owned(), (of_key, all, shared, used, reserved));
            }
        }
        found
    };
    let end = Instant::now() + SETTLED;
    let mut differences = agree().await;
    while !differences.is_empty() && Instant::now() < end {
        sleep(Duration::from_millis(200)).await;
        differences = agree().await;
    }
    findings.require(differences.is_empty(), || {
        format!("{when}: events, sums, those of Redis, used and reserved there do not agree: {differences:?}")
    });
}

/// Used and reserved, in pico-USD.
async fn in_redis(rig: &Rig<'_>, key: &str) -> (i128, i128) {
    let names = rig.services.redis.command(&["KEYS", &format!("{{a4f}}:0:m:*:key:{key}:0")]).await;
    let (mut used, mut reserved) = (0, 0);
    for name in names.texts() {
        let Answer::Many(fields) = rig.services.redis.command(&["HMGET", name, "uh", "ul", "rh", "rl"]).await else {
            continue;
        };
        let numbers: Vec<i128> = fields.iter().map(|field| field.text().unwrap().parse().unwrap()).collect();
        used += numbers[0] * 1_000_000 + numbers[1];
        reserved += numbers[2] * 1_000_000 + numbers[3];
    }
    (used, reserved)
}

fn of_kind(events: &[Event], kind: i16) -> impl Iterator<Item = &Event> {
    events.iter().filter(move |event| event.kind == kind)
}
