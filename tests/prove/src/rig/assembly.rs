//! Services that all proofs share, and the rig that each of them gets for itself.

use std::fs;

use tempfile::TempDir;

use super::{
    catalogue,
    chaos::Link,
    gateway::{Gateway, Launcher, drained},
    ledger,
    postgres::Postgres,
    redis::Redis,
    sql::Session,
};
use crate::{findings::Findings, upstream::Upstream};

/// Texts that must not turn up anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Canaries {
    pub(crate) provider_key: String,
    pub(crate) system_secret: String,
    pub(crate) pepper: String,
    pub(crate) database_password: String,
}

impl Canaries {
    fn new(seed: u64) -> Self {
        let canary = |what: &str| format!("canary-{what}+of/{seed:016x}=until?the&end");
        Self {
            provider_key: format!("sk-canary-provider-{seed:016x}-until-the-end"),
            system_secret: canary("system"),
            pepper: canary("pepper"),
            // As it stands in a URL.
            database_password: format!("canary-database-{seed:016x}"),
        }
    }
}

/// Started once, used by one proof after the other.
pub(crate) struct Services {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    pub(crate) canaries: Canaries,
    rigs: u32,
}

impl Services {
    pub(crate) async fn start(seed: u64) -> Self {
        let canaries = Canaries::new(seed);
        let (postgres, redis) = tokio::join!(Postgres::start(&canaries.database_password), Redis::start());
        Self { postgres, redis, canaries, rigs: 0 }
    }

    /// Whatever a proof has done to them.
    pub(crate) async fn heal(&mut self) {
        self.postgres.heal().await;
        self.redis.heal().await;
    }

    pub(crate) fn rig(&mut self) -> Builder<'_> {
        Builder {
            services: self,
            replicas: 1,
            redis: true,
            variables: Vec::new(),
            toml: String::new(),
            launchers: Vec::new(),
        }
    }
}

pub(crate) struct Builder<'a> {
    services: &'a mut Services,
    replicas: usize,
    redis: bool,
    variables: Vec<(String, String)>,
    toml: String,
    launchers: Vec<Launcher>,
}

impl<'a> Builder<'a> {
    pub(crate) fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// Limits are kept in the process.
    pub(crate) fn without_redis(mut self) -> Self {
        self.redis = false;
        self
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// More of `ai4free.toml`.
    pub(crate) fn toml(mut self, text: &str) -> Self {
        self.toml.push_str(text);
        self
    }

    /// What runs the replicas, in their order.
    pub(crate) fn launchers(mut self, launchers: Vec<Launcher>) -> Self {
        self.launchers = launchers;
        self
    }

    pub(crate) async fn start(self) -> Rig<'a> {
        let mut rig = self.start_without_gateways().await;
        for _ in 0..rig.replicas {
            rig.add_replica().await;
        }
        rig
    }

    pub(crate) async fn start_without_gateways(self) -> Rig<'a> {
        let services = self.services;
        services.rigs += 1;
        let database = format!("prove_{}", services.rigs);
        services.postgres.create_database(&database).await;
        services.redis.command(&["FLUSHALL"]).await;
        let files = tempfile::Builder::new().prefix("ai4free-prove-rig.").tempdir_in("/tmp").unwrap();
        let models = files.path().join("models.json");
        fs::write(&models, catalogue::file()).unwrap();
        let settings = format!("[catalogue]\nmodels = [{:?}]\n{}", models.to_str().unwrap(), self.toml);
        let upstream = Upstream::start().await;
        let (to_postgres, to_redis, to_upstream) = (
            Link::to(services.postgres.address).await,
            Link::to(services.redis.address).await,
            Link::to(upstream.address).await,
        );
        let canaries = services.canaries.clone();
        let mut variables = vec![
            ("HOST".to_owned(), "127.0.0.1".to_owned()),
            ("PORT".to_owned(), "0".to_owned()),
            ("AI4FREE__ADMIN__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("AI4FREE__SERVER__PRE_STOP_SECONDS".to_owned(), "0".to_owned()),
            ("AI4FREE__DEFAULT_PLAN".to_owned(), "unlimited".to_owned()),
            ("SYSTEM_SECRET".to_owned(), canaries.system_secret.clone()),
            ("AI4FREE__KEYS__PEPPER".to_owned(), canaries.pepper.clone()),
            ("OPENAI_API_KEY".to_owned(), canaries.provider_key.clone()),
            ("OPENAI_BASE_URL".to_owned(), format!("http://{}/v1", to_upstream.address)),
            (
                "DATABASE_URL".to_owned(),
                format!("postgres://postgres:{}@{}/{database}", services.postgres.password, to_postgres.address),
            ),
        ];
        if self.redis {
            variables.push(("REDIS_URL".to_owned(), format!("redis://{}", to_redis.address)));
        }
        variables.extend(self.variables);
        Rig {
            services,
            gateways: Vec::new(),
            upstream,
            to_postgres,
            to_redis,
            to_upstream,
            database,
            canaries,
            settings,
            variables,
            launchers: self.launchers,
            replicas: self.replicas,
            _files: files,
        }
    }
}

/// What one proof works with.
pub(crate) struct Rig<'a> {
    pub(crate) services: &'a mut Services,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) upstream: Upstream,
    pub(crate) to_postgres: Link,
    pub(crate) to_redis: Link,
    pub(crate) to_upstream: Link,
    pub(crate) database: String,
    pub(crate) canaries: Canaries,
    settings: String,
    variables: Vec<(String, String)>,
    launchers: Vec<Launcher>,
    replicas: usize,
    _files: TempDir,
}

impl Rig<'_> {
    pub(crate) async fn add_replica(&mut self) {
        let mut gateway = self.spawn_replica();
        gateway.serving().await;
        self.gateways.push(gateway);
    }

    /// Does not wait until it serves.
    pub(crate) fn spawn_replica(&self) -> Gateway {
        let launcher = self.launchers.get(self.gateways.len()).cloned().unwrap_or_default();
        Gateway::spawn(&self.settings, self.variables.clone(), &self.canaries.system_secret, launcher)
    }

    pub(crate) async fn session(&self) -> Session {
        self.services.postgres.session(&self.database).await.unwrap()
    }

    /// Every event, once all replicas have brought theirs.
    pub(crate) async fn ledger(&self) -> Vec<ledger::Event> {
        for gateway in &self.gateways {
            drained(gateway).await;
        }
        ledger::events(&mut self.session().await).await
    }

    /// What of the ledger contradicts itself, once all replicas have brought their events.
    pub(crate) async fn check_ledger(&self, findings: &mut Findings) {
        let mut session = self.session().await;
        let differences = ledger::differences(&mut session).await;
        findings.exactly("differences_between_rows_and_sums", 0, differences.len() as i128);
        differences.into_iter().for_each(|difference| findings.violation(difference));
        findings.figure("numbers_without_a_row", ledger::empty_numbers(&mut session).await);
    }

    /// Stops everything and drops the database; returns how often a gateway panicked.
    pub(crate) async fn finish(mut self) -> usize {
        let panics = self.gateways.iter().map(Gateway::panics).sum();
        for gateway in &mut self.gateways {
            gateway.process.kill().await;
        }
        self.services.postgres.drop_database(&self.database).await;
        panics
    }
}
