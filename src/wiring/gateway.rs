//! The gateway as a process: its parts, and the order in which they start and end.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ai4free_local::{
    CachedKeyStore, Drainer, Durability, KeyFeed, OsSecrets, SpoolJournal, SpoolOptions, SwappableCatalogue,
    TokioSpawner,
};
use ai4free_ports::{error::StoreError, key_store::KeyStore, runtime::KeyHasher, usage_ledger::UsageLedger};
use ai4free_providers::dialects;
use ai4free_sql::{LimiterModeError, LimiterModeLock, SqlKeyStore, SqlUsageLedger};
use ai4free_tokens::TiktokenCounter;
use anyhow::Context;
use tokio::{net::TcpListener, runtime::Handle};
use tokio_util::sync::CancellationToken;

use super::{
    Base, Misconfigured, calendar, key_hasher,
    limiter::{Limiter, LimiterParts},
    migrate_or_check, own_data_dir, policy,
    readiness::{Readiness, register_figures},
    retention::expire_daily,
    upstreams,
};
use crate::{
    application::{
        admission::Admission,
        authentication::Authentication,
        chat::Chat,
        drains::Drains,
        gate::Gate,
        grants::Grants,
        images::Images,
        inference::Inference,
        keys::Keys,
        models::Models,
        observation::Refusals,
        policy::PolicySource,
        reserver::Reserver,
        unmetered::{Unmetered, WhenFull},
        uptime::Uptime,
        usage::Usage,
    },
    bootstrap,
    config::{Settings, secrets, usage},
    http::{App, BodyLimits, Origins, Server, ServerLimits, Surface, admin},
    lifecycle::{self, Workers},
    telemetry::Telemetry,
};

/// For the workers, after the last response has ended: settlements to Redis, usage to the ledger.
const END_OF_WORKERS: Duration = Duration::from_secs(13);
/// For what outlives its request, after it has been told to end.
const END_OF_TASKS: Duration = Duration::from_secs(2);
/// Before a database that is away at the start is tried again.
const RETRY_DATABASE: Duration = Duration::from_secs(1);
/// For another process, whose limits exclude ours, to end: a restart overlaps.
const LIMITER_MODE_PATIENCE: Duration = Duration::from_secs(10);
/// For the first attachment to the ledger: whoever asks before it is told to come back if a budget applies. A Redis that is away
/// must not keep everybody else waiting.
const OPEN_BUDGETS_PATIENCE: Duration = Duration::from_secs(3);
const RENEW_LIMITER_MODE: Duration = Duration::from_secs(5);
/// In a journal that is full.
const LEAST_SEGMENTS: u64 = 4;
/// The plan of a new installation's first key.
const FIRST_KEY_PLAN: &str = "unlimited";

/// Serves until a signal ends the process.
///
/// # Errors
/// When the process can't start, or must not go on: [`Misconfigured`], or a store that fails where SQLite has no excuse.
pub async fn serve(settings: Settings, telemetry: Telemetry) -> anyhow::Result<()> {
    lifecycle::survive_file_size_limit();
    let served = match Gateway::build(&settings, &telemetry).await {
        Ok(gateway) => gateway.run(&settings).await,
        Err(error) => Err(error),
    };
    telemetry.shutdown().await;
    served
}

/// What lives as long as the process.
struct Gateway {
    base: Base,
    hasher: Arc<dyn KeyHasher>,
    /// Administration past the cache, for the first key.
    keys: Keys,
    server: Arc<Server>,
    admin: Option<App>,
    readiness: Arc<Readiness>,
    workers: Workers,
    /// What outlives the request that began it.
    tasks: Arc<TokioSpawner>,
    /// The workers that need the database; run once it is ready.
    ledger: Arc<dyn UsageLedger>,
    drainer: Drainer,
    feed: Option<KeyFeed>,
    /// Ends the workers, after the last response.
    end: CancellationToken,
    /// The data directory is ours as long as this is open.
    _data_dir: Option<fs::File>,
}

impl Gateway {
    async fn build(settings: &Settings, telemetry: &Telemetry) -> anyhow::Result<Self> {
        let data_dir = own_data_dir(settings)?;
        let base = Base::open(settings).await?;
        let secrets = secrets::resolve(settings, &OsSecrets)?;
        let hasher: Arc<dyn KeyHasher> = Arc::new(key_hasher(&secrets));
        let (clock, ids) = (base.clock.clone(), base.ids.clone());
        let (end, mut workers) = (CancellationToken::new(), Workers::default());

        let ledger: Arc<dyn UsageLedger> = Arc::new(SqlUsageLedger::new(base.database.clone()));
        let opened = SpoolJournal::open(&settings.usage.spool_dir, spool_options(&settings.usage), &clock, &*ids);
        let (journal, drainer) = opened.context("can't open the usage journal")?;
        let (store, feed) = CachedKeyStore::new(Arc::new(SqlKeyStore::new(base.database.clone())), clock.clone());
        let parts = LimiterParts { ids: &*ids, clock: &clock, ledger: &ledger, journal: &journal };
        let limiter = Limiter::connect(settings, &parts, &end, &mut workers)?;
        let drainer = match limiter.shared.as_ref().map(|shared| shared.redis.clone()) {
            Some(redis) => drainer
                .telling({
                    let redis = redis.clone();
                    move |events| redis.recorded(events)
                })
                .with_epochs(move || redis.epoch()),
            None => drainer,
        };

        let catalogue = Arc::new(SwappableCatalogue::new((*settings.catalogue).clone()));
        let policy: Arc<dyn PolicySource> = Arc::new(policy(&settings.limits));
        let openai = dialects::by_name("openai").context("the OpenAI dialect is not built in")?;
        let cut = CancellationToken::new();
        let gate = Arc::new(Gate::new({
            let cut = cut.clone();
            move || cut.is_cancelled()
        }));
        let spawner = Arc::new(TokioSpawner::new(Handle::current()));
        let (enforced, share) = (limiter.limiter.clone(), limiter.process_share);
        let grants = Arc::new(Grants::new(enforced.clone(), ledger.clone(), spawner.clone(), spawner.clone(), share));
        limiter.give_back_surplus(grants.clone(), &end, &mut workers);
        let drains = Arc::new(Drains::new(spawner.clone(), spawner.clone(), cut.clone().cancelled_owned()));
        let unmetered = Arc::new(Unmetered::new(when_full(settings.usage.when_full), clock.clone()));
        let calendar = calendar();
        let reserver = Arc::new(Reserver::new(enforced.clone(), grants, calendar.clone(), clock.clone()));
        let inference = Arc::new(Inference {
            catalogue: catalogue.clone(),
            policy: policy.clone(),
            upstreams: upstreams(settings, &clock)?.draining(drains.clone()),
            admission: Admission {
                reserver,
                journal: journal.clone(),
                clock: clock.clone(),
                gate: gate.clone(),
                unmetered: unmetered.clone(),
            },
            counter: Arc::new(TiktokenCounter::new()),
            observer: telemetry.observer(),
            clock: clock.clone(),
        });
        let readiness = Arc::new(Readiness {
            journal: journal.clone(),
            store: store.clone(),
            limiter,
            gate,
            drains,
            unmetered,
            serves_unmetered: settings.usage.when_full == usage::WhenFull::AllowUnmetered,
            draining: AtomicBool::new(false),
        });
        register_figures(telemetry, &readiness)?;
        let keys = |store: Arc<dyn KeyStore>| Keys {
            store,
            hasher: hasher.clone(),
            secrets: Arc::new(OsSecrets),
            clock: clock.clone(),
            calendar: calendar.clone(),
            policy: policy.clone(),
        };
        let surface = Surface {
            authentication: Arc::new(Authentication {
                keys: store.clone(),
                hasher: hasher.clone(),
                clock: clock.clone(),
            }),
            refusals: Arc::new(Refusals { observer: telemetry.observer(), clock: clock.clone() }),
            chat: Chat { inference: inference.clone() },
            images: Images { inference: inference.clone() },
            models: Models { catalogue },
            keys: keys(store.clone()),
            usage: Usage {
                ledger: ledger.clone(),
                journal,
                clock: clock.clone(),
                calendar: calendar.clone(),
                limiter: enforced,
                policy: policy.clone(),
            },
            uptime: Arc::new(Uptime::new(inference, openai.clone(), ids.clone())),
            readiness: readiness.clone(),
            openai,
            system_secret: secrets.system_secret,
            body_limits: BodyLimits { bytes: settings.server.max_body_bytes, timeout: settings.server.body_timeout },
            cors: origins(&settings.http.cors_origins),
            public_models: settings.http.public_models,
            docs: settings.http.docs,
            cut: cut.clone(),
        };
        let keys = keys(store);
        let server = Server {
            app: Arc::new(surface.into_app()),
            limits: server_limits(settings),
            clock: clock.clone(),
            ids,
            cut,
        };
        let admin = settings.admin.listen.map(|_| {
            let metrics = telemetry.metrics.clone();
            admin::app(Arc::new(move || metrics.render()))
        });
        let server = Arc::new(server);
        Ok(Self {
            base,
            hasher,
            keys,
            server,
            admin,
            readiness,
            workers,
            tasks: spawner,
            ledger,
            drainer,
            feed: Some(feed),
            end,
            _data_dir: data_dir,
        })
    }

    /// Stop accepting → responses end or are cut → settlements and usage are delivered → the process ends.
    async fn run(mut self, settings: &Settings) -> anyhow::Result<()> {
        let listener = listen(settings.server.listen).await?;
        let address = listener.local_addr()?;
        let (stopping, now, stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        self.workers.run("signals", {
            let watched = lifecycle::watch_signals(stopping.clone(), now.clone());
            let end = self.end.clone();
            async move {
                end.run_until_cancelled(watched).await;
            }
        });
        if let (Some(app), Some(address)) = (self.admin.take(), settings.admin.listen) {
            let admin = Arc::new(self.server.alike(app));
            let (listener, end) = (listen(address).await?, self.end.clone());
            tracing::info!(address = %listener.local_addr()?, "metrics are served");
            self.workers.run("admin listener", admin.run(listener, end));
        }
        let mut serving = Box::pin(self.server.clone().run(listener, stop.clone()));
        let lock = {
            let mut starting = Box::pin(self.start(settings));
            tokio::select! {
                started = &mut starting => Some(started?),
                () = &mut serving => None,
                () = stopping.cancelled() => None,
            }
        };
        if lock.is_some() {
            self.run_workers(settings);
            tokio::select! {
                () = self.readiness.budgets_are_open() => {}
                () = tokio::time::sleep(OPEN_BUDGETS_PATIENCE) => tracing::warn!("serving, while budgets can't be spent yet"),
                () = stopping.cancelled() => {}
            }
            tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving");
            if settings.database.is_sqlite() {
                bootstrap::first_key(&self.keys, FIRST_KEY_PLAN, address).await?;
            }
            self.readiness.gate.open();
        }
        let excluded = tokio::select! {
            () = &mut serving => None,
            () = stopping.cancelled() => None,
            excluded = keep_limiter_mode(lock.as_ref()) => Some(excluded),
            fenced = self.readiness.fenced() => Some(fenced),
        };
        self.readiness.draining.store(true, Ordering::Relaxed);
        // A replica that has never been ready gets no requests.
        let pre_stop = if lock.is_some() { settings.server.pre_stop } else { Duration::ZERO };
        if excluded.is_some() {
            self.readiness.gate.close(); // our limits do not hold any more: nothing is admitted
        }
        tokio::select! {
            // A load balancer needs a moment to see that this replica is not ready any more, and sends requests until then.
            () = &mut serving => {}
            () = tokio::time::sleep(pre_stop) => {}
            () = now.cancelled() => {}
        }
        stop.cancel();
        tokio::select! {
            () = &mut serving => {}
            () = now.cancelled() => self.server.cut.cancel(),
        }
        drop(serving);
        // Streams that are read to their end without their client end here, and are settled before the last events are drained.
        self.server.cut.cancel();
        let _ = tokio::time::timeout(END_OF_TASKS, self.tasks.join()).await;
        self.end.cancel();
        self.workers.join(END_OF_WORKERS).await;
        if let Some(lock) = lock {
            lock.release().await;
        }
        if let Err(error) = self.base.database.close().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the database was not closed cleanly");
        }
        match excluded {
            None => Ok(()),
            Some(excluded) => Err(excluded.into()),
        }
    }

    fn run_workers(&mut self, settings: &Settings) {
        let (ledger, drainer, end) = (self.ledger.clone(), self.drainer.clone(), self.end.clone());
        self.workers.supervise("drainer", move || Some(drainer.clone().run(ledger.clone(), end.clone())));
        if let Some(feed) = self.feed.take() {
            self.workers.run("key feed", feed.run(self.end.clone()));
        }
        if let Some(kept) = settings.usage.retention {
            let (database, clock, end) = (self.base.database.clone(), self.base.clock.clone(), self.end.clone());
            self.workers.run("retention", expire_daily(database, clock, kept, end));
        }
    }

    /// What needs the database before requests are served. SQLite fails at once; Postgres may still be on its way.
    async fn start(&self, settings: &Settings) -> anyhow::Result<LimiterModeLock> {
        loop {
            match self.try_start(settings).await {
                Ok(lock) => return Ok(lock),
                Err(error) if settings.database.is_sqlite() || !is_outage(&error) => return Err(error),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the database is not ready"),
            }
            tokio::time::sleep(RETRY_DATABASE).await;
        }
    }

    async fn try_start(&self, settings: &Settings) -> anyhow::Result<LimiterModeLock> {
        migrate_or_check(&self.base.database, settings.database.migrate).await?;
        for (version, fingerprint) in self.hasher.peppers() {
            if self.keys.store.remember_pepper(version, fingerprint).await? != fingerprint {
                return Err(Misconfigured(format!(
                    "the pepper (version {version}) is not the one that the keys in this database were made with: every key \
                     would be refused. Either give the old one (AI4FREE__KEYS__PEPPER, or the SYSTEM_SECRET or secrets.toml that \
                     it came from), or, to make all keys anew, remove its row from the table `pepper` and the keys from `api_key`"
                ))
                .into());
            }
        }
        let exclusive = settings.redis.is_none();
        let lock = ai4free_sql::limiter_mode_lock(&self.base.database, exclusive, LIMITER_MODE_PATIENCE).await;
        lock.map_err(|error| match error {
            LimiterModeError::HeldByAnother => excluded().into(),
            LimiterModeError::Unavailable(error) => error.into(),
        })
    }
}

fn spool_options(usage: &usage::Usage) -> SpoolOptions {
    let durability = match usage.durability {
        usage::Durability::ProcessSafe => Durability::ProcessSafe,
        usage::Durability::PowerSafe => Durability::PowerSafe,
    };
    let defaults = SpoolOptions::default();
    // Room is made segment by segment, and the newest is not deleted.
    let segment_bytes = defaults.segment_bytes.min(usage.spool_max_bytes / LEAST_SEGMENTS);
    SpoolOptions { capacity: usage.spool_max_bytes, segment_bytes, durability, ..defaults }
}

fn when_full(policy: usage::WhenFull) -> WhenFull {
    match policy {
        usage::WhenFull::Reject => WhenFull::Reject,
        usage::WhenFull::AllowUnmetered => WhenFull::AllowUnmetered,
    }
}

fn excluded() -> Misconfigured {
    Misconfigured(
        "another process serves from this database, and limits in memory hold for one process only: give all of them the same \
         REDIS_URL"
            .to_owned(),
    )
}

/// Ends only if another process took our place while the connection that held the lock was broken.
async fn keep_limiter_mode(lock: Option<&LimiterModeLock>) -> Misconfigured {
    let Some(lock) = lock else { return std::future::pending().await };
    loop {
        tokio::time::sleep(RENEW_LIMITER_MODE).await;
        if matches!(lock.renew().await, Err(LimiterModeError::HeldByAnother)) {
            return excluded();
        }
    }
}

fn is_outage(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<StoreError>(), Some(StoreError::Unavailable(_)))
}

async fn listen(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))
}

fn origins(configured: &[String]) -> Origins {
    if configured.iter().any(|origin| origin == "*") { Origins::Any } else { Origins::Listed(configured.to_vec()) }
}

fn server_limits(settings: &Settings) -> ServerLimits {
    ServerLimits {
        connections: settings.server.max_connections,
        header_timeout: settings.server.header_timeout,
        keep_alive: settings.server.keep_alive,
        write_timeout: settings.server.write_timeout,
        drain: settings.server.drain,
    }
}
