//! Streams as a model makes them, some twenty-five at a time: how regularly their chunks arrive.

use super::{Row, Stage};
use crate::{
    load::{Load, Outcome},
    report::{Figure, GAP_P99, Sheet},
};

pub(super) struct Gap;

const STREAMS_PER_SECOND: f64 = 40.0;
/// More than are ever open.
const CONNECTIONS: usize = 256;

impl Row for Gap {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        let load = |load: Load| load.connections(CONNECTIONS).streams("bench-gap10").rate(STREAMS_PER_SECOND);
        let p99 = |outcome: &Outcome| outcome.tally.gap.value_at_quantile(0.99) as f64 / 1000.0;
        let floor = stage.on_floor(load)?;
        let gateway = stage.on_embedded(load)?;
        sheet.record(&GAP_P99, Figure::beside(p99(&floor), p99(&gateway)));
        Ok(())
    }
}
