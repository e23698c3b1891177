//! Compares what the limiter that all replicas share has counted of budgets with what the ledger has of their events.
//!
//! Both go on while they are read: a request that ends is told to both, to neither at once. So a budget that differs is looked
//! at again until its two sums agree, or neither moves and all that was under way has arrived, or it has moved on: then each
//! sum must have reached what the other was at first. What can be explained by anything that is still to come is no difference.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    budget::{Epoch, GrantStanding, Holder},
    budget_counters::BudgetCounters,
    error::{LimiterDown, StoreError},
    money::PicoUsdSum,
    rate_limiter::Scope,
    runtime::{Clock, Timer, Timestamp},
    usage_ledger::{Difference, Share, UsageLedger},
};

const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Whoever has something to tell tells it within this.
const QUIET: Duration = Duration::from_secs(5);
/// Longer than it takes until every process that lives has beaten.
const PATIENCE: Duration = Duration::from_secs(30);
/// The ledger knows to the second when a process has beaten.
const TO_THE_SECOND: Duration = Duration::from_secs(2);
/// No operator reads more.
const MOST_DIFFERENCES: usize = 1000;

pub struct CompareCounters {
    pub ledger: Arc<dyn UsageLedger>,
    pub counters: Arc<dyn BudgetCounters>,
    pub clock: Arc<dyn Clock>,
    pub timer: Arc<dyn Timer>,
}

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub budgets: u64,
    /// Those of which nobody can say yet whether they differ: a process that is silent may have events that the ledger has not,
    /// or requests that run are still to be counted.
    pub undecided: u64,
    pub differences: Vec<Difference>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotCompared {
    #[error("the usage ledger can't be read")]
    Ledger(#[from] StoreError),
    #[error("the counters of budgets can't be read")]
    Counters(#[from] LimiterDown),
}

impl CompareCounters {
    /// Of the budgets whose window started within these times and has not ended, what was granted and settled in the current
    /// epoch. Takes no longer than it has to, and half a minute at most where nothing differs.
    ///
    /// # Errors
    /// When either side can't be read.
    pub async fn run(&self, from: Timestamp, to: Timestamp) -> Result<Compared, NotCompared> {
        let Some(epoch) = self.counters.epoch().await? else { return Ok(Compared::default()) };
        let begun = self.clock.monotonic();
        let (mut compared, mut suspects) = self.look(epoch, from, to).await?;
        while !suspects.is_empty() {
            self.timer.sleep(LOOK_AGAIN).await;
            let now = self.clock.monotonic().saturating_sub(begun);
            for suspect in &mut suspects {
                let sums = self.sums(epoch, &suspect.scope, suspect.window).await?;
                suspect.see(sums, now);
            }
            suspects.retain(|suspect| !suspect.last.agree());
            let is_all_told = self.is_all_told(&suspects, now).await?;
            let mut open = Vec::new();
            for suspect in suspects {
                match suspect.verdict(now, is_all_told) {
                    Verdict::Open => open.push(suspect),
                    Verdict::Agrees => {}
                    Verdict::Undecided => compared.undecided += 1,
                    Verdict::Differs if compared.differences.len() < MOST_DIFFERENCES => {
                        compared.differences.push(suspect.difference(epoch));
                    }
                    Verdict::Differs => {}
                }
            }
            suspects = open;
        }
        if self.counters.epoch().await? != Some(epoch) {
            // What was counted is lost: there is nothing to compare with.
            compared.undecided += u64::try_from(compared.differences.len()).unwrap_or(u64::MAX);
            compared.differences.clear();
        }
        Ok(compared)
    }

    /// All budgets once: how many there are, and those that differ.
    async fn look(
        &self,
        epoch: Epoch,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<(Compared, Vec<Suspect>), NotCompared> {
        let now = self.clock.now();
        let (mut compared, mut suspects, mut last) = (Compared::default(), Vec::new(), None);
        loop {
            let mut shares = self.ledger.shares(Holder::Shared(epoch), now, last.as_ref()).await?;
            let Some(end) = shares.last() else { return Ok((compared, suspects)) };
            last = Some((end.scope.clone(), end.window));
            shares.retain(|share| (from..to).contains(&share.window));
            let places: Vec<_> = shares.iter().map(|share| (share.scope.clone(), share.window)).collect();
            let standings = self.counters.standings(epoch, &places).await?;
            for (share, standing) in shares.into_iter().zip(standings) {
                compared.budgets += 1;
                let sums = Sums::of(standing, &share);
                if !sums.agree() {
                    let Share { scope, window, .. } = share;
                    suspects.push(Suspect {
                        scope,
                        window,
                        first: sums,
                        last: sums,
                        fell: false,
                        moved: Duration::ZERO,
                    });
                }
            }
        }
    }

    /// The counter is read first: a grant is recorded before it is passed on.
    async fn sums(&self, epoch: Epoch, scope: &Scope, window: Timestamp) -> Result<Sums, NotCompared> {
        let standing = self.counters.standings(epoch, &[(scope.clone(), window)]).await?.pop().flatten();
        let share = self.ledger.share(Holder::Shared(epoch), scope, window).await?;
        let nothing = PicoUsdSum::default();
        let share =
            share.unwrap_or(Share { scope: scope.clone(), window, end: None, granted: nothing, settled: nothing });
        Ok(Sums::of(standing, &share))
    }

    /// Whether the ledger has all events of the requests that had ended when those budgets last moved that move no more.
    async fn is_all_told(&self, suspects: &[Suspect], now: Duration) -> Result<bool, NotCompared> {
        let is_over = now >= PATIENCE;
        let waiting = suspects.iter().filter(|suspect| suspect.last.is_ledger_behind());
        let since = waiting.map(|suspect| suspect.moved).filter(|moved| is_over || now >= *moved + QUIET).max();
        let Some(since) = since else { return Ok(false) };
        let waited = now.saturating_sub(if is_over { Duration::ZERO } else { since });
        Ok(self.ledger.silent(waited.saturating_sub(TO_THE_SECOND)).await? == 0
            && !self.counters.is_anything_given_up().await?)
    }
}

/// What both sides say of one budget.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sums {
    /// `None`: nothing is counted there.
    counted: Option<GrantStanding>,
    granted: PicoUsdSum,
    settled: PicoUsdSum,
}

impl Sums {
    fn of(counted: Option<GrantStanding>, share: &Share) -> Self {
        Self { counted, granted: share.granted, settled: share.settled }
    }

    fn agree(&self) -> bool {
        match self.counted {
            Some(counted) => counted.settled == self.settled && !self.is_too_much_granted(),
            None => self.granted == PicoUsdSum::default(),
        }
    }

    fn is_too_much_granted(&self) -> bool {
        self.counted.is_some_and(|counted| counted.granted > self.granted)
    }

    fn is_ledger_behind(&self) -> bool {
        self.counted.is_some_and(|counted| counted.settled > self.settled)
    }
}

/// A budget of which the two sums were not the same when they were last read.
struct Suspect {
    scope: Scope,
    window: Timestamp,
    first: Sums,
    last: Sums,
    /// Whether any sum became less: a correction is under way.
    fell: bool,
    /// When anything of it changed for the last time.
    moved: Duration,
}

enum Verdict {
    Open,
    Agrees,
    Undecided,
    Differs,
}

impl Suspect {
    fn see(&mut self, sums: Sums, now: Duration) {
        if sums != self.last {
            let counted = |sums: Sums| sums.counted.map(|counted| counted.settled);
            self.fell |= sums.settled < self.last.settled || counted(sums) < counted(self.last);
            self.moved = now;
        }
        self.last = sums;
    }

    fn verdict(&self, now: Duration, is_all_told: bool) -> Verdict {
        let (is_quiet, is_over) = (now >= self.moved + QUIET, now >= PATIENCE);
        let (Some(counted), Some(first)) = (self.last.counted, self.first.counted.or(self.last.counted)) else {
            return if is_quiet { Verdict::Differs } else { Verdict::Open };
        };
        let is_certain = if self.last.is_too_much_granted() {
            true
        } else if self.last.is_ledger_behind() {
            // What moves on need only have reached what the other was.
            let has_caught_up = is_over && !is_quiet && self.last.settled >= first.settled;
            if has_caught_up {
                return Verdict::Agrees;
            }
            (is_quiet || is_over && !self.fell) && is_all_told
        } else {
            let has_caught_up = is_over && !is_quiet && counted.settled >= self.first.settled;
            if has_caught_up {
                return Verdict::Agrees;
            }
            // What a request that has ended reserved is reserved until its end is counted.
            let missing = self.last.settled.0 - counted.settled.0;
            is_quiet && counted.reserved == PicoUsdSum::default()
                || is_over && !self.fell && missing > counted.reserved.0
        };
        match (is_certain, is_over) {
            (true, _) => Verdict::Differs,
            (false, true) => Verdict::Undecided,
            (false, false) => Verdict::Open,
        }
    }

    fn difference(&self, epoch: Epoch) -> Difference {
        let holder = Holder::Shared(epoch);
        let show = |granted: PicoUsdSum, settled: PicoUsdSum| {
            if self.last.is_too_much_granted() {
                format!("granted {granted} USD, settled {settled} USD")
            } else {
                format!("{settled} USD")
            }
        };
        Difference {
            sum: format!("limiter budget scope={:?} win={} holder=\"{holder}\"", self.scope.to_text(), self.window.0),
            stored: self
                .last
                .counted
                .map_or_else(|| "missing".to_owned(), |counted| show(counted.granted, counted.settled)),
            expected: show(self.last.granted, self.last.settled),
        }
    }
}

#[cfg(test)]
mod tests;
