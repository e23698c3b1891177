//! `[usage]`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::section::Section;

const MIB: u64 = 1 << 20;
const DAY_SECONDS: u64 = 24 * 3600;

#[derive(Clone, Debug)]
pub struct Usage {
    /// For how long events are kept. `None`: for ever.
    pub retention: Option<Duration>,
    pub spool_dir: PathBuf,
    pub spool_max_bytes: u64,
    pub durability: Durability,
    pub when_full: WhenFull,
}

/// What a request that a provider works on survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process.
    #[default]
    ProcessSafe,
    /// The loss of power as well.
    PowerSafe,
}

/// What becomes of requests while the journal takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    #[default]
    Reject,
    AllowUnmetered,
}

pub(super) fn read(section: Section<'_>, data_dir: &Path) -> Usage {
    let durabilities = [("process_safe", Durability::ProcessSafe), ("power_safe", Durability::PowerSafe)];
    let policies = [("reject", WhenFull::Reject), ("allow_unmetered", WhenFull::AllowUnmetered)];
    let days = section.optional_number("retention_days", 1..=36_500);
    let usage = Usage {
        retention: days.map(|days| Duration::from_secs(days * DAY_SECONDS)),
        spool_dir: section.optional_text("spool_dir").map_or_else(|| data_dir.join("spool"), PathBuf::from),
        spool_max_bytes: section.number("spool_max_bytes", MIB..=1024 * 1024 * MIB),
        durability: section.choice("durability", &durabilities).unwrap_or_default(),
        when_full: section.choice("when_full", &policies).unwrap_or_default(),
    };
    section.finish();
    usage
}
