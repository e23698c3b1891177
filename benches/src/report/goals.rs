//! What is measured, and how good it has to be.

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Measure {
    /// The row that records it, and what of it.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    /// What it is compared with, in the same round.
    pub(crate) base: &'static str,
    pub(crate) goal: Goal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Microseconds,
    Milliseconds,
    Megabytes,
    Kilobytes,
    MegabytesPerHour,
    /// How many of one for each of the other.
    Count,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// At most so many times the base.
    Times(f64),
    /// At most so much more than the base.
    Over(f64),
    AtMost(f64),
    AtLeast(f64),
}

const FLOOR: &str = "floor";

pub(crate) const CPU_PATH: Measure = Measure {
    id: "json: path",
    title: "CPU per request, c=64: request path",
    unit: Unit::Microseconds,
    base: FLOOR,
    goal: Goal::Times(2.0),
};
pub(crate) const CPU_ROWS: Measure = Measure {
    id: "json: rows",
    title: "the same with the drainer and the database rows in it",
    unit: Unit::Microseconds,
    base: FLOOR,
    goal: Goal::Times(2.75),
};
pub(crate) const CPU_EVENT: Measure = Measure {
    id: "stream",
    title: "CPU per streamed event, c=32",
    unit: Unit::Microseconds,
    base: FLOOR,
    goal: Goal::Times(1.25),
};
pub(crate) const ADDED_P50: Measure =
    Measure { id: "latency", title: "added p50 at c=1", unit: Unit::Microseconds, base: FLOOR, goal: Goal::Times(2.5) };
pub(crate) const GAP_P99: Measure = Measure {
    id: "gap",
    title: "p99 of the time between chunks, streams with one each 10 ms",
    unit: Unit::Milliseconds,
    base: FLOOR,
    goal: Goal::Over(0.5),
};
pub(crate) const LARGE_PROMPT: Measure = Measure {
    id: "large",
    title: "CPU per request with a prompt of 64 KiB, c=16",
    unit: Unit::Microseconds,
    base: FLOOR,
    goal: Goal::Times(2.0),
};
pub(crate) const SHARED_PATH: Measure = Measure {
    id: "shared: path",
    title: "CPU per request, c=64, Redis limits and Postgres ledger, Postgres standing still",
    unit: Unit::Microseconds,
    base: FLOOR,
    goal: Goal::Times(3.5),
};
pub(crate) const SHARED_CALLS: Measure = Measure {
    id: "shared: round trips",
    title: "Redis calls that a request waits for",
    unit: Unit::Count,
    base: "",
    goal: Goal::AtMost(1.01),
};
pub(crate) const SHARED_SETTLED: Measure = Measure {
    id: "shared: settled",
    title: "settlements in one Redis call",
    unit: Unit::Count,
    base: "",
    goal: Goal::AtLeast(15.5),
};
pub(crate) const START: Measure = Measure {
    id: "start: first 200",
    title: "first 200 after a start on an existing SQLite file",
    unit: Unit::Milliseconds,
    base: "",
    goal: Goal::AtMost(100.0),
};
pub(crate) const RESIDENT_IDLE: Measure =
    Measure { id: "start: idle", title: "RSS, idle", unit: Unit::Megabytes, base: "", goal: Goal::AtMost(25.0) };
pub(crate) const RESIDENT_LOADED: Measure = Measure {
    id: "start: loaded",
    title: "RSS, after load",
    unit: Unit::Megabytes,
    base: "",
    goal: Goal::AtMost(50.0),
};
pub(crate) const IDLE_STREAM: Measure = Measure {
    id: "idle-streams: memory",
    title: "RSS of each of 5,000 open idle streams",
    unit: Unit::Kilobytes,
    base: "",
    goal: Goal::AtMost(60.0),
};
pub(crate) const IDLE_NEIGHBOURS: Measure = Measure {
    id: "idle-streams: neighbours",
    title: "p99 of other requests beside them, 200 a second",
    unit: Unit::Milliseconds,
    base: "without them",
    goal: Goal::Over(0.5),
};
pub(crate) const KEYS: Measure = Measure {
    id: "keys",
    title: "CPU per request, c=64, 100,000 keys in turn",
    unit: Unit::Microseconds,
    base: "1 key",
    goal: Goal::Times(1.1),
};
pub(crate) const MODELS: Measure = Measure {
    id: "models",
    title: "CPU per request, c=64, 10,000 models in turn",
    unit: Unit::Microseconds,
    base: "10 models",
    goal: Goal::Times(1.1),
};
pub(crate) const LEDGER_CPU: Measure = Measure {
    id: "ledger: rows",
    title: "CPU per request with its row, c=64, on a ledger of a million",
    unit: Unit::Microseconds,
    base: "empty ledger",
    goal: Goal::Times(1.1),
};
pub(crate) const LEDGER_START: Measure = Measure {
    id: "ledger: start",
    title: "first 200 after a start on a ledger of a million",
    unit: Unit::Milliseconds,
    base: "",
    goal: Goal::AtMost(100.0),
};
pub(crate) const SOAK_SLOPE: Measure = Measure {
    id: "soak: memory",
    title: "growth of RSS at 500 requests a second",
    unit: Unit::MegabytesPerHour,
    base: "",
    goal: Goal::AtMost(1.0),
};
pub(crate) const SOAK_CPU: Measure = Measure {
    id: "soak: CPU",
    title: "CPU per request at the end of it",
    unit: Unit::Microseconds,
    base: "its begin",
    goal: Goal::Times(1.1),
};

/// In the order of the table.
pub(crate) const MEASURES: [&Measure; 20] = [
    &CPU_PATH,
    &CPU_ROWS,
    &CPU_EVENT,
    &ADDED_P50,
    &GAP_P99,
    &LARGE_PROMPT,
    &SHARED_PATH,
    &SHARED_CALLS,
    &SHARED_SETTLED,
    &START,
    &RESIDENT_IDLE,
    &RESIDENT_LOADED,
    &IDLE_STREAM,
    &IDLE_NEIGHBOURS,
    &KEYS,
    &MODELS,
    &LEDGER_CPU,
    &LEDGER_START,
    &SOAK_SLOPE,
    &SOAK_CPU,
];

impl Unit {
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Microseconds if value < 100.0 => format!("{value:.1} µs"),
            Self::Microseconds => format!("{value:.0} µs"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Kilobytes => format!("{value:.1} KB"),
            Self::MegabytesPerHour => format!("{value:.2} MB/h"),
            Self::Count => format!("{value:.2}"),
        }
    }
}
