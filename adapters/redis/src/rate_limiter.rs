use std::{future::Future, sync::Arc, time::Duration};

use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder, MoneyWindow},
    error::LimiterDown,
    rate_limiter::{Claim, Claims, Held, LeaseId, LimitKind, RateLimiter, Reservation, Scope, Settlement, Standing},
};
use async_trait::async_trait;
use fred::types::Key;
use tokio_util::sync::CancellationToken;

use crate::{
    connection::Connections,
    heartbeat,
    keys::{self, Keys},
    open_leases::OpenLeases,
    options::RedisOptions,
    script::{Arguments, Script},
    settler::{SettleQueue, Settler},
    unavailable::Unavailable,
};

/// Limits and amounts above this count as this: sums of them are exact in Lua's numbers.
const LARGEST: u64 = 1 << 48;

/// [`RateLimiter`] in Redis, shared by all replicas with the same prefix.
///
/// A reservation of a voided lease is an error, as if Redis were down: its caller gave up long ago.
pub struct RedisRateLimiter {
    connections: Connections,
    keys: Keys,
    open: OpenLeases,
    queue: SettleQueue,
}

impl RedisRateLimiter {
    /// The limiter, and the worker that connects it, delivers settlements and keeps leases alive. Redis need not be there
    /// yet. After `shutdown` is cancelled the worker delivers what is queued, for 2 s at most, and ends.
    pub fn connect(
        options: &RedisOptions,
        shutdown: CancellationToken,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        #[cfg(feature = "contract")]
        let script = if options.movable_time { Script::on_movable_time() } else { Script::on_server_time() };
        #[cfg(not(feature = "contract"))]
        let script = Script::on_server_time();
        let (queue, settler) = SettleQueue::new();
        let limiter = Arc::new(Self {
            connections: Connections::new(options, script),
            keys: Keys::new(&options.prefix, &options.replica),
            open: OpenLeases::default(),
            queue,
        });
        let worker = Arc::clone(&limiter).work(settler, shutdown);
        (limiter, worker)
    }

    /// Whether a reservation would be tried now, for readiness: without it the gateway is degraded.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.connections.is_up()
    }

    /// Settlements that Redis does not know of yet.
    #[must_use]
    pub fn queued_settlements(&self) -> usize {
        self.queue.queued()
    }

    /// Settlements given up because there were too many, since the start.
    #[must_use]
    pub fn dropped_settlements(&self) -> u64 {
        self.queue.dropped()
    }

    async fn work(self: Arc<Self>, settler: Settler, shutdown: CancellationToken) {
        let settled = CancellationToken::new();
        let settle = async {
            settler.run(&self.connections, &self.keys, &shutdown).await;
            settled.cancel();
        };
        let beat = heartbeat::run(&self.connections, &self.keys, &self.open, &shutdown);
        // Connected until the last settlement is delivered.
        tokio::join!(self.connections.run(&settled), settle, beat);
        self.connections.close().await;
    }

    fn reservation(&self, lease: LeaseId, claims: &[Claim]) -> Arguments {
        let mut arguments = self.keys.arguments("R");
        arguments.values.push(keys::lease(lease).into());
        for claim in claims {
            arguments.keys.push(self.keys.claim(claim));
            let (kind, amount) = match claim.kind {
                LimitKind::Concurrency => ("c", 1),
                LimitKind::Requests | LimitKind::ImageRequests | LimitKind::Tokens => ("w", countable(claim.amount)),
            };
            arguments.values.extend([kind.into(), countable(claim.limit).into(), amount.into()]);
        }
        arguments
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    async fn reserve(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        if claims.is_empty() {
            return Ok(Reservation::Held(Held::default()));
        }
        let claims = &*claims.counts;
        let reply: Vec<i64> = self.connections.call(|| self.reservation(lease, claims)).await?;
        let reservation = understand(&reply, claims.len())?;
        if matches!(reservation, Reservation::Held(_)) {
            let concurrency = claims.iter().filter(|claim| claim.kind == LimitKind::Concurrency);
            let taken: Vec<Key> = concurrency.map(|claim| self.keys.claim(claim)).collect();
            if !taken.is_empty() {
                self.open.insert(lease, taken);
            }
        }
        Ok(reservation)
    }

    fn settle(&self, settlement: Settlement) {
        self.open.remove(settlement.lease);
        if !settlement.claims.is_empty() {
            self.queue.push(settlement);
        }
    }

    async fn grant(&self, _: &Grant) -> Result<(), LimiterDown> {
        Err(LimiterDown("no budgets here yet".into()))
    }

    async fn forget(&self, _: Holder) -> Result<(), LimiterDown> {
        Ok(())
    }

    async fn standing(&self, _: &Scope, _: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown> {
        Ok(None)
    }
}

#[cfg(feature = "contract")]
impl RedisRateLimiter {
    /// Sets the time for all limiters with this prefix that were made with movable time.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn move_time(&self, since_epoch: Duration) -> Result<(), LimiterDown> {
        use fred::interfaces::KeysInterface;
        let key = format!("{}:movable", self.keys.clock.as_str().unwrap_or_default());
        let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        let set = self.connections.client()?.set::<(), _, _>(key, millis, None, None, false).await;
        Ok(set.map_err(Unavailable::Refused)?)
    }

    /// Whether every connection stands.
    #[must_use]
    pub fn is_fully_connected(&self) -> bool {
        self.connections.are_all_connected()
    }

    /// A heartbeat now.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn beat(&self) -> Result<(), LimiterDown> {
        Ok(heartbeat::beat(&self.connections, &self.keys, &self.open).await?)
    }

    /// The removal of what nobody needs any more, now.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn purge(&self) -> Result<(), LimiterDown> {
        Ok(heartbeat::purge(&self.connections, &self.keys, &self.open).await?)
    }
}

/// As the script counts.
pub(crate) fn countable(amount: u64) -> i64 {
    i64::try_from(amount.min(LARGEST)).unwrap_or(i64::MAX)
}

/// The reply of the operation `R`, as `limiter.lua` describes it.
fn understand(reply: &[i64], claims: usize) -> Result<Reservation, Unavailable> {
    let positive = |number: i64| u64::try_from(number).map_err(|_| Unavailable::Reply);
    match reply {
        [0, standings @ ..] if standings.len() == 2 * claims => {
            let standing = |pair: &[i64]| match pair {
                [remaining, reset] => {
                    Ok(Standing { remaining: positive(*remaining)?, reset: Duration::from_millis(positive(*reset)?) })
                }
                _ => Err(Unavailable::Reply),
            };
            let counts = standings.chunks(2).map(standing).collect::<Result<_, _>>()?;
            Ok(Reservation::Held(Held { counts, ..Held::default() }))
        }
        [1, claim, remaining, retry_after] => Ok(Reservation::Refused {
            claim: usize::try_from(*claim).map_err(|_| Unavailable::Reply)?,
            remaining: positive(*remaining)?,
            retry_after: Duration::from_millis(positive(*retry_after)?),
        }),
        [2] => Err(Unavailable::Voided),
        _ => Err(Unavailable::Reply),
    }
}
