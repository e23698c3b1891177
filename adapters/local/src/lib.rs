//! What the gateway does for itself, in its own process and on its own disk.
//!
//! The small ports of [`ai4free_ports::runtime`] ([`SystemClock`], [`UuidV7Ids`], [`OsSecrets`], [`HmacKeyHasher`],
//! [`TokioSpawner`], [`JiffCalendar`]), the catalogue in memory, the key cache, the rate limiter of a single process, what
//! stands in for the shared one while that is away, and the usage journal on disk with the drainer that brings it to the
//! ledger.

mod calendar;
mod catalogue;
mod clock;
mod drainer;
mod fallback;
mod heart;
mod ids;
mod key_cache;
mod key_hasher;
mod rate_limiter;
mod secrets;
mod spawner;
mod spool;

#[cfg(test)]
mod runtime_tests;
#[cfg(test)]
mod test_events;

pub use calendar::JiffCalendar;
pub use catalogue::SwappableCatalogue;
pub use clock::SystemClock;
pub use drainer::Drainer;
pub use fallback::{FallbackLimiter, ReplicaShare};
pub use ids::UuidV7Ids;
pub use key_cache::{CachedKeyStore, KeyFeed};
pub use key_hasher::{HmacKeyHasher, Pepper};
pub use rate_limiter::MemoryRateLimiter;
pub use secrets::OsSecrets;
pub use spawner::TokioSpawner;
pub use spool::{Durability, JournalFigures, SpoolJournal, SpoolOptions, WriteTimes};
