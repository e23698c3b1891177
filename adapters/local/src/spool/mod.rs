//! The usage journal on disk: `<data>/spool/<uuid>/00000001.seg`, one directory per process at a time.
//!
//! A request is written when it is opened, at checkpoints and when it is closed, each by one `write(2)`: that survives the
//! death of the process. The death of the machine survives what was synced, if that is asked for. The events of closes are
//! numbered over the whole life of a spool; the [drainer](crate::Drainer) brings them to the ledger in that order. Read in
//! this order: `journal` (the port), `spools` (ours and those of the dead), `turnstile` (the lock), `state` (what it guards),
//! `log` (segments as one sequence), `recovery` (what a dead process left behind), `fates` (what its requests were charged), `record` and `codec` (bytes).

mod ballast;
mod codec;
mod directory;
mod fates;
mod journal;
mod log;
mod reader;
mod record;
mod recovery;
mod segment;
#[expect(clippy::module_inception, reason = "one spool of the several that a process may hold")]
mod spool;
mod spools;
mod state;
mod tail;
mod turnstile;
mod unsynced;
mod write_times;

#[cfg(test)]
mod tests;

pub use journal::{JournalFigures, SpoolJournal, SpoolOptions};
pub(crate) use spool::{Next, Spool};
pub(crate) use spools::Spools;
pub use unsynced::Durability;
pub use write_times::WriteTimes;
