//! `[redis]`.

use std::time::Duration;

use ai4free_ports::provider_settings::Secret;

use super::section::Section;

/// No `Debug`: the URL holds a password.
#[derive(Clone)]
pub struct Redis {
    pub url: Secret,
    /// Begins the name of every key, within `{}`.
    pub prefix: String,
    /// How long an answer is waited for.
    pub timeout: Duration,
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
    let is_plain = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if prefix.is_empty() || prefix.len() > 32 || !is_plain {
        section.wrong("prefix", "expected 1 to 32 characters of A-Z a-z 0-9 . _ -");
    }
    let timeout = Duration::from_millis(section.number("timeout_ms", 20..=5_000));
    section.finish();
    url.map(|url| Redis { url, prefix, timeout })
}
