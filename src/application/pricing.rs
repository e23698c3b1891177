//! What usage costs.

use ai4free_ports::{catalogue::Price, money::PicoUsd, usage::TokenUsage, usage_ledger::Outcome};

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

/// What a request is charged that ended so: nothing if a provider refused it, else also what a request costs without any
/// token.
#[must_use]
pub fn charge(price: Option<&Price>, outcome: Outcome, usage: &TokenUsage) -> PicoUsd {
    let charged = outcome == Outcome::Success || *usage != TokenUsage::default();
    if charged { cost(price, usage) } else { PicoUsd::ZERO }
}

/// The most that further tokens of output may cost in a request with at most so many of input. `None` on overflow.
#[must_use]
pub fn more_output(price: &Price, input: u64, tokens: u64) -> Option<PicoUsd> {
    let without = price.upper_bound(input, 0, 0)?;
    price.upper_bound(input, tokens, 0)?.0.checked_sub(without.0).map(PicoUsd)
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

    #[test]
    fn only_what_a_provider_refused_is_free_of_the_price_of_a_request() {
        let price = Price { version: 1, input: 1, per_request: PicoUsd(7), ..Price::default() };
        let charged = |outcome, input| charge(Some(&price), outcome, &TokenUsage { input, ..TokenUsage::default() });
        assert_eq!(charged(Outcome::Failed, 0), PicoUsd::ZERO);
        assert_eq!(charged(Outcome::Failed, 2), PicoUsd(9));
        assert_eq!(charged(Outcome::Success, 0), PicoUsd(7));
    }
}
