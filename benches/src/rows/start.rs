//! The memory of the gateway that the rows before have put under load, then its end, and a start on what it has left.

use std::{thread::sleep, time::Duration};

use super::{Row, Stage};
use crate::{
    machine::resident_kib,
    report::{Figure, RESIDENT_IDLE, RESIDENT_LOADED, START, Sheet},
};

pub(super) struct Start;

/// Whatever is done at leisure after a start is done by then.
const SETTLED: Duration = Duration::from_secs(2);

impl Row for Start {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        let mut gateway = stage.embedded()?;
        gateway.wait_until_drained()?;
        let loaded = megabytes(gateway.process.id());
        gateway.stop()?;
        let started = gateway.start_again()?;
        sleep(SETTLED);
        let idle = megabytes(gateway.process.id());
        stage.keep_embedded(gateway);
        sheet.record(&START, Figure::alone(started.as_secs_f64() * 1e3));
        sheet.record(&RESIDENT_IDLE, Figure::alone(idle));
        sheet.record(&RESIDENT_LOADED, Figure::alone(loaded));
        Ok(())
    }
}

fn megabytes(process: u32) -> f64 {
    resident_kib(process) as f64 / 1024.0
}
