//! The contracts of both ports against both databases, and what only this adapter promises.

mod connections;
mod harness;
mod key_store;
mod limiter_mode;
mod roles;
mod schema;
mod usage_ledger;
