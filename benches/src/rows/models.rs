//! A catalogue of ten models, and one of ten thousand, each of which is asked for in turn.

use super::{Row, Stage};
use crate::{
    machine::resident_kib,
    report::{Figure, MODELS, Sheet},
    rig::{Gateway, Plan},
};

#[derive(Default)]
pub(super) struct Models {
    gateways: Option<[(Gateway, Vec<String>); 2]>,
}

const COUNTS: [usize; 2] = [10, 10_000];

impl Row for Models {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        if self.gateways.is_none() {
            let [few, many] = COUNTS;
            let (few, many) = (start(stage, few)?, start(stage, many)?);
            sheet.aside("models: MB with 10,000", resident_kib(many.0.process.id()) as f64 / 1024.0);
            self.gateways = Some([few, many]);
        }
        let Some([few, many]) = &self.gateways else { return Ok(()) };
        let few = stage.with_rows(&few.0, |load| load.models(&few.1))?;
        let many = stage.with_rows(&many.0, |load| load.models(&many.1))?;
        sheet.record(&MODELS, Figure::beside(few.per_request(), many.per_request()));
        Ok(())
    }
}

fn start(stage: &Stage, count: usize) -> anyhow::Result<(Gateway, Vec<String>)> {
    let models: Vec<String> = (0..count).map(|number| format!("vendor/model{number}")).collect();
    let gateway = stage.another(&Plan { models: models.clone(), ..Plan::default() })?;
    // Each of them once: what is made when a model is first asked for is there.
    stage.on(&gateway, |load| load.models(&models).most(count))?;
    gateway.wait_until_drained()?;
    Ok((gateway, models))
}
