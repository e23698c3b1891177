//! Budgets: money per calendar window.
//!
//! A budget is spent only out of grants that the ledger has recorded. Who spends is a [`Holder`]: all replicas together, by
//! the limiter that they share, or one process by itself. The ledger keeps the sum over all holders, of what each was granted
//! or, once it is closed, of what it settled, within the budget. So what another replica has not reported yet need not be
//! known: it is counted already, as granted. The same rule seeds a limiter, fences one that lost its data, and lets a process
//! go on alone.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{limits::OutagePolicy, money::PicoUsdSum, rate_limiter::Scope, runtime::Timestamp, usage_ledger::SpoolId};

/// How much one scope may spend in each window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub amount: PicoUsdSum,
    pub period: BudgetPeriod,
    /// An IANA name: windows begin at that zone's midnight.
    pub time_zone: Arc<str>,
    /// What happens while the shared limiter is away. By default each process goes on with grants of its own, exactly.
    pub on_redis_down: OutagePolicy,
}

impl Budget {
    /// Nine thousand million dollars: in micro-USD, the most that a double holds exactly.
    pub const MOST: PicoUsdSum = PicoUsdSum(9_000_000_000_000_000_000_000);
    /// Of a budget that names none.
    pub const DEFAULT_TIME_ZONE: &'static str = "UTC";

    /// An amount in US dollars as an operator writes it: `5.00`. Nothing may be spent of `0`. `None`: not an exact decimal, or
    /// not from 0 to [`Budget::MOST`].
    #[must_use]
    pub fn parse_amount(text: &str) -> Option<PicoUsdSum> {
        PicoUsdSum::parse(text).filter(|amount| (PicoUsdSum::default()..=Self::MOST).contains(amount))
    }
}

/// The default is the one that allows the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetPeriod {
    /// For ever.
    #[default]
    Total,
    Hour,
    Day,
    /// From Monday, as ISO 8601 has it.
    Week,
    Month,
}

impl BudgetPeriod {
    pub const ALL: [Self; 5] = [Self::Total, Self::Hour, Self::Day, Self::Week, Self::Month];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.as_str() == text)
    }
}

/// One window: the instants from `start` up to, and without, `end`. Its start is its identity, never a local label: the hour
/// that a clock change repeats is two windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoneyWindow {
    pub start: Timestamp,
    pub end: Timestamp,
}

impl MoneyWindow {
    /// The only window of [`BudgetPeriod::Total`]. It ends in the year 2255, and in milliseconds it fits into a double.
    pub const TOTAL: Self = Self { start: Timestamp(0), end: Timestamp(9_000_000_000_000_000) };

    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

/// Counts how often the shared limiter has lost its data. Grants of one epoch are worth nothing in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub i64);

/// Who was granted money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The shared limiter, in one epoch.
    Shared(Epoch),
    /// One life of one process: the generation in which it holds its spool.
    Process { spool: SpoolId, generation: i64 },
}

/// As it is stored: `r:17`, `s:SPOOL:3`.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared(epoch) => write!(f, "r:{}", epoch.0),
            Self::Process { spool, generation } => write!(f, "s:{}:{generation}", spool.0),
        }
    }
}

impl FromStr for Holder {
    type Err = UnknownHolder;

    fn from_str(text: &str) -> Result<Self, UnknownHolder> {
        if let Some(epoch) = text.strip_prefix("r:") {
            return epoch.parse().map(|epoch| Self::Shared(Epoch(epoch))).map_err(|_| UnknownHolder);
        }
        let (spool, generation) = text.strip_prefix("s:").and_then(|rest| rest.split_once(':')).ok_or(UnknownHolder)?;
        let spool = SpoolId(uuid::Uuid::parse_str(spool).map_err(|_| UnknownHolder)?);
        Ok(Self::Process { spool, generation: generation.parse().map_err(|_| UnknownHolder)? })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a holder of budgets")]
pub struct UnknownHolder;

/// One budget that an event is charged to: the window of the reservation, also if the request ended in the next one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spending {
    pub scope: Scope,
    /// Start of the window.
    pub window: Timestamp,
    /// Out of whose grant.
    pub holder: Holder,
}

/// Money that the ledger has set aside for one holder in one window. Grants only grow: a smaller one that arrives late
/// changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub scope: Scope,
    pub window: MoneyWindow,
    pub holder: Holder,
    /// All that the holder may spend in the window.
    pub granted: PicoUsdSum,
    /// What other holders were granted or have settled.
    pub elsewhere: PicoUsdSum,
    /// What of that they have settled, as far as the ledger knows.
    pub settled_elsewhere: PicoUsdSum,
    /// Whether the ledger has no more to give: for a second nobody need ask again.
    pub is_final: bool,
}

/// What a holder has spent of its grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantStanding {
    pub granted: PicoUsdSum,
    /// By requests that have ended.
    pub settled: PicoUsdSum,
    /// By requests that run.
    pub reserved: PicoUsdSum,
    /// What other holders were granted or have settled, as of the last grant.
    pub elsewhere: PicoUsdSum,
    /// What of that they have settled, as far as the ledger knew then.
    pub settled_elsewhere: PicoUsdSum,
}

impl GrantStanding {
    /// Settled and reserved.
    #[must_use]
    pub fn used(&self) -> PicoUsdSum {
        PicoUsdSum(self.settled.0 + self.reserved.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_an_exact_decimal_within_what_can_be_counted() {
        assert_eq!(Budget::parse_amount("9000000000.00"), Some(Budget::MOST));
        assert_eq!(Budget::parse_amount("0"), Some(PicoUsdSum::default()));
        for wrong in ["-1", "9000000000.000000000001", "five", "1e3"] {
            assert_eq!(Budget::parse_amount(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn holders_are_read_as_they_were_written() {
        let spool = SpoolId(uuid::Uuid::from_u128(7));
        for holder in [Holder::Shared(Epoch(17)), Holder::Process { spool, generation: 3 }] {
            assert_eq!(holder.to_string().parse(), Ok(holder));
        }
        for wrong in ["", "0", "r:", "r:x", "s:1:2", "s:00000000-0000-0000-0000-000000000007"] {
            assert_eq!(wrong.parse::<Holder>(), Err(UnknownHolder), "{wrong}");
        }
    }
}
