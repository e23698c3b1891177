//! Figures, goals, and the table in which they meet.

mod goals;
mod sheet;
mod table;

pub(crate) use goals::{
    ADDED_P50, CPU_EVENT, CPU_PATH, CPU_ROWS, GAP_P99, IDLE_NEIGHBOURS, IDLE_STREAM, KEYS, LARGE_PROMPT, LEDGER_CPU,
    LEDGER_START, MODELS, RESIDENT_IDLE, RESIDENT_LOADED, SHARED_CALLS, SHARED_PATH, SHARED_SETTLED, SOAK_CPU,
    SOAK_SLOPE, START,
};
pub(crate) use goals::{Goal, MEASURES, Measure};
pub(crate) use sheet::{Figure, Sheet};
pub(crate) use table::{markdown, write_between_markers};
