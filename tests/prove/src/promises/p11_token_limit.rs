//! Tokens are reserved at their bound before the upstream is called, and settled to what was used.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order},
    rig::{
        catalogue::{CHEAP, Usage},
        client::Request,
    },
    upstream::Script,
};

pub(super) const PROMISE: Promise = Promise {
    id: "P11",
    title: "a token limit holds over replicas, refuses nobody while there is room, and says when a request never fits",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const CLIENTS: usize = 16;
const LIMIT: i64 = 60_000;
/// Closed, because a machine may be too busy for Redis to answer in time.
const SETTINGS: &str = "
[plans.tokens]
tokens_per_minute = 60000
on_redis_down = \"closed\"
";
const CAP: u64 = 400;
/// A window is a minute: what is settled is counted while it is open.
const MOST: Duration = Duration::from_secs(45);
/// After which what has ended is settled in Redis.
const SETTLED: Duration = Duration::from_millis(50);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (rounds, dice) = (stage.count(1, 2), stage.dice());
    let rig = stage.services.rig().replicas(2).toml(SETTINGS).start().await;
    let mut unused_at_worst = 0;
    for round in 0..rounds {
        let key = rig.gateways[0].key(json!({"plan": "tokens"})).await;
        let started = std::time::Instant::now();
        // Each asks until it was refused thrice in a row: what is settled meanwhile makes room again.
        let lanes = load::drive(Lane::sharing(&key, &rig, CLIENTS), &dice.split(round), |dice, lane| {
            let refused = lane.journal.iter().rev().take_while(|sent| sent.is_refused()).count();
            (refused < 3 && lane.journal.len() < 500).then(|| capped(dice.within(0..CAP)))
        })
        .await;
        // Nobody else is there: what is left is less than one request may need.
        let mut last = Lane::new(key.clone(), rig.gateways[0].address);
        // Nor is a refund on its way to Redis.
        let mut refusals = 0;
        while started.elapsed() < MOST && refusals < 5 {
            match last.send(capped(CAP - 1)).await.status {
                Some(429) => {
                    refusals += 1;
                    tokio::time::sleep(SETTLED).await;
                }
                _ => refusals = 0,
            }
        }
        let largest_bound = i64::try_from(CAP).unwrap() + i64::try_from(capped(CAP).body().to_string().len()).unwrap();
        let settled: i64 = load::journal(&lanes)
            .into_iter()
            .chain(&last.journal)
            .filter(|sent| sent.status == Some(200))
            .map(|sent| sent.order.usage.tokens())
            .sum();
        findings.require(settled <= LIMIT, || format!("{settled} tokens were settled in one window, over {LIMIT}"));
        findings.require(LIMIT - settled < largest_bound, || {
            format!(
                "refused although {} tokens were left and no request needs more than {largest_bound}",
                LIMIT - settled
            )
        });
        unused_at_worst = unused_at_worst.max(LIMIT - settled);
    }
    findings.figure("limit", LIMIT);
    findings.figure("left_when_refused_at_worst", unused_at_worst);

    let key = rig.gateways[0].key(json!({"limits": {"tokens_per_minute": 300}})).await;
    let reply = Request::chat(&key.text, &capped(10).body()).send(rig.gateways[1].address).await.unwrap();
    let told = (reply.status, reply.code());
    findings.figure("larger_than_the_limit", format!("{} {}", told.0, told.1));
    findings.require(told == (400, "request_exceeds_limit".to_owned()), || reply.text());
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// Uses some of what it may.
fn capped(output: u64) -> Order {
    let usage = Usage { input: 9, output: output.try_into().unwrap(), ..Usage::default() };
    let mut order = Order::new(CHEAP, usage, Script::reporting(2, usage.on_the_wire()));
    order.max_tokens = Some(CAP);
    order
}
