//! The newest closed requests in memory, so that a drainer that keeps up never reads a file.

use std::{collections::VecDeque, time::Duration};

use super::record::Closed;

/// Beyond this many events the oldest are left to the segments.
const CAPACITY: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Tail {
    closed: VecDeque<(Closed, Duration)>,
    events: u64,
}

impl Tail {
    /// `now` is on the monotonic clock.
    pub(super) fn push(&mut self, closed: Closed, now: Duration) {
        self.events = self.events.saturating_add(closed.count);
        self.closed.push_back((closed, now));
        while self.events > CAPACITY {
            self.pop();
        }
    }

    /// Forgets what ends at or before a number.
    pub(super) fn forget_until(&mut self, end: u64) {
        while self.closed.front().is_some_and(|(closed, _)| closed.end() <= end) {
            self.pop();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whole requests from a number on, together at most `limit` events but at least one request. `None`: not in memory.
    pub(super) fn batch(&self, from: u64, limit: u64) -> Option<Vec<Closed>> {
        let (first, _) = self.closed.front()?;
        if first.from > from {
            return None;
        }
        let start = self.closed.partition_point(|(closed, _)| closed.end() <= from);
        Some(whole_requests(self.closed.iter().skip(start).map(|(closed, _)| closed.clone()), limit))
    }

    /// When the oldest request in memory was closed.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.closed.front().map(|(_, at)| *at)
    }

    fn pop(&mut self) {
        if let Some((closed, _)) = self.closed.pop_front() {
            self.events = self.events.saturating_sub(closed.count);
        }
    }
}

/// As many as fit into `limit` events, but at least one.
pub(super) fn whole_requests(closed: impl Iterator<Item = Closed>, limit: u64) -> Vec<Closed> {
    let mut events = 0_u64;
    let fits = closed.enumerate().take_while(|(index, closed)| {
        events = events.saturating_add(closed.count);
        *index == 0 || events <= limit
    });
    fits.map(|(_, closed)| closed).collect()
}
