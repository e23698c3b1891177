//! Contract of [`Calendar`]. Instants are UTC, and were worked out by hand from the time-zone database.
//!
//! ```ignore
//! ai4free_contract::calendar_contract!(make); // fn make() -> impl Calendar
//! ```

use ai4free_ports::{
    budget::{BudgetPeriod, MoneyWindow},
    runtime::{Calendar, Timestamp},
};

/// Makes one named test of each clause for one adapter.
#[macro_export]
macro_rules! calendar_contract {
    ($make:path) => {
        $crate::calendar_contract! { $make:
            days_have_the_hours_that_the_clocks_give_them,
            a_day_whose_midnight_is_skipped_begins_when_the_clocks_have_changed,
            a_midnight_that_comes_twice_begins_its_day_once,
            a_date_that_was_skipped_is_no_window,
            hours_are_those_of_the_local_clock,
            an_hour_that_is_repeated_is_two_windows,
            weeks_begin_on_monday_also_across_the_year,
            months_have_their_own_lengths,
            the_total_has_one_window,
            windows_follow_each_other_without_gap_or_overlap,
            an_unknown_time_zone_has_no_windows,
        }
    };
    ($make:path: $($clause:ident),+ $(,)?) => {$(
        #[test]
        fn $clause() {
            $crate::calendar::$clause(&$make());
        }
    )+};
}

pub fn days_have_the_hours_that_the_clocks_give_them(calendar: &impl Calendar) {
    for (zone, at, start, end, hours) in [
        ("UTC", "2026-02-28 12:00", "2026-02-28 00:00", "2026-03-01 00:00", 24.0),
        ("America/New_York", "2026-03-08 12:00", "2026-03-08 05:00", "2026-03-09 04:00", 23.0),
        ("America/New_York", "2026-11-01 12:00", "2026-11-01 04:00", "2026-11-02 05:00", 25.0),
        ("Europe/Berlin", "2026-03-29 12:00", "2026-03-28 23:00", "2026-03-29 22:00", 23.0),
        ("Europe/Berlin", "2026-10-25 12:00", "2026-10-24 22:00", "2026-10-25 23:00", 25.0),
        // Half an hour of daylight saving.
        ("Australia/Lord_Howe", "2026-04-04 20:00", "2026-04-04 13:00", "2026-04-05 13:30", 24.5),
        ("Australia/Lord_Howe", "2026-10-03 20:00", "2026-10-03 13:30", "2026-10-04 13:00", 23.5),
        ("Asia/Kathmandu", "2026-06-01 00:00", "2026-05-31 18:15", "2026-06-01 18:15", 24.0),
        ("Asia/Kolkata", "2026-06-01 18:29", "2026-05-31 18:30", "2026-06-01 18:30", 24.0),
        ("Asia/Kolkata", "2026-06-01 18:30", "2026-06-01 18:30", "2026-06-02 18:30", 24.0),
    ] {
        let window = check(calendar, BudgetPeriod::Day, zone, at, start, end);
        assert_eq!(window.end.since(window.start).as_secs_f64(), hours * 3_600.0, "{zone} {at}");
    }
}

pub fn a_day_whose_midnight_is_skipped_begins_when_the_clocks_have_changed(calendar: &impl Calendar) {
    for (zone, at, start, end) in [
        ("America/Sao_Paulo", "2018-11-04 03:00", "2018-11-04 03:00", "2018-11-05 02:00"),
        ("America/Sao_Paulo", "2018-11-04 02:59", "2018-11-03 03:00", "2018-11-04 03:00"),
        ("Africa/Cairo", "2024-04-26 12:00", "2024-04-25 22:00", "2024-04-26 21:00"),
        ("Asia/Beirut", "2022-03-27 12:00", "2022-03-26 22:00", "2022-03-27 21:00"),
        // From 23:30 to 0:30: the day begins at 0:30, not an hour after the midnight that there was not.
        ("America/Toronto", "1919-03-31 12:00", "1919-03-31 04:30", "1919-04-01 04:00"),
    ] {
        check(calendar, BudgetPeriod::Day, zone, at, start, end);
    }
}

/// In Newfoundland, the clocks went from 0:01 back to 23:01 of the day before.
pub fn a_midnight_that_comes_twice_begins_its_day_once(calendar: &impl Calendar) {
    let (zone, start, end) = ("America/St_Johns", "2010-11-07 02:30", "2010-11-08 03:30");
    check(calendar, BudgetPeriod::Day, zone, "2010-11-07 02:29", "2010-11-06 02:30", start);
    for at in ["2010-11-07 02:30", "2010-11-07 02:31", "2010-11-07 03:00", "2010-11-07 03:30", "2010-11-08 03:29"] {
        check(calendar, BudgetPeriod::Day, zone, at, start, end);
    }
    // In Cuba from 1:00 to 0:00.
    for at in ["2024-11-03 04:00", "2024-11-03 05:00", "2024-11-04 04:59"] {
        check(calendar, BudgetPeriod::Day, "America/Havana", at, "2024-11-03 04:00", "2024-11-04 05:00");
    }
}

/// Samoa went from the 29th to the 31st of December 2011.
pub fn a_date_that_was_skipped_is_no_window(calendar: &impl Calendar) {
    let zone = "Pacific/Apia";
    check(calendar, BudgetPeriod::Day, zone, "2011-12-30 09:59", "2011-12-29 10:00", "2011-12-30 10:00");
    check(calendar, BudgetPeriod::Day, zone, "2011-12-30 10:00", "2011-12-30 10:00", "2011-12-31 10:00");
}

pub fn hours_are_those_of_the_local_clock(calendar: &impl Calendar) {
    for (zone, at, start, end) in [
        ("UTC", "2026-01-01 23:59", "2026-01-01 23:00", "2026-01-02 00:00"),
        ("Asia/Kathmandu", "2026-01-01 12:14", "2026-01-01 11:15", "2026-01-01 12:15"),
        ("Asia/Kolkata", "2026-01-01 12:30", "2026-01-01 12:30", "2026-01-01 13:30"),
        // 2:00 becomes 2:30.
        ("Australia/Lord_Howe", "2026-10-03 15:45", "2026-10-03 15:30", "2026-10-03 16:00"),
    ] {
        check(calendar, BudgetPeriod::Hour, zone, at, start, end);
    }
}

pub fn an_hour_that_is_repeated_is_two_windows(calendar: &impl Calendar) {
    for (zone, at, start, end) in [
        ("Europe/Berlin", "2026-10-25 00:30", "2026-10-25 00:00", "2026-10-25 01:00"),
        ("Europe/Berlin", "2026-10-25 01:30", "2026-10-25 01:00", "2026-10-25 02:00"),
        // 2:00 becomes 1:30: an hour, and half of it again.
        ("Australia/Lord_Howe", "2026-04-04 14:50", "2026-04-04 14:00", "2026-04-04 15:00"),
        ("Australia/Lord_Howe", "2026-04-04 15:10", "2026-04-04 15:00", "2026-04-04 15:30"),
        ("Australia/Lord_Howe", "2026-04-04 15:30", "2026-04-04 15:30", "2026-04-04 16:30"),
    ] {
        check(calendar, BudgetPeriod::Hour, zone, at, start, end);
    }
}

pub fn weeks_begin_on_monday_also_across_the_year(calendar: &impl Calendar) {
    for (zone, at, start, end) in [
        // Week 53 of 2026.
        ("UTC", "2026-12-31 23:00", "2026-12-28 00:00", "2027-01-04 00:00"),
        ("UTC", "2027-01-03 23:59", "2026-12-28 00:00", "2027-01-04 00:00"),
        ("UTC", "2027-01-04 00:00", "2027-01-04 00:00", "2027-01-11 00:00"),
        // Sunday in Berlin, Monday in Auckland.
        ("Europe/Berlin", "2026-10-25 12:00", "2026-10-18 22:00", "2026-10-25 23:00"),
        ("Pacific/Auckland", "2026-10-25 12:00", "2026-10-25 11:00", "2026-11-01 11:00"),
    ] {
        check(calendar, BudgetPeriod::Week, zone, at, start, end);
    }
}

pub fn months_have_their_own_lengths(calendar: &impl Calendar) {
    for (zone, at, start, end) in [
        ("UTC", "2026-02-28 23:59", "2026-02-01 00:00", "2026-03-01 00:00"),
        ("UTC", "2028-02-29 23:59", "2028-02-01 00:00", "2028-03-01 00:00"),
        ("UTC", "2026-12-31 23:59", "2026-12-01 00:00", "2027-01-01 00:00"),
        ("Europe/Berlin", "2026-03-31 21:59", "2026-02-28 23:00", "2026-03-31 22:00"),
        ("America/Los_Angeles", "2026-11-01 06:59", "2026-10-01 07:00", "2026-11-01 07:00"),
    ] {
        check(calendar, BudgetPeriod::Month, zone, at, start, end);
    }
}

pub fn the_total_has_one_window(calendar: &impl Calendar) {
    for at in ["1970-01-01 00:00", "2026-11-22 23:59", "2254-12-31 00:00"] {
        let window = calendar.window(BudgetPeriod::Total, "Europe/Berlin", instant(at));
        assert_eq!(window, Some(MoneyWindow::TOTAL));
    }
}

/// Hour by hour and day by day through changes of all sorts.
pub fn windows_follow_each_other_without_gap_or_overlap(calendar: &impl Calendar) {
    for (zone, from, to) in [
        ("America/St_Johns", "2010-10-15 00:00", "2010-11-20 00:00"),
        ("America/Sao_Paulo", "2018-10-20 00:00", "2018-11-20 00:00"),
        ("Australia/Lord_Howe", "2026-03-20 00:00", "2026-04-20 00:00"),
        ("Africa/Casablanca", "2026-02-01 00:00", "2026-04-01 00:00"),
        ("Pacific/Apia", "2011-12-20 00:00", "2012-01-10 00:00"),
        ("Antarctica/Troll", "2026-03-15 00:00", "2026-04-15 00:00"),
        ("America/Caracas", "2007-12-01 00:00", "2007-12-31 00:00"),
    ] {
        for period in [BudgetPeriod::Hour, BudgetPeriod::Day, BudgetPeriod::Week, BudgetPeriod::Month] {
            let mut at = instant(from);
            while at < instant(to) {
                let window = window(calendar, period, zone, at);
                let middle = Timestamp(window.start.0.midpoint(window.end.0));
                for inside in [window.start, middle, Timestamp(window.end.0 - 1)] {
                    assert_eq!(self::window(calendar, period, zone, inside), window, "{period:?} {zone} {inside:?}");
                }
                assert!(window.contains(at), "{period:?} {zone} {at:?}");
                at = window.end;
            }
        }
    }
}

pub fn an_unknown_time_zone_has_no_windows(calendar: &impl Calendar) {
    for zone in ["", "Mars/Olympus", "Europe/", "../../etc/passwd", "Europe/Berlin\0", "+02:00"] {
        for period in BudgetPeriod::ALL {
            assert_eq!(calendar.window(period, zone, instant("2026-11-22 23:59")), None, "{zone}");
        }
        assert!(!calendar.knows(zone), "{zone}");
    }
    assert!(calendar.knows("Europe/Berlin"));
}

fn check(calendar: &impl Calendar, period: BudgetPeriod, zone: &str, at: &str, start: &str, end: &str) -> MoneyWindow {
    let window = window(calendar, period, zone, instant(at));
    assert_eq!(window, MoneyWindow { start: instant(start), end: instant(end) }, "{zone} {at}");
    window
}

/// Whatever was asked before.
fn window(calendar: &impl Calendar, period: BudgetPeriod, zone: &str, at: Timestamp) -> MoneyWindow {
    let window = calendar.window(period, zone, at).expect("the zone is known");
    calendar.window(period, zone, Timestamp::default());
    assert_eq!(calendar.window(period, zone, at), Some(window), "{period:?} {zone} {at:?}");
    window
}

/// `2026-11-22 23:59`, in UTC.
fn instant(text: &str) -> Timestamp {
    let numbers: Vec<i64> = text.split(['-', ' ', ':']).map(|number| number.parse().unwrap()).collect();
    let [year, month, day, hour, minute] = numbers[..] else { panic!("{text}") };
    // Days from 1970-01-01 in the proleptic Gregorian calendar; the year begins in March, so that leap days end it.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Timestamp::from_seconds((days * 24 + hour) * 3_600 + minute * 60)
}
