//! What replicas that died left behind.
//!
//! The concurrency that they held expires by itself, and their rates leave the window. The money that they reserved would stay
//! reserved until its window ends. So whoever finds a replica silent gives its leases up: what they reserved counts as used,
//! and nothing is outstanding. If the replica was only asleep, its settlements still apply, each once. If it was not, whoever
//! has its journal knows what its requests were charged, and tells: see [`crate::RedisRateLimiter::take_over`].
//!
//! If the journal is lost with its volume, nobody can tell: its open requests have no row in the ledger, and their budgets
//! have been charged all that was reserved for them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    budget::Holder, money::PicoUsdSum, rate_limiter::LeaseId, request::RequestId, usage_journal::Fate,
    usage_ledger::UsageEvent,
};
use fred::types::{Key, Value};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    connection::Connections,
    keys::{self, Keys},
    money,
    reservation::count,
    unavailable::Unavailable,
};

/// A replica that has not been heard of for so long is taken to be dead: twelve heartbeats.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// In milliseconds: a beat in this very moment is less.
const ANY_SILENCE: i64 = -1;
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Leases that are charged in one call: short enough not to hold up the server.
const PART: usize = 16;

/// A lease that was given up, of which nobody has said yet what its request was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub lease: LeaseId,
    /// Who held it.
    replica: Arc<str>,
}

/// What is known of the end of a replica.
#[derive(Clone, Copy)]
pub(crate) enum Death {
    /// It is silent.
    Supposed,
    /// It is dead, and its last commands may still be on their way.
    Sudden,
    /// All its commands have been answered.
    Orderly,
}

/// Looks for the dead, and counts.
#[derive(Default)]
pub(crate) struct Undertaker {
    given_up: AtomicU64,
}

impl Undertaker {
    /// How many leases were given up here, since the start.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Gives up what replicas hold that fell silent. Never ends.
    pub(crate) async fn run(&self, connections: &Connections, keys: &Keys) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        connections.connected().await;
        loop {
            looks.tick().await;
            if let Err(error) = self.look(connections, keys).await {
                tracing::debug!(%error, "can't look for replicas that died");
            }
        }
    }

    /// Gives up what replicas hold that are silent now.
    pub(crate) async fn look(&self, connections: &Connections, keys: &Keys) -> Result<(), Unavailable> {
        for name in names(connections, keys).await?.into_iter().filter(|name| name.is_silent) {
            if *name.replica != *keys.replica {
                let count = self.bury(connections, keys, &name.replica, Death::Supposed).await?;
                tracing::warn!(replica = %name.replica, leases = count, "a replica is silent: what it reserved counts as used");
            }
        }
        Ok(())
    }

    /// Gives up what a replica holds: how many leases.
    pub(crate) async fn bury(
        &self,
        connections: &Connections,
        keys: &Keys,
        replica: &str,
        known: Death,
    ) -> Result<i64, Unavailable> {
        let (mut cursor, mut count) = ("0".to_owned(), 0_i64);
        loop {
            let arguments = || {
                let mut arguments = keys.arguments("D");
                arguments.keys.extend([keys.replicas.clone(), keys.given_up.clone(), keys.leases_of(replica)]);
                let (touched, forgotten) = match known {
                    Death::Supposed => (millis(SILENCE), millis(SILENCE)),
                    Death::Sudden => (ANY_SILENCE.into(), millis(SILENCE)),
                    Death::Orderly => (ANY_SILENCE.into(), ANY_SILENCE.into()),
                };
                let cursor = cursor.as_str().into();
                arguments.values.extend([replica.into(), touched, cursor, count.into(), forgotten]);
                arguments
            };
            let (_, next, total): (i64, String, i64) = connections.call(arguments).await?;
            self.given_up.fetch_add(u64::try_from(total - count).unwrap_or(0), Ordering::Relaxed);
            if next == "0" {
                return Ok(total);
            }
            (cursor, count) = (next, total);
        }
    }

    /// Gives up what the other lives of a family hold, all of which are dead. All their leases that nobody has charged.
    pub(crate) async fn take_over(
        &self,
        connections: &Connections,
        keys: &Keys,
        family: &str,
    ) -> Result<Vec<GivenUp>, Unavailable> {
        let mut given_up = Vec::new();
        let names = names(connections, keys).await?;
        let lives: BTreeSet<Arc<str>> = names.into_iter().map(|name| name.replica).collect();
        for replica in lives.into_iter().filter(|name| is_life_of(name, family) && **name != *keys.replica) {
            self.bury(connections, keys, &replica, Death::Sudden).await?;
            list(connections, keys, &replica, &mut given_up).await?;
        }
        Ok(given_up)
    }
}

/// Settles leases that were given up, each once. Those of requests that are not among `fates` are left as they are.
pub(crate) async fn charge(
    connections: &Connections,
    keys: &Keys,
    leases: &[GivenUp],
    fates: &HashMap<RequestId, Fate>,
) -> Result<(), Unavailable> {
    let known: Vec<(&GivenUp, &Fate)> =
        leases.iter().filter_map(|given_up| Some((given_up, fates.get(&given_up.lease.request)?))).collect();
    for of_one in known.chunk_by(|(one, _), (other, _)| one.replica == other.replica) {
        for part in of_one.chunks(PART) {
            let arguments = || {
                let mut arguments = keys.arguments("C");
                arguments.keys.extend(part.first().map(|(given_up, _)| keys.leases_of(&given_up.replica)));
                for (given_up, fate) in part {
                    arguments.values.push(keys::lease(given_up.lease).into());
                    let Fate::Charged(events) = fate else {
                        arguments.values.push((-1).into());
                        continue;
                    };
                    let charges = charges(keys, events);
                    arguments.values.push(count(charges.len()).into());
                    for (budget, charged) in charges {
                        arguments.keys.push(budget);
                        arguments.values.extend(money::limbs(charged).map(Value::from));
                    }
                }
                arguments
            };
            connections.call::<Value>(arguments).await?;
        }
    }
    Ok(())
}

/// What shared budgets were charged.
fn charges(keys: &Keys, events: &[UsageEvent]) -> HashMap<Key, PicoUsdSum> {
    let mut charges = HashMap::<Key, PicoUsdSum>::new();
    for event in events {
        for spending in &event.spending {
            if let Holder::Shared(epoch) = spending.holder {
                let key = keys.budget_from(epoch, &spending.scope, spending.window);
                charges.entry(key).or_default().0 += i128::from(event.cost.0);
            }
        }
    }
    charges
}

struct Name {
    replica: Arc<str>,
    is_silent: bool,
}

/// All replicas that live, and those that left leases behind.
async fn names(connections: &Connections, keys: &Keys) -> Result<Vec<Name>, Unavailable> {
    let arguments = || {
        let mut arguments = keys.arguments("N");
        arguments.keys.extend([keys.replicas.clone(), keys.given_up.clone()]);
        arguments.values.push(millis(SILENCE));
        arguments
    };
    let reply: Vec<String> = connections.call(arguments).await?;
    let name = |pair: &[String]| match pair {
        [replica, flag] => Ok(Name { replica: replica.as_str().into(), is_silent: flag == "1" }),
        _ => Err(Unavailable::Reply),
    };
    reply.chunks(2).map(name).collect()
}

/// The leases of a replica that were given up and that nobody has charged.
async fn list(
    connections: &Connections,
    keys: &Keys,
    replica: &Arc<str>,
    found: &mut Vec<GivenUp>,
) -> Result<(), Unavailable> {
    let mut cursor = "0".to_owned();
    loop {
        let arguments = || {
            let mut arguments = keys.arguments("L");
            arguments.keys.push(keys.leases_of(replica));
            arguments.values.push(cursor.as_str().into());
            arguments
        };
        let reply: Vec<String> = connections.call(arguments).await?;
        let [next, leases @ ..] = reply.as_slice() else { return Err(Unavailable::Reply) };
        let leases = leases.iter().filter_map(|lease| keys::parse_lease(lease));
        found.extend(leases.map(|lease| GivenUp { lease, replica: replica.clone() }));
        if next == "0" {
            return Ok(());
        }
        cursor.clone_from(next);
    }
}

/// Replicas are named after their family, which is their journal, and their life.
fn is_life_of(replica: &str, family: &str) -> bool {
    replica.rsplit_once('.').is_some_and(|(of, _)| of == family)
}

fn millis(duration: Duration) -> Value {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).into()
}
