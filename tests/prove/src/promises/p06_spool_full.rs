//! A journal that can't take more: its file may not grow, or it has reached its limit.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order, Sent},
    oracle::Reconciliation,
    rig::{Rig, catalogue::CHEAP, chaos::Mode, dice::Dice, gateway::Launcher, ledger},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P6",
    title: "a journal that is full refuses with 503 and never drops: nothing is served that is not accounted",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: usize = 8;
/// Of what `ulimit -f` counts, 512 bytes: a little more than the ballast's 4 MiB, and less than a segment's 8.
const BLOCKS: u32 = 8_200;
/// The least that may be configured.
const CAPACITY: u64 = 16 * 1024 * 1024;
/// The longest owner, so that records are large.
const OWNER: &str = "o";
const OWNER_LENGTH: usize = 255;
/// After the ledger has come back.
const SERVED_AGAIN: Duration = Duration::from_secs(10);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let dice = stage.dice();
    let is_full = stage.is_full();
    let services = stage.services;
    let script = format!("ulimit -f {BLOCKS}; exec \"$@\"");
    let launcher = Launcher { words: ["sh", "-c", &script, "sh"].map(str::to_owned).into() };
    let limited = services.rig().without_redis().launchers(vec![launcher]).start().await;
    fill(limited, "file_limit", 2_800, &dice, &mut findings).await;
    if !is_full {
        return findings;
    }
    let small =
        services.rig().without_redis().set("AI4FREE__USAGE__SPOOL_MAX_BYTES", &CAPACITY.to_string()).start().await;
    let refused = fill(small, "capacity", 24_000, &dice, &mut findings).await;
    findings.require(refused > 0, || "the journal was not filled".to_owned());
    findings
}

/// More than it can hold, while the ledger is away; then the ledger returns.
async fn fill(rig: Rig<'_>, how: &str, requests: usize, dice: &Dice, findings: &mut Findings) -> usize {
    let name = |figure: &str| format!("{how}_{figure}");
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(Lane::new(
            rig.gateways[0].key(json!({"user_id": OWNER.repeat(OWNER_LENGTH)})).await,
            rig.gateways[0].address,
        ));
    }
    load::warm(&mut lanes).await;
    rig.to_postgres.set(Mode::Refuse);
    let each = requests / LANES;
    let next = move |dice: &mut Dice, lane: &mut Lane| (lane.journal.len() < each).then(|| Order::mixed(dice));
    let mut lanes = load::drive(lanes, dice, next).await;
    let journal = load::journal(&lanes);
    let refusals: Vec<&&Sent> = journal.iter().filter(|sent| sent.status == Some(503)).collect();
    findings.figure(&name("requests"), journal.len());
    let refused = refusals.len();
    findings.figure(&name("refused"), refused);
    for sent in journal.iter().filter(|sent| !sent.complete) {
        findings.require(sent.status == Some(503) && sent.code == "accounting_unavailable", || {
            format!("neither served nor refused as it should be: {:?}", sent.failure)
        });
    }
    if !refusals.is_empty() {
        // One scrape tells.
        let told = rig.gateways[0].metric("ai4free_refusals_total", "accounting_unavailable").await;
        findings.require(told >= 1.0, || "no metric says that requests are refused".to_owned());
    }
    rig.to_postgres.set(Mode::Pass);
    let end = Instant::now() + SERVED_AGAIN;
    while !lanes[0].send(Order::plain(CHEAP)).await.complete {
        assert!(Instant::now() < end, "{how}: nothing is served although the ledger is back");
        sleep(Duration::from_millis(20)).await;
    }
    let events = rig.ledger().await;
    let reconciliation = Reconciliation::of(load::journal(&lanes), &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(findings);
    reconciliation.complete_ones_are_exact(findings);
    for difference in ledger::differences(&mut rig.session().await).await {
        findings.violation(difference);
    }
    findings.exactly("panics", 0, rig.finish().await as i128);
    refused
}
