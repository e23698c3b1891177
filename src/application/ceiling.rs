//! What a provider is believed to have counted: no more than its model can do.

use ai4free_ports::{catalogue::Model, usage::TokenUsage};

use crate::application::pricing;

/// Of a model whose context is not known.
const LARGEST_CONTEXT: u64 = 2_000_000;

/// The most tokens that a request can have used, whatever its provider says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    input: u64,
    output: u64,
}

impl Ceiling {
    /// `input` and `output` are what was reserved: a provider may report all of it, and the whole context in any case.
    #[must_use]
    pub fn of(model: &Model, choices: u64, input: u64, output: u64) -> Self {
        let context = model.max_input_tokens.unwrap_or(LARGEST_CONTEXT);
        Self { input: context.max(input).saturating_mul(choices), output: context.saturating_mul(choices).max(output) }
    }

    /// The same usage with what is beyond belief cut off, from the largest bucket of its direction first.
    #[must_use]
    pub fn cut(&self, usage: &TokenUsage) -> TokenUsage {
        let mut usage = pricing::plausible(*usage);
        cut([&mut usage.input, &mut usage.cache_read, &mut usage.cache_write, &mut usage.audio_in], self.input);
        cut([&mut usage.output, &mut usage.reasoning, &mut usage.audio_out], self.output);
        usage
    }
}

fn cut<const N: usize>(mut buckets: [&mut u64; N], most: u64) {
    let total = buckets.iter().fold(0_u64, |sum, bucket| sum.saturating_add(**bucket));
    let mut excess = total.saturating_sub(most);
    buckets.sort_by_key(|bucket| std::cmp::Reverse(**bucket));
    for bucket in buckets {
        let part = excess.min(*bucket);
        *bucket -= part;
        excess -= part;
    }
}

#[cfg(test)]
mod tests {
    use ai4free_ports::catalogue::Price;

    use super::*;

    #[test]
    fn the_largest_bucket_is_cut_first() {
        let ceiling = Ceiling { input: 100, output: 10 };
        let usage =
            TokenUsage { input: 50, cache_read: 500, audio_in: 20, output: 9, reasoning: 1, ..TokenUsage::default() };
        assert_eq!(ceiling.cut(&usage), TokenUsage { cache_read: 30, ..usage });
        let usage = TokenUsage { output: u64::MAX, reasoning: u64::MAX, audio_out: 4, ..TokenUsage::default() };
        assert_eq!(ceiling.cut(&usage).output_total(), 10);
    }

    /// Numbers of a seed (splitmix64): a hundred thousand cases have to be cheap.
    struct Dice(u64);

    impl Dice {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        fn count(&mut self) -> u64 {
            match self.next() % 6 {
                0 => 0,
                1 => u64::MAX,
                2 => self.next(),
                _ => self.next() % 5_000,
            }
        }
    }

    #[test]
    fn whatever_is_reported_is_no_more_than_the_ceiling_and_what_is_within_it_is_untouched() {
        let mut dice = Dice(7);
        let price = Price { input: 75_000_000, output: 600_000_000, ..Price::default() };
        for _ in 0..100_000 {
            let usage = TokenUsage {
                input: dice.count(),
                cache_read: dice.count(),
                cache_write: dice.count(),
                output: dice.count(),
                reasoning: dice.count(),
                audio_in: dice.count(),
                audio_out: dice.count(),
                images: dice.count(),
            };
            let ceiling = Ceiling { input: dice.next() % 10_000, output: dice.next() % 10_000 };
            let cut = ceiling.cut(&usage);
            assert_eq!(cut.input_total(), usage.input_total().min(ceiling.input), "{ceiling:?} {usage:?}");
            assert_eq!(cut.output_total(), usage.output_total().min(ceiling.output), "{ceiling:?} {usage:?}");
            let parts = |usage: &TokenUsage| {
                let TokenUsage { input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images } =
                    *usage;
                [input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images]
            };
            assert!(parts(&cut).iter().zip(parts(&usage)).all(|(cut, whole)| *cut <= whole), "{ceiling:?} {usage:?}");
            assert!(price.cost(&cut).is_some(), "{usage:?} can be written down");
        }
    }
}
