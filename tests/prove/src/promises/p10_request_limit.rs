//! More demand than limit over two replicas; no minute that begins anywhere holds more than the limit.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order, Sent},
    rig::{
        Builder, Rig,
        catalogue::{self, Model},
        dice::Dice,
    },
    upstream::UpstreamJournal,
};

pub(super) const PROMISE: Promise = Promise {
    id: "P10",
    title: "a request limit is exact over replicas: no interval of 60 s holds more, a burst admits exactly that many",
    company: Company::Patient,
    prove: |stage| prove(stage).boxed_local(),
};

const WINDOW: Duration = Duration::from_secs(60);
/// Long enough for the window to slide over more than one burst.
const SUSTAINED: Duration = Duration::from_secs(126);
const CLIENTS: usize = 25;
/// A settlement of a reservation whose outcome nobody knows.
const TAKEN_BACK: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(10);
/// The scopes in which one request counts at once. All closed, because a machine may be too busy for Redis to answer in time,
/// and what limits do then is another promise.
pub(super) const SETTINGS: &str = "
[plans.hundred]
requests_per_minute = 100
on_redis_down = \"closed\"
[plans.busy]
requests_per_minute = 120
on_redis_down = \"closed\"
[plans.large]
requests_per_minute = 150
on_redis_down = \"closed\"
[plans.small]
requests_per_minute = 50
on_redis_down = \"closed\"
[limits.users.team]
requests_per_minute = 130
on_redis_down = \"closed\"
[limits.models.\"prove/fixed\"]
requests_per_minute = 170
on_redis_down = \"closed\"
";

async fn prove(stage: Stage<'_>) -> Findings {
    let (sustained, dice) = (stage.is_full(), stage.dice());
    let builder = stage.services.rig().replicas(2).toml(SETTINGS);
    prove_over(builder, sustained, &dice).await
}

/// The same for replicas that something else is odd about.
pub(super) async fn prove_over(builder: Builder<'_>, sustained: bool, dice: &Dice) -> Findings {
    let mut findings = Findings::default();
    let rig = builder.start().await;
    burst_of_one_key(&rig, dice, &mut findings).await;
    burst_in_three_scopes(&rig, dice, &mut findings).await;
    if sustained {
        sustain(&rig, dice, &mut findings).await;
    }
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

async fn burst_of_one_key(rig: &Rig<'_>, dice: &Dice, findings: &mut Findings) {
    const LIMIT: usize = 100;
    let key = rig.gateways[0].key(json!({"plan": "hundred"})).await;
    let lanes = ask(Lane::sharing(&key, rig, CLIENTS), dice, catalogue::CHEAP).await;
    let journal = load::journal(&lanes);
    findings.figure("burst_demand", journal.len());
    findings.exactly("burst_admitted_of_100", LIMIT as i128, admitted(&journal).len() as i128);
    refusals_are_honest(&journal, findings);
}

/// A key of 150, an owner of 130 and a model of 170: the owner's other key takes what the first has left.
async fn burst_in_three_scopes(rig: &Rig<'_>, dice: &Dice, findings: &mut Findings) {
    let mut lanes = Vec::new();
    for plan in ["large", "small"] {
        let members = json!({"user_id": "team", "plan": plan});
        lanes.extend(Lane::sharing(&rig.gateways[0].key(members).await, rig, CLIENTS));
    }
    let of_others = Lane::sharing(&rig.gateways[0].key(json!({})).await, rig, CLIENTS);
    let lanes = ask(lanes, dice, catalogue::FIXED).await;
    let of_team = admitted(&load::journal(&lanes)).len();
    findings.exactly("burst_admitted_by_owner_of_130", 130, of_team as i128);
    let others = ask(of_others, dice, catalogue::FIXED).await;
    let in_all = of_team + admitted(&load::journal(&others)).len();
    findings.exactly("burst_admitted_by_model_of_170", 170, in_all as i128);
}

/// Much more than there is; and, so that nothing is left over by requests that Redis has answered too late, again when those are
/// taken back.
async fn ask(lanes: Vec<Lane>, dice: &Dice, model: Model) -> Vec<Lane> {
    let lanes = load::drive(lanes, dice, move |_, lane| (lane.journal.len() < 16).then(|| Order::plain(model))).await;
    if load::journal(&lanes).iter().all(|sent| sent.status != Some(503)) {
        return lanes;
    }
    sleep(TAKEN_BACK).await;
    load::drive(lanes, dice, move |_, lane| {
        let is_refused = lane.journal.last().is_some_and(|sent| sent.status == Some(429));
        (lane.journal.len() < 17 || !is_refused && lane.journal.len() < 60).then(|| Order::plain(model))
    })
    .await
}

/// A key that asks all the time, and one that asks twice as often as it may, evenly.
async fn sustain(rig: &Rig<'_>, dice: &Dice, findings: &mut Findings) {
    const LIMIT: usize = 120;
    let members = json!({"plan": "busy"});
    let (greedy, paced) = (rig.gateways[0].key(members.clone()).await, rig.gateways[0].key(members).await);
    let end = Instant::now() + SUSTAINED;
    let ask_on = |key, clients, pause: Duration| {
        let lanes: Vec<Lane> = Lane::sharing(key, rig, clients);
        load::drive_paced(lanes, dice, pause, move |_, _| {
            (Instant::now() < end).then(|| Order::plain(catalogue::CHEAP))
        })
    };
    let (greedy, paced) = tokio::join!(ask_on(&greedy, 4, PAUSE), ask_on(&paced, 2, Duration::from_millis(500)));
    let mut violations = 0;
    for (name, lanes) in [("greedy", &greedy), ("paced", &paced)] {
        let journal = load::journal(lanes);
        let (fullest, over) = fullest_minute(&admitted(&journal), &rig.upstream.journal, LIMIT);
        violations += over;
        findings.figure(&format!("{name}_admitted"), admitted(&journal).len());
        findings.figure(&format!("{name}_fullest_minute_of_120"), fullest);
    }
    findings.exactly("intervals_over_the_limit", 0, violations.into());
    // Of a client that always asks: one limit each 60 s, and at most the second into which a window is rounded.
    let journal = load::journal(&greedy);
    let mut starts: Vec<Instant> = admitted(&journal).iter().map(|sent| sent.ended).collect();
    starts.sort_unstable();
    let period = starts[2 * LIMIT].duration_since(starts[0]) / 2;
    let percent = u64::try_from(WINDOW.as_millis() * 1000 / period.as_millis()).unwrap();
    findings.figure("sustained_permille", percent);
    findings.require(percent >= 980, || format!("{LIMIT} requests took {period:?}"));
}

fn admitted<'a>(journal: &[&'a Sent]) -> Vec<&'a Sent> {
    journal.iter().copied().filter(|sent| sent.status == Some(200)).collect()
}

/// All intervals that begin with a request: how many requests the fullest surely holds, and how many hold too many. A request
/// was counted after its client had sent it and before the upstream saw it.
fn fullest_minute(admitted: &[&Sent], upstream: &UpstreamJournal, limit: usize) -> (usize, u32) {
    let served = upstream.all();
    let counted: Vec<(Instant, Instant)> =
        admitted.iter().map(|sent| (sent.started, served[&sent.order.proof].arrived)).collect();
    let (mut fullest, mut over) = (0, 0);
    for (start, _) in &counted {
        let inside = counted.iter().filter(|(from, to)| from >= start && *to <= *start + WINDOW).count();
        fullest = fullest.max(inside);
        over += u32::from(inside > limit);
    }
    (fullest, over)
}

fn refusals_are_honest(journal: &[&Sent], findings: &mut Findings) {
    for sent in journal.iter().filter(|sent| sent.status != Some(200)) {
        let is_honest = match sent.status {
            Some(429) => {
                sent.code == "rate_limit_exceeded"
                    && sent.retry_after.is_some_and(|seconds| (1..=61).contains(&seconds))
            }
            Some(503) => sent.code == "rate_limiter_unavailable" && sent.retry_after.is_some(),
            _ => false,
        };
        findings.require(is_honest, || format!("not the refusal of a limit: {:?}", sent.failure));
    }
}
