//! What was measured, in microseconds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::connection::Answer;

/// Ten minutes: more than a request may take.
const MOST: u64 = 600_000_000;

pub(crate) struct Tally {
    pub(crate) ok: u64,
    /// By what they said.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) events: u64,
    pub(crate) latency: Histogram<u64>,
    pub(crate) first_event: Histogram<u64>,
    pub(crate) gap: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, MOST, 3).context("the bounds of a histogram");
        Ok(Self {
            ok: 0,
            errors: BTreeMap::new(),
            events: 0,
            latency: histogram()?,
            first_event: histogram()?,
            gap: histogram()?,
        })
    }

    pub(crate) fn record(&mut self, due: Instant, answer: anyhow::Result<Answer>) {
        match answer {
            Ok(answer) => {
                self.ok += 1;
                self.events += answer.events;
                record(&mut self.latency, answer.ended - due);
                if let Some(first) = answer.first_event {
                    record(&mut self.first_event, first - due);
                }
                for gap in answer.gaps {
                    record(&mut self.gap, gap);
                }
            }
            Err(error) => *self.errors.entry(format!("{error:#}")).or_default() += 1,
        }
    }

    /// A figure of a load in which requests failed says nothing.
    pub(crate) fn assert_no_errors(&self) -> anyhow::Result<()> {
        let failed: u64 = self.errors.values().sum();
        let first = self.errors.keys().next();
        anyhow::ensure!(failed == 0, "{failed} of {} requests failed: {first:?}", failed + self.ok);
        anyhow::ensure!(self.ok > 0, "no request ended in time");
        Ok(())
    }

    pub(crate) fn to_json(&self) -> Value {
        let quantiles = |histogram: &Histogram<u64>| {
            let at = |quantile| histogram.value_at_quantile(quantile);
            json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": histogram.max()})
        };
        json!({
            "ok": self.ok,
            "errors": self.errors,
            "events": self.events,
            "latency_us": quantiles(&self.latency),
            "first_event_us": quantiles(&self.first_event),
            "gap_us": quantiles(&self.gap),
        })
    }
}

fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(MOST).max(1));
}
