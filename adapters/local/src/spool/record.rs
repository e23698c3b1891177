//! Records: `length u32 | crc32c u32 | kind u8 | payload`. The length is that of kind and payload, the checksum covers
//! length, kind and payload, so that a tail of zeros is not a record.

use ai4free_ports::{
    money::PicoUsd,
    request::RequestId,
    usage::{TokenUsage, UsageSource},
    usage_journal::Checkpoint,
    usage_ledger::{Outcome, UsageEvent},
};
use bytes::Bytes;
use uuid::Uuid;

use super::codec::{self, DecodeError, Reader};

/// Layout of the payloads.
const VERSION: u8 = 1;
/// Length and checksum.
const HEAD: usize = 8;
/// A longer record is taken for damage: it would be thousands of events.
const MAX_LENGTH: usize = 4 * 1024 * 1024;
/// A longer rest of a segment is not one record that was being written.
const LONGEST_TORN: usize = 64 * 1024;
/// Where the number of the first event stands in the frame of a close: after head, kind and version.
const SEQUENCE_AT: usize = HEAD + 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request at its bound.
    Open,
    /// What an open request has consumed so far.
    Check,
    /// The final events of a request.
    Close,
    /// An open request and its checkpoint, carried over from a segment that is about to be deleted.
    Copy,
    /// The ledger has confirmed that its numbering of this spool is ours.
    Attached,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Check => 2,
            Self::Close => 3,
            Self::Copy => 4,
            Self::Attached => 5,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Open, Self::Check, Self::Close, Self::Copy, Self::Attached].into_iter().find(|kind| kind.code() == code)
    }
}

/// A request that a provider may be working on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) bound: UsageEvent,
    pub(super) checkpoint: Option<Checkpoint>,
}

impl Intent {
    /// What is charged when nobody is left to say more.
    pub(super) fn lost(self) -> UsageEvent {
        let lost = UsageEvent { outcome: Outcome::Lost, usage_source: UsageSource::Bound, ..self.bound };
        match self.checkpoint {
            Some(checkpoint) => UsageEvent {
                usage: checkpoint.usage,
                cost: checkpoint.cost,
                usage_source: UsageSource::Estimated,
                ..lost
            },
            None => lost,
        }
    }
}

/// The final events of one request: `from` is the number of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) from: u64,
    pub(super) request: RequestId,
    pub(super) count: u64,
    /// Encoded, until the drainer needs them.
    pub(super) events: Bytes,
}

impl Closed {
    /// The number after the last event.
    pub(super) fn end(&self) -> u64 {
        self.from.saturating_add(self.count)
    }

    pub(super) fn decode(&self) -> Result<Vec<UsageEvent>, DecodeError> {
        let mut reader = Reader::new(&self.events);
        let events = (0..self.count).map(|_| reader.event()).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(events)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Open(Box<Intent>),
    Check(Checkpoint),
    Close(Closed),
    Attached,
}

pub(super) fn open_frame(bound: &UsageEvent) -> Vec<u8> {
    frame(Kind::Open, |out| codec::put_event(out, bound))
}

pub(super) fn check_frame(checkpoint: &Checkpoint) -> Vec<u8> {
    frame(Kind::Check, |out| codec::put_checkpoint(out, checkpoint))
}

pub(super) fn copy_frame(intent: &Intent) -> Vec<u8> {
    frame(Kind::Copy, |out| {
        out.push(u8::from(intent.checkpoint.is_some()));
        if let Some(checkpoint) = &intent.checkpoint {
            codec::put_checkpoint(out, checkpoint);
        }
        codec::put_event(out, &intent.bound);
    })
}

pub(super) fn attached_frame() -> Vec<u8> {
    frame(Kind::Attached, |_| ())
}

/// Says nothing: the checkpoint of a request that there never was.
pub(super) fn blank_frame() -> Vec<u8> {
    check_frame(&Checkpoint {
        request: RequestId(Uuid::nil()),
        usage: TokenUsage::default(),
        source: UsageSource::Estimated,
        cost: PicoUsd::ZERO,
    })
}

/// A close whose number is not known yet: [`number`] writes it in, just before the frame is appended.
pub(super) fn close_frame(request: RequestId, events: &[UsageEvent]) -> Vec<u8> {
    frame(Kind::Close, |out| {
        out.extend_from_slice(&0_u64.to_le_bytes());
        codec::put_request(out, request);
        codec::put_varint(out, events.len() as u64);
        for event in events {
            codec::put_event(out, event);
        }
    })
}

/// The close again that was read before, to be numbered anew.
pub(super) fn close_frame_of(closed: &Closed) -> Vec<u8> {
    frame(Kind::Close, |out| {
        out.extend_from_slice(&0_u64.to_le_bytes());
        codec::put_request(out, closed.request);
        codec::put_varint(out, closed.count);
        out.extend_from_slice(&closed.events);
    })
}

/// Writes the number of the first event into the frame of a close, and the checksum that follows from it.
pub(super) fn number(frame: &mut [u8], from: u64) {
    if let Some(place) = frame.get_mut(SEQUENCE_AT..).and_then(|rest| rest.first_chunk_mut()) {
        *place = from.to_le_bytes();
    }
    seal(frame);
}

/// What stands at the front of `bytes`.
pub(super) enum Front<'a> {
    /// Nothing: the end.
    End,
    Frame {
        kind: Kind,
        payload: &'a [u8],
        /// Of the whole frame.
        length: usize,
    },
    /// A record that was being written when the process died, or zeros: nothing can follow it.
    Torn,
    /// Damage with more bytes behind it.
    Corrupt,
}

pub(super) fn front(bytes: &[u8]) -> Front<'_> {
    if bytes.is_empty() {
        return Front::End;
    }
    let Some((head, body)) = bytes.split_first_chunk::<HEAD>() else {
        return Front::Torn;
    };
    let [a, b, c, d, crc @ ..] = *head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length == 0 || length > MAX_LENGTH {
        return if bytes.iter().all(|byte| *byte == 0) { Front::Torn } else { Front::Corrupt };
    }
    let Some((body, rest)) = body.split_at_checked(length) else {
        return Front::Torn;
    };
    let kind = body.first().copied().and_then(Kind::of);
    match kind {
        Some(kind) if checksum(&[a, b, c, d], body) == u32::from_le_bytes(crc) => {
            Front::Frame { kind, payload: body.get(1..).unwrap_or_default(), length: HEAD + length }
        }
        _ if rest.is_empty() => Front::Torn,
        _ => Front::Corrupt,
    }
}

/// Whether what looks torn can be the last thing that was written: nothing good follows. A damaged length looks torn, too.
pub(super) fn is_last(torn: &[u8]) -> bool {
    if torn.iter().all(|byte| *byte == 0) {
        return true;
    }
    torn.len() <= LONGEST_TORN
        && (1..torn.len()).all(|at| !matches!(front(torn.get(at..).unwrap_or_default()), Front::Frame { .. }))
}

/// # Errors
/// When the payload is of another version, or not what its kind says.
pub(super) fn decode(kind: Kind, payload: &[u8]) -> Result<Record, DecodeError> {
    let mut reader = Reader::new(payload);
    if reader.byte()? != VERSION {
        return Err(DecodeError("unknown version"));
    }
    let record = match kind {
        Kind::Open => Record::Open(Box::new(Intent { bound: reader.event()?, checkpoint: None })),
        Kind::Copy => {
            let checkpoint = if reader.byte()? == 0 { None } else { Some(reader.checkpoint()?) };
            Record::Open(Box::new(Intent { bound: reader.event()?, checkpoint }))
        }
        Kind::Check => Record::Check(reader.checkpoint()?),
        Kind::Close => {
            let (from, request, count) = (reader.unsigned()?, reader.request()?, reader.varint()?);
            return Ok(Record::Close(Closed { from, request, count, events: Bytes::copy_from_slice(reader.rest()) }));
        }
        Kind::Attached => Record::Attached,
    };
    reader.end()?;
    Ok(record)
}

/// The encoded events of a close frame, without a copy.
pub(super) fn closed_of_frame(frame: Vec<u8>, from: u64, request: RequestId, count: u64) -> Closed {
    let mut events = Bytes::from(frame);
    let head = SEQUENCE_AT + size_of::<u64>() + size_of::<RequestId>() + codec::varint_length(count);
    let events = events.split_off(head.min(events.len()));
    Closed { from, request, count, events }
}

fn frame(kind: Kind, put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(320);
    frame.extend_from_slice(&[0; HEAD]);
    frame.push(kind.code());
    frame.push(VERSION);
    put(&mut frame);
    seal(&mut frame);
    frame
}

/// Writes length and checksum.
fn seal(frame: &mut [u8]) {
    let Some((head, body)) = frame.split_first_chunk_mut::<HEAD>() else { return };
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = checksum(&length, body).to_le_bytes();
    let [a, b, c, d] = length;
    let [e, f, g, h] = checksum;
    *head = [a, b, c, d, e, f, g, h];
}

fn checksum(length: &[u8; 4], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length), body)
}
