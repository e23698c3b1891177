//! A client of many connections, and what it saw.
//!
//! In a closed loop each connection sends its next request after the answer. At a rate requests are due at fixed times, and
//! latency counts from the due time: a server that stalls is charged for the queue that it causes.

mod connection;
mod pacer;
mod plan;
mod runner;
mod tally;

pub(crate) use connection::Connection;
pub(crate) use plan::Load;
pub(crate) use runner::{Outcome, by_hand};
pub(crate) use tally::Tally;
