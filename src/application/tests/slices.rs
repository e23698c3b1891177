//! Output that is reserved slice by slice: never more is sent than is held, and a reply that can't have more ends well.

use std::{ops::Range, sync::atomic::Ordering};

use ai4free_ports::{
    error::ProviderError,
    key::StoredKey,
    llm_provider::{Facts, Frame},
    rate_limiter::{LimitKind, Scope},
    usage::UsageSource,
    usage_ledger::Outcome,
};
use futures_util::StreamExt;
use proptest::prelude::*;

use super::{
    fakes::{Step, World, done, polled, run, tokens},
    money::{of_key, window},
};
use crate::application::attempt::Answer;

const SLICE: i128 = 4096;
/// Pico-USD of a token of output.
const TOKEN: i128 = 1000;
/// Each body in these tests is as long, and costs as many pico-USD.
const PROMPT: i128 = 24;
/// One token a byte, and four bytes a token.
const SLICED: &str = "cap=20000 sliced  stream";
const SQUEEZED: &str = "cap=20000 squeezedstream";

/// A caller with nothing but a budget.
fn world(budget: i128, script: impl IntoIterator<Item = Step>) -> World {
    let mut world = super::money::world(budget, script);
    world.key.plan = "unlimited".into();
    world
}

type Frames = Vec<Result<Frame, ProviderError>>;

fn text(bytes: usize) -> Result<Frame, ProviderError> {
    Ok(Frame { bytes: "x".repeat(bytes).into(), facts: Facts { output_bytes: bytes as u64, ..Facts::default() } })
}

fn stream(sizes: &[usize]) -> Frames {
    let whole: usize = sizes.iter().sum();
    let end = done(Some(tokens(5, whole as u64)));
    sizes.iter().copied().map(text).chain([end]).collect()
}

/// What was sent, frame by frame.
#[derive(Debug, Default)]
struct Sent {
    bytes: u64,
    /// What the last frame holds, when the gateway has written it.
    ending: Option<String>,
}

/// Reads a reply to its end, and looks after each frame whether what it holds is reserved, and within the budget.
fn read(world: &World, budget: i128, body: &str, bytes_per_token: u64) -> Sent {
    let mut sent = Sent::default();
    run(async {
        let Answer::Stream { mut frames, .. } = world.send(body).await.unwrap() else { panic!("no stream") };
        while let Some(frame) = frames.next().await {
            let frame = frame.unwrap();
            sent.bytes += frame.facts.output_bytes;
            let standing = of_key(world);
            assert!(standing.used().0 <= budget, "{standing:?}");
            if frame.facts.done {
                let text = String::from_utf8(frame.bytes.to_vec()).unwrap();
                sent.ending = Some(text).filter(|text| text != "!");
            } else {
                let held = (standing.reserved.0 - PROMPT) / TOKEN;
                assert!(i128::from(sent.bytes.div_ceil(bytes_per_token)) <= held, "{sent:?} of {held}");
            }
        }
    });
    assert_eq!((world.limiter.outstanding(), of_key(world).reserved.0), (0, 0));
    sent
}

#[test]
fn a_short_reply_holds_one_slice_and_asks_for_nothing() {
    let world = world(TOKEN * 1_000_000, [Step::Stream(stream(&[1000, 1047]))]);
    assert_eq!(read(&world, TOKEN * 1_000_000, SLICED, 1).bytes, 2047);
    let [(0, claimed, settled)] = world.limiter.leases()[..] else { panic!("{:?}", world.limiter.leases()) };
    assert_eq!((i128::from(claimed), i128::from(settled)), (PROMPT + SLICE * TOKEN, 5 + 2047 * TOKEN));
    assert_eq!(world.provider.calls.lock().unwrap()[0].output_cap, Some(20_000), "the client's own cap is sent");
}

#[test]
fn a_long_reply_holds_slice_after_slice_up_to_its_cap_and_is_settled_as_one() {
    let world = world(TOKEN * 1_000_000, [Step::Stream(stream(&[500; 40]))]);
    let sent = read(&world, TOKEN * 1_000_000, SLICED, 1);
    assert_eq!((sent.bytes, sent.ending), (20_000, None));
    let leases = world.limiter.leases();
    let claimed: Vec<_> = leases.iter().map(|(_, claimed, _)| i128::from(*claimed) / TOKEN).collect();
    assert_eq!(claimed, [SLICE, SLICE, SLICE, SLICE, 20_000 - 4 * SLICE]);
    let settled: Vec<_> = leases.iter().map(|(number, _, settled)| (*number, i128::from(*settled))).collect();
    assert_eq!(settled, [(0, 5 + 20_000 * TOKEN), (1, 0), (2, 0), (3, 0), (4, 0)]);
}

#[test]
fn a_small_cap_a_whole_reply_and_a_key_without_limits_are_not_sliced() {
    let claimed = |body: &str, step| {
        let world = world(TOKEN * 1_000_000, [step]);
        run(world.exchange(body)).unwrap();
        i128::from(world.limiter.leases()[0].1)
    };
    assert_eq!(claimed("cap=4096 sliced   stream", Step::Stream(stream(&[1]))), PROMPT + 4096 * TOKEN);
    let whole = Step::Whole { body: "x", facts: Facts { usage: Some(tokens(5, 1)), ..Facts::default() } };
    assert_eq!(claimed("cap=20000 sliced", whole), 16 + 20_000 * TOKEN);

    let mut world = world(0, [Step::Stream(stream(&[9000]))]);
    world.key = StoredKey { limits: ai4free_ports::limits::Limits::NONE, plan: "unlimited".into(), ..world.key };
    run(world.exchange(SLICED)).unwrap();
}

#[test]
fn a_refused_slice_ends_the_reply_as_at_its_cap() {
    let budget = PROMPT + (SLICE + 1000) * TOKEN;
    let world = world(budget, [Step::Stream(stream(&[500; 40]))]);
    let sent = read(&world, budget, SLICED, 1);
    assert_eq!(sent.bytes, 3500, "the last frame that leaves 256 of 4096");
    let usage = "Usage(TokenUsage { input: 24, cache_read: 0, cache_write: 0, output: 3500";
    let ending = sent.ending.unwrap();
    assert!(ending.starts_with(&format!("<Finish {{ choice: 0, reason: Length }}><{usage}")), "{ending}");
    assert!(ending.ends_with("><End>"), "{ending}");
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((row.outcome, row.error.as_deref()), (Outcome::Success, Some("output_ceiling")));
    assert_eq!((row.usage, row.usage_source), (tokens(24, 3500), UsageSource::Counted));
    assert_eq!(i128::from(row.cost.0), PROMPT + 3500 * TOKEN);
}

#[test]
fn a_refused_slice_is_no_end_while_the_count_leaves_room() {
    let budget = PROMPT + (SLICE + 1000) * TOKEN;
    let world = world(budget, [Step::Stream(stream(&[500; 40]))]);
    let sent = read(&world, budget, SQUEEZED, 4);
    assert!((4 * (3840 - 500)..4 * 3840).contains(&sent.bytes), "{sent:?}");
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((row.error.as_deref(), row.usage_source), (Some("output_ceiling"), UsageSource::Counted));
    assert_eq!(row.usage.output, sent.bytes / 4);

    let mut shorter = stream(&[500; 25]);
    shorter.pop();
    shorter.push(done(Some(tokens(5, 3125))));
    let world = self::world(budget, [Step::Stream(shorter)]);
    assert_eq!(read(&world, budget, SQUEEZED, 4).ending, None, "all of it fits");
    assert_eq!(world.journal.rows()[0].usage, tokens(5, 3125));
}

#[test]
fn a_limiter_that_is_down_at_a_slice_ends_the_reply_as_a_refusal_does() {
    let budget = TOKEN * 1_000_000;
    let world = world(budget, [Step::Stream(stream(&[500; 40]))]);
    let world_is_read = || {
        run(async {
            let Answer::Stream { mut frames, .. } = world.send(SLICED).await.unwrap() else { panic!("no stream") };
            world.limiter.is_down.store(true, Ordering::Relaxed);
            let mut last = None;
            while let Some(frame) = frames.next().await {
                last = Some(frame.unwrap());
            }
            last.unwrap()
        })
    };
    let last = world_is_read();
    assert!(last.facts.done && last.bytes.ends_with(b"<End>"), "{last:?}");
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((row.error.as_deref(), row.usage.output), (Some("output_ceiling"), 3500));
    assert_eq!(world.limiter.outstanding(), 0);
}

#[test]
fn a_slice_out_of_another_holders_grant_is_given_back_and_ends_the_reply() {
    let budget = TOKEN * 1_000_000;
    let world = world(budget, [Step::Stream(stream(&[500; 40]))]);
    run(async {
        let Answer::Stream { mut frames, .. } = world.send(SLICED).await.unwrap() else { panic!("no stream") };
        frames.next().await.unwrap().unwrap();
        world.limiter.money(|money| money.forget(money.holder()));
        while let Some(frame) = frames.next().await {
            frame.unwrap();
        }
    });
    let row = world.journal.rows().pop().unwrap();
    assert_eq!((row.error.as_deref(), row.usage.output), (Some("output_ceiling"), 3500));
    assert_eq!(row.spending.len(), 1, "one row is charged to one holder");
    assert_eq!(world.limiter.outstanding(), 0);
    let slice = world.limiter.leases().into_iter().find(|(number, ..)| *number == 1);
    assert_eq!(slice.map(|(_, claimed, settled)| (i128::from(claimed), settled)), Some((SLICE * TOKEN, 0)));
}

#[test]
fn a_rate_of_tokens_is_topped_up_too_and_requests_are_not() {
    let mut world = World::new(vec![Step::Stream(stream(&[500; 10]))]);
    world.key.limits.tokens_per_minute = Some(10_000);
    run(world.exchange(SLICED)).unwrap();
    let settled = world.limiter.settled();
    let count = |kind| settled.iter().filter(|(scope, of, _)| scope.starts_with("key") && *of == kind).count();
    assert_eq!((count(LimitKind::Tokens), count(LimitKind::Requests), count(LimitKind::Concurrency)), (2, 1, 1));
    assert_eq!(world.limiter.actual(LimitKind::Tokens), 5005);
}

#[test]
fn a_client_that_leaves_at_any_await_of_a_slice_leaves_nothing_held() {
    for (body, budget) in
        [(SLICED, TOKEN * 1_000_000), (SLICED, PROMPT + 5000 * TOKEN), (SQUEEZED, PROMPT + 5000 * TOKEN)]
    {
        let mut polls = 0;
        loop {
            let world = world(budget, [Step::Stream(stream(&[1000; 19]))]);
            let ended = polled(world.exchange(body), polls).is_some();
            world.tasks.run_all();
            let key = Scope::Key(world.key.id.clone());
            let standing = world.limiter.money(|money| money.standing(&key, &window()).unwrap_or_default());
            assert_eq!((world.limiter.outstanding(), standing.reserved.0), (0, 0), "after {polls} polls");
            assert!(standing.settled.0 <= budget, "{standing:?}");
            assert_eq!(world.journal.open.lock().unwrap().len(), 0, "after {polls} polls");
            if ended {
                break;
            }
            polls += 1;
        }
        assert!(polls > 10, "{polls}");
    }
}

#[test]
fn a_frame_of_many_bytes_and_few_tokens_is_sent_where_it_fits() {
    let budget = PROMPT + (SLICE + 1000) * TOKEN;
    let world = world(budget, [Step::Stream(stream(&[12_000, 3_000, 1_000]))]);
    let sent = read(&world, budget, SQUEEZED, 4);
    assert_eq!(sent.bytes, 15_000, "3750 tokens; 250 more are not to be had");
    assert!(sent.ending.is_some());
    assert_eq!(world.journal.rows()[0].usage.output, 3_750);
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = |range: Range<usize>| prop::collection::vec(range, 0..60);
    prop_oneof![size(0..50), size(0..1200), size(0..9000)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_comes_no_more_is_sent_than_is_held_and_no_more_held_than_the_budget(
        sizes in sizes(),
        spare in 0..30_000_i128,
        is_squeezed: bool,
    ) {
        let budget = PROMPT + (SLICE + spare) * TOKEN;
        let (body, bytes_per_token) = if is_squeezed { (SQUEEZED, 4) } else { (SLICED, 1) };
        let mut frames = stream(&[]);
        let mut made = 0;
        for size in sizes {
            if made + size <= 20_000 * bytes_per_token {
                made += size;
                frames.insert(frames.len() - 1, text(size));
            }
        }
        *frames.last_mut().unwrap() = done(Some(tokens(5, made.div_ceil(bytes_per_token) as u64)));
        let world = world(budget, [Step::Stream(frames)]);
        let sent = read(&world, budget, body, bytes_per_token as u64);
        let row = world.journal.rows().pop().unwrap();
        prop_assert_eq!(row.outcome, Outcome::Success);
        prop_assert_eq!(sent.ending.is_some(), row.error.is_some());
        if sent.ending.is_none() {
            prop_assert_eq!(sent.bytes, made as u64);
        } else {
            prop_assert!(row.usage.output >= sent.bytes.div_ceil(bytes_per_token as u64));
        }
        prop_assert!(i128::from(row.cost.0) <= budget);
    }
}
