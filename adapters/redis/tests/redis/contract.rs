use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_contract::rate_limiter::Harness;
use ai4free_ports::rate_limiter::RateLimiter;
use ai4free_redis::RedisOptions;
use async_trait::async_trait;

use crate::{
    patient::{Patient, patiently},
    server::{Replica, eventually, own_prefix, skip},
};

/// In real life a lease is renewed every 5 s.
const BEAT_MILLIS: u64 = 5_000;

struct Redis {
    replica: Replica,
    now_millis: AtomicU64,
    since_beat: AtomicU64,
}

#[async_trait]
impl Harness for Redis {
    fn limiter(&self) -> Arc<dyn RateLimiter> {
        Arc::new(Patient(self.replica.limiter.clone()))
    }

    async fn advance(&self, by: Duration) {
        let mut left = u64::try_from(by.as_millis()).unwrap();
        while left > 0 {
            let step = left.min(BEAT_MILLIS - self.since_beat.load(Ordering::SeqCst));
            left -= step;
            let now = self.now_millis.fetch_add(step, Ordering::SeqCst) + step;
            patiently(|| self.replica.limiter.move_time(Duration::from_millis(now))).await.unwrap();
            if self.since_beat.fetch_add(step, Ordering::SeqCst) + step == BEAT_MILLIS {
                patiently(|| self.replica.limiter.beat()).await.unwrap();
                self.since_beat.store(0, Ordering::SeqCst);
            }
        }
    }

    async fn settled(&self) {
        eventually("end of settling", || self.replica.limiter.queued_settlements() == 0).await;
    }
}

async fn start() -> Option<Redis> {
    let Ok(url) = std::env::var("AI4FREE_TEST_REDIS_URL") else {
        skip("AI4FREE_TEST_REDIS_URL is not set");
        return None;
    };
    let options = RedisOptions::new(&url, "one").unwrap().prefix(&own_prefix()).unwrap().with_movable_time();
    let replica = Replica::start(&options).await;
    let now = 1_700_000_000_000;
    patiently(|| replica.limiter.move_time(Duration::from_millis(now))).await.unwrap();
    Some(Redis { replica, now_millis: now.into(), since_beat: 0.into() })
}

ai4free_contract::rate_limiter_contract!(start);
