//! One file for each promise; its number is that of `PROMISES.md`.

mod p01_exact_ledger;
mod p02_crash;
mod p03_replay;
mod p04_postgres_down;
mod p05_boot;
mod p06_spool_full;
mod p07_budget;
mod p08_no_leak;
mod p09_absurd_usage;
mod p10_request_limit;
mod p11_token_limit;
mod p12_concurrency;
mod p13_redis_down;
mod p14_redis_loses_data;
mod p15_clock_skew;
mod p16_revocation;
mod p20_disconnect;
mod p29_rolling_restart;
mod p32_secrets;
mod p34_lost_directory;

use futures_util::future::LocalBoxFuture;

use crate::{
    findings::Findings,
    options::Tier,
    rig::{Services, dice::Dice},
};

pub(crate) struct Promise {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) company: Company,
    pub(crate) prove: fn(Stage<'_>) -> LocalBoxFuture<'_, Findings>,
}

/// What else may run meanwhile, with servers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// It measures how long something takes, or loads the machine: nothing that does either.
    None,
    /// It waits most of the time, and minds who loads the machine: others like it.
    Patient,
    /// It waits most of the time, for nothing that is measured: whatever else there is to prove.
    Everybody,
}

/// In the order in which they are proven.
pub(crate) const PROMISES: &[Promise] = &[
    p01_exact_ledger::PROMISE,
    p02_crash::PROMISE,
    p03_replay::PROMISE,
    p04_postgres_down::PROMISE,
    p05_boot::PROMISE,
    p06_spool_full::PROMISE,
    p07_budget::PROMISE,
    p08_no_leak::PROMISE,
    p09_absurd_usage::PROMISE,
    p10_request_limit::PROMISE,
    p11_token_limit::PROMISE,
    p12_concurrency::PROMISE,
    p13_redis_down::PROMISE,
    p14_redis_loses_data::PROMISE,
    p15_clock_skew::PROMISE,
    p16_revocation::PROMISE,
    p20_disconnect::PROMISE,
    p29_rolling_restart::PROMISE,
    p32_secrets::PROMISE,
    p34_lost_directory::PROMISE,
];

/// What a proof is given.
pub(crate) struct Stage<'a> {
    pub(crate) services: &'a mut Services,
    pub(crate) tier: Tier,
    pub(crate) rounds: Option<u64>,
    pub(crate) seed: u64,
}

impl Stage<'_> {
    /// How often: as asked for, else as the tier says.
    pub(crate) fn count(&self, short: u64, full: u64) -> u64 {
        self.rounds.unwrap_or(if self.is_full() { full } else { short })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.tier == Tier::Full
    }

    pub(crate) fn dice(&self) -> Dice {
        Dice::new(self.seed)
    }
}
