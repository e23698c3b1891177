//! The contracts of both ports against both databases, and what only this adapter promises.

mod connections;
mod events;
mod full_disk;
mod harness;
mod key_store;
mod limiter_mode;
mod retention;
mod roles;
mod schema;
mod silence;
mod upgrade;
mod usage_ledger;
mod verification;
