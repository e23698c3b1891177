//! The gateway: use-cases, the HTTP surface that drives them, configuration, and the composition root.
//!
//! Read [`application`] first, then [`wiring`]: the one tells what happens to a request, the other what it happens with.

pub mod application;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod http;
pub mod lifecycle;
pub mod telemetry;
pub mod wiring;
