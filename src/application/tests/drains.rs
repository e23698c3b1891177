//! What becomes of a call whose client has gone: brought to its end where the model says so, within bounds.

use std::sync::atomic::Ordering;

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind},
    llm_provider::{Facts, Frame, FrameStream},
    rate_limiter::LimitKind,
    usage::{TokenUsage, UsageSource},
    usage_ledger::{Outcome, UsageEvent},
};
use futures_util::StreamExt;

use super::fakes::{Step, World, delta, done, polled, run, tokens};
use crate::application::attempt::Answer;

const DRAINED: &str = "16 byte: drained stream";

type Frames = Vec<Result<Frame, ProviderError>>;

/// A stream of which one frame has been read.
async fn begun(world: &World, body: &str) -> FrameStream {
    let Answer::Stream { mut frames, .. } = world.send(body).await.unwrap() else { panic!("no stream") };
    frames.next().await.unwrap().unwrap();
    frames
}

/// A world whose client left after the first frame.
fn left(frames: Frames) -> World {
    let world = World::new(vec![Step::Stream(frames)]);
    run(async { drop(begun(&world, DRAINED).await) });
    world
}

fn told(row: &UsageEvent) -> (Outcome, Option<&str>, UsageSource, u64) {
    (row.outcome, row.error.as_deref(), row.usage_source, row.usage.output)
}

#[test]
fn a_drained_stream_is_charged_the_providers_own_count() {
    let world = left(vec![delta("12345678"), delta("1234"), done(Some(tokens(5, 3)))]);
    assert_eq!((world.journal.open.lock().unwrap().len(), world.limiter.outstanding()), (1, 1), "it is still read");
    world.tasks.run_all();
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((told(&row), row.usage), ((Outcome::Cancelled, None, UsageSource::Drained, 3), tokens(5, 3)));
    assert_eq!((world.limiter.outstanding(), world.limiter.actual(LimitKind::Tokens)), (0, 8));
    assert_eq!((world.drains.running(), world.observer.0.lock().unwrap().len()), (0, 1));
}

#[test]
fn a_drained_stream_without_usage_is_counted() {
    let world = left(vec![delta("12345678"), delta("1234"), done(None)]);
    world.tasks.run_all();
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Counted, 13));
}

#[test]
fn a_drained_stream_that_breaks_off_is_the_clients_cancellation_all_the_same() {
    let broken = Err(ProviderError::new(ProviderErrorKind::Transport));
    let world = left(vec![delta("12345678"), delta("1234"), broken]);
    world.tasks.run_all();
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Estimated, 3));
}

#[test]
fn a_model_that_does_not_say_so_is_cancelled_and_a_stream_that_has_ended_needs_no_drain() {
    let world = World::new(vec![
        Step::Stream(vec![delta("12345678"), done(Some(tokens(1, 1)))]),
        Step::Stream(vec![done(Some(tokens(1, 1)))]),
    ]);
    run(async { drop(begun(&world, "stream").await) });
    assert_eq!(world.journal.rows()[0].usage_source, UsageSource::Estimated);
    run(async { drop(begun(&world, DRAINED).await) });
    assert_eq!((world.journal.open.lock().unwrap().len(), world.drains.running()), (0, 0));
}

#[test]
fn no_more_than_sixty_four_are_drained_at_once() {
    let frames = || Step::Stream(vec![delta("12345678"), delta("1234"), done(Some(tokens(5, 3)))]);
    let world = World::new((0..66).map(|_| frames()).collect());
    for _ in 0..65 {
        run(async { drop(begun(&world, DRAINED).await) });
    }
    assert_eq!(world.drains.running(), 64);
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Estimated, 2));
    world.tasks.run_all();
    assert_eq!((world.drains.running(), world.journal.open.lock().unwrap().len()), (0, 0));
    run(async { drop(begun(&world, DRAINED).await) });
    assert_eq!(world.drains.running(), 1, "places are given back");
}

#[test]
fn a_drain_whose_time_is_up_is_charged_what_was_received() {
    let world = left(vec![delta("12345678"), delta("1234"), done(Some(tokens(5, 3)))]);
    world.tasks.poll_all();
    world.tasks.poll_all();
    world.tasks.time_is_up.store(true, Ordering::Relaxed);
    world.tasks.run_all();
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Estimated, 3));
    assert_eq!((world.limiter.outstanding(), world.drains.running()), (0, 0));
}

#[test]
fn a_drain_reads_no_further_than_what_was_reserved() {
    let most = "x".repeat(4 * 200).leak();
    let world = left(vec![delta(most), delta("1234"), done(Some(tokens(5, 900)))]);
    world.tasks.run_all();
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Estimated, 201));
}

#[test]
fn a_shutdown_settles_what_is_drained_and_begins_no_drain() {
    let frames = || vec![delta("12345678"), delta("1234"), done(Some(tokens(5, 3)))];
    let world = left(frames());
    world.cut.store(true, Ordering::Relaxed);
    world.tasks.poll_all();
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Estimated, 2));
    assert_eq!((world.limiter.outstanding(), world.drains.running()), (0, 0));

    let world = World::new(vec![Step::Stream(frames())]);
    run(async {
        let _left = begun(&world, DRAINED).await;
        world.cut.store(true, Ordering::Relaxed);
    });
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Failed, Some("gateway_stopped"), UsageSource::Estimated, 2));
}

/// A world whose client left while the provider was at work on a reply, of which nothing had been seen.
fn left_early(body: &str, step: Step) -> World {
    let world = World::new(vec![step]);
    let is_called = (1..100).any(|polls| {
        // Before the provider is called there is nothing to leave.
        world.journal.closed.lock().unwrap().clear();
        assert!(polled(world.send(body), polls).is_none(), "the client left too late");
        world.drains.running() == 1 || world.provider.calls.lock().unwrap().len() == 1
    });
    assert!(is_called);
    world
}

fn hello(usage: Option<TokenUsage>) -> Step {
    Step::Whole { body: "Hello", facts: Facts { usage, done: true, ..Facts::default() } }
}

#[test]
fn a_whole_reply_is_drained_too() {
    let world = left_early("drained", hello(Some(tokens(7, 3))));
    assert_eq!((world.journal.open.lock().unwrap().len(), world.drains.running()), (1, 1), "it is still waited for");
    world.tasks.run_all();
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((told(&row), row.usage), ((Outcome::Cancelled, None, UsageSource::Drained, 3), tokens(7, 3)));
    assert_eq!((world.limiter.outstanding(), world.drains.running()), (0, 0));

    let world = left_early("drained", hello(None));
    world.tasks.run_all();
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Counted, 5));
}

#[test]
fn a_stream_that_had_not_begun_is_drained_too() {
    let frames = vec![delta("12345678"), delta("1234"), done(Some(tokens(5, 3)))];
    let world = left_early(DRAINED, Step::Stream(frames));
    assert_eq!(world.drains.running(), 1);
    world.tasks.run_all();
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((told(&row), row.usage), ((Outcome::Cancelled, None, UsageSource::Drained, 3), tokens(5, 3)));
    assert_eq!((world.limiter.outstanding(), world.drains.running()), (0, 0));
}

#[test]
fn a_stream_that_had_not_begun_is_read_no_further_than_what_was_reserved() {
    let most = "x".repeat(4 * 200).leak();
    let world = left_early(DRAINED, Step::Stream(vec![delta(most), delta("1234"), done(Some(tokens(5, 900)))]));
    world.tasks.run_all();
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Estimated, 201));
}

#[test]
fn nobody_else_is_tried_for_a_client_that_has_gone() {
    let error = ProviderError { try_next_credential: true, ..ProviderError::new(ProviderErrorKind::RateLimit) };
    let world = left_early("drained", Step::Fail(ProviderError { status: Some(429), ..error }));
    world.tasks.run_all();
    assert_eq!(told(&world.journal.rows()[0]), (Outcome::Cancelled, None, UsageSource::Estimated, 0));
    assert_eq!((world.provider.calls.lock().unwrap().len(), world.limiter.outstanding()), (1, 0));
}

#[test]
fn a_whole_reply_that_does_not_come_in_time_is_charged_what_was_sent() {
    let world = left_early("drained", hello(Some(tokens(7, 3))));
    world.tasks.time_is_up.store(true, Ordering::Relaxed);
    world.tasks.run_all();
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((told(&row), row.usage.input), ((Outcome::Cancelled, None, UsageSource::Estimated, 0), 2));
    assert_eq!((world.limiter.outstanding(), world.drains.running()), (0, 0));
}

#[test]
fn a_model_that_does_not_say_so_is_not_waited_for() {
    let world = left_early("m", hello(Some(tokens(7, 3))));
    assert_eq!((world.journal.open.lock().unwrap().len(), world.drains.running()), (0, 0));
    assert_eq!(world.journal.rows()[0].usage_source, UsageSource::Estimated);
}
