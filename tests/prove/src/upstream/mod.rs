//! The provider behind the gateway: answers as each request's script says, and journals what it did.

mod journal;
mod script;
mod server;

pub(crate) use journal::{Served, UpstreamJournal};
pub(crate) use script::{Ending, Moment, PROOF_ID, SCRIPT, Script};
pub(crate) use server::{CHUNK_TEXT, Upstream};
