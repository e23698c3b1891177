//! `[redis]`.

use ai4free_ports::provider_settings::Secret;

use super::section::Section;

/// No `Debug`: the URL holds a password.
#[derive(Clone)]
pub struct Redis {
    pub url: Secret,
    /// Put before the name of every key.
    pub prefix: String,
    pub pool_size: usize,
}

/// `None`: limits are kept in this process.
pub(super) fn read(section: Section<'_>) -> Option<Redis> {
    let url = section.secret("url");
    let schemes =
        ["redis://", "rediss://", "redis-cluster://", "rediss-cluster://", "redis-sentinel://", "rediss-sentinel://"];
    if url.as_ref().is_some_and(|url| !schemes.iter().any(|scheme| url.expose().starts_with(scheme))) {
        section.wrong("url", "expected redis://… or rediss://…");
    }
    let prefix = section.text("prefix");
    let pool_size = usize::try_from(section.number("pool_size", 1..=256)).unwrap_or(1);
    section.finish();
    url.map(|url| Redis { url, prefix, pool_size })
}
