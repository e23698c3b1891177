//! A journal that takes nothing, or not at once.

use std::sync::atomic::Ordering;

use ai4free_ports::{limits::Limits, rate_limiter::LimitKind, runtime::RequestEnd, usage_ledger::Outcome};

use super::{
    fakes::{World, run},
    money::budget,
    whole,
};
use crate::application::{
    attempt::Answer,
    failure::{Failure, Unavailable},
    unmetered::WhenFull,
};

fn full(policy: WhenFull) -> World {
    let world = World::when_full(policy, vec![whole()]);
    world.journal.is_full.store(true, Ordering::Relaxed);
    world
}

fn is_refused(answer: &Result<Answer, Failure>) -> bool {
    matches!(answer, Err(Failure::Unavailable { what: Unavailable::UsageJournal, .. }))
}

#[test]
fn who_says_so_is_served_without_a_row_and_told() {
    let world = full(WhenFull::AllowUnmetered);
    let Answer::Whole { limits, .. } = run(world.send("hello")).unwrap() else { panic!("no whole answer") };
    assert!(limits.is_unmetered);
    assert_eq!((world.unmetered.served(), world.journal.closed.lock().unwrap().len()), (1, 0));
    // Its limits hold all the same, and the log has it.
    assert_eq!((world.limiter.outstanding(), world.limiter.actual(LimitKind::Tokens)), (0, 10));
    let end = world.observer.0.lock().unwrap().first().unwrap().end.clone();
    assert!(matches!(end, RequestEnd::Admitted { outcome: Outcome::Success, .. }), "{end:?}");

    world.journal.is_full.store(false, Ordering::Relaxed);
    world.provider.script.lock().unwrap().push_back(whole());
    let Answer::Whole { limits, .. } = run(world.send("hello")).unwrap() else { panic!("no whole answer") };
    assert!(!limits.is_unmetered);
    assert_eq!((world.unmetered.served(), world.journal.rows().len()), (1, 1));
}

#[test]
fn what_spends_of_a_budget_is_refused_all_the_same() {
    let mut world = full(WhenFull::AllowUnmetered);
    world.key.limits = Limits { budget: Some(budget(1_000_000_000)), ..Limits::NONE };
    assert!(is_refused(&run(world.send("hello"))));
    assert_eq!((world.unmetered.served(), world.provider.calls.lock().unwrap().len()), (0, 0));
    assert_eq!(world.limiter.outstanding(), 0);
}

#[test]
fn a_journal_that_is_somebody_elses_refuses_whatever_the_policy() {
    let world = World::when_full(WhenFull::AllowUnmetered, vec![whole()]);
    world.journal.is_fenced.store(true, Ordering::Relaxed);
    assert!(is_refused(&run(world.send("hello"))));
}

#[test]
fn by_default_nothing_is_served_that_has_no_row() {
    let world = full(WhenFull::default());
    assert!(is_refused(&run(world.send("hello"))));
    assert_eq!((world.unmetered.served(), world.provider.calls.lock().unwrap().len()), (0, 0));
}

#[test]
fn a_journal_that_is_busy_is_waited_for() {
    let world = World::new(vec![whole()]);
    world.journal.busy.store(3, Ordering::Relaxed);
    run(world.exchange("hello")).unwrap();
    assert_eq!((world.journal.rows().len(), world.journal.busy.load(Ordering::Relaxed)), (1, 0));
}
