//! What a proof has measured, and what it found broken.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Violations named in the report, and characters of each; the rest is counted.
const NAMED: usize = 10;
const CHARACTERS: usize = 1200;

#[derive(Debug, Default)]
pub(crate) struct Findings {
    figures: Map<String, Value>,
    violations: Vec<String>,
}

impl Findings {
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Percentiles in milliseconds.
    pub(crate) fn spread(&mut self, name: &str, durations: &mut [Duration]) {
        durations.sort_unstable();
        self.figure(&format!("{name}_p50_ms"), milliseconds(percentile(durations, 50)));
        self.figure(&format!("{name}_p99_ms"), milliseconds(percentile(durations, 99)));
        self.figure(&format!("{name}_max_ms"), milliseconds(durations.last().copied().unwrap_or_default()));
    }

    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    pub(crate) fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    /// A figure that has to be this.
    pub(crate) fn exactly(&mut self, name: &str, wanted: i128, found: i128) {
        self.figure(name, i64::try_from(found).map_or_else(|_| Value::from(found.to_string()), Value::from));
        self.require(found == wanted, || format!("{name} is {found}, not {wanted}"));
    }

    /// A figure that may be at most this.
    pub(crate) fn at_most(&mut self, name: &str, most: u64, found: u64) {
        self.figure(name, found);
        self.require(found <= most, || format!("{name} is {found}, over {most}"));
    }

    pub(crate) fn within(&mut self, name: &str, most: Duration, found: Duration) {
        self.figure(&format!("{name}_ms"), milliseconds(found));
        self.require(found <= most, || format!("{name} took {found:?}, longer than {most:?}"));
    }

    pub(crate) fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    pub(crate) fn figures(&self) -> &Map<String, Value> {
        &self.figures
    }

    pub(crate) fn violations(&self) -> Value {
        let shortened = |text: &String| text.chars().take(CHARACTERS).collect::<String>();
        let named: Vec<String> = self.violations.iter().take(NAMED).map(shortened).collect();
        json!({"count": self.violations.len(), "first": named})
    }
}

pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
}

/// With three decimals.
fn milliseconds(duration: Duration) -> Value {
    let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    Value::from(f64::from(micros) / 1000.0)
}
