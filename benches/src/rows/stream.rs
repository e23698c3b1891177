//! Streams as fast as they come: what an event costs, with its share of what the request costs.

use super::{Row, Stage};
use crate::report::{CPU_EVENT, Figure, Sheet};

pub(super) struct Stream;

const CONNECTIONS: usize = 32;

impl Row for Stream {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        let load = |load: crate::load::Load| load.connections(CONNECTIONS).streams("bench");
        let floor = stage.on_floor(load)?;
        let gateway = stage.on_embedded(load)?;
        sheet.record(&CPU_EVENT, Figure::beside(floor.per_event(), gateway.per_event()));
        Ok(())
    }
}
