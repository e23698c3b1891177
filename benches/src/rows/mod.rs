//! One file for each thing that is measured.

mod gap;
mod idle_streams;
mod json;
mod keys;
mod large;
mod latency;
mod ledger;
mod models;
mod shared;
mod soak;
mod stage;
mod start;
mod stream;

pub(crate) use stage::Stage;

use std::time::Duration;

use crate::report::Sheet;

/// A thing that is measured once in each round.
pub(crate) trait Row {
    /// What takes long is kept for the next round.
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()>;
}

/// When a row is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// With the table of goals.
    Always,
    /// When it is asked for, or everything is.
    Asked,
}

/// Name, when, and how to begin.
pub(crate) type Entry = (&'static str, When, fn() -> Box<dyn Row>);

/// In the order in which they are measured: `start` stops the gateway that those before it have put under load.
pub(crate) const ROWS: [Entry; 12] = [
    ("json", When::Always, || Box::new(json::Json)),
    ("stream", When::Always, || Box::new(stream::Stream)),
    ("latency", When::Always, || Box::new(latency::Latency)),
    ("gap", When::Always, || Box::new(gap::Gap)),
    ("large", When::Always, || Box::new(large::Large)),
    ("start", When::Always, || Box::new(start::Start)),
    ("shared", When::Always, || Box::new(shared::Shared::default())),
    ("idle-streams", When::Asked, || Box::new(idle_streams::IdleStreams)),
    ("keys", When::Asked, || Box::new(keys::Keys::default())),
    ("models", When::Asked, || Box::new(models::Models::default())),
    ("ledger", When::Asked, || Box::new(ledger::Ledger::default())),
    ("soak", When::Asked, || Box::new(soak::Soak)),
];

/// How long a soak lasts if nobody says.
pub(crate) const SOAK: Duration = Duration::from_secs(600);
