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
    use proptest::prelude::*;

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

    fn count() -> impl Strategy<Value = u64> {
        prop_oneof![3 => 0..5000_u64, 1 => Just(0), 1 => any::<u64>(), 1 => Just(u64::MAX)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn whatever_is_reported_is_no_more_than_the_ceiling_and_what_is_within_it_is_untouched(
            parts in prop::array::uniform8(count()),
            input in 0..10_000_u64,
            output in 0..10_000_u64,
        ) {
            let [first, cache_read, cache_write, audio_in, second, reasoning, audio_out, images] = parts;
            let usage = TokenUsage {
                input: first, cache_read, cache_write, output: second, reasoning, audio_in, audio_out, images,
            };
            let ceiling = Ceiling { input, output };
            let cut = ceiling.cut(&usage);
            prop_assert_eq!(cut.input_total(), usage.input_total().min(input));
            prop_assert_eq!(cut.output_total(), usage.output_total().min(output));
            prop_assert!(cut.input <= usage.input && cut.cache_read <= usage.cache_read);
            prop_assert!(cut.cache_write <= usage.cache_write && cut.audio_in <= usage.audio_in);
            prop_assert!(cut.output <= usage.output && cut.reasoning <= usage.reasoning && cut.audio_out <= usage.audio_out);
            let price = Price { input: 75_000_000, output: 600_000_000, ..Price::default() };
            prop_assert!(price.cost(&cut).is_some(), "it can be written down");
        }
    }
}
