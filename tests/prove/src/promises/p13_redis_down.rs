//! Redis hangs, dies, can't be reached or refuses to write, under load over two replicas; each limit does what it was told to.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    budget::{self, COST, usd},
    findings::{Findings, percentile},
    load::{self, Lane, Order, Sent},
    noise::{self, Noise},
    rig::{
        Rig,
        catalogue::{CHEAP, FIXED},
        chaos::Mode,
        dice::Dice,
    },
};

pub(super) const PROMISE: Promise = Promise {
    id: "P13",
    title: "while Redis is away, limits are closed, shared out or open, as configured, and nothing waits for it",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const PAUSE: Duration = Duration::from_millis(12);
const BEFORE: Duration = Duration::from_millis(1200);
/// A decision that finds Redis silent.
const FIRST: Duration = Duration::from_millis(150);
/// From the second second on.
const SLOWER: Duration = Duration::from_millis(5);
const RECOVERED: Duration = Duration::from_secs(2);
/// Of the key whose limit is shared out.
const SHARED: usize = 61;
const SETTINGS: &str = "
[cluster]
replicas = 2
[plans.closed]
requests_per_minute = 1000000
on_redis_down = \"closed\"
[plans.open]
requests_per_minute = 3
on_redis_down = \"open\"
[plans.shared]
requests_per_minute = 61
on_redis_down = \"local_share\"
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Hangs,
    Dies,
    Blackhole,
    /// Each connection hangs after its first words.
    Stalls,
    /// Slower than anybody may wait.
    Late,
    Resets,
    Closes,
    ReadOnly,
    OutOfMemory,
    /// Only its scripts are gone: no outage at all.
    ScriptFlush,
}

impl Fault {
    const ALL: [Self; 10] = [
        Self::Hangs,
        Self::Dies,
        Self::Blackhole,
        Self::Stalls,
        Self::Late,
        Self::Resets,
        Self::Closes,
        Self::ReadOnly,
        Self::OutOfMemory,
        Self::ScriptFlush,
    ];

    /// Of the link, where that is where it lies.
    fn of_link(self) -> Option<Mode> {
        match self {
            Self::Blackhole => Some(Mode::Blackhole),
            Self::Stalls => Some(Mode::StallAfter(64)),
            Self::Late => Some(Mode::Latency(Duration::from_millis(400))),
            Self::Resets => Some(Mode::Reset),
            Self::Closes => Some(Mode::Fin),
            Self::Hangs | Self::Dies | Self::ReadOnly | Self::OutOfMemory | Self::ScriptFlush => None,
        }
    }
}

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (dice, is_full) = (stage.dice(), stage.is_full());
    let (faults, seconds) = if is_full {
        (Fault::ALL.to_vec(), stage.count(3, 6))
    } else {
        (vec![Fault::Hangs, Fault::Dies, Fault::ScriptFlush], stage.count(3, 6))
    };
    let mut rig = stage.services.rig().replicas(2).toml(SETTINGS).start().await;
    let seconds = seconds.max(3);
    findings.figure("outage_seconds", seconds);
    for fault in faults {
        endure(&mut rig, fault, Duration::from_secs(seconds), &dice, &mut findings).await;
    }
    falter(&mut rig, &dice, &mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

async fn endure(rig: &mut Rig<'_>, fault: Fault, duration: Duration, dice: &Dice, findings: &mut Findings) {
    let name = |figure: &str| format!("{fault:?}_{figure}").to_lowercase();
    let mut lanes = Vec::new();
    for plan in ["unlimited", "closed", "open", "shared"] {
        let key = rig.gateways[0].key(json!({"plan": plan})).await;
        lanes.push(Lane::sharing(&key, rig, 2));
    }
    let [unlimited, closed, open, shared] = <[Vec<Lane>; 4]>::try_from(lanes).ok().unwrap();
    let mut always: Vec<Lane> = unlimited.into_iter().chain(closed).collect();
    load::warm(&mut always).await;
    let began = Instant::now() + BEFORE;
    let (broken, end) = (began + Duration::from_millis(100), began + duration);
    let healed = Arc::<OnceLock<Instant>>::default();
    let load = tokio::spawn({
        let (dice, healed, end) = (dice.clone(), healed.clone(), end + RECOVERED + Duration::from_millis(500));
        async move {
            load::drive_paced(always, &dice, PAUSE, move |_, lane| {
                let is_back =
                    |healed: &Instant| lane.journal.last().is_some_and(|sent| sent.complete && sent.started >= *healed);
                (Instant::now() < end && !healed.get().is_some_and(is_back)).then(|| Order::plain(CHEAP))
            })
            .await
        }
    });
    let noise = Noise::at(rig.gateways[0].address);
    sleep(began.saturating_duration_since(Instant::now())).await;
    begin(rig, fault).await;
    sleep(broken.saturating_duration_since(Instant::now())).await;
    let during = if fault == Fault::ScriptFlush {
        while Instant::now() < end {
            rig.services.redis.command(&["SCRIPT", "FLUSH"]).await;
            sleep(Duration::from_millis(100)).await;
        }
        None
    } else {
        let both = join_all([drive(shared, dice.clone(), end), drive(open, dice.clone(), end)]).await;
        sleep(end.saturating_duration_since(Instant::now())).await;
        Some(both)
    };
    heal(rig, fault).await;
    let healed = *healed.get_or_init(Instant::now);
    let always = load.await.unwrap();
    findings.figure(&name("noise_ms"), u64::try_from(noise.worst().as_millis()).unwrap());
    let of_key = |index: usize| load::journal(&always[2 * index..2 * index + 2]);

    let failed = of_key(0).into_iter().filter(|sent| !sent.complete).count();
    findings.exactly(&name("failed_without_limits"), 0, failed as i128);
    let (before, later) = ((began - BEFORE, began), (began + Duration::from_secs(1), end));
    let slower = noise::added_p99(&load::latencies(&of_key(0)), &noise.measured(), before, later);
    if fault != Fault::ScriptFlush {
        findings.within(&name("added_p99_without_limits"), SLOWER, slower);
    }

    let closed = of_key(1);
    if let Some(both) = during {
        check_closed(&closed, fault, (broken, end, healed), noise.worst(), findings);
        check_shared(&load::journal(&both[0]), &name, findings);
        let refused = load::journal(&both[1]).into_iter().filter(|sent| !sent.complete).count();
        findings.figure(&name("open_admitted_of_3"), load::journal(&both[1]).len() - refused);
        findings.exactly(&name("open_refused"), 0, refused as i128);
    } else {
        let failed = closed.iter().filter(|sent| !sent.complete).count();
        findings.exactly(&name("failed_with_a_limit"), 0, failed as i128);
    }
}

/// A budget while Redis answers now and then: replicas spend grants of their own in between, and all of them together never
/// more than the budget.
async fn falter(rig: &mut Rig<'_>, dice: &Dice, findings: &mut Findings) {
    const PAID: usize = 400;
    const CLIENTS: usize = 64;
    let key = rig.gateways[0].key(json!({"budget": {"amount_usd": usd(COST * PAID as i128), "window": "total"}})).await;
    let end = Instant::now() + Duration::from_secs(4);
    let spending = tokio::spawn({
        let (lanes, dice) = (Lane::sharing(&key, rig, CLIENTS), dice.clone());
        async move {
            let next = move |_: &mut Dice, _: &mut Lane| (Instant::now() < end).then(|| Order::plain(FIXED));
            load::drive_paced(lanes, &dice, PAUSE, next).await
        }
    });
    while Instant::now() < end {
        // Often just too late: what was given up arrives all the same, and what is asked next is answered.
        for (mode, milliseconds) in [(Mode::Pass, 150), (Mode::Latency(Duration::from_millis(200)), 130)] {
            rig.to_redis.set(mode);
            sleep(Duration::from_millis(milliseconds)).await;
        }
    }
    rig.to_redis.set(Mode::Pass);
    let lanes = spending.await.unwrap();
    let journal = load::journal(&lanes);
    let served = budget::count_served(&journal, findings);
    findings.figure("faltering_decided_without_redis", journal.iter().filter(|sent| sent.is_degraded).count());
    findings.figure("faltering_served_at_once_of_400", served);
    let (rest, stranded_for) = budget::spend_what_comes_back(rig, &key, PAID - served.min(PAID), findings).await;
    findings.figure("faltering_stranded_for_ms", u64::try_from(stranded_for.as_millis()).unwrap());
    findings.exactly("faltering_served_of_400", PAID as i128, (served + rest) as i128);
    budget::is_spent_exactly(rig, &key, "faltering_spent_pico_usd", COST * PAID as i128, findings).await;
}

/// 503 and when to come back, never 429, at once; and served again soon after.
fn check_closed(
    journal: &[&Sent],
    fault: Fault,
    (broken, end, healed): (Instant, Instant, Instant),
    noise: Duration,
    findings: &mut Findings,
) {
    let name = |figure: &str| format!("{fault:?}_closed_{figure}").to_lowercase();
    let during: Vec<&&Sent> =
        journal.iter().filter(|sent| (broken..end).contains(&sent.started) && sent.ended < end).collect();
    for sent in &during {
        let is_closed =
            sent.status == Some(503) && sent.retry_after.is_some() && sent.code == "rate_limiter_unavailable";
        findings.require(is_closed, || format!("{fault:?}: answered {:?} {:?}", sent.status, sent.failure));
    }
    findings.figure(&name("refused"), during.len());
    let slowest = during.iter().map(|sent| sent.took()).max().unwrap_or_default();
    findings.within(&name("slowest_refusal"), FIRST + noise, slowest);
    let mut later: Vec<Duration> =
        during.iter().filter(|sent| sent.started > broken + Duration::from_secs(1)).map(|sent| sent.took()).collect();
    later.sort_unstable();
    findings.within(&name("refusal_once_known_p50"), SLOWER + noise / 4, percentile(&later, 50));
    let again = journal.iter().filter(|sent| sent.complete && sent.started >= healed).map(|sent| sent.ended).min();
    let recovered = again.map_or(2 * RECOVERED, |at| at.duration_since(healed));
    findings.within(&name("recovered"), RECOVERED, recovered);
}

/// Each replica admits its share, 30 of 61; one of them may take the odd one.
fn check_shared(journal: &[&Sent], name: &impl Fn(&str) -> String, findings: &mut Findings) {
    let admitted = journal.iter().filter(|sent| sent.complete).count();
    findings.figure(&name("shared_demand"), journal.len());
    findings.figure(&name("shared_admitted_of_61"), admitted);
    findings.require((SHARED - 1..=SHARED).contains(&admitted), || {
        format!("two replicas admitted {admitted} together, of a limit of {SHARED} that they share out")
    });
    let is_refusal = |sent: &&&Sent| !sent.complete && sent.status != Some(429);
    if let Some(sent) = journal.iter().find(is_refusal) {
        findings.violation(format!("a limit that is shared out answers {:?}", sent.failure));
    }
}

async fn drive(lanes: Vec<Lane>, dice: Dice, end: Instant) -> Vec<Lane> {
    load::drive_paced(lanes, &dice, PAUSE, move |_, _| (Instant::now() < end).then(|| Order::plain(CHEAP))).await
}

async fn begin(rig: &mut Rig<'_>, fault: Fault) {
    if let Some(mode) = fault.of_link() {
        rig.to_redis.set(mode);
    }
    let redis = &mut rig.services.redis;
    match fault {
        Fault::Hangs => redis.pause(),
        Fault::Dies => redis.kill().await,
        Fault::ReadOnly => redis.set(&["REPLICAOF", "127.0.0.1", "1"]).await,
        Fault::OutOfMemory => redis.set(&["CONFIG", "SET", "maxmemory", "1"]).await,
        _ => {}
    }
}

async fn heal(rig: &mut Rig<'_>, fault: Fault) {
    rig.to_redis.set(Mode::Pass);
    let redis = &mut rig.services.redis;
    match fault {
        Fault::Hangs => redis.resume(),
        Fault::Dies => redis.start_again().await,
        Fault::ReadOnly => redis.set(&["REPLICAOF", "NO", "ONE"]).await,
        Fault::OutOfMemory => redis.set(&["CONFIG", "SET", "maxmemory", "0"]).await,
        _ => {}
    }
}
