//! A sliding window of one-second buckets, rounded against the caller.

use ai4free_ports::rate_limiter::RATE_WINDOW;

/// An interval of `RATE_WINDOW` touches one second more than it is long.
const BUCKETS: usize = 61;
const SPAN: u64 = RATE_WINDOW.as_secs();
const _: () = assert!(BUCKETS as u64 == SPAN + 1);

/// What was used in the seconds `newest - 60 ..= newest`, and their sum.
pub(super) struct Window {
    /// The bucket of a second is at that second modulo the length.
    buckets: [Bucket; BUCKETS],
    newest: u64,
    sum: u64,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    used: u64,
    /// Of that, what is not settled yet.
    reserved: u64,
}

impl Window {
    pub(super) fn starting(second: u64) -> Self {
        Self { buckets: [Bucket::default(); BUCKETS], newest: second, sum: 0 }
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
                self.sum -= bucket.used;
                *bucket = Bucket::default();
            }
        }
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    /// What is settled of it, and what is reserved.
    pub(super) fn parts(&self) -> (u64, u64) {
        let reserved = self.buckets.iter().map(|bucket| bucket.reserved).sum();
        (self.sum - reserved, reserved)
    }

    /// Reserves in the newest second.
    pub(super) fn reserve(&mut self, amount: u64) {
        self.replace(self.newest, 0, amount);
        if let Some(bucket) = self.buckets.get_mut(place(self.newest)) {
            bucket.reserved = bucket.reserved.saturating_add(amount).min(bucket.used);
        }
    }

    /// Replaces `reserved` by `actual` in the bucket of `second`. If it has left the window, nothing is owed.
    pub(super) fn settle(&mut self, second: u64, reserved: u64, actual: u64) {
        if second + SPAN < self.newest || second > self.newest {
            return;
        }
        self.replace(second, reserved, actual);
        if let Some(bucket) = self.buckets.get_mut(place(second)) {
            bucket.reserved = bucket.reserved.saturating_sub(reserved).min(bucket.used);
        }
    }

    fn replace(&mut self, second: u64, before: u64, after: u64) {
        let Some(Bucket { used, .. }) = self.buckets.get_mut(place(second)) else { return };
        let others = self.sum - *used;
        // Never above what the sum can hold as well.
        *used = used.saturating_sub(before).saturating_add(after).min(u64::MAX - others);
        self.sum = others + *used;
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
        self.buckets.get(place(second)).map_or(0, |bucket| bucket.used)
    }
}

fn place(second: u64) -> usize {
    // Always below 61.
    usize::try_from(second % (SPAN + 1)).unwrap_or(0)
}
