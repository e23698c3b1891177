//! What a batch adds to the sums by key, hour and model.

use std::collections::{BTreeMap, HashMap};

use ai4free_ports::{
    key::KeyId,
    money::PICO_PER_MICRO,
    request::RequestId,
    usage_ledger::{EventKind, Outcome, UsageEvent},
};

use crate::entity::{usage_event, usage_hour};

/// The attempt that stands for its request: the last that was charged. A request is counted with it, and with its outcome;
/// tokens and money come from every row. All charges of a request are in one batch, as the port demands.
pub(crate) struct LastAttempts<'a>(HashMap<RequestId, &'a UsageEvent>);

impl<'a> LastAttempts<'a> {
    pub(crate) fn of(events: &'a [UsageEvent]) -> Self {
        let mut last: HashMap<RequestId, &UsageEvent> = HashMap::new();
        for event in events.iter().filter(|event| event.kind == EventKind::Charge) {
            let known = last.entry(event.request).or_insert(event);
            if event.attempt > known.attempt {
                *known = event;
            }
        }
        Self(last)
    }

    fn is_last(&self, event: &UsageEvent) -> bool {
        event.kind == EventKind::Charge && self.0.get(&event.request).is_some_and(|last| last.attempt == event.attempt)
    }
}

/// Sums of the given events and their rows, sorted by key: writers that lock the rows in one order can't deadlock.
pub(crate) fn rollup<'a>(
    new: impl Iterator<Item = (&'a UsageEvent, &'a usage_event::Model)>,
    last_attempts: &LastAttempts<'_>,
) -> Vec<usage_hour::Model> {
    let mut sums: BTreeMap<(KeyId, i64, &str), usage_hour::Model> = BTreeMap::new();
    for (event, row) in new {
        let hour = hour_of(row.admitted_at);
        let sum = sums.entry((event.key.clone(), hour, &event.model)).or_insert_with(|| usage_hour::Model {
            key_id: row.key_id.clone(),
            hour,
            model: row.model.clone(),
            requests: 0,
            successful: 0,
            cancelled: 0,
            input_tokens: 0,
            output_tokens: 0,
            cost_micro: 0,
            cost_rest: 0,
        });
        if last_attempts.is_last(event) {
            sum.requests += 1;
            sum.successful += i64::from(event.outcome == Outcome::Success);
            sum.cancelled += i64::from(event.outcome == Outcome::Cancelled);
        }
        // Counts have no sign of their own. The cost of a release has.
        let sign = if event.kind == EventKind::Release { -1 } else { 1 };
        sum.input_tokens +=
            sign * (row.input_tokens + row.cache_read_tokens + row.cache_write_tokens + row.audio_input_tokens);
        sum.output_tokens += sign * (row.output_tokens + row.reasoning_tokens + row.audio_output_tokens);
        sum.cost_micro += row.cost_pico.div_euclid(PICO_PER_MICRO);
        sum.cost_rest += row.cost_pico.rem_euclid(PICO_PER_MICRO);
    }
    sums.into_values().collect()
}

/// Hours since the epoch, of microseconds since the epoch.
pub(crate) fn hour_of(micros: i64) -> i64 {
    micros.div_euclid(3_600_000_000)
}
