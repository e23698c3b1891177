//! A gateway that starts before Postgres and Redis do.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{Lane, Order},
    rig::{catalogue::CHEAP, eventually::found_within},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P5",
    title: "a gateway starts without its stores, says so, and is ready within 5 s of their return, by itself",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const AWAY: Duration = Duration::from_secs(4);
const READY: Duration = Duration::from_secs(5);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut rig = stage.services.rig().start_without_gateways().await;
    rig.services.postgres.kill().await;
    rig.services.redis.kill().await;
    let mut gateway = rig.spawn_replica();
    sleep(AWAY).await;
    let ended = gateway.process.ended();
    findings.require(ended.is_none(), || format!("it ended with {ended:?}: {}", gateway.log()));
    findings.require(!gateway.log().contains("\"serving\""), || "it serves without a database".to_owned());

    rig.services.postgres.start_again().await;
    let returned = Instant::now();
    gateway.serving().await;
    findings.within("ready_after_postgres", READY, returned.elapsed());
    let readiness = gateway.readiness().await;
    findings.require(readiness["degraded"] == json!(["redis"]), || format!("Redis is away: {readiness}"));
    let mut unlimited = Lane::new(gateway.key(json!({})).await, gateway.address);
    let sent = unlimited.send(Order::plain(CHEAP)).await;
    findings.require(sent.complete, || format!("a key without limits: {:?}", sent.failure));

    rig.services.redis.start_again().await;
    let returned = Instant::now();
    let healed = found_within(2 * READY, || async {
        (gateway.readiness().await["degraded"] == Value::Null).then(|| returned.elapsed())
    })
    .await;
    findings.within("whole_after_redis", READY, healed.unwrap_or(2 * READY));
    let limits = json!({"limits": {"requests_per_minute": 1}});
    let mut limited = Lane::new(gateway.key(limits).await, gateway.address);
    let statuses = [limited.send(Order::plain(CHEAP)).await.status, limited.send(Order::plain(CHEAP)).await.status];
    findings.require(statuses == [Some(200), Some(429)], || format!("a limit of 1 answers {statuses:?}"));

    findings.exactly("restarts", 0, i128::from(gateway.process.ended().is_some()));
    rig.gateways.push(gateway);
    findings.exactly("charges", 2, rig.ledger().await.len() as i128);
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}
