//! Reports of the recording ledger, made of its events when they are asked for.

use std::collections::BTreeMap;

use ai4free_ports::{
    request::RequestId,
    runtime::Timestamp,
    usage_ledger::{Counters, Dimension, EventKind, Outcome, UsageEvent},
};

/// Calls `add` with what each event of these whole hours counts for.
pub(super) fn count<'a>(
    events: impl Iterator<Item = &'a UsageEvent>,
    from: Timestamp,
    to: Timestamp,
    mut add: impl FnMut(&UsageEvent, &Counters),
) {
    let hour = |at: Timestamp| at.seconds().div_euclid(3600);
    let hours = hour(from)..hour(Timestamp(to.0.saturating_sub(1))) + 1;
    let mut last_charges: BTreeMap<RequestId, &UsageEvent> = BTreeMap::new();
    for event in events.filter(|event| hours.contains(&hour(event.admitted_at))) {
        let mut counters = Counters {
            input_tokens: event.usage.input_total(),
            output_tokens: event.usage.output_total(),
            ..Counters::default()
        };
        counters.cost += event.cost;
        add(event, &counters);
        let last = last_charges.get(&event.request).is_none_or(|last| last.attempt <= event.attempt);
        if event.kind == EventKind::Charge && last {
            last_charges.insert(event.request, event);
        }
    }
    for event in last_charges.into_values() {
        let successful = u64::from(event.outcome == Outcome::Success);
        let cancelled = u64::from(event.outcome == Outcome::Cancelled);
        add(event, &Counters { requests: 1, successful, cancelled, ..Counters::default() });
    }
}

pub(super) fn breakdown(
    events: &[UsageEvent],
    by: Dimension,
    from: Timestamp,
    to: Timestamp,
) -> BTreeMap<String, Counters> {
    let mut sums = BTreeMap::<String, Counters>::new();
    count(events.iter(), from, to, |event, counters| {
        let name = match by {
            Dimension::Key => event.key.to_string(),
            Dimension::User => event.user.as_deref().unwrap_or_default().to_owned(),
            Dimension::Model => event.model.to_string(),
            Dimension::Provider => event.provider.as_deref().unwrap_or_default().to_owned(),
            Dimension::Day => date(event.admitted_at.seconds().div_euclid(86_400)),
        };
        sums.entry(name).or_default().add(counters);
    });
    sums
}

pub(super) fn charges(
    events: &[UsageEvent],
    from: Timestamp,
    to: Timestamp,
    after: Option<(RequestId, u16)>,
) -> Vec<UsageEvent> {
    let mut charges: Vec<&UsageEvent> = events
        .iter()
        .filter(|event| event.kind == EventKind::Charge && from <= event.admitted_at && event.admitted_at < to)
        .filter(|event| after.is_none_or(|after| (event.request, event.attempt) > after))
        .collect();
    charges.sort_by_key(|event| (event.request, event.attempt));
    let corrections = |charge: &UsageEvent| {
        let key = (charge.request, charge.attempt);
        let own = |event: &&UsageEvent| event.kind == EventKind::Adjustment && (event.request, event.attempt) == key;
        let mut corrections: Vec<UsageEvent> = events.iter().filter(own).cloned().collect();
        corrections.sort_by_key(|event| event.revision);
        corrections
    };
    let page = charges.into_iter().take(500);
    page.flat_map(|charge| std::iter::once(charge.clone()).chain(corrections(charge))).collect()
}

/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn date(days: i64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (year_of_era + era * 400, if month < 10 { month + 3 } else { month - 9 });
    format!("{:04}-{month:02}-{day:02}", year + i64::from(month <= 2))
}
