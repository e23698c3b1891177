//! Contract of [`TokenCounter`]: counts as the model's own tokenizer, and never holds up the reactor.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{runtime::TokenCounter, usage::Encoding};
use bytes::Bytes;

/// How a fresh counter is made.
pub trait Harness {
    fn counter() -> Arc<dyn TokenCounter>;
}

const ALL: [Encoding; 3] = [Encoding::Cl100k, Encoding::O200k, Encoding::BytesPerFour];

/// The longest that a timer may be late while something large is counted. Generous, for shared machines: what it must catch
/// is a count of seconds on the reactor.
const LATE: Duration = Duration::from_millis(300);

async fn count(counter: &dyn TokenCounter, encoding: Encoding, text: impl Into<Bytes>) -> u64 {
    counter.count(encoding, text.into()).await.unwrap()
}

pub async fn known_texts_have_their_known_counts<H: Harness>() {
    let counter = H::counter();
    let cases: [(&str, u64, u64); 6] = [
        ("hello world", 2, 2),
        ("tiktoken is great!", 6, 6),
        ("antidisestablishmentarianism", 6, 6),
        ("2 + 2 = 4", 7, 7),
        ("お誕生日おめでとう", 9, 8),
        ("fn main() {}\n", 4, 4),
    ];
    for (text, cl100k, o200k) in cases {
        assert_eq!(count(&*counter, Encoding::Cl100k, text).await, cl100k, "{text}");
        assert_eq!(count(&*counter, Encoding::O200k, text).await, o200k, "{text}");
    }
}

pub async fn bytes_per_four_rounds_up<H: Harness>() {
    let counter = H::counter();
    for (text, tokens) in [("a", 1), ("abcd", 1), ("abcde", 2), ("ä", 1), ("äöü", 2)] {
        assert_eq!(count(&*counter, Encoding::BytesPerFour, text).await, tokens, "{text}");
    }
}

pub async fn nothing_is_no_token<H: Harness>() {
    let counter = H::counter();
    for encoding in ALL {
        assert_eq!(count(&*counter, encoding, "").await, 0, "{encoding:?}");
    }
}

pub async fn special_tokens_count_as_text<H: Harness>() {
    let counter = H::counter();
    for encoding in [Encoding::Cl100k, Encoding::O200k] {
        for special in ["<|endoftext|>", "<|fim_prefix|>"] {
            assert!(count(&*counter, encoding, special).await > 3, "{encoding:?} {special}");
        }
    }
}

pub async fn bytes_that_are_not_utf_8_are_counted<H: Harness>() {
    let counter = H::counter();
    for encoding in ALL {
        assert!(count(&*counter, encoding, &b"hello \xff\xfe world \xf0\x9f"[..]).await >= 2, "{encoding:?}");
    }
}

pub async fn a_long_text_is_about_the_sum_of_its_parts<H: Harness>() {
    let counter = H::counter();
    let sentence = "The quick brown fox jumps over the lazy dog, 42 times. ";
    for encoding in ALL {
        let once = count(&*counter, encoding, sentence).await;
        let many = count(&*counter, encoding, sentence.repeat(10_000)).await;
        let expected = once * 10_000;
        assert!(many.abs_diff(expected) <= expected / 10, "{encoding:?}: {many} instead of about {expected}");
    }
}

pub async fn counters_work_side_by_side<H: Harness>() {
    let counter = H::counter();
    let mut counting = Vec::new();
    for encoding in ALL.into_iter().cycle().take(30) {
        let counter = counter.clone();
        counting.push(async move { counter.count(encoding, "hello world".into()).await.unwrap() });
    }
    let counted = futures_util::future::join_all(counting).await;
    for (counted, encoding) in counted.into_iter().zip(ALL.into_iter().cycle()) {
        assert_eq!(counted, if encoding == Encoding::BytesPerFour { 3 } else { 2 });
    }
}

/// Of two megabytes, which a tokenizer without optimisation counts for seconds.
pub async fn large_texts_leave_the_reactor_free<H: Harness>() {
    let text = Bytes::from("All work and no play makes Jack a dull boy. 混沌 ".repeat(40_000));
    for encoding in ALL {
        stays_responsive::<H>(encoding, text.clone()).await;
    }
}

pub async fn one_endless_run_of_a_letter_is_not_quadratic<H: Harness>() {
    for run in ["a", " ", "\n", "é"] {
        let text = Bytes::from(run.repeat(300_000));
        let counted = tokio::time::timeout(Duration::from_secs(60), stays_responsive::<H>(Encoding::O200k, text)).await;
        counted.unwrap_or_else(|_| panic!("a run of {run:?} takes too long"));
    }
}

/// Real time: it is the point of these clauses.
#[expect(clippy::disallowed_methods, reason = "measures how long the reactor is held up")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Counts while a timer ticks on the same thread, and looks how late it was.
async fn stays_responsive<H: Harness>(encoding: Encoding, text: Bytes) {
    let counter = H::counter();
    let counting = counter.count(encoding, text);
    tokio::pin!(counting);
    let mut latest = Duration::ZERO;
    let mut last = now();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            counted = &mut counting => {
                assert!(counted.unwrap() > 0);
                latest = latest.max(last.elapsed());
                break;
            }
            _ = ticks.tick() => {
                latest = latest.max(last.elapsed());
                last = now();
            }
        }
    }
    assert!(latest < LATE, "{encoding:?} held the reactor for {latest:?}");
}

/// Every clause as a test of one harness.
#[macro_export]
macro_rules! token_counter_contract {
    ($harness:ty) => {
        $crate::token_counter_contract! { $harness:
            known_texts_have_their_known_counts
            bytes_per_four_rounds_up
            nothing_is_no_token
            special_tokens_count_as_text
            bytes_that_are_not_utf_8_are_counted
            a_long_text_is_about_the_sum_of_its_parts
            counters_work_side_by_side
            large_texts_leave_the_reactor_free
            one_endless_run_of_a_letter_is_not_quadratic
        }
    };
    ($harness:ty: $($clause:ident)*) => {
        $(
            #[tokio::test]
            async fn $clause() {
                $crate::token_counter::$clause::<$harness>().await;
            }
        )*
    };
}
