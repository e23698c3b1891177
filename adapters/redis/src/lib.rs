//! Limits that several replicas of the gateway share, kept in Redis.
//!
//! [`RedisRateLimiter`] is one Lua script (`limiter.lua`) and the work around it: connections that fail fast and recover by
//! themselves, a breaker, a queue of settlements, and the heartbeat of the leases that this replica holds. Redis decides the
//! time, so replicas need no common clock. All keys share one hash tag: a reservation is one atomic step, on a cluster too.

mod breaker;
mod connection;
mod heartbeat;
mod keys;
mod open_leases;
mod options;
mod rate_limiter;
mod script;
mod settler;
mod unavailable;

pub use options::{InvalidOptions, RedisOptions};
pub use rate_limiter::RedisRateLimiter;
