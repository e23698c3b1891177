//! Token counts: OpenAI's nested totals to disjoint buckets and back, and what else vendors write in their place.
//!
//! - DeepSeek counts cache hits beside the details (`prompt_cache_hit_tokens`):
//!   <https://api-docs.deepseek.com/guides/kv_cache>.
//! - Groq's streams carry usage in `x_groq`: <https://console.groq.com/docs/api-reference>.
//! - OpenRouter adds the cost in US dollars: <https://openrouter.ai/docs/use-cases/usage-accounting>. Perplexity adds an object
//!   of its parts: <https://docs.perplexity.ai/api-reference/chat-completions-post>.
//! - xAI counts reasoning beside `completion_tokens`, not in it: only the total tells. It adds the cost in ticks of 1e-10 US
//!   dollars: <https://docs.x.ai/developers/cost-tracking>.

use ai4free_ports::{money::PicoUsd, usage::TokenUsage};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

/// The places in a reply or an event where usage can be.
#[derive(Default, Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) x_groq: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Groq<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Cost<'a> {
    #[serde(borrow)]
    cost: Option<&'a RawValue>,
    #[serde(borrow)]
    cost_in_usd_ticks: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct CostOfParts<'a> {
    #[serde(borrow)]
    total_cost: Option<&'a RawValue>,
}

/// Decimals of an amount in US dollars, and of one in xAI's ticks, that make it pico-USD.
const DOLLAR: i32 = 12;
const TICK: i32 = 2;

/// What a provider said that a reply consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) usage: Option<TokenUsage>,
    pub(super) cost: Option<PicoUsd>,
}

impl Envelope<'_> {
    pub(super) fn read(&self) -> Reported {
        let in_groq = || serde_json::from_str::<Groq<'_>>(self.x_groq?.get()).ok()?.usage;
        let Some(written) = self.usage.filter(|usage| usage.get() != "null").or_else(in_groq) else {
            return Reported::default();
        };
        let usage = Counts::read(written.get()).and_then(|counts| counts.tokens());
        let cost = serde_json::from_str::<Cost<'_>>(written.get()).ok().and_then(|cost| cost.read());
        Reported { usage, cost }
    }
}

impl Cost<'_> {
    fn read(&self) -> Option<PicoUsd> {
        let of_parts = |written| serde_json::from_str::<CostOfParts<'_>>(written).ok()?.total_cost;
        let in_dollars = self.cost.map(|cost| of_parts(cost.get()).unwrap_or(cost));
        let in_dollars = in_dollars.and_then(|cost| pico_usd(cost.get(), DOLLAR));
        in_dollars.or_else(|| pico_usd(self.cost_in_usd_ticks?.get(), TICK))
    }
}

/// The members of a usage object that count, each as it is written.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    prompt_tokens: Value,
    completion_tokens: Value,
    /// Images name them input and output.
    input_tokens: Value,
    output_tokens: Value,
    total_tokens: Value,
    prompt_cache_hit_tokens: Value,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Value,
    cache_write_tokens: Value,
    audio_tokens: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Value,
    audio_tokens: Value,
}

impl Counts {
    /// Every reply has one, so no tree of it is built unless it is odd: a member twice, or details that are no object.
    fn read(written: &str) -> Option<Self> {
        if !written.starts_with('{') {
            return None;
        }
        let odd = || serde_json::from_str(written).map(|tree| Self::of_tree(&tree));
        serde_json::from_str(written).or_else(|_| odd()).ok()
    }

    fn of_tree(tree: &Value) -> Self {
        let at = |path: &[&str]| path.iter().try_fold(tree, |value, name| value.get(name)).cloned().unwrap_or_default();
        Self {
            prompt_tokens: at(&["prompt_tokens"]),
            completion_tokens: at(&["completion_tokens"]),
            input_tokens: at(&["input_tokens"]),
            output_tokens: at(&["output_tokens"]),
            total_tokens: at(&["total_tokens"]),
            prompt_cache_hit_tokens: at(&["prompt_cache_hit_tokens"]),
            prompt_tokens_details: Some(PromptDetails {
                cached_tokens: at(&["prompt_tokens_details", "cached_tokens"]),
                cache_write_tokens: at(&["prompt_tokens_details", "cache_write_tokens"]),
                audio_tokens: at(&["prompt_tokens_details", "audio_tokens"]),
            }),
            completion_tokens_details: Some(CompletionDetails {
                reasoning_tokens: at(&["completion_tokens_details", "reasoning_tokens"]),
                audio_tokens: at(&["completion_tokens_details", "audio_tokens"]),
            }),
        }
    }

    /// `None` when nothing is counted, or something that can't be. An explicit zero is a count.
    fn tokens(self) -> Option<TokenUsage> {
        let totals =
            [&self.prompt_tokens, &self.input_tokens, &self.completion_tokens, &self.output_tokens, &self.total_tokens];
        if totals.into_iter().any(is_nonsense) {
            return None;
        }
        let prompt = count(&self.prompt_tokens).or_else(|| count(&self.input_tokens));
        let completion = count(&self.completion_tokens).or_else(|| count(&self.output_tokens));
        let total = count(&self.total_tokens);
        if prompt.is_none() && completion.is_none() && total.is_none() {
            return None;
        }
        let prompt = prompt.unwrap_or_else(|| total.unwrap_or(0).saturating_sub(completion.unwrap_or(0)));
        let completion = completion.unwrap_or_else(|| total.unwrap_or(0).saturating_sub(prompt));
        let of_prompt = self.prompt_tokens_details.unwrap_or_default();
        let of_completion = self.completion_tokens_details.unwrap_or_default();
        let part = |value: &Value| count(value).unwrap_or(0);

        let mut input = prompt;
        let cached = count(&of_prompt.cached_tokens).unwrap_or_else(|| part(&self.prompt_cache_hit_tokens));
        let cache_read = take(&mut input, cached);
        let cache_write = take(&mut input, part(&of_prompt.cache_write_tokens));
        let audio_in = take(&mut input, part(&of_prompt.audio_tokens));

        let mut output = completion;
        let reasoning = part(&of_completion.reasoning_tokens);
        let stands_beside = reasoning > 0
            && total.is_some_and(|total| {
                prompt.checked_add(completion).and_then(|sum| sum.checked_add(reasoning)) == Some(total)
            });
        if stands_beside {
            output = output.saturating_add(reasoning);
        }
        let reasoning = take(&mut output, reasoning);
        let audio_out = take(&mut output, part(&of_completion.audio_tokens));
        Some(TokenUsage { input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images: 0 })
    }
}

/// As OpenAI writes it.
pub(super) fn to_wire(usage: &TokenUsage) -> Value {
    let mut prompt = json!({ "cached_tokens": usage.cache_read, "audio_tokens": usage.audio_in });
    if usage.cache_write > 0 {
        prompt = json!({
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write,
            "audio_tokens": usage.audio_in,
        });
    }
    json!({
        "prompt_tokens": usage.input_total(),
        "completion_tokens": usage.output_total(),
        "total_tokens": usage.total(),
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_out,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// Moves up to `part` out of `whole`: parts that don't fit into their whole are cut, so that no bucket is negative.
fn take(whole: &mut u64, part: u64) -> u64 {
    let part = part.min(*whole);
    *whole -= part;
    part
}

/// A count as vendors write it: `null` is none, a fraction is cut off, a negative one is 0.
fn count(value: &Value) -> Option<u64> {
    let Value::Number(number) = value else { return None };
    let whole = || number.as_f64().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    // More than can be written down is clamped to what is plausible, later.
    number.as_u64().or_else(|| whole().map(|number| format!("{number:.0}").parse().unwrap_or(u64::MAX)))
}

/// Whether something is there that counts nothing: a negative number, or a part of a token.
fn is_nonsense(value: &Value) -> bool {
    value.is_number() && count(value).is_none()
}

/// A decimal number of a unit that is 10 to the `magnitude` pico-USD, read digit by digit. `None`: negative, too large, or not
/// a number. What is smaller than a pico-USD is cut off.
fn pico_usd(written: &str, magnitude: i32) -> Option<PicoUsd> {
    let (digits, exponent) = match written.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (written, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let places = i32::try_from(fraction.len()).ok()?;
    let mut amount: i128 = 0;
    for digit in whole.chars().chain(fraction.chars()) {
        amount = amount.checked_mul(10)?.checked_add(i128::from(digit.to_digit(10)?))?;
    }
    let shift = exponent.checked_add(magnitude)?.checked_sub(places)?;
    let factor = 10_i128.checked_pow(shift.unsigned_abs());
    let amount = match (shift >= 0, factor) {
        (true, Some(factor)) => amount.checked_mul(factor)?,
        (true, None) => return (amount == 0).then_some(PicoUsd::ZERO),
        (false, factor) => factor.map_or(0, |factor| amount / factor),
    };
    i64::try_from(amount).ok().map(PicoUsd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reported {
        serde_json::from_str::<Envelope<'_>>(text).unwrap().read()
    }

    fn usage(text: &str) -> Option<TokenUsage> {
        read(&format!("{{\"usage\":{text}}}")).usage
    }

    #[test]
    fn buckets_are_disjoint_and_sum_to_the_totals() {
        let written = r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
            "prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":10,"audio_tokens":5},
            "completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":4}}"#;
        let expected = TokenUsage {
            input: 25,
            cache_read: 60,
            cache_write: 10,
            audio_in: 5,
            output: 16,
            reasoning: 30,
            audio_out: 4,
            images: 0,
        };
        assert_eq!(usage(written), Some(expected));
        assert_eq!(usage(&to_wire(&expected).to_string()), Some(expected));
    }

    #[test]
    fn what_is_written_oddly_is_read_all_the_same() {
        let plain = |input, output| Some(TokenUsage { input, output, ..TokenUsage::default() });
        assert_eq!(usage(r#"{"prompt_tokens":1,"completion_tokens":3,"prompt_tokens":2}"#), plain(2, 3));
        let details = r#""prompt_tokens_details":"none","completion_tokens_details":7"#;
        assert_eq!(usage(&format!(r#"{{"prompt_tokens":2,"completion_tokens":3,{details}}}"#)), plain(2, 3));
        for nothing in ["5", "[]", "\"5\"", "true"] {
            assert_eq!(usage(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn what_vendors_write_is_read() {
        let plain = |input, output| Some(TokenUsage { input, output, ..TokenUsage::default() });
        assert_eq!(usage("null"), None);
        assert_eq!(usage("{}"), None);
        assert_eq!(usage(r#"{"prompt_tokens":0,"completion_tokens":0}"#), plain(0, 0));
        assert_eq!(usage(r#"{"prompt_tokens":5.0,"completion_tokens":3,"total_tokens":null}"#), plain(5, 3));
        assert_eq!(usage(r#"{"prompt_tokens":1e30,"completion_tokens":3}"#), plain(u64::MAX, 3));
        for nonsense in ["-5", "-1000000.0", "3.9", "-1e30"] {
            assert_eq!(usage(&format!(r#"{{"prompt_tokens":7,"completion_tokens":{nonsense}}}"#)), None, "{nonsense}");
        }
        assert_eq!(usage(r#"{"prompt_tokens":4,"total_tokens":10,"prompt_tokens_details":null}"#), plain(4, 6));
        assert_eq!(usage(r#"{"input_tokens":4,"output_tokens":6}"#), plain(4, 6));
        let deepseek = usage(
            r#"{"prompt_tokens":9,"completion_tokens":1,"prompt_cache_hit_tokens":6,"prompt_cache_miss_tokens":3}"#,
        );
        assert_eq!(deepseek.map(|usage| (usage.input, usage.cache_read)), Some((3, 6)));
        assert_eq!(
            read(r#"{"x_groq":{"id":"r","usage":{"prompt_tokens":2,"completion_tokens":1}}}"#).usage,
            plain(2, 1)
        );
        let too_many =
            usage(r#"{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":9}}"#);
        assert_eq!(too_many.map(|usage| (usage.input, usage.cache_read)), Some((0, 5)));
        let beside = usage(
            r#"{"prompt_tokens":10,"completion_tokens":2,"total_tokens":42,"completion_tokens_details":{"reasoning_tokens":30}}"#,
        );
        assert_eq!(beside.map(|usage| (usage.output, usage.reasoning)), Some((2, 30)));
    }

    #[test]
    fn a_cost_is_read_to_the_last_digit() {
        let cost = |text| pico_usd(text, DOLLAR).map(|amount| amount.0);
        assert_eq!(cost("0.00014"), Some(140_000_000));
        assert_eq!(cost("1.4e-5"), Some(14_000_000));
        assert_eq!(cost("0.000000000001"), Some(1));
        assert_eq!(cost("0.0000000000019"), Some(1));
        assert_eq!(cost("12"), Some(12_000_000_000_000));
        assert_eq!(cost("0e99"), Some(0));
        assert_eq!(cost("1e-400"), Some(0));
        for refused in ["-1", "1e9", "1e400", "null", "\"1\"", "{}"] {
            assert_eq!(cost(refused), None, "{refused}");
        }
    }

    #[test]
    fn each_vendors_cost_is_found() {
        let cost = |usage| read(&format!("{{\"usage\":{{\"total_tokens\":3,{usage}}}}}")).cost.map(|cost| cost.0);
        assert_eq!(cost(r#""cost":0.1"#), Some(100_000_000_000));
        let parts = r#""cost":{"input_tokens_cost":2e-6,"output_tokens_cost":0.0005,"request_cost":0.006,"total_cost":0.006502}"#;
        assert_eq!(cost(parts), Some(6_502_000_000));
        assert_eq!(cost(r#""cost_in_usd_ticks":37756000"#), Some(3_775_600_000));
        for unknown in
            [r#""cost":null"#, r#""cost":{}"#, r#""cost":{"total_cost":null}"#, r#""cost":"free""#, r#""cost":-1"#]
        {
            assert_eq!(cost(unknown), None, "{unknown}");
        }
    }
}
