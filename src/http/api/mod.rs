//! Operations: decode, call the use-case, encode.

mod chat;
mod health;
mod images;
mod keys;
mod models;
mod uptime;
mod usage;

pub(super) use chat::ChatApi;
pub(super) use health::HealthApi;
pub use health::{ReadinessSource, Standing};
pub(super) use images::ImagesApi;
pub(super) use keys::KeysApi;
pub(super) use models::ModelsApi;
pub(super) use uptime::UptimeApi;
pub(super) use usage::UsageApi;

/// How the specification groups operations.
#[derive(poem_openapi::Tags)]
enum Tag {
    /// Completions and audio.
    Chat,
    Images,
    Models,
    /// What a key has used, and what it cost.
    Usage,
    /// Administration of API keys, with the system secret.
    Keys,
    /// Whether this process, and the models behind it, answer.
    Health,
}
