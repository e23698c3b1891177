//! The promises of each port, as test functions that run against **every** adapter of it.
//!
//! A clause is one `pub async fn` that takes a harness (how to make a fresh adapter, how to move its clock). Each module has
//! a macro that turns all its clauses into named tests, so that an adapter's test file is one line. A fault that could be in
//! more than one adapter is mended with a clause here, not with a test of one adapter.

pub mod calendar;
pub mod dialect;
pub mod key_store;
pub mod llm_provider;
pub mod memory_keys;
pub mod rate_limiter;
pub mod recording;
pub mod runtime;
pub mod token_counter;
pub mod usage_journal;
pub mod usage_ledger;
