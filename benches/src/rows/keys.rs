//! One key, and a hundred thousand in turn, on the same gateway.

use std::thread;

use anyhow::anyhow;

use super::{Row, Stage};
use crate::{
    load::Load,
    machine::resident_kib,
    report::{Figure, KEYS, Sheet},
    rig::{Gateway, Plan},
};

#[derive(Default)]
pub(super) struct Keys {
    gateway: Option<(Gateway, Vec<String>)>,
}

const COUNT: usize = 100_000;
/// That ask for new keys at once, and use them for the first time.
const CONNECTIONS: usize = 16;

impl Row for Keys {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        if self.gateway.is_none() {
            let gateway = stage.another(&Plan::default())?;
            eprintln!("  (makes {COUNT} keys, and uses each of them once)");
            let keys = make(&gateway)?;
            // A key's first request waits for a grant of the ledger. Whoever is told to come back, because too many wait, does.
            for _ in 0..2 {
                let load = Load::closed(gateway.address, "", CONNECTIONS, stage.span).keys(&keys).most(COUNT);
                load.run(gateway.process.id())?;
            }
            gateway.wait_until_drained()?;
            sheet.aside("keys: MB with all of them in use", resident_kib(gateway.process.id()) as f64 / 1024.0);
            self.gateway = Some((gateway, keys));
        }
        let Some((gateway, keys)) = &self.gateway else { return Ok(()) };
        let one = stage.with_rows(gateway, |load| load)?;
        let many = stage.with_rows(gateway, |load| load.keys(keys))?;
        sheet.record(&KEYS, Figure::beside(one.per_request(), many.per_request()));
        Ok(())
    }
}

/// Over the API, as an operator's script would.
fn make(gateway: &Gateway) -> anyhow::Result<Vec<String>> {
    let make_some = || {
        let mut administrator = gateway.administrator()?;
        (0..COUNT / CONNECTIONS).map(|_| administrator.new_key()).collect::<anyhow::Result<Vec<String>>>()
    };
    thread::scope(|scope| {
        let makers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(make_some)).collect();
        let mut keys = Vec::with_capacity(COUNT);
        for maker in makers {
            keys.extend(maker.join().map_err(|_| anyhow!("a thread has ended"))??);
        }
        Ok(keys)
    })
}
