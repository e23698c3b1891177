//! A sliding window of one-second buckets, rounded against the caller.

use ai4free_ports::rate_limiter::RATE_WINDOW;

/// An interval of `RATE_WINDOW` touches one second more than it is long.
const BUCKETS: usize = 61;
const SPAN: u64 = RATE_WINDOW.as_secs();
const _: () = assert!(BUCKETS as u64 == SPAN + 1);

/// What was used in the seconds `newest - 60 ..= newest`, and their sum.
pub(super) struct Window {
    /// The bucket of a second is at that second modulo the length.
    buckets: [u64; BUCKETS],
    newest: u64,
    sum: u64,
}

impl Window {
    pub(super) fn starting(second: u64) -> Self {
        Self { buckets: [0; BUCKETS], newest: second, sum: 0 }
    }

    /// Makes `second` the newest one; what leaves the window on its way is free again.
    pub(super) fn roll(&mut self, second: u64) {
        if second > self.newest + SPAN {
            *self = Self::starting(second);
            return;
        }
        while self.newest < second {
            self.newest += 1;
            // The new second takes the place of the one that just left.
            if let Some(bucket) = self.buckets.get_mut(place(self.newest)) {
                self.sum -= *bucket;
                *bucket = 0;
            }
        }
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    /// Counts in the newest second.
    pub(super) fn add(&mut self, amount: u64) {
        self.correct(self.newest, 0, amount);
    }

    /// Replaces `reserved` by `actual` in the bucket of `second`. If it has left the window, nothing is owed.
    pub(super) fn correct(&mut self, second: u64, reserved: u64, actual: u64) {
        if second + SPAN < self.newest || second > self.newest {
            return;
        }
        let Some(bucket) = self.buckets.get_mut(place(second)) else { return };
        let before = *bucket;
        // Never above what the sum can hold as well.
        let room = u64::MAX - (self.sum - before);
        *bucket = before.saturating_sub(reserved).saturating_add(actual).min(room);
        self.sum = self.sum - before + *bucket;
    }

    /// The first second in which `amount` fits under `limit`; when it never fits, the one in which the window is empty.
    pub(super) fn fits_at(&self, limit: u64, amount: u64) -> u64 {
        let mut left = self.sum;
        for second in self.oldest()..=self.newest {
            left -= self.bucket(second);
            if u128::from(left) + u128::from(amount) <= u128::from(limit) {
                return second + SPAN + 1;
            }
        }
        self.newest + SPAN + 1
    }

    /// The second in which the last of what was used has left; 0 when there is nothing.
    pub(super) fn whole_at(&self) -> u64 {
        let last_used = (self.oldest()..=self.newest).rev().find(|second| self.bucket(*second) > 0);
        last_used.map_or(0, |second| second + SPAN + 1)
    }

    pub(super) fn is_over(&self, second: u64) -> bool {
        second > self.newest + SPAN
    }

    fn oldest(&self) -> u64 {
        self.newest.saturating_sub(SPAN)
    }

    fn bucket(&self, second: u64) -> u64 {
        self.buckets.get(place(second)).copied().unwrap_or(0)
    }
}

fn place(second: u64) -> usize {
    // Always below 61.
    usize::try_from(second % (SPAN + 1)).unwrap_or(0)
}
