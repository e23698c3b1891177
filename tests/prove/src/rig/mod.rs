//! Everything that a proof needs on one machine: stores, links, replicas, an upstream, a client.

mod assembly;
pub(crate) mod catalogue;
pub(crate) mod chaos;
pub(crate) mod client;
pub(crate) mod dice;
pub(crate) mod eventually;
pub(crate) mod gateway;
pub(crate) mod ledger;
mod ports;
mod postgres;
mod process;
mod redis;
pub(crate) mod sql;

pub(crate) use assembly::{Builder, Rig, Services};
pub(crate) use process::Signal;
pub(crate) use redis::Answer;
