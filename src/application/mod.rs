//! Use-cases. They know the ports and nothing else: no framework, no database, no runtime.
//!
//! A chat request flows through them in one direction:
//! [`authentication`] → [`chat`] → [`inference`] ( [`routing`] → [`admission`] → [`attempt`] → [`metering`] ).
//!
//! A provider can't be called without [`admission::Admitted`], and only [`admission`] can make one.

pub mod admission;
pub mod attempt;
pub mod authentication;
pub mod bounds;
pub mod ceiling;
pub mod chat;
pub mod counters;
pub mod counting;
pub mod drains;
pub mod failure;
pub mod gate;
pub mod grants;
pub mod images;
pub mod inference;
pub mod key_budget;
pub mod keys;
pub mod leases;
pub mod metered_stream;
pub mod metering;
pub mod models;
pub mod observation;
pub mod partial_reply;
pub mod policy;
pub mod pricing;
pub mod reprice;
pub mod reserver;
pub mod routing;
pub mod serving;
pub mod slices;
pub mod standing;
pub mod unmetered;
pub mod uptime;
pub mod usage;

#[cfg(test)]
mod tests;
