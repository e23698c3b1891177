//! What one scope spends of its budget, in each window.

use std::time::Duration;

use ai4free_ports::{
    budget::{Grant, GrantStanding, MoneyWindow},
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::MoneyClaim,
    runtime::Timestamp,
};

/// For how long after its end a window is kept: requests that began in it may still settle.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// For how long a final grant is not asked for again.
const FINAL: Duration = Duration::from_secs(1);

/// The windows of one scope, the newest last. Most scopes have one or two.
#[derive(Default)]
pub(super) struct Budgets(Vec<Budget>);

impl Budgets {
    pub(super) fn of(&self, window: &MoneyWindow) -> Option<&Budget> {
        self.0.iter().rev().find(|budget| budget.window.start == window.start)
    }

    pub(super) fn of_mut(&mut self, window: &MoneyWindow) -> Option<&mut Budget> {
        self.0.iter_mut().rev().find(|budget| budget.window.start == window.start)
    }

    /// The window is known from its first grant on.
    pub(super) fn grant(&mut self, grant: &Grant, now: Duration, wall_clock: Timestamp) {
        if let Some(budget) = self.of_mut(&grant.window) {
            budget.raise(grant, now);
            return;
        }
        let mut budget = Budget {
            // On the clock that never steps: a mistaken time of day must not make the limiter forget what was spent.
            kept_until: now + grant.window.end.since(wall_clock) + KEPT,
            standing: GrantStanding::default(),
            final_until: Duration::ZERO,
            recorded: PicoUsdSum::default(),
            window: grant.window,
        };
        budget.raise(grant, now);
        self.0.push(budget);
    }

    pub(super) fn forget_old(&mut self, now: Duration) {
        self.0.retain(|budget| now < budget.kept_until);
    }

    /// Those of which more is recorded than is used.
    pub(super) fn surplus(&self) -> impl Iterator<Item = MoneyWindow> {
        self.0.iter().filter(|budget| budget.recorded > budget.standing.used()).map(|budget| budget.window)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is granted and used in one window.
pub(super) struct Budget {
    kept_until: Duration,
    standing: GrantStanding,
    final_until: Duration,
    /// What the ledger has recorded as granted; more than what is granted here while a part is being given back.
    recorded: PicoUsdSum,
    window: MoneyWindow,
}

/// Whether a claim can be held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    Exhausted,
    NeedsGrant,
}

impl Budget {
    pub(super) fn fit(&self, claim: &MoneyClaim, now: Duration) -> Fit {
        let used = self.standing.used().0 + i128::from(claim.amount.0);
        if used <= self.standing.granted.0 && used + self.standing.elsewhere.0 <= claim.limit.0 {
            return Fit::Fits;
        }
        // What others have may have shrunk since the last grant, so the ledger is asked; what is used here is certain.
        if used > claim.limit.0 || now < self.final_until { Fit::Exhausted } else { Fit::NeedsGrant }
    }

    pub(super) fn reserve(&mut self, amount: PicoUsd) {
        self.standing.reserved += amount;
    }

    pub(super) fn settle(&mut self, reserved: PicoUsd, actual: PicoUsd) {
        self.standing.reserved.0 -= i128::from(reserved.0);
        self.standing.settled += actual;
    }

    /// Keeps only what is used.
    pub(super) fn give_back(&mut self) -> PicoUsdSum {
        self.standing.granted = self.standing.used();
        self.final_until = Duration::ZERO;
        self.standing.granted
    }

    pub(super) fn gave_back(&mut self, granted: PicoUsdSum) {
        self.recorded = granted;
    }

    pub(super) fn standing(&self) -> GrantStanding {
        self.standing
    }

    fn raise(&mut self, grant: &Grant, now: Duration) {
        if grant.granted < self.standing.granted {
            return;
        }
        self.standing.granted = grant.granted;
        self.recorded = self.recorded.max(grant.granted);
        self.standing.elsewhere = grant.elsewhere;
        self.standing.settled_elsewhere = grant.settled_elsewhere;
        self.final_until = if grant.is_final { now + FINAL } else { Duration::ZERO };
    }
}
