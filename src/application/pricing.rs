//! What usage costs.

use ai4free_ports::{catalogue::Price, money::PicoUsd, usage::TokenUsage};

/// More than any real reply holds. A provider that reports more is not believed.
const MOST_PLAUSIBLE: u64 = 1_000_000_000;

/// A provider's report with every bucket clamped to something that can be priced without overflow.
#[must_use]
pub fn plausible(usage: TokenUsage) -> TokenUsage {
    let clamp = |count: u64| count.min(MOST_PLAUSIBLE);
    TokenUsage {
        input: clamp(usage.input),
        cache_read: clamp(usage.cache_read),
        cache_write: clamp(usage.cache_write),
        output: clamp(usage.output),
        reasoning: clamp(usage.reasoning),
        audio_in: clamp(usage.audio_in),
        audio_out: clamp(usage.audio_out),
        images: clamp(usage.images),
    }
}

/// Zero without a price: the row says `unpriced` by having no price version. The largest amount if it overflows: a charge is
/// never lost by being too large to write down.
#[must_use]
pub fn cost(price: Option<&Price>, usage: &TokenUsage) -> PicoUsd {
    price.map_or(PicoUsd::ZERO, |price| price.cost(usage).unwrap_or(PicoUsd(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_reports_are_clamped_and_still_priced() {
        let price = Price { version: 1, input: 1_000_000, output: 1_000_000, ..Price::default() };
        let usage = plausible(TokenUsage { input: u64::MAX, output: 5, ..TokenUsage::default() });
        assert_eq!(usage.input, MOST_PLAUSIBLE);
        assert_eq!(cost(Some(&price), &usage), PicoUsd(1_000_000_005_000_000));
        assert_eq!(cost(None, &usage), PicoUsd::ZERO);
    }
}
