use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const TIMEOUTS_IN_A_ROW: u32 = 3;

/// After some timeouts in a row nobody waits any more, until a probe is answered.
#[derive(Default)]
pub(crate) struct Breaker {
    timeouts: AtomicU32,
    suspicious: AtomicBool,
    demoted: AtomicBool,
}

impl Breaker {
    pub(crate) fn is_open(&self) -> bool {
        self.timeouts.load(Ordering::Relaxed) >= TIMEOUTS_IN_A_ROW
    }

    pub(crate) fn timed_out(&self) {
        // Far from wrapping: an open breaker lets only the probe through.
        self.timeouts.fetch_add(1, Ordering::Relaxed);
        self.suspicious.store(true, Ordering::Relaxed);
    }

    /// Whether something timed out since the last probe that found everything well.
    pub(crate) fn is_suspicious(&self) -> bool {
        self.suspicious.load(Ordering::Relaxed)
    }

    pub(crate) fn all_is_well(&self) {
        self.suspicious.store(false, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self) {
        if self.timeouts.load(Ordering::Relaxed) > 0 {
            self.timeouts.store(0, Ordering::Relaxed);
        }
    }

    /// The server is now a replica: only a new connection finds the new primary.
    pub(crate) fn was_demoted(&self) {
        self.demoted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_demotion(&self) -> bool {
        self.demoted.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_timeouts_in_a_row_open_the_breaker() {
        let breaker = Breaker::default();
        for _ in 0..5 {
            breaker.timed_out();
            breaker.timed_out();
            breaker.answered();
        }
        assert!(!breaker.is_open());
        (0..3).for_each(|_| breaker.timed_out());
        assert!(breaker.is_open());
        breaker.answered();
        assert!(!breaker.is_open());
    }
}
