//! A journal that can't take more: its file may not grow, or it has reached its limit.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order},
    oracle::Reconciliation,
    rig::{Rig, catalogue::CHEAP, chaos::Mode, dice::Dice, gateway::Launcher},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P6",
    title: "a journal that is full refuses with 503, or serves what has no budget and says so; it never drops silently",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: usize = 12;
/// How often each client finds the journal full, and how often it asks at most.
const FULL: usize = 10;
const MOST: usize = 1_000;
/// Of what `ulimit -f` counts, 512 bytes: half of a segment.
const BLOCKS: u32 = 256;
/// The least that may be configured.
const CAPACITY: u64 = 1024 * 1024;
/// The longest owner, so that records are large.
const OWNER: &str = "o";
const OWNER_LENGTH: usize = 255;
/// After the ledger has come back.
const SERVED_AGAIN: Duration = Duration::from_secs(10);

/// What is to become of requests that the journal refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenFull {
    Reject,
    AllowUnmetered,
}

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let dice = stage.dice();
    let services = stage.services;
    for (how, policy) in [("reject", WhenFull::Reject), ("allow_unmetered", WhenFull::AllowUnmetered)] {
        let mut small = services.rig().without_redis().set("AI4FREE__USAGE__SPOOL_MAX_BYTES", &CAPACITY.to_string());
        small = small.set("AI4FREE__USAGE__WHEN_FULL", how);
        if policy == WhenFull::Reject {
            // No file may grow to what a segment may have. Nor may the log, which has to have room for panics.
            let script = format!("ulimit -f {BLOCKS}; exec \"$@\"");
            let launcher = Launcher { words: ["sh", "-c", &script, "sh"].map(str::to_owned).into() };
            small = small.set("RUST_LOG", "info,ai4free::request=off").launchers(vec![launcher]);
        }
        let full = fill(small.start().await, how, policy, &dice, &mut findings).await;
        findings.require(full > 0, || format!("{how}: the journal was not filled"));
    }
    findings
}

/// More than it can hold, while the ledger is away, until each client has found it full; then the ledger returns. How many
/// requests found it full.
async fn fill(rig: Rig<'_>, how: &str, policy: WhenFull, dice: &Dice, findings: &mut Findings) -> usize {
    let name = |figure: &str| format!("{how}_{figure}");
    let gateway = &rig.gateways[0];
    let mut lanes = Vec::new();
    for number in 0..LANES {
        let mut members = json!({"user_id": OWNER.repeat(OWNER_LENGTH)});
        // What spends of a budget is refused whatever the policy.
        if number == LANES - 1 && policy == WhenFull::AllowUnmetered {
            members["budget"] = json!({"amount_usd": "1000000", "window": "total"});
        }
        lanes.push(Lane::new(gateway.key(members).await, gateway.address));
    }
    let with_budget = (policy == WhenFull::AllowUnmetered).then(|| lanes[LANES - 1].key.id.clone());
    load::warm(&mut lanes).await;
    rig.to_postgres.set(Mode::Refuse);
    let next = |dice: &mut Dice, lane: &mut Lane| {
        let found_full = lane.journal.iter().filter(|sent| sent.status == Some(503) || sent.is_unmetered).count();
        (found_full < FULL && lane.journal.len() < MOST).then(|| Order::mixed(dice))
    };
    let mut lanes = load::drive(lanes, dice, next).await;
    let journal = load::journal(&lanes);
    let refused = journal.iter().filter(|sent| sent.status == Some(503)).count();
    let unmetered = journal.iter().filter(|sent| sent.is_unmetered).count();
    findings.figure(&name("requests"), journal.len());
    findings.figure(&name("refused"), refused);
    for sent in journal.iter().filter(|sent| !sent.complete) {
        let may_be = policy == WhenFull::Reject || with_budget.as_ref() == Some(&sent.key);
        let is_refusal = sent.status == Some(503) && sent.code == "accounting_unavailable";
        findings.require(may_be && is_refusal, || format!("neither served nor refused as it should be: {sent:?}"));
    }
    if refused + unmetered > 0 {
        // One scrape tells, and so does who is asked for readiness.
        let told = gateway.metric("ai4free_refusals_total", "accounting_unavailable").await;
        findings.exactly(&name("refusals_that_a_metric_tells"), refused as i128, told as i128);
        let (is_ready, readiness) = (gateway.is_ready().await, gateway.readiness().await);
        let says = match policy {
            WhenFull::Reject => !is_ready && readiness["reasons"] == json!(["spool"]),
            WhenFull::AllowUnmetered => is_ready && readiness["degraded"].to_string().contains("\"spool\""),
        };
        findings.require(says, || format!("{how}: readiness is {readiness}"));
    }
    let told = gateway.metric("ai4free_unmetered_requests_total", "").await;
    findings.exactly(&name("served_without_a_row_that_a_metric_tells"), unmetered as i128, told as i128);
    rig.to_postgres.set(Mode::Pass);
    let end = Instant::now() + SERVED_AGAIN;
    for lane in [0, LANES - 1] {
        loop {
            let sent = lanes[lane].send(Order::plain(CHEAP)).await;
            if sent.complete && !sent.is_unmetered {
                break;
            }
            assert!(Instant::now() < end, "{how}: nothing is accounted although the ledger is back");
            sleep(Duration::from_millis(20)).await;
        }
    }
    let events = rig.ledger().await;
    let journal = load::journal(&lanes);
    // What said that it may have no row has none: it would be a charge that nobody asked for.
    let metered = journal.iter().copied().filter(|sent| !sent.is_unmetered);
    let reconciliation = Reconciliation::of(metered, &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(findings);
    reconciliation.complete_ones_are_exact(findings);
    rig.check_ledger(findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    refused + unmetered
}
