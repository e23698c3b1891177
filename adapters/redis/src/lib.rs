//! Limits that several replicas of the gateway share, kept in Redis.
//!
//! [`RedisRateLimiter`] is one Lua script (`limiter.lua`, `money.lua`, `copies.lua`) and the work around it: connections that fail fast and recover by
//! themselves, a breaker, a queue of settlements, and the heartbeat of the leases that this replica holds. Redis decides the
//! time, so replicas need no common clock. Budgets are spent out of grants of the ledger, which also counts how often Redis
//! lost its data (`epochs.rs`). Replicas that died are found by the others (`dead_replicas.rs`). What budgets have counted can be read and corrected
//! by who is no replica: [`RedisBudgetCounters`]. All keys share one hash tag: a reservation is one atomic step, on a cluster too.

mod breaker;
mod budget_counters;
mod connection;
mod copies;
mod dead_replicas;
mod epochs;
mod heartbeat;
mod keys;
mod money;
mod open_leases;
mod options;
mod rate_limiter;
mod reservation;
mod script;
mod server_info;
mod settler;
mod stored_event;
mod unavailable;

pub use budget_counters::RedisBudgetCounters;
pub use dead_replicas::GivenUp;
pub use options::{InvalidOptions, RedisOptions};
pub use rate_limiter::RedisRateLimiter;
