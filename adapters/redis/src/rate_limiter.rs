use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use ai4free_ports::{
    budget::{Epoch, Grant, GrantStanding, Holder, MoneyWindow},
    error::LimiterDown,
    rate_limiter::{Claims, Held, LeaseId, LimitKind, RateLimiter, Reservation, Scope, Settlement},
    request::RequestId,
    usage_journal::Fate,
    usage_ledger::{UsageEvent, UsageLedger},
};
use async_trait::async_trait;
use fred::{interfaces::HashesInterface, types::Key};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    connection::Connections,
    copies::Copies,
    dead_replicas::{self, Death, GivenUp, Stores, Undertaker},
    epochs::Epochs,
    heartbeat,
    keys::Keys,
    money,
    open_leases::OpenLeases,
    options::RedisOptions,
    reservation,
    script::{Arguments, Script},
    settler::{SettleQueue, Settler},
    unavailable::Unavailable,
};

/// A server that does not answer is not worth waiting for.
const LEAVING: Duration = Duration::from_millis(500);

/// [`RateLimiter`] in Redis, shared by all replicas with the same prefix.
///
/// A reservation of a voided lease is an error, as if Redis were down: its caller gave up long ago.
pub struct RedisRateLimiter {
    connections: Connections,
    keys: Keys,
    open: OpenLeases,
    queue: SettleQueue,
    epochs: Epochs,
    ledger: Arc<dyn UsageLedger>,
    copies: Copies,
    undertaker: Undertaker,
}

impl RedisRateLimiter {
    /// The limiter, and the worker that connects it, delivers settlements and keeps leases alive. Redis need not be there
    /// yet. After `shutdown` is cancelled the worker delivers what is queued, for 2 s at most, leaves nothing behind in Redis,
    /// and ends.
    ///
    /// Only claims of money need the ledger, and only until it has attested the epoch of the Redis that answers. It is told as
    /// well what replicas that died have left.
    pub fn connect(
        options: &RedisOptions,
        ledger: Arc<dyn UsageLedger>,
        shutdown: CancellationToken,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (queue, settler) = SettleQueue::new();
        let limiter = Arc::new(Self {
            connections: Connections::new(options, Script::new(options.time, None)),
            keys: Keys::new(&options.prefix, &options.replica),
            open: OpenLeases::default(),
            queue,
            epochs: Epochs::new(ledger.clone(), options.time),
            ledger,
            copies: Copies::new(options.room_for_copies),
            undertaker: Undertaker::default(),
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

    /// The last epoch that the ledger has attested here: requests may hold money of it, and of earlier ones.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epochs.last()
    }

    /// Why claims of money fail although Redis answers, if they do: it may evict keys, or the ledger is away.
    #[must_use]
    pub fn money_closed_reason(&self) -> Option<String> {
        self.epochs.closed_because()
    }

    /// Leases of other replicas that were given up here because these had died, since the start.
    #[must_use]
    pub fn given_up_leases(&self) -> u64 {
        self.undertaker.given_up()
    }

    /// Gives up what other replicas named `<family>.<life>` hold, which the caller knows to be dead. All their leases of which
    /// [`RedisRateLimiter::charge`] has not been told yet.
    ///
    /// # Errors
    /// When Redis can't be asked: nothing is lost by asking again.
    pub async fn take_over(&self, family: &str) -> Result<Vec<GivenUp>, LimiterDown> {
        Ok(self.undertaker.take_over(self.stores(), family).await?)
    }

    /// Settles leases that were given up, each once, to what their requests were charged. A request of which nothing is said
    /// stays as it is.
    ///
    /// # Errors
    /// When Redis can't be asked: nothing is lost, and nothing counted twice, by saying it again.
    pub async fn charge(&self, leases: &[GivenUp], fates: &HashMap<RequestId, Fate>) -> Result<(), LimiterDown> {
        Ok(dead_replicas::charge(self.stores(), leases, fates).await?)
    }

    /// The ledger has committed these events: nobody else need remember them.
    pub fn recorded(&self, events: &[UsageEvent]) {
        self.copies.recorded(events, &self.open);
    }

    /// Requests of which Redis keeps a copy because the ledger does not have them yet.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.open.copies()
    }

    /// Copies that Redis had no room for, since the start.
    #[must_use]
    pub fn refused_copies(&self) -> u64 {
        self.copies.refused()
    }

    fn stores(&self) -> Stores<'_> {
        Stores { connections: &self.connections, keys: &self.keys, ledger: &*self.ledger }
    }

    async fn work(self: Arc<Self>, settler: Settler, shutdown: CancellationToken) {
        let (settled, left) = (CancellationToken::new(), CancellationToken::new());
        let settle = async {
            settler.run(&self.connections, &self.keys, &self.open, &self.copies, &shutdown).await;
            settled.cancel();
        };
        let copies = self.copies.run(&self.connections, &self.keys, &self.open, &settled);
        let beat = heartbeat::run(&self.connections, &self.keys, &self.open, &shutdown);
        let attest = shutdown.run_until_cancelled(self.epochs.run(&self.connections, &self.keys));
        let bury = shutdown.run_until_cancelled(self.undertaker.run(self.stores()));
        let work = async {
            tokio::join!(settle, copies, beat, attest, bury);
            self.leave().await;
            left.cancel();
        };
        // Connected until the last settlement is delivered.
        tokio::join!(self.connections.run(&left), work);
        self.connections.close().await;
    }

    /// Nobody need miss this replica. What could not be settled is given up: the journal tells the next life what it was.
    async fn leave(&self) {
        let bury = self.undertaker.bury(&self.connections, &self.keys, &self.keys.replica, Death::Orderly);
        if !matches!(timeout(LEAVING, bury).await, Ok(Ok(_))) {
            tracing::debug!("Redis was not told that this replica ends: others will find it silent");
        }
    }

    /// Calls the script of the current epoch. Where Redis turns out to be in another one, asks for that first.
    async fn call_in_epoch(&self, arguments: impl Fn(Epoch) -> Arguments) -> Result<(Epoch, Vec<i64>), Unavailable> {
        if !self.connections.is_up() {
            return Err(Unavailable::Suspended);
        }
        let calls = async {
            loop {
                let current = self.epochs.current().await?;
                let reply: Result<Vec<i64>, _> =
                    self.connections.call_loaded(&current.script, arguments(current.epoch)).await;
                match reply.as_ref().map(Vec::as_slice) {
                    Err(error) if error.is_unknown_script() => self.epochs.doubt(&current, None),
                    // As OTHER_EPOCH in the script.
                    Ok([6, found]) => self.epochs.doubt(&current, (*found < 0).then_some(current.epoch)),
                    _ => return reply.map(|reply| (current.epoch, reply)),
                }
            }
        };
        timeout(self.connections.deadline(), calls).await.unwrap_or(Err(Unavailable::Timeout))
    }

    async fn reserve_all(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, Unavailable> {
        let arguments = |epoch| reservation::arguments(&self.keys, epoch, lease, claims);
        if claims.money.is_empty() {
            let reply: Vec<i64> = self.connections.call(|| arguments(None)).await?;
            return reservation::understand(&reply, claims, None);
        }
        let (epoch, reply) = self.call_in_epoch(|epoch| arguments(Some(epoch))).await?;
        reservation::understand(&reply, claims, Some(epoch))
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    async fn reserve(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        if claims.is_empty() {
            return Ok(Reservation::Held(Held::default()));
        }
        let reservation = self.reserve_all(lease, claims).await?;
        if matches!(reservation, Reservation::Held(_)) {
            let concurrency = claims.counts.iter().filter(|claim| claim.kind == LimitKind::Concurrency);
            let taken: Vec<Key> = concurrency.map(|claim| self.keys.claim(claim)).collect();
            if !taken.is_empty() || !claims.money.is_empty() {
                self.open.insert(lease, taken);
            }
        }
        Ok(reservation)
    }

    fn settle(&self, settlement: Settlement) {
        if settlement.money.is_empty() {
            self.open.remove(settlement.lease);
        } else {
            self.open.end(settlement.lease);
        }
        if !settlement.claims.is_empty() || !settlement.money.is_empty() {
            self.queue.push(settlement);
        }
    }

    async fn grant(&self, grant: &Grant) -> Result<(), LimiterDown> {
        if let Holder::Shared(epoch) = grant.holder {
            self.call_in_epoch(|_| money::grant(&self.keys, epoch, grant)).await?;
        }
        Ok(())
    }

    async fn forget(&self, holder: Holder) -> Result<(), LimiterDown> {
        if let Holder::Shared(epoch) = holder {
            let left = timeout(self.connections.deadline(), self.epochs.leave(epoch)).await;
            left.unwrap_or(Err(Unavailable::Timeout))?;
        }
        Ok(())
    }

    async fn standing(&self, scope: &Scope, window: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown> {
        let current =
            timeout(self.connections.deadline(), self.epochs.current()).await.unwrap_or(Err(Unavailable::Timeout))?;
        let key = self.keys.budget(current.epoch, scope, window);
        let client = self.connections.client()?;
        let fields = client.hmget::<Vec<Option<i64>>, _, _>(key, money::STANDING_FIELDS.to_vec());
        let found = self.connections.within_deadline(fields).await?;
        Ok(money::stored_standing(&found)?)
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

    /// Gives up what replicas hold that are silent now.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn give_up_silent(&self) -> Result<(), LimiterDown> {
        Ok(self.undertaker.look(self.stores()).await?)
    }
}
