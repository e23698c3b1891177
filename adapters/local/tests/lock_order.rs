//! That reservations of several scopes never wait for each other in a circle: every interleaving of three of them, tried by
//! loom, which finds deadlocks without waiting for one.
#![expect(
    dead_code,
    reason = "the shards are compiled once more here, over loom's locks, and only their locking is tried"
)]

use std::time::Duration;

use ai4free_ports::rate_limiter::Scope;
use loom::{
    sync::{Arc, Mutex, MutexGuard},
    thread,
};
use shards::ScopeShards;

#[path = "../src/rate_limiter/shards.rs"]
mod shards;

/// What a scope uses, as far as the shards look at it.
#[derive(Default)]
struct Cell {
    budgets: Budgets,
    reservations: u32,
}

#[derive(Default)]
struct Budgets;

impl Budgets {
    fn forget_old(&mut self, _now: Duration) {}
}

impl Cell {
    fn is_idle(&self, _second: u64) -> bool {
        self.reservations == 0
    }
}

#[test]
fn reservations_of_the_same_scopes_in_any_order_wait_for_nobody_who_waits_for_them() {
    let mut model = loom::model::Builder::new();
    // Every schedule in which a thread is interrupted at most this often: a circle of two needs one, of three needs two.
    model.preemption_bound = Some(2);
    model.check(|| {
        let (user, key) = (Scope::User("alice".into()), Scope::Model("gpt".into()));
        let orders = [[Scope::Gateway, user.clone(), key.clone()], [key, user, Scope::Gateway]];
        let shards = Arc::new(ScopeShards::default());
        let reserve = |shards: &ScopeShards, scopes: &[Scope]| {
            let mut locked = shards.lock(scopes.iter());
            for scope in scopes {
                locked.cell(scope).unwrap().reservations += 1;
            }
        };
        let others = orders.clone().map(|scopes| {
            let shards = Arc::clone(&shards);
            thread::spawn(move || reserve(&shards, &scopes))
        });
        reserve(&shards, &orders[1][1..]);
        others.into_iter().for_each(|other| other.join().unwrap());
        let mut locked = shards.lock(orders[0].iter());
        let counted = orders[0].clone().map(|scope| locked.existing_cell(&scope).unwrap().reservations);
        assert_eq!(counted, [3, 3, 2]);
    });
}
