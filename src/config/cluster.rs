//! `[cluster]`.

use super::section::Section;

#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// How many processes share the limits, as far as a process can't see it for itself.
    pub replicas: u32,
}

pub(super) fn read(section: Section<'_>) -> Cluster {
    let cluster = Cluster { replicas: u32::try_from(section.number("replicas", 1..=10_000)).unwrap_or(1) };
    section.finish();
    cluster
}
