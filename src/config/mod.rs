//! Configuration: what the operator wrote, checked as a whole, as values.
//!
//! Later wins: `data/ai4free.default.toml`, the old system's variables, the operator's file, the environment, flags. Every
//! mistake in all of them is found in one go ([`ConfigErrors`]); nothing is half loaded. The environment comes in as a map
//! and is never changed. One file per section; [`section`] reads them.

mod base_url;
mod budget;
pub mod catalogue;
pub mod cluster;
mod data_file;
pub mod database;
mod environment;
mod errors;
pub mod keys;
mod layers;
pub mod limits;
mod model_file;
mod old_system;
mod provider_file;
pub mod providers;
pub mod redis;
mod reference;
pub mod secrets;
mod section;
pub mod server;
mod settings;
mod show;
mod sources;
pub mod telemetry;
mod timeouts;
pub mod usage;

pub use self::{
    environment::Environment,
    errors::{ConfigErrors, Problem},
    reference::reference,
    secrets::{PepperSource, Secrets},
    settings::{Settings, load},
    sources::{Flags, Sources},
};

#[cfg(test)]
mod test_calendar;
#[cfg(test)]
mod tests;
