//! One file for each promise; its number is that of `PROMISES.md`.

mod p01_exact_ledger;
mod p02_crash;
mod p20_disconnect;

use futures_util::future::LocalBoxFuture;

use crate::{
    findings::Findings,
    options::Tier,
    rig::{Services, dice::Dice},
};

pub(crate) struct Promise {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) prove: fn(Stage<'_>) -> LocalBoxFuture<'_, Findings>,
}

pub(crate) const PROMISES: [Promise; 3] = [p01_exact_ledger::PROMISE, p02_crash::PROMISE, p20_disconnect::PROMISE];

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
