//! The edge of the hexagon: domain types, and the ports through which the use-cases reach the world.
//!
//! There is no I/O here, no framework and no runtime. Use-cases (`src/application` of the root package) know this crate
//! only; adapters (`adapters/*`) implement its traits and never know each other; `src/wiring.rs` brings both together.
//!
//! Read in this order: [`request`], [`llm_provider`], [`rate_limiter`], [`usage_journal`], [`usage_ledger`], [`key_store`].
//! What every adapter of a port must keep is written as tests in the crate `ai4free-contract`.

pub mod budget;
pub mod budget_counters;
pub mod catalogue;
pub mod chat;
pub mod dialect;
pub mod error;
pub mod key;
pub mod key_store;
pub mod limits;
pub mod llm_provider;
pub mod money;
pub mod provider_settings;
pub mod rate_limiter;
pub mod request;
pub mod runtime;
pub mod usage;
pub mod usage_journal;
pub mod usage_ledger;

/// Fails to compile when a port stops being usable as `Arc<dyn Port>`.
const _OBJECT_SAFE: () = {
    const fn held_as_object<T: ?Sized + Send + Sync>() {}
    held_as_object::<dyn budget_counters::BudgetCounters>();
    held_as_object::<dyn catalogue::Catalogue>();
    held_as_object::<dyn dialect::Dialect>();
    held_as_object::<dyn key_store::KeyStore>();
    held_as_object::<dyn llm_provider::LlmProvider>();
    held_as_object::<dyn rate_limiter::RateLimiter>();
    held_as_object::<dyn runtime::Calendar>();
    held_as_object::<dyn runtime::Clock>();
    held_as_object::<dyn runtime::IdSource>();
    held_as_object::<dyn runtime::KeyHasher>();
    held_as_object::<dyn runtime::RequestObserver>();
    held_as_object::<dyn runtime::SecretSource>();
    held_as_object::<dyn runtime::TaskSpawner>();
    held_as_object::<dyn runtime::Timer>();
    held_as_object::<dyn runtime::TokenCounter>();
    held_as_object::<dyn usage_journal::UsageJournal>();
    held_as_object::<dyn usage_ledger::UsageLedger>();
};
