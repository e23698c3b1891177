//! An empty ledger, and one of a million rows: the start, and what a row costs.

use super::{Row, Stage};
use crate::{
    report::{Figure, LEDGER_CPU, LEDGER_START, Sheet},
    rig::{Gateway, Plan, Sqlite},
};

#[derive(Default)]
pub(super) struct Ledger {
    gateways: Option<[Gateway; 2]>,
}

const EVENTS: u64 = 1_000_000;

impl Row for Ledger {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        if !Sqlite::is_installed() {
            sheet.skip("a large ledger, for want of python3 to fill it");
            return Ok(());
        }
        let [empty, mut full] = match self.gateways.take() {
            Some(gateways) => gateways,
            None => [stage.another(&Plan::default())?, filled(stage)?],
        };
        let base = stage.with_rows(&empty, |load| load)?;
        let large = stage.with_rows(&full, |load| load)?;
        sheet.record(&LEDGER_CPU, Figure::beside(base.per_request(), large.per_request()));
        full.stop()?;
        sheet.record(&LEDGER_START, Figure::alone(full.start_again()?.as_secs_f64() * 1e3));
        let began = std::time::Instant::now();
        full.ask("/v1/usage")?;
        sheet.aside("ledger: ms of GET /v1/usage", began.elapsed().as_secs_f64() * 1e3);
        self.gateways = Some([empty, full]);
        Ok(())
    }
}

fn filled(stage: &Stage) -> anyhow::Result<Gateway> {
    let mut gateway = stage.another(&Plan::default())?;
    // The event that is copied.
    stage.on(&gateway, |load| load.most(1))?;
    gateway.wait_until_drained()?;
    gateway.stop()?;
    eprintln!("  (fills a ledger with {EVENTS} rows)");
    Sqlite::open(&gateway.database())?.fill_ledger(EVENTS)?;
    gateway.start_again()?;
    Ok(gateway)
}
