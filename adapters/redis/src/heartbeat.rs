use std::{collections::HashSet, time::Duration};

use fred::types::Value;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::Connections,
    keys::{self, Keys},
    open_leases::OpenLeases,
    unavailable::Unavailable,
};

/// How long the concurrency of a replica that died stays taken.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// Two may be lost.
const BEAT_EVERY: Duration = Duration::from_secs(5);
const BEATS_PER_PURGE: u32 = 6;
/// Keys in one call: short enough not to hold up the server.
const PART: usize = 64;

/// Keeps alive what this replica holds, and removes what it left behind, until `shutdown` is cancelled.
pub(crate) async fn run(connections: &Connections, keys: &Keys, open: &OpenLeases, shutdown: &CancellationToken) {
    let mut beats = interval(BEAT_EVERY);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Nothing is held before the others know of this replica, or nobody would miss it.
    shutdown.run_until_cancelled(connections.connected()).await;
    let mut count = 0_u32;
    loop {
        tokio::select! {
            _ = beats.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let mut outcome = beat(connections, keys, open).await;
        count = count.wrapping_add(1);
        if count.is_multiple_of(BEATS_PER_PURGE) && outcome.is_ok() {
            outcome = purge(connections, keys, open).await;
        }
        if let Err(error) = outcome {
            tracing::debug!(%error, "heartbeat of rate-limit leases failed");
        }
    }
}

/// One heartbeat of all open leases.
pub(crate) async fn beat(connections: &Connections, keys: &Keys, open: &OpenLeases) -> Result<(), Unavailable> {
    let leases = open.concurrency();
    let mut parts: Vec<_> = leases.chunks(PART).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let last = parts.len() - 1;
    for (index, part) in parts.into_iter().enumerate() {
        let arguments = || {
            let mut arguments = keys.arguments("H");
            arguments.keys.push(keys.replicas.clone());
            arguments.values.push(if index == last { "1" } else { "0" }.into());
            arguments.values.push((&*keys.replica).into());
            for (lease, key) in part {
                arguments.keys.push(key.clone());
                arguments.values.push(keys::lease(*lease).into());
            }
            arguments
        };
        connections.call::<Value>(arguments).await?;
    }
    Ok(())
}

/// Removes tombstones, and leases that an abandoned reservation or a lost settlement left open. Their windows are over, and
/// without a heartbeat so is their concurrency: all that they still hold is money, which is given back.
pub(crate) async fn purge(connections: &Connections, keys: &Keys, open: &OpenLeases) -> Result<(), Unavailable> {
    let mut cursor = "0".to_owned();
    loop {
        let arguments = || {
            let mut arguments = keys.arguments("P");
            arguments.values.push(cursor.as_str().into());
            arguments
        };
        let reply: Vec<String> = connections.call(arguments).await?;
        let [_, next, stale @ ..] = reply.as_slice() else { return Err(Unavailable::Reply) };
        let ours: HashSet<String> = open.ids().into_iter().map(keys::lease).collect();
        let strays: Vec<&String> = stale.iter().filter(|lease| !ours.contains(*lease)).collect();
        for part in strays.chunks(PART) {
            let arguments = || {
                let mut arguments = keys.arguments("S");
                arguments.values.push(0.into());
                for lease in part {
                    arguments.values.extend([lease.as_str().into(), "d".into(), 0.into(), 0.into(), "".into()]);
                }
                arguments.keys.push(keys.replicas.clone());
                arguments
            };
            connections.call::<Value>(arguments).await?;
        }
        if next == "0" {
            return Ok(());
        }
        cursor.clone_from(next);
    }
}
