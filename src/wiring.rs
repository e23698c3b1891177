//! The composition root: the only place that names adapter crates. It builds every part and gives each the ports it needs.
//!
//! [`serve`] is the gateway itself, [`administration()`] what the command line's verbs work with.

mod administration;
mod dead_replicas;
mod gateway;
mod limiter;
mod readiness;
mod retention;

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use ai4free_local::{HmacKeyHasher, JiffCalendar, OsSecrets, Pepper, SystemClock, UuidV7Ids};
use ai4free_ports::{
    limits::Limits,
    llm_provider::{Deadlines, LlmProvider},
    provider_settings::{ProviderSettings, Secret, Timeouts},
    runtime::{Calendar, Clock, IdSource},
};
use ai4free_providers::{EchoProvider, Transport};
use ai4free_sql::{Database, DatabaseOptions};
use anyhow::Context;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use self::{
    administration::{
        Accounts, Administration, Diagnosis, Schema, SchemaStatus, accounts, administration, doctor, schema,
    },
    gateway::serve,
};
use crate::{
    application::{
        attempt::{Upstream, Upstreams},
        policy::Policy,
    },
    config::{PepperSource, Secrets, Settings, database::DatabaseLocation, limits::LimitSettings},
};

/// A configuration that is well-formed and can't work here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// The time zones that there are, and when the windows of budgets begin in them.
#[must_use]
pub fn calendar() -> Arc<dyn Calendar> {
    Arc::new(JiffCalendar::default())
}

/// What both the server and the command line stand on.
struct Base {
    database: Database,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
}

impl Base {
    async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let options = DatabaseOptions {
            max_connections: settings.database.max_connections,
            acquire_timeout: settings.database.acquire_timeout,
        };
        let url = match &settings.database.location {
            DatabaseLocation::Sqlite { path } => Zeroizing::new(ai4free_sql::sqlite_url(path)),
            DatabaseLocation::Postgres { url } => Zeroizing::new(url.expose().to_owned()),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        Ok(Self {
            database: ai4free_sql::connect(&url, options).await?,
            ids: Arc::new(UuidV7Ids::new(clock.clone(), Arc::new(OsSecrets))),
            clock,
        })
    }
}

/// SQLite and limits in memory are for one process: a second one on the same directory is refused.
fn own_data_dir(settings: &Settings) -> anyhow::Result<Option<fs::File>> {
    create_data_dir(&settings.data_dir)?;
    if !settings.database.is_sqlite() {
        return Ok(None);
    }
    let file = fs::File::create(settings.data_dir.join("lock")).context("can't lock the data directory")?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => {
            let directory = settings.data_dir.display();
            Err(Misconfigured(format!("another process serves from the data directory {directory}")).into())
        }
        Err(fs::TryLockError::Error(error)) => Err(error).context("can't lock the data directory"),
    }
}

fn create_data_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.with_context(|| format!("can't create the data directory {}", path.display()))
}

async fn migrate_or_check(database: &Database, migrate: bool) -> anyhow::Result<()> {
    if migrate {
        return Ok(ai4free_sql::migrate(database).await?);
    }
    let status = ai4free_sql::migration_status(database).await?;
    if status.pending.is_empty() {
        return Ok(());
    }
    let pending = status.pending.join(", ");
    Err(Misconfigured(format!("the database lacks migrations ({pending}): run `ai4free db migrate`")).into())
}

fn key_hasher(secrets: &Secrets) -> HmacKeyHasher {
    // Versions count up as peppers are replaced; the newest hashes.
    let pepper_of = |version, text: &Secret| Pepper::new(version, Zeroizing::new(Sha256::digest(text.expose()).into()));
    let older: Vec<Pepper> =
        (1_u16..).zip(&secrets.previous_peppers).map(|(version, text)| pepper_of(version, text)).collect();
    let newest = u16::try_from(older.len()).unwrap_or(u16::MAX).saturating_add(1);
    let newest = match &secrets.pepper {
        PepperSource::Given(text) | PepperSource::File(text) => pepper_of(newest, text),
        PepperSource::Derive => Pepper::derive(newest, secrets.system_secret.expose().as_bytes()),
    };
    HmacKeyHasher::new(&newest, &older)
}

fn policy(settings: &LimitSettings) -> Arc<Policy> {
    let boxed = |(name, limits): (&String, &Limits)| (name.as_str().into(), limits.clone());
    Arc::new(Policy {
        plans: settings.plans.iter().map(boxed).collect(),
        default_plan: settings.default_plan.as_str().into(),
        gateway: settings.gateway.clone(),
        default_user: settings.default_user.clone(),
        users: settings.users.iter().map(boxed).collect(),
        default_output_tokens: settings.assumed_output_tokens,
        default_context_tokens: settings.assumed_context_tokens,
    })
}

fn upstreams(settings: &Settings, clock: &Arc<dyn Clock>) -> anyhow::Result<Upstreams> {
    let transport = Arc::new(Transport::new());
    let mut upstreams: HashMap<Arc<str>, Upstream> = HashMap::new();
    for provider in &settings.providers.upstreams {
        let upstream = upstream(provider, &transport, clock).with_context(|| format!("provider {}", provider.id))?;
        upstreams.insert(provider.id.clone(), upstream);
    }
    if let Some(id) = &settings.providers.echo {
        let echo: Arc<dyn LlmProvider> = Arc::new(EchoProvider::new(clock.clone()));
        let deadlines = deadlines(settings.timeouts);
        upstreams.insert(id.clone(), Upstream { provider: echo.clone(), probe: echo, deadlines });
    }
    Ok(Upstreams::new(upstreams))
}

fn upstream(
    settings: &ProviderSettings,
    transport: &Arc<Transport>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Upstream> {
    Ok(Upstream {
        provider: ai4free_providers::build(settings, transport.clone(), clock.clone())?,
        probe: ai4free_providers::build_probe(settings, transport.clone(), clock.clone())?,
        deadlines: deadlines(settings.timeouts),
    })
}

fn deadlines(timeouts: Timeouts) -> Deadlines {
    Deadlines { first_byte: timeouts.first_byte, idle: timeouts.idle, total: timeouts.total }
}
