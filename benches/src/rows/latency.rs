//! One request at a time: how much later the answer comes than from the upstream itself.

use super::{Row, Stage};
use crate::{
    load::{Load, Outcome},
    report::{ADDED_P50, Figure, Sheet},
};

pub(super) struct Latency;

impl Row for Latency {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        let load = |load: Load| load.connections(1);
        let p50 = |outcome: &Outcome| outcome.tally.latency.value_at_quantile(0.5) as f64;
        let direct = Load::closed(stage.roles.upstream, "none", 1, stage.span);
        let direct = p50(&stage.run(&direct, std::process::id())?);
        let floor = p50(&stage.on_floor(load)?);
        let gateway = p50(&stage.on_embedded(load)?);
        sheet.record(&ADDED_P50, Figure::beside(floor - direct, gateway - direct));
        sheet.aside("latency: p50 without anything between, µs", direct);
        Ok(())
    }
}
