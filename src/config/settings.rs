//! The whole configuration.

use std::{fmt, path::PathBuf, sync::Arc};

use ai4free_ports::{catalogue::Snapshot, provider_settings::Timeouts, runtime::Calendar};

use super::{
    catalogue,
    cluster::{self, Cluster},
    database::{self, Database},
    environment::Environment,
    errors::ConfigErrors,
    keys::{self, Keys},
    layers,
    limits::{self, LimitSettings},
    providers::{self, Providers},
    redis::{self, Redis},
    section::{Reading, Section},
    server::{self, Admin, Http, Server},
    show,
    sources::Sources,
    telemetry::{self, Telemetry},
    timeouts,
    usage::{self, Usage},
};

/// Everything that was configured, checked. Reading it again makes a new one; nothing changes in place.
#[derive(Clone)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub server: Server,
    pub http: Http,
    pub admin: Admin,
    pub database: Database,
    /// `None`: limits are kept in this process.
    pub redis: Option<Redis>,
    pub cluster: Cluster,
    pub keys: Keys,
    pub limits: LimitSettings,
    pub usage: Usage,
    /// Of providers that have none of their own.
    pub timeouts: Timeouts,
    pub telemetry: Telemetry,
    pub providers: Providers,
    pub catalogue: Arc<Snapshot>,
    /// One line each for the log: what is ignored, what is disabled and why.
    pub notes: Vec<String>,
    shown: Arc<str>,
}

impl Settings {
    /// The effective configuration as TOML, secrets redacted.
    #[must_use]
    pub fn show(&self) -> &str {
        &self.shown
    }
}

/// As [`Settings::show`]: never a secret.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Reads and checks all sources; `calendar` says which time zones there are. Writes nothing.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(sources: &Sources, calendar: &dyn Calendar) -> Result<Settings, ConfigErrors> {
    let environment = Environment::new(sources.environment.clone(), sources.dotenv.as_deref())?;
    let reading = Reading::new(&environment, calendar);
    let merged = layers::merge(sources, &reading);
    let root = Section::root(&merged, &reading);

    let data_dir = PathBuf::from(root.text("data_dir"));
    if data_dir.as_os_str().is_empty() {
        root.wrong("data_dir", "must not be empty");
    }
    let database = database::read(root.section("database"), &data_dir);
    let limits = limits::read(&root);
    let timeouts = timeouts::read(root.section("timeouts"));
    let files = catalogue::read_files(root.section("catalogue"));
    let providers = providers::read(&root, &files.providers, timeouts);
    let mut settings = Settings {
        server: server::read_server(root.section("server")),
        http: server::read_http(root.section("http")),
        admin: server::read_admin(root.section("admin")),
        redis: redis::read(root.section("redis")),
        cluster: cluster::read(root.section("cluster")),
        keys: keys::read(root.section("keys"), database.is_sqlite()),
        usage: usage::read(root.section("usage"), &data_dir),
        telemetry: telemetry::read(root.section("telemetry")),
        catalogue: Arc::new(catalogue::snapshot(&files.models, &providers, &limits.models, &reading)),
        notes: Vec::new(),
        shown: Arc::from(""),
        data_dir,
        database,
        limits,
        timeouts,
        providers,
    };
    root.finish();

    let (problems, notes, secret_paths) = reading.finish();
    if !problems.is_empty() {
        return Err(problems.into());
    }
    settings.notes = notes;
    settings.shown = show::effective(&merged, &secret_paths, &settings.providers).into();
    Ok(settings)
}
