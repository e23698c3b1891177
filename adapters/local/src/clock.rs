use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ai4free_ports::runtime::{Clock, Timestamp};

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the adapter behind the Clock port")]
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the adapter behind the Clock port")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_in_this_century_and_the_other_never_steps_back() {
        let clock = SystemClock::new();
        assert!(clock.now() > Timestamp::from_seconds(1_700_000_000));
        assert!(clock.now() < Timestamp::from_seconds(4_102_444_800)); // 2100-01-01
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
    }
}
