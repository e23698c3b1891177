//! Keys are revoked while they are in use on two replicas, with Redis and without.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use serde_json::json;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{Lane, Order},
    rig::{
        Rig,
        catalogue::CHEAP,
        gateway::{Gateway, Key},
    },
};

pub(super) const PROMISE: Promise = Promise {
    id: "P16",
    title: "a revoked key is refused by every replica within 1 s, and never served again",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const AT_ONCE: usize = 16;
const EVERYWHERE: Duration = Duration::from_secs(1);
/// For how long after that the key is tried on.
const AFTERWARDS: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(25);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let revocations = usize::try_from(stage.count(32, 1_000)).unwrap();
    let rig = stage.services.rig().replicas(2).start().await;
    let with_redis = revoke(&rig, revocations / 2).await;
    rig.services.redis.kill().await;
    let without_redis = revoke(&rig, revocations / 2).await;
    rig.services.redis.start_again().await;
    for (name, revoked) in [("with_redis", with_redis), ("without_redis", without_redis)] {
        let late = revoked.iter().filter(|revoked| revoked.served_after > EVERYWHERE).count();
        let other: Vec<&Revoked> = revoked.iter().filter(|revoked| revoked.answered_otherwise.is_some()).collect();
        let mut lags: Vec<Duration> = revoked.iter().map(|revoked| revoked.served_after).collect();
        findings.figure(&format!("revocations_{name}"), lags.len());
        findings.spread(&format!("last_served_{name}"), &mut lags);
        findings.exactly(&format!("served_after_1_s_{name}"), 0, late as i128);
        findings.exactly(&format!("neither_served_nor_refused_{name}"), 0, other.len() as i128);
        other.first().inspect(|revoked| findings.violation(revoked.answered_otherwise.clone().unwrap()));
    }
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

struct Revoked {
    /// From the answer to the revocation to the last request that was still served, by its start.
    served_after: Duration,
    answered_otherwise: Option<String>,
}

async fn revoke(rig: &Rig<'_>, count: usize) -> Vec<Revoked> {
    let one = |number: usize| async move {
        let by = &rig.gateways[number % 2];
        let key = by.key(json!({})).await;
        revoke_one(by, [&rig.gateways[0], &rig.gateways[1]], key).await
    };
    stream::iter(0..count).map(one).buffer_unordered(AT_ONCE).collect().await
}

async fn revoke_one(by: &Gateway, replicas: [&Gateway; 2], key: Key) -> Revoked {
    let users = replicas.map(|replica| {
        let mut lane = Lane::new(key.clone(), replica.address);
        tokio::spawn(async move {
            let end = Instant::now() + EVERYWHERE + AFTERWARDS + Duration::from_millis(200);
            while Instant::now() < end {
                lane.send(Order::plain(CHEAP)).await;
                sleep(PAUSE).await;
            }
            lane
        })
    });
    sleep(Duration::from_millis(200)).await;
    let asked = Instant::now();
    by.revoke(&key).await;
    let revoked = Instant::now();
    let mut seen = Revoked { served_after: Duration::ZERO, answered_otherwise: None };
    for user in users {
        for sent in user.await.unwrap().journal {
            match sent.status {
                Some(200) => seen.served_after = seen.served_after.max(sent.started.saturating_duration_since(revoked)),
                // It is revoked before the answer to the revocation has come back.
                Some(401) if sent.ended >= asked => {}
                _ => seen.answered_otherwise = Some(format!("{sent:?}")),
            }
        }
    }
    seen
}
