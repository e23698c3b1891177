//! Losses of every kind, at any step of many requests at once.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use ai4free_contract::rate_limiter::{lease, spent, voided};
use ai4free_ports::{
    error::LimiterDown,
    rate_limiter::{Held, RateLimiter, Reservation},
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    ledger::Epochs,
    server::{RedisServer, Replica},
    spending::{LIMIT, budget, spend},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_redis_loses_no_more_is_spent_than_the_budget() {
    let Some(mut server) = RedisServer::start().await else { return };
    let seed = RandomState::new().build_hasher().finish();
    println!("seed {seed}");
    let ledger = Arc::new(Epochs::default());
    let mut tasks = JoinSet::new();
    for name in ["one", "two"] {
        let replica = Arc::new(Replica::start_with(&server.options(name), ledger.clone()).await);
        for task in 0..4 {
            tasks.spawn(spend_at_random(replica.clone(), Dice(seed ^ task)));
        }
    }
    let mut dice = Dice(seed);
    for _ in 0..20 {
        match dice.roll(4) {
            0 => assert_eq!(server.command("FLUSHALL").await, "+OK"),
            1 => assert_eq!(server.command("SCRIPT FLUSH").await, "+OK"),
            2 => {
                server.kill().await;
                server.start_again().await;
            }
            _ => sleep(Duration::from_millis(dice.roll(20))).await,
        }
    }
    let cost: i128 = tasks.join_all().await.into_iter().sum();
    assert!(0 < cost && cost <= LIMIT, "{cost}");
}

/// Requests until the budget is used up or there were enough: what they cost.
async fn spend_at_random(replica: Arc<Replica>, mut dice: Dice) -> i128 {
    let mut cost = 0;
    for _ in 0..200 {
        let (number, amount) = (u128::from(dice.roll(u64::MAX)), dice.roll(50));
        let amount = i64::try_from(amount).unwrap() + 1;
        match spend(&replica, number, amount).await {
            Ok(Reservation::Held(Held { holder: Some(holder), .. })) => {
                let actual = i64::try_from(dice.roll(50)).unwrap().min(amount);
                replica.limiter.settle(spent(lease(number), holder, &budget(amount), &[actual]));
                cost += i128::from(actual);
            }
            Ok(Reservation::Exhausted { .. }) => break,
            Ok(other) => panic!("{other:?}"),
            Err(LimiterDown(_)) => {
                replica.limiter.settle(voided(lease(number), &budget(amount)));
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
    cost
}

/// Numbers that depend on the seed alone (an `xorshift`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
