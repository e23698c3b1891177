//! The processes of a benchmark: started on free ports, with directories of their own, and killed when they are dropped.

mod catalogue;
mod gateway;
mod http;
mod ports;
mod postgres;
mod process;
mod redis;
mod roles;
mod sqlite;

pub(crate) use gateway::{Gateway, Plan};
use http::Reply;
pub(crate) use postgres::Postgres;
pub(crate) use process::Process;
pub(crate) use redis::Redis;
pub(crate) use roles::{Roles, current_binary};
pub(crate) use sqlite::Sqlite;
