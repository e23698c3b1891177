//! What a model costs, and the most that a request to it may cost.

use crate::{money::PicoUsd, usage::TokenUsage};

/// What one unit costs, in micro-USD per million tokens: tokens × price is exactly [`PicoUsd`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Recorded with each event, so that an old charge can be explained.
    pub version: u32,
    pub input: i64,
    pub output: i64,
    /// `None`: as input.
    pub cache_read: Option<i64>,
    /// `None`: as input.
    pub cache_write: Option<i64>,
    /// `None`: as output.
    pub reasoning: Option<i64>,
    /// `None`: as input.
    pub audio_in: Option<i64>,
    /// `None`: as output.
    pub audio_out: Option<i64>,
    pub per_image: PicoUsd,
    pub per_request: PicoUsd,
    /// Prices of long requests. The one with the highest threshold that a request exceeds replaces all prices of tokens.
    pub tiers: Vec<Tier>,
}

/// Prices of all tokens of a request whose input is long; the units and defaults of [`Price`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tier {
    /// It applies to requests with more tokens of input than this, [of every kind](TokenUsage::input_total).
    pub above: u64,
    pub input: i64,
    pub output: i64,
    pub cache_read: Option<i64>,
    pub cache_write: Option<i64>,
    pub reasoning: Option<i64>,
    pub audio_in: Option<i64>,
    pub audio_out: Option<i64>,
}

impl Price {
    /// `None` on overflow: the caller refuses, never wraps.
    #[must_use]
    pub fn cost(&self, usage: &TokenUsage) -> Option<PicoUsd> {
        let input_total = usage.input_total();
        let reached = self.tiers.iter().filter(|tier| input_total > tier.above).max_by_key(|tier| tier.above);
        let rates = reached.map_or_else(|| self.rates(), Tier::rates);
        self.total([
            (usage.input, rates.input),
            (usage.cache_read, rates.cache_read),
            (usage.cache_write, rates.cache_write),
            (usage.audio_in, rates.audio_in),
            (usage.output, rates.output),
            (usage.reasoning, rates.reasoning),
            (usage.audio_out, rates.audio_out),
            (usage.images, self.per_image.0),
        ])
    }

    /// The most that a request may cost with at most so many tokens in, out, and images.
    ///
    /// Which bucket a token will fall into is not known before: each is taken at the dearest price of its direction, in every
    /// tier that so much input can reach. `None` on overflow, as [`cost`](Self::cost).
    #[must_use]
    pub fn upper_bound(&self, input: u64, output: u64, images: u64) -> Option<PicoUsd> {
        let reachable = self.tiers.iter().filter(|tier| input > tier.above).map(Tier::rates);
        let dearest = reachable.fold(self.rates().dearest(), |dearest, rates| {
            let (token_in, token_out) = rates.dearest();
            (dearest.0.max(token_in), dearest.1.max(token_out))
        });
        self.total([(input, dearest.0), (output, dearest.1), (images, self.per_image.0)])
    }

    fn total<const N: usize>(&self, parts: [(u64, i64); N]) -> Option<PicoUsd> {
        parts.into_iter().try_fold(self.per_request, |sum, (count, price)| {
            let part = i64::try_from(count).ok()?.checked_mul(price)?;
            sum.checked_add(PicoUsd(part))
        })
    }

    fn rates(&self) -> Rates {
        Rates::of(
            (self.input, [self.cache_read, self.cache_write, self.audio_in]),
            (self.output, [self.reasoning, self.audio_out]),
        )
    }
}

impl Tier {
    fn rates(&self) -> Rates {
        Rates::of(
            (self.input, [self.cache_read, self.cache_write, self.audio_in]),
            (self.output, [self.reasoning, self.audio_out]),
        )
    }
}

/// One price for each bucket of tokens.
struct Rates {
    input: i64,
    cache_read: i64,
    cache_write: i64,
    audio_in: i64,
    output: i64,
    reasoning: i64,
    audio_out: i64,
}

impl Rates {
    fn of((input, parts_in): (i64, [Option<i64>; 3]), (output, parts_out): (i64, [Option<i64>; 2])) -> Self {
        let [cache_read, cache_write, audio_in] = parts_in.map(|part| part.unwrap_or(input));
        let [reasoning, audio_out] = parts_out.map(|part| part.unwrap_or(output));
        Self { input, cache_read, cache_write, audio_in, output, reasoning, audio_out }
    }

    /// Of a token in, and of a token out.
    fn dearest(&self) -> (i64, i64) {
        (
            self.input.max(self.cache_read).max(self.cache_write).max(self.audio_in),
            self.output.max(self.reasoning).max(self.audio_out),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    #[test]
    fn cost_is_exact_in_every_bucket_and_refuses_to_overflow() {
        let price = Price {
            version: 1,
            input: 2_500_000,
            output: 10_000_000,
            cache_read: Some(1_250_000),
            per_request: PicoUsd(7),
            ..Price::default()
        };
        let usage = TokenUsage { input: 10, cache_read: 4, output: 3, reasoning: 2, ..TokenUsage::default() };
        assert_eq!(price.cost(&usage), Some(PicoUsd(10 * 2_500_000 + 4 * 1_250_000 + 5 * 10_000_000 + 7)));
        assert_eq!(price.cost(&TokenUsage { input: u64::MAX, ..usage }), None);
        assert_eq!(price.cost(&TokenUsage { output: 1 << 50, ..usage }), None);
    }

    #[test]
    fn long_input_changes_the_price_of_every_token_of_its_request() {
        let tier = |above, input, output| Tier { above, input, output, cache_read: Some(7), ..Tier::default() };
        let tiers = vec![tier(200, 100, 1000), tier(128, 10, 100)];
        let price = Price { input: 1, output: 2, per_request: PicoUsd(3), tiers, ..Price::default() };
        let cost = |input, cache_read, output| {
            let usage = TokenUsage { input, cache_read, output, ..TokenUsage::default() };
            price.cost(&usage).map(|cost| cost.0)
        };
        assert_eq!(cost(100, 28, 5), Some(128 + 2 * 5 + 3));
        assert_eq!(cost(100, 29, 5), Some(10 * 100 + 7 * 29 + 100 * 5 + 3));
        assert_eq!(cost(0, 200, 5), Some(7 * 200 + 100 * 5 + 3));
        assert_eq!(cost(201, 0, 5), Some(100 * 201 + 1000 * 5 + 3));
        assert_eq!(price.upper_bound(128, 5, 0), Some(PicoUsd(128 + 2 * 5 + 3)));
        assert_eq!(price.upper_bound(201, 5, 0), Some(PicoUsd(100 * 201 + 1000 * 5 + 3)));
        assert_eq!(price.upper_bound(u64::MAX, 0, 0), None);
    }

    type Extras = [Option<i64>; 5];

    fn extras() -> impl Strategy<Value = Extras> {
        prop::array::uniform5(option::of(0..1000_i64))
    }

    fn tier() -> impl Strategy<Value = Tier> {
        (0..400_u64, 0..1000_i64, 0..1000_i64, extras()).prop_map(
            |(above, input, output, [cache_read, cache_write, reasoning, audio_in, audio_out])| Tier {
                above,
                input,
                output,
                cache_read,
                cache_write,
                reasoning,
                audio_in,
                audio_out,
            },
        )
    }

    fn price() -> impl Strategy<Value = Price> {
        let base = (0..1000_i64, 0..1000_i64, extras(), 0..1000_i64, 0..1000_i64);
        (base, prop::collection::vec(tier(), 0..4)).prop_map(|((input, output, extras, image, request), tiers)| {
            let [cache_read, cache_write, reasoning, audio_in, audio_out] = extras;
            Price {
                version: 1,
                input,
                output,
                cache_read,
                cache_write,
                reasoning,
                audio_in,
                audio_out,
                per_image: PicoUsd(image),
                per_request: PicoUsd(request),
                tiers,
            }
        })
    }

    /// Usage of one bucket alone, with nothing to spare, is what shows that a bucket was forgotten.
    fn often_none(most: u64) -> impl Strategy<Value = u64> {
        prop_oneof![4 => Just(0), 1 => 0..=most]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_usage_within_the_bound_costs_more_than_the_bound(
            price in price(),
            parts in prop::array::uniform7(often_none(150)),
            images in often_none(9),
            spare in prop::array::uniform3(often_none(100)),
        ) {
            let [input, cache_read, cache_write, audio_in, output, reasoning, audio_out] = parts;
            let usage = TokenUsage { input, cache_read, cache_write, audio_in, output, reasoning, audio_out, images };
            let [more_in, more_out, more_images] = spare;
            let bound =
                price.upper_bound(usage.input_total() + more_in, usage.output_total() + more_out, images + more_images);
            prop_assert!(bound.is_some() && price.cost(&usage) <= bound);
        }
    }
}
