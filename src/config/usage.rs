//! `[usage]`.

use std::path::{Path, PathBuf};

use super::section::Section;

const MIB: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Usage {
    pub spool_dir: PathBuf,
    pub spool_max_bytes: u64,
}

pub(super) fn read(section: Section<'_>, data_dir: &Path) -> Usage {
    let usage = Usage {
        spool_dir: section.optional_text("spool_dir").map_or_else(|| data_dir.join("spool"), PathBuf::from),
        spool_max_bytes: section.number("spool_max_bytes", 16 * MIB..=1024 * 1024 * MIB),
    };
    section.finish();
    usage
}
