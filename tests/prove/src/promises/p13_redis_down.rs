//! Redis hangs, dies, can't be reached or refuses to write, under load over two replicas; each limit does what it was told to.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use tokio::time::sleep;

use super::{Promise, Stage};
use crate::{
    findings::{Findings, percentile},
    load::{self, Lane, Order, Sent},
    rig::{Rig, catalogue::CHEAP, chaos::Mode, client::Request, dice::Dice},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P13",
    title: "while Redis is away, limits are closed, shared out or open, as configured, and nothing waits for it",
    mostly_waits: false,
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
const PLANS: &str = "
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
    /// Each connection hangs after some kilobytes.
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
            Self::Stalls => Some(Mode::StallAfter(4_000)),
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
        (Fault::ALL.to_vec(), stage.count(3, 10))
    } else {
        (vec![Fault::Hangs, Fault::Dies, Fault::ScriptFlush], stage.count(3, 10))
    };
    let mut rig = stage.services.rig().replicas(2).toml(PLANS).start().await;
    findings.figure("outage_seconds", seconds);
    for fault in faults {
        endure(&mut rig, fault, Duration::from_secs(seconds), &dice, &mut findings).await;
    }
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
    let load = tokio::spawn(drive(always, dice.clone(), end + RECOVERED + Duration::from_millis(500)));
    let control = tokio::spawn(slowest_answer_without_redis(rig.gateways[0].address, end));
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
    let healed = Instant::now();
    let always = load.await.unwrap();
    let noise = control.await.unwrap();
    findings.figure(&name("noise_ms"), u64::try_from(noise.as_millis()).unwrap());
    let of_key = |index: usize| load::journal(&always[2 * index..2 * index + 2]);

    let failed = of_key(0).into_iter().filter(|sent| !sent.complete).count();
    findings.exactly(&name("failed_without_limits"), 0, failed as i128);
    let slower = load::typical_p99(&of_key(0), began + Duration::from_secs(1), end).saturating_sub(load::typical_p99(
        &of_key(0),
        began - BEFORE,
        began,
    ));
    findings.within(&name("added_p99_without_limits"), SLOWER, slower);

    let closed = of_key(1);
    if let Some(both) = during {
        check_closed(&closed, fault, (broken, end, healed), noise, findings);
        check_shared(&load::journal(&both[0]), &name, findings);
        let refused = load::journal(&both[1]).into_iter().filter(|sent| !sent.complete).count();
        findings.figure(&name("open_admitted_of_3"), load::journal(&both[1]).len() - refused);
        findings.exactly(&name("open_refused"), 0, refused as i128);
    } else {
        let failed = closed.iter().filter(|sent| !sent.complete).count();
        findings.exactly(&name("failed_with_a_limit"), 0, failed as i128);
    }
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
    findings.within(&name("refusal_once_known_p50"), SLOWER, percentile(&later, 50));
    let again = journal.iter().filter(|sent| sent.complete && sent.started >= healed).map(|sent| sent.ended).min();
    let recovered = again.map_or(2 * RECOVERED, |at| at.duration_since(healed));
    findings.within(&name("recovered"), RECOVERED, recovered);
    let relapsed = journal.iter().filter(|sent| sent.started > healed + RECOVERED && !sent.complete).count();
    findings.exactly(&name("refused_after_recovery"), 0, relapsed as i128);
}

/// Each replica admits its share, all of them the limit: with two and 61, one admits 30 and the other 31.
fn check_shared(journal: &[&Sent], name: &impl Fn(&str) -> String, findings: &mut Findings) {
    let admitted = journal.iter().filter(|sent| sent.complete).count();
    findings.figure(&name("shared_demand"), journal.len());
    findings.exactly(&name("shared_admitted_of_61"), SHARED as i128, admitted as i128);
    let is_refusal = |sent: &&&Sent| !sent.complete && sent.status != Some(429);
    if let Some(sent) = journal.iter().find(is_refusal) {
        findings.violation(format!("a limit that is shared out answers {:?}", sent.failure));
    }
}

async fn drive(lanes: Vec<Lane>, dice: Dice, end: Instant) -> Vec<Lane> {
    load::drive_paced(lanes, &dice, PAUSE, move |_, _| (Instant::now() < end).then(|| Order::plain(CHEAP))).await
}

/// How long this machine, busy as it is, takes for next to nothing.
async fn slowest_answer_without_redis(gateway: std::net::SocketAddr, end: Instant) -> Duration {
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let asked = Instant::now();
        Request::new("GET", "/livez").send(gateway).await.unwrap();
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
    slowest
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
