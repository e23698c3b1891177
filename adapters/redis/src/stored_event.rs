//! An event of the ledger as it is kept in Redis: JSON with short names. Members are added, never given another meaning; what
//! a later release has added is ignored.

use std::{borrow::Cow, sync::Arc};

use ai4free_ports::{
    budget::Spending,
    key::KeyId,
    money::PicoUsd,
    rate_limiter::Scope,
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_ledger::{EventKind, Outcome, UsageEvent},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(rename = "r")]
    request: String,
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    attempt: u16,
    #[serde(rename = "t")]
    kind: EventKind,
    #[serde(rename = "v", default, skip_serializing_if = "is_zero")]
    revision: u16,
    #[serde(rename = "o")]
    operation: Operation,
    #[serde(rename = "k", borrow)]
    key: Cow<'a, str>,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none", borrow)]
    user: Option<Cow<'a, str>>,
    #[serde(rename = "m", borrow)]
    model: Cow<'a, str>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none", borrow)]
    provider: Option<Cow<'a, str>>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none", borrow)]
    credential: Option<Cow<'a, str>>,
    #[serde(rename = "e")]
    outcome: Outcome,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none", borrow)]
    error: Option<Cow<'a, str>>,
    #[serde(rename = "a")]
    admitted_at: i64,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    first_ms: Option<u32>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    total_ms: Option<u32>,
    /// Every bucket, in the order of [`buckets`].
    #[serde(rename = "q")]
    usage: [u64; 8],
    #[serde(rename = "s")]
    usage_source: UsageSource,
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    price_version: Option<u32>,
    #[serde(rename = "y")]
    cost: i64,
    #[serde(rename = "z", default, skip_serializing_if = "Option::is_none")]
    provider_cost: Option<i64>,
    /// Scope, start of the window, holder.
    #[serde(rename = "b", default, skip_serializing_if = "Vec::is_empty")]
    spending: Vec<(String, i64, String)>,
}

#[derive(Debug, thiserror::Error)]
#[error("what Redis keeps of a request can't be understood")]
pub(crate) struct NotUnderstood(#[source] Option<serde_json::Error>);

pub(crate) fn encode(events: &[UsageEvent]) -> String {
    let stored: Vec<Stored<'_>> = events.iter().map(Stored::of).collect();
    // Of numbers and texts only: it can't fail.
    serde_json::to_string(&stored).unwrap_or_default()
}

pub(crate) fn decode(text: &str) -> Result<Vec<UsageEvent>, NotUnderstood> {
    let stored: Vec<Stored<'_>> = serde_json::from_str(text).map_err(|error| NotUnderstood(Some(error)))?;
    stored.into_iter().map(|stored| stored.event().ok_or(NotUnderstood(None))).collect()
}

impl<'a> Stored<'a> {
    fn of(event: &'a UsageEvent) -> Self {
        let text = |text: &'a Option<Arc<str>>| text.as_deref().map(Cow::Borrowed);
        let spent = |spent: &Spending| (spent.scope.to_text(), spent.window.0, spent.holder.to_string());
        Self {
            request: event.request.0.as_simple().to_string(),
            attempt: event.attempt,
            kind: event.kind,
            revision: event.revision,
            operation: event.operation,
            key: event.key.as_str().into(),
            user: text(&event.user),
            model: Cow::Borrowed(&event.model),
            provider: text(&event.provider),
            credential: text(&event.credential),
            outcome: event.outcome,
            error: event.error.as_deref().map(Cow::Borrowed),
            admitted_at: event.admitted_at.0,
            first_ms: event.first_ms,
            total_ms: event.total_ms,
            usage: buckets(&event.usage),
            usage_source: event.usage_source,
            price_version: event.price_version,
            cost: event.cost.0,
            provider_cost: event.provider_cost.map(|cost| cost.0),
            spending: event.spending.iter().map(spent).collect(),
        }
    }

    fn event(self) -> Option<UsageEvent> {
        let text = |text: Option<Cow<'_, str>>| text.map(|text| Arc::<str>::from(&*text));
        let system = KeyId::system();
        let key = if self.key == system.as_str() { system } else { KeyId::parse(&self.key)? };
        let spent = |(scope, window, holder): (String, i64, String)| {
            Some(Spending { scope: Scope::parse(&scope)?, window: Timestamp(window), holder: holder.parse().ok()? })
        };
        let [input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images] = self.usage;
        Some(UsageEvent {
            request: RequestId(Uuid::parse_str(&self.request).ok()?),
            attempt: self.attempt,
            kind: self.kind,
            revision: self.revision,
            operation: self.operation,
            key,
            user: text(self.user),
            model: Arc::from(&*self.model),
            provider: text(self.provider),
            credential: text(self.credential),
            outcome: self.outcome,
            error: self.error.map(|code| Cow::Owned(code.into_owned())),
            admitted_at: Timestamp(self.admitted_at),
            first_ms: self.first_ms,
            total_ms: self.total_ms,
            usage: TokenUsage { input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images },
            usage_source: self.usage_source,
            price_version: self.price_version,
            cost: PicoUsd(self.cost),
            provider_cost: self.provider_cost.map(PicoUsd),
            spending: self.spending.into_iter().map(spent).collect::<Option<_>>()?,
        })
    }
}

fn buckets(usage: &TokenUsage) -> [u64; 8] {
    let TokenUsage { input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images } = *usage;
    [input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images]
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use ai4free_ports::budget::{Epoch, Holder};

    use super::*;

    fn least() -> UsageEvent {
        UsageEvent {
            request: RequestId(Uuid::from_u128(7)),
            attempt: 0,
            kind: EventKind::Charge,
            revision: 0,
            operation: Operation::Chat,
            key: KeyId::system(),
            user: None,
            model: "m".into(),
            provider: None,
            credential: None,
            outcome: Outcome::Lost,
            error: None,
            admitted_at: Timestamp(5),
            first_ms: None,
            total_ms: None,
            usage: TokenUsage::default(),
            usage_source: UsageSource::Bound,
            price_version: None,
            cost: PicoUsd(i64::MAX),
            provider_cost: None,
            spending: Vec::new(),
        }
    }

    fn most() -> UsageEvent {
        let holder = Holder::Shared(Epoch(17));
        let spent = |scope| Spending { scope, window: Timestamp(1_749_988_800_000_000), holder };
        UsageEvent {
            attempt: 3,
            kind: EventKind::Hold,
            revision: 2,
            operation: Operation::ImageGeneration,
            key: KeyId::parse("k00000000001").unwrap(),
            user: Some("ann \"|;\\ é".into()),
            model: "openai/gpt-x".into(),
            provider: Some("openai".into()),
            credential: Some("openai#1".into()),
            error: Some(Cow::Borrowed("timeout")),
            first_ms: Some(120),
            total_ms: Some(4_000),
            usage: TokenUsage {
                input: 1,
                cache_read: 2,
                cache_write: 3,
                output: 4,
                reasoning: 5,
                audio_in: 6,
                audio_out: 7,
                images: 8,
            },
            price_version: Some(3),
            provider_cost: Some(PicoUsd(-1)),
            spending: vec![spent(Scope::User("ann".into())), spent(Scope::Gateway)],
            ..least()
        }
    }

    #[test]
    fn events_are_read_as_they_were_written() {
        for events in [vec![], vec![least()], vec![most(), least()]] {
            assert_eq!(decode(&encode(&events)).unwrap(), events);
        }
    }

    #[test]
    fn what_a_later_release_adds_is_ignored_and_nonsense_is_refused() {
        let later = encode(&[least()]).replace("\"r\":", "\"later\":[1],\"r\":");
        assert_eq!(decode(&later).unwrap(), [least()]);
        for wrong in ["", "[{}]", "{", &encode(&[least()]).replace("system", "no key")] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hundred_thousand_of_them_are_fifty_megabytes() {
        assert!(encode(&[most()]).len() < 500, "{}", encode(&[most()]));
    }
}
