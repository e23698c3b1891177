//! Requests from admission to settlement, over ports that are made by hand: nothing is held, open or charged twice, wherever
//! a client leaves and however a provider fails.

mod authentication;
mod drains;
mod fakes;
mod money;
mod slices;
mod unmetered;
mod usage;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind},
    llm_provider::Facts,
    rate_limiter::LimitKind,
    runtime::RequestEnd,
    usage::{TokenUsage, UsageSource},
    usage_ledger::Outcome,
};
use futures_util::StreamExt;

use self::fakes::{PlainDialect, Step, World, delta, done, polled, run, tokens};
use crate::application::{
    attempt::Answer,
    failure::{Failure, Unavailable},
    uptime::Uptime,
};

fn whole() -> Step {
    let facts = Facts { usage: Some(tokens(7, 3)), done: true, ..Facts::default() };
    Step::Whole { body: "Hello", facts }
}

fn uncounted_stream() -> Step {
    Step::Stream(vec![delta("Hello, "), delta("world"), done(None)])
}

fn next_credential(kind: ProviderErrorKind) -> Step {
    let answered = (kind != ProviderErrorKind::Transport).then_some(429);
    let request_was_sent = answered.is_some();
    let error = ProviderError::new(kind);
    Step::Fail(ProviderError { status: answered, request_was_sent, try_next_credential: true, ..error })
}

#[test]
fn a_client_that_leaves_at_any_await_leaves_nothing_held_and_nothing_open() {
    type Script = fn() -> Vec<Step>;
    let scripts: [(&str, Script); 5] = [
        ("hello", || vec![whole()]),
        ("hello", || vec![Step::Whole { body: "uncounted", facts: Facts::default() }]),
        ("hello stream", || vec![uncounted_stream()]),
        ("hello", || vec![next_credential(ProviderErrorKind::RateLimit), whole()]),
        // More bytes than the plan allows tokens: admitted at the second try.
        (&padded(), || vec![whole()]),
    ];
    for (case, (body, script)) in scripts.into_iter().enumerate() {
        let mut polls = 0;
        loop {
            let world = World::new(script());
            let ended = polled(world.exchange(body), polls).is_some();
            let at = format!("case {case}, after {polls} polls");
            assert_eq!(world.limiter.outstanding(), 0, "{at}");
            assert_eq!(world.journal.open.lock().unwrap().len(), 0, "{at}");
            assert!(world.journal.closed.lock().unwrap().len() <= 1, "{at}");
            assert_eq!(world.observer.0.lock().unwrap().len(), usize::from(polls > 0), "{at}");
            if ended {
                break;
            }
            polls += 1;
        }
        assert!(polls > 3, "case {case} waits for something");
    }
}

/// More bytes than the plan allows tokens, and few tokens: the fake tokenizer does not count spaces at the end.
fn padded() -> String {
    format!("cap=10 x{}", " ".repeat(1100))
}

#[test]
fn a_prompt_that_does_not_fit_by_its_bytes_is_admitted_by_its_tokens() {
    let world = World::new(vec![whole()]);
    run(world.exchange(&padded())).unwrap();
    assert_eq!(world.journal.rows().len(), 1);

    let mut tight = World::new(Vec::new());
    tight.key.limits.tokens_per_minute = Some(17);
    let failure = run(tight.exchange(&padded())).unwrap_err();
    let Failure::LimitReached(reached) = failure else { panic!("{failure:?}") };
    assert_eq!((reached.kind, reached.limit, reached.requested), (LimitKind::Tokens, 17, 8 + 10));
    assert!(tight.journal.closed.lock().unwrap().is_empty());
}

#[test]
fn the_settlement_is_written_before_the_last_frame_is_released() {
    for usage in [Some(tokens(5, 2)), None] {
        let world = World::new(vec![Step::Stream(vec![delta("Hello"), delta("!"), done(usage)])]);
        run(async {
            let Answer::Stream { mut frames, .. } = world.send("hi stream").await.unwrap() else { panic!("no stream") };
            while let Some(frame) = frames.next().await {
                let is_last = frame.unwrap().facts.done;
                assert_eq!(world.journal.closed.lock().unwrap().len(), usize::from(is_last));
                assert_eq!(world.limiter.outstanding(), usize::from(!is_last));
            }
        });
    }
    let world = World::new(vec![whole()]);
    let Ok(Answer::Whole { .. }) = run(world.send("hi")) else { panic!("no reply") };
    assert_eq!(world.journal.rows().len(), 1);
}

#[test]
fn a_failed_attempt_and_a_good_one_are_two_rows_and_tokens_count_where_they_came_from() {
    let world = World::new(vec![next_credential(ProviderErrorKind::RateLimit), whole()]);
    run(world.exchange("hello")).unwrap();
    let rows = world.journal.rows();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.attempt, row.outcome, row.credential.as_deref().unwrap(), row.usage, row.cost.0))
        .collect();
    assert_eq!(
        told,
        [
            (0, Outcome::Failed, "p#1", TokenUsage::default(), 0),
            (1, Outcome::Success, "p#2", tokens(7, 3), 7 + 3 * 1000)
        ]
    );
    let settled = world.limiter.settled();
    let of = |scope: &str, kind| settled.iter().find(|(name, of, _)| name == scope && *of == kind).unwrap().2;
    assert_eq!(of("key:abcdefghijkl", LimitKind::Tokens), 10);
    assert_eq!(of("credential:p#1", LimitKind::Tokens), 0);
    assert_eq!(of("credential:p#2", LimitKind::Tokens), 10);
}

#[test]
fn an_attempt_that_may_have_cost_something_keeps_its_charge() {
    let timeout = ProviderError { try_next_credential: true, ..ProviderError::new(ProviderErrorKind::Timeout) };
    let world = World::new(vec![Step::Fail(timeout), whole()]);
    run(world.exchange("8 bytes!")).unwrap();
    let rows = world.journal.rows();
    assert_eq!(rows.iter().map(|row| row.usage).collect::<Vec<_>>(), [tokens(2, 0), tokens(7, 3)]);
    assert_eq!(world.limiter.actual(LimitKind::Tokens), 12);
}

#[test]
fn a_request_that_was_never_sent_is_void_and_one_that_was_sent_once_counts() {
    let unsent = || next_credential(ProviderErrorKind::Transport);
    let world = World::new(vec![unsent(), unsent()]);
    assert!(matches!(run(world.exchange("hello")), Err(Failure::Provider(_))));
    assert_eq!(world.limiter.actual(LimitKind::Requests), 0);
    assert!(world.journal.rows().iter().all(|row| row.cost.0 == 0));

    let world = World::new(vec![next_credential(ProviderErrorKind::RateLimit), unsent()]);
    assert!(run(world.exchange("hello")).is_err());
    assert_eq!(world.limiter.actual(LimitKind::Requests), 1);
}

#[test]
fn a_stream_without_usage_is_counted_also_after_one_that_had_it() {
    let reported = || Step::Stream(vec![delta("Hello"), done(Some(tokens(1, 1)))]);
    let world = World::new(vec![uncounted_stream(), reported(), uncounted_stream(), uncounted_stream()]);
    for _ in 0..4 {
        run(world.exchange("a stream")).unwrap();
    }
    let closed = world.journal.closed.lock().unwrap();
    let sources: Vec<_> = closed.iter().flatten().map(|row| row.usage_source).collect();
    assert_eq!(
        sources,
        [UsageSource::Counted, UsageSource::Provider, UsageSource::Estimated, UsageSource::Counted],
        "what was not kept can't be counted, and is kept from then on"
    );
    assert_eq!(closed.first().unwrap().first().unwrap().usage, tokens(8, 13));
}

#[test]
fn a_cancelled_stream_is_charged_its_prompt_and_what_was_received() {
    let world = World::new(vec![Step::Stream(vec![delta("12345678"), delta("1234"), done(Some(tokens(1, 1)))])]);
    run(async {
        let Answer::Stream { mut frames, .. } = world.send("16 bytes: stream").await.unwrap() else { panic!() };
        frames.next().await.unwrap().unwrap();
    });
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((row.outcome, row.usage, row.usage_source), (Outcome::Cancelled, tokens(4, 2), UsageSource::Estimated));
    assert_eq!(row.cost.0, 4 + 2 * 1000);
    assert_eq!(world.limiter.actual(LimitKind::Requests), 1);
}

#[test]
fn a_stream_that_the_gateway_cuts_is_its_own_failure() {
    let world = World::new(vec![Step::Stream(vec![delta("12345678"), done(Some(tokens(1, 1)))])]);
    run(async {
        let Answer::Stream { mut frames, .. } = world.send("16 bytes: stream").await.unwrap() else { panic!() };
        frames.next().await.unwrap().unwrap();
        world.cut.store(true, Ordering::Relaxed);
    });
    let row = world.journal.rows().pop().unwrap();
    assert_eq!(
        (row.outcome, row.error.as_deref(), row.usage),
        (Outcome::Failed, Some("gateway_stopped"), tokens(4, 2))
    );
}

#[test]
fn an_image_in_a_cancelled_prompt_is_not_charged_by_its_bytes() {
    let mut world = World::new(vec![Step::Stream(vec![delta("x")])]);
    world.key.limits.tokens_per_minute = Some(100_000);
    let body = format!("media stream {}", "x".repeat(40_000));
    run(async {
        let _left = world.send(&body).await.unwrap();
    });
    assert_eq!(world.journal.rows().pop().unwrap().usage, tokens(600, 0), "the model's context at most");
}

#[test]
fn a_stream_that_breaks_off_is_a_failure_with_what_was_received() {
    let world = World::new(vec![Step::Stream(vec![delta("12345678")])]);
    assert!(matches!(run(world.exchange("stream")), Err(Failure::Provider(_))));
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((row.outcome, row.error.as_deref()), (Outcome::Failed, Some("upstream_protocol")));
    assert_eq!(row.usage, tokens(2, 2));
}

#[test]
fn a_journal_that_is_full_refuses_and_holds_nothing() {
    let world = World::new(Vec::new());
    world.journal.is_full.store(true, Ordering::Relaxed);
    assert!(matches!(run(world.exchange("hello")), Err(Failure::Unavailable { .. })));
    assert_eq!((world.limiter.outstanding(), world.limiter.actual(LimitKind::Requests)), (0, 0));
    let summaries = world.observer.0.lock().unwrap();
    assert_eq!(summaries.first().unwrap().end, RequestEnd::Refused("accounting_unavailable"));
}

#[test]
fn nothing_is_admitted_while_another_process_may_hold_the_limits() {
    let world = World::new(vec![whole()]);
    world.gate.close();
    let refused = run(world.exchange("hello"));
    assert!(matches!(refused, Err(Failure::Unavailable { what: Unavailable::Gateway, .. })), "{refused:?}");
    assert!(world.limiter.settled().is_empty());
    world.gate.open();
    run(world.exchange("hello")).unwrap();
}

#[test]
fn a_prompt_that_can_not_be_read_is_the_clients_error() {
    let mut world = World::new(Vec::new());
    world.key.limits.tokens_per_minute = Some(100_000);
    let failure = run(world.exchange(&format!("garbage{}", "x".repeat(1000)))).unwrap_err();
    assert!(matches!(failure, Failure::Request(_)), "{failure:?}");
}

#[test]
fn a_keys_output_cap_is_sent_but_never_above_the_models() {
    let cap_sent = |of_key, body: &str| {
        let mut world = World::new(vec![whole()]);
        world.key.max_output_tokens = of_key;
        run(world.exchange(body)).unwrap();
        let calls = world.provider.calls.lock().unwrap();
        calls.first().unwrap().output_cap
    };
    assert_eq!(cap_sent(Some(50), "hello"), Some(50));
    assert_eq!(cap_sent(Some(50), "cap=20 "), Some(20));
    assert_eq!(cap_sent(Some(50), "cap=150 "), Some(50));
    assert_eq!(cap_sent(Some(5000), "hello"), Some(200), "the model's own maximum");
    assert_eq!(cap_sent(None, "hello"), Some(200), "a token limit has to know one");
}

#[test]
fn time_with_the_provider_is_not_overhead() {
    let world = World::new(vec![Step::Stream(vec![delta("Hello"), done(Some(tokens(1, 1)))])]);
    run(async {
        let Answer::Stream { mut frames, .. } = world.send("stream").await.unwrap() else { panic!() };
        world.clock.advance(Duration::from_millis(100));
        frames.next().await.unwrap().unwrap();
        world.clock.advance(Duration::from_millis(100));
        frames.next().await.unwrap().unwrap();
    });
    let summaries = world.observer.0.lock().unwrap();
    let summary = summaries.first().unwrap();
    assert_eq!(summary.total, summary.upstream);
    assert_eq!(summary.total, Duration::from_millis(200));
}

fn uptime(world: &World) -> Arc<Uptime> {
    Arc::new(Uptime::new(world.inference.clone(), Arc::new(PlainDialect), world.ids.clone()))
}

#[test]
fn one_uptime_check_serves_all_who_wait_even_if_the_first_leaves() {
    let up = || Step::Stream(vec![delta("pong"), done(Some(tokens(1, 1)))]);
    let world = World::new(vec![up(), up()]);
    let (uptime, caller) = (uptime(&world), crate::application::authentication::Principal::of_test(world.key.clone()));
    run(async {
        let mut first = Box::pin(uptime.check(&caller, "m"));
        let mut second = Box::pin(uptime.check(&caller, "m"));
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(!second.await.unwrap().unwrap().cached);
        assert!(uptime.check(&caller, "m").await.unwrap().unwrap().cached);
        world.clock.advance(Duration::from_secs(61));
        assert!(!uptime.check(&caller, "m").await.unwrap().unwrap().cached);
    });
    assert_eq!(world.provider.calls.lock().unwrap().len(), 2);
    assert!(world.journal.closed.lock().unwrap().iter().flatten().all(|row| row.key.as_str() == "system"));
}

#[test]
fn an_uptime_check_that_everybody_left_is_begun_anew_and_a_failure_is_remembered_shortly() {
    let down = || Step::Fail(ProviderError::new(ProviderErrorKind::Server));
    let world = World::new(vec![down(), down()]);
    let (uptime, caller) = (uptime(&world), crate::application::authentication::Principal::of_test(world.key.clone()));
    assert!(polled(uptime.check(&caller, "m"), 1).is_none());
    assert_eq!(world.limiter.outstanding(), 0);
    let check = || run(uptime.check(&caller, "m")).unwrap().is_err();
    assert!(check() && check());
    assert_eq!(world.provider.calls.lock().unwrap().len(), 1);
    world.clock.advance(Duration::from_secs(11));
    assert!(check());
    assert_eq!(world.provider.calls.lock().unwrap().len(), 2);
}
