//! Events and checkpoints as bytes. Numbers are little-endian or LEB128; a layout is never changed, a new one gets a new
//! version number.

use std::{borrow::Cow, sync::Arc};

use ai4free_ports::{
    budget::{Epoch, Holder, Spending},
    key::KeyId,
    money::PicoUsd,
    rate_limiter::Scope,
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_journal::Checkpoint,
    usage_ledger::{EventKind, Outcome, SpoolId, UsageEvent},
};
use uuid::Uuid;

/// Bytes that have a good checksum and still can't be understood: written by a later release, or by a fault of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a journal record can't be decoded: {0}")]
pub(super) struct DecodeError(pub(super) &'static str);

type Decoded<T> = Result<T, DecodeError>;

pub(super) fn put_event(out: &mut Vec<u8>, event: &UsageEvent) {
    let present = [
        event.user.is_some(),
        event.provider.is_some(),
        event.credential.is_some(),
        event.error.is_some(),
        event.first_ms.is_some(),
        event.total_ms.is_some(),
        event.price_version.is_some(),
        event.provider_cost.is_some(),
    ];
    out.push(present.iter().rev().fold(0_u8, |bits, bit| (bits << 1) | u8::from(*bit)));
    out.push(operation_code(event.operation));
    out.push(kind_code(event.kind));
    out.push(outcome_code(event.outcome));
    out.push(source_code(event.usage_source));
    put_request(out, event.request);
    put_varint(out, u64::from(event.attempt));
    put_varint(out, u64::from(event.revision));
    put_text(out, event.key.as_str());
    put_text(out, &event.model);
    for text in [&event.user, &event.provider, &event.credential].into_iter().flatten() {
        put_text(out, text);
    }
    if let Some(error) = &event.error {
        put_text(out, error);
    }
    out.extend_from_slice(&event.admitted_at.0.to_le_bytes());
    for number in [event.first_ms, event.total_ms, event.price_version].into_iter().flatten() {
        put_varint(out, u64::from(number));
    }
    put_usage(out, &event.usage);
    out.extend_from_slice(&event.cost.0.to_le_bytes());
    if let Some(cost) = event.provider_cost {
        out.extend_from_slice(&cost.0.to_le_bytes());
    }
    put_varint(out, event.spending.len() as u64);
    for spending in &event.spending {
        put_text(out, &spending.scope.to_text());
        out.extend_from_slice(&spending.window.0.to_le_bytes());
        put_holder(out, &spending.holder);
    }
}

fn put_holder(out: &mut Vec<u8>, holder: &Holder) {
    match holder {
        Holder::Shared(epoch) => {
            out.push(0);
            out.extend_from_slice(&epoch.0.to_le_bytes());
        }
        Holder::Process { spool, generation } => {
            out.push(1);
            out.extend_from_slice(spool.0.as_bytes());
            out.extend_from_slice(&generation.to_le_bytes());
        }
    }
}

pub(super) fn put_checkpoint(out: &mut Vec<u8>, checkpoint: &Checkpoint) {
    put_request(out, checkpoint.request);
    out.push(source_code(checkpoint.source));
    put_usage(out, &checkpoint.usage);
    out.extend_from_slice(&checkpoint.cost.0.to_le_bytes());
}

pub(super) fn put_request(out: &mut Vec<u8>, request: RequestId) {
    out.extend_from_slice(request.0.as_bytes());
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// How many bytes [`put_varint`] writes.
pub(super) fn varint_length(number: u64) -> usize {
    let bits = u64::BITS - (number | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Reads what the `put_` functions wrote, front to back.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// # Errors
    /// When something is left: then it wasn't what the caller thought.
    pub(super) fn end(self) -> Decoded<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError("bytes after the end")) }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn event(&mut self) -> Decoded<UsageEvent> {
        let bits = self.byte()?;
        let has = |bit: u8| bits & (1 << bit) != 0;
        Ok(UsageEvent {
            operation: operation_of(self.byte()?)?,
            kind: kind_of(self.byte()?)?,
            outcome: outcome_of(self.byte()?)?,
            usage_source: source_of(self.byte()?)?,
            request: self.request()?,
            attempt: self.narrow()?,
            revision: self.narrow()?,
            key: self.key()?,
            model: self.text()?.into(),
            user: self.optional(has(0), |it| it.text().map(Arc::from))?,
            provider: self.optional(has(1), |it| it.text().map(Arc::from))?,
            credential: self.optional(has(2), |it| it.text().map(Arc::from))?,
            error: self.optional(has(3), |it| it.text().map(|text| Cow::Owned(text.to_owned())))?,
            admitted_at: Timestamp(self.signed()?),
            first_ms: self.optional(has(4), Self::narrow)?,
            total_ms: self.optional(has(5), Self::narrow)?,
            price_version: self.optional(has(6), Self::narrow)?,
            usage: self.usage()?,
            cost: PicoUsd(self.signed()?),
            provider_cost: self.optional(has(7), |it| it.signed().map(PicoUsd))?,
            spending: self.spending()?,
        })
    }

    fn spending(&mut self) -> Decoded<Vec<Spending>> {
        let count = self.varint()?;
        (0..count)
            .map(|_| {
                let scope = Scope::parse(self.text()?).ok_or(DecodeError("unknown scope"))?;
                Ok(Spending { scope, window: Timestamp(self.signed()?), holder: self.holder()? })
            })
            .collect()
    }

    fn holder(&mut self) -> Decoded<Holder> {
        match self.byte()? {
            0 => Ok(Holder::Shared(Epoch(self.signed()?))),
            1 => Ok(Holder::Process { spool: SpoolId(self.request()?.0), generation: self.signed()? }),
            _ => Err(DecodeError("unknown holder")),
        }
    }

    pub(super) fn checkpoint(&mut self) -> Decoded<Checkpoint> {
        Ok(Checkpoint {
            request: self.request()?,
            source: source_of(self.byte()?)?,
            usage: self.usage()?,
            cost: PicoUsd(self.signed()?),
        })
    }

    pub(super) fn request(&mut self) -> Decoded<RequestId> {
        self.array().map(|bytes| RequestId(Uuid::from_bytes(bytes)))
    }

    pub(super) fn byte(&mut self) -> Decoded<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn unsigned(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn varint(&mut self) -> Decoded<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            number |= low << shift;
            if byte & 0x80 == 0 {
                // The tenth byte has room for one bit.
                return if (low << shift) >> shift == low { Ok(number) } else { Err(DecodeError("number too large")) };
            }
        }
        Err(DecodeError("number too large"))
    }

    fn signed(&mut self) -> Decoded<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn narrow<T: TryFrom<u64>>(&mut self) -> Decoded<T> {
        T::try_from(self.varint()?).map_err(|_| DecodeError("number too large"))
    }

    fn text(&mut self) -> Decoded<&'a str> {
        let length = self.narrow::<usize>()?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(DecodeError("too short"))?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| DecodeError("text is not UTF-8"))
    }

    fn key(&mut self) -> Decoded<KeyId> {
        let text = self.text()?;
        let system = KeyId::system();
        if text == system.as_str() {
            return Ok(system);
        }
        KeyId::parse(text).ok_or(DecodeError("not a key id"))
    }

    fn usage(&mut self) -> Decoded<TokenUsage> {
        Ok(TokenUsage {
            input: self.varint()?,
            cache_read: self.varint()?,
            cache_write: self.varint()?,
            output: self.varint()?,
            reasoning: self.varint()?,
            audio_in: self.varint()?,
            audio_out: self.varint()?,
            images: self.varint()?,
        })
    }

    fn optional<T>(&mut self, present: bool, read: impl FnOnce(&mut Self) -> Decoded<T>) -> Decoded<Option<T>> {
        if present { read(self).map(Some) } else { Ok(None) }
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError("too short"))?;
        self.rest = rest;
        Ok(*head)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_usage(out: &mut Vec<u8>, usage: &TokenUsage) {
    let TokenUsage { input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images } = *usage;
    for count in [input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images] {
        put_varint(out, count);
    }
}

fn operation_code(operation: Operation) -> u8 {
    match operation {
        Operation::Chat => 1,
        Operation::ImageGeneration => 2,
    }
}

fn operation_of(code: u8) -> Decoded<Operation> {
    match code {
        1 => Ok(Operation::Chat),
        2 => Ok(Operation::ImageGeneration),
        _ => Err(DecodeError("unknown operation")),
    }
}

fn kind_code(kind: EventKind) -> u8 {
    match kind {
        EventKind::Charge => 1,
        EventKind::Adjustment => 2,
        EventKind::Hold => 3,
        EventKind::Release => 4,
    }
}

fn kind_of(code: u8) -> Decoded<EventKind> {
    match code {
        1 => Ok(EventKind::Charge),
        2 => Ok(EventKind::Adjustment),
        3 => Ok(EventKind::Hold),
        4 => Ok(EventKind::Release),
        _ => Err(DecodeError("unknown kind of event")),
    }
}

fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Success => 1,
        Outcome::Failed => 2,
        Outcome::Cancelled => 3,
        Outcome::Lost => 4,
    }
}

fn outcome_of(code: u8) -> Decoded<Outcome> {
    match code {
        1 => Ok(Outcome::Success),
        2 => Ok(Outcome::Failed),
        3 => Ok(Outcome::Cancelled),
        4 => Ok(Outcome::Lost),
        _ => Err(DecodeError("unknown outcome")),
    }
}

fn source_code(source: UsageSource) -> u8 {
    match source {
        UsageSource::Provider => 1,
        UsageSource::Counted => 2,
        UsageSource::Drained => 3,
        UsageSource::Estimated => 4,
        UsageSource::Bound => 5,
    }
}

fn source_of(code: u8) -> Decoded<UsageSource> {
    match code {
        1 => Ok(UsageSource::Provider),
        2 => Ok(UsageSource::Counted),
        3 => Ok(UsageSource::Drained),
        4 => Ok(UsageSource::Estimated),
        5 => Ok(UsageSource::Bound),
        _ => Err(DecodeError("unknown source of usage")),
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
