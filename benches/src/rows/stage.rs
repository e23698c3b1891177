//! What all rows share: the processes, and how a load is put on one of them.

use std::{path::PathBuf, time::Duration};

use crate::{
    load::{Load, Outcome},
    machine::{CpuTimes, Spent, wait_until_idle},
    rig::{Gateway, Plan, Roles, Sqlite},
};

pub(crate) struct Stage {
    pub(crate) roles: Roles,
    pub(crate) binary: PathBuf,
    /// How long a load lasts.
    pub(crate) span: Duration,
    pub(crate) soak: Duration,
    wait_idle: Duration,
    embedded: Option<Gateway>,
}

/// What the requests of a load have cost, with all that was left to do after them.
pub(crate) struct WithRows {
    pub(crate) spent: Spent,
    pub(crate) requests: u64,
}

impl Stage {
    pub(crate) fn new(binary: PathBuf, span: Duration, soak: Duration, wait_idle: Duration) -> anyhow::Result<Self> {
        Ok(Self { roles: Roles::start()?, binary, span, soak, wait_idle, embedded: None })
    }

    /// The gateway with SQLite and limits in memory, to be [kept](Self::keep_embedded) for the next row.
    pub(crate) fn embedded(&mut self) -> anyhow::Result<Gateway> {
        self.embedded.take().map_or_else(|| self.another(&Plan::default()), Ok)
    }

    pub(crate) fn keep_embedded(&mut self, gateway: Gateway) {
        self.embedded = Some(gateway);
    }

    pub(crate) fn another(&self, plan: &Plan) -> anyhow::Result<Gateway> {
        Gateway::start(&self.binary, self.roles.upstream, plan)
    }

    /// Puts a load on the floor.
    pub(crate) fn on_floor(&self, load: impl FnOnce(Load) -> Load) -> anyhow::Result<Outcome> {
        let closed = Load::closed(self.roles.floor, "none", 64, self.span);
        self.run(&load(closed), self.roles.floor_process.id())
    }

    /// Puts a load on a gateway.
    pub(crate) fn on(&self, gateway: &Gateway, load: impl FnOnce(Load) -> Load) -> anyhow::Result<Outcome> {
        let closed = Load::closed(gateway.address, &gateway.key, 64, self.span);
        self.run(&load(closed), gateway.process.id())
    }

    pub(crate) fn on_embedded(&mut self, load: impl FnOnce(Load) -> Load) -> anyhow::Result<Outcome> {
        let gateway = self.embedded()?;
        let outcome = self.on(&gateway, load);
        self.keep_embedded(gateway);
        outcome
    }

    /// Puts a load on a gateway with SQLite whose usage stays in the journal meanwhile: what is left is the request path.
    pub(crate) fn on_path(&self, gateway: &Gateway, load: impl FnOnce(Load) -> Load) -> anyhow::Result<Outcome> {
        gateway.wait_until_drained()?;
        let mut ledger = Sqlite::open(&gateway.database())?;
        ledger.hold()?;
        let outcome = self.on(gateway, load);
        ledger.release()?;
        gateway.wait_until_drained()?;
        outcome
    }

    /// Puts a load on a gateway, and waits until the ledger has the last of it.
    pub(crate) fn with_rows(&self, gateway: &Gateway, load: impl FnOnce(Load) -> Load) -> anyhow::Result<WithRows> {
        gateway.wait_until_drained()?;
        let before = CpuTimes::of(gateway.process.id());
        let outcome = self.on(gateway, |closed| Load { warm_up: Duration::ZERO, ..load(closed) })?;
        gateway.wait_until_drained()?;
        let spent = CpuTimes::of(gateway.process.id()).since(&before);
        Ok(WithRows { spent, requests: outcome.sent })
    }

    pub(crate) fn run(&self, load: &Load, watched: u32) -> anyhow::Result<Outcome> {
        wait_until_idle(self.wait_idle);
        let outcome = load.run(watched)?;
        outcome.tally.assert_no_errors()?;
        Ok(outcome)
    }
}

impl WithRows {
    /// CPU time in microseconds.
    pub(crate) fn per_request(&self) -> f64 {
        self.spent.total.as_secs_f64() * 1e6 / self.requests as f64
    }

    /// The share of SQLite's own threads.
    pub(crate) fn of_sqlite(&self) -> f64 {
        let threads = self.spent.by_thread.iter().filter(|(name, _)| name.starts_with("sqlx-sqlite"));
        threads.map(|(_, ran)| ran.as_secs_f64()).sum::<f64>() * 1e6 / self.requests as f64
    }
}
