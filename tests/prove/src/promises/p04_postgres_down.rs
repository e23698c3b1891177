//! Postgres hangs, dies, or can't be reached, under load, for a minute.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order, Sent},
    noise::{self, Noise},
    oracle::Reconciliation,
    rig::{
        Rig,
        catalogue::CHEAP,
        chaos::Mode,
        client::{Reply, Request},
        dice::Dice,
        gateway::{Gateway, Key, drained},
    },
};

pub(super) const PROMISE: Promise = Promise {
    id: "P4",
    title: "while Postgres is away, keys that are known are served; usage waits on disk and nothing is lost",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: usize = 6;
const PAUSE: Duration = Duration::from_millis(15);
const BEFORE: Duration = Duration::from_secs(3);
/// After it a request may be 10 ms slower than before, no more.
const FIRST_SECOND: Duration = Duration::from_secs(1);
const SLOWER: Duration = Duration::from_millis(10);
const UNKNOWN_KEY: Duration = Duration::from_millis(1300);
const DRAINED: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum Outage {
    Hangs,
    Dies,
    Blackhole,
    Refuses,
}

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let dice = stage.dice();
    let (outages, duration) = if stage.is_full() {
        (vec![Outage::Hangs, Outage::Dies, Outage::Blackhole, Outage::Refuses], stage.count(10, 60))
    } else {
        (vec![Outage::Hangs], stage.count(10, 60))
    };
    let mut rig = stage.services.rig().replicas(2).start().await;
    findings.figure("outage_seconds", duration);
    let mut lanes = Vec::new();
    for outage in outages {
        lanes.extend(endure(&mut rig, outage, Duration::from_secs(duration), &dice, &mut findings).await);
    }
    let events = rig.ledger().await;
    let reconciliation = Reconciliation::of(load::journal(&lanes), &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(&mut findings);
    reconciliation.complete_ones_are_exact(&mut findings);
    rig.check_ledger(&mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

async fn endure(
    rig: &mut Rig<'_>,
    outage: Outage,
    duration: Duration,
    dice: &Dice,
    findings: &mut Findings,
) -> Vec<Lane> {
    let name = |figure: &str| format!("{outage:?}_{figure}").to_lowercase();
    let (mut lanes, mut unknown) = (Vec::new(), Vec::new());
    for number in 0..LANES {
        let limits = if number % 2 == 0 { json!({"limits": {"requests_per_minute": 1_000_000}}) } else { json!({}) };
        lanes.push(Lane::new(rig.gateways[0].key(limits).await, rig.gateways[0].address));
    }
    // Made by one replica, and never seen by the other.
    for _ in 0..4 {
        unknown.push(rig.gateways[0].key(json!({})).await);
    }
    load::warm(&mut lanes).await;
    let began = Instant::now() + BEFORE;
    let end = began + duration;
    let noise = Noise::at(rig.gateways[0].address);
    let load = tokio::spawn(drive(lanes, dice.clone(), end + FIRST_SECOND));
    sleep(BEFORE).await;
    begin(rig, outage).await;
    sleep(Duration::from_millis(500)).await;
    ask_with_unknown_keys(&rig.gateways[1], &unknown, &noise, findings).await;
    let administration = rig.gateways[1].administer("GET", "/v1/api-keys", None).await;
    findings.require(administration.status == 503, || format!("administration answers {}", administration.status));
    sleep(end.saturating_duration_since(Instant::now())).await;
    let waiting = rig.gateways[0].metric("ai4free_spool_undrained_events", "").await;
    heal(rig, outage).await;
    let healed = Instant::now();
    let lanes = load.await.unwrap();
    let drained_in = tokio::time::timeout(2 * DRAINED, async {
        drained(&rig.gateways[0]).await;
        healed.elapsed()
    })
    .await
    .unwrap_or(2 * DRAINED);
    findings.figure(&name("rows_that_waited"), waiting);
    findings.figure(&name("rows_drained_per_second"), (waiting / drained_in.as_secs_f64()).round());
    findings.within(&name("drained"), DRAINED, drained_in);

    let journal = load::journal(&lanes);
    let failed: Vec<&&Sent> = journal.iter().filter(|sent| !sent.complete).collect();
    findings.figure(&name("requests"), journal.len());
    findings.exactly(&name("failed_requests"), 0, failed.len() as i128);
    failed.first().inspect(|sent| findings.violation(sent.failure.clone().unwrap_or_default()));
    let added =
        |from, to| noise::added_p99(&load::latencies(&journal), &noise.measured(), (began - BEFORE, began), (from, to));
    findings.within(&name("added_p99"), SLOWER, added(began + FIRST_SECOND, end));
    let at_first = added(began, began + FIRST_SECOND).as_millis();
    findings.figure(&name("added_p99_of_first_second_ms"), u64::try_from(at_first).unwrap());

    lanes
}

async fn drive(lanes: Vec<Lane>, dice: Dice, end: Instant) -> Vec<Lane> {
    load::drive_paced(lanes, &dice, PAUSE, move |dice, _| {
        let order = Order::mixed(dice);
        (Instant::now() < end).then_some(order)
    })
    .await
}

async fn begin(rig: &mut Rig<'_>, outage: Outage) {
    match outage {
        Outage::Hangs => rig.services.postgres.pause(),
        Outage::Dies => rig.services.postgres.kill().await,
        Outage::Blackhole => rig.to_postgres.set(Mode::Blackhole),
        Outage::Refuses => rig.to_postgres.set(Mode::Refuse),
    }
}

async fn heal(rig: &mut Rig<'_>, outage: Outage) {
    match outage {
        Outage::Hangs => rig.services.postgres.resume(),
        Outage::Dies => rig.services.postgres.start_again().await,
        Outage::Blackhole | Outage::Refuses => rig.to_postgres.set(Mode::Pass),
    }
}

/// Nobody can say whether they are good: never 401.
async fn ask_with_unknown_keys(gateway: &Gateway, keys: &[Key], noise: &Noise, findings: &mut Findings) {
    let mut slowest = Duration::ZERO;
    for key in keys {
        let asked = Instant::now();
        let reply: Reply = Request::chat(&key.text, &Order::plain(CHEAP).body()).send(gateway.address).await.unwrap();
        slowest = slowest.max(asked.elapsed());
        findings.require(reply.status == 503 && reply.retry_after().is_some(), || {
            format!("an unknown key was answered {} {}", reply.status, reply.text())
        });
    }
    findings.within("unknown_key_answered", UNKNOWN_KEY, slowest.saturating_sub(noise.worst()));
}
