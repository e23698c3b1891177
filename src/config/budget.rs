//! `budget`, which stands wherever limits do.

use ai4free_ports::budget::{Budget, BudgetPeriod};

use super::{limits::outage_policy, section::Section};

/// `None`, and a problem on the list: no amount.
pub(super) fn read(section: Section<'_>) -> Option<Budget> {
    let amount = section.amount("amount_usd");
    let time_zone = section.optional_text("time_zone").unwrap_or_else(|| Budget::DEFAULT_TIME_ZONE.to_owned());
    if !section.reading().calendar.knows(&time_zone) {
        section.wrong(
            "time_zone",
            "there is no such time zone: the names are those of the IANA database, like Europe/Berlin",
        );
    }
    let period = section.choice("window", &BudgetPeriod::ALL.map(|period| (period.as_str(), period)));
    let on_redis_down = outage_policy(&section).unwrap_or_default();
    section.finish();
    Some(Budget { amount: amount?, period: period.unwrap_or_default(), time_zone: time_zone.into(), on_redis_down })
}
