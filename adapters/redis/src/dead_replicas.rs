//! What replicas that died left behind.
//!
//! The concurrency that they held expires by itself, and their rates leave the window. The money that they reserved would stay
//! reserved until its window ends. So whoever finds a replica silent gives its leases up: what they reserved counts as used,
//! and nothing is outstanding. If the replica was only asleep, its settlements still apply, each once. If it was not, whoever
//! has its journal knows what its requests were charged, and tells: see [`crate::RedisRateLimiter::take_over`].
//!
//! The journal may be lost with its volume, and perhaps that turns up later. So the ledger is told what Redis remembers: the
//! copies of what was settled, as the charges that they are, and a hold of each lease that was open. It takes no event twice,
//! and releases a hold when the charge comes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    budget::Holder,
    money::PicoUsdSum,
    rate_limiter::LeaseId,
    request::RequestId,
    usage_journal::Fate,
    usage_ledger::{Recovered, Remains, SpoolId, UsageEvent, UsageLedger},
};
use fred::types::{Key, Value};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use crate::{
    connection::Connections,
    copies::{forget, mark_held},
    keys::{self, Keys},
    money,
    reservation::count,
    stored_event,
    unavailable::Unavailable,
};

/// A replica that has not been heard of for so long is taken to be dead: twelve heartbeats.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// In milliseconds: a beat in this very moment is less.
const ANY_SILENCE: i64 = -1;
/// The cursor of a scan, before its first page and after its last.
const FIRST_PAGE: &str = "0";
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Leases that are charged in one call: short enough not to hold up the server.
const PART: usize = 16;
/// Leases that the ledger is told of at once: it takes 500 events, and few requests have more than one.
const TOLD_AT_ONCE: usize = 32;

/// A lease that was given up, of which nobody has said yet what its request was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub lease: LeaseId,
    /// Who held it.
    replica: Arc<str>,
    /// What the ledger is to hold of it.
    hold: Option<UsageEvent>,
    is_held: bool,
}

/// A lease whose end Redis knows.
struct Copy {
    lease: LeaseId,
    events: Vec<UsageEvent>,
}

/// Redis, and the ledger that is told what Redis remembers.
#[derive(Clone, Copy)]
pub(crate) struct Stores<'a> {
    pub(crate) connections: &'a Connections,
    pub(crate) keys: &'a Keys,
    pub(crate) ledger: &'a dyn UsageLedger,
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
    pub(crate) async fn run(&self, stores: Stores<'_>) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        stores.connections.connected().await;
        loop {
            looks.tick().await;
            if let Err(error) = self.look(stores).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "can't look after replicas that died");
            }
        }
    }

    /// Gives up what replicas hold that are silent now, and tells the ledger.
    pub(crate) async fn look(&self, stores: Stores<'_>) -> Result<(), Unavailable> {
        let Stores { connections, keys, .. } = stores;
        for name in names(connections, keys).await?.into_iter().filter(|name| name.is_silent) {
            if *name.replica != *keys.replica {
                let count = self.bury(connections, keys, &name.replica, Death::Supposed).await?;
                if count > 0 {
                    tracing::warn!(replica = %name.replica, leases = count, "a replica is silent: what it reserved counts as used");
                }
                let mut cursor = FIRST_PAGE.to_owned();
                while let Some((_, copies)) = page(connections, keys, &name.replica, &mut cursor).await? {
                    bring(stores, &name.replica, &copies).await?;
                }
                // Only then: of a request with several leases, a copy that comes later would release what is held of another.
                let mut cursor = FIRST_PAGE.to_owned();
                while let Some((given_up, _)) = page(connections, keys, &name.replica, &mut cursor).await? {
                    hold(stores, &name.replica, &given_up).await?;
                }
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
        let (mut cursor, mut count, mut untold) = ("0".to_owned(), 0_i64, 0_i64);
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
                arguments.values.extend([replica.into(), touched, cursor, count.into(), forgotten, untold.into()]);
                arguments
            };
            let (_, next, total, of_them): (i64, String, i64, i64) = connections.call(arguments).await?;
            self.given_up.fetch_add(u64::try_from(total - count).unwrap_or(0), Ordering::Relaxed);
            if next == "0" {
                return Ok(total);
            }
            (cursor, count, untold) = (next, total, of_them);
        }
    }

    /// Gives up what the other lives of a family hold, all of which are dead, and tells the ledger what was settled. All their
    /// leases that nobody has charged.
    pub(crate) async fn take_over(&self, stores: Stores<'_>, family: &str) -> Result<Vec<GivenUp>, Unavailable> {
        let Stores { connections, keys, .. } = stores;
        let mut all = Vec::new();
        let names = names(connections, keys).await?;
        let lives: BTreeSet<Arc<str>> = names.into_iter().map(|name| name.replica).collect();
        for replica in lives.into_iter().filter(|name| is_life_of(name, family) && **name != *keys.replica) {
            self.bury(connections, keys, &replica, Death::Sudden).await?;
            let mut cursor = FIRST_PAGE.to_owned();
            while let Some((given_up, copies)) = page(connections, keys, &replica, &mut cursor).await? {
                all.extend(given_up);
                if let Err(error) = bring(stores, &replica, &copies).await {
                    // Nothing waits for it: the journal has them, too.
                    tracing::debug!(error = &error as &dyn std::error::Error, "copies of usage wait for the next look");
                }
            }
        }
        Ok(all)
    }
}

/// Tells the ledger what was settled.
async fn bring(stores: Stores<'_>, replica: &str, copies: &[Copy]) -> Result<(), Unavailable> {
    for part in copies.chunks(TOLD_AT_ONCE) {
        let charges = part.iter().flat_map(|copy| copy.events.iter().cloned()).collect();
        let told =
            tell_ledger(stores.ledger, replica, Remains { charges, ..Remains::default() }, Duration::ZERO).await?;
        if told.is_some() {
            let leases: Vec<LeaseId> = part.iter().map(|copy| copy.lease).collect();
            forget(stores.connections, stores.keys, &stores.keys.leases_of(replica), &leases).await?;
            tracing::info!(%replica, requests = part.len(), "the ledger has what a dead replica had settled");
        }
    }
    Ok(())
}

/// Lets the ledger hold what was open. What it knows to be charged is settled to that.
async fn hold(stores: Stores<'_>, replica: &str, given_up: &[GivenUp]) -> Result<(), Unavailable> {
    let untold: Vec<&GivenUp> = given_up.iter().filter(|lease| !lease.is_held && lease.hold.is_some()).collect();
    for part in untold.chunks(TOLD_AT_ONCE) {
        let holds = part.iter().filter_map(|lease| lease.hold.clone()).collect();
        let remains = Remains { holds, ..Remains::default() };
        let Some(Recovered { charged, are_held }) = tell_ledger(stores.ledger, replica, remains, SILENCE).await? else {
            return Ok(());
        };
        let (ended, open): (Vec<&GivenUp>, Vec<&GivenUp>) =
            part.iter().partition(|lease| charged.contains_key(&lease.lease.request));
        let fates: HashMap<RequestId, Fate> =
            charged.into_iter().map(|(request, events)| (request, Fate::Charged(events))).collect();
        let ended: Vec<GivenUp> = ended.into_iter().cloned().collect();
        settle(stores.connections, stores.keys, &ended, &fates).await?;
        if are_held {
            let leases: Vec<LeaseId> = open.into_iter().map(|lease| lease.lease).collect();
            mark_held(stores.connections, stores.keys, &stores.keys.leases_of(replica), &leases).await?;
            tracing::warn!(%replica, leases = leases.len(), "nobody knows how requests of a dead replica ended: they are held at their bound");
        }
    }
    Ok(())
}

/// `None`: it is not known whose requests they were.
async fn tell_ledger(
    ledger: &dyn UsageLedger,
    replica: &str,
    remains: Remains,
    silence: Duration,
) -> Result<Option<Recovered>, Unavailable> {
    let Some(spool) = journal_of(replica) else { return Ok(None) };
    ledger.recover(spool, &remains, silence).await.map(Some).map_err(Unavailable::Untold)
}

/// Settles leases that were given up, each once, and lets the ledger release or hold them accordingly. Those of requests that
/// are not among `fates` are left as they are.
pub(crate) async fn charge(
    stores: Stores<'_>,
    leases: &[GivenUp],
    fates: &HashMap<RequestId, Fate>,
) -> Result<(), Unavailable> {
    let mut better = HashMap::new();
    for of_one in leases.chunk_by(|one, other| one.replica == other.replica) {
        for part in of_one.chunks(TOLD_AT_ONCE) {
            let mut remains = Remains::default();
            for given_up in part {
                match fates.get(&given_up.lease.request) {
                    // Whether another replica had it held meanwhile is not known here.
                    Some(Fate::Charged(events)) if events.is_empty() => {
                        remains.never_sent.push(given_up.lease.request);
                    }
                    Some(Fate::Unknown) if !given_up.is_held => remains.holds.extend(given_up.hold.clone()),
                    _ => {}
                }
            }
            let Some(first) = part.first().filter(|_| remains != Remains::default()) else { continue };
            let told = tell_ledger(stores.ledger, &first.replica, remains, Duration::ZERO).await?;
            better.extend(told.unwrap_or_default().charged.into_iter().map(|(id, events)| (id, Fate::Charged(events))));
        }
    }
    let fates: HashMap<RequestId, Fate> = fates.iter().map(|(id, fate)| (*id, fate.clone())).chain(better).collect();
    settle(stores.connections, stores.keys, leases, &fates).await
}

/// Settles leases that were given up, each once, as far as the limiter goes.
async fn settle(
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

/// Some of what a replica left, from `cursor` on, which moves. `None`: there is no more.
async fn page(
    connections: &Connections,
    keys: &Keys,
    replica: &Arc<str>,
    cursor: &mut String,
) -> Result<Option<(Vec<GivenUp>, Vec<Copy>)>, Unavailable> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let arguments = || {
        let mut arguments = keys.arguments("L");
        arguments.keys.push(keys.leases_of(replica));
        arguments.values.push(cursor.as_str().into());
        arguments
    };
    let reply: Vec<String> = connections.call(arguments).await?;
    let [next, leases @ ..] = reply.as_slice() else { return Err(Unavailable::Reply) };
    let (mut given_up, mut copies) = (Vec::new(), Vec::new());
    for told in leases.chunks(3) {
        let [field, kind, told] = told else { return Err(Unavailable::Reply) };
        let Some(lease) = keys::parse_lease(field) else { continue };
        let events = if told.is_empty() { Ok(Vec::new()) } else { stored_event::decode(told) };
        if let Err(error) = &events {
            tracing::error!(error = error as &dyn std::error::Error, request = %lease.request, "the ledger is not told of a request");
        }
        let mut events = events.unwrap_or_default();
        if kind != "s" {
            given_up.push(GivenUp { lease, replica: replica.clone(), hold: events.pop(), is_held: kind == "h" });
        } else if !events.is_empty() {
            copies.push(Copy { lease, events });
        }
    }
    *cursor = if next == FIRST_PAGE { String::new() } else { next.clone() };
    Ok(Some((given_up, copies)))
}

/// Replicas are named after their family, which is their journal, and their life.
fn is_life_of(replica: &str, family: &str) -> bool {
    replica.rsplit_once('.').is_some_and(|(of, _)| of == family)
}

/// The journal after which a replica is named.
fn journal_of(replica: &str) -> Option<SpoolId> {
    let (family, _) = replica.rsplit_once('.')?;
    Uuid::parse_str(family).ok().map(SpoolId)
}

fn millis(duration: Duration) -> Value {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).into()
}
