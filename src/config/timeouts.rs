//! `[timeouts]`, and the same four settings on a provider.

use ai4free_ports::provider_settings::Timeouts;

use super::section::Section;

const HOUR: u64 = 60 * 60;

pub(super) fn read(section: Section<'_>) -> Timeouts {
    let timeouts = over(&section, Timeouts::default());
    section.finish();
    timeouts
}

/// Those that are set, over `lower`.
pub(super) fn over(section: &Section<'_>, lower: Timeouts) -> Timeouts {
    let seconds = |key, limit, lower| section.optional_seconds(key, 1..=limit).unwrap_or(lower);
    Timeouts {
        connect: seconds("connect_seconds", 300, lower.connect),
        first_byte: seconds("first_byte_seconds", HOUR, lower.first_byte),
        idle: seconds("idle_seconds", HOUR, lower.idle),
        total: seconds("total_seconds", 24 * HOUR, lower.total),
    }
}
