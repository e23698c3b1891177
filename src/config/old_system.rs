//! Variables of the system that this one replaces: those that still mean something, and those that are named in one line
//! of the log and ignored.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{environment::Variable, section::Reading};

const NEON: &str = "NEON_POSTGRES_URI";
pub(super) const POSTGRES: [&str; 5] =
    ["POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"];
pub(super) const REDIS: [&str; 4] = ["REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD"];
pub(super) const IGNORED: [&str; 10] = [
    "FLASK_SECRET_KEY",
    "FLASK_DEBUG",
    "FLASK_ENV",
    "LOCAL_API_URL",
    "FIREBASE_SERVICE_ACCOUNT_PATH",
    "SUPABASE_URL",
    "SUPABASE_KEY",
    "AZURE_DEPLOYMENT_NAME",
    "PROVIDER_1_API_KEY",
    "PROVIDER_6_API_KEY",
];

/// Settings that follow from old variables. Everything else that sets them wins.
pub(super) fn settings(reading: &Reading<'_>) -> Vec<(&'static str, Variable)> {
    let ignored: Vec<&str> = IGNORED.into_iter().filter(|name| reading.environment.is_set(name)).collect();
    if !ignored.is_empty() {
        reading.note(format!("ignored, they mean nothing here: {}", ignored.join(", ")));
    }
    let database = database_url(reading).map(|variable| ("database.url", variable));
    let redis = redis_url(reading).map(|variable| ("redis.url", variable));
    database.into_iter().chain(redis).collect()
}

/// The parts win over nothing: they are read only when there is no whole URL.
fn database_url(reading: &Reading<'_>) -> Option<Variable> {
    if let Some(whole) = get(reading, NEON) {
        if POSTGRES.iter().any(|name| reading.environment.is_set(name)) {
            reading
                .note(format!("{} are ignored beside {NEON}; DATABASE_URL is better than both", POSTGRES.join(", ")));
        }
        return Some(whole);
    }
    let [host, port, user, password, database] = POSTGRES.map(|name| get(reading, name));
    let host = host?;
    let port = port.map_or_else(|| "5432".to_owned(), |port| port.value);
    let database = database.map_or_else(|| "postgres".to_owned(), |database| encoded(&database.value));
    let user = user.map_or_else(|| "postgres".to_owned(), |user| user.value);
    let login = login(&user, password.as_ref());
    let value = format!("postgres://{login}{}:{port}/{database}", host.value);
    Some(Variable { value, origin: "variables POSTGRES_…".to_owned() })
}

fn redis_url(reading: &Reading<'_>) -> Option<Variable> {
    let [host, port, user, password] = REDIS.map(|name| get(reading, name));
    let host = host?.value;
    let port = port.map_or_else(|| "6379".to_owned(), |port| port.value);
    let login = password.map(|password| login(user.as_ref().map_or("", |user| &user.value), Some(&password)));
    // Upstash answers over TLS only.
    let scheme = if host.ends_with("upstash.io") { "rediss" } else { "redis" };
    let value = format!("{scheme}://{}{host}:{port}/0", login.unwrap_or_default());
    Some(Variable { value, origin: "variables REDIS_…".to_owned() })
}

fn get(reading: &Reading<'_>, name: &str) -> Option<Variable> {
    reading.keep(reading.environment.get(name)).flatten()
}

fn login(user: &str, password: Option<&Variable>) -> String {
    match password {
        Some(password) => format!("{}:{}@", encoded(user), encoded(&password.value)),
        None => format!("{}@", encoded(user)),
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
