use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ai4free_ports::{
    request::RequestId,
    runtime::{Clock, IdSource, SecretSource},
};
use uuid::Builder;

/// `UUIDv7` request ids that grow strictly within a process, also while the clock stands still or steps back.
///
/// The twelve bits after the milliseconds are a counter (RFC 9562 §6.2, method 3), the last 62 are random. More than 4096
/// ids in a millisecond borrow from the next one.
pub struct UuidV7Ids {
    clock: Arc<dyn Clock>,
    random: Mutex<Drawn>,
    /// Milliseconds since the epoch and the counter, as they stand in the last id.
    last: AtomicU64,
}

const COUNTER_BITS: u32 = 12;
/// Random bytes of one id.
const DRAW: usize = 8;
/// Ids whose random bytes are drawn at once: a system call for each would cost more than all the rest of it.
const DRAWN_AT_ONCE: usize = 128;

impl UuidV7Ids {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn SecretSource>) -> Self {
        let random = Drawn { source: random, bytes: [0; DRAW * DRAWN_AT_ONCE], left: 0 };
        Self { clock, random: Mutex::new(random), last: AtomicU64::new(0) }
    }

    /// Milliseconds and counter of the next id.
    fn advance(&self) -> u64 {
        let millis = u64::try_from(self.clock.now().0.div_euclid(1000)).unwrap_or(0);
        let now = millis << COUNTER_BITS;
        let next = |last: u64| now.max(last.wrapping_add(1));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        last.map_or(now, next)
    }
}

impl IdSource for UuidV7Ids {
    fn request_id(&self) -> RequestId {
        let time_and_counter = self.advance();
        let counter = u16::try_from(time_and_counter & ((1 << COUNTER_BITS) - 1)).unwrap_or(0).to_be_bytes();
        let random = self.random.lock().unwrap_or_else(PoisonError::into_inner).next();
        let mut bytes = [0_u8; 10];
        bytes.iter_mut().zip(counter.into_iter().chain(random)).for_each(|(byte, new)| *byte = new);
        RequestId(Builder::from_unix_timestamp_millis(time_and_counter >> COUNTER_BITS, &bytes).into_uuid())
    }
}

/// Random bytes that no id has yet.
struct Drawn {
    source: Arc<dyn SecretSource>,
    bytes: [u8; DRAW * DRAWN_AT_ONCE],
    left: usize,
}

impl Drawn {
    fn next(&mut self) -> [u8; DRAW] {
        if self.left == 0 {
            self.source.fill(&mut self.bytes);
            self.left = DRAWN_AT_ONCE;
        }
        self.left -= 1;
        let fresh = self.bytes.get(self.left * DRAW..).and_then(<[u8]>::first_chunk);
        fresh.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use ai4free_ports::runtime::Timestamp;

    use super::*;
    use crate::OsSecrets;

    struct Stepping(std::sync::atomic::AtomicI64);
    impl Clock for Stepping {
        fn now(&self) -> Timestamp {
            Timestamp(1_790_000_000_000_000 - self.0.fetch_add(1, Ordering::Relaxed) * 500)
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn ids_are_version_7_and_grow_although_the_clock_steps_back() {
        let ids = UuidV7Ids::new(Arc::new(Stepping(0.into())), Arc::new(OsSecrets));
        let made: Vec<_> = (0..10_000).map(|_| ids.request_id()).collect();
        assert!(made.is_sorted_by(|a, b| a < b));
        assert_eq!(made[0].0.get_version_num(), 7);
        assert_eq!(made[0].0.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(made[0].day(), 1_790_000_000 / 86_400);
    }

    #[test]
    fn two_sources_never_make_the_same_id() {
        let source = || UuidV7Ids::new(Arc::new(Stepping(0.into())), Arc::new(OsSecrets));
        let (first, second) = (source(), source());
        let made: HashSet<_> = (0..2000).flat_map(|_| [first.request_id(), second.request_id()]).collect();
        assert_eq!(made.len(), 4000);
    }
}
