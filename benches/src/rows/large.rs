//! Long prompts: does anything look at every byte more often than it must?

use super::{Row, Stage};
use crate::{
    load::Load,
    report::{Figure, LARGE_PROMPT, Sheet},
};

pub(super) struct Large;

const CONNECTIONS: usize = 16;
const BYTES: usize = 64 * 1024;

impl Row for Large {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        let load = |load: Load| load.connections(CONNECTIONS).prompt(BYTES);
        let floor = stage.on_floor(load)?;
        let gateway = stage.on_embedded(load)?;
        sheet.record(&LARGE_PROMPT, Figure::beside(floor.per_request(), gateway.per_request()));
        Ok(())
    }
}
