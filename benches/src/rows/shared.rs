//! Limits in Redis and the ledger in Postgres, which stands still (SIGSTOP) while the load runs: that all requests succeed
//! shows that it is not on their path, and what is measured is the path alone.

use std::{thread::sleep, time::Duration};

use super::{Row, Stage};
use crate::{
    load::Load,
    report::{Figure, SHARED_CALLS, SHARED_PATH, SHARED_SETTLED, Sheet},
    rig::{Gateway, Plan, Postgres, Redis},
};

const CHANGE_IS_KNOWN: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Shared {
    stores: Option<Stores>,
    is_skipped: bool,
}

struct Stores {
    gateway: Gateway,
    redis: Redis,
    postgres: Postgres,
}

impl Row for Shared {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        if self.stores.is_none() && !self.is_skipped {
            self.start(stage, sheet)?;
        }
        let Some(stores) = &self.stores else { return Ok(()) };
        let floor = stage.on_floor(|load| load)?;
        let gateway = &stores.gateway;
        // Once with Postgres: whatever may be asked of it for this key is known by then.
        stage.on(gateway, Load::brief)?;
        gateway.wait_until_drained()?;
        stores.postgres.process.pause()?;
        let path = stage.on(gateway, |load| load);
        stores.postgres.process.resume()?;
        let path = path?;
        gateway.wait_until_drained()?;
        sheet.record(&SHARED_PATH, Figure::beside(floor.per_request(), path.per_request()));
        let calls = stores.redis.watched(|| stage.on(gateway, Load::brief))?;
        let requests = calls.during.sent as f64;
        sheet.record(&SHARED_CALLS, Figure::alone(calls.reservations as f64 / requests));
        sheet.record(&SHARED_SETTLED, Figure::alone(requests / calls.settlements as f64));
        gateway.wait_until_drained()
    }
}

impl Shared {
    fn start(&mut self, stage: &Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        let (Some(redis), Some(postgres)) = (Redis::start()?, Postgres::start()?) else {
            self.is_skipped = true;
            sheet.skip("the rows with Redis and Postgres, which are not installed");
            return Ok(());
        };
        let variables = vec![("DATABASE_URL".to_owned(), postgres.url()), ("REDIS_URL".to_owned(), redis.url())];
        let gateway = stage.another(&Plan { variables, ..Plan::default() })?;
        // A key is looked up once more when a replica learns that it has changed, and it has just been made.
        sleep(CHANGE_IS_KNOWN);
        self.stores = Some(Stores { gateway, redis, postgres });
        Ok(())
    }
}
