//! How long writes take: counted, since the slowest one says nothing of the others.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const BUCKETS: usize = 12;

/// Of one write to a segment.
const BOUNDS: [Duration; BUCKETS] = [
    Duration::from_micros(2),
    Duration::from_micros(5),
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// A histogram as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteTimes {
    /// The longest in each bucket; what took longer is in one more.
    pub bounds: &'static [Duration],
    pub counts: [u64; BUCKETS + 1],
    pub sum: Duration,
}

/// The histogram as it is filled, without a lock.
#[derive(Debug, Default)]
pub(super) struct WriteCounts {
    counts: [AtomicU64; BUCKETS + 1],
    nanoseconds: AtomicU64,
}

impl WriteCounts {
    pub(super) fn took(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < duration);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> WriteTimes {
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        WriteTimes { bounds: &BOUNDS, counts, sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_is_in_the_first_bucket_that_it_fits() {
        let counts = WriteCounts::default();
        for duration in [Duration::ZERO, BOUNDS[0], BOUNDS[0] + Duration::from_nanos(1), Duration::from_secs(9)] {
            counts.took(duration);
        }
        let times = counts.now();
        assert_eq!((times.counts[0], times.counts[1], times.counts[BUCKETS]), (2, 1, 1));
        assert_eq!(times.counts.iter().sum::<u64>(), 4);
        assert_eq!(times.sum, Duration::from_secs(9) + 2 * BOUNDS[0] + Duration::from_nanos(1));
    }
}
