//! What the command line's verbs work with, beside a server that may be running.

use std::{fs, future::Future, sync::Arc, time::Duration};

use ai4free_local::{OsSecrets, SwappableCatalogue, SystemClock, TokioSpawner, UuidV7Ids};
use ai4free_ports::{
    budget_counters::BudgetCounters,
    runtime::{Clock, IdSource},
    usage_ledger::UsageLedger,
};
use ai4free_redis::RedisBudgetCounters;
pub use ai4free_sql::MigrationStatus as SchemaStatus;
use ai4free_sql::{Database, LimiterModeError, SqlKeyStore, SqlUsageLedger};
use anyhow::Context;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    Base, Misconfigured, calendar, create_data_dir, key_hasher,
    limiter::{connect_redis, redis_options},
    migrate_or_check, own_data_dir, policy,
};
use crate::{
    application::{counters::CompareCounters, keys::Keys, models::Models, policy::PolicySource, reprice::Reprice},
    config::{Settings, redis::Redis, secrets},
    lifecycle::Workers,
};

/// For connections that are closed.
const LEAVING: Duration = Duration::from_secs(1);

/// For a gateway that is just stopping.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What the command line's verbs work with.
pub struct Administration {
    pub keys: Keys,
    pub models: Models,
    pub ledger: Arc<dyn UsageLedger>,
    pub ids: Arc<dyn IdSource>,
    pub clock: Arc<dyn Clock>,
}

/// What checks and corrects the accounts, beside gateways that may be running.
pub struct Accounts {
    /// `None`: limits are kept in each process, which nobody else can ask.
    pub compare: Option<CompareCounters>,
    pub reprice: Reprice,
    end: CancellationToken,
    workers: Workers,
}

impl Accounts {
    /// Closes the connections.
    pub async fn close(self) {
        self.end.cancel();
        self.workers.join(LEAVING).await;
    }
}

/// Connects to Redis, if there is one. It need not answer before it is asked.
///
/// # Errors
/// When its URL is not one.
pub fn accounts(settings: &Settings, administration: &Administration) -> anyhow::Result<Accounts> {
    let (end, mut workers) = (CancellationToken::new(), Workers::default());
    let Administration { ledger, ids, clock, models, .. } = administration;
    let mut counters: Option<Arc<dyn BudgetCounters>> = None;
    if let Some(redis) = &settings.redis {
        let options = redis_options(redis, "ledger")?;
        let (connected, worker) = RedisBudgetCounters::connect(&options, end.clone());
        workers.run("budget counters", worker);
        counters = Some(connected);
    }
    let compare = counters.clone().map(|counters| CompareCounters {
        ledger: ledger.clone(),
        counters,
        clock: clock.clone(),
        timer: Arc::new(TokioSpawner::new(Handle::current())),
    });
    let catalogue = models.catalogue.clone();
    let reprice = Reprice { ledger: ledger.clone(), counters, catalogue, ids: ids.clone() };
    Ok(Accounts { compare, reprice, end, workers })
}

/// Opens the stores for a verb of the command line, beside a server that may be running.
///
/// # Errors
/// When the database can't be reached, or was made with other secrets or an older version.
pub async fn administration(settings: &Settings) -> anyhow::Result<Administration> {
    create_data_dir(&settings.data_dir)?;
    let base = Base::open(settings).await?;
    let secrets = secrets::resolve(settings, &OsSecrets)?;
    migrate_or_check(&base.database, settings.database.migrate).await?;
    let policy: Arc<dyn PolicySource> = Arc::new(policy(&settings.limits));
    let catalogue = Arc::new(SwappableCatalogue::new((*settings.catalogue).clone()));
    let ledger: Arc<dyn UsageLedger> = Arc::new(SqlUsageLedger::new(base.database.clone()));
    Ok(Administration {
        keys: Keys {
            store: Arc::new(SqlKeyStore::new(base.database)),
            hasher: Arc::new(key_hasher(&secrets)),
            secrets: Arc::new(OsSecrets),
            clock: base.clock.clone(),
            calendar: calendar(),
            policy,
        },
        models: Models { catalogue },
        ids: base.ids,
        ledger,
        clock: base.clock,
    })
}

/// The tables of the database, for `ai4free db`.
pub struct Schema {
    database: Database,
    settings: Settings,
}

/// # Errors
/// When the database can't be opened.
pub async fn schema(settings: &Settings) -> anyhow::Result<Schema> {
    create_data_dir(&settings.data_dir)?;
    Ok(Schema { database: Base::open(settings).await?.database, settings: settings.clone() })
}

impl Schema {
    /// Creates the tables that are missing. Running it again changes nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create(&self) -> anyhow::Result<()> {
        Ok(ai4free_sql::migrate(&self.database).await?)
    }

    /// Applies what is pending and names it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn migrate(&self) -> anyhow::Result<Vec<String>> {
        let pending = self.status().await?.pending;
        self.create().await?;
        Ok(pending)
    }

    /// # Errors
    /// When the database fails.
    pub async fn status(&self) -> anyhow::Result<SchemaStatus> {
        Ok(ai4free_sql::migration_status(&self.database).await?)
    }

    /// Drops everything and creates it again, empty.
    ///
    /// # Errors
    /// When the database fails, or a gateway serves from it.
    pub async fn reset(&self) -> anyhow::Result<()> {
        self.while_nobody_serves(async { Ok(ai4free_sql::reset(&self.database).await?) }).await
    }

    /// Drops everything.
    ///
    /// # Errors
    /// When the database fails, or a gateway serves from it.
    pub async fn clean(&self) -> anyhow::Result<()> {
        self.while_nobody_serves(async { Ok(ai4free_sql::clean(&self.database).await?) }).await
    }

    /// Every gateway holds these two locks in some mode.
    async fn while_nobody_serves(&self, change: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        let _data_dir = own_data_dir(&self.settings)?;
        let lock =
            ai4free_sql::limiter_mode_lock(&self.database, true, LOCK_PATIENCE).await.map_err(|error| match error {
                LimiterModeError::HeldByAnother => {
                    anyhow::Error::from(Misconfigured("a gateway serves from this database: stop it first".to_owned()))
                }
                LimiterModeError::Unavailable(error) => error.into(),
            })?;
        let changed = change.await;
        lock.release().await;
        changed
    }

    /// # Errors
    /// When the database fails.
    pub async fn list_tables(&self) -> anyhow::Result<Vec<String>> {
        Ok(ai4free_sql::list_tables(&self.database).await?)
    }
}

/// One thing that `ai4free doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    pub subject: String,
    pub healthy: bool,
    pub detail: String,
}

/// Looks at everything that the gateway needs, and says what is wrong in words. Changes nothing.
pub async fn doctor(settings: &Settings) -> Vec<Diagnosis> {
    let diagnosis = |subject: &str, result: anyhow::Result<String>| Diagnosis {
        subject: subject.to_owned(),
        healthy: result.is_ok(),
        detail: result.unwrap_or_else(|error| format!("{error:#}")),
    };
    let is_new = !settings.data_dir.exists();
    let data_dir = if is_new {
        Ok(format!("{}, made at the first start", settings.data_dir.display()))
    } else {
        let readable = fs::read_dir(&settings.data_dir);
        readable.map(|_| settings.data_dir.display().to_string()).context("can't be read")
    };
    let database = async {
        let database = Base::open(settings).await?.database;
        let status = ai4free_sql::migration_status(&database).await?;
        anyhow::ensure!(status.pending.is_empty(), "migrations are pending: {}", status.pending.join(", "));
        Ok(format!("{} migrations applied", status.applied.len()))
    };
    let database = if settings.database.is_sqlite() && is_new {
        Ok("SQLite, made at the first start".to_owned())
    } else {
        database.await
    };
    let redis = match &settings.redis {
        None => Ok("not configured: limits are kept in the process".to_owned()),
        Some(redis) => redis_answers(settings, redis).await,
    };
    let enabled = settings.providers.upstreams.len();
    vec![
        diagnosis("data directory", data_dir),
        diagnosis("database", database),
        diagnosis("redis", redis),
        diagnosis("providers", Ok(format!("{enabled} enabled besides local/echo"))),
    ]
}

async fn redis_answers(settings: &Settings, redis: &Redis) -> anyhow::Result<String> {
    let (end, mut workers) = (CancellationToken::new(), Workers::default());
    let ids = UuidV7Ids::new(Arc::new(SystemClock::new()), Arc::new(OsSecrets));
    let ledger: Arc<dyn UsageLedger> = Arc::new(SqlUsageLedger::new(Base::open(settings).await?.database));
    let name = format!("doctor.{}", ids.request_id().0.as_simple());
    let limiter = connect_redis(redis, &name, &ledger, &end, &mut workers)?;
    let up = async {
        while !limiter.is_up() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answered = tokio::time::timeout(Duration::from_secs(3), up).await;
    end.cancel();
    workers.join(Duration::from_secs(3)).await;
    answered.map(|()| "answers".to_owned()).context("does not answer within 3 s")
}
