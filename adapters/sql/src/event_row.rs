//! An event of the ledger as a row, and back.
//!
//! The codes of the small columns are part of the schema: a number is never given another meaning.

use std::{borrow::Cow, sync::Arc};

use ai4free_ports::{
    key::KeyId,
    money::PicoUsd,
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_ledger::{Batch, EventKind, Outcome, SpoolId, UsageEvent},
};

use crate::{entity::usage_event, failure::Failure, spending};

/// The rows of a batch, in the order of their positions.
pub(crate) fn event_rows(batch: &Batch, from: i64) -> Vec<usage_event::Model> {
    let mut last = (&[][..], String::new());
    let rows = batch.events.iter().zip(from..).map(|(event, position)| {
        if event.spending != last.0 {
            last = (&event.spending, spending::to_text(&event.spending));
        }
        event_row(event, batch.spool, position, last.1.clone())
    });
    rows.collect()
}

pub(crate) fn event_row(event: &UsageEvent, spool: SpoolId, position: i64, spending: String) -> usage_event::Model {
    usage_event::Model {
        day: event.request.day(),
        request_id: event.request.0,
        attempt: i32::from(event.attempt),
        kind: event.kind.code(),
        revision: i32::from(event.revision),
        spool_id: spool.0,
        spool_position: position,
        operation: event.operation.code(),
        key_id: event.key.as_str().to_owned(),
        user_id: event.user.as_deref().map(str::to_owned),
        model: event.model.as_ref().to_owned(),
        provider: event.provider.as_deref().map(str::to_owned),
        credential: event.credential.as_deref().map(str::to_owned),
        outcome: event.outcome.code(),
        error: event.error.as_deref().map(str::to_owned),
        admitted_at: event.admitted_at.0,
        first_ms: event.first_ms.map(i64::from),
        total_ms: event.total_ms.map(i64::from),
        input_tokens: stored_count(event.usage.input),
        cache_read_tokens: stored_count(event.usage.cache_read),
        cache_write_tokens: stored_count(event.usage.cache_write),
        output_tokens: stored_count(event.usage.output),
        reasoning_tokens: stored_count(event.usage.reasoning),
        audio_input_tokens: stored_count(event.usage.audio_in),
        audio_output_tokens: stored_count(event.usage.audio_out),
        images: stored_count(event.usage.images),
        usage_source: event.usage_source.code(),
        price_version: event.price_version.map(i64::from),
        cost_pico: event.cost.0,
        provider_cost_pico: event.provider_cost.map(|cost| cost.0),
        spending,
    }
}

pub(crate) fn usage_event(row: usage_event::Model) -> Result<UsageEvent, Failure> {
    let corrupt = |what: &str| Failure::Corrupt(Cow::Owned(format!("the {what} of ledger row {}", row.request_id)));
    let text = |column: Option<String>| column.map(Arc::<str>::from);
    let key = if row.key_id == KeyId::system().as_str() { Some(KeyId::system()) } else { KeyId::parse(&row.key_id) };
    let milliseconds = |column: Option<i64>| column.map(u32::try_from).transpose();
    let tokens = |column: i64| u64::try_from(column).map_err(|_| corrupt("tokens"));
    Ok(UsageEvent {
        request: RequestId(row.request_id),
        attempt: row.attempt.try_into().map_err(|_| corrupt("attempt"))?,
        kind: Code::decode(row.kind).ok_or_else(|| corrupt("kind"))?,
        revision: row.revision.try_into().map_err(|_| corrupt("revision"))?,
        operation: Code::decode(row.operation).ok_or_else(|| corrupt("operation"))?,
        key: key.ok_or_else(|| corrupt("key"))?,
        user: text(row.user_id),
        model: row.model.into(),
        provider: text(row.provider),
        credential: text(row.credential),
        outcome: Code::decode(row.outcome).ok_or_else(|| corrupt("outcome"))?,
        error: row.error.map(Cow::Owned),
        admitted_at: Timestamp(row.admitted_at),
        first_ms: milliseconds(row.first_ms).map_err(|_| corrupt("first_ms"))?,
        total_ms: milliseconds(row.total_ms).map_err(|_| corrupt("total_ms"))?,
        usage: TokenUsage {
            input: tokens(row.input_tokens)?,
            cache_read: tokens(row.cache_read_tokens)?,
            cache_write: tokens(row.cache_write_tokens)?,
            output: tokens(row.output_tokens)?,
            reasoning: tokens(row.reasoning_tokens)?,
            audio_in: tokens(row.audio_input_tokens)?,
            audio_out: tokens(row.audio_output_tokens)?,
            images: tokens(row.images)?,
        },
        usage_source: Code::decode(row.usage_source).ok_or_else(|| corrupt("usage source"))?,
        price_version: row.price_version.map(u32::try_from).transpose().map_err(|_| corrupt("price version"))?,
        cost: PicoUsd(row.cost_pico),
        provider_cost: row.provider_cost_pico.map(PicoUsd),
        spending: spending::parse(&row.spending)?,
    })
}

/// No model has a context of 10¹² tokens. A provider that claims more must not make a sum overflow: the batch would be
/// refused each time it is sent, and nothing behind it would ever reach the ledger.
fn stored_count(tokens: u64) -> i64 {
    const MAXIMUM: u64 = 1_000_000_000_000;
    i64::try_from(tokens.min(MAXIMUM)).unwrap_or_default()
}

/// An enumeration as a small number.
pub(crate) trait Code: Copy + 'static {
    const ALL: &'static [Self];

    fn code(self) -> i16;

    fn decode(code: i16) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.code() == code)
    }
}

impl Code for Operation {
    const ALL: &'static [Self] = &[Self::Chat, Self::ImageGeneration];

    fn code(self) -> i16 {
        match self {
            Self::Chat => 1,
            Self::ImageGeneration => 2,
        }
    }
}

impl Code for EventKind {
    const ALL: &'static [Self] = &[Self::Charge, Self::Adjustment, Self::Hold, Self::Release];

    fn code(self) -> i16 {
        match self {
            Self::Charge => 1,
            Self::Adjustment => 2,
            Self::Hold => 3,
            Self::Release => 4,
        }
    }
}

impl Code for Outcome {
    const ALL: &'static [Self] = &[Self::Success, Self::Failed, Self::Cancelled, Self::Lost];

    fn code(self) -> i16 {
        match self {
            Self::Success => 1,
            Self::Failed => 2,
            Self::Cancelled => 3,
            Self::Lost => 4,
        }
    }
}

impl Code for UsageSource {
    const ALL: &'static [Self] = &[Self::Provider, Self::Counted, Self::Drained, Self::Estimated, Self::Bound];

    fn code(self) -> i16 {
        match self {
            Self::Provider => 1,
            Self::Counted => 2,
            Self::Drained => 3,
            Self::Estimated => 4,
            Self::Bound => 5,
        }
    }
}
