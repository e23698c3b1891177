//! Windows of budgets in local time, by the time-zone database that is built in: replicas of one version agree.

use std::{collections::HashMap, sync::Arc};

use ai4free_ports::{
    budget::{BudgetPeriod, MoneyWindow},
    runtime::{Calendar, Timestamp},
};
use arc_swap::ArcSwap;
use jiff::{
    SignedDuration, ToSpan,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

/// There are about 600 zones; only different spellings of one name can be more.
const MOST_ZONES: usize = 1_024;

/// [`Calendar`] on `jiff`.
pub struct JiffCalendar {
    database: TimeZoneDatabase,
    /// What was asked for last. Requests ask for the same windows until one is over.
    zones: ArcSwap<HashMap<Arc<str>, Zone>>,
}

#[derive(Clone)]
struct Zone {
    time_zone: TimeZone,
    latest: Latest,
}

/// The latest window of each period that recurs.
#[derive(Clone, Copy, Default)]
struct Latest {
    hour: Option<MoneyWindow>,
    day: Option<MoneyWindow>,
    week: Option<MoneyWindow>,
    month: Option<MoneyWindow>,
}

impl Default for JiffCalendar {
    fn default() -> Self {
        Self { database: TimeZoneDatabase::bundled(), zones: ArcSwap::default() }
    }
}

impl Calendar for JiffCalendar {
    fn window(&self, period: BudgetPeriod, time_zone: &str, at: Timestamp) -> Option<MoneyWindow> {
        let zones = self.zones.load();
        let known = zones.get(time_zone);
        if let Some(window) = known.and_then(|zone| zone.latest.of(period)).filter(|window| window.contains(at)) {
            return Some(window);
        }
        let mut zone = match known {
            Some(zone) => zone.clone(),
            None => Zone { time_zone: self.find(time_zone)?, latest: Latest::default() },
        };
        let window = window(period, &zone.time_zone, at)?;
        zone.latest.set(period, window);
        let mut zones = HashMap::clone(&zones);
        if zones.len() >= MOST_ZONES {
            zones.clear();
        }
        zones.insert(time_zone.into(), zone);
        // Of two that do this at once, one is forgotten, and made again when it is next asked for.
        self.zones.store(Arc::new(zones));
        Some(window)
    }
}

impl JiffCalendar {
    fn find(&self, name: &str) -> Option<TimeZone> {
        self.database.get(name).ok().filter(|found| !found.is_unknown())
    }
}

impl Latest {
    fn of(&self, period: BudgetPeriod) -> Option<MoneyWindow> {
        match period {
            BudgetPeriod::Total => Some(MoneyWindow::TOTAL),
            BudgetPeriod::Hour => self.hour,
            BudgetPeriod::Day => self.day,
            BudgetPeriod::Week => self.week,
            BudgetPeriod::Month => self.month,
        }
    }

    fn set(&mut self, period: BudgetPeriod, window: MoneyWindow) {
        match period {
            BudgetPeriod::Total => {}
            BudgetPeriod::Hour => self.hour = Some(window),
            BudgetPeriod::Day => self.day = Some(window),
            BudgetPeriod::Week => self.week = Some(window),
            BudgetPeriod::Month => self.month = Some(window),
        }
    }
}

/// `None` only outside the years that can be reckoned with.
fn window(period: BudgetPeriod, zone: &TimeZone, at: Timestamp) -> Option<MoneyWindow> {
    let instant = jiff::Timestamp::from_microsecond(at.0).ok()?;
    let date = zone.to_datetime(instant).date();
    let (first, length) = match period {
        BudgetPeriod::Total => return Some(MoneyWindow::TOTAL),
        BudgetPeriod::Hour => return hour(zone, instant),
        BudgetPeriod::Day => (date, 1.day()),
        BudgetPeriod::Week => {
            (date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).ok()?, 1.week())
        }
        BudgetPeriod::Month => (date.first_of_month(), 1.month()),
    };
    let next = first.checked_add(length).ok()?;
    let (start, end) = (begin(zone, first)?, begin(zone, next)?);
    if at < end {
        return Some(MoneyWindow { start, end });
    }
    // The clocks went back over midnight: the new date has begun already, and goes on although the old one is shown again.
    Some(MoneyWindow { start: end, end: begin(zone, next.checked_add(length).ok()?)? })
}

/// The first instant of a local date.
fn begin(zone: &TimeZone, date: Date) -> Option<Timestamp> {
    let midnight = date.to_datetime(jiff::civil::Time::midnight());
    let first = match zone.to_ambiguous_timestamp(midnight).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(midnight).ok()?
        }
        // There is no midnight: the date begins when the clocks have changed.
        AmbiguousOffset::Gap { after, .. } => {
            let earlier = after.to_timestamp(midnight).ok()?;
            zone.following(earlier).find(|change| change.offset() == after)?.timestamp()
        }
    };
    Some(Timestamp(first.as_microsecond()))
}

/// From one full hour of the local clock to the next, but no further than the clock runs evenly.
fn hour(zone: &TimeZone, at: jiff::Timestamp) -> Option<MoneyWindow> {
    const HOUR: SignedDuration = SignedDuration::from_hours(1);
    let offset = zone.to_offset(at);
    let into = (at.as_microsecond() + i64::from(offset.seconds()) * 1_000_000).rem_euclid(3_600_000_000);
    let full = at.checked_sub(SignedDuration::from_micros(into)).ok()?;
    let next = full.checked_add(HOUR).ok()?;
    let shifted = |at: jiff::Timestamp, nanos| at.checked_add(SignedDuration::from_nanos(nanos)).ok();
    let runs_evenly = |at| zone.to_offset(at) == offset;
    let start = if runs_evenly(full) { full } else { zone.preceding(shifted(at, 1)?).next()?.timestamp() };
    let end = if runs_evenly(shifted(next, -1)?) { next } else { zone.following(at).next()?.timestamp() };
    Some(MoneyWindow { start: Timestamp(start.as_microsecond()), end: Timestamp(end.as_microsecond()) })
}

#[cfg(test)]
mod tests {
    use ai4free_contract::calendar_contract;
    use ai4free_ports::runtime::Clock;

    use super::*;
    use crate::SystemClock;

    calendar_contract!(JiffCalendar::default);

    #[test]
    fn what_is_remembered_stays_bounded() {
        let calendar = JiffCalendar::default();
        // Names are matched without regard to case: there are more spellings than zones.
        for spelling in 0..4_096_u32 {
            let name = "america/indiana".chars().enumerate().map(|(at, letter)| match spelling >> at & 1 {
                1 => letter.to_ascii_uppercase(),
                _ => letter,
            });
            let name: String = name.collect::<String>() + "/knox";
            assert!(calendar.window(BudgetPeriod::Day, &name, Timestamp::default()).is_some());
        }
        assert!(calendar.zones.load().len() <= MOST_ZONES);
    }

    /// Run it in release to see the cost: `cargo test --release -p ai4free-local cost_of_a_window -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_window() {
        let (calendar, clock) = (JiffCalendar::default(), SystemClock::default());
        let (start, rounds) = (clock.monotonic(), 1_000_000);
        for second in 0..rounds {
            let at = Timestamp::from_seconds(1_700_000_000 + i64::from(second) / 1_000);
            assert!(calendar.window(BudgetPeriod::Day, "Europe/Berlin", at).is_some());
        }
        println!("{:?} per window", (clock.monotonic() - start) / rounds);
    }
}
