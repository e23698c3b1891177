//! Spending a budget to its end, and beyond as far as the gateway lets one.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    findings::Findings,
    load::{self, Lane, Order, Sent},
    oracle::total_pico,
    rig::{Rig, catalogue::FIXED, dice::Dice, gateway::Key},
};

/// Of a request of the model `prove/fixed`, in pico-USD: a cent.
pub(crate) const COST: i128 = 10_000_000_000;
pub(crate) const USD: i128 = 1_000_000_000_000;
/// In which what somebody else was granted, and did not spend, comes back.
const COMES_BACK: Duration = Duration::from_secs(60);

/// Each lane asks until the budget is used up, or it has asked that often; a 503 means that it could not be asked.
pub(crate) async fn spend(lanes: Vec<Lane>, dice: &Dice, most: usize) -> Vec<Lane> {
    load::drive(lanes, dice, move |_, lane| {
        let is_refused = lane.journal.last().is_some_and(|sent| sent.status == Some(429));
        (!is_refused && lane.journal.len() < most).then(|| Order::plain(FIXED))
    })
    .await
}

/// Asks alone, again and again, until so many are served, or what is withheld should have come back; how many, and how long it
/// took.
pub(crate) async fn spend_what_comes_back(
    rig: &Rig<'_>,
    key: &Key,
    wanted: usize,
    findings: &mut Findings,
) -> (usize, Duration) {
    let (began, mut served) = (Instant::now(), 0);
    while served < wanted && began.elapsed() < COMES_BACK {
        let more = spend(Lane::sharing(key, rig, 1), &Dice::new(0), usize::MAX).await;
        served += count_served(&load::journal(&more), findings);
        if served < wanted {
            sleep(Duration::from_millis(300)).await;
        }
    }
    (served, began.elapsed())
}

/// Whoever was not served was told that the budget is used up, or that it could not be asked.
pub(crate) fn count_served(journal: &[&Sent], findings: &mut Findings) -> usize {
    let (served, refused): (Vec<&Sent>, Vec<&Sent>) = journal.iter().copied().partition(|sent| sent.complete);
    for sent in refused {
        let is_honest = match sent.status {
            Some(429) => sent.code == "insufficient_quota",
            Some(503) => sent.code.ends_with("_unavailable"),
            _ => false,
        };
        findings.require(is_honest, || format!("not the refusal of a budget: {:?} {:?}", sent.status, sent.failure));
    }
    served.len()
}

/// Whether every one of these was decided by the Redis that all replicas share.
pub(crate) fn was_shared(journal: &[&Sent]) -> bool {
    journal.iter().all(|sent| !sent.is_degraded && sent.status != Some(503))
}

pub(crate) async fn spent(rig: &Rig<'_>, key: &Key) -> i128 {
    let events = rig.ledger().await;
    total_pico(events.iter().filter(|event| event.key == key.id))
}

/// The whole budget is spent, and nothing more.
pub(crate) async fn is_spent_exactly(rig: &Rig<'_>, key: &Key, name: &str, budget: i128, findings: &mut Findings) {
    let spent = spent(rig, key).await;
    findings.exactly(name, budget, spent);
    if spent != budget {
        who_spent_what(rig, key, findings).await;
    }
}

/// For who has to find out why: what each holder was granted, and has spent, and how requests were decided.
pub(crate) async fn who_spent_what(rig: &Rig<'_>, key: &Key, findings: &mut Findings) {
    let mut session = rig.session().await;
    let grants = format!(
        "SELECT holder, granted_micro, settled_micro, closed FROM budget_window WHERE scope LIKE '%{}%' ORDER BY 1",
        key.id
    );
    let spending = format!(
        "SELECT spending, count(*), sum(cost_pico) / 1000000 FROM usage_event WHERE key_id = '{}' GROUP BY 1 ORDER BY 1",
        key.id
    );
    for (what, statement) in [("granted, settled, closed", grants), ("events, micro-USD", spending)] {
        let rows = session.query(&statement).await.unwrap();
        let rows =
            rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join(" "));
        findings.violation(format!("holder {what}: {}", rows.collect::<Vec<_>>().join("; ")));
    }
}

/// An exact decimal.
pub(crate) fn usd(pico: i128) -> String {
    format!("{}.{:012}", pico / USD, pico % USD)
}
