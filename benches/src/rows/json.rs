//! Whole answers, as many as there can be: what a request costs.
//!
//! Twice: with another process holding SQLite's write lock, so that the drainer gets nothing done and everything stays in the
//! journal (the request path); and without, until the last row is in the ledger.

use super::{Row, Stage};
use crate::{
    report::{CPU_PATH, CPU_ROWS, Figure, Sheet},
    rig::Sqlite,
};

pub(super) struct Json;

impl Row for Json {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        let floor = stage.on_floor(|load| load)?;
        let gateway = stage.embedded()?;
        let rows = stage.with_rows(&gateway, |load| load)?;
        sheet.record(&CPU_ROWS, Figure::beside(floor.per_request(), rows.per_request()));
        sheet.aside("json: µs of SQLite's threads in it", rows.of_sqlite());
        if Sqlite::is_installed() {
            let path = stage.on_path(&gateway, |load| load)?;
            sheet.record(&CPU_PATH, Figure::beside(floor.per_request(), path.per_request()));
            sheet.aside("json: requests a second", path.rate());
        } else {
            sheet.skip("the request path without the drainer, for want of python3 to hold SQLite's lock");
        }
        stage.keep_embedded(gateway);
        sheet.aside("json: requests a second, floor", floor.rate());
        Ok(())
    }
}
